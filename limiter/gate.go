package limiter

import (
	"sync"
	"sync/atomic"
	"time"
)

// The ladder of a Gate: a free place, else a place in the queue, else a refusal;
// in the queue at most max_wait, then a refusal, or an earlier one in favour of a
// higher class. Each step is counted.
const (
	// By default the queue takes this many waiters per place, and never fewer than
	// minQueue, since few places may turn over fast.
	queuePerPlace = 1
	minQueue      = 1024

	// Shares of the queue that the lower classes may fill, in quarters: bulk half of it, bulk and
	// normal together three quarters. The rest is for critical waiters alone.
	bulkQuarters   = 2
	normalQuarters = 3
)

// Class is the priority of who enters a Gate.
type Class uint8

const (
	// Critical goes first and may take the reserved places.
	Critical Class = iota
	// Normal goes before Bulk.
	Normal
	// Bulk goes last.
	Bulk

	numClasses
)

var classWords = [numClasses]string{"critical", "normal", "bulk"}

// String returns the word used in the configuration and in metrics.
func (c Class) String() string {
	if c < numClasses {
		return classWords[c]
	}
	return "unknown"
}

// ParseClass returns the class of a word in the configuration.
func ParseClass(word string) (c Class, ok bool) {
	for i, w := range classWords {
		if w == word {
			return Class(i), true
		}
	}
	return Normal, false
}

// Gate admits at most a fixed number of holders at once. Further ones wait, no longer
// than a fixed time and in a bounded queue: by class, and in the order of arrival
// within a class.
//
// Priority is strict: while a critical waiter stands in the queue, no other is admitted,
// and a bulk one only when nobody else waits. So a lasting overload by a higher class
// starves the lower ones, which then end by the longest wait. That is wanted: a class
// that may be delayed for the sake of another's flood would not be worth its name.
//
// Fast path: a free place and nobody waiting is one compare-and-swap; a critical Enter
// looks at critical waiters only, so that it never meets the lock that a flood of
// others contends for. Slow path: everything that touches the queue holds mu, and while
// anyone waits, every other Enter and every Leave takes the slow path, so that no
// newcomer overtakes the queue.
type Gate struct {
	// state is the holders, and the critical and the other waiters, in bit fields. The
	// waiters change only under mu; they equal the lengths of the queues.
	state  atomic.Uint64
	limits [numClasses]atomic.Int64 // most holders for whom one of the class may enter; stored under mu

	counts [numClasses]classCounts

	mu       sync.Mutex
	maxWait  time.Duration    // guarded by mu
	maxQueue int              // guarded by mu
	queues   [numClasses]fifo // guarded by mu
	free     *waiter          // guarded by mu; waiters to use again, linked by next
}

// classCounts is what is counted for a class, all since the start.
type classCounts struct {
	rejected, waited, displaced atomic.Uint64
}

// fifo is the waiters of one class in the order of arrival.
type fifo struct {
	head, tail *waiter
	n          int
}

// waiter is one place in the queue. It is used again after its Enter returned.
type waiter struct {
	admitted   chan bool // capacity 1; false is a refusal in favour of a higher class
	timer      *time.Timer
	prev, next *waiter
	class      Class
	queued     bool // guarded by Gate.mu
}

// GateLimits is how much a Gate admits.
type GateLimits struct {
	// Max is the places, from 1 to 16,777,215 (more count as that many).
	Max int
	// MaxWait is the longest wait for a place; 0 refuses at once when none is free.
	MaxWait time.Duration
	// MaxQueue is the most waiters of all classes, up to 1,048,575. 0 is as many as Max, and at
	// least 1024. Bulk fills at most half of it, bulk and normal together three quarters (both rounded up).
	MaxQueue int
	// Reserved is the places that only Critical may take. One place at least stays open to all.
	Reserved int
}

// GateStats is what a Gate counts.
type GateStats struct {
	// InUse and Waiting are the holders and waiters at this moment, Max the places,
	// Reserved those that only critical holders may take.
	InUse, Waiting, Max, Reserved int
	// Waited and Rejected count the Enters that had to queue and those refused (after
	// waiting or not) since the start.
	Waited, Rejected uint64
	// Classes is the same by class, indexed by Class.
	Classes [numClasses]ClassStats
}

// ClassStats is what a Gate counts for one class. Holders are not told apart, since
// that would cost the fast path a second atomic operation.
type ClassStats struct {
	// Waiting is the waiters at this moment.
	Waiting int
	// Waited and Rejected are as in GateStats. Displaced are those of the rejected that gave up
	// their place in the queue for one of a higher class.
	Waited, Rejected, Displaced uint64
}

// The bit fields of Gate.state.
const (
	holderBits    = 24
	waiterBits    = 20
	maxHolders    = 1<<holderBits - 1
	maxWaiters    = 1<<waiterBits - 1
	oneHolder     = uint64(1)
	lessOneHolder = ^uint64(0) // adding it subtracts one holder
	oneCritical   = uint64(1) << holderBits
	oneOther      = uint64(1) << (holderBits + waiterBits)

	criticalMask = maxWaiters * oneCritical
	waiterMask   = ^uint64(maxHolders)
)

func holders(state uint64) int64 { return int64(state & maxHolders) }

// ahead returns the waiters whom a newcomer of the class must not overtake, as bits
// that are zero if there are none. Towards a normal newcomer that errs on the safe side: it takes
// the lock also if all who wait are bulk.
func ahead(state uint64, class Class) uint64 {
	if class == Critical {
		return state & criticalMask
	}
	return state & waiterMask
}

// oneWaiter is one waiter of the class in Gate.state.
func oneWaiter(class Class) uint64 {
	if class == Critical {
		return oneCritical
	}
	return oneOther
}

// NewGate returns a gate with nobody in it.
func NewGate(l GateLimits) *Gate {
	g := &Gate{}
	g.SetLimits(l)
	return g
}

// SetLimits changes the places, the longest wait of those who enter from now on,
// and the bound of the queue. New places go to waiters at once. Fewer places turn
// nobody out: they apply as holders leave; a shorter queue, as waiters do.
func (g *Gate) SetLimits(l GateLimits) {
	if l.Max < 1 {
		panic("BUG: limiter: a gate needs at least one place")
	}
	if l.Reserved < 0 {
		panic("BUG: limiter: a gate cannot reserve less than no place")
	}
	if l.MaxQueue <= 0 {
		l.MaxQueue = max(queuePerPlace*min(l.Max, maxWaiters), minQueue)
	}
	l.Max = min(l.Max, maxHolders)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limits[Critical].Store(int64(l.Max))
	for _, class := range []Class{Normal, Bulk} {
		g.limits[class].Store(int64(max(1, l.Max-l.Reserved)))
	}
	g.maxWait, g.maxQueue = l.MaxWait, min(l.MaxQueue, maxWaiters)
	g.admitLocked()
}

// TryEnter takes a place if one is free for the class and nobody waits who goes
// first; it counts no refusal.
func (g *Gate) TryEnter(class Class) bool {
	for {
		s := g.state.Load()
		if ahead(s, class) != 0 || holders(s) >= g.limits[class].Load() {
			return false
		}
		if g.state.CompareAndSwap(s, s+oneHolder) {
			return true
		}
	}
}

// Enter takes a place, waiting for one until the gate's longest wait or the
// deadline has passed, whichever is earlier; the zero deadline is none. If ok, a
// Leave must follow. It allocates nothing when a place is free, nor, once warm, when
// it has to wait.
func (g *Gate) Enter(class Class, deadline time.Time) (waited time.Duration, ok bool) {
	if g.TryEnter(class) {
		return 0, true
	}
	return g.enterSlow(class, deadline)
}

func (g *Gate) enterSlow(class Class, deadline time.Time) (time.Duration, bool) {
	start := time.Now()
	count := &g.counts[class]
	w, ok := g.enqueue(class, start, deadline)
	if w == nil {
		if !ok {
			count.rejected.Add(1)
		}
		return 0, ok
	}
	count.waited.Add(1)
	select {
	case ok = <-w.admitted:
	case <-w.timer.C:
		ok = !g.abandon(w)
	}
	g.recycle(w)
	if !ok {
		count.rejected.Add(1)
	}
	return time.Since(start), ok
}

// enqueue takes a place after all (nil, true), refuses (nil, false), or returns
// this caller's waiter with its timer running.
func (g *Gate) enqueue(class Class, now, deadline time.Time) (*waiter, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := g.maxWait
	if !deadline.IsZero() {
		wait = min(wait, deadline.Sub(now))
	}
	for room := false; ; {
		s := g.state.Load()
		if !g.behindLocked(class) && holders(s) < g.limits[class].Load() {
			if g.state.CompareAndSwap(s, s+oneHolder) {
				return nil, true
			}
			continue // another Enter or Leave came in between
		}
		if !room {
			if wait <= 0 || !g.roomLocked(class) {
				return nil, false
			}
			room = true
			continue // making room may have changed the state
		}
		// From this swap on, Leave comes to the lock, which is held until the waiter
		// stands in the queue: no place can be given up unseen.
		if g.state.CompareAndSwap(s, s+oneWaiter(class)) {
			break
		}
	}
	w := g.newWaiterLocked(wait)
	w.class = class
	g.queues[class].push(w)
	return w, true
}

// behindLocked reports whether anyone waits whom the class must not overtake.
func (g *Gate) behindLocked(class Class) bool {
	for c := range class + 1 {
		if g.queues[c].n > 0 {
			return true
		}
	}
	return false
}

// roomLocked reports whether one more of the class may wait. If not, the youngest
// waiter of the lowest class below is refused and makes room.
func (g *Gate) roomLocked(class Class) bool {
	bulk := g.queues[Bulk].n
	lower := bulk + g.queues[Normal].n
	all := lower + g.queues[Critical].n
	full := all >= g.maxQueue
	switch class {
	case Bulk:
		return !full && bulk < quarters(g.maxQueue, bulkQuarters) && lower < quarters(g.maxQueue, normalQuarters)
	case Normal:
		full = full || lower >= quarters(g.maxQueue, normalQuarters)
	}
	return !full || g.displaceLocked(class)
}

// quarters rounds up, so that a queue of one is open to every class.
func quarters(n, of int) int { return (n*of + 3) / 4 }

// displaceLocked refuses the youngest waiter of the lowest class below class.
func (g *Gate) displaceLocked(class Class) bool {
	for c := Bulk; c > class; c-- {
		w := g.queues[c].tail
		if w == nil {
			continue
		}
		g.queues[c].remove(w)
		g.state.Add(-oneWaiter(c))
		g.counts[c].displaced.Add(1)
		w.admitted <- false
		return true
	}
	return false
}

// abandon takes w out of the queue. It returns false if w was admitted meanwhile.
func (g *Gate) abandon(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !w.queued {
		return !<-w.admitted // sent under mu, so it is there
	}
	g.queues[w.class].remove(w)
	g.state.Add(-oneWaiter(w.class))
	return true
}

// Leave gives a place back, to the first waiter if there is one.
func (g *Gate) Leave() {
	for {
		s := g.state.Load()
		if holders(s) == 0 {
			panic("BUG: limiter: Leave without Enter")
		}
		if s&waiterMask != 0 {
			g.leaveSlow()
			return
		}
		if g.state.CompareAndSwap(s, s-oneHolder) {
			return
		}
	}
}

// Resume takes the place of a holder who has left for a while. It neither waits nor is refused, as what
// it resumes is under way and holds more than a place: so those who resume may exceed the limit,
// and everyone else waits until enough have left. A Leave must follow.
func (g *Gate) Resume() { g.state.Add(oneHolder) }

func (g *Gate) leaveSlow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Add(lessOneHolder)
	g.admitLocked()
}

// admitLocked hands free places to waiters: the highest class first, each in order.
func (g *Gate) admitLocked() {
	for class := range numClasses {
		q := &g.queues[class]
		for q.head != nil {
			s := g.state.Load()
			if holders(s) >= g.limits[class].Load() {
				break
			}
			// One step for both halves, so that waiters never drop to 0 while a place that is
			// already promised still looks free to TryEnter. It may fail, since a
			// critical newcomer takes free places without the lock.
			if !g.state.CompareAndSwap(s, s-oneWaiter(class)+oneHolder) {
				continue
			}
			w := q.head
			q.remove(w)
			w.admitted <- true
		}
	}
}

// Stats returns the counts of this moment.
func (g *Gate) Stats() GateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := GateStats{
		InUse: int(holders(g.state.Load())),
		Max:   int(g.limits[Critical].Load()),
	}
	st.Reserved = st.Max - int(g.limits[Normal].Load())
	for class := range numClasses {
		c := &g.counts[class]
		cs := ClassStats{
			Waiting:   g.queues[class].n,
			Waited:    c.waited.Load(),
			Rejected:  c.rejected.Load(),
			Displaced: c.displaced.Load(),
		}
		st.Classes[class] = cs
		st.Waiting += cs.Waiting
		st.Waited += cs.Waited
		st.Rejected += cs.Rejected
	}
	return st
}

func (g *Gate) newWaiterLocked(wait time.Duration) *waiter {
	w := g.free
	if w == nil {
		return &waiter{admitted: make(chan bool, 1), timer: time.NewTimer(wait)}
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

func (q *fifo) push(w *waiter) {
	w.queued = true
	w.prev = q.tail
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
	q.n++
}

func (q *fifo) remove(w *waiter) {
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.n--
}
