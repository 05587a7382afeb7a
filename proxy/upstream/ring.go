package upstream

import (
	"cmp"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// The consistent hash is a ring (Karger et al., 1997; libketama): each backend has
// points on it, and a key belongs to the next point. When a backend goes, only its
// keys move, and they spread over all others; when it comes back, they return.
//
// It is chosen over Maglev's table, which is evener but moves some keys of backends
// that stay, and over rendezvous hashing, which costs a hash for each backend and request.
const (
	// ringPoints are the points of the heaviest backend. A share of k points is off by 1/sqrt(k) (one standard deviation):
	// here 4 %, for a backend of a quarter of the weight 9 %.
	ringPoints = 512
	// maxRingPoints bounds the whole ring; with more backends than it allows for, each has fewer points.
	maxRingPoints = 1 << 16
)

// point is a place on the ring and its owner's index.
type point struct {
	at    uint64
	owner uint32
}

// newRing places the members. A member's points depend on its address, its weight and the weight
// of the heaviest backend of the upstream, so that one that goes down moves no other's.
func newRing(members []member, heaviest int) []point {
	each := min(ringPoints, max(1, maxRingPoints/max(1, len(members))))
	ring := make([]point, 0, each*len(members))
	for i := range members {
		m := &members[i]
		n := max(1, int(math.Round(float64(each)*float64(m.weight)/float64(max(heaviest, m.weight)))))
		seed := xxhash.Sum64String(m.b.label)
		for p := range n {
			ring = append(ring, point{at: mix(seed + uint64(p)*0x9e3779b97f4a7c15), owner: uint32(i)})
		}
	}
	slices.SortFunc(ring, func(a, b point) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		return cmp.Compare(a.owner, b.owner)
	})
	return ring
}

// Hash makes a key for Pick of the bytes that a request is hashed by. It is never
// 0, which means no key.
func Hash(b []byte) uint64 { return max(1, xxhash.Sum64(b)) }

// mix is the finalizer of splitmix64 (Steele, Lea, Flood, 2014): every input bit
// changes about half of the output bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// pickHash returns the member that owns key; if it cannot be used, the next one on
// the ring, which differs from key to key.
func (l *balancer) pickHash(key uint64, avoid *Tried) *member {
	at := l.find(mix(key))
	m := &l.members[l.ring[at].owner]
	if m.usable(avoid) {
		return m
	}
	// Slow path. Walk on; a member that has few points may be far, so end with a scan.
	for i := 1; i < min(len(l.ring), 4*len(l.members)); i++ {
		if m := &l.members[l.ring[(at+i)%len(l.ring)].owner]; m.usable(avoid) {
			return m
		}
	}
	return l.firstUsable(int(mix(key)%uint64(len(l.members))), avoid)
}

// find returns the index of the first point at or after h, around the end.
func (l *balancer) find(h uint64) int {
	lo, hi := 0, len(l.ring)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); l.ring[mid].at < h {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(l.ring) {
		return 0
	}
	return lo
}
