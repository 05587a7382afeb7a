package upstream

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/internal/testkit"
)

func newGate(limit int) *gate {
	g := &gate{}
	g.init(limit)
	return g
}

func wantGate(t *testing.T, g *gate, inUse, waiting int) {
	t.Helper()
	if u, w := g.load(); u != inUse || w != waiting {
		t.Errorf("%d in use and %d waiting, want %d and %d", u, w, inUse, waiting)
	}
}

func TestGate(t *testing.T) {
	g := newGate(2)
	for i, want := range []bool{true, true, false} {
		if got := g.tryEnter(); got != want {
			t.Errorf("entry %d: %v, want %v", i+1, got, want)
		}
	}
	wantGate(t, g, 2, 0)
	if g.enter(0) {
		t.Error("entered a full gate without waiting")
	}
	g.leave()
	wantGate(t, g, 1, 0)
	if !g.enter(0) {
		t.Error("did not enter though there is room")
	}
}

func TestGateHandsOverInOrder(t *testing.T) {
	g := newGate(1)
	g.tryEnter()
	order := make(chan int, 3)
	for i := range 3 {
		go func() {
			if g.enter(time.Minute) {
				order <- i
			}
		}()
		testkit.WaitUntil(t, "it waits", func() bool { _, w := g.load(); return w == i+1 })
	}
	for i := range 3 {
		g.leave()
		if got := <-order; got != i {
			t.Errorf("place %d went to waiter %d", i, got)
		}
	}
	wantGate(t, g, 1, 0)
}

func TestGateGivesUp(t *testing.T) {
	g := newGate(1)
	g.tryEnter()
	if g.enter(time.Millisecond) {
		t.Fatal("entered a full gate")
	}
	wantGate(t, g, 1, 0)
	g.leave()
	wantGate(t, g, 0, 0)
}

func TestGateGivingUpMeetsAHandOver(t *testing.T) {
	g := newGate(1)
	g.tryEnter()
	g.n.Add(1) // a waiter, about to give up
	g.leave()  // hands it a permit first
	if g.giveUp() {
		t.Error("the waiter gave up a permit that was its own")
	}
	wantGate(t, g, 1, 0)
	g.leave()
	wantGate(t, g, 0, 0)
}

func TestGateUnderLoad(t *testing.T) {
	const limit = 3
	g := newGate(limit)
	var inside, entered, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 1000 {
				// Waits as short as a hand-over, so that many meet one.
				if !g.tryEnter() && !g.enter(time.Duration(i)*20*time.Microsecond) {
					refused.Add(1)
					continue
				}
				if n := inside.Add(1); n > limit {
					t.Errorf("%d inside, limit %d", n, limit)
				}
				entered.Add(1)
				inside.Add(-1)
				g.leave()
			}
		})
	}
	wg.Wait()
	wantGate(t, g, 0, 0)
	if len(g.handed) != 0 {
		t.Errorf("%d permits lie about", len(g.handed))
	}
	if entered.Load()+refused.Load() != 16*1000 || entered.Load() == 0 {
		t.Errorf("%d entered, %d refused", entered.Load(), refused.Load())
	}
}
