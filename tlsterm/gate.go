package tlsterm

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/ring"
)

// Gate bounds what handshakes take of the process, so that a flood of them leaves established connections
// their processors, and clients that stop in the middle keep nobody out.
//
// A handshake computes only while it has one of few turns, and gives it back while it waits for its client (Pause). Who comes
// back from there goes first: most of its work is done, and what is left of it is cheap. But every few turns a new one has its, so that
// clients which come back for ever, a byte at a time, keep nobody out. New ones wait in a short queue, and are
// refused when it is full or took too long, before anything was computed for them. Handshakes that wait for
// their client are bounded as well: beyond that, one that waits for more often than an honest client makes it gives way, or else the one
// that has waited longest, as an honest client has answered by then.
//
// T is what the caller knows a handshake by before it has begun.
type Gate[T any] struct {
	// Static.
	hooks GateHooks[T]

	mu        sync.Mutex // held over no call of a hook
	opts      HandshakeOptions
	turns     int              // how many there are; guarded by mu
	computing int              // turns taken; guarded by mu
	underWay  int              // begun and not over; guarded by mu
	queue     ring.Ring[T]     // not begun; guarded by mu
	since     ring.Ring[int64] // of queue: when they came, by hooks.Now
	ready     ring.Ring[*Pass] // back from their client, want a turn; guarded by mu
	backs     int              // turns that ready had since the queue had one; guarded by mu
	waiting   passList         // wait for their client, who gives way next is first; guarded by mu

	queued, gaveWay atomic.Uint64
	length          atomic.Int32 // of queue; written under mu
	pressed         atomic.Bool  // the queue is a quarter full; written under mu
	full            atomic.Bool  // likewise
}

// GateHooks are what a Gate calls. None may block, and all may be called on any goroutine that calls the gate. As they take locks of
// the handshake that they are about, of whichever, nobody may call the gate with such a lock held.
type GateHooks[T any] struct {
	// Start has a goroutine of its own do the handshake of v, which has a turn: it makes a Pass, and ends it with Done.
	Start func(v T, waited time.Duration)
	// Refuse ends v, whose turn never came: GateFull, GateTimeout or ClientGone.
	Refuse func(v T, why Failure)
	// Gone reports whether the client of v has left. It is asked about those that have waited for long, before their turn. nil is no.
	Gone func(v T) bool
	// Now is a clock.
	Now func() time.Duration
}

// NewGate returns a gate without handshakes.
func NewGate[T any](o HandshakeOptions, hooks GateHooks[T]) *Gate[T] {
	g := &Gate[T]{hooks: hooks}
	g.waiting.init()
	g.SetOptions(o)
	return g
}

// SetOptions changes the bounds. What is under way stays.
func (g *Gate[T]) SetOptions(o HandshakeOptions) {
	g.mu.Lock()
	g.opts, g.turns = o, o.turns()
	g.pressLocked()
	g.mu.Unlock()
	g.dispatch()
}

// turns is how many handshakes compute at once: by default, all but a quarter of the processors, at least one.
func (o *HandshakeOptions) turns() int {
	if o.Concurrency > 0 {
		return o.Concurrency
	}
	return max(1, runtime.GOMAXPROCS(0)*3/4)
}

// Enter has v begin at once, later or never.
func (g *Gate[T]) Enter(v T) {
	g.mu.Lock()
	if g.queue.Len() == 0 && g.takeLocked() {
		victim := g.beginLocked()
		g.mu.Unlock()
		victim.giveWay()
		g.hooks.Start(v, 0)
		return
	}
	if g.queue.Len() >= max(1, g.opts.Queue) {
		g.mu.Unlock()
		g.hooks.Refuse(v, GateFull)
		return
	}
	g.queue.Push(v)
	g.since.Push(int64(g.hooks.Now()))
	g.pressLocked()
	g.mu.Unlock()
	g.queued.Add(1)
}

// Pressed reports whether the queue is filling, so that it is time to take fewer connections in. It takes no lock.
func (g *Gate[T]) Pressed() bool { return g.pressed.Load() }

// Crowded reports whether so many handshakes wait for their first turn that they would keep a processor for longer than others should wait
// for it. It takes no lock.
func (g *Gate[T]) Crowded() bool { return g.length.Load() >= crowd || g.Pressed() }

// crowd is some 10 ms of work.
const crowd = 16

// Full reports whether Enter would refuse. It takes no lock.
func (g *Gate[T]) Full() bool { return g.full.Load() }

// pressLocked tells those who take no lock of a change of the queue.
func (g *Gate[T]) pressLocked() {
	g.length.Store(int32(g.queue.Len()))
	g.full.Store(g.queue.Len() >= max(1, g.opts.Queue))
	if pressed := g.queue.Len() > g.opts.Queue/4; pressed != g.pressed.Load() {
		g.pressed.Store(pressed)
	}
}

// takeLocked takes a turn if one is free and nobody has a better claim to it.
func (g *Gate[T]) takeLocked() bool {
	if g.computing >= g.turns || g.ready.Len() > 0 {
		return false
	}
	g.computing++
	return true
}

// beginLocked counts a handshake that begins, and returns who has to give way for it, nil if nobody has.
func (g *Gate[T]) beginLocked() *Pass {
	g.underWay++
	if g.underWay <= max(1, g.opts.Max) {
		return nil
	}
	p := g.waiting.first()
	if p != nil {
		g.waiting.remove(p)
		p.leaving.Store(true)
		g.gaveWay.Add(1)
	}
	return p
}

// dispatch gives free turns to who waits for one.
func (g *Gate[T]) dispatch() {
	for g.dispatchOne() {
	}
}

// dispatchOne gives one turn away, or refuses one handshake. It reports false if there is nothing to do.
func (g *Gate[T]) dispatchOne() bool {
	g.mu.Lock()
	if g.computing >= g.turns {
		g.mu.Unlock()
		return false
	}
	if g.ready.Len() > 0 && !g.overdueLocked() {
		g.computing++
		g.backs++
		p := g.ready.Pop()
		g.mu.Unlock()
		p.turn <- struct{}{} // has room: it asked once
		return true
	}
	if g.queue.Len() == 0 {
		g.mu.Unlock()
		return false
	}
	v, waited, longest := g.queue.Pop(), g.hooks.Now()-time.Duration(g.since.Pop()), g.opts.QueueTimeout
	g.pressLocked()
	g.computing++
	g.mu.Unlock()
	switch {
	case waited > longest:
		g.refuse(v, GateTimeout)
	case (waited > staleAfter || g.Pressed()) && g.hooks.Gone != nil && g.hooks.Gone(v):
		g.refuse(v, ClientGone)
	default:
		g.begin(v, waited)
	}
	return true
}

// staleAfter is how long a handshake may wait in the queue before it is worth a look whether its client is still there: in a flood,
// most have given up by the time that their turn comes. While the queue is filling it is always worth it, as they waited for longer before they were accepted.
const staleAfter = 10 * time.Millisecond

// refuse ends v, and gives its turn back.
func (g *Gate[T]) refuse(v T, why Failure) {
	g.mu.Lock()
	g.computing--
	g.mu.Unlock()
	g.hooks.Refuse(v, why)
}

// begin starts v, which has a turn.
func (g *Gate[T]) begin(v T, waited time.Duration) {
	g.mu.Lock()
	g.backs = 0
	victim := g.beginLocked()
	g.mu.Unlock()
	victim.giveWay()
	g.hooks.Start(v, waited)
}

// mostBacks is how many turns go to who comes back while a new one waits. An honest client comes back two or three times.
const mostBacks = 16

// overdueLocked reports whether the queue has its turn before who is ready. Not if nobody could give way for it.
func (g *Gate[T]) overdueLocked() bool {
	return g.backs >= mostBacks && g.queue.Len() > 0 && (g.waiting.n > 0 || g.underWay < g.opts.Max)
}

// Pass is one handshake under way. It begins with a turn. It is for the goroutine of the handshake alone.
type Pass struct {
	turn    chan struct{}
	evict   func()
	paused  bool
	pauses  int
	leaving atomic.Bool // it was told to give way

	prev, next *Pass // in passList; guarded by Gate.mu
}

// NewPass is the pass of a handshake that Start was called for. evict is called, on any goroutine and at most once, if the handshake has to
// give way while it is paused: it must end the wait, and not block.
func (g *Gate[T]) NewPass(evict func()) *Pass {
	return &Pass{turn: make(chan struct{}, 1), evict: evict}
}

// Join begins a handshake that waits for its client already, of which Start knows nothing: p is paused.
func (g *Gate[T]) Join(p *Pass) {
	g.mu.Lock()
	p.paused = true
	victim := g.beginLocked()
	g.waiting.add(p, g.waiting.root.prev)
	g.mu.Unlock()
	victim.giveWay()
}

// GaveWay reports whether the handshake was given up in favour of others.
func (p *Pass) GaveWay() bool { return p.leaving.Load() }

// giveWay ends the wait of a pass; nil is nobody.
func (p *Pass) giveWay() {
	if p != nil {
		p.evict()
	}
}

// honestPauses is for how many waits a handshake keeps its place among those that wait. An honest client makes it wait once or
// twice, and some times more if a long chain of certificates comes in pieces. Who sends a byte at a time is not to be held for
// one that has just come, over and over.
const honestPauses = 8

// Pause gives the turn back, before a wait for the client.
func (g *Gate[T]) Pause(p *Pass) {
	g.mu.Lock()
	p.paused = true
	g.computing--
	p.pauses++
	switch {
	case p.leaving.Load(): // this wait ends at once
	case p.pauses > honestPauses:
		g.waiting.add(p, &g.waiting.root)
	default:
		g.waiting.add(p, g.waiting.root.prev)
	}
	g.mu.Unlock()
	g.dispatch()
}

// Resume waits for a turn again. It returns how long that took.
func (g *Gate[T]) Resume(p *Pass) (waited time.Duration) {
	g.mu.Lock()
	p.paused = false
	g.waiting.remove(p)
	if g.takeLocked() {
		g.mu.Unlock()
		return 0
	}
	g.ready.Push(p)
	g.mu.Unlock()
	start := g.hooks.Now()
	<-p.turn // comes, as no turn lasts longer than it takes to compute
	return g.hooks.Now() - start
}

// Done ends a handshake, paused or not.
func (g *Gate[T]) Done(p *Pass) {
	g.mu.Lock()
	g.underWay--
	if p.paused {
		g.waiting.remove(p)
	} else {
		g.computing--
	}
	g.mu.Unlock()
	g.dispatch()
}

// Drop empties the queue and returns what waited in it, to be ended by the caller.
func (g *Gate[T]) Drop() []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []T
	for g.queue.Len() > 0 {
		all = append(all, g.queue.Pop())
		g.since.Pop()
	}
	g.pressLocked()
	return all
}

// Trim gives memory back that a flood has left.
func (g *Gate[T]) Trim() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue.Trim(keptQueue)
	g.since.Trim(keptQueue)
	g.ready.Trim(keptQueue)
}

const keptQueue = 1024

// GateStats is the state of a gate.
type GateStats struct {
	// Computing have a turn, of Turns; Ready are back from their client and want one; Waiting wait for their client; Queued have not begun.
	Computing, Turns, Ready, Waiting, Queued int
	// Waited counts those that had to wait in the queue, GaveWay those given up in favour of others.
	Waited, GaveWay uint64
}

// Stats returns the state.
func (g *Gate[T]) Stats() GateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GateStats{
		Computing: g.computing, Turns: g.turns, Ready: g.ready.Len(), Waiting: g.waiting.n, Queued: g.queue.Len(),
		Waited: g.queued.Load(), GaveWay: g.gaveWay.Load(),
	}
}

// passList is a doubly linked list of passes.
type passList struct {
	root Pass // root.next is the first
	n    int
}

func (l *passList) init() { l.root.prev, l.root.next = &l.root, &l.root }

func (l *passList) first() *Pass {
	if l.n == 0 {
		return nil
	}
	return l.root.next
}

// add puts p behind at, which is root for the front.
func (l *passList) add(p, at *Pass) {
	p.prev, p.next = at, at.next
	at.next.prev, at.next = p, p
	l.n++
}

// remove takes p out, if it is in.
func (l *passList) remove(p *Pass) {
	if p.next == nil {
		return
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
	l.n--
}
