package errlog

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxEvents bounds the kinds of event that are told apart. Event names are constants
// of the program, so this is only reached by a mistake; the kinds beyond it share
// one allowance.
const maxEvents = 1024

// Throttle allows a number of lines a second for each kind of event and counts the
// rest. It is safe for concurrent use, takes no lock and allocates only when it meets
// a kind for the first time.
type Throttle struct {
	rate   uint32
	events atomic.Pointer[map[string]*bucket] // copied on write
	mu     sync.Mutex                         // held while a kind is added
	excess bucket                             // shared by kinds beyond maxEvents
}

// bucket is the allowance of one kind of event.
type bucket struct {
	// window holds the second in its upper half and the lines of that second in its
	// lower half.
	window     atomic.Uint64
	suppressed atomic.Uint64
}

// NewThrottle returns a throttle that allows rate lines a second for each kind of
// event; a rate below 1 is 1.
func NewThrottle(rate int) *Throttle {
	t := &Throttle{rate: uint32(max(1, min(rate, 1<<30)))}
	t.events.Store(&map[string]*bucket{})
	return t
}

// Allow says whether a line for event may be written at time now, and if so how many
// were suppressed since the last one. Those are then forgotten.
func (t *Throttle) Allow(event string, now time.Time) (ok bool, suppressed uint64) {
	b := t.bucket(event)
	second := uint64(uint32(now.Unix()))
	for {
		old := b.window.Load()
		next := second<<32 | 1
		if old>>32 == second {
			if uint32(old) >= t.rate {
				b.suppressed.Add(1)
				return false, 0
			}
			next = old + 1
		}
		if b.window.CompareAndSwap(old, next) {
			return true, b.takeSuppressed()
		}
	}
}

func (b *bucket) takeSuppressed() uint64 {
	if b.suppressed.Load() == 0 {
		return 0
	}
	return b.suppressed.Swap(0)
}

// Drain calls f for each kind of event with suppressed lines, sorted by name, and
// forgets them.
func (t *Throttle) Drain(f func(event string, suppressed uint64)) {
	events := *t.events.Load()
	for _, event := range slices.Sorted(maps.Keys(events)) {
		if n := events[event].takeSuppressed(); n > 0 {
			f(event, n)
		}
	}
	if n := t.excess.takeSuppressed(); n > 0 {
		f("other", n)
	}
}

func (t *Throttle) bucket(event string) *bucket {
	// Fast path: the kind is known.
	if b := (*t.events.Load())[event]; b != nil {
		return b
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.events.Load()
	if b := old[event]; b != nil {
		return b
	}
	if len(old) >= maxEvents {
		return &t.excess
	}
	events := maps.Clone(old)
	b := new(bucket)
	events[event] = b
	t.events.Store(&events)
	return b
}
