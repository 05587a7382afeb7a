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
	// What the collections find that are asked for, in MiB, and how many were made besides.
	lives   []uint64
	missing int
}

func (f *fake) read() Stats { return f.Stats }
func (f *fake) look() usage {
	return usage{Allocated: f.Allocated, Free: f.free, Stacks: f.stacks, Goroutines: f.Goroutines, Cycles: f.Cycles}
}
func (f *fake) setGOGC(n int)      { f.GOGC = n; f.gogcs = append(f.gogcs, n) }
func (f *fake) setLimit(max int64) { f.Limit = max; f.limits = append(f.limits, max) }
func (f *fake) collect() {
	f.Cycles++
	f.Forced++
	if len(f.lives) == 0 {
		f.missing++
		return
	}
	f.Live, f.lives = f.lives[0]*mib, f.lives[1:]
}
func (f *fake) spent() time.Duration { return time.Duration(f.Forced) * time.Millisecond }
func (f *fake) arm(chan<- struct{})  {}

// cycle is a collection that takes cost and finds liveMiB alive.
func (f *fake) cycle(liveMiB uint64, cost time.Duration) {
	f.Live = liveMiB * mib
	f.Cycles++
	f.AllGCCPU += cost.Seconds()
}

func newFake() *fake { return &fake{Stats: Stats{GOGC: 100, Limit: math.MaxInt64}} }

var normal = Options{Adaptive: true, MinHeadroom: 4 * mib, MaxHeadroom: 64 * mib, Headroom: 20}

func TestHeadroomFor(t *testing.T) {
	last := uint64(80)
	f := func(what string, allocatedMiB uint64, elapsed, cost time.Duration, liveMiB, wantMiB uint64) {
		t.Helper()
		got := headroomFor(allocatedMiB*mib, elapsed, cost, liveMiB*mib, last*mib, &normal)
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
	f("collections are dear, so it is what is allocated in 10 s", 2, second, 100*milli, 200, 20)
	f("dear, at most", 5, second, 100*milli, 200, 40)
	f("dear, but of no weight beside 1.5 s", 40, second, 100*milli, 200, 60)
	f("dear for a small heap", 10, second, second, 10, 15)
	f("dear, but nothing is allocated", 0, second, second, 100, 4)
	f("too short a time for a rate", 1, time.Microsecond, 0, 0, 15)
	last = 10
	f("much more than there was", 50, second, 0, 0, 15)
	last = 0
	f("there was none", 50, second, 0, 0, 6)
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
	cycle("1: 6 of the 30 MiB in 1.5 s, half as much again as there was", 10, ms, 59)
	for _, gogc := range []int{89, 134, 202, 300} {
		pass(time.Second, 20)
		cycle("2, 3: and again, up to all", 10, ms, gogc)
	}
	pass(time.Second, 20)
	cycle("4: little more is alive", 11, ms)
	pass(time.Second, 40)
	cycle("5: more is allocated", 10, ms, 449)
	pass(time.Second, 80)
	cycle("6: much more, but at most 64 MiB", 10, ms, 640)
	pass(time.Second, 80)
	cycle("7: much more is alive, so 64 of 640 MiB are too little", 640, ms, 14)
	pass(time.Second, 20)
	cycle("8: small again", 10, ms, 300)
	// Collections stay away.
	pass(time.Second, 12)
	look("9: it is not time yet")
	pass(time.Second, 12)
	look("10: more than half of it")
	pass(2*time.Second, 6)
	look("11: less than half", 112)
	pass(20*time.Second, 5)
	look("12: hardly anything", 40)
	// Collections take long.
	pass(20*time.Second, 1)
	cycle("13: a dear one", 100, 200*ms, minGOGC)
	pass(time.Second, 1)
	cycle("14: half as much again as there was, a change too small to make", 100, 100*ms)
	pass(time.Second, 1)
	cycle("15: and again, as it is what is allocated in 10 s", 100, 100*ms, 8)
	pass(5*time.Second, 0)
	look("16: it is not time yet")
	pass(6*time.Second, 0)
	look("17: now it is", minGOGC)
	rt.gogcs = nil
	small := normal
	small.MinHeadroom, small.Headroom = 8*mib, 5
	pass(0, 20)
	tuner.SetOptions(small)
	want("18: other options", 11)
	rt.gogcs = nil
	tuner.SetOptions(Options{})
	want("19: switched off", 100)
	pass(time.Second, 100)
	cycle("20: off", 1000, ms)
	look("21: off")
}

// TestQuiet is about when collections are asked for.
func TestQuiet(t *testing.T) {
	q := &quiet{}
	u := usage{Goroutines: 10, Stacks: mib}
	live, now := uint64(mib), time.Now()
	// f lets so many seconds pass in each of which so many KiB are allocated, and wants
	// collections to be asked for in these.
	f := func(step string, seconds int, kib uint64, want ...int) {
		t.Helper()
		var got []int
		for s := range seconds {
			now = now.Add(lookEvery)
			u.Allocated += kib << 10
			if q.look(u, live, now) {
				got = append(got, s+1)
				q.goroutines = u.Goroutines
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: asked for in seconds %v, want %v", step, got, want)
		}
	}
	f("1: nothing", 100, 0)
	f("2: busy", 100, 5000)
	f("3: quiet", 100, 0, 3)
	f("4: busy, but for nothing notable", 1, 512)
	f("4: quiet", 100, 0)
	f("5: a little more", 1, 1, 1)
	f("6: in small pieces, that a collection of its own would take long to come for", 20, 200, 5, 10, 15, 20)
	q.cost = 100 * time.Millisecond
	f("7: dear", 40, 200, 10, 20, 30, 40)
	q.cost = time.Millisecond
	live = 1000 * mib
	f("8: a large heap, of which it is no notable share", 100, 500)
	f("9: now it is", 3, 500, 3)
	live = 10 * mib
	u.Goroutines, u.Stacks = 1000, 16*mib
	f("10: goroutines", 10, 0)
	u.Goroutines = 970
	f("11: some have ended, but few", 10, 0)
	u.Goroutines = 900
	f("12: more, so that 1.6 MiB of stacks are dead", 10, 0, 1)
	q.collected(10*mib, 9*mib)
	f("13: traffic's collection found less alive", 10, 0, 1)
	q.collected(10*mib, 10*mib)
	f("14: and one found nothing of the kind", 10, 0)
	q.collected(9*mib, 10*mib)
	f("15: or more", 10, 0)
}

func TestReleases(t *testing.T) {
	q := &quiet{}
	// f is a look at so much free memory.
	f := func(step string, looks int, freeKiB, liveMiB uint64, want bool) {
		t.Helper()
		q.looks = looks
		if got := q.releases(usage{Free: freeKiB << 10}, liveMiB*mib); got != want {
			t.Errorf("%s: %t, want %t", step, got, want)
		}
	}
	f("1: little", quietLooks, 512, 1, false)
	f("2: more", quietLooks, 513, 1, true)
	f("3: not quiet", quietLooks-1, 513, 1, false)
	f("4: too little of a large heap", quietLooks, 4000, 100, false)
	f("5: enough of it", quietLooks, 6000, 100, true)
	q.left = 6000 << 10
	f("6: what could not be given back", quietLooks, 6000, 1, false)
	f("7: more than that", quietLooks, 6600, 1, true)
	f("8: that has gone by itself", quietLooks, 0, 1, false)
	f("9: and is there again", quietLooks, 6000, 1, true)
}

// TestCollect is about collections in a row, and about the squeeze that follows.
func TestCollect(t *testing.T) {
	rt := newFake()
	rt.Live = 10 * mib
	tuner := start(normal, rt, func(string) string { return "" })
	defer tuner.Close()
	now := time.Now()
	// collect asks for collections that find these MiB alive, and wants all of them and no more to be made.
	collect := func(step string, lives ...uint64) {
		t.Helper()
		rt.lives, rt.gogcs = lives, nil
		tuner.collect()
		tuner.collected(now)
		if len(rt.lives) > 0 || rt.missing > 0 {
			t.Errorf("%s: %d collections too few, %d too many", step, len(rt.lives), rt.missing)
		}
		rt.missing = 0
	}
	look := func(step string, allocatedMiB, freeKiB uint64, gogcs ...int) {
		t.Helper()
		now = now.Add(lookEvery)
		rt.Allocated += allocatedMiB * mib
		rt.free, rt.gogcs = freeKiB<<10, nil
		if tuner.look(now) {
			t.Errorf("%s: a collection is asked for", step)
		}
		if !slices.Equal(rt.gogcs, gogcs) {
			t.Errorf("%s: GOGC set to %v, want %v", step, rt.gogcs, gogcs)
		}
	}
	tuner.look(now)
	tuner.look(now)
	if !tuner.look(now) {
		t.Error("0: no collection after the start")
	}
	collect("1: nothing dies", 10, 10)
	collect("2: all dies in the first", 2, 2)
	collect("3: pools let go", 20, 2, 2)
	collect("4: and go on", 20, 10, 5)
	if want := 3 * time.Millisecond; tuner.quiet.cost != want {
		t.Errorf("4: they cost %s, want %s", tuner.quiet.cost, want)
	}
	if want := []int{10}; !slices.Equal(rt.gogcs, want) {
		t.Errorf("4: GOGC set to %v, want %v", rt.gogcs, want)
	}
	look("5: much is free", 0, 4000)
	look("6: still", 0, 1000)
	look("7: no more", 0, 200, 80)
	look("8: a goroutine's stack, or a thousand of them", 0, 2000, 10)
	look("9: it is gone", 0, 0, 80)
	look("10: again", 0, 2000, 10)
	look("11: it is going", 0, 1900)
	look("11: but not all", 0, 1900, 80)
	now = now.Add(5 * time.Second)
	if !tuner.look(now) {
		t.Error("12: no collection, after which the rest may be given back")
	}
	collect("12", 5, 5)
	look("13: it makes no difference", 0, 1900)
	look("13: it makes no difference", 0, 1900, 80)
	look("13: so it is left", 0, 1900)
	look("14: more", 0, 3000, 10)
	look("15: traffic", 1, 3000, 80)
	look("16: it ceases", 0, 3000)
	look("17: but shortly", 0, 6000)
	now = now.Add(lookEvery)
	if !tuner.look(now) {
		t.Error("18: quiet again, and no collection")
	}
	collect("18", 5, 5)
	// Traffic comes between two looks.
	now = now.Add(window)
	rt.gogcs = nil
	rt.cycle(5, time.Millisecond)
	tuner.collected(now)
	if len(rt.gogcs) > 0 {
		t.Errorf("19: the first collection that traffic brings sets GOGC to %v", rt.gogcs)
	}
	rt.Allocated += 10 * mib
	rt.cycle(5, time.Millisecond)
	tuner.collected(now.Add(100 * time.Millisecond))
	if len(rt.gogcs) != 1 || rt.gogcs[0] < 110 {
		t.Errorf("19: the second one, that follows at once, sets GOGC to %v", rt.gogcs)
	}
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

// Looking at an idle process once a second must not be what makes garbage in it.
func TestLookAllocatesNothing(t *testing.T) {
	rt := newRuntime()
	if n := testing.AllocsPerRun(100, func() { rt.look() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if u := rt.look(); u.Allocated == 0 || u.Stacks == 0 || u.Goroutines == 0 {
		t.Errorf("%+v", u)
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
