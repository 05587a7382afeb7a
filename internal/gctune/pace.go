package gctune

import "time"

// How much may be allocated between two collections.
const (
	// A busy process collects about this often: the headroom is what is allocated meanwhile. The runtime begins a
	// collection some way before its goal, so collections come more than a second apart.
	window = 1500 * time.Millisecond
	// A collection may come after so many times the processor time that the last one took, so that
	// all of them take a hundredth of one processor, unless the bounds of the headroom forbid it.
	costTimes = 100
	// Rates are not measured over less than this: it would be chance.
	leastElapsed = 100 * time.Millisecond
	// A headroom that shrinks without a collection does so in steps of this factor, as each stops the world.
	shrinkBy = 2
	// One that grows does so at most to this, in percent.
	growTo = 150
)

// Bounds and steps of GOGC.
const (
	// GOGC is left as it is while the one wanted differs by less than this share, in
	// percent, since a change stops the world for some ten microseconds.
	keepWithin = 10
	// Bounds of GOGC. The upper one is for a small heap with a large headroom; the lower one, for one with
	// large stacks, is where collections would take most of a processor.
	minGOGC, maxGOGC = 5, 1_000_000
	// The runtime collects at no less than this many bytes times GOGC/100, whatever is
	// alive (runtime/mgcpacer.go, defaultHeapMinimum).
	heapMinimum = 4 << 20
)

// interval is the time that should pass between two collections of which each takes cost, in
// processor time.
func interval(least, cost time.Duration) time.Duration { return max(least, costTimes*cost) }

// headroomFor returns the bytes that may be allocated until the next collection, if so many were within elapsed and the
// headroom was last.
//
// What is allocated in the window is bounded by max_headroom or headroom_percent. More than that for a dear collection is
// bounded by headroom_percent alone: that of a small heap is dear only where processors are busy with something else.
//
// The headroom grows by half at most, so that a burst gets less than it has allocated, not what it
// might allocate: objects that stay are then spread over less memory, which is never whole again.
func headroomFor(allocated uint64, elapsed, cost time.Duration, live, last uint64, o *Options) uint64 {
	rate := float64(allocated) / max(elapsed, leastElapsed).Seconds()
	share := float64(live) / 100 * float64(o.Headroom)
	want := min(rate*window.Seconds(), max(float64(o.MaxHeadroom), share))
	want = max(want, min(rate*interval(window, cost).Seconds(), share))
	least := uint64(o.MinHeadroom)
	return max(min(uint64(want), max(last, least)/100*growTo), least)
}

// gogcFor returns the GOGC that lets the heap grow by the headroom.
//
// The runtime's goal is, with stacks and globals, live + (live+stacks+globals)·GOGC/100, and at least
// heapMinimum·GOGC/100, which is more than wanted for small heaps unless GOGC is bounded by it.
//
// The memory limit needs no care here: the runtime collects at the lower of this
// goal and the one that the limit leaves, so a large GOGC cannot push memory above the
// limit. Nor is GOGC lowered towards the limit, which would collect before the limit asks for it.
func gogcFor(s Stats, headroom uint64) int {
	gogc := headroom * 100 / max(1, s.Live+s.Stacks+s.Globals)
	gogc = min(gogc, (s.Live+headroom)*100/heapMinimum)
	return int(min(max(gogc, minGOGC), maxGOGC))
}
