package limiter

import (
	"runtime"
	"slices"
	"strconv"
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

// enter calls Enter for a normal request in the background and returns when it has
// ended or waits.
func enter(g *Gate, deadline time.Time) *entry { return enterAs(g, Normal, deadline) }

func enterAs(g *Gate, class Class, deadline time.Time) *entry {
	e := &entry{}
	go func() {
		e.waited, e.ok = g.Enter(class, deadline)
		e.done.Store(true)
	}()
	synctest.Wait()
	return e
}

func mustEnter(t *testing.T, g *Gate) {
	t.Helper()
	if waited, ok := g.Enter(Normal, time.Time{}); !ok || waited != 0 {
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

// wantStats compares the sums over all classes.
func wantStats(t *testing.T, step string, g *Gate, want GateStats) {
	t.Helper()
	got := g.Stats()
	got.Classes = [numClasses]ClassStats{}
	if got != want {
		t.Fatalf("%s: %+v, want %+v", step, got, want)
	}
}

func TestGateSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(GateLimits{Max: 2, MaxWait: 100 * time.Millisecond})
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
		if g.TryEnter(Normal) {
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
		g := NewGate(GateLimits{Max: 1, MaxWait: time.Second})
		mustEnter(t, g)
		queue := []*entry{enter(g, time.Time{}), enter(g, time.Time{}), enter(g, time.Time{})}
		wantWaiting(t, "1", queue...)
		// 2. New places go to waiters at once, in order.
		g.SetLimits(GateLimits{Max: 3, MaxWait: time.Second})
		synctest.Wait()
		wantEntry(t, "2", queue[0], 0, true)
		wantEntry(t, "2", queue[1], 0, true)
		wantWaiting(t, "2", queue[2])
		// 3. Fewer places: holders stay, and what they give back is not handed on.
		g.SetLimits(GateLimits{Max: 2, MaxWait: time.Second, MaxQueue: 1})
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
		g.SetLimits(GateLimits{Max: 2})
		wantEntry(t, "6", enter(g, time.Time{}), 0, false)
		g.Leave()
		g.Leave()
		wantStats(t, "6", g, GateStats{Max: 2, Waited: 3, Rejected: 2})
	})
}

// A waiter that gives up in the middle of the queue leaves the others in order.
func TestGateOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(GateLimits{Max: 1, MaxWait: time.Second})
		mustEnter(t, g)
		var mu sync.Mutex
		var order []int
		for i, wait := range []time.Duration{0, 10 * time.Millisecond, 0, 10 * time.Millisecond, 0} {
			var deadline time.Time
			if wait > 0 {
				deadline = time.Now().Add(wait)
			}
			go func() {
				if _, ok := g.Enter(Normal, deadline); ok {
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

// Whoever leaves, the highest class goes next, and within a class the first.
func TestGateClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(GateLimits{Max: 1, MaxWait: time.Second})
		mustEnter(t, g)
		var mu sync.Mutex
		var order []string
		for i, class := range []Class{Bulk, Normal, Bulk, Critical, Normal, Critical} {
			go func() {
				if _, ok := g.Enter(class, time.Time{}); ok {
					mu.Lock()
					order = append(order, class.String()+strconv.Itoa(i))
					mu.Unlock()
				}
			}()
			synctest.Wait()
		}
		for class, want := range []int{2, 2, 2} {
			if got := g.Stats().Classes[class]; got != (ClassStats{Waiting: want, Waited: uint64(want)}) {
				t.Errorf("%s: %+v, want %d waiting", Class(class), got, want)
			}
		}
		for range 7 {
			g.Leave()
			synctest.Wait()
		}
		want := []string{"critical3", "critical5", "normal1", "normal4", "bulk0", "bulk2"}
		if !slices.Equal(order, want) {
			t.Errorf("admitted in the order %v, want %v", order, want)
		}
	})
}

func TestGateReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none time.Time
		g := NewGate(GateLimits{Max: 3, MaxWait: time.Second, Reserved: 1})
		// 1. The places that are not reserved are everyone's.
		mustEnter(t, g)
		wantEntry(t, "1", enterAs(g, Bulk, none), 0, true)
		// 2. The reserved one is not theirs.
		bulk := enterAs(g, Bulk, none)
		normal := enterAs(g, Normal, none)
		wantWaiting(t, "2", bulk, normal)
		// 3. A critical request takes it past them, without a wait.
		wantEntry(t, "3", enterAs(g, Critical, none), 0, true)
		wantStats(t, "3", g, GateStats{InUse: 3, Max: 3, Reserved: 1, Waiting: 2, Waited: 2})
		// 4. The next one waits, and goes first.
		critical := enterAs(g, Critical, none)
		wantWaiting(t, "4", critical)
		g.Leave()
		synctest.Wait()
		wantEntry(t, "4", critical, 0, true)
		// 5. A place given back is the reserved one while three are taken: nobody else gets it.
		g.Leave()
		synctest.Wait()
		wantWaiting(t, "5", bulk, normal)
		// 6. Then the others in their order.
		g.Leave()
		synctest.Wait()
		wantEntry(t, "6", normal, 0, true)
		wantWaiting(t, "6", bulk)
		// 7. A reload that reserves less admits at once.
		g.SetLimits(GateLimits{Max: 3, MaxWait: time.Second})
		synctest.Wait()
		wantEntry(t, "7", bulk, 0, true)
		// 8. Whatever is reserved, one place is open to all.
		for range 3 {
			g.Leave()
		}
		g.SetLimits(GateLimits{Max: 2, Reserved: 9})
		wantEntry(t, "8", enterAs(g, Bulk, none), 0, true)
		wantEntry(t, "8", enterAs(g, Bulk, none), 0, false)
		wantEntry(t, "8", enterAs(g, Critical, none), 0, true)
		g.Leave()
		g.Leave()
		wantStats(t, "8", g, GateStats{Max: 2, Reserved: 1, Waited: 3, Rejected: 1})
	})
}

// fill queues waiters of the classes given by their first letters, in that order.
func fill(g *Gate, letters string) []*entry {
	var entries []*entry
	for _, letter := range letters {
		class := map[rune]Class{'c': Critical, 'n': Normal, 'b': Bulk}[letter]
		entries = append(entries, enterAs(g, class, time.Time{}))
	}
	return entries
}

// outcome writes a letter for each entry: what waits in lower case, "-" for what was
// refused.
func outcome(letters string, entries []*entry) string {
	out := []byte(letters)
	for i, e := range entries {
		if e.done.Load() {
			out[i] = '-'
		}
	}
	return string(out)
}

func TestGateQueueShares(t *testing.T) {
	f := func(maxQueue int, letters, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			g := NewGate(GateLimits{Max: 1, MaxWait: time.Hour, MaxQueue: maxQueue})
			mustEnter(t, g)
			entries := fill(g, letters)
			if got := outcome(letters, entries); got != want {
				t.Errorf("queue of %d, %s arrive: %s, want %s", maxQueue, letters, got, want)
			}
			waiting := 0
			for _, c := range g.Stats().Classes {
				waiting += c.Waiting
			}
			if waiting > maxQueue || waiting != g.Stats().Waiting {
				t.Errorf("queue of %d, %s: %d wait", maxQueue, letters, waiting)
			}
			g.SetLimits(GateLimits{Max: 64, MaxWait: time.Hour}) // lets all go
		})
	}
	// Each class up to its share.
	f(8, "bbbbb", "bbbb-")
	f(8, "nnnnnnn", "nnnnnn-")
	f(8, "ccccccccc", "cccccccc-")
	f(8, "bbbbnn", "bbbbnn")
	f(8, "nnnnnb", "nnnnnb")
	f(8, "nnnnnbb", "nnnnnb-")
	// A normal one takes the place of the youngest bulk one.
	f(8, "bbbbnnn", "bbb-nnn")
	f(8, "bbbbnnnnnnn", "----nnnnnn-")
	// A critical one finds its quarter, then takes places: of bulk, then of normal, the youngest first.
	f(8, "bbbbnncc", "bbbbnncc")
	f(8, "bbbbnnccc", "bbb-nnccc")
	f(8, "bbbbnncccccc", "----nncccccc")
	f(8, "bbbbnnccccccc", "----n-ccccccc")
	f(8, "bbbbnnccccccccc", "------cccccccc-")
	// The smallest queues.
	f(1, "bnc", "--c")
	f(1, "cnb", "c--")
	f(1, "nb", "n-")
	f(2, "bbnnc", "--n-c") // bulk one place, bulk and normal two
}

// Displaced waiters are refused at once and counted; the places of others stay.
func TestGateDisplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(GateLimits{Max: 1, MaxWait: time.Second, MaxQueue: 2})
		mustEnter(t, g)
		bulk := enterAs(g, Bulk, time.Time{})
		first := enterAs(g, Critical, time.Time{})
		tick(10 * time.Millisecond)
		second := enterAs(g, Critical, time.Time{})
		wantEntry(t, "displaced", bulk, 10*time.Millisecond, false)
		wantWaiting(t, "critical", first, second)
		want := [numClasses]ClassStats{
			Critical: {Waiting: 2, Waited: 2},
			Bulk:     {Waited: 1, Rejected: 1, Displaced: 1},
		}
		if got := g.Stats().Classes; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		for range 3 {
			g.Leave()
			synctest.Wait()
		}
		wantEntry(t, "first", first, 10*time.Millisecond, true)
		wantEntry(t, "second", second, 0, true)
		if state := g.state.Load(); state != 0 {
			t.Errorf("at the end the state is %#x", state)
		}
	})
}

func TestParseClass(t *testing.T) {
	for class := range numClasses {
		if got, ok := ParseClass(class.String()); got != class || !ok {
			t.Errorf("%q: %v, %t", class, got, ok)
		}
	}
	for _, word := range []string{"", "Critical", "unknown"} {
		if got, ok := ParseClass(word); got != Normal || ok {
			t.Errorf("%q: %v, %t; want normal, false", word, got, ok)
		}
	}
	if got := numClasses.String(); got != "unknown" {
		t.Errorf("class out of range is called %q", got)
	}
}

func TestGateDefaultQueue(t *testing.T) {
	f := func(places, want int) {
		t.Helper()
		if got := NewGate(GateLimits{Max: places}).maxQueue; got != want {
			t.Errorf("queue of a gate with %d places is bounded by %d, want %d", places, got, want)
		}
	}
	f(1, 1024)
	f(1024, 1024)
	f(4096, 4096)
	f(1<<30, 1<<20-1)
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
	f("Leave without Enter", func() { NewGate(GateLimits{Max: 1}).Leave() })
	f("no places", func() { NewGate(GateLimits{}) })
	f("less than nothing reserved", func() { NewGate(GateLimits{Max: 1, Reserved: -1}) })
}

func TestGateConcurrent(t *testing.T) {
	const workers, rounds, places, reserved = 16, 500, 3, 1
	g := NewGate(GateLimits{Max: places, MaxWait: time.Minute, MaxQueue: 12, Reserved: reserved})
	var inside, others, admitted atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		class := Class(w % int(numClasses))
		wg.Go(func() {
			for i := range rounds {
				deadline := time.Time{}
				if w%4 == 0 { // some give up about when they are admitted
					deadline = time.Now().Add(time.Duration(i%50) * time.Microsecond)
				}
				if _, ok := g.Enter(class, deadline); !ok {
					continue
				}
				if n := inside.Add(1); n > places {
					t.Errorf("%d holders, at most %d may be", n, places)
				}
				if class != Critical {
					if n := others.Add(1); n > places-reserved {
						t.Errorf("%d holders that are not critical, at most %d may be", n, places-reserved)
					}
					others.Add(-1)
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
	if state := g.state.Load(); state != 0 {
		t.Errorf("at the end the state is %#x", state)
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
	g := NewGate(GateLimits{Max: 1, MaxWait: time.Microsecond})
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
	for class := range numClasses {
		f("free gate, "+class.String(), true, func() bool {
			_, ok := g.Enter(class, time.Time{})
			g.Leave()
			return ok
		})
	}
	mustEnter(t, g)
	for class := range numClasses {
		f("wait and refusal, "+class.String(), false, func() bool {
			_, ok := g.Enter(class, time.Time{})
			return ok
		})
	}
}

func BenchmarkGate(b *testing.B) {
	f := func(class Class) {
		b.Run(class.String(), func(b *testing.B) {
			g := NewGate(GateLimits{Max: 1 << 20, MaxWait: time.Second, Reserved: 1 << 10})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, ok := g.Enter(class, time.Time{}); ok {
						g.Leave()
					}
				}
			})
			if s := g.Stats(); s.InUse != 0 {
				b.Fatalf("%d holders at the end", s.InUse)
			}
		})
	}
	f(Critical)
	f(Normal)
}

// TestResume takes a place again beyond the limit. Who waits has to wait for both.
func TestResume(t *testing.T) {
	g := NewGate(GateLimits{Max: 1, MaxWait: time.Minute})
	f := func(step string, inUse, waiting int) {
		t.Helper()
		if st := g.Stats(); st.InUse != inUse || st.Waiting != waiting {
			t.Fatalf("%s: %d in use and %d waiting, want %d and %d", step, st.InUse, st.Waiting, inUse, waiting)
		}
	}
	enter := func() {
		if _, ok := g.Enter(Normal, time.Time{}); !ok {
			t.Error("refused")
		}
	}
	enter()
	g.Leave() // steps aside
	enter()
	g.Resume()
	f("both", 2, 0)
	if g.TryEnter(Critical) {
		t.Fatal("entered beyond the limit")
	}
	entered := make(chan struct{})
	go func() {
		enter()
		close(entered)
	}()
	for g.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	g.Leave()
	f("one has left", 1, 1)
	g.Leave()
	<-entered
	f("the waiter has the place", 1, 0)
	g.Resume() // its Leave may even come later
	g.Leave()
	g.Leave()
	f("nobody", 0, 0)
}

// TestResumeBalances has many step aside and resume while others enter and leave.
func TestResumeBalances(t *testing.T) {
	g := NewGate(GateLimits{Max: 2, MaxWait: time.Minute, MaxQueue: 1000})
	var all sync.WaitGroup
	for k := range 16 {
		all.Go(func() {
			for range 500 {
				if _, ok := g.Enter(Class(k%3), time.Time{}); !ok {
					continue // displaced
				}
				if k%2 == 0 {
					g.Leave()
					runtime.Gosched()
					g.Resume()
				}
				g.Leave()
			}
		})
	}
	all.Wait()
	if st := g.Stats(); st.InUse != 0 || st.Waiting != 0 {
		t.Errorf("%d in use and %d waiting at the end", st.InUse, st.Waiting)
	}
}
