package meter

import (
	"sync/atomic"

	"tickgate/internal/reason"
)

// ConnState is what a client connection is doing.
type ConnState uint8

// States of a client connection.
const (
	Accepted    ConnState = iota // no byte has come yet
	Handshaking                  // in its TLS handshake
	Active                       // busy with a request
	Idle                         // between two requests, still bound to its goroutine
	Parked                       // between two requests, without goroutine and buffers
	Relayed                      // one side of a tunnel
	Draining                     // told to close: it finishes what it has begun
	numConnStates
)

var connStateWords = [numConnStates]string{"accepted", "handshaking", "active", "idle", "parked", "relayed", "draining"}

// ConnStates returns all states, in the order in which a connection may go through them.
func ConnStates() []ConnState {
	all := make([]ConnState, numConnStates)
	for i := range all {
		all[i] = ConnState(i)
	}
	return all
}

// String returns the word used as the metric label.
func (s ConnState) String() string {
	if s >= numConnStates {
		return "unknown"
	}
	return connStateWords[s]
}

// Conns counts the client connections of one listener. Its methods are an atomic addition
// or two each and allocate nothing.
type Conns struct {
	// Static after construction.
	meter *Meter
	name  string

	total  atomic.Uint64
	states [numConnStates]atomic.Int64

	refs int // guarded by meter.mu
}

// Listener returns the metrics of the listener called name, which are shared by all
// snapshots that have it. Each call must be followed by one of Retire.
func (m *Meter) Listener(name string) *Conns {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.listeners[name]
	if c == nil {
		c = &Conns{meter: m, name: name}
		m.listeners[name] = c
	}
	c.refs++
	return c
}

// Retire says that a snapshot with this listener is gone. With the last one the series of
// the listener go too, as soon as none of its connections is open.
func (c *Conns) Retire() {
	m := c.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	c.refs--
	if c.refs < 0 {
		panic("BUG: meter: listener " + c.name + " retired more often than acquired")
	}
}

// unusedLocked reports whether the series may go. It needs meter.mu.
func (c *Conns) unusedLocked() bool {
	open := int64(0)
	for i := range c.states {
		open += c.states[i].Load()
	}
	return c.refs == 0 && open == 0
}

// Opened counts an accepted connection, which is in state s.
func (c *Conns) Opened(s ConnState) {
	c.total.Add(1)
	c.states[s].Add(1)
}

// Moved counts that a connection went from one state to another.
func (c *Conns) Moved(from, to ConnState) {
	if from == to {
		return
	}
	c.states[from].Add(-1)
	c.states[to].Add(1)
}

// Closed counts the end of a connection that was in state s.
func (c *Conns) Closed(s ConnState, why reason.Reason) {
	c.states[s].Add(-1)
	c.meter.ConnRefused(why)
}

// ConnRefused counts the end of a connection that was never counted as open, such as one
// beyond a connection cap.
func (m *Meter) ConnRefused(why reason.Reason) {
	if int(why) < len(m.connEnds) {
		m.connEnds[why].Add(1)
	}
}

// Count returns the number of connections in state s.
func (c *Conns) Count(s ConnState) int64 { return c.states[s].Load() }
