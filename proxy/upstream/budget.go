package upstream

import (
	"sync/atomic"
	"time"
)

// budgetWindow is the time over which a retry budget looks back.
const budgetWindow = 10 * time.Second

// budgetSlots is the number of one-second slots: more than the window, so that a
// goroutine that was stopped between reading the time and counting does not hit a slot in use.
const budgetSlots = 16

// Budget allows retries as a share of the requests of the last ten seconds, and a
// few each second whatever the share, so that retries help when one backend fails
// and do not multiply the load when all do. It is safe for concurrent use; its methods take the time, cost a few atomic
// operations and allocate nothing.
type Budget struct {
	percent uint64
	min     uint64
	// Each slot is one second: its number modulo 2^22, retries (18 bits), requests (24 bits).
	// A number that repeats after 48 days finds a slot that old only if no request came in between.
	slots [budgetSlots]atomic.Uint64

	allowed atomic.Uint64
	denied  atomic.Uint64
}

// Layout of a slot.
const (
	requestBits = 24
	retryBits   = 18
	oneRequest  = 1
	oneRetry    = 1 << requestBits
	epochShift  = requestBits + retryBits
	epochMask   = 1<<(64-epochShift) - 1
)

// NewBudget returns a budget of percent of the requests and at least minPerSecond retries each second.
func NewBudget(percent, minPerSecond int) *Budget {
	return &Budget{percent: uint64(max(0, percent)), min: uint64(max(0, minPerSecond))}
}

func slotRequests(v uint64) uint64 { return v & (1<<requestBits - 1) }
func slotRetries(v uint64) uint64  { return v >> requestBits & (1<<retryBits - 1) }

// epochOf is the number of a second as slots hold it; 0 is left to unused slots.
func epochOf(sec int64) uint64 { return uint64(sec) & epochMask }

// slot returns the slot of a second, emptied if it still held an older one.
func (b *Budget) slot(sec int64) (*atomic.Uint64, uint64) {
	s := &b.slots[uint64(sec)%budgetSlots]
	for {
		v := s.Load()
		if v>>epochShift == epochOf(sec) {
			return s, v
		}
		if fresh := epochOf(sec) << epochShift; s.CompareAndSwap(v, fresh) {
			return s, fresh
		}
	}
}

// Request counts a request (not its retries).
func (b *Budget) Request(now time.Time) {
	s, v := b.slot(now.Unix())
	if slotRequests(v) < 1<<requestBits-1<<10 { // saturate, with room for concurrent adds
		s.Add(oneRequest)
	}
}

// AllowRetry reports whether one more request may be retried now, and counts the
// retry if so.
func (b *Budget) AllowRetry(now time.Time) bool {
	sec := now.Unix()
	for {
		s, v := b.slot(sec)
		requests, retries := b.before(sec)
		requests += slotRequests(v)
		retries += slotRetries(v)
		if slotRetries(v) >= b.min && retries*100+100 > requests*b.percent || slotRetries(v) == 1<<retryBits-1 {
			b.denied.Add(1)
			return false
		}
		if s.CompareAndSwap(v, v+oneRetry) {
			b.allowed.Add(1)
			return true
		}
	}
}

// before sums the seconds of the window before sec.
func (b *Budget) before(sec int64) (requests, retries uint64) {
	for old := sec - int64(budgetWindow/time.Second) + 1; old < sec; old++ {
		v := b.slots[uint64(old)%budgetSlots].Load()
		if v>>epochShift == epochOf(old) {
			requests += slotRequests(v)
			retries += slotRetries(v)
		}
	}
	return requests, retries
}

// Counts returns the retries allowed and denied so far.
func (b *Budget) Counts() (allowed, denied uint64) { return b.allowed.Load(), b.denied.Load() }
