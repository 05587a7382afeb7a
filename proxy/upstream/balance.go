package upstream

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// MaxTried is how many backends a Tried remembers: as many as retry.attempts may be.
const MaxTried = 10

// Tried is the set of backends that a request has failed on. The zero value is empty.
type Tried struct {
	n   uint8
	ids [MaxTried]uint32
}

// Add puts b into the set. What goes beyond MaxTried is not remembered.
func (t *Tried) Add(b *Backend) {
	if int(t.n) < len(t.ids) {
		t.ids[t.n] = b.id
		t.n++
	}
}

// Has reports whether b is in the set. A nil set is empty.
func (t *Tried) Has(b *Backend) bool {
	if t == nil {
		return false
	}
	for _, id := range t.ids[:t.n] {
		if id == b.id {
			return true
		}
	}
	return false
}

// Len is the number of backends in the set.
func (t *Tried) Len() int {
	if t == nil {
		return 0
	}
	return int(t.n)
}

// member is a backend with what the configuration says of it in one Set.
type member struct {
	b           *Backend
	weight      int
	maxInFlight int64 // 0 is no limit
}

// usable reports whether m can get a request now.
func (m *member) usable(avoid *Tried) bool {
	return (m.maxInFlight == 0 || m.b.inflight.Load() < m.maxInFlight) && !avoid.Has(m.b)
}

// balancer is an immutable list of backends that are up and not drained, ordered
// for one policy. Members that are full or tried are passed over at each pick.
type balancer struct {
	policy  policy
	members []member
	sums    []uint64 // sums[i] is the weight of members[:i+1]
	turns   []uint32 // round robin: members in the order of their turns
	ring    []point  // hash

	// Shared with the balancers before and after this one in its place.
	turn      *atomic.Uint64
	retryTurn *atomic.Uint64
	rand      func() uint64
	since     func() time.Duration
}

// policy is a way to choose among backends.
type policy uint8

const (
	roundRobin policy = iota
	leastConn
	powerOfTwo
	consistentHash
	random
)

func policyOf(balance string) policy {
	switch balance {
	case "least_conn":
		return leastConn
	case "p2c":
		return powerOfTwo
	case "hash":
		return consistentHash
	case "random":
		return random
	default:
		return roundRobin
	}
}

// prepare computes what the policy needs. heaviest is the largest weight in the
// whole upstream, whether up or not.
func (l *balancer) prepare(heaviest int) {
	l.sums = make([]uint64, len(l.members))
	sum := uint64(0)
	for i := range l.members {
		sum += uint64(l.members[i].weight)
		l.sums[i] = sum
	}
	switch l.policy {
	case roundRobin:
		l.turns = smoothTurns(l.members)
	case consistentHash:
		l.ring = newRing(l.members, heaviest)
	}
}

// pick chooses a usable member, or nil.
func (l *balancer) pick(key uint64, avoid *Tried) *member {
	switch n := len(l.members); {
	case n == 0:
		return nil
	case n == 1:
		return l.only(avoid)
	}
	switch l.policy {
	case leastConn:
		return l.pickLeast(avoid)
	case powerOfTwo:
		return l.pickTwo(avoid)
	case consistentHash:
		if key != 0 {
			return l.pickHash(key, avoid)
		}
		return l.pickRandom(avoid)
	case random:
		return l.pickRandom(avoid)
	default:
		return l.pickTurn(avoid)
	}
}

func (l *balancer) only(avoid *Tried) *member {
	if m := &l.members[0]; m.usable(avoid) {
		return m
	}
	return nil
}

// pickTurn is smooth weighted round robin. Retries take turns of their own: with two
// members, of which one is dead, every request would begin at the dead one otherwise.
func (l *balancer) pickTurn(avoid *Tried) *member {
	turn := l.turn
	if avoid.Len() > 0 {
		turn = l.retryTurn
	}
	n := uint64(len(l.turns))
	// The first turn nearly always serves. A member that is passed over forfeits its turn;
	// if the next one got it without losing its own, it would have two shares while the other is full.
	for range min(n, 2*uint64(len(l.members))) {
		at := (turn.Add(1) - 1) % n
		if m := &l.members[l.turns[at]]; m.usable(avoid) {
			return m
		}
	}
	// Slow path: a light member may be far off in a long schedule.
	return l.firstUsable(int(turn.Load()%uint64(len(l.members))), avoid)
}

func (l *balancer) firstUsable(from int, avoid *Tried) *member {
	for i := range l.members {
		if m := &l.members[(from+i)%len(l.members)]; m.usable(avoid) {
			return m
		}
	}
	return nil
}

// pickLeast chooses the member with the fewest requests in flight for its weight.
// Equal ones take turns, as the scan begins at another one each time.
func (l *balancer) pickLeast(avoid *Tried) *member {
	from := int(l.turn.Add(1)-1) % len(l.members)
	var best *member
	var bestLoad int64
	for i := range l.members {
		at := from + i
		if at >= len(l.members) {
			at -= len(l.members)
		}
		m := &l.members[at]
		n := m.b.load() + 1
		// n/weight < bestLoad/best.weight, without division
		if (best == nil || n*int64(best.weight) < bestLoad*int64(m.weight)) && m.usable(avoid) {
			best, bestLoad = m, n
		}
	}
	if best == nil {
		l.turn.Add(^uint64(0)) // not a turn: with two members, every other one would always be the same
	}
	return best
}

// pickRandom chooses by weight.
func (l *balancer) pickRandom(avoid *Tried) *member {
	if m := &l.members[l.draw(l.rand())]; m.usable(avoid) {
		return m
	}
	return l.drawUsable(avoid, nil)
}

// draw maps a random number to a member by weight.
func (l *balancer) draw(r uint64) int {
	r = scale(r, l.sums[len(l.sums)-1])
	lo, hi := 0, len(l.sums)-1
	for lo < hi {
		if mid := (lo + hi) / 2; l.sums[mid] > r {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// drawUsable chooses by weight among the usable members other than not.
func (l *balancer) drawUsable(avoid *Tried, not *member) *member {
	total := uint64(0)
	for i := range l.members {
		if m := &l.members[i]; m != not && m.usable(avoid) {
			total += uint64(m.weight)
		}
	}
	if total == 0 {
		return nil
	}
	r := scale(l.rand(), total)
	var last *member
	for i := range l.members {
		m := &l.members[i]
		if m == not || !m.usable(avoid) {
			continue
		}
		w := uint64(m.weight)
		if r < w {
			return m
		}
		r -= w
		last = m // for the case that a member became full between the two passes
	}
	return last
}

// pickTwo draws two members by weight and takes the one with the lower load. Unequal
// weights are drawn with replacement, so that equal loads give each member its share:
// of two members both would be drawn each time otherwise, and the weights be lost. Two
// random choices come close to the best of all, without the herd that runs to the
// best one when its figures are old (Mitzenmacher, "The Power of Two Choices in
// Randomized Load Balancing", 1996).
func (l *balancer) pickTwo(avoid *Tried) *member {
	a := l.pickRandom(avoid)
	if a == nil {
		return nil
	}
	var b *member
	if l.uneven() {
		b = l.pickRandom(avoid)
	} else {
		b = l.second(a, avoid)
	}
	if b == nil {
		return a
	}
	now := l.since()
	if b.load(now) < a.load(now) {
		return b
	}
	return a
}

// uneven reports whether weights differ.
func (l *balancer) uneven() bool {
	n := uint64(len(l.members))
	return l.sums[n-1] != n*uint64(l.members[0].weight)
}

// second draws a member other than first: by trial, which is cheap unless one member has
// nearly all the weight, then exactly.
func (l *balancer) second(first *member, avoid *Tried) *member {
	for range 3 {
		if m := &l.members[l.draw(l.rand())]; m != first && m.usable(avoid) {
			return m
		}
	}
	return l.drawUsable(avoid, first)
}

func (m *member) load(now time.Duration) float64 {
	return load(m.b.ewma.value(now), m.b.load(), m.weight)
}

// scale maps a random 64-bit number evenly to [0, n).
func scale(r, n uint64) uint64 {
	hi, _ := bits.Mul64(r, n)
	return hi
}

// maxTurns bounds the schedule of round robin. A longer one is shortened by scaling
// the weights down, which changes a share by less than a thousandth of the heaviest.
const maxTurns = 1 << 16

// smoothTurns returns one period of smooth weighted round robin, as nginx does it
// (commit 52327e0): each turn every member gains its weight, the one with the most is chosen and loses the
// sum. So that heavy members do not get their turns in a row, weights 5, 1, 1 give
// a a b a c a a.
//
// A precomputed period makes a pick one atomic add and two loads, where the live
// algorithm takes a lock and a pass over all members (BenchmarkPick).
func smoothTurns(members []member) []uint32 {
	weights, sum := scaledWeights(members)
	current := make([]int, len(weights))
	turns := make([]uint32, 0, sum)
	for range sum {
		best := 0
		for i, w := range weights {
			current[i] += w
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= sum
		turns = append(turns, uint32(best))
	}
	return turns
}

// scaledWeights divides the weights by their greatest common divisor, and scales
// them down if their sum is still above maxTurns.
func scaledWeights(members []member) (weights []int, sum int) {
	div := 0
	for i := range members {
		div = gcd(div, members[i].weight)
	}
	weights = make([]int, len(members))
	for i := range members {
		weights[i] = members[i].weight / div
		sum += weights[i]
	}
	if sum <= maxTurns {
		return weights, sum
	}
	shrink := float64(maxTurns) / float64(sum)
	sum = 0
	for i, w := range weights {
		weights[i] = max(1, int(math.Round(float64(w)*shrink)))
		sum += weights[i]
	}
	return weights, sum
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return max(1, a)
}
