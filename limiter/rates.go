package limiter

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultRateKeys takes 1.1 MB.
	defaultRateKeys = 1 << 16

	// rateWays is how many keys meet in one set. Eight fill two cache lines.
	rateWays = 8
)

// Rates limits how often something happens for each of very many keys, such as handshakes by client address. Every
// key has a bucket of Burst, which PerSecond refill, in the form of the generic cell rate algorithm (ITU-T I.371 annex A): all
// that is kept of a bucket is the time at which it will be full again.
//
// Memory is fixed, whatever peers do: Keys buckets in sets of eight, and a key has its bucket in the set that a
// keyed hash chooses, so that nobody can aim at a set. A bucket that is full is as good as none, so a new key takes its place
// and nothing is lost. Only where all eight are in use does a new key displace one that is not full: the fullest, and it takes
// that bucket over as it is (as counters in Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k
// Elements in Data Streams, ICDT 2005). So a key that was displaced and comes back finds a bucket at most as full as
// the one it lost:
//
//   - no key ever gets more than its rate, and an abuser gains nothing by pushing its own entry out with others;
//   - a key in a crowded set may get less. None does before the keys of its set together use eight times the rate, which for
//     all sets is Keys times the rate. Neither failing open nor one bucket for all that find no place would give both.
//
// Allow takes one lock, of the set, does not allocate, and looks at eight entries.
type Rates struct {
	keys      int
	seed      maphash.Seed
	plan      atomic.Pointer[ratePlan] // nil is no limit
	displaced atomic.Uint64

	mu sync.Mutex // one SetOptions at a time
}

// ratePlan is the options in force, with the buckets that those before them had.
type ratePlan struct {
	interval time.Duration // that refills one
	depth    time.Duration // that refills an empty bucket
	sets     []rateSet
}

// rateSet is the buckets of the keys that hash to it.
type rateSet struct {
	mu   sync.Mutex
	keys [rateWays]uint64        // guarded by mu
	full [rateWays]time.Duration // guarded by mu; when the bucket will be full again; past or 0 is free
}

// NewRates returns a limiter in which every bucket is full. o.Keys stays as it is over later SetOptions.
func NewRates(o RateOptions) *Rates {
	r := &Rates{keys: o.Keys, seed: maphash.MakeSeed()}
	if r.keys <= 0 {
		r.keys = defaultRateKeys
	}
	r.SetOptions(o, 0)
	return r
}

// SetOptions changes rate and burst. What is missing in buckets is kept as the time that it takes to refill, at most
// that of an empty bucket under the new options. While there is no limit there are no buckets, and no memory is taken.
// It looks at all buckets: it is for a reload.
func (r *Rates) SetOptions(o RateOptions, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.PerSecond <= 0 {
		r.plan.Store(nil)
		return
	}
	next := &ratePlan{interval: max(1, time.Second/time.Duration(o.PerSecond))}
	next.depth = next.interval * time.Duration(max(1, o.Burst))
	old := r.plan.Load()
	if old == nil {
		next.sets = make([]rateSet, (r.keys+rateWays-1)/rateWays)
		r.plan.Store(next)
		return
	}
	next.sets = old.sets
	r.plan.Store(next)
	if next.depth < old.depth {
		for i := range next.sets {
			next.sets[i].refill(now + next.depth)
		}
	}
}

// refill has no bucket of the set be full later than latest.
func (s *rateSet) refill(latest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.full {
		s.full[i] = min(s.full[i], latest)
	}
}

// Displaced returns how often a key took over the bucket of another that was not full, since the start. Where
// that is often, there are too few Keys for the clients.
func (r *Rates) Displaced() uint64 { return r.displaced.Load() }

// AllowAddr is Allow for the client of an address: one IPv4 address or one IPv6 /64. A Unix socket has none and no
// limit.
func (r *Rates) AllowAddr(addr netip.Addr, now time.Duration) bool {
	return !addr.IsValid() || r.Allow(clientKey(addr), now)
}

// AllowText is Allow for a text, by its hash.
func (r *Rates) AllowText(text string, now time.Duration) bool {
	return r.Allow(maphash.String(r.seed, text), now)
}

// Allow takes one out of key's bucket and returns true, or false if the bucket is empty. now is
// the time on any clock that never goes back, the same for all calls.
func (r *Rates) Allow(key uint64, now time.Duration) bool {
	p := r.plan.Load()
	if p == nil {
		return true
	}
	set := &p.sets[maphash.Comparable(r.seed, key)%uint64(len(p.sets))]
	set.mu.Lock()
	defer set.mu.Unlock()
	i := set.findLocked(key)
	full := max(set.full[i], now) + p.interval
	if full > now+p.depth {
		return false
	}
	if set.keys[i] != key {
		if set.full[i] > now {
			r.displaced.Add(1)
		}
		set.keys[i] = key
	}
	set.full[i] = full
	return true
}

// findLocked returns the bucket of key, or the fullest, which is the one to take if there is none.
func (s *rateSet) findLocked(key uint64) int {
	fullest := 0
	for i, k := range s.keys {
		if k == key {
			return i
		}
		if s.full[i] < s.full[fullest] {
			fullest = i
		}
	}
	return fullest
}
