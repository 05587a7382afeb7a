package limiter

import (
	"sync"
	"sync/atomic"
	"time"
)

// The ladder of a Gate: a free place, else a place in the queue, else a refusal;
// in the queue at most max_wait, then a refusal. Each step is counted.
const (
	// By default the queue takes this many waiters per place, and never fewer than
	// minQueue, since few places may turn over fast.
	queuePerPlace = 8
	minQueue      = 1024
)

// Gate admits at most a fixed number of holders at once. Further ones wait in the
// order of arrival, no longer than a fixed time and in a bounded queue.
//
// Fast path: a free place and nobody waiting is one compare-and-swap. Slow path:
// everything that touches the queue holds mu, and while anyone waits, every Enter
// and Leave takes the slow path, so that no newcomer overtakes the queue.
type Gate struct {
	// state is the holders in its lower and the waiters in its upper 32 bits. The
	// waiters change only under mu; they equal the length of the queue.
	state atomic.Uint64
	max   atomic.Int64 // stored under mu

	rejected atomic.Uint64
	waited   atomic.Uint64

	mu       sync.Mutex
	maxWait  time.Duration // guarded by mu
	maxQueue int           // guarded by mu
	head     *waiter       // guarded by mu; first to be admitted
	tail     *waiter       // guarded by mu
	free     *waiter       // guarded by mu; waiters to use again, linked by next
}

// waiter is one place in the queue. It is used again after its Enter returned.
type waiter struct {
	admitted   chan struct{} // capacity 1
	timer      *time.Timer
	prev, next *waiter
	queued     bool // guarded by Gate.mu
}

// GateStats is what a Gate counts.
type GateStats struct {
	// InUse and Waiting are the holders and waiters at this moment, Max the places.
	InUse, Waiting, Max int
	// Waited and Rejected count the Enters that had to queue and those refused (after
	// waiting or not) since the start.
	Waited, Rejected uint64
}

const (
	oneWaiter      = uint64(1) << 32
	lessOneWaiter  = ^(oneWaiter - 1) // adding it subtracts one waiter
	lessOneHolder  = ^uint64(0)
	waiterToHolder = lessOneWaiter + 1
)

func holders(state uint64) int64 { return int64(uint32(state)) }
func waiters(state uint64) int   { return int(state >> 32) }

// NewGate returns a gate with max places and waits of at most maxWait; the queue is
// bounded by eight waiters per place, at least 1024.
func NewGate(max int, maxWait time.Duration) *Gate {
	g := &Gate{}
	g.SetLimits(max, maxWait, 0)
	return g
}

// SetLimits changes the places, the longest wait of those who enter from now on,
// and the bound of the queue (0 is the default of NewGate). New places go to waiters
// at once. Fewer places turn nobody out: they apply as holders leave.
func (g *Gate) SetLimits(max int, maxWait time.Duration, maxQueue int) {
	if max < 1 {
		panic("BUG: limiter: a gate needs at least one place")
	}
	if maxQueue <= 0 {
		maxQueue = queuePerPlace * max
		if maxQueue < minQueue {
			maxQueue = minQueue
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.max.Store(int64(max))
	g.maxWait, g.maxQueue = maxWait, maxQueue
	g.admitLocked()
}

// TryEnter takes a place if one is free and nobody waits; it counts no refusal.
func (g *Gate) TryEnter() bool {
	for {
		s := g.state.Load()
		if waiters(s) > 0 || holders(s) >= g.max.Load() {
			return false
		}
		if g.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// Enter takes a place, waiting for one until the gate's longest wait or the
// deadline has passed, whichever is earlier; the zero deadline is none. If ok, a
// Leave must follow. It allocates nothing when a place is free, nor, once warm, when
// it has to wait.
func (g *Gate) Enter(deadline time.Time) (waited time.Duration, ok bool) {
	if g.TryEnter() {
		return 0, true
	}
	return g.enterSlow(deadline)
}

func (g *Gate) enterSlow(deadline time.Time) (time.Duration, bool) {
	start := time.Now()
	w, ok := g.enqueue(start, deadline)
	if w == nil {
		if !ok {
			g.rejected.Add(1)
		}
		return 0, ok
	}
	g.waited.Add(1)
	select {
	case <-w.admitted:
		ok = true
	case <-w.timer.C:
		ok = !g.abandon(w)
	}
	g.recycle(w)
	if !ok {
		g.rejected.Add(1)
	}
	return time.Since(start), ok
}

// enqueue takes a place after all (nil, true), refuses (nil, false), or returns
// this caller's waiter with its timer running.
func (g *Gate) enqueue(now, deadline time.Time) (*waiter, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := g.maxWait
	if !deadline.IsZero() {
		wait = min(wait, deadline.Sub(now))
	}
	for {
		s := g.state.Load()
		if waiters(s) == 0 && holders(s) < g.max.Load() {
			if g.state.CompareAndSwap(s, s+1) {
				return nil, true
			}
			continue // another Enter or Leave came in between
		}
		if wait <= 0 || waiters(s) >= g.maxQueue {
			return nil, false
		}
		// From this swap on, Leave comes to the lock, which is held until the waiter
		// stands in the queue: no place can be given up unseen.
		if g.state.CompareAndSwap(s, s+oneWaiter) {
			break
		}
	}
	w := g.newWaiterLocked(wait)
	g.pushLocked(w)
	return w, true
}

// abandon takes w out of the queue. It returns false if w was admitted meanwhile.
func (g *Gate) abandon(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !w.queued {
		<-w.admitted // sent under mu, so it is there
		return false
	}
	g.removeLocked(w)
	g.state.Add(lessOneWaiter)
	return true
}

// Leave gives a place back, to the first waiter if there is one.
func (g *Gate) Leave() {
	for {
		s := g.state.Load()
		if holders(s) == 0 {
			panic("BUG: limiter: Leave without Enter")
		}
		if waiters(s) > 0 {
			g.leaveSlow()
			return
		}
		if g.state.CompareAndSwap(s, s-1) {
			return
		}
	}
}

func (g *Gate) leaveSlow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Add(lessOneHolder)
	g.admitLocked()
}

// admitLocked hands free places to waiters in order.
func (g *Gate) admitLocked() {
	for g.head != nil && holders(g.state.Load()) < g.max.Load() {
		w := g.head
		g.removeLocked(w)
		// One step for both halves, so that waiters never drop to 0 while a place that is
		// already promised still looks free to TryEnter.
		g.state.Add(waiterToHolder)
		w.admitted <- struct{}{}
	}
}

// Stats returns the counts of this moment.
func (g *Gate) Stats() GateStats {
	s := g.state.Load()
	return GateStats{
		InUse:    int(holders(s)),
		Waiting:  waiters(s),
		Max:      int(g.max.Load()),
		Waited:   g.waited.Load(),
		Rejected: g.rejected.Load(),
	}
}

func (g *Gate) newWaiterLocked(wait time.Duration) *waiter {
	w := g.free
	if w == nil {
		return &waiter{admitted: make(chan struct{}, 1), timer: time.NewTimer(wait)}
	}
	g.free, w.next = w.next, nil
	w.timer.Reset(wait)
	return w
}

// recycle keeps w for the next one who waits. The list is no longer than the queue
// once was, which is bounded.
func (g *Gate) recycle(w *waiter) {
	w.timer.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	w.next, g.free = g.free, w
}

func (g *Gate) pushLocked(w *waiter) {
	w.queued = true
	w.prev = g.tail
	if g.tail == nil {
		g.head = w
	} else {
		g.tail.next = w
	}
	g.tail = w
}

func (g *Gate) removeLocked(w *waiter) {
	if w.prev == nil {
		g.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		g.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
}
