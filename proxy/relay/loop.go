package relay

import (
	"math/rand/v2"
	"sync"
	"time"

	"tickgate/internal/reason"
	"tickgate/proxy/reactor"
)

// loop is the tunnels of one reactor loop, its handler.
type loop struct {
	// Static after newLoop.
	relay   *Relay
	reactor *reactor.Loop

	// Owned by the reactor's loop.
	slab     slab
	policies interner[Policy, terms]
	labels   interner[Labels, struct{}]
	queues   arena[queues]
	secure   arena[secured]
	frames   arena[framing]
	held     arena[[maxHeld]byte]
	chunks   chunkPool
	wires    [2]wire // below the tls.Conn of either side, while it is used
	gathered []byte  // records of one large write
	limits   limits
	parts    []*part // of drains
	now      time.Duration
	stats    Stats
	// current is 1 + the tunnel being worked on. If it is not 0 when the loop comes back,
	// that ended in a panic.
	current uint32
	closed  bool

	mu        sync.Mutex
	published Stats // guarded by mu
}

func newLoop(r *Relay, l *reactor.Loop) *loop {
	lp := &loop{relay: r, reactor: l}
	lp.policies.derive = derive
	lp.stats.Ended = make([]uint64, len(reason.All()))
	lp.published.Ended = make([]uint64, len(reason.All()))
	for d := range lp.wires {
		lp.wires[d] = wire{lp: lp, d: side(d)}
	}
	return lp
}

// Ready implements reactor.Handler. Tokens count two for a slot, one for each side.
func (lp *loop) Ready(t reactor.Token, ev reactor.Event) {
	i, d := t.Index()>>1, side(t.Index()&1)
	s := lp.slab.at(i)
	if s == nil || s.gen != t.Gen() {
		return
	}
	if !lp.enter(i) {
		return
	}
	f := &s.f[d]
	switch {
	case ev == 0:
		s.flags &^= queued
	case ev&reactor.Failed != 0:
		*f |= readable | hup
	case ev&reactor.PeerClosed != 0:
		*f |= readable | hup | finSeen
	case ev&reactor.Urgent != 0:
		*f |= readable | hup
	case ev&reactor.Readable != 0:
		*f |= readable
	}
	// Nothing reads a side that has ended, so nothing else would find out.
	if ev&reactor.Failed != 0 && *f&(ended|shut) == ended && !lp.failed(i, s, d) {
		return
	}
	if s.queues == 0 || ev&reactor.Writable == 0 || lp.flush(i, s, d) {
		lp.pump(i, s)
	}
	lp.leave()
}

// enter begins the work on tunnel i, leave ends it; finish does too. No leave may be
// deferred, or it would hide a panic. False means that i is the tunnel that panicked, and
// is gone.
func (lp *loop) enter(i uint32) bool {
	lp.now = lp.reactor.Now()
	if lp.current != 0 {
		mine := lp.current == i+1
		lp.abandon()
		if mine {
			return false
		}
	}
	lp.current = i + 1
	return true
}

func (lp *loop) leave() { lp.current = 0 }

// abandon ends the tunnel whose last call panicked: its state is unknown. The reactor
// has logged the panic.
func (lp *loop) abandon() {
	i := lp.current - 1
	lp.current = 0
	if s := lp.slab.at(i); s != nil && s.gen != 0 {
		s.why = reason.Internal
		lp.finish(i, s, true)
	}
}

// token returns the token of a tunnel's side.
func token(i uint32, s *slot, d side) reactor.Token {
	return reactor.MakeToken(reactor.Relay, i<<1|uint32(d), s.gen)
}

// again has the tunnel pumped once more in the next turn.
func (lp *loop) again(i uint32, s *slot) {
	if s.flags&queued == 0 {
		s.flags |= queued
		lp.reactor.Again(token(i, s, client))
	}
}

// Tick implements reactor.Handler.
func (lp *loop) Tick(now time.Duration) {
	lp.now = now
	if lp.current != 0 {
		lp.abandon()
	}
	lp.tickLimits()
	lp.tickDrains()
	lp.publish()
}

// Closing implements reactor.Handler.
func (lp *loop) Closing() {
	lp.now = lp.reactor.Now()
	lp.closed = true
	for i, s := range lp.all {
		s.why = reason.ShutDown
		lp.finish(i, s, false)
	}
	lp.publish()
}

// all iterates over the tunnels. They may end meanwhile.
func (lp *loop) all(yield func(uint32, *slot) bool) {
	for p := range lp.slab.pages {
		if !lp.inPage(p, yield) {
			return
		}
	}
}

func (lp *loop) inPage(p int, yield func(uint32, *slot) bool) bool {
	slots := lp.slab.pages[p].slots
	if slots == nil {
		return true
	}
	for k := range slots {
		if slots[k].gen != 0 && !yield(uint32(p)<<pageBits|uint32(k), &slots[k]) {
			return false
		}
	}
	return true
}

// call runs f on the loop and waits for it; false if the loop is closed.
func (lp *loop) call(f func()) bool {
	done := make(chan struct{})
	if !lp.reactor.Post(func() { defer close(done); lp.now = lp.reactor.Now(); f() }) {
		return false
	}
	<-done
	return true
}

// join makes a tunnel of p.
func (lp *loop) join(p *Params, opened time.Time) {
	i, s := lp.slab.alloc()
	s.policy, s.labels = lp.policies.take(p.Policy), lp.labels.take(p.Labels)
	if !lp.enter(i) {
		return
	}
	lp.slab.setPeer(i, s, p.Peer)
	lp.slab.setExtra(i, s, extra{p.Stub, p.Owner})
	s.id, s.since, s.opened = p.ID, unixNano(p.Since), unixNano(opened)
	s.born, s.last = lp.now, lp.now
	s.jitter = uint16(rand.Uint32())
	s.fd = [2]int32{int32(p.Client.FD), int32(p.Backend.FD)}
	lp.start(i, s, p)
	lp.leave()
}

// start sets up what only some tunnels have, and starts.
func (lp *loop) start(i uint32, s *slot, p *Params) {
	lp.setTLS(s, p)
	if p.Policy.Mode == Frames {
		lp.setFrames(s, p)
	}
	lp.stats.Open[p.Policy.Mode]++
	lp.joinDrains(i, s, p.Labels)
	for _, d := range [...]side{client, backend} {
		if err := lp.reactor.Add(int(s.fd[d]), token(i, s, d), reactor.EdgeBoth); err != nil {
			s.why = reason.Internal // no memory for it in the kernel, or not a socket
			lp.finish(i, s, true)
			return
		}
	}
	if lp.early(i, s, backend, p.ToClient) && lp.early(i, s, client, p.ToBackend) {
		s.f[client] |= readable
		s.f[backend] |= readable
		lp.pump(i, s)
	}
}

// early treats bytes that came before the tunnel as just read from side d.
func (lp *loop) early(i uint32, s *slot, d side, b []byte) bool {
	return len(b) == 0 || lp.forward(i, s, d, b)
}

// refuse ends a tunnel that no loop took.
func (lp *loop) refuse(p *Params, opened time.Time) {
	closeFD(int32(p.Client.FD), false)
	closeFD(int32(p.Backend.FD), false)
	lp.relay.count.Add(-1)
	lp.relay.onEnded(Ended{
		ID: p.ID, Peer: p.Peer, Since: p.Since, Opened: opened, Labels: p.Labels, Mode: p.Policy.Mode,
		Reason: reason.ShutDown, Stub: p.Stub, Owner: p.Owner,
	})
}

// unixNano is 0 for the zero time, which has no count of nanoseconds.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
