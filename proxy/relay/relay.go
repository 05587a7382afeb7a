// Package relay is tunnels: two non-blocking sockets, joined after an upgrade on one
// reactor loop, which owns and closes them. An idle tunnel is a slot of some hundred
// bytes without pointers; it has neither a goroutine nor a buffer. What only some
// tunnels need, and only at times (TLS, queues, WebSocket framing), lives beside the
// slots while it is needed.
//
// A message in the usual case is one recv into the loop's buffer and one send out of
// it. Registration is edge-triggered and made once.
package relay

import (
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/proxy/reactor"
)

// Mode says how much of a tunnel's content the relay looks at.
type Mode uint8

// The modes.
const (
	Opaque   Mode = iota // bytes
	Frames               // WebSocket frames (RFC 6455)
	numModes = 2
)

// String returns the word of the configuration.
func (m Mode) String() string {
	if m == Frames {
		return "frames"
	}
	return "opaque"
}

// Policy is how the tunnels of a route are treated. It is immutable and shared by them;
// it references no snapshot. Times are coarse: they are looked at every 100 ms, with
// very many tunnels every second.
type Policy struct {
	// Mode is Opaque or Frames. The fields from Ping on apply to Frames, but for
	// CloseTimeout.
	Mode Mode
	// Idle ends a tunnel without a byte in either direction for so long (IdleTimeout),
	// Lifetime one of that age (MaxLifetime), Stall one of whose sides took no byte of a
	// queue for so long (TunnelStalled). 0: no limit. Answers to the gateway's own pings do
	// not make a tunnel less idle.
	Idle, Lifetime, Stall time.Duration
	// Jitter shortens Idle and Lifetime at random by up to so many percent.
	Jitter int
	// Queue is how many bytes may wait for a side to take them; beyond, the other side is not
	// read. One read may overshoot it.
	Queue int
	// Ping is the client's silence after which it is sent a ping, Pong the further silence
	// that ends the tunnel (PingTimeout). 0: no pings, no end.
	Ping, Pong time.Duration
	// CloseTimeout is how long a side may take to answer a Close frame or FIN of the relay
	// before it is closed; four times that, for one of the other side. 0 is 5s.
	CloseTimeout time.Duration
	// MaxMessage bounds a message's payload in bytes, either way; 0 is no limit. CheckUTF8 has
	// text messages checked, either way.
	MaxMessage int64
	CheckUTF8  bool
	// MessageRate and ByteRate are what a client may send in a second, with bursts of one
	// second's; 0 is no limit. Control frames count as messages. Beyond, the tunnel ends
	// (TooFast), or with Delay the client is not read until it may send again.
	MessageRate, ByteRate int64
	Delay                 bool
}

// Leg is one side: a non-blocking stream socket, with TLS over a seat or plain (TLS nil).
type Leg struct {
	FD   int
	TLS  *tls.Conn
	Seat *sock.Seat
}

// Labels name what a tunnel belongs to. They are interned by the caller and shared by
// tunnels, which return the same pointer.
type Labels struct{ Listener, Route, Upstream, Backend string }

// Params are what Join takes.
type Params struct {
	// ID is the connection's number, Peer the client's address, Since when it was accepted.
	ID    uint64
	Peer  netip.AddrPort
	Since time.Time

	Client, Backend Leg
	// ToClient and ToBackend are bytes that arrived together with the 101 and with the
	// request. They are treated as if just read; Join copies them.
	ToClient, ToBackend []byte
	// Deflate: permessage-deflate was negotiated.
	Deflate bool
	Policy  *Policy
	Labels  *Labels
	// Stub and Owner are the caller's, given back in Ended.
	Stub  []byte
	Owner any
}

// Flow is what went one way: bytes of application data as received from its source,
// and in Frames mode messages begun, by kind, and control frames, without those of
// the gateway and the answers to them.
type Flow struct{ Bytes, Messages, Text, Binary, Control uint64 }

func (f *Flow) add(g Flow) {
	f.Bytes += g.Bytes
	f.Messages += g.Messages
	f.Text += g.Text
	f.Binary += g.Binary
	f.Control += g.Control
}

// Ended tells how a tunnel ended.
type Ended struct {
	ID            uint64
	Peer          netip.AddrPort
	Since, Opened time.Time
	Lifetime      time.Duration // since Opened
	Labels        *Labels
	Mode          Mode
	Reason        reason.Reason
	// Code is the code of the first WebSocket Close frame, sent by either side or by the
	// gateway; 0 if there was none. A Close frame without a code is 1005.
	Code                uint16
	ToClient, ToBackend Flow
	Stub                []byte
	Owner               any
}

// Options are a Relay's.
type Options struct {
	// Group is the loops that tunnels live on.
	Group *reactor.Group
	// Ended is called once for each tunnel, on its loop, after both sockets were closed. It
	// must not block.
	Ended func(Ended)
	// Trim gives back memory that a TLS connection keeps after large records. It is
	// called on the loop, about a second after the last of them. Optional.
	Trim func(*tls.Conn)
}

// Relay is all tunnels.
type Relay struct {
	// Static after New.
	group   *reactor.Group
	onEnded func(Ended)
	trim    func(*tls.Conn)
	loops   []*loop

	next  atomic.Uint32 // the loop of the next tunnel
	count atomic.Int64
}

// New registers the relay with the group, before its Start.
func New(o Options) *Relay {
	r := &Relay{group: o.Group, onEnded: o.Ended, trim: o.Trim}
	o.Group.Handle(reactor.Relay, func(l *reactor.Loop) reactor.Handler {
		lp := newLoop(r, l)
		r.loops = append(r.loops, lp)
		return lp
	})
	return r
}

// Join takes both sockets over and joins them: the relay owns and closes them, whatever
// happens. It returns once the tunnel was handed to a loop. False means that the loops
// are closed; then the sockets are too, and Ended was called with ShutDown.
func (r *Relay) Join(p Params) bool {
	if p.Policy == nil || p.Labels == nil {
		panic("BUG: relay: Join needs a policy and labels")
	}
	if p.Client.TLS != nil && p.Client.Seat == nil || p.Backend.TLS != nil && p.Backend.Seat == nil {
		panic("BUG: relay: TLS without a seat")
	}
	p.ToClient, p.ToBackend = clone(p.ToClient), clone(p.ToBackend)
	opened := time.Now()
	r.count.Add(1)
	lp := r.loops[int(r.next.Add(1))%len(r.loops)]
	if lp.reactor.Post(func() { lp.join(&p, opened) }) {
		return true
	}
	lp.refuse(&p, opened)
	return false
}

// Close ends the tunnel with the given ID, in order: with a Close frame of code 1001 to
// both sides (Frames) and FIN. It reports whether there is such a tunnel, and returns
// before it is gone. It waits for the loops, so it must not be called on one.
func (r *Relay) Close(id uint64, why reason.Reason) bool {
	return r.find(id, func(lp *loop, i uint32, s *slot) { lp.end(i, s, why, goingAway, goingAway) })
}

// Cut ends the tunnel with the given ID at once: both sides get a RST, and what was not
// sent is thrown away. Otherwise it is like Close.
func (r *Relay) Cut(id uint64, why reason.Reason) bool {
	return r.find(id, func(lp *loop, i uint32, s *slot) {
		s.why = why
		lp.finish(i, s, true)
	})
}

// find calls do for the tunnel with the given ID, on its loop.
func (r *Relay) find(id uint64, do func(lp *loop, i uint32, s *slot)) (found bool) {
	for _, lp := range r.loops {
		lp.call(func() { found = lp.doByID(id, do) })
		if found {
			return true
		}
	}
	return false
}

// Count returns the number of tunnels, those being joined included.
func (r *Relay) Count() int { return int(r.count.Load()) }

// clone copies b, nil if it is empty.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}
