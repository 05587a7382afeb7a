package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

// testCrew is a crew whose visits last until the test ends them.
type testCrew struct {
	*crew
	t       *testing.T
	release chan struct{} // each receive ends one visit
	clock   atomic.Int64

	mu     sync.Mutex
	served []uint64 // guarded by mu; in the order in which they began
	edges  []bool   // guarded by mu; what scarce was told
}

func newTestCrew(t *testing.T, limit int) *testCrew {
	w := &testCrew{t: t, release: make(chan struct{})}
	w.crew = newCrew(limit, w.visit, w.scarcity, func() time.Duration { return time.Duration(w.clock.Add(1)) })
	return w
}

func (w *testCrew) visit(v *visit) {
	w.mu.Lock()
	w.served = append(w.served, v.conn.ID)
	w.mu.Unlock()
	<-w.release
}

func (w *testCrew) scarcity(on bool) {
	w.mu.Lock()
	w.edges = append(w.edges, on)
	w.mu.Unlock()
}

// puts gives the crew visits with these numbers.
func (w *testCrew) puts(ids ...uint64) {
	for _, id := range ids {
		w.put(visit{conn: park.Conn{ID: id}})
	}
}

// ends lets n visits end.
func (w *testCrew) ends(n int) {
	for range n {
		w.release <- struct{}{}
	}
}

// expect waits for the visits that have begun, in any order if they began at once.
func (w *testCrew) expect(what string, running, idle, waiting int, ids ...uint64) {
	w.t.Helper()
	testkit.WaitUntil(w.t, what, func() bool {
		w.mu.Lock()
		n := len(w.served)
		w.mu.Unlock()
		r, i := w.size()
		return n >= len(ids) && r == running && i == idle
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	got := slices.Clone(w.served)
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) || int(w.waiting.Load()) != waiting {
		w.t.Fatalf("%s: visits %v with %d waiting, want %v with %d", what, w.served, w.waiting.Load(), ids, waiting)
	}
}

// told returns what scarce was told.
func (w *testCrew) told() []bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.edges)
}

func TestCrewReusesWorkers(t *testing.T) {
	w := newTestCrew(t, 3)
	w.puts(1)
	w.expect("first", 1, 0, 0, 1)
	w.ends(1)
	w.expect("idle", 1, 1, 0, 1)
	w.puts(2)
	w.expect("the same worker", 1, 0, 0, 1, 2)
	w.puts(3)
	w.expect("another one", 2, 0, 0, 1, 2, 3)
	w.ends(2)
	w.expect("both idle", 2, 2, 0, 1, 2, 3)
	w.stop()
	w.expect("stopped", 0, 0, 0, 1, 2, 3)
}

func TestCrewQueue(t *testing.T) {
	w := newTestCrew(t, 2)
	w.puts(1, 2)
	w.expect("two", 2, 0, 0, 1, 2)
	if n := len(w.told()); n != 0 {
		t.Errorf("scarce was told %d times before the queue was used", n)
	}
	// More than the ring begins with, so that it grows while it is in use and wrapped.
	const queued = 200
	want := []uint64{1, 2}
	next := uint64(3)
	for range queued / 2 {
		w.puts(next, next+1)
		w.ends(1)
		want = append(want, next, next+1)
		next += 2
	}
	testkit.WaitUntil(t, "visits", func() bool { return int(w.waiting.Load()) == queued/2 })
	if got := w.told(); !slices.Equal(got, []bool{true}) {
		t.Errorf("scarce was told %v, want true once", got)
	}
	w.ends(queued / 2)
	testkit.WaitUntil(t, "an empty queue", func() bool { return w.waiting.Load() == 0 })
	w.ends(2)
	w.expect("all", 2, 2, 0, want...)
	if got := w.told(); !slices.Equal(got, []bool{true, false}) {
		t.Errorf("scarce was told %v, want true, false", got)
	}
	w.stop()
}

// TestCrewQueuedSince tells a visit since when it waits, and only one that did.
func TestCrewQueuedSince(t *testing.T) {
	release, got := make(chan struct{}), make(chan visit, 2)
	w := newCrew(1, func(v *visit) { got <- *v; <-release }, func(bool) {}, func() time.Duration { return 42 })
	w.put(visit{conn: park.Conn{ID: 1}})
	w.put(visit{conn: park.Conn{ID: 2}, why: park.Expired})
	for _, want := range []visit{{conn: park.Conn{ID: 1}}, {conn: park.Conn{ID: 2}, why: park.Expired, queued: 42}} {
		if v := <-got; v.conn.ID != want.conn.ID || v.why != want.why || v.queued != want.queued {
			t.Errorf("visit %d, %v, queued %v; want %+v", v.conn.ID, v.why, v.queued, want)
		}
		release <- struct{}{}
	}
	w.stop()
}

func TestCrewLimitChanges(t *testing.T) {
	w := newTestCrew(t, 1)
	w.puts(1, 2, 3, 4)
	w.expect("one", 1, 0, 3, 1)
	// More workers begin at once with what waits, in order.
	w.setLimit(3)
	w.expect("three", 3, 0, 1, 1, 2, 3)
	w.puts(5)
	w.expect("a newcomer does not overtake", 3, 0, 2, 1, 2, 3)
	w.ends(2)
	w.expect("the rest", 3, 0, 0, 1, 2, 3, 4, 5)
	// Fewer end as they fall idle.
	w.setLimit(1)
	w.ends(1)
	w.expect("one less", 2, 0, 0, 1, 2, 3, 4, 5)
	w.ends(2)
	w.expect("one is left", 1, 1, 0, 1, 2, 3, 4, 5)
	w.puts(6, 7)
	w.expect("the limit holds", 1, 0, 1, 1, 2, 3, 4, 5, 6)
	w.ends(2)
	w.expect("end", 1, 1, 0, 1, 2, 3, 4, 5, 6, 7)
	if got := w.told(); !slices.Equal(got, []bool{true, false, true, false}) {
		t.Errorf("scarce was told %v", got)
	}
	w.stop()
}

func TestCrewTrim(t *testing.T) {
	w := newTestCrew(t, 8)
	w.puts(1, 2, 3)
	w.expect("three", 3, 0, 0, 1, 2, 3)
	w.ends(3)
	w.expect("idle", 3, 3, 0, 1, 2, 3)
	w.trim(time.Now())
	w.expect("too early", 3, 3, 0, 1, 2, 3)
	w.puts(4)
	w.expect("one busy", 3, 2, 0, 1, 2, 3, 4)
	w.trim(time.Now().Add(2 * workerIdle))
	w.expect("the idle ones have ended", 1, 0, 0, 1, 2, 3, 4)
	w.ends(1)
	w.expectIdle(1)
	w.puts(5, 6)
	w.expect("as before", 2, 0, 0, 1, 2, 3, 4, 5, 6)
	w.ends(2)
	w.expect("idle again", 2, 2, 0, 1, 2, 3, 4, 5, 6)
	w.stop()
}

// TestCrewTrimsQueue gives back a ring that a flood has left.
func TestCrewTrimsQueue(t *testing.T) {
	w := newTestCrew(t, 1)
	for id := range uint64(1500) {
		w.puts(id)
	}
	w.trim(time.Now())
	if int(w.waiting.Load()) != 1499 || w.queue.Len() != 1499 {
		t.Fatalf("trim took a queue in use: %d waiting in %d", w.waiting.Load(), w.queue.Len())
	}
	w.ends(1500)
	w.expectIdle(1)
	w.trim(time.Now())
	if n := w.queue.Cap(); n != 0 {
		t.Errorf("a ring of %d is kept", n)
	}
	w.puts(2000, 2001)
	w.ends(2)
	w.expectIdle(1)
	w.stop()
}

func (w *testCrew) expectIdle(n int) {
	w.t.Helper()
	testkit.WaitUntil(w.t, "idle workers", func() bool { r, i := w.size(); return r == n && i == n })
}

// TestCrewStop ends idle workers at once, busy ones after their visit, and leaves nobody
// in the queue behind.
func TestCrewStop(t *testing.T) {
	w := newTestCrew(t, 2)
	w.puts(1, 2, 3)
	w.expect("two", 2, 0, 1, 1, 2)
	w.stop()
	w.ends(3)
	w.expect("all ended", 0, 0, 0, 1, 2, 3)
	w.stop()
	w.puts(4) // as loops that close do
	w.expect("after stop", 1, 0, 0, 1, 2, 3, 4)
	w.ends(1)
	w.expect("ended", 0, 0, 0, 1, 2, 3, 4)
}

// TestCrewStorm puts from many goroutines while the limit changes: everything is served once,
// never by more workers than the limit ever was, and scarce hears beginnings and ends in turn.
func TestCrewStorm(t *testing.T) {
	const putters, each, most = 8, 5000, 6
	var serving, peak atomic.Int32
	counts := make([]atomic.Int32, putters*each)
	var left sync.WaitGroup
	left.Add(putters * each)
	var edges []bool // guarded by the crew's lock
	w := newCrew(most, func(v *visit) {
		n := serving.Add(1)
		for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
		}
		counts[v.conn.ID].Add(1)
		serving.Add(-1)
		left.Done()
	}, func(on bool) { edges = append(edges, on) }, func() time.Duration { return 1 })
	stop := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.setLimit(1 + i%most)
				w.trim(time.Now().Add(time.Hour))
				w.size()
			}
		}
	})
	for p := range putters {
		go func() {
			for i := range each {
				w.put(visit{conn: park.Conn{ID: uint64(p*each + i)}})
			}
		}()
	}
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }()
	wait1(t, "end of all visits", done)
	close(stop)
	changes.Wait()
	for id := range counts {
		if n := counts[id].Load(); n != 1 {
			t.Fatalf("visit %d was served %d times", id, n)
		}
	}
	if n := peak.Load(); n > most {
		t.Errorf("%d workers at once, want at most %d", n, most)
	}
	w.mu.Lock()
	for i, on := range edges {
		if on != (i%2 == 0) {
			t.Fatalf("scarce was told %v twice in a row, as number %d", on, i)
		}
	}
	if len(edges) == 0 || edges[len(edges)-1] {
		t.Errorf("scarce was told %d times, and not of the end", len(edges))
	}
	w.mu.Unlock()
	w.stop()
	testkit.WaitUntil(t, "end of the workers", func() bool { r, _ := w.size(); return r == 0 })
}

// TestLend lets one more work for each that only waits.
func TestLend(t *testing.T) {
	t.Parallel()
	w := newTestCrew(t, 1)
	w.puts(1, 2, 3)
	w.expect("full", 1, 0, 2, 1)
	w.lend(1)
	w.expect("one lent", 2, 0, 1, 1, 2)
	w.setLimit(2)
	w.expect("a larger limit on top", 3, 0, 0, 1, 2, 3)
	w.puts(4)
	w.expect("full again", 3, 0, 1, 1, 2, 3)
	w.lend(-1)
	w.ends(1)
	w.expect("what waits is served first", 3, 0, 0, 1, 2, 3, 4)
	w.ends(1)
	w.expect("given back", 2, 0, 0, 1, 2, 3, 4)
	w.ends(2)
	w.expect("the rest stays", 2, 2, 0, 1, 2, 3, 4)
	w.stop()
}
