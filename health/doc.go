// Package health decides which backends get traffic. It is a leaf: it imports no
// sibling and no fasthttp, and its time-dependent logic is pure.
package health
