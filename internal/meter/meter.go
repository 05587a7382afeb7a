package meter

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/internal/reason"
)

// Unrouted is the route label of requests that ended before a route was found.
const Unrouted = "unrouted"

// Meter holds all metrics of one gateway. It is safe for concurrent use.
type Meter struct {
	// Static after construction.

	// FDs counts the open file descriptors by kind; their owners keep it up to date.
	FDs FDs
	// Unrouted counts the requests that ended before a route was found.
	Unrouted *Route

	version  string
	reasons  []reason.Reason
	shards   []*shard
	nearest  sync.Pool // of *shard: see enter
	next     atomic.Uint32
	connEnds []atomic.Uint64 // by reason
	// tunnelEnds counts the ends of tunnels of all routes, by reason.
	tunnelEnds []atomic.Uint64
	tls        tlsCounters
	reload     reloadState
	set        *metrics.Set // what other parts register

	// flowMu guards Tunnel.shown; it is held while a Source is asked, never inside mu.
	flowMu sync.Mutex

	mu sync.Mutex
	// Guarded by mu.
	routes    map[string]*Route
	listeners map[string]*Conns
	tunnels   map[string]*Tunnel // by route
	source    Source
	sets      []*metrics.Set
	descs     map[string]Desc
}

// New returns the metrics of a gateway of the given version, all at 0.
func New(version string) *Meter {
	m := &Meter{
		version:   version,
		reasons:   reason.All(),
		set:       metrics.NewSet(),
		routes:    make(map[string]*Route),
		listeners: make(map[string]*Conns),
		tunnels:   make(map[string]*Tunnel),
		descs:     make(map[string]Desc),
	}
	m.sets = []*metrics.Set{m.set}
	m.tls.init()
	m.connEnds = make([]atomic.Uint64, len(m.reasons))
	m.tunnelEnds = make([]atomic.Uint64, len(m.reasons))
	for i := range runtime.GOMAXPROCS(0) {
		m.shards = append(m.shards, &shard{index: i, ends: make([]uint64, len(m.reasons))})
	}
	m.nearest.New = m.assignShard
	m.Describe(Metrics...)
	m.Unrouted = m.Route(Unrouted)
	return m
}

// Set returns a set for metrics of other parts that live as long as the gateway.
func (m *Meter) Set() *metrics.Set { return m.set }

// CounterFunc adds a counter whose value f returns. Give name its labels with Label.
func (m *Meter) CounterFunc(name string, f func() uint64) {
	m.set.RegisterMetricsWriter(func(w io.Writer) { metrics.WriteCounterUint64(w, name, f()) })
}

// AddSet adds a set whose metrics are written too, such as those of one upstream.
func (m *Meter) AddSet(s *metrics.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets = append(m.sets, s)
}

// RemoveSet takes out a set that AddSet added, and with it all its series.
func (m *Meter) RemoveSet(s *metrics.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, have := range m.sets {
		if have == s {
			// A new slice, since WritePrometheus may be reading the old one.
			m.sets = append(append([]*metrics.Set(nil), m.sets[:i]...), m.sets[i+1:]...)
			return
		}
	}
}

// Describe adds what is known about metrics that other parts register, so that their
// HELP and TYPE are written.
func (m *Meter) Describe(descs ...Desc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range descs {
		m.descs[d.Name] = d
	}
}

// reloadState is what is told about reloads.
type reloadState struct {
	generation atomic.Uint64
	ok, failed atomic.Uint64
	lastFailed atomic.Bool
	lastOK     atomic.Int64 // Unix time in nanoseconds
}

// Loaded notes that the snapshot of the given generation is in use since now. The first
// load, at start, is not a reload.
func (m *Meter) Loaded(generation uint64, now time.Time) {
	r := &m.reload
	if r.lastOK.Swap(now.UnixNano()) != 0 {
		r.ok.Add(1)
	}
	r.generation.Store(generation)
	r.lastFailed.Store(false)
}

// ReloadFailed notes that a reload was refused and the old snapshot stays.
func (m *Meter) ReloadFailed() {
	m.reload.failed.Add(1)
	m.reload.lastFailed.Store(true)
}
