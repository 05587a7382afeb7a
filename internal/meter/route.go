package meter

import (
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/reason"
)

// Phases says where the time of one request went. A phase that did not take place is 0.
type Phases struct {
	Queue     time.Duration // wait for a worker
	Pool      time.Duration // wait for a free backend connection
	DNS       time.Duration // lookup of the backend's name
	Dial      time.Duration // TCP connection to the backend
	TLS       time.Duration // TLS handshake with the backend
	FirstByte time.Duration // from the request's last byte sent to the response's first
	Transfer  time.Duration // from there to the end of the response
	Total     time.Duration // from the request's first byte to the end of the response
	// Fresh is set if the request opened a backend connection. DNS, Dial and TLS are not
	// looked at otherwise.
	Fresh bool
}

// phase indexes the histograms of tickgate_request_phase_seconds.
type phase int

const (
	phaseQueue phase = iota
	phasePool
	phaseDNS
	phaseDial
	phaseTLS
	phaseFirstByte
	phaseTransfer
	numPhases
)

var phaseWords = [numPhases]string{"queue", "pool", "dns", "dial", "tls", "first_byte", "transfer"}

// numClasses is the number of status classes, 1xx to 5xx; the class after them is that of
// requests without a response.
const numClasses = 5

var classWords = [numClasses + 1]string{"1xx", "2xx", "3xx", "4xx", "5xx", "none"}

func classOf(status int) int {
	if status < 100 || status > 599 {
		return numClasses
	}
	return status/100 - 1
}

// shard is one of as many sets of counters as there are processors. A processor keeps to
// its shard, so that the mutex is free and the counters are in its cache.
type shard struct {
	index int

	mu sync.Mutex
	// Guarded by mu, as are the cells of all routes with this index.
	ends   []uint64 // by reason
	phases [numPhases]histogram

	_ [64]byte // keeps the next allocation off this cache line
}

// cell is what one shard holds of a route. It is guarded by that shard's mutex.
type cell struct {
	ok       [numClasses]uint64 // requests that ended well, by status class
	in, out  uint64
	duration histogram

	_ [64]byte
}

// Route counts the requests of one route.
type Route struct {
	// Static after construction.
	meter *Meter
	name  string
	cells []cell // by shard
	// rare holds the pairs of status class and reason other than a response with reason OK.
	// They are made when they first occur, and bounded by the number of such pairs.
	rare []atomic.Pointer[atomic.Uint64]

	refs int // guarded by meter.mu
}

// Route returns the metrics of the route called name, which are shared by all snapshots
// that have such a route. Each call must be followed by one of Retire.
func (m *Meter) Route(name string) *Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.routes[name]
	if r == nil {
		r = &Route{
			meter: m,
			name:  name,
			cells: make([]cell, len(m.shards)),
			rare:  make([]atomic.Pointer[atomic.Uint64], (numClasses+1)*len(m.reasons)),
		}
		m.routes[name] = r
	}
	r.refs++
	return r
}

// Retire says that a snapshot with this route is gone. With the last one the series of the
// route go too. Requests that still end on it are lost from its counters, but not from
// those of the whole gateway.
func (r *Route) Retire() {
	m := r.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	r.refs--
	if r.refs < 0 {
		panic("BUG: meter: route " + r.name + " retired more often than acquired")
	}
	if r.refs == 0 {
		delete(m.routes, r.name)
	}
}

// assignShard deals shards out in turn to processors that have none.
func (m *Meter) assignShard() any {
	return m.shards[m.next.Add(1)%uint32(len(m.shards))]
}

// enter returns the shard of this processor, locked. A sync.Pool remembers it: the pool
// keeps its items by processor, and since they all point to the same few shards nothing is
// allocated when it forgets.
func (m *Meter) enter() *shard {
	s := m.nearest.Get().(*shard)
	s.mu.Lock()
	return s
}

func (m *Meter) leave(s *shard) {
	s.mu.Unlock()
	m.nearest.Put(s)
}

// Done counts a request that ended with the given status (0 if there was no response) and
// reason, and the body bytes received from (in) and sent to (out) the client. A nil p keeps it
// out of the latency histograms, as is right for upgraded connections. It does not allocate,
// but for the first request of a rare kind.
func (r *Route) Done(status int, why reason.Reason, p *Phases, in, out int64) {
	class := classOf(status)
	usual := why == reason.OK && class < numClasses

	s := r.meter.enter()
	c := &r.cells[s.index]
	if usual {
		c.ok[class]++
	}
	c.in += uint64(max(in, 0))
	c.out += uint64(max(out, 0))
	if int(why) < len(s.ends) {
		s.ends[why]++
	}
	if p != nil {
		c.duration.add(p.Total)
		s.addPhases(p)
	}
	r.meter.leave(s)

	if !usual && int(why) < len(r.meter.reasons) {
		r.rareCounter(class, why).Add(1)
	}
}

func (s *shard) addPhases(p *Phases) {
	s.addPhase(phaseQueue, p.Queue)
	s.addPhase(phasePool, p.Pool)
	s.addPhase(phaseFirstByte, p.FirstByte)
	s.addPhase(phaseTransfer, p.Transfer)
	if p.Fresh {
		s.addPhase(phaseDNS, p.DNS)
		s.addPhase(phaseDial, p.Dial)
		s.addPhase(phaseTLS, p.TLS)
	}
}

func (s *shard) addPhase(i phase, d time.Duration) {
	if d > 0 {
		s.phases[i].add(d)
	}
}

func (r *Route) rareCounter(class int, why reason.Reason) *atomic.Uint64 {
	p := &r.rare[class*len(r.meter.reasons)+int(why)]
	if c := p.Load(); c != nil {
		return c
	}
	p.CompareAndSwap(nil, new(atomic.Uint64))
	return p.Load()
}

// Requests returns the number of requests that have ended since the start.
func (m *Meter) Requests() uint64 {
	total := uint64(0)
	for _, s := range m.shards {
		s.mu.Lock()
		for _, n := range s.ends {
			total += n
		}
		s.mu.Unlock()
	}
	return total
}
