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
	gogcs     []int
	limits    []int64
	collected int
}

func (f *fake) read() Stats         { return f.Stats }
func (f *fake) setGOGC(n int)       { f.GOGC = n; f.gogcs = append(f.gogcs, n) }
func (f *fake) setLimit(max int64)  { f.Limit = max; f.limits = append(f.limits, max) }
func (f *fake) collect()            { f.collected++ }
func (f *fake) arm(chan<- struct{}) {}

func newFake() *fake { return &fake{Stats: Stats{GOGC: 100, Limit: math.MaxInt64}} }

var normal = Options{Adaptive: true, MinHeadroom: 32 * mib, Headroom: 20}

func TestGOGCFor(t *testing.T) {
	f := func(liveMiB, stacksMiB uint64, o Options, want int) {
		t.Helper()
		if got := gogcFor(Stats{Live: liveMiB * mib, Stacks: stacksMiB * mib}, &o); got != want {
			t.Errorf("live %d MiB, stacks %d MiB: GOGC %d, want %d", liveMiB, stacksMiB, got, want)
		}
	}
	// Nearly nothing is alive: the runtime collects at 4 MiB times GOGC/100.
	f(0, 0, normal, 800)
	f(1, 0, normal, 825)
	f(4, 0, normal, 800)
	// min_headroom.
	f(16, 0, normal, 200)
	f(32, 0, normal, 100)
	f(64, 0, normal, 50)
	// headroom_percent, from 160 MiB on.
	f(160, 0, normal, 20)
	f(1000, 0, normal, 20)
	f(10_000, 0, normal, 20)
	f(10_000, 0, Options{MinHeadroom: 32 * mib, Headroom: 400}, 400)
	// Stacks are multiplied by GOGC, too.
	f(64, 64, normal, 25)
	f(64, 6400, normal, minGOGC)
	// A large minimum.
	f(1, 0, Options{MinHeadroom: 4096 * mib, Headroom: 20}, 102425)
	f(1, 0, Options{MinHeadroom: 1 << 45, Headroom: 20}, maxGOGC)
}

func TestSettings(t *testing.T) {
	f := func(what string, o Options, env map[string]string, gogcs []int, limits []int64) {
		t.Helper()
		rt := newFake()
		rt.Live = 64 * mib
		tuner := start(o, rt, func(name string) string { return env[name] })
		if !slices.Equal(rt.gogcs, gogcs) || !slices.Equal(rt.limits, limits) {
			t.Errorf("%s: GOGC %v, limits %v; want %v, %v", what, rt.gogcs, rt.limits, gogcs, limits)
		}
		tuner.collected(time.Now())
		tuner.Close()
		tuner.Close()
		if rt.GOGC != 100 || rt.Limit != math.MaxInt64 {
			t.Errorf("%s: after Close GOGC is %d, the limit %d", what, rt.GOGC, rt.Limit)
		}
		closed := len(rt.gogcs)
		tuner.SetOptions(Options{Adaptive: true, MinHeadroom: 1000 * mib})
		tuner.collected(time.Now())
		if len(rt.gogcs) != closed {
			t.Errorf("%s: GOGC is set after Close", what)
		}
	}
	limited := normal
	limited.Limit = 512 * mib
	none := []int64{math.MaxInt64}
	f("adaptive", normal, nil, []int{50}, none)
	f("with a limit", limited, nil, []int{50}, []int64{512 * mib})
	f("off", Options{}, nil, nil, none)
	f("GOGC is set", limited, map[string]string{"GOGC": "100"}, nil, []int64{512 * mib})
	f("GOMEMLIMIT is set", limited, map[string]string{"GOMEMLIMIT": "1GiB"}, []int{50}, nil)
	f("both are set", limited, map[string]string{"GOMEMLIMIT": "off", "GOGC": "off"}, nil, nil)
}

func TestTuning(t *testing.T) {
	rt := newFake()
	rt.Live = 64 * mib
	tuner := start(normal, rt, func(string) string { return "" })
	defer tuner.Close()
	// live sets what is alive and wants the last of these GOGCs to have been set since.
	live := func(step string, liveMiB uint64, want ...int) {
		t.Helper()
		rt.Live, rt.gogcs = liveMiB*mib, nil
		tuner.collected(time.Now())
		if !slices.Equal(rt.gogcs, want) {
			t.Errorf("%s: GOGC set to %v, want %v", step, rt.gogcs, want)
		}
	}
	live("1: as before", 64)
	live("2: little more", 67)
	live("3: more", 80, 40)
	live("4: much more", 1000, 20)
	live("5: small again", 8, 400)
	rt.gogcs = nil
	tuner.SetOptions(Options{Adaptive: true, MinHeadroom: 8 * mib, Headroom: 20})
	if want := []int{100}; !slices.Equal(rt.gogcs, want) {
		t.Errorf("6: other options set GOGC to %v, want %v", rt.gogcs, want)
	}
	tuner.SetOptions(normal)
	rt.gogcs = nil
	tuner.SetOptions(Options{})
	if want := []int{100}; !slices.Equal(rt.gogcs, want) {
		t.Errorf("7: switched off, GOGC is set to %v, want %v", rt.gogcs, want)
	}
	live("8: off", 1000)
}

func TestRelease(t *testing.T) {
	rt := newFake()
	tuner := start(normal, rt, func(string) string { return "" })
	defer tuner.Close()
	now := time.Now()
	// f is a collection; it wants a drop to be seen or not.
	f := func(step string, after time.Duration, liveMiB, releasableMiB uint64, want bool) {
		t.Helper()
		now = now.Add(after)
		rt.Live, rt.Releasable = liveMiB*mib, releasableMiB*mib
		if got := tuner.collected(now); got != want {
			t.Errorf("%s: a drop is %t, want %t", step, got, want)
		}
	}
	// settled lets the time pass without a collection and wants so many to have been asked for.
	settled := func(step string, want int) {
		t.Helper()
		now = now.Add(settleTime)
		tuner.settled(now)
		if got := int(tuner.Stats().Releases); rt.collected != want || got != want {
			t.Errorf("%s: %d asked for and %d counted, want %d", step, rt.collected, got, want)
		}
	}
	f("1: grown", 0, 1000, 500, false)
	f("2: less, but not half", time.Second, 501, 500, false)
	f("3: half, but little to give", time.Second, 500, 63, false)
	settled("3", 0)
	f("4: half, and much to give", time.Second, 500, 500, true)
	settled("4", 1)
	settled("4: once", 1)
	f("5: the one asked for, and others later", 2*time.Minute, 500, 400, false)
	f("6: grown again", time.Second, 900, 0, false)
	f("7: and gone again", time.Second, 100, 800, true)
	f("7: traffic brings the second one", time.Second, 100, 800, false)
	settled("7", 1)
	f("8: grown", time.Second, 900, 0, false)
	f("9: gone", time.Second, 100, 800, true)
	settled("9", 2)
	f("10: grown within the minute", time.Second, 900, 0, false)
	f("11: too soon", 58*time.Second, 100, 800, false)
	f("12: not too soon", time.Second, 100, 800, true)
	settled("12", 3)
	tuner.SetOptions(Options{})
	f("13: switched off", time.Hour, 900, 0, false)
	f("14: switched off", time.Hour, 100, 800, false)
	tuner.SetOptions(normal)
	f("15: grown", time.Hour, 900, 0, false)
	f("16: gone", time.Hour, 100, 800, true)
	tuner.Close()
	settled("16: closed", 3)
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
	tuner := New(Options{Adaptive: true, MinHeadroom: 48 * mib, Headroom: 20})
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
	tuner := New(Options{Limit: unit.Size(limit), Adaptive: true, MinHeadroom: 1024 * mib, Headroom: 20})
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
