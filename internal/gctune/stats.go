package gctune

import (
	"math"
	"runtime/metrics"
	"time"
)

// Stats is the garbage collector at one moment.
type Stats struct {
	// Live is the bytes found alive by the last collection, Goal the heap at which the next one ends.
	Live, Goal uint64
	// Stacks and Globals are what a collection looks through besides.
	Stacks, Globals uint64
	// Total is all memory that the runtime has from the system, Releasable the part of it that holds nothing.
	Total, Releasable uint64
	// GOGC is the one in force, -1 if off. Limit is the memory limit, math.MaxInt64 if there is none.
	GOGC  int
	Limit int64
	// Allocated is all bytes ever allocated.
	Allocated uint64
	// Goroutines is how many there are.
	Goroutines uint64
	// Cycles counts collections, Forced those of them that were asked for, and Asked those that this
	// package asked for in a quiet process. All since the start.
	Cycles, Forced, Asked uint64
	// PauseP50, PauseP99 and PauseMax bound from above the times that collections stopped
	// the world since the start.
	PauseP50, PauseP99, PauseMax time.Duration
	// GCCPU and BusyCPU are the CPU seconds spent on collections and on everything, idling
	// left out, as of the last collection.
	GCCPU, BusyCPU float64
	// AllGCCPU is GCCPU and what collections took of processors that had nothing else to do.
	AllGCCPU float64
}

// Limited reports whether the memory limit makes collections more frequent than GOGC would.
func (s *Stats) Limited() bool {
	if s.GOGC < 0 {
		return s.Limit < math.MaxInt64
	}
	percent := uint64(s.GOGC)
	return s.Goal < max(s.Live+s.Live*percent/100, heapMinimum*percent/100)
}

// GCFraction is the share of the CPU time that went into collections.
func (s *Stats) GCFraction() float64 {
	if s.BusyCPU <= 0 {
		return 0
	}
	return s.GCCPU / s.BusyCPU
}

// collector is the runtime, or a test's.
//
// look costs a hundredth of read. collect, spent and arm are called by the tuner's goroutine alone, the others under its lock.
type collector interface {
	read() Stats
	look() usage
	setGOGC(n int)
	setLimit(max int64)
	collect()
	spent() time.Duration // CPU time of which that of collect is a part
	arm(cycles chan<- struct{})
}

// Indices of runtimeCollector.samples.
const (
	live = iota
	goal
	stacks
	globals
	total
	free
	released
	gogc
	limit
	cycles
	forced
	pauses
	gcCPU
	allCPU
	idleCPU
	gcIdleCPU
	allocated
	goroutines

	numSamples
)

var sampleNames = [numSamples]string{
	live:      "/gc/heap/live:bytes",
	goal:      "/gc/heap/goal:bytes",
	stacks:    "/gc/scan/stack:bytes",
	globals:   "/gc/scan/globals:bytes",
	total:     "/memory/classes/total:bytes",
	free:      "/memory/classes/heap/free:bytes",
	released:  "/memory/classes/heap/released:bytes",
	gogc:      "/gc/gogc:percent",
	limit:     "/gc/gomemlimit:bytes",
	cycles:    "/gc/cycles/total:gc-cycles",
	forced:    "/gc/cycles/forced:gc-cycles",
	pauses:    "/sched/pauses/total/gc:seconds",
	gcCPU:     "/cpu/classes/gc/total:cpu-seconds",
	allCPU:    "/cpu/classes/total:cpu-seconds",
	idleCPU:   "/cpu/classes/idle:cpu-seconds",
	gcIdleCPU: "/cpu/classes/gc/mark/idle:cpu-seconds",

	allocated:  "/gc/heap/allocs:bytes",
	goroutines: "/sched/goroutines:goroutines",
}

// Indices of runtimeCollector.few.
const (
	fewAllocated = iota
	fewFree
	fewStacks
	fewGoroutines
	fewCycles

	numFew
)

var fewNames = [numFew]string{
	fewAllocated:  "/gc/heap/allocs:bytes",
	fewFree:       "/memory/classes/heap/free:bytes",
	fewStacks:     "/memory/classes/heap/stacks:bytes",
	fewGoroutines: "/sched/goroutines:goroutines",
	fewCycles:     "/gc/cycles/total:gc-cycles",
}

// runtimeCollector is the runtime of this process.
type runtimeCollector struct {
	samples [numSamples]metrics.Sample
	few     [numFew]metrics.Sample
}

func newRuntime() *runtimeCollector {
	r := &runtimeCollector{}
	for i, name := range sampleNames {
		r.samples[i].Name = name
	}
	for i, name := range fewNames {
		r.few[i].Name = name
	}
	return r
}

func (r *runtimeCollector) read() Stats {
	metrics.Read(r.samples[:])
	hist := r.samples[pauses].Value.Float64Histogram()
	return Stats{
		Live: r.uint(live), Goal: r.uint(goal), Stacks: r.uint(stacks), Globals: r.uint(globals),
		Total: r.uint(total) - r.uint(released), Releasable: r.uint(free),
		GOGC: int(r.uint(gogc)), Limit: int64(r.uint(limit)),
		Cycles: r.uint(cycles), Forced: r.uint(forced),
		PauseP50: quantile(hist, 0.5), PauseP99: quantile(hist, 0.99), PauseMax: quantile(hist, 1),
		Allocated: r.uint(allocated), Goroutines: r.uint(goroutines),
		GCCPU:    r.float(gcCPU) - r.float(gcIdleCPU),
		BusyCPU:  r.float(allCPU) - r.float(idleCPU) - r.float(gcIdleCPU),
		AllGCCPU: r.float(gcCPU),
	}
}

func (r *runtimeCollector) look() usage {
	metrics.Read(r.few[:])
	return usage{
		Allocated: r.few[fewAllocated].Value.Uint64(), Free: r.few[fewFree].Value.Uint64(),
		Stacks: r.few[fewStacks].Value.Uint64(), Goroutines: r.few[fewGoroutines].Value.Uint64(), Cycles: r.few[fewCycles].Value.Uint64(),
	}
}

func (r *runtimeCollector) uint(i int) uint64   { return r.samples[i].Value.Uint64() }
func (r *runtimeCollector) float(i int) float64 { return r.samples[i].Value.Float64() }

// quantile returns the upper bound of the bucket that holds the q-quantile, or its
// lower one if it has none above.
func quantile(h *metrics.Float64Histogram, q float64) time.Duration {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	if n == 0 {
		return 0
	}
	rank, seen := uint64(math.Ceil(q*float64(n))), uint64(0)
	for i, c := range h.Counts {
		if seen += c; seen < rank {
			continue
		}
		bound := h.Buckets[i+1]
		if math.IsInf(bound, 0) {
			bound = h.Buckets[i]
		}
		return time.Duration(bound * float64(time.Second))
	}
	return 0
}
