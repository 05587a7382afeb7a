package park

import (
	"net/netip"
	"sync"
	"time"

	"tickgate/proxy/reactor"
)

const (
	// expireBatch is how many connections expire in one go, before the loop's other work
	// has its turn; then the next ones.
	expireBatch = 128

	// trimInterval is the time between two looks for memory to return. A chunk that is
	// emptied and filled again within it is kept.
	trimInterval = 5 * time.Second
)

// shard holds the connections of one loop and is its handler.
//
// A slot's way: fill makes it complete and marks it as arming; Park registers the
// descriptor; settle takes the mark off. Whoever gives the connection away takes the
// slot out under the lock first, found by the generation of its token, and so is the only
// one. No system call is made and nothing foreign called under the lock.
type shard struct {
	// Static.
	lot  *Lot
	loop *reactor.Loop
	goOn func() // expires the next batch

	// Owned by the loop.
	expired []Conn // taken out, not yet handed out; empty between calls
	trimAt  time.Duration

	mu     sync.Mutex
	closed bool              // guarded by mu, like all below
	chunks []*chunk          // nil where a chunk was returned
	roomy  bitmap            // chunks that have a free slot, or are nil
	gen    uint32            // of the slot that was filled last
	zones  map[uint32]string // zones of IPv6 peers by slot index
	count  [phases]int
}

func newShard(l *Lot, loop *reactor.Loop) *shard {
	s := &shard{lot: l, loop: loop, zones: map[uint32]string{}}
	s.goOn = func() { s.expire(s.loop.Now()) }
	return s
}

// fill puts a connection into a slot, arming. !ok: the loop has ended.
func (s *shard) fill(c *Conn) (t reactor.Token, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, false
	}
	n := s.roomyChunkLocked()
	ch := s.chunks[n]
	s.gen = s.gen%maxGen + 1
	i := ch.put(c, s.gen)
	ch.slots[i].marks |= isArming
	if ch.free == 0 {
		s.roomy.remove(n)
	}
	index := uint32(n*chunkSize + i)
	if zone := c.Peer.Addr().Zone(); zone != "" {
		s.zones[index] = zone
	}
	s.count[c.Phase]++
	return reactor.MakeToken(reactor.Park, index, s.gen), true
}

// roomyChunkLocked returns the number of the first chunk with a free slot: filling from
// the front empties chunks at the back after a peak.
func (s *shard) roomyChunkLocked() int {
	n := s.roomy.lowest()
	if n < 0 {
		n = len(s.chunks)
		s.chunks = append(s.chunks, nil)
		s.roomy.add(n)
	}
	if s.chunks[n] == nil {
		s.chunks[n] = newChunk()
	}
	return n
}

// slotLocked returns the slot that a token names, or !ok if it is no longer that one.
func (s *shard) slotLocked(t reactor.Token) (n, i int, ok bool) {
	n, i = int(t.Index()/chunkSize), int(t.Index()%chunkSize)
	if t.Gen() == 0 || n >= len(s.chunks) || s.chunks[n] == nil {
		return 0, 0, false
	}
	return n, i, s.chunks[n].slots[i].gen == t.Gen()
}

// takeLocked empties a slot.
func (s *shard) takeLocked(n, i int) Conn {
	ch := s.chunks[n]
	zoned := ch.slots[i].marks&isZoned != 0
	c := ch.remove(i)
	if zoned {
		index := uint32(n*chunkSize + i)
		c.Peer = withZone(c.Peer, s.zones[index])
		delete(s.zones, index)
	}
	c.Loop = s.loop
	s.roomy.add(n)
	s.count[c.Phase]--
	return c
}

func withZone(p netip.AddrPort, zone string) netip.AddrPort {
	return netip.AddrPortFrom(p.Addr().WithZone(zone), p.Port())
}

// take empties the slot that a token names. evicted: that was promised to an Evict.
func (s *shard) take(t reactor.Token) (c Conn, evicted, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, i, ok := s.slotLocked(t)
	if !ok {
		return Conn{}, false, false
	}
	evicted = s.chunks[n].slots[i].marks&isEvicted != 0
	return s.takeLocked(n, i), evicted, true
}

// settle ends arming. If the connection was evicted meanwhile, it is handed out.
func (s *shard) settle(t reactor.Token) {
	if c, evicted := s.settled(t); evicted {
		s.handOver(c)
	}
}

// handOver gives an evicted connection away on the loop, as the caller of Park does not
// expect Wake under its feet. It is apart from settle since c moves to the heap here.
func (s *shard) handOver(c Conn) {
	if !s.loop.Post(func() { s.lot.wake(c, Evicted) }) {
		s.lot.wake(c, Evicted)
	}
}

// settled is settle under the lock.
func (s *shard) settled(t reactor.Token) (c Conn, evicted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, i, ok := s.slotLocked(t)
	if !ok {
		return Conn{}, false // an event came first
	}
	marks := &s.chunks[n].slots[i].marks
	*marks &^= isArming
	if *marks&isEvicted == 0 {
		return Conn{}, false
	}
	return s.takeLocked(n, i), true
}

// evict hands out the connection that a token names, or has Park do it if it is arming.
// It returns false if someone else has it.
func (s *shard) evict(t reactor.Token) bool {
	c, found, mine := s.evicted(t)
	if mine {
		s.lot.wake(c, Evicted)
	}
	return found
}

// evicted is evict under the lock.
func (s *shard) evicted(t reactor.Token) (c Conn, found, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, i, ok := s.slotLocked(t)
	if !ok {
		return Conn{}, false, false
	}
	marks := &s.chunks[n].slots[i].marks
	switch {
	case *marks&isEvicted != 0:
		return Conn{}, false, false // promised to another Evict
	case *marks&isArming != 0:
		*marks |= isEvicted
		return Conn{}, true, false
	default:
		return s.takeLocked(n, i), true, true
	}
}

// Ready is reactor.Handler's: an event on a parked connection.
func (s *shard) Ready(t reactor.Token, ev reactor.Event) {
	c, evicted, ok := s.take(t)
	switch {
	case !ok: // stale: it was handed out before the event came
	case evicted:
		s.lot.wake(c, Evicted)
	case ev&(reactor.PeerClosed|reactor.Failed) != 0 && drained(c.FD):
		s.lot.wake(c, Gone)
	default:
		s.lot.wake(c, Ready)
	}
}

// Tick is reactor.Handler's.
func (s *shard) Tick(now time.Duration) {
	s.expire(now)
	if now >= s.trimAt {
		s.trimAt = now + trimInterval
		s.trim()
	}
}

// expire hands out connections whose deadline has passed, at most expireBatch before the
// loop does something else.
func (s *shard) expire(now time.Duration) {
	more := s.takeExpired(int64(now))
	for len(s.expired) > 0 {
		// Off the list first: should Wake panic, the others have their turn at the next tick.
		last := len(s.expired) - 1
		c := s.expired[last]
		s.expired[last] = Conn{}
		s.expired = s.expired[:last]
		s.lot.wake(c, Expired)
	}
	if more {
		s.loop.Post(s.goOn) // after Close it is not needed: Closing gives up all
	}
}

// takeExpired fills s.expired. more: there are others.
func (s *shard) takeExpired(now int64) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, ch := range s.chunks {
		// Fast path, for nearly all chunks: one comparison for 256 connections.
		if ch == nil || ch.earliest > now {
			continue
		}
		if !s.expireChunkLocked(n, now) {
			return true
		}
	}
	return false
}

// expireChunkLocked takes the expired connections of a chunk. It returns false if the
// batch is full before all were seen.
func (s *shard) expireChunkLocked(n int, now int64) bool {
	ch := s.chunks[n]
	earliest := int64(never)
	for i, until := range ch.until {
		switch {
		case until > now, ch.slots[i].marks&isArming != 0: // arming: at the next tick
			earliest = min(earliest, until)
		case len(s.expired) == expireBatch:
			return false
		default:
			s.expired = append(s.expired, s.takeLocked(n, i))
		}
	}
	ch.earliest = earliest
	return true
}

// trim returns chunks without connections.
func (s *shard) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, ch := range s.chunks {
		switch {
		case ch == nil:
		case ch.used == 0:
			s.chunks[n] = nil
		default:
			ch.trim()
		}
	}
	n := len(s.chunks)
	for n > 0 && s.chunks[n-1] == nil {
		n--
		s.roomy.remove(n)
	}
	s.chunks = s.chunks[:n]
	if len(s.zones) == 0 {
		s.zones = map[uint32]string{} // a map does not shrink
	}
}

// Closing is reactor.Handler's: all connections are handed out as Evicted. Those that are
// arming follow when their Park settles.
func (s *shard) Closing() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var views []view
	for n := 0; ; n++ {
		var more bool
		if views, more = s.look(n, views[:0]); !more {
			return
		}
		for i := range views {
			s.evict(views[i].token)
		}
	}
}

// view is an Info and the token to take the connection with.
type view struct {
	Info
	token reactor.Token
}

// look appends the connections of chunk n to views. !more: there are no chunks from n on.
func (s *shard) look(n int, views []view) (_ []view, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= len(s.chunks) {
		return views, false
	}
	ch := s.chunks[n]
	if ch == nil {
		return views, true
	}
	for i := range ch.slots {
		sl := &ch.slots[i]
		if sl.gen == 0 || sl.marks&isEvicted != 0 {
			continue
		}
		index := uint32(n*chunkSize + i)
		v := view{ch.info(i), reactor.MakeToken(reactor.Park, index, sl.gen)}
		if sl.marks&isZoned != 0 {
			v.Peer = withZone(v.Peer, s.zones[index])
		}
		views = append(views, v)
	}
	return views, true
}

// find returns the token of the connection with an ID.
func (s *shard) find(id uint64) (t reactor.Token, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, ch := range s.chunks {
		if ch == nil {
			continue
		}
		for i := range ch.slots {
			if sl := &ch.slots[i]; sl.gen != 0 && sl.id == id {
				return reactor.MakeToken(reactor.Park, uint32(n*chunkSize+i), sl.gen), true
			}
		}
	}
	return 0, false
}

func (s *shard) counts() [phases]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
