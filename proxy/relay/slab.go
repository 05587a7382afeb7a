package relay

import (
	"net/netip"
	"time"

	"tickgate/internal/reason"
)

const (
	// pageSlots is how many slots are allocated at once: a page is exactly 32 KiB, a size
	// class of Go's allocator.
	pageSlots = 1 << pageBits
	pageBits  = 8

	// arenaItems is the same for what stands beside the slots.
	arenaItems = 32
)

// side is one of a tunnel's ends. A direction is named by the side that the bytes come
// from.
type side uint8

const (
	client side = iota
	backend
)

func (d side) other() side { return d ^ 1 }

// sideFlags are the state of one side.
type sideFlags uint16

const (
	readable  sideFlags = 1 << iota // there may be bytes to read
	hup                             // read until the end or EAGAIN: a short read proves nothing
	finSeen                         // the peer ended in order, as far as the kernel said
	ended                           // nothing more will be read
	fin                             // after the queue, the end is to be passed on to this side
	shut                            // that was done
	dead                            // takes no bytes any more: what is for it is dropped
	paused                          // not read, as the other side's queue is full
	delayed                         // not read, as it is over its rate
	swallow                         // read, but not passed on
	mute                            // not inspected any more
	byeWanted                       // a Close frame is to be sent to it at the next boundary
	byeSent                         // a Close frame was sent or passed on to it
	byeSeen                         // a Close frame came from it
	secure                          // TLS
	large                           // waits for Trim after a large read

	stopped = ended | paused | delayed
)

// slotFlags are the state of a tunnel.
type slotFlags uint16

const (
	used     slotFlags = 1 << iota
	framed             // Policy.Mode is Frames
	deflate            // permessage-deflate was negotiated
	closing            // the relay ends the tunnel; why says for what reason
	lasting            // closing, and the client has answered
	queued             // Again was called
	draining           // a member of a drain
	peerV4             // kinds of addresses
	peerV6
	peerZone // in slab.zones
	stubbed  // has a stub or an owner
)

// slot is a tunnel. It holds no pointers, so that the collector does not look at it.
type slot struct {
	id     uint64
	peer   [16]byte
	since  int64         // Unix nanoseconds; 0 is none
	opened int64         // Unix nanoseconds
	born   time.Duration // times of the loop
	last   time.Duration // when the last byte came
	// closeBy is when the tunnel is closed, answered or not; 0 is not yet.
	closeBy time.Duration
	bytes   [2]uint64 // read from each side
	fd      [2]int32
	gen     uint32 // 0 while free
	policy  uint32 // in loop.policies; the next free slot while free
	labels  uint32 // in loop.labels
	queues  uint32 // in the arena of that name; 0 is none
	tls     uint32
	frames  uint32
	f       [2]sideFlags
	flags   slotFlags
	port    uint16
	jitter  uint16
	code    uint16        // of the first Close frame
	why     reason.Reason // why it ends, once it does
	first   uint8         // 1 + the side that ended first; 0 is none
}

// page is pageSlots slots and, only if a tunnel there has them, stubs and owners.
type page struct {
	slots *[pageSlots]slot
	extra *[pageSlots]extra
	used  int
	free  uint32 // 1 + index in slots; 0 is none
}

// extra is the caller's.
type extra struct {
	stub  []byte
	owner any
}

// slab is the slots of one loop.
type slab struct {
	pages []page
	low   int // no page before has a free slot
	gen   uint32
	spare *[pageSlots]slot
	zones map[uint32]string // of IPv6 peers, which hardly ever have one
}

// at returns slot i, nil if its page is not there. The slot may be free.
func (sl *slab) at(i uint32) *slot {
	p := i >> pageBits
	if p >= uint32(len(sl.pages)) || sl.pages[p].slots == nil {
		return nil
	}
	return &sl.pages[p].slots[i%pageSlots]
}

// alloc returns a zeroed slot with a new generation.
func (sl *slab) alloc() (uint32, *slot) {
	for sl.low < len(sl.pages) && sl.pages[sl.low].slots != nil && sl.pages[sl.low].free == 0 {
		sl.low++
	}
	if sl.low == len(sl.pages) {
		sl.pages = append(sl.pages, page{})
	}
	p := &sl.pages[sl.low]
	if p.slots == nil {
		sl.fill(p)
	}
	i := p.free - 1
	s := &p.slots[i]
	p.free = s.policy
	p.used++
	sl.gen = sl.gen%0xffffff + 1 // never 0
	*s = slot{gen: sl.gen, flags: used}
	return uint32(sl.low)<<pageBits | i, s
}

// fill gives a page its slots, all free.
func (sl *slab) fill(p *page) {
	p.slots, sl.spare = sl.spare, nil
	if p.slots == nil {
		p.slots = new([pageSlots]slot)
	}
	for i := range p.slots {
		p.slots[i] = slot{policy: uint32(i) + 2}
	}
	p.slots[pageSlots-1].policy = 0
	p.free = 1
}

// release frees slot i, and its page if it was the last there. Tokens with its
// generation are stale from now on.
func (sl *slab) release(i uint32) {
	n := int(i >> pageBits)
	p := &sl.pages[n]
	s := &p.slots[i%pageSlots]
	if s.flags&peerZone != 0 {
		delete(sl.zones, i)
	}
	if s.flags&stubbed != 0 {
		p.extra[i%pageSlots] = extra{}
	}
	*s = slot{policy: p.free}
	p.free = i%pageSlots + 1
	p.used--
	sl.low = min(sl.low, n)
	if p.used == 0 {
		sl.spare = p.slots
		*p = page{}
	}
}

// setExtra keeps what is the caller's.
func (sl *slab) setExtra(i uint32, s *slot, e extra) {
	if e.stub == nil && e.owner == nil {
		return
	}
	p := &sl.pages[i>>pageBits]
	if p.extra == nil {
		p.extra = new([pageSlots]extra)
	}
	p.extra[i%pageSlots] = e
	s.flags |= stubbed
}

func (sl *slab) getExtra(i uint32, s *slot) extra {
	if s.flags&stubbed == 0 {
		return extra{}
	}
	return sl.pages[i>>pageBits].extra[i%pageSlots]
}

// setPeer packs an address, which as a netip.AddrPort has a pointer.
func (sl *slab) setPeer(i uint32, s *slot, peer netip.AddrPort) {
	a := peer.Addr()
	switch {
	case a.Is4():
		s.flags |= peerV4
	case a.IsValid():
		s.flags |= peerV6
	default:
		return
	}
	s.peer, s.port = a.As16(), peer.Port()
	if a.Zone() == "" {
		return
	}
	if sl.zones == nil {
		sl.zones = map[uint32]string{}
	}
	sl.zones[i] = a.Zone()
	s.flags |= peerZone
}

func (sl *slab) getPeer(i uint32, s *slot) netip.AddrPort {
	a := netip.AddrFrom16(s.peer)
	switch {
	case s.flags&peerV4 != 0:
		a = a.Unmap()
	case s.flags&peerZone != 0:
		a = a.WithZone(sl.zones[i])
	case s.flags&peerV6 == 0:
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, s.port)
}

// arena is items that slots refer to by number.
type arena[T any] struct {
	pages []*[arenaItems]T
	free  []uint32
}

// get returns item n, which is not 0.
func (a *arena[T]) get(n uint32) *T { return &a.pages[(n-1)/arenaItems][(n-1)%arenaItems] }

func (a *arena[T]) alloc() (uint32, *T) {
	if len(a.free) == 0 {
		first := uint32(len(a.pages)*arenaItems) + 1
		a.pages = append(a.pages, new([arenaItems]T))
		for i := range uint32(arenaItems) {
			a.free = append(a.free, first+arenaItems-1-i)
		}
	}
	n := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	return n, a.get(n)
}

// release frees item n and drops its pointers.
func (a *arena[T]) release(n uint32) {
	var zero T
	*a.get(n) = zero
	a.free = append(a.free, n)
}

// interner numbers pointers that many slots share, and counts how many do.
type interner[K, V any] struct {
	entries []entry[K, V]
	index   map[*K]uint32
	free    []uint32
	derive  func(*K) V
}

type entry[K, V any] struct {
	key   *K
	value V
	refs  int
}

// take returns k's number, for one more slot.
func (in *interner[K, V]) take(k *K) uint32 {
	if n, ok := in.index[k]; ok {
		in.entries[n].refs++
		return n
	}
	e := entry[K, V]{key: k, refs: 1}
	if in.derive != nil {
		e.value = in.derive(k)
	}
	if in.index == nil {
		in.index = map[*K]uint32{}
	}
	n := uint32(len(in.entries))
	if last := len(in.free) - 1; last >= 0 {
		n = in.free[last]
		in.free = in.free[:last]
		in.entries[n] = e
	} else {
		in.entries = append(in.entries, e)
	}
	in.index[k] = n
	return n
}

// leave takes one slot's reference back. The last makes the number free.
func (in *interner[K, V]) leave(n uint32) {
	e := &in.entries[n]
	e.refs--
	if e.refs == 0 {
		delete(in.index, e.key)
		*e = entry[K, V]{}
		in.free = append(in.free, n)
	}
}
