package gctune

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Tuner keeps the garbage collector's settings. There is one in a process.
//
// It hears of each collection from an object that dies in it (a sentinel), not from a
// clock: the new GOGC then applies to the very next cycle, however fast they follow each other. What must be
// noticed without a collection, that traffic has ceased, it sees by looking once a second.
type Tuner struct {
	rt collector
	// env is os.Getenv; the variables that are set belong to the operator.
	env func(string) string

	cycles chan struct{} // capacity 1; a collection has ended
	stop   chan struct{}
	ended  chan struct{} // nil unless run was started

	mu       sync.Mutex
	opts     Options  // guarded by mu
	closed   bool     // guarded by mu
	gogc     int      // guarded by mu; in force
	headroom uint64   // guarded by mu; that gogc stands for
	last     cycle    // guarded by mu
	quiet    quiet    // guarded by mu
	squeeze  int      // guarded by mu; looks for which the runtime still gives memory back, at most
	free     uint64   // guarded by mu; memory that the last of these looks saw
	asked    uint64   // guarded by mu; collections asked for
	before   settings // guarded by mu; to be restored by Close
}

// cycle is the last collection.
type cycle struct {
	at        time.Time
	n, forced uint64        // cycles up to it, and those of them that were asked for
	live      uint64        // bytes found alive
	allocated uint64        // bytes up to it
	spent     float64       // CPU seconds on collections up to it
	cost      time.Duration // what it took, in CPU time
}

// settings is what the runtime had before.
type settings struct {
	gogc  int
	limit int64
}

// New applies the options and goes on tuning until Close.
func New(o Options) *Tuner {
	t := start(o, newRuntime(), os.Getenv)
	t.ended = make(chan struct{})
	go t.run()
	return t
}

// start does all but to run.
func start(o Options, rt collector, env func(string) string) *Tuner {
	t := &Tuner{rt: rt, env: env, cycles: make(chan struct{}, 1), stop: make(chan struct{})}
	s := rt.read()
	t.before = settings{s.GOGC, s.Limit}
	t.gogc = s.GOGC
	t.quiet.wanted = true // the start leaves garbage
	t.last = cycle{at: time.Now(), n: s.Cycles, forced: s.Forced, allocated: s.Allocated, spent: s.AllGCCPU}
	t.SetOptions(o)
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
	switch {
	case t.adaptiveLocked():
		s := t.rt.read()
		t.tuneLocked(s, t.wantLocked(s, time.Now()))
	case t.env("GOGC") == "":
		t.setLocked(t.before.gogc)
	}
}

// adaptiveLocked reports whether there is anything to do but to set the limit. Who sets GOGC has decided about
// collections, for instance that there be none.
func (t *Tuner) adaptiveLocked() bool {
	return !t.closed && t.opts.Adaptive && t.env("GOGC") == ""
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
	if t.ended != nil {
		<-t.ended
	}
}

func (t *Tuner) run() {
	defer close(t.ended)
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	t.rt.arm(t.cycles)
	for {
		select {
		case <-t.stop:
			return
		case <-t.cycles:
			t.rt.arm(t.cycles)
			t.collected(time.Now())
		case now := <-looks.C:
			if t.look(now) {
				t.collect()
			}
		}
	}
}

// collected is told that a collection has ended.
func (t *Tuner) collected(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.adaptiveLocked() {
		t.collectedLocked(now)
	}
}

// collectedLocked does what follows a collection.
func (t *Tuner) collectedLocked(now time.Time) {
	s := t.rt.read()
	headroom := t.wantLocked(s, now)
	if n := s.Cycles - t.last.n; n > 0 {
		// More than one may have ended until this goroutine ran.
		cost := seconds((s.AllGCCPU - t.last.spent) / float64(n))
		if s.Forced == t.last.forced {
			if now.Sub(t.last.at) < window {
				t.squeeze = 0 // there is traffic, that may not run into one collection after the other
			}
			t.quiet.collected(t.last.live, s.Live)
		}
		t.quiet.goroutines = s.Goroutines
		t.last = cycle{
			at: now, n: s.Cycles, forced: s.Forced, live: s.Live,
			allocated: s.Allocated, spent: s.AllGCCPU, cost: cost,
		}
	}
	if t.squeeze == 0 {
		t.tuneLocked(s, headroom)
	}
}

// collect makes some collections in a row, and has the memory given back.
func (t *Tuner) collect() {
	s, spent := t.Stats(), t.rt.spent()
	for n := 1; n <= mostCycles; n++ {
		before := s.Live
		t.rt.collect()
		s = t.Stats()
		if n >= leastCycles && (s.Live >= before || !notable(before-s.Live, s.Live)) {
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quiet.cost = t.rt.spent() - spent // in a quiet process it is nearly all theirs
	if t.adaptiveLocked() {
		t.squeezeLocked()
	}
}

// seconds is a duration of so many.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// look does what is to be done without a collection, and reports whether to ask for one.
func (t *Tuner) look(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.adaptiveLocked() {
		return false
	}
	u := t.rt.look()
	if u.Cycles != t.last.n {
		// It was not told: a sentinel that is allocated while a collection runs outlives it.
		t.collectedLocked(now)
	}
	if t.quiet.look(u, t.last.live, now) {
		t.asked++
		return true
	}
	switch {
	case t.squeeze > 0:
		t.squeezedLocked(u)
	case t.quiet.releases(u, t.last.live):
		t.squeezeLocked()
	default:
		t.shrinkLocked(u, now)
	}
	return false
}

// squeezeLocked has the runtime give free memory back.
//
// Its scavenger does so in the background, at about 1 % of a processor, down to a tenth more than the heap
// may grow to. So until free memory is gone the heap may hardly grow.
//
// Do not use debug.FreeOSMemory here: it returns all at once, and a collection that begins meanwhile waits for
// it with the world stopped.
func (t *Tuner) squeezeLocked() {
	t.squeeze, t.free = squeezeLooks, math.MaxUint64
	t.setLocked(gogcFor(t.rt.read(), squeezed))
}

// squeezedLocked ends what squeezeLocked began once free memory is gone or gets no less, traffic comes, or it takes too long.
func (t *Tuner) squeezedLocked(u usage) {
	t.squeeze--
	stuck := u.Free >= t.free
	t.free = u.Free
	if t.squeeze > 0 && !stuck && u.Free >= squeezeTo && t.quiet.looks > 0 {
		return
	}
	t.squeeze = 0
	t.quiet.keeps(u, t.last.live)
	t.tuneLocked(t.rt.read(), uint64(t.opts.MinHeadroom))
}

// shrinkLocked lowers the headroom while collections stay away.
func (t *Tuner) shrinkLocked(u usage, now time.Time) {
	elapsed := now.Sub(t.last.at)
	if elapsed < interval(window, t.last.cost) || t.headroom <= uint64(t.opts.MinHeadroom) {
		return
	}
	want := headroomFor(u.Allocated-t.last.allocated, elapsed, t.last.cost, t.last.live, t.headroom, &t.opts)
	if want*shrinkBy <= t.headroom || want == uint64(t.opts.MinHeadroom) {
		t.tuneLocked(t.rt.read(), want)
	}
}

// wantLocked returns the headroom that suits what was allocated since the last collection.
func (t *Tuner) wantLocked(s Stats, now time.Time) uint64 {
	return headroomFor(s.Allocated-t.last.allocated, now.Sub(t.last.at), t.last.cost, s.Live, t.headroom, &t.opts)
}

// tuneLocked sets GOGC so that the heap may grow by headroom.
func (t *Tuner) tuneLocked(s Stats, headroom uint64) {
	t.headroom = headroom
	want := gogcFor(s, headroom)
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

// Stats returns the figures of this moment.
func (t *Tuner) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.rt.read()
	s.Asked = t.asked
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
