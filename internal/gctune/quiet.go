package gctune

import "time"

// When a quiet process is collected, and its memory given back.
const (
	// How often the tuner looks. A look takes some microseconds and allocates nothing.
	lookEvery = time.Second
	// A process that allocates less than this from one look to the next, for so many looks, is quiet.
	// One that allocates more collects by itself soon enough.
	quietStep, quietLooks = 1 << 20, 3
	// Garbage is worth a collection if it is more than this, and more than this share of what is alive, in percent.
	notableBytes, notablePercent = 2 << 20, 5
	// A time without traffic gets so many collections, since a sync.Pool lets go of what it holds in the second one,
	// and the runtime returns memory of a piece of the heap that was full only in the cycle after.
	quietCycles = 2
	// Collections that are asked for come no sooner after each other, whatever they cost.
	leastBetween = 5 * time.Second
	// Less free memory than this is left to the runtime's own ways, and for so many looks it is waited for.
	squeezeTo, squeezeLooks = 256 << 10, 10
)

// usage is what a look sees.
type usage struct {
	// Allocated is all bytes ever allocated; Free those that hold nothing and are not given back.
	Allocated, Free uint64
	// Stacks is the memory set aside for stacks, those of ended goroutines counted until a collection.
	Stacks     uint64
	Goroutines uint64
}

// quiet decides when a process without traffic is collected. It is no more than its fields: what it
// says depends on what it is told.
type quiet struct {
	allocated  uint64    // by the last look
	accounted  uint64    // allocations up to here have had their collections or are owed them
	goroutines uint64    // most since the last collection
	looks      int       // quiet ones in a row
	owed       int       // collections still wanted
	asked      time.Time // the last one; zero if there was none
}

// notable reports whether n bytes are worth a collection.
func notable(n, live uint64) bool {
	return n > notableBytes && n > live/100*notablePercent
}

// look tells q what was seen, and reports whether a collection is wanted. live and cost are those of the last one.
func (q *quiet) look(u usage, live uint64, cost time.Duration, now time.Time) bool {
	if u.Allocated-q.allocated < quietStep {
		q.looks++
	} else {
		q.looks = 0
	}
	q.allocated = u.Allocated
	if notable(u.Allocated-q.accounted, live) {
		q.accounted, q.owed = u.Allocated, quietCycles
	}
	q.goroutines = max(q.goroutines, u.Goroutines)
	if ended := q.goroutines - u.Goroutines; ended > 0 && notable(uint64(float64(u.Stacks)*float64(ended)/float64(q.goroutines)), live) {
		q.owed = max(q.owed, 1)
	}
	if q.owed == 0 || q.looks < quietLooks || !q.asked.IsZero() && now.Sub(q.asked) < interval(leastBetween, cost) {
		return false
	}
	q.owed--
	q.asked = now
	return true
}

// collected tells q that a collection found live bytes alive where the one before had found more or less.
func (q *quiet) collected(before, live, goroutines uint64) {
	q.goroutines = goroutines
	if live < before && notable(before-live, live) {
		// What has died is given back after the next one, and may have held more.
		q.owed = max(q.owed, 1)
	}
}
