package gctune

import "time"

// When a quiet process is collected, and its memory given back.
const (
	// How often the tuner looks. A look takes some microseconds and allocates nothing.
	lookEvery = time.Second
	// A process that allocates less than this from one look to the next, for so many looks, is quiet.
	// One that allocates more collects by itself soon enough.
	quietStep, quietLooks = 1 << 20, 3
	// Garbage is worth a collection, and free memory to be given back, if it is more than this, and more than this share of
	// what is alive, in percent.
	notableBytes, notablePercent = 512 << 10, 5
	// So many collections are made in a row: two, since a sync.Pool lets go of what it holds in the second one, and a
	// third if that one did, since the runtime returns memory of a piece of the heap that was full only after the next.
	leastCycles, mostCycles = 2, 3
	// Collections are asked for no sooner again, whatever they cost. Looks come late at times, hence not 5 s.
	leastBetween = 4500 * time.Millisecond
	// While free memory is given back the heap may grow by this.
	squeezed = 512 << 10
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
	// Cycles counts collections.
	Cycles uint64
}

// quiet decides when a process without traffic is collected. It is no more than its fields: what it
// says depends on what it is told.
type quiet struct {
	allocated  uint64        // by the last look
	accounted  uint64        // allocations up to here have had their collections, or these are wanted
	goroutines uint64        // most since the last collection
	looks      int           // quiet ones in a row
	left       uint64        // free memory that could not be given back the last time
	wanted     bool          // there is something to collect
	asked      time.Time     // for the last time; zero if never
	cost       time.Duration // CPU time of the collections that were asked for then
}

// notable reports whether n bytes are worth a collection.
func notable(n, live uint64) bool {
	return n > notableBytes && n > live/100*notablePercent
}

// look tells q what was seen, and reports whether to collect. So much is alive as live says.
func (q *quiet) look(u usage, live uint64, now time.Time) bool {
	if u.Allocated-q.allocated < quietStep {
		q.looks++
	} else {
		q.looks = 0
	}
	q.allocated = u.Allocated
	q.goroutines = max(q.goroutines, u.Goroutines)
	q.wanted = q.wanted || notable(u.Allocated-q.accounted, live) || notable(q.deadStacks(u), live)
	if !q.wanted || q.looks < quietLooks || !q.asked.IsZero() && now.Sub(q.asked) < interval(leastBetween, q.cost) {
		return false
	}
	q.wanted = false
	q.accounted = u.Allocated
	q.asked = now
	return true
}

// releases reports whether there is free memory to be given back without a collection, such as stacks of
// goroutines that ended.
func (q *quiet) releases(u usage, live uint64) bool {
	q.left = min(q.left, u.Free)
	return q.looks >= quietLooks && notable(u.Free-q.left, live)
}

// keeps tells q what was still free when the runtime had given back what it would. If that is more
// than the last time it may be of pieces of the heap that were full, so a collection is wanted.
func (q *quiet) keeps(u usage, live uint64) {
	q.left = min(q.left, u.Free)
	q.wanted = q.wanted || notable(u.Free-q.left, live)
	q.left = u.Free
}

// deadStacks estimates the stacks of goroutines that ended since the last collection.
func (q *quiet) deadStacks(u usage) uint64 {
	if q.goroutines == 0 {
		return 0
	}
	return uint64(float64(u.Stacks) * float64(q.goroutines-u.Goroutines) / float64(q.goroutines))
}

// collected tells q of a collection that was not asked for, after which so much is alive and was before it.
func (q *quiet) collected(before, live uint64) {
	// What has died is given back only after one more.
	q.wanted = q.wanted || live < before && notable(before-live, live)
}
