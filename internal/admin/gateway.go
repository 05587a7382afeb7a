package admin

import (
	"errors"
	"net/netip"
)

// ErrNotFound is wrapped by a Gateway's error about an upstream or backend that does not
// exist; it is answered with 404.
var ErrNotFound = errors.New("admin: not found")

// Gateway is what the admin endpoint shows and steers. What its methods return as any is
// written as JSON. They are called by many goroutines at once.
type Gateway interface {
	// Ready returns nil if the gateway takes requests, or why it does not.
	Ready() error
	// Status returns version, uptime, generation and the result of the last reload.
	Status() any
	// Config returns the configuration in use, without secrets.
	Config() any
	// Routes returns the routes in the order in which they are tried.
	Routes() any
	// Upstreams returns the upstreams with the state of their backends.
	Upstreams() any
	// Connections returns the client connections that the filter lets through.
	Connections(ConnFilter) any
	// Reload loads the configuration again; an error means that the old one stays.
	Reload() error
	// Drain takes a backend out (drain) or back in. An unknown one is an ErrNotFound.
	Drain(upstream, addr string, drain bool) error
}

// ConnFilter says which connections are wanted. The zero value of a field does not filter.
type ConnFilter struct {
	Listener string       // exact
	State    string       // "handshaking", "active", "idle" or "upgraded"
	Peer     netip.Prefix // the peer's address lies in it
	Limit    int          // at most so many; always set
}
