package gctune

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// When a second collection is asked for so that memory goes back to the system.
const (
	// A heap that fell below this share of its largest, in percent, has lost what it was grown for.
	fellTo = 50
	// Less than this that could go back is not worth a collection.
	minRelease = 64 << 20
	// Traffic brings the second collection by itself, unless it is too little for one in this time.
	settleTime = 5 * time.Second
	// Not more often than this.
	releaseEvery = time.Minute
)

// Bounds and steps of GOGC.
const (
	// GOGC is left as it is while the one wanted differs by less than this share, in
	// percent, since a change stops the world for some ten microseconds.
	keepWithin = 10
	// Bounds of GOGC. The upper one is for a small heap with a large min_headroom; the lower one, for one with
	// large stacks, is where collections would take most of a processor.
	minGOGC, maxGOGC = 5, 1_000_000
	// The runtime collects at no less than this many bytes times GOGC/100, whatever is
	// alive (runtime/mgcpacer.go, defaultHeapMinimum).
	heapMinimum = 4 << 20
)

// Tuner keeps the garbage collector's settings. There is one in a process.
//
// It hears of each collection from an object that dies in it (a sentinel), not from a
// clock: the new GOGC then applies to the very next cycle, however fast they follow each other, and an
// idle process is not woken. Such a process collects every two minutes by itself
// (runtime/proc.go, forcegcperiod), so a drop is noticed by then.
type Tuner struct {
	rt collector
	// env is os.Getenv; the variables that are set belong to the operator.
	env func(string) string

	cycles chan struct{} // capacity 1; a collection has ended
	stop   chan struct{}
	ended  chan struct{}

	mu       sync.Mutex
	opts     Options   // guarded by mu
	closed   bool      // guarded by mu
	peak     uint64    // guarded by mu; largest live heap since the last drop
	dropped  bool      // guarded by mu; the last collection found a drop
	released time.Time // guarded by mu; last release
	releases uint64    // guarded by mu
	gogc     int       // guarded by mu; in force
	before   settings  // guarded by mu; to be restored by Close
}

// settings is what the runtime had before.
type settings struct {
	gogc  int
	limit int64
}

// New applies the options and goes on tuning until Close.
func New(o Options) *Tuner { return start(o, newRuntime(), os.Getenv) }

func start(o Options, rt collector, env func(string) string) *Tuner {
	t := &Tuner{
		rt: rt, env: env,
		cycles: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	s := rt.read()
	t.before = settings{s.GOGC, s.Limit}
	t.gogc = s.GOGC
	t.SetOptions(o)
	go t.run()
	return t
}

// SetOptions applies changed options at once.
func (t *Tuner) SetOptions(o Options) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.opts = o
	if t.env("GOMEMLIMIT") == "" {
		limit := int64(math.MaxInt64)
		if o.Limit > 0 {
			limit = int64(o.Limit)
		}
		t.rt.setLimit(limit)
	}
	if t.env("GOGC") == "" {
		if o.Adaptive {
			t.tuneLocked(t.rt.read())
		} else {
			t.setLocked(t.before.gogc)
		}
	}
}

// Close restores what the runtime had before New.
func (t *Tuner) Close() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.closed = true
	if t.env("GOMEMLIMIT") == "" {
		t.rt.setLimit(t.before.limit)
	}
	if t.env("GOGC") == "" {
		t.setLocked(t.before.gogc)
	}
	t.mu.Unlock()
	close(t.stop)
	<-t.ended
}

func (t *Tuner) run() {
	defer close(t.ended)
	settled := time.NewTimer(settleTime)
	settled.Stop()
	t.rt.arm(t.cycles)
	for {
		select {
		case <-t.stop:
			settled.Stop()
			return
		case <-settled.C:
			t.settled(time.Now())
		case <-t.cycles:
			t.rt.arm(t.cycles)
			if t.collected(time.Now()) {
				settled.Reset(settleTime)
			} else {
				settled.Stop()
			}
		}
	}
}

// collected does what follows a collection. On true the heap has dropped, and settled is to be
// called unless another collection comes first.
func (t *Tuner) collected(now time.Time) (dropped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || !t.opts.Adaptive {
		return false
	}
	s := t.rt.read()
	if t.env("GOGC") == "" {
		t.tuneLocked(s)
	}
	t.dropped = t.droppedLocked(s, now)
	return t.dropped
}

// droppedLocked decides whether there is memory that should go back to the system.
func (t *Tuner) droppedLocked(s Stats, now time.Time) bool {
	t.peak = max(t.peak, s.Live)
	if s.Live*100 > t.peak*fellTo || s.Releasable < minRelease {
		return false
	}
	if !t.released.IsZero() && now.Sub(t.released) < releaseEvery {
		return false
	}
	t.peak = s.Live
	return true
}

// settled asks for the second collection, which did not come by itself.
func (t *Tuner) settled(now time.Time) {
	t.mu.Lock()
	release := t.dropped && !t.closed
	t.dropped = false
	if release {
		t.released = now
		t.releases++
	}
	t.mu.Unlock()
	if release {
		t.rt.collect()
	}
}

// tuneLocked sets GOGC for the cycle that has begun.
func (t *Tuner) tuneLocked(s Stats) {
	want := gogcFor(s, &t.opts)
	if diff := max(want, t.gogc) - min(want, t.gogc); diff*100 < t.gogc*keepWithin {
		return
	}
	t.setLocked(want)
}

func (t *Tuner) setLocked(gogc int) {
	if gogc != t.gogc {
		t.rt.setGOGC(gogc)
		t.gogc = gogc
	}
}

// gogcFor returns the GOGC that lets the heap grow by the headroom wanted.
//
// The runtime's goal is, with stacks and globals, live + (live+stacks+globals)·GOGC/100, and at least
// heapMinimum·GOGC/100, which is more than wanted for small heaps unless GOGC is bounded by it.
//
// The memory limit needs no care here: the runtime collects at the lower of this
// goal and the one that the limit leaves, so a large GOGC cannot push memory above the
// limit. Nor is GOGC lowered towards the limit, which would collect before the limit asks for it.
func gogcFor(s Stats, o *Options) int {
	headroom := max(uint64(o.MinHeadroom), s.Live/100*uint64(o.Headroom))
	gogc := headroom * 100 / max(1, s.Live+s.Stacks+s.Globals)
	gogc = min(gogc, (s.Live+headroom)*100/heapMinimum)
	return int(min(max(gogc, minGOGC), maxGOGC))
}

// Stats returns the figures of this moment.
func (t *Tuner) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.rt.read()
	s.Releases = t.releases
	return s
}

// sentinel dies in the next collection. It is large enough to be allocated alone.
type sentinel struct{ _ [4]uint64 }

func (*runtimeCollector) arm(cycles chan<- struct{}) {
	runtime.AddCleanup(&sentinel{}, notify, cycles)
}

func notify(cycles chan<- struct{}) {
	select {
	case cycles <- struct{}{}:
	default:
	}
}

func (*runtimeCollector) setGOGC(n int)      { debug.SetGCPercent(n) }
func (*runtimeCollector) setLimit(max int64) { debug.SetMemoryLimit(max) }
func (*runtimeCollector) collect()           { runtime.GC() }
