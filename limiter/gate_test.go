package limiter

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// entry is what an Enter on another goroutine came to.
type entry struct {
	waited time.Duration
	ok     bool
	done   atomic.Bool
}

// enter calls Enter in the background and returns when it has ended or waits.
func enter(g *Gate, deadline time.Time) *entry {
	e := &entry{}
	go func() {
		e.waited, e.ok = g.Enter(deadline)
		e.done.Store(true)
	}()
	synctest.Wait()
	return e
}

func mustEnter(t *testing.T, g *Gate) {
	t.Helper()
	if waited, ok := g.Enter(time.Time{}); !ok || waited != 0 {
		t.Fatalf("Enter of a free gate = %s, %t", waited, ok)
	}
}

// tick lets time pass for everyone in the bubble.
func tick(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func wantEntry(t *testing.T, step string, e *entry, waited time.Duration, ok bool) {
	t.Helper()
	if !e.done.Load() {
		t.Fatalf("%s: still waiting", step)
	}
	if e.waited != waited || e.ok != ok {
		t.Fatalf("%s: waited %s, %t; want %s, %t", step, e.waited, e.ok, waited, ok)
	}
}

func wantWaiting(t *testing.T, step string, entries ...*entry) {
	t.Helper()
	for i, e := range entries {
		if e.done.Load() {
			t.Fatalf("%s: entry %d does not wait (%s, %t)", step, i, e.waited, e.ok)
		}
	}
}

func wantStats(t *testing.T, step string, g *Gate, want GateStats) {
	t.Helper()
	if got := g.Stats(); got != want {
		t.Fatalf("%s: %+v, want %+v", step, got, want)
	}
}

func TestGateSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(2, 100*time.Millisecond)
		var none time.Time

		// 1. Free places are taken at once.
		mustEnter(t, g)
		mustEnter(t, g)
		wantStats(t, "1", g, GateStats{InUse: 2, Max: 2})
		// 2. Then callers queue.
		a := enter(g, none)
		tick(10 * time.Millisecond)
		b := enter(g, none)
		wantWaiting(t, "2", a, b)
		wantStats(t, "2", g, GateStats{InUse: 2, Waiting: 2, Max: 2, Waited: 2})
		// 3. A place given back goes to the first in the queue, not to a newcomer.
		g.Leave()
		synctest.Wait()
		if g.TryEnter() {
			t.Fatal("3: a newcomer overtook the queue")
		}
		wantEntry(t, "3", a, 10*time.Millisecond, true)
		wantWaiting(t, "3", b)
		// 4. The longest wait ends in a refusal.
		tick(100 * time.Millisecond)
		wantEntry(t, "4", b, 100*time.Millisecond, false)
		wantStats(t, "4", g, GateStats{InUse: 2, Max: 2, Waited: 2, Rejected: 1})
		// 5. An earlier deadline ends it sooner, a later one does not prolong it.
		c := enter(g, time.Now().Add(30*time.Millisecond))
		d := enter(g, time.Now().Add(time.Hour))
		tick(100 * time.Millisecond)
		wantEntry(t, "5", c, 30*time.Millisecond, false)
		wantEntry(t, "5", d, 100*time.Millisecond, false)
		// 6. A deadline that has passed is refused without waiting.
		e := enter(g, time.Now().Add(-time.Millisecond))
		wantEntry(t, "6", e, 0, false)
		wantStats(t, "6", g, GateStats{InUse: 2, Max: 2, Waited: 4, Rejected: 4})
		// 7. But not if a place is free.
		g.Leave()
		f := enter(g, time.Now().Add(-time.Millisecond))
		wantEntry(t, "7", f, 0, true)
		// 8. Everyone leaves.
		g.Leave()
		g.Leave()
		wantStats(t, "8", g, GateStats{Max: 2, Waited: 4, Rejected: 4})
	})
}

func TestGateSetLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, time.Second)
		mustEnter(t, g)
		queue := []*entry{enter(g, time.Time{}), enter(g, time.Time{}), enter(g, time.Time{})}
		wantWaiting(t, "1", queue...)
		// 2. New places go to waiters at once, in order.
		g.SetLimits(3, time.Second, 0)
		synctest.Wait()
		wantEntry(t, "2", queue[0], 0, true)
		wantEntry(t, "2", queue[1], 0, true)
		wantWaiting(t, "2", queue[2])
		// 3. Fewer places: holders stay, and what they give back is not handed on.
		g.SetLimits(2, time.Second, 1)
		g.Leave()
		synctest.Wait()
		wantWaiting(t, "3", queue[2])
		wantStats(t, "3", g, GateStats{InUse: 2, Waiting: 1, Max: 2, Waited: 3})
		// 4. The queue is full at its bound.
		wantEntry(t, "4", enter(g, time.Time{}), 0, false)
		// 5. Below the new maximum, the queue moves again.
		g.Leave()
		synctest.Wait()
		wantEntry(t, "5", queue[2], 0, true)
		// 6. Without a wait, a full gate refuses at once.
		g.SetLimits(2, 0, 0)
		wantEntry(t, "6", enter(g, time.Time{}), 0, false)
		g.Leave()
		g.Leave()
		wantStats(t, "6", g, GateStats{Max: 2, Waited: 3, Rejected: 2})
	})
}

// A waiter that gives up in the middle of the queue leaves the others in order.
func TestGateOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, time.Second)
		mustEnter(t, g)
		var mu sync.Mutex
		var order []int
		for i, wait := range []time.Duration{0, 10 * time.Millisecond, 0, 10 * time.Millisecond, 0} {
			var deadline time.Time
			if wait > 0 {
				deadline = time.Now().Add(wait)
			}
			go func() {
				if _, ok := g.Enter(deadline); ok {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
				}
			}()
			synctest.Wait()
		}
		tick(20 * time.Millisecond)
		for range 4 {
			g.Leave()
			synctest.Wait()
		}
		if want := []int{0, 2, 4}; !slices.Equal(order, want) {
			t.Errorf("admitted in the order %v, want %v", order, want)
		}
		if s := g.Stats(); s.InUse != 0 || s.Waiting != 0 || s.Rejected != 2 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

func TestGateDefaultQueue(t *testing.T) {
	f := func(places, want int) {
		t.Helper()
		if got := NewGate(places, 0).maxQueue; got != want {
			t.Errorf("queue of a gate with %d places is bounded by %d, want %d", places, got, want)
		}
	}
	f(1, 1024)
	f(128, 1024)
	f(4096, 32768)
}

func TestGateBug(t *testing.T) {
	f := func(what string, do func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		do()
	}
	f("Leave without Enter", func() { NewGate(1, 0).Leave() })
	f("no places", func() { NewGate(0, 0) })
}

func TestGateConcurrent(t *testing.T) {
	const workers, rounds, places = 16, 500, 3
	g := NewGate(places, time.Minute)
	var inside, admitted atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				deadline := time.Time{}
				if w%4 == 0 { // some give up about when they are admitted
					deadline = time.Now().Add(time.Duration(i%50) * time.Microsecond)
				}
				if _, ok := g.Enter(deadline); !ok {
					continue
				}
				if n := inside.Add(1); n > places {
					t.Errorf("%d holders, at most %d may be", n, places)
				}
				admitted.Add(1)
				inside.Add(-1)
				g.Leave()
			}
		})
	}
	wg.Wait()
	s := g.Stats()
	if s.InUse != 0 || s.Waiting != 0 {
		t.Errorf("at the end: %+v", s)
	}
	if total := admitted.Load() + int64(s.Rejected); total != workers*rounds {
		t.Errorf("%d admitted and %d rejected of %d", admitted.Load(), s.Rejected, workers*rounds)
	}
}

func TestGateAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	g := NewGate(1, time.Microsecond)
	f := func(what string, want bool, do func() bool) {
		t.Helper()
		allocs := testing.AllocsPerRun(100, func() {
			if do() != want {
				t.Fatalf("%s: admitted is not %t", what, want)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations, want none", what, allocs)
		}
	}
	f("free gate", true, func() bool {
		_, ok := g.Enter(time.Time{})
		g.Leave()
		return ok
	})
	mustEnter(t, g)
	f("wait and refusal", false, func() bool {
		_, ok := g.Enter(time.Time{})
		return ok
	})
}

func BenchmarkGate(b *testing.B) {
	g := NewGate(1<<20, time.Second)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := g.Enter(time.Time{}); ok {
				g.Leave()
			}
		}
	})
	if s := g.Stats(); s.InUse != 0 {
		b.Fatalf("%d holders at the end", s.InUse)
	}
}
