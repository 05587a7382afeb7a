package admin

import (
	"errors"
	"net/netip"
	"time"

	"tickgate/internal/unit"
)

// ErrNotFound is wrapped by a Gateway's error about an upstream, a backend or a connection
// that does not exist; it is answered with 404.
var ErrNotFound = errors.New("admin: not found")

// ConfiguredWindow as the window of Drain means drain.window of the configuration.
const ConfiguredWindow time.Duration = -1

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
	// Connections returns the client connections that the filter lets through, a list.
	Connections(ConnFilter) any
	// Connection returns one client connection. One that is not open is an ErrNotFound.
	Connection(id uint64) (any, error)
	// CloseConnection begins to close a client connection, in order or (reset) at once with
	// RST, and returns it as it was. One that is not open is an ErrNotFound.
	CloseConnection(id uint64, reset bool) (any, error)
	// Reload loads the configuration again; an error means that the old one stays.
	Reload() error
	// DrainStatus returns how far the drains of the process and of backends have come.
	DrainStatus() any
	// Drain takes a backend out (drain) or back in. Its tunnels are closed spread over the
	// window: 0 is at once, ConfiguredWindow what drain.window says. An unknown one is an
	// ErrNotFound.
	Drain(upstream, addr string, drain bool, window time.Duration) error
}

// ConnOrder says which connections come first in a list.
type ConnOrder uint8

// Orders of connections.
const (
	ByAge    ConnOrder = iota // the oldest first
	ByQueued                  // the one with most bytes waiting to be sent first
	ByRTT                     // the one with the longest round trip first
	numConnOrders
)

var connOrderWords = [numConnOrders]string{"age", "queued", "rtt"}

// String returns the word of the sort parameter.
func (o ConnOrder) String() string {
	if o >= numConnOrders {
		return "unknown"
	}
	return connOrderWords[o]
}

// ConnFilter says which connections are wanted: those that meet all conditions. The zero
// value of a field is no condition.
type ConnFilter struct {
	ID        uint64        // this connection
	Listener  string        // accepted there; exact
	State     string        // the word of a meter.ConnState
	Route     string        // it is a tunnel of this route; exact
	Peer      netip.Prefix  // the peer's address lies in it
	MinAge    time.Duration // accepted at least so long ago
	MaxAge    time.Duration // accepted at most so long ago
	MinQueued unit.Size     // at least so many bytes wait to be sent, to either side

	Sort  ConnOrder // which come first
	Limit int       // at most so many of them; always set
}
