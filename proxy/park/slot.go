package park

import (
	"crypto/tls"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"tickgate/internal/sock"
)

// chunkSize is the number of slots that are allocated and returned together. With 256 a
// slab is 20 KiB, a size class of Go's allocator without waste; larger chunks stay
// longer for the sake of one connection.
const chunkSize = 256

// never is the deadline of a slot that has none, or is free.
const never = math.MaxInt64

// maxGen is the last generation; 24 bits fit into a token.
const maxGen = 1<<24 - 1

// slot is a parked connection, without its deadline and its pointers. It takes 72 bytes;
// with the deadline 80, which is all that the lot keeps for a plain connection.
type slot struct {
	id     uint64
	since  int64
	parked int64
	begun  int64
	ip     [16]byte
	fd     int32
	owner  uint32
	served uint32
	gen    uint32 // 0: free
	port   uint16
	next   uint16 // of the chunk's free slots, plus 1; 0 is the end
	phase  Phase
	marks  marks
}

// marks are a slot's flags.
type marks uint8

const (
	isIP    marks = 1 << iota // ip is valid
	isIPv4                    // in four bytes; without it, IPv6 or IPv4 mapped into it
	isZoned                   // the zone is in shard.zones
	// isArming: Park is about to register the descriptor. Until it has, only an event
	// takes the slot out.
	isArming
	// isEvicted: evicted while arming; Park hands it out.
	isEvicted
	isPartial // Conn.Partial
)

// slab is the memory of a chunk. It has no pointers, so the garbage collector does not
// look inside. The deadlines stand apart from the slots since they are what is read often.
type slab struct {
	until [chunkSize]int64
	slots [chunkSize]slot
}

// secure is what a TLS connection keeps.
type secure struct {
	conn *tls.Conn
	seat *sock.Seat
}

// note is what the caller keeps with the connection.
func (s secure) note() any {
	if s.seat == nil {
		return nil
	}
	return s.seat.Note
}

// part is what a connection within a request keeps.
type part struct {
	bytes []byte
	whole int64
}

// chunk is a slab and what belongs to it. Those of a shard are guarded by its lock.
type chunk struct {
	*slab
	used     int
	free     uint16 // the first free slot, plus 1; 0 if it is full
	earliest int64  // no deadline of the chunk is before it; it may itself be too early

	// Side slices, allocated when a slot first needs them and dropped by trim.
	tls     *[chunkSize]secure
	tlsUsed int
	rest    *[chunkSize]part
	resting int // slots with a rest
}

func newChunk() *chunk {
	c := &chunk{slab: new(slab), free: 1, earliest: never}
	for i := range c.slots {
		c.until[i] = never
		c.slots[i].next = uint16(i + 2)
	}
	c.slots[chunkSize-1].next = 0
	return c
}

// put fills a free slot, except for the zone, and returns its place in the chunk.
func (c *chunk) put(conn *Conn, gen uint32) int {
	i := int(c.free) - 1
	s := &c.slots[i]
	c.free = s.next
	c.used++
	*s = slot{
		id: conn.ID, since: conn.Since, parked: int64(conn.Parked), begun: int64(conn.Begun),
		fd: int32(conn.FD), owner: conn.Owner, served: conn.Served, gen: gen, phase: conn.Phase,
	}
	s.setPeer(conn.Peer)
	if conn.Partial {
		s.marks |= isPartial
	}
	if conn.Until != 0 {
		c.until[i] = int64(conn.Until)
		c.earliest = min(c.earliest, c.until[i])
	}
	if conn.TLS != nil || conn.Seat != nil {
		if c.tls == nil {
			c.tls = new([chunkSize]secure)
		}
		c.tls[i] = secure{conn.TLS, conn.Seat}
		c.tlsUsed++
	}
	if conn.Rest != nil {
		if c.rest == nil {
			c.rest = new([chunkSize]part)
		}
		c.rest[i] = part{conn.Rest, int64(conn.Whole)}
		c.resting++
	}
	return i
}

// remove frees a slot and returns what was in it, except for the zone and the loop.
func (c *chunk) remove(i int) Conn {
	s := &c.slots[i]
	conn := Conn{
		FD: int(s.fd), ID: s.id, Peer: s.peer(), Owner: s.owner, Phase: s.phase, Since: s.since, Served: s.served,
		Parked: time.Duration(s.parked), Until: c.deadline(i), Begun: time.Duration(s.begun), Partial: s.marks&isPartial != 0,
	}
	if t := c.secure(i); t != (secure{}) {
		conn.TLS, conn.Seat = t.conn, t.seat
		c.tls[i] = secure{}
		c.tlsUsed--
	}
	if rest := c.restOf(i); rest != nil {
		conn.Rest, conn.Whole = rest, time.Duration(c.rest[i].whole)
		c.rest[i] = part{}
		c.resting--
	}
	*s = slot{next: c.free}
	c.until[i] = never
	c.free = uint16(i + 1)
	c.used--
	return conn
}

// info describes a used slot, except for the zone.
func (c *chunk) info(i int) Info {
	s := &c.slots[i]
	return Info{
		ID: s.id, FD: int(s.fd), Peer: s.peer(), Owner: s.owner, Phase: s.phase, Since: s.since, Served: s.served,
		Parked: time.Duration(s.parked), Until: c.deadline(i), TLS: c.secure(i).conn != nil, Partial: s.marks&isPartial != 0, Rest: len(c.restOf(i)),
		Note: c.secure(i).note(),
	}
}

// deadline is a slot's Conn.Until.
func (c *chunk) deadline(i int) time.Duration {
	if c.until[i] == never {
		return 0
	}
	return time.Duration(c.until[i])
}

func (c *chunk) secure(i int) secure {
	if c.tls == nil {
		return secure{}
	}
	return c.tls[i]
}

func (c *chunk) restOf(i int) []byte {
	if c.rest == nil {
		return nil
	}
	return c.rest[i].bytes
}

// trim drops side slices that nobody uses.
func (c *chunk) trim() {
	if c.tlsUsed == 0 {
		c.tls = nil
	}
	if c.resting == 0 {
		c.rest = nil
	}
}

// setPeer stores an address, all but its zone.
func (s *slot) setPeer(peer netip.AddrPort) {
	s.port = peer.Port()
	addr := peer.Addr()
	if !addr.IsValid() {
		return
	}
	s.ip = addr.As16()
	s.marks |= isIP
	if addr.Is4() {
		s.marks |= isIPv4
	}
	if addr.Zone() != "" {
		s.marks |= isZoned
	}
}

// peer is the address without its zone.
func (s *slot) peer() netip.AddrPort {
	if s.marks&isIP == 0 {
		return netip.AddrPortFrom(netip.Addr{}, s.port)
	}
	addr := netip.AddrFrom16(s.ip)
	if s.marks&isIPv4 != 0 {
		addr = addr.Unmap()
	}
	return netip.AddrPortFrom(addr, s.port)
}

// bitmap is a set of chunk numbers.
type bitmap []uint64

// add puts i into the set, which grows as needed.
func (b *bitmap) add(i int) {
	for i/64 >= len(*b) {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

// remove takes i out, which is no larger than what was once added.
func (b bitmap) remove(i int) { b[i/64] &^= 1 << (i % 64) }

// lowest returns the smallest member, or -1.
func (b bitmap) lowest() int {
	for i, word := range b {
		if word != 0 {
			return 64*i + bits.TrailingZeros64(word)
		}
	}
	return -1
}
