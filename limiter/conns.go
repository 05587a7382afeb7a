package limiter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Verdict is the answer to a new connection.
type Verdict uint8

const (
	// OK admits the connection; a Release must follow.
	OK Verdict = iota
	// TooMany refuses it: connections.max is reached.
	TooMany
	// TooManyPerClient refuses it: connections.max_per_client is reached for its address.
	TooManyPerClient
)

// String returns the snake_case word used in metrics, logs and tests.
func (v Verdict) String() string {
	switch v {
	case OK:
		return "ok"
	case TooMany:
		return "too_many"
	case TooManyPerClient:
		return "too_many_per_client"
	}
	return "unknown"
}

const (
	// connShards is a power of two, large enough that accept loops on different
	// processors seldom meet at one lock.
	connShards = 64

	// A shard whose map once held this many clients is rebuilt when an eighth is
	// left, since a Go map never gives memory back by itself.
	shrinkAbove = 512
	shrinkShare = 8
)

// Conns caps open client connections, in all and per client. A client is one IPv4
// address (also when it is mapped into IPv6) or one IPv6 /64, the smallest network
// that a site gets, so that hopping through one's own /64 gains nothing.
//
// Every connection is counted per client even while max_per_client is off, so that
// a reload that sets it applies to what is open. Memory is bounded by the open
// connections: a client's entry goes away with its last one.
type Conns struct {
	// Static after construction.

	// mul spreads clients over shards; it is random so that nobody can choose
	// addresses that all meet at one lock.
	mul uint64

	// Changed by SetOptions.

	max, maxPerClient atomic.Int64

	open   atomic.Int64
	shards [connShards]connShard
}

// connShard counts the connections of the clients that hash to it.
type connShard struct {
	mu     sync.Mutex
	counts map[uint64]uint32 // guarded by mu
	peak   int               // guarded by mu; most entries since counts was made

	_ [40]byte // one cache line each
}

// NewConns returns a cap with no connection open.
func NewConns(o Connections) *Conns {
	c := &Conns{mul: rand.Uint64() | 1}
	for i := range c.shards {
		c.shards[i].counts = make(map[uint64]uint32)
	}
	c.SetOptions(o)
	return c
}

// SetOptions changes the caps; counts are kept. A lowered cap closes nothing: it
// refuses new connections until enough of the old ones are gone.
func (c *Conns) SetOptions(o Connections) {
	c.max.Store(int64(o.Max))
	c.maxPerClient.Store(int64(o.MaxPerClient))
}

// Acquire counts a connection from addr and admits it, or refuses it and counts
// nothing. The zero addr, of a Unix socket, has no client and counts only in all.
// It does not allocate unless addr is a client not seen at the moment.
func (c *Conns) Acquire(addr netip.Addr) Verdict {
	if !c.acquireAny() {
		return TooMany
	}
	if !addr.IsValid() {
		return OK
	}
	if !c.acquireClient(clientKey(addr)) {
		c.open.Add(-1)
		return TooManyPerClient
	}
	return OK
}

// Claim counts a connection that was acquired for the zero addr as one of addr's client from now
// on, so that the Release has to be for addr. It says OK or TooManyPerClient; then nothing changes.
func (c *Conns) Claim(addr netip.Addr) Verdict {
	if addr.IsValid() && !c.acquireClient(clientKey(addr)) {
		return TooManyPerClient
	}
	return OK
}

// acquireAny loops instead of adding and taking back, since a refused connection
// counted for a moment could push out one that has a place.
func (c *Conns) acquireAny() bool {
	for {
		n, limit := c.open.Load(), c.max.Load()
		if limit > 0 && n >= limit {
			return false
		}
		if c.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (c *Conns) acquireClient(key uint64) bool {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	n := sh.counts[key]
	if limit := c.maxPerClient.Load(); limit > 0 && int64(n) >= limit {
		return false
	}
	sh.counts[key] = n + 1
	sh.peak = max(sh.peak, len(sh.counts))
	return true
}

// Release gives back what Acquire admitted for addr.
func (c *Conns) Release(addr netip.Addr) {
	if addr.IsValid() {
		c.releaseClient(clientKey(addr))
	}
	if c.open.Add(-1) < 0 {
		panic("BUG: limiter: Release without Acquire")
	}
}

func (c *Conns) releaseClient(key uint64) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch n := sh.counts[key]; n {
	case 0:
		panic("BUG: limiter: Release of a client without Acquire")
	case 1:
		delete(sh.counts, key)
		sh.shrinkLocked()
	default:
		sh.counts[key] = n - 1
	}
}

// shrinkLocked gives memory back after a flood of distinct clients.
func (sh *connShard) shrinkLocked() {
	if sh.peak < shrinkAbove || len(sh.counts) > sh.peak/shrinkShare {
		return
	}
	smaller := make(map[uint64]uint32, len(sh.counts))
	for k, n := range sh.counts {
		smaller[k] = n
	}
	sh.counts, sh.peak = smaller, len(smaller)
}

// Open returns the connections open now.
func (c *Conns) Open() int { return int(c.open.Load()) }

// OpenFrom returns the connections open now from addr's client.
func (c *Conns) OpenFrom(addr netip.Addr) int {
	if !addr.IsValid() {
		return 0
	}
	key := clientKey(addr)
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return int(sh.counts[key])
}

// Clients returns the clients with a connection open now. It visits every shard:
// it is for a scrape, not for a request.
func (c *Conns) Clients() int {
	n := 0
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		n += len(sh.counts)
		sh.mu.Unlock()
	}
	return n
}

func (c *Conns) shard(key uint64) *connShard {
	return &c.shards[key*c.mul>>58]
}

// clientKey is the upper half of an IPv6 address, or an IPv4 address in the same
// space as 0:ffff:a.b::/64. No IPv6 client comes from there: RFC 4291 section 4
// reserves 0000::/8.
func clientKey(addr netip.Addr) uint64 {
	if addr.Is4() || addr.Is4In6() {
		b := addr.As4()
		return 0xffff<<32 | uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:8])
}
