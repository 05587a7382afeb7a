package upstream

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// family is what the Sets of one upstream share: while a reload is under way there are
// two, and requests on old snapshots may use more.
type family struct {
	// Static.
	reg     *Registry
	name    string
	metrics *metrics.Set
	waits   *metrics.Histogram

	renewals     atomic.Uint64 // of TLS files, between two reloads
	renewalFails atomic.Uint64

	mu       sync.Mutex
	sets     map[*Set]struct{}
	backends map[backendKey]*Backend
}

func newFamily(r *Registry, name string) *family {
	f := &family{reg: r, name: name, metrics: metrics.NewSet(), sets: map[*Set]struct{}{}, backends: map[backendKey]*Backend{}}
	f.waits = f.metrics.NewHistogram(fmt.Sprintf(`tickgate_upstream_pool_wait_seconds{upstream=%q}`, name))
	f.metrics.RegisterMetricsWriter(f.writeMetrics)
	return f
}

func (f *family) join(s *Set) {
	f.mu.Lock()
	f.sets[s] = struct{}{}
	f.mu.Unlock()
}

func (f *family) leave(s *Set) {
	f.mu.Lock()
	delete(f.sets, s)
	f.mu.Unlock()
}

func (f *family) unused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sets) == 0
}

// refresh makes every Set choose by the present health of its backends. No lock
// may be held.
func (f *family) refresh() {
	f.mu.Lock()
	sets := make([]*Set, 0, len(f.sets))
	for s := range f.sets {
		sets = append(sets, s)
	}
	f.mu.Unlock()
	for _, s := range sets {
		s.refresh()
	}
}

// acquire returns a reference to a backend, and whether it had to be made.
//
// label is for a new one.
func (f *family) acquire(key backendKey, label string, s *Set, t *target) (b *Backend, made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b = f.backends[key]; b != nil {
		b.refs++
		return b, false
	}
	b = &Backend{
		id: f.reg.nextID.Add(1), fam: f, key: key, refs: 1, network: t.network, address: t.address,
		label: label, conf: key.conf, host: hostHeader(t, key.conf.secure),
	}
	if s.creds != nil {
		b.creds, b.serverName = s.creds, s.serverNameFor(key.server)
	}
	if o := s.cfg.HealthCheck; o != nil && f.reg.opts.Checker != nil {
		b.down.Store(!o.InitiallyUp())
	}
	f.backends[key] = b
	return b, true
}

// release gives a reference back, and closes the backend with the last one. No
// lock may be held.
func (f *family) release(b *Backend) {
	f.mu.Lock()
	b.refs--
	last := b.refs == 0
	if last {
		delete(f.backends, b.key)
	}
	f.mu.Unlock()
	if last {
		b.close()
	}
}

// allBackends returns the backends that some Set has, by label.
func (f *family) allBackends() []*Backend {
	f.mu.Lock()
	list := make([]*Backend, 0, len(f.backends))
	for _, b := range f.backends {
		list = append(list, b)
	}
	f.mu.Unlock()
	slices.SortFunc(list, func(a, b *Backend) int {
		if c := strings.Compare(a.label, b.label); c != 0 {
			return c
		}
		return int(a.id) - int(b.id)
	})
	return list
}

// writeMetrics writes the series that are read off the backends when they are
// asked for, so a backend that goes takes its series with it.
func (f *family) writeMetrics(w io.Writer) {
	s := f.reg.Set(f.name)
	if s == nil {
		return
	}
	for _, b := range s.Backends() {
		labels := fmt.Sprintf(`upstream=%q,backend=%q`, f.name, b.label)
		up := uint64(0)
		if b.Up() {
			up = 1
		}
		metrics.WriteGaugeUint64(w, "tickgate_upstream_backend_up{"+labels+"}", up)
		metrics.WriteGaugeFloat64(w, "tickgate_upstream_inflight{"+labels+"}", float64(b.InFlight()))
		metrics.WriteGaugeFloat64(w, "tickgate_upstream_tunnels{"+labels+"}", float64(b.Tunnels()))
		var dials, failures uint64
		for _, p := range b.allPools() {
			st := p.Stats()
			dials += st.Dials
			failures += st.DialFailures
			writePoolMetrics(w, fmt.Sprintf(`%s,tag=%q`, labels, st.Tag), &st)
		}
		metrics.WriteCounterUint64(w, "tickgate_upstream_dials_total{"+labels+`,result="ok"}`, dials)
		metrics.WriteCounterUint64(w, "tickgate_upstream_dials_total{"+labels+`,result="failed"}`, failures)
		if b.TLS() {
			metrics.WriteCounterUint64(w, "tickgate_upstream_tls_handshakes_total{"+labels+`,resumed="false"}`, b.full.Load())
			metrics.WriteCounterUint64(w, "tickgate_upstream_tls_handshakes_total{"+labels+`,resumed="true"}`, b.resumed.Load())
		}
	}
	if s.creds != nil {
		s.creds.writeMetrics(w)
	}
	allowed, denied := s.budget.Counts()
	metrics.WriteCounterUint64(w, fmt.Sprintf(`tickgate_upstream_retry_budget_total{upstream=%q,result="allowed"}`, f.name), allowed)
	metrics.WriteCounterUint64(w, fmt.Sprintf(`tickgate_upstream_retry_budget_total{upstream=%q,result="denied"}`, f.name), denied)
}

func writePoolMetrics(w io.Writer, labels string, st *PoolStats) {
	for _, g := range []struct {
		state string
		n     int
	}{{"idle", st.Idle}, {"in_use", st.InUse}, {"waiting", st.Waiting}} {
		metrics.WriteGaugeUint64(w, fmt.Sprintf(`tickgate_upstream_pool_connections{%s,state=%q}`, labels, g.state), uint64(g.n))
	}
	metrics.WriteCounterUint64(w, "tickgate_upstream_pool_rejected_total{"+labels+"}", st.Rejected)
	metrics.WriteCounterUint64(w, "tickgate_upstream_pool_stale_total{"+labels+"}", st.Stale)
}
