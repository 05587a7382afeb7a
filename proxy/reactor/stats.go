package reactor

import (
	"sync/atomic"
	"time"
)

// LagBounds are the upper bounds, inclusive, of the buckets of LoopStats.Lag; a last
// bucket takes what is longer. A turn of nothing but small messages ends in the
// first; one of a second means that a handler blocked.
var LagBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, 1 * time.Second,
}

// LoopStats is what a loop counts, since New unless said otherwise.
//
// The lag is how long turns take, from the return of one epoll_wait to the next call:
// what becomes ready in between waits that long.
type LoopStats struct {
	Wakes  uint64 // turns, those included that found nothing
	Events uint64 // events of descriptors
	Posts  uint64 // posted functions that ran
	Agains uint64 // turns given to those who asked with Again
	Ticks  uint64
	Panics uint64 // calls that ended in a panic
	Armed  uint64 // calls of Add, Rearm and Remove

	LastTurn time.Duration // the latest turn
	MaxTurn  time.Duration // the longest since the last call of Stats
	SumTurns time.Duration // of all turns
	// Lag counts turns by duration: see LagBounds.
	Lag [len(LagBounds) + 1]uint64
}

// counters are written by the loop alone, maxTurn and panics aside.
type counters struct {
	wakes, events, posts, agains, ticks, panics atomic.Uint64
	lastTurn, maxTurn, sumTurns                 atomic.Int64
	lag                                         [len(LagBounds) + 1]atomic.Uint64
}

// turn counts the turn that ends.
func (c *counters) turn(l *Loop, d time.Duration) {
	c.wakes.Add(1)
	addSome(&c.events, l.ready-l.woken)
	addSome(&c.posts, len(l.called))
	addSome(&c.agains, len(l.turns))
	if l.ticking {
		c.ticks.Add(1)
	}
	c.lastTurn.Store(int64(d))
	c.sumTurns.Add(int64(d))
	c.lag[lagBucket(d)].Add(1)
	for {
		longest := c.maxTurn.Load()
		if int64(d) <= longest || c.maxTurn.CompareAndSwap(longest, int64(d)) {
			return
		}
	}
}

// addSome spares the locked instruction for what most turns have none of.
func addSome(c *atomic.Uint64, n int) {
	if n > 0 {
		c.Add(uint64(n))
	}
}

func lagBucket(d time.Duration) int {
	for i, bound := range LagBounds {
		if d <= bound {
			return i
		}
	}
	return len(LagBounds)
}

// Stats returns the counts of each loop, in the order of their IDs. It begins a new
// MaxTurn, so it has one regular caller. Any goroutine may call it, also after Close.
func (g *Group) Stats() []LoopStats {
	all := make([]LoopStats, len(g.loops))
	for i, l := range g.loops {
		c, s := &l.stats, &all[i]
		s.Wakes, s.Events, s.Posts = c.wakes.Load(), c.events.Load(), c.posts.Load()
		s.Agains, s.Ticks, s.Panics = c.agains.Load(), c.ticks.Load(), c.panics.Load()
		s.Armed = l.armed.Load()
		s.LastTurn = time.Duration(c.lastTurn.Load())
		s.MaxTurn = time.Duration(c.maxTurn.Swap(0))
		s.SumTurns = time.Duration(c.sumTurns.Load())
		for b := range c.lag {
			s.Lag[b] = c.lag[b].Load()
		}
	}
	return all
}
