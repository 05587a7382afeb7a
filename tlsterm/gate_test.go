package tlsterm

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// testGate is a gate whose handshakes are numbers, begun and ended by the test.
type testGate struct {
	t *testing.T
	*Gate[int]
	clock   time.Duration
	events  []string
	passes  map[int]*Pass
	gone    map[int]bool // whose clients have left
	evicted []int
}

func newTestGate(t *testing.T, o HandshakeOptions) *testGate {
	g := &testGate{t: t, passes: map[int]*Pass{}, gone: map[int]bool{}}
	g.Gate = NewGate(o, GateHooks[int]{
		Start: func(v int, waited time.Duration) {
			g.events = append(g.events, fmt.Sprintf("start %d after %v", v, waited))
			g.passes[v] = g.NewPass(func() { g.evicted = append(g.evicted, v) })
		},
		Refuse: func(v int, why Failure) { g.events = append(g.events, fmt.Sprintf("refuse %d: %s", v, why)) },
		Gone:   func(v int) bool { return g.gone[v] },
		Now:    func() time.Duration { return g.clock },
	})
	return g
}

// saw checks what has happened since the last check, and what there is now.
func (g *testGate) saw(step string, computing, waiting, queued int, events ...string) {
	g.t.Helper()
	if !slices.Equal(g.events, events) {
		g.t.Errorf("%s: %q, want %q", step, g.events, events)
	}
	g.events = nil
	if st := g.Stats(); st.Computing != computing || st.Waiting != waiting || st.Queued != queued {
		g.t.Errorf("%s: %+v, want %d computing, %d waiting, %d queued", step, st, computing, waiting, queued)
	}
}

func (g *testGate) enter(vs ...int) {
	for _, v := range vs {
		g.Enter(v)
	}
}
func (g *testGate) pause(v int) { g.Pause(g.passes[v]) }
func (g *testGate) done(v int)  { g.Done(g.passes[v]) }

func TestGateTurns(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 2, Max: 100, Queue: 3, QueueTimeout: time.Second})
	g.enter(1, 2)
	g.saw("two turns", 2, 0, 0, "start 1 after 0s", "start 2 after 0s")
	if g.Pressed() {
		t.Error("it is pressed without a queue")
	}
	g.enter(3, 4, 5, 6)
	g.saw("queue is full", 2, 0, 3, "refuse 6: gate_full")
	if !g.Pressed() || !g.Crowded() {
		t.Error("a full queue does not press")
	}
	g.clock = 300 * time.Millisecond
	g.pause(1)
	g.saw("a turn is free", 2, 1, 2, "start 3 after 300ms")
	g.done(2)
	g.saw("another one", 2, 1, 1, "start 4 after 300ms")
	g.clock = 1100 * time.Millisecond
	g.enter(7)
	g.done(3)
	g.saw("too late for one", 2, 1, 0, "refuse 5: gate_timeout", "start 7 after 0s")
	g.done(1)
	g.saw("ended while it waited", 2, 0, 0)
	g.done(4)
	g.done(7)
	g.saw("all over", 0, 0, 0)
	if g.Pressed() || g.Crowded() {
		t.Error("it is still pressed")
	}
	if st := g.Stats(); st.Waited != 4 || st.Turns != 2 {
		t.Errorf("%+v, want 4 that waited", st)
	}
}

// A queue is crowded before a long one is pressed.
func TestGateCrowded(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 1000, Queue: 1000, QueueTimeout: time.Hour})
	for id := range crowd {
		g.enter(id)
	}
	if g.Crowded() {
		t.Errorf("%d that wait are a crowd", crowd-1)
	}
	g.enter(crowd)
	if !g.Crowded() || g.Pressed() {
		t.Errorf("%d that wait are no crowd, or press", crowd)
	}
}

// Who has waited for long is looked at before its turn.
func TestGateGone(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 100, Queue: 10, QueueTimeout: time.Hour})
	g.enter(1, 2, 3, 4)
	g.gone[2], g.gone[3] = true, true
	g.done(1)
	g.saw("not for long", 1, 0, 2, "start 1 after 0s", "start 2 after 0s")
	g.clock = 20 * time.Millisecond
	g.done(2)
	g.saw("one has left", 1, 0, 0, "refuse 3: client_gone", "start 4 after 20ms")
	g.done(4)
	g.saw("all over", 0, 0, 0)
}

// Who comes back from its client goes before new ones.
func TestGateResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 100, Queue: 10, QueueTimeout: time.Hour})
		g.enter(1)
		g.pause(1)
		g.enter(2, 3)
		var back sync.WaitGroup
		back.Go(func() {
			if waited := g.Resume(g.passes[1]); waited != 5*time.Second {
				t.Errorf("waited %v, want 5s", waited)
			}
		})
		synctest.Wait()
		g.saw("it waits for a turn", 1, 0, 1, "start 1 after 0s", "start 2 after 0s")
		g.clock = 5 * time.Second
		g.done(2)
		back.Wait()
		g.saw("it has the turn", 1, 0, 1)
		g.done(1)
		g.saw("then the new one", 1, 0, 0, "start 3 after 5s")
		g.pause(3)
		if waited := g.Resume(g.passes[3]); waited != 0 {
			t.Errorf("a free turn took %v", waited)
		}
		g.done(3)
		g.saw("all over", 0, 0, 0)
	})
}

// Beyond the bound, who has waited longest for its client gives way, once.
func TestGateGivesWay(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 3, Queue: 10, QueueTimeout: time.Hour})
	for v := range 3 {
		g.enter(v)
		g.pause(v)
	}
	if g.evicted != nil {
		t.Fatalf("%v gave way within the bound", g.evicted)
	}
	g.enter(3)
	g.pause(3)
	joined := g.NewPass(func() { g.evicted = append(g.evicted, 100) })
	g.Join(joined)
	if want := []int{0, 1}; !slices.Equal(g.evicted, want) {
		t.Errorf("%v gave way, want %v", g.evicted, want)
	}
	for v := range 4 {
		if got := g.passes[v].GaveWay(); got != (v < 2) {
			t.Errorf("%d gave way is %t", v, got)
		}
	}
	g.done(0)
	g.Resume(g.passes[1]) // its client came in the same moment
	g.done(1)
	g.done(2)
	g.enter(4)
	if len(g.evicted) != 2 {
		t.Errorf("%v gave way although three are over", g.evicted)
	}
	g.done(4)
	g.done(3)
	g.Done(joined)
	g.events = nil
	g.saw("all over", 0, 0, 0)
	if st := g.Stats(); st.GaveWay != 2 {
		t.Errorf("%+v, want 2 that gave way", st)
	}
}

// Who makes its handshake wait over and over, a byte at a time, gives way before an honest client that has waited longer.
func TestGateDribblerGivesWay(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 2, Queue: 10, QueueTimeout: time.Hour})
	g.enter(1)
	g.pause(1)
	g.enter(2)
	g.pause(2)
	for range honestPauses {
		g.Resume(g.passes[2])
		g.pause(2)
	}
	g.enter(3)
	if want := []int{2}; !slices.Equal(g.evicted, want) {
		t.Fatalf("%v gave way, want %v", g.evicted, want)
	}
	// Its last bytes came in the same moment: when it waits again it is not told again.
	g.pause(3)
	g.Resume(g.passes[2])
	g.pause(2)
	g.enter(4)
	if want := []int{2, 1}; !slices.Equal(g.evicted, want) {
		t.Errorf("%v gave way, want %v", g.evicted, want)
	}
	for v := 1; v <= 4; v++ {
		g.done(v)
	}
	g.events = nil
	g.saw("all over", 0, 0, 0)
}

// Those who come back for ever leave every few turns to new ones.
func TestGateFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 100, Queue: 10, QueueTimeout: time.Hour})
		over, turns := false, 0
		var all sync.WaitGroup
		for v := range 3 {
			g.enter(v)
			g.pause(v)
		}
		g.enter(3, 4)
		g.events = nil
		for v := range 3 {
			all.Go(func() {
				for g.Resume(g.passes[v]); !over; g.Resume(g.passes[v]) {
					turns++
					time.Sleep(time.Millisecond) // it computes
					g.pause(v)
				}
				g.done(v)
			})
		}
		synctest.Wait()
		g.done(3)
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"start 4 after 0s"}; turns > mostBacks || !slices.Equal(g.events, want) {
			t.Errorf("%d turns went to those that come back, and then %q; want %q", turns, g.events, want)
		}
		over, g.events = true, nil
		g.done(4)
		all.Wait()
		g.saw("all over", 0, 0, 0)
	})
}

func TestGateOptions(t *testing.T) {
	g := newTestGate(t, HandshakeOptions{Concurrency: 1, Max: 100, Queue: 10, QueueTimeout: time.Hour})
	g.enter(1, 2, 3, 4)
	g.SetOptions(HandshakeOptions{Concurrency: 3, Max: 100, Queue: 10, QueueTimeout: time.Hour})
	g.saw("more turns", 3, 0, 1, "start 1 after 0s", "start 2 after 0s", "start 3 after 0s")
	g.SetOptions(HandshakeOptions{Concurrency: 1, Max: 100, Queue: 10, QueueTimeout: time.Hour})
	g.done(1)
	g.done(2)
	g.saw("fewer turns", 1, 0, 1)
	if left := g.Drop(); !slices.Equal(left, []int{4}) {
		t.Errorf("dropped %v, want 4", left)
	}
	g.Trim()
	g.done(3)
	g.saw("all over", 0, 0, 0)
	if n := (&HandshakeOptions{}).turns(); n < 1 {
		t.Errorf("%d turns by default", n)
	}
}

// Handshakes of many goroutines never compute more than there are turns, and all come to an end.
func TestGateConcurrent(t *testing.T) {
	const handshakes, turns = 400, 3
	var over sync.WaitGroup
	var mu sync.Mutex
	computing, most := 0, 0
	enter := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		computing += n
		most = max(most, computing)
	}
	var g *Gate[int]
	g = NewGate(HandshakeOptions{Concurrency: turns, Max: 20, Queue: handshakes, QueueTimeout: time.Hour}, GateHooks[int]{
		Start: func(int, time.Duration) {
			go func() {
				defer over.Done()
				p := g.NewPass(func() {})
				for range 3 {
					enter(1)
					enter(-1)
					g.Pause(p)
					g.Resume(p)
				}
				g.Done(p)
			}()
		},
		Refuse: func(v int, why Failure) { t.Errorf("refused %d: %s", v, why); over.Done() },
		Now:    func() time.Duration { return 0 },
	})
	over.Add(handshakes)
	for v := range handshakes {
		go g.Enter(v)
	}
	over.Wait()
	if most > turns {
		t.Errorf("%d computed at once, at most %d may", most, turns)
	}
	if st := g.Stats(); st.Computing+st.Ready+st.Waiting+st.Queued != 0 {
		t.Errorf("left over: %+v", st)
	}
}
