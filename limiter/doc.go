// Package limiter bounds what clients may take: connections in all and per client
// address (Conns), requests served at once, by priority (Gate), and tunnels in all, per
// client, and per route (Tunnels). It is a leaf: it imports no sibling and no fasthttp.
package limiter
