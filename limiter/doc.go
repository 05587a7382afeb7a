// Package limiter bounds what clients may take: connections in all and per client
// address (Conns), requests served at once, by priority (Gate), tunnels in all, per
// client, and per route (Tunnels), and how often something happens by address or by any
// other key (Rates). It is a leaf: it imports no sibling and no fasthttp.
package limiter
