// Package limiter bounds what clients may take: connections in all and per
// client address. It is a leaf: it imports no sibling and no fasthttp.
package limiter
