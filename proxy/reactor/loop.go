package reactor

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Loop is one epoll instance and the goroutine that serves it.
//
// A turn is: wait, then the events, the posts, those who asked for another turn, the
// tick if it is due.
type Loop struct {
	// Static after Handle.
	id       int
	group    *Group
	handlers [numKinds]Handler

	// Owned by the loop.
	poller  poller
	now     time.Duration
	tickAt  time.Duration
	yielded time.Duration // when the loop last gave its processor to others
	buffer  []byte
	// What crowded found last, and when.
	crowd    bool
	looked   time.Duration
	runnable [1]metrics.Sample
	closing  bool
	// The work of this turn, with what is done of it: a panic ends one call, and the
	// turn goes on behind it.
	ready      int // events that the poller returned
	readyDone  int
	woken      int // events that were the eventfd's
	called     []func()
	calledDone int
	turns      []Token
	turnsDone  int
	ticking    bool
	ticked     Kind
	// again are those that asked for the next turn.
	again []Token

	// life is held, shared, by whoever uses the descriptors from another goroutine, so
	// that none of them is closed, and its number used again, under a system call.
	life sync.RWMutex
	dead bool // guarded by life

	// armed counts registrations. It is raised before the system call and read after
	// the wait, so what a goroutine wrote before Add or Rearm happens before the Ready
	// that follows, also in the eyes of the race detector, which knows no kernel.
	armed atomic.Uint64

	mu     sync.Mutex
	posts  []func() // guarded by mu
	closed bool     // guarded by mu
	// posted says that posts or closed changed; stored under mu, read without.
	posted atomic.Bool
	// asleep says that the loop is about to block or does. Who finds work for it takes
	// the flag down and writes to the eventfd; so at most one write is under way, and
	// none while the loop is busy.
	asleep atomic.Bool

	stats counters
}

func newLoop(g *Group, id int) (*Loop, error) {
	l := &Loop{id: id, group: g, tickAt: TickInterval, buffer: make([]byte, BufferSize)}
	l.runnable[0].Name = "/sched/goroutines/runnable:goroutines"
	return l, l.poller.open()
}

// ID returns the loop's number, from 0.
func (l *Loop) ID() int { return l.id }

// Add registers a non-blocking descriptor. From then on, perhaps before Add returns,
// the loop calls Ready of the token's handler. What the caller wrote before happens
// before that Ready. Any goroutine may call it.
func (l *Loop) Add(fd int, t Token, m Mode) error {
	if k := t.Kind(); k >= numKinds || l.handlers[k] == nil {
		panic("BUG: reactor: Add with a kind that has no handler")
	}
	return l.control(opAdd, fd, t, m)
}

// Rearm sets the token and mode of a registered descriptor anew, and arms it. If what
// it waits for is there already, the event comes at once, in either mode. What the
// caller wrote before happens before that Ready. Any goroutine may call it.
func (l *Loop) Rearm(fd int, t Token, m Mode) error { return l.control(opModify, fd, t, m) }

// Remove takes a descriptor off the loop. Closing the last descriptor of a socket does
// the same, so it is needed only where the socket lives on. An event that the loop
// has already taken from the kernel still comes: see Handler. Any goroutine may call it.
func (l *Loop) Remove(fd int) error { return l.control(opRemove, fd, 0, 0) }

func (l *Loop) control(op controlOp, fd int, t Token, m Mode) error {
	l.life.RLock()
	defer l.life.RUnlock()
	if l.dead {
		return ErrClosed
	}
	l.armed.Add(1)
	return l.poller.control(op, fd, t, m)
}

// Post has the loop call f soon, after the functions posted before. It returns false
// after Close: then f never runs. Any goroutine may call it, the loop included, where
// f runs in the next turn at the earliest.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.posts = append(l.posts, f)
	l.posted.Store(true)
	l.mu.Unlock()
	l.wake()
	return true
}

// wake ends the loop's wait, if it waits.
func (l *Loop) wake() {
	if !l.asleep.CompareAndSwap(true, false) {
		return
	}
	l.life.RLock()
	defer l.life.RUnlock()
	if !l.dead {
		l.poller.wake()
	}
}

// stop has the loop end after the posts that it accepted.
func (l *Loop) stop() {
	l.mu.Lock()
	l.closed = true
	l.posted.Store(true)
	l.mu.Unlock()
	l.wake()
}

// Again has the loop call Ready(t, 0) in its next turn, after the events that are
// there by then: who has had enough of the loop but not finished waits behind the
// others. Only for handlers and posted functions.
func (l *Loop) Again(t Token) { l.again = append(l.again, t) }

// Now is the time since New as of this turn's start. Only for handlers and posted
// functions.
func (l *Loop) Now() time.Duration { return l.now }

// Buffer returns scratch memory of BufferSize bytes, valid until the callback
// returns. Only for handlers and posted functions.
func (l *Loop) Buffer() []byte { return l.buffer }

// run is the loop's goroutine.
func (l *Loop) run() {
	end := l.clock()
	for !l.closing {
		slept := l.wait(end)
		_ = l.armed.Load() // see armed
		l.now = l.clock()
		if slept {
			l.yielded = l.now
		}
		l.group.advance(l.now)
		l.takePosts()
		l.turns, l.again = l.again, l.turns[:0]
		if l.now >= l.tickAt {
			l.ticking = true
			l.tickAt = nextTick(l.tickAt, l.now)
		}
		for !l.work() {
		}
		end = l.clock()
		l.stats.turn(l, end-l.now)
		l.endTurn()
		l.breathe()
	}
	for k := range l.handlers {
		l.callClosing(Kind(k))
	}
	l.life.Lock()
	l.dead = true
	l.poller.close()
	l.life.Unlock()
}

func (l *Loop) clock() time.Duration { return l.group.Clock() }

// breathe leaves the processor to the goroutines that the loop has readied, if it had it for long.
func (l *Loop) breathe() {
	if l.clock()-l.yielded > yieldAfter {
		runtime.Gosched()
		l.yielded = l.clock()
	}
}

// nextTick is the first tick after now on the grid that at lies on, so that ticks
// do not drift however late they come.
func nextTick(at, now time.Duration) time.Duration {
	return at + (now-at)/TickInterval*TickInterval + TickInterval
}

// wait takes the next events. It blocks, at most until the tick, if nobody waits for a
// turn, and says whether it did.
func (l *Loop) wait(now time.Duration) (slept bool) {
	l.readyDone = 0
	if len(l.again) > 0 || now >= l.tickAt {
		l.ready = l.poller.poll()
		return false
	}
	if l.crowded(now) {
		if l.ready = l.poller.poll(); l.ready == 0 {
			l.crowd = l.yield()
			l.ready = l.poller.poll()
			slept = true
		}
		return slept
	}
	// Flag first, then look: a Post either is seen here or sees the flag.
	l.asleep.Store(true)
	if l.posted.Load() {
		l.ready = l.poller.poll()
	} else {
		l.ready, slept = l.poller.wait(l.group.start, l.tickAt)
	}
	l.asleep.Store(false)
	return slept
}

// crowded says whether goroutines wait for processors. Who blocks in Go's poller then
// is looked after only when a processor finds nothing else to run, or every 10 ms; so
// the loop stays runnable and looks itself, whenever its turn comes.
func (l *Loop) crowded(now time.Duration) bool {
	if l.group.polite != nil && l.group.polite() {
		return false
	}
	if now-l.looked < lookEvery {
		return l.crowd
	}
	l.looked = now
	metrics.Read(l.runnable[:])
	// The other loops may be among the runnable. They are no reason to stay: two loops
	// would keep each other running for ever. Nor are fewer than there are processors: on a
	// machine that others keep busy, one or two wait for a moment now and then.
	v := l.runnable[0].Value
	l.crowd = v.Kind() == metrics.KindUint64 && v.Uint64() >= uint64(max(len(l.group.loops), runtime.GOMAXPROCS(0)))
	return l.crowd
}

// yield gives the processor to others, and says whether there were any. If there were none here, those that wait do so for
// another processor, and come to this one as soon as the loop blocks.
func (l *Loop) yield() bool {
	start := l.clock()
	runtime.Gosched()
	return l.clock()-start > emptyYield
}

// takePosts takes the functions posted so far.
func (l *Loop) takePosts() {
	if !l.posted.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted.Store(false)
	l.called, l.posts = l.posts, l.called[:0]
	l.closing = l.closed
}

// work does what the turn has left to do. It returns false if it was cut short by a
// panic; the call that panicked is not repeated.
func (l *Loop) work() (finished bool) {
	defer l.contain("a handler or posted function panicked")
	for l.readyDone < l.ready {
		t, ev := l.poller.event(l.readyDone)
		l.readyDone++
		if t == wakeToken {
			l.woken++
			continue
		}
		l.handlers[t.Kind()].Ready(t, ev)
		if l.readyDone%breath == 0 {
			l.breathe()
		}
	}
	for l.calledDone < len(l.called) {
		f := l.called[l.calledDone]
		l.calledDone++
		f()
	}
	for l.turnsDone < len(l.turns) {
		t := l.turns[l.turnsDone]
		l.turnsDone++
		l.handlers[t.Kind()].Ready(t, 0)
	}
	for l.ticking && l.ticked < numKinds {
		k := l.ticked
		l.ticked++
		if h := l.handlers[k]; h != nil {
			h.Tick(l.now)
		}
	}
	return true
}

// endTurn makes the lists of the turn ready for the next.
func (l *Loop) endTurn() {
	clear(l.called) // what the closures hold is not kept alive by the empty list
	if cap(l.called) > keptPosts {
		l.called = nil
	}
	l.called, l.calledDone = l.called[:0], 0
	l.turnsDone, l.woken = 0, 0
	l.ticking, l.ticked = false, 0
}

func (l *Loop) callClosing(k Kind) {
	defer l.contain("a handler panicked while closing")
	if h := l.handlers[k]; h != nil {
		h.Closing()
	}
}

// contain, deferred, ends a panic.
func (l *Loop) contain(event string) {
	v := recover()
	if v == nil {
		return
	}
	l.stats.panics.Add(1)
	if l.group.log != nil {
		l.group.log(event, fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack()))
	}
}
