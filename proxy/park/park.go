// Package park keeps idle client connections. A parked connection has no goroutine, no
// buffer and no object: it is a slot without pointers in a table, and its descriptor
// waits on a reactor loop. What ends the wait (bytes, the peer, time, an administrator)
// hands it back, once.
package park

import (
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"time"

	"tickgate/internal/sock"
	"tickgate/proxy/reactor"
)

// Why says what ended the wait.
type Why uint8

const (
	// Ready: the connection is readable, or its peer closed or reset it: read to find out.
	Ready Why = iota
	// Gone: the peer closed or reset, and nothing is to be read.
	Gone
	// Expired: Conn.Until has passed.
	Expired
	// Evicted: Evict or EvictID took it out, or the loops have ended.
	Evicted
)

// String returns the word for logs and tests.
func (w Why) String() string {
	switch w {
	case Ready:
		return "ready"
	case Gone:
		return "gone"
	case Expired:
		return "expired"
	case Evicted:
		return "evicted"
	default:
		return "unknown"
	}
}

// Phase says what a connection waits for.
type Phase uint8

const (
	// Fresh: accepted, no byte yet.
	Fresh Phase = iota
	// Idle: between two requests.
	Idle
	// Head: a part of a request head has come and is in Conn.Rest.
	Head
	// Body: a whole request head and a part of its body have come and are in Conn.Rest.
	Body
	// Shake: in the middle of a handshake, whose goroutine waits to be told. It is not counted, as it has an owner.
	Shake
	// Linger: nothing more is sent, and what comes is thrown away until the peer closes.
	Linger
	// Preface: accepted, and the PROXY header that has to come first is not whole. A part of it may be in Conn.Rest.
	Preface
	phases
)

// String returns the word for metrics and the admin API.
func (p Phase) String() string {
	switch p {
	case Fresh:
		return "fresh"
	case Idle:
		return "idle"
	case Head:
		return "head"
	case Body:
		return "body"
	case Shake:
		return "shake"
	case Linger:
		return "linger"
	case Preface:
		return "preface"
	default:
		return "unknown"
	}
}

// Conn is all that a connection is while it is parked. It comes back as it was given,
// with Parked and Loop set.
type Conn struct {
	// FD is a non-blocking socket. The lot never closes it.
	FD    int
	ID    uint64
	Peer  netip.AddrPort
	Owner uint32 // the listener
	Phase Phase
	// Since is when it was accepted, in nanoseconds since 1970.
	Since int64
	// Served is how many requests it has had.
	Served uint32
	// Partial says that a part of something has come that the caller cannot read yet.
	Partial bool
	// Parked is Group.Now of the moment of Park, which sets it.
	Parked time.Duration
	// Until is the Group.Now from which on it has expired; 0 is never. It is looked at
	// every reactor.TickInterval.
	Until time.Duration
	// Begun is the caller's: when the head began, or what Linger needs.
	Begun time.Duration
	TLS   *tls.Conn
	Seat  *sock.Seat
	// Rest is what was read and not used. It is kept as it is, not copied.
	Rest []byte
	// Whole is the caller's: when the head in Rest was whole. It is kept only with a Rest.
	Whole time.Duration
	// Loop is where FD is registered, set when the connection is handed out. Give it back
	// unchanged, which saves registering again. Until then the registration is without
	// effect: an event that still comes is ignored.
	Loop *reactor.Loop
}

// Info is what can be seen of a parked connection. Since anybody may have taken the
// connection meanwhile, FD is a hint: fit for a look, not for reading or closing.
type Info struct {
	ID      uint64
	FD      int
	Peer    netip.AddrPort
	Owner   uint32
	Phase   Phase
	Since   int64
	Served  uint32
	Parked  time.Duration
	Until   time.Duration
	TLS     bool
	Partial bool
	Rest    int // bytes in Conn.Rest
	Note    any // of Conn.Seat
}

// Options are a lot's; both fields are required.
type Options struct {
	Group *reactor.Group
	// Wake gets each parked connection back, once, and owns it from then on. It is called
	// on a loop, or by Evict and EvictID on their caller's goroutine (after the loops have
	// ended, by Park too); under no lock, so it may call the lot. It must not block.
	Wake func(c Conn, why Why)
}

// Lot holds the parked connections of a gateway.
type Lot struct {
	group  *reactor.Group
	wake   func(c Conn, why Why)
	shards []*shard      // by Loop.ID
	next   atomic.Uint32 // of shards, for connections without a loop
}

// New returns a lot and registers its handler with the group, before Group.Start.
func New(o Options) *Lot {
	if o.Group == nil || o.Wake == nil {
		panic("BUG: park: New needs Group and Wake")
	}
	l := &Lot{group: o.Group, wake: o.Wake}
	o.Group.Handle(reactor.Park, func(loop *reactor.Loop) reactor.Handler {
		s := newShard(l, loop)
		l.shards = append(l.shards, s)
		return s
	})
	return l
}

// Park takes a connection. Wake may get it before Park returns. False: the loops have
// ended, or the kernel did not take the registration (ENOSPC: fs.epoll.max_user_watches;
// ENOMEM); then the caller keeps the connection. Any goroutine may call it. It allocates
// only when the table grows.
func (l *Lot) Park(c Conn) bool {
	if c.Phase >= phases {
		panic("BUG: park: a connection in no phase")
	}
	s := l.shardFor(&c)
	registered := c.Loop != nil
	c.Parked = l.group.Now()
	t, ok := s.fill(&c)
	if !ok {
		return false
	}
	// From here to settle the slot is complete and visible, but only an event can take it
	// out, so that nobody closes the descriptor under the system call.
	var err error
	if registered {
		err = s.loop.Rearm(c.FD, t, reactor.OneShotRead)
	} else {
		err = s.loop.Add(c.FD, t, reactor.OneShotRead)
	}
	if err != nil {
		_, _, found := s.take(t)
		return !found
	}
	s.settle(t)
	return true
}

// shardFor returns the shard of the connection's loop, or the next one.
func (l *Lot) shardFor(c *Conn) *shard {
	if c.Loop != nil {
		return l.shards[c.Loop.ID()]
	}
	return l.shards[l.next.Add(1)%uint32(len(l.shards))]
}

// Unregister takes a connection that was handed out off its loop. It is needed before
// the descriptor is duplicated or given to another user of the loops; closing the
// descriptor does the same.
func (l *Lot) Unregister(c *Conn) {
	if c.Loop == nil {
		return
	}
	// The one possible failure is that it is not registered (any more).
	_ = c.Loop.Remove(c.FD)
	c.Loop = nil
}

// Evict hands out every connection that matches and returns their number. Neither match
// nor Wake is called under a lock. A connection that is parked or handed out while Evict
// runs may be missed: who wants none to stay has to look again after Park.
func (l *Lot) Evict(match func(*Info) bool) int {
	n := 0
	l.survey(func(s *shard, v *view) bool {
		if match(&v.Info) && s.evict(v.token) {
			n++
		}
		return true
	})
	return n
}

// EvictID is Evict for the one connection with an ID.
func (l *Lot) EvictID(id uint64) bool {
	for _, s := range l.shards {
		if t, ok := s.find(id); ok {
			return s.evict(t)
		}
	}
	return false
}

// Each calls f for the parked connections, in no order, until it returns false. No lock
// is held in f, and connections that come or go meanwhile may be missed.
func (l *Lot) Each(f func(Info) bool) {
	l.survey(func(_ *shard, v *view) bool { return f(v.Info) })
}

// survey shows every parked connection to f until it returns false.
func (l *Lot) survey(f func(*shard, *view) bool) {
	var views []view // a chunk's, copied, since nothing foreign is called under a lock
	for _, s := range l.shards {
		for i := 0; ; i++ {
			var more bool
			if views, more = s.look(i, views[:0]); !more {
				break
			}
			for k := range views {
				if !f(s, &views[k]) {
					return
				}
			}
		}
	}
}

// Count returns the numbers of parked connections by phase, without those that linger. Those with a
// part of a body count as head, those before their PROXY header as fresh.
func (l *Lot) Count() (fresh, idle, head int) {
	for _, s := range l.shards {
		n := s.counts()
		fresh, idle, head = fresh+n[Fresh]+n[Preface], idle+n[Idle], head+n[Head]+n[Body]
	}
	return fresh, idle, head
}

// Len is the number of connections in the lot, without those in a handshake.
func (l *Lot) Len() (sum int) {
	for _, s := range l.shards {
		for phase, n := range s.counts() {
			if Phase(phase) != Shake {
				sum += n
			}
		}
	}
	return sum
}
