package gctune

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"tickgate/internal/unit"
)

const mib = 1 << 20

// fake is a runtime that writes down what it is told.
type fake struct {
	Stats
	gogcs  []int
	limits []int64
	free   uint64
	stacks uint64
}

func (f *fake) read() Stats { return f.Stats }
func (f *fake) look() usage {
	return usage{Allocated: f.Allocated, Free: f.free, Stacks: f.stacks, Goroutines: f.Goroutines}
}
func (f *fake) setGOGC(n int)       { f.GOGC = n; f.gogcs = append(f.gogcs, n) }
func (f *fake) setLimit(max int64)  { f.Limit = max; f.limits = append(f.limits, max) }
func (f *fake) collect()            {}
func (f *fake) arm(chan<- struct{}) {}

// cycle is a collection that takes cost and finds liveMiB alive.
func (f *fake) cycle(liveMiB uint64, cost time.Duration) {
	f.Live = liveMiB * mib
	f.Cycles++
	f.AllGCCPU += cost.Seconds()
}

func newFake() *fake { return &fake{Stats: Stats{GOGC: 100, Limit: math.MaxInt64}} }

var normal = Options{Adaptive: true, MinHeadroom: 4 * mib, MaxHeadroom: 64 * mib, Headroom: 20}

func TestHeadroomFor(t *testing.T) {
	f := func(what string, allocatedMiB uint64, elapsed, cost time.Duration, liveMiB, wantMiB uint64) {
		t.Helper()
		got := headroomFor(allocatedMiB*mib, elapsed, cost, liveMiB*mib, &normal)
		if diff := max(got, wantMiB*mib) - min(got, wantMiB*mib); diff > mib/100 {
			t.Errorf("%s: %d bytes, want %d MiB", what, got, wantMiB)
		}
	}
	const second, milli = time.Second, time.Millisecond
	f("nothing allocated", 0, second, 0, 0, 4)
	f("little", 2, second, 0, 0, 4)
	f("1.5 s of it", 20, second, 0, 0, 30)
	f("1.5 s of it, measured over longer", 200, 10*second, 15*milli, 0, 30)
	f("at most", 50, second, 0, 0, 64)
	f("a large heap may have more", 100, second, 0, 500, 100)
	f("collections are dear", 2, second, 100*milli, 100, 20)
	f("dear, at most", 20, second, 100*milli, 100, 64)
	f("dear, but nothing is allocated", 0, second, second, 100, 4)
	f("too short a time for a rate", 1, time.Microsecond, 0, 0, 15)
}

func TestGOGCFor(t *testing.T) {
	f := func(liveMiB, stacksMiB, headroomMiB uint64, want int) {
		t.Helper()
		if got := gogcFor(Stats{Live: liveMiB * mib, Stacks: stacksMiB * mib}, headroomMiB*mib); got != want {
			t.Errorf("live %d MiB, stacks %d MiB, headroom %d MiB: GOGC %d, want %d", liveMiB, stacksMiB, headroomMiB, got, want)
		}
	}
	// Nearly nothing is alive: the runtime collects at 4 MiB times GOGC/100.
	f(0, 0, 32, 800)
	f(1, 0, 32, 825)
	f(4, 0, 32, 800)
	f(0, 0, 4, 100)
	f(1, 0, 4, 125)
	// More is alive.
	f(16, 0, 32, 200)
	f(32, 0, 32, 100)
	f(1000, 0, 200, 20)
	f(10, 0, 4, 40)
	f(1000, 0, 4, minGOGC)
	// Stacks are multiplied by GOGC, too.
	f(64, 64, 32, 25)
	f(64, 6400, 32, minGOGC)
	// A large headroom.
	f(1, 0, 4096, 102425)
	f(1, 0, 1<<25, maxGOGC)
}

func TestSettings(t *testing.T) {
	f := func(what string, o Options, env map[string]string, gogcs []int, limits []int64) {
		t.Helper()
		rt := newFake()
		rt.Live = 40 * mib
		tuner := start(o, rt, func(name string) string { return env[name] })
		if !slices.Equal(rt.gogcs, gogcs) || !slices.Equal(rt.limits, limits) {
			t.Errorf("%s: GOGC %v, limits %v; want %v, %v", what, rt.gogcs, rt.limits, gogcs, limits)
		}
		now := time.Now()
		rt.Allocated = 100 * mib
		asked := false
		for range 20 {
			now = now.Add(lookEvery)
			asked = tuner.look(now) || asked
			tuner.collected(now)
		}
		if want := len(gogcs) > 0; asked != want || tuner.Stats().Asked > 0 != want {
			t.Errorf("%s: collections asked for: %t, want %t", what, asked, want)
		}
		tuner.Close()
		tuner.Close()
		if rt.GOGC != 100 || rt.Limit != math.MaxInt64 {
			t.Errorf("%s: after Close GOGC is %d, the limit %d", what, rt.GOGC, rt.Limit)
		}
		closed := len(rt.gogcs)
		tuner.SetOptions(Options{Adaptive: true, MinHeadroom: 1000 * mib})
		rt.cycle(80, 0)
		tuner.collected(now)
		rt.Allocated += 100 * mib
		for range 20 {
			now = now.Add(lookEvery)
			asked = tuner.look(now)
		}
		if len(rt.gogcs) != closed || asked {
			t.Errorf("%s: GOGC is set or a collection asked for after Close", what)
		}
	}
	limited := normal
	limited.Limit = 512 * mib
	none := []int64{math.MaxInt64}
	f("adaptive", normal, nil, []int{10}, none)
	f("with a limit", limited, nil, []int{10}, []int64{512 * mib})
	f("off", Options{}, nil, nil, none)
	f("GOGC is set", limited, map[string]string{"GOGC": "100"}, nil, []int64{512 * mib})
	f("GOMEMLIMIT is set", limited, map[string]string{"GOMEMLIMIT": "1GiB"}, []int{10}, nil)
	f("both are set", limited, map[string]string{"GOMEMLIMIT": "off", "GOGC": "off"}, nil, nil)
}

func TestTuning(t *testing.T) {
	rt := newFake()
	tuner := start(normal, rt, func(string) string { return "" })
	defer tuner.Close()
	now := time.Now()
	// pass lets time pass in which so much is allocated.
	pass := func(d time.Duration, allocatedMiB uint64) {
		now = now.Add(d)
		rt.Allocated += allocatedMiB * mib
		rt.gogcs = nil
	}
	want := func(step string, gogcs ...int) {
		t.Helper()
		if !slices.Equal(rt.gogcs, gogcs) {
			t.Errorf("%s: GOGC set to %v, want %v", step, rt.gogcs, gogcs)
		}
	}
	// cycle is a collection, and look a look that asks for none.
	cycle := func(step string, liveMiB uint64, cost time.Duration, gogcs ...int) {
		t.Helper()
		rt.cycle(liveMiB, cost)
		tuner.collected(now)
		want(step, gogcs...)
	}
	look := func(step string, gogcs ...int) {
		t.Helper()
		if tuner.look(now) {
			t.Errorf("%s: a collection is asked for", step)
		}
		want(step, gogcs...)
	}
	const ms = time.Millisecond
	pass(time.Second, 20)
	cycle("1: 30 MiB in 1.5 s", 10, ms, 300)
	pass(time.Second, 20)
	cycle("2: the same", 10, ms)
	pass(time.Second, 20)
	cycle("3: little more is alive", 11, ms)
	pass(time.Second, 40)
	cycle("4: more is allocated", 10, ms, 600)
	pass(time.Second, 80)
	cycle("5: much more, at most 64 MiB", 10, ms, 640)
	pass(time.Second, 80)
	cycle("6: much more is alive, so 64 of 640 MiB are too little", 640, ms, 18)
	pass(time.Second, 20)
	cycle("7: small again", 10, ms, 300)
	// Collections stay away.
	pass(time.Second, 10)
	look("8: it is not time yet")
	pass(time.Second, 10)
	look("9: half of it")
	pass(2*time.Second, 10)
	look("10: less than half", 112)
	pass(20*time.Second, 5)
	look("11: hardly anything", 40)
	// Collections take long.
	pass(time.Second, 2)
	cycle("12: a dear one", 10, 100*ms)
	pass(time.Second, 2)
	cycle("13: what is allocated in 10 s", 10, 100*ms, 200)
	pass(5*time.Second, 0)
	look("14: it is not time yet")
	rt.gogcs = nil
	small := normal
	small.MaxHeadroom, small.Headroom = 8*mib, 5
	pass(0, 20)
	tuner.SetOptions(small)
	want("15: other options", 80)
	rt.gogcs = nil
	tuner.SetOptions(Options{})
	want("16: switched off", 100)
	pass(time.Second, 100)
	cycle("17: off", 1000, ms)
	look("18: off")
}

// TestQuiet is about when a collection is asked for.
func TestQuiet(t *testing.T) {
	q := &quiet{}
	u := usage{Goroutines: 10, Stacks: mib}
	live, cost, now := uint64(mib), time.Millisecond, time.Now()
	// f lets so many seconds pass in each of which so many KiB are allocated, and wants
	// collections to be asked for in these.
	f := func(step string, seconds int, kib uint64, want ...int) {
		t.Helper()
		var got []int
		for s := range seconds {
			now = now.Add(lookEvery)
			u.Allocated += kib << 10
			if q.look(u, live, cost, now) {
				got = append(got, s+1)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: asked for in seconds %v, want %v", step, got, want)
		}
	}
	f("1: nothing", 100, 0)
	f("2: busy", 100, 5000)
	f("3: quiet: one collection after some seconds, one for what pools keep", 100, 0, 3, 8)
	f("4: busy for a moment, but too little", 1, 2000)
	f("4: quiet", 100, 0)
	f("5: and a little more", 1, 100)
	f("5: quiet", 100, 0, 2, 7)
	f("6: in small pieces, that a collection of its own would take long to come for", 4, 600, 4)
	f("6: quiet", 100, 0, 5)
	live = 1000 * mib
	f("7: a large heap, of which it is no notable share", 100, 100)
	f("8: now it is", 100, 1000, 3*0+0)
}

func TestQuietEnds(t *testing.T) {
}

// eventually waits for a condition that collections bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); runtime.GC() {
		if time.Now().After(limit) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// The real runtime follows: after a collection its goal is what is alive and the headroom.
func TestRuntime(t *testing.T) {
	before := newRuntime().read()
	tuner := New(Options{Adaptive: true, MinHeadroom: 48 * mib, MaxHeadroom: 48 * mib, Headroom: 20})
	var keep [][]byte
	for _, liveMiB := range []uint64{1, 30, 300} {
		keep = nil
		for range liveMiB {
			keep = append(keep, make([]byte, mib))
		}
		runtime.GC()
		var s Stats
		eventually(t, "a goal of what is alive and the headroom", func() bool {
			s = tuner.Stats()
			want := max(48*mib, s.Live/5)
			return s.Live >= liveMiB*mib && s.Goal > s.Live+want*85/100 && s.Goal < s.Live+want*115/100+mib
		})
		t.Logf("%d MiB kept: GOGC %d, live %d MiB, goal %d MiB, %d cycles, %d forced, pauses %s %s %s, GC took %.1f %% of the CPU", liveMiB,
			s.GOGC, s.Live/mib, s.Goal/mib, s.Cycles, s.Forced, s.PauseP50, s.PauseP99, s.PauseMax, 100*s.GCFraction())
		if s.Cycles <= before.Cycles || s.Forced == 0 || s.PauseP50 > s.PauseP99 || s.PauseP99 > s.PauseMax || s.PauseMax <= 0 {
			t.Errorf("%+v", s)
		}
		if f := s.GCFraction(); f <= 0 || f > 1 {
			t.Errorf("share of the CPU: %v", f)
		}
	}
	runtime.KeepAlive(keep)
	tuner.Close()
	if s := newRuntime().read(); s.GOGC != before.GOGC || s.Limit != before.Limit {
		t.Errorf("after Close: GOGC %d, limit %d; before: %d, %d", s.GOGC, s.Limit, before.GOGC, before.Limit)
	}
}

// Whatever headroom is wanted, the runtime collects at the limit. How far memory goes beyond while
// a collection runs is the machine's affair.
func TestLimit(t *testing.T) {
	debug.FreeOSMemory()
	limit := newRuntime().read().Total + 48*mib
	tuner := New(Options{Limit: unit.Size(limit), Adaptive: true, MinHeadroom: 1024 * mib, MaxHeadroom: 1024 * mib, Headroom: 20})
	defer tuner.Close()
	eventually(t, "collections at the limit", func() bool {
		s := tuner.Stats()
		return s.Limit == int64(limit) && s.GOGC > 1000 && s.Goal < limit && s.Limited()
	})
	before := tuner.Stats().Cycles
	for range 1024 { // 1 GiB, which is the headroom
		sink = make([]byte, mib)
	}
	if after := tuner.Stats().Cycles; after < before+3 {
		t.Errorf("%d collections while 1 GiB was allocated with 48 MiB below the limit", after-before)
	}
}

func TestQuantile(t *testing.T) {
	h := &metrics.Float64Histogram{
		Counts:  []uint64{0, 50, 49, 0, 1},
		Buckets: []float64{math.Inf(-1), 1e-6, 2e-6, 3e-6, 4e-6, math.Inf(1)},
	}
	f := func(q float64, want time.Duration) {
		t.Helper()
		if got := quantile(h, q); got != want {
			t.Errorf("%v: %s, want %s", q, got, want)
		}
	}
	f(0, time.Microsecond)
	f(0.5, 2*time.Microsecond)
	f(0.51, 3*time.Microsecond)
	f(0.99, 3*time.Microsecond)
	f(1, 4*time.Microsecond) // the bucket has no end
	h.Counts = make([]uint64, 5)
	f(0.5, 0)
	if got := (&Stats{}).GCFraction(); got != 0 {
		t.Errorf("share of no CPU time: %v", got)
	}
}
