package upstream

import (
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// gate is a counting semaphore whose waiters queue in order and give up after a
// time. Its fast path is one atomic operation each way.
type gate struct {
	max int64
	// n is permits given out plus waiters. Above max, the excess are waiters.
	n atomic.Int64
	// handed carries permits from those who leave to waiters. It never holds more
	// than max, and its elements have no size, so it can have that capacity.
	handed chan struct{}
}

func (g *gate) init(limit int) {
	g.max = int64(limit)
	g.handed = make(chan struct{}, limit)
}

// tryEnter takes a permit if one is free. Nobody overtakes a waiter with it.
func (g *gate) tryEnter() bool {
	for {
		n := g.n.Load()
		if n >= g.max {
			return false
		}
		if g.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// enter waits for a permit for at most limit, and reports whether it got one.
func (g *gate) enter(limit time.Duration) bool {
	if limit <= 0 {
		return g.tryEnter()
	}
	if g.n.Add(1) <= g.max {
		return true
	}
	timer := fasthttp.AcquireTimer(limit)
	defer fasthttp.ReleaseTimer(timer)
	select {
	case <-g.handed:
		return true
	case <-timer.C:
	}
	return !g.giveUp()
}

// giveUp ends a wait. It returns false if a permit was handed over meanwhile, which
// the caller then owns.
func (g *gate) giveUp() bool {
	for {
		n := g.n.Load()
		if n <= g.max {
			// Every waiter that is still counted was handed a permit: one of them is ours.
			<-g.handed
			return false
		}
		if g.n.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// leave returns a permit: to a waiter if there is one.
func (g *gate) leave() {
	if g.n.Add(-1) >= g.max {
		g.handed <- struct{}{}
	}
}

// load returns the permits given out and the number of waiters.
func (g *gate) load() (inUse, waiting int) {
	n := g.n.Load()
	return int(min(n, g.max)), int(max(0, n-g.max))
}
