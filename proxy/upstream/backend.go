package upstream

import (
	"crypto/tls"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/config"
	"tickgate/health"
)

// HealthTarget is what a Checker probes.
type HealthTarget struct {
	// Network is "tcp", "tcp4", "tcp6" or "unix".
	Network string
	// Address is host:port, or the path of a Unix socket.
	Address string
	// Host is the Host header unless the check's options give one.
	Host string
	// TLS returns how to talk to the backend from now on, with its ServerName; it is to be asked for each connection, as certificates are
	// renewed. It is nil for plain backends.
	TLS func() *tls.Config
}

// Checker probes backends. The integrator adapts a health.Checker to it.
type Checker interface {
	// Watch probes t until stop is called, and calls onChange for every change of state, with the cause in words. The state
	// before the first call is o.Initial. onChange may be called until stop returns.
	Watch(t HealthTarget, o *health.Options, onChange func(up bool, cause string)) (stop func())
}

// connSettings is everything that decides how a backend is connected to. Backends
// are kept over a reload only if it is the same, so it is comparable.
type connSettings struct {
	pool        config.Pool
	dialTimeout time.Duration
	tlsTimeout  time.Duration
	secure      bool
	tls         config.BackendTLS // without Watch, which is no matter of connections
}

// backendKey identifies a backend within its upstream.
type backendKey struct {
	server  string // as configured
	network string
	address string // as dialled
	conf    connSettings
}

// Backend is one address that requests are forwarded to. It lives as long as a Set
// has it, over reloads.
type Backend struct {
	// Static.
	id      uint32 // unique in the process; never 0
	fam     *family
	key     backendKey
	label   string // the `backend` label of metrics, unique within the upstream
	network string
	address string
	host    string
	conf    connSettings
	creds   *credentials // nil without TLS

	serverName string // that the backend's certificate is verified against

	secured  atomic.Pointer[clientTLS] // made when first needed
	inflight atomic.Int64
	tunnels  atomic.Int64
	ewma     ewma
	full     atomic.Uint64 // TLS handshakes of connections, without those of probes
	resumed  atomic.Uint64
	down     atomic.Bool
	tags     atomic.Pointer[[]*Pool] // by Tag; nil where no request of that tag came yet

	// Guarded by fam.mu.
	refs int

	mu       sync.Mutex
	closed   bool
	check    *health.Options
	stop     func()
	watchGen uint64 // a probe result of an earlier watch is ignored
	change   HealthChange
}

// HealthChange is the last change of a backend's health.
type HealthChange struct {
	At    time.Time `json:"at"`
	Up    bool      `json:"up"`
	Cause string    `json:"cause"`
}

// Address is where connections go: host:port, or the path of a Unix socket.
func (b *Backend) Address() string { return b.address }

// Network is "tcp", "tcp4", "tcp6" or "unix".
func (b *Backend) Network() string { return b.network }

// Server is the address of the configuration that the backend comes from.
func (b *Backend) Server() string { return b.key.server }

// Host is the value for a Host header that names the backend: the host and port of the configured address, without the scheme's
// default port; the target's for SRV records; "localhost" for Unix sockets.
func (b *Backend) Host() string { return b.host }

// Upstream is the name of the upstream that the backend belongs to.
func (b *Backend) Upstream() string { return b.fam.name }

// Label is the backend's label in metrics and logs: its address, made unique within the upstream.
func (b *Backend) Label() string { return b.label }

// TLS reports whether the backend is talked to over TLS.
func (b *Backend) TLS() bool { return b.creds != nil }

// Up reports whether the backend's health lets it have requests.
func (b *Backend) Up() bool { return !b.down.Load() }

// InFlight is the number of requests between Begin and End.
func (b *Backend) InFlight() int64 { return b.inflight.Load() }

// Tunnels is the number of open tunnels to the backend.
func (b *Backend) Tunnels() int64 { return b.tunnels.Load() }

// TunnelOpened counts a tunnel to the backend. It weighs on the backend as a request in flight does, for
// the balancers that compare them, but not for max_in_flight.
func (b *Backend) TunnelOpened() { b.tunnels.Add(1) }

// TunnelClosed undoes TunnelOpened.
func (b *Backend) TunnelClosed() { b.tunnels.Add(-1) }

// load is what balancers compare.
func (b *Backend) load() int64 { return b.inflight.Load() + b.tunnels.Load() }

// Begin counts a request that starts. Set.Take does it together with the choice.
func (b *Backend) Begin() { b.inflight.Add(1) }

// tryBegin is Begin, unless limit requests are in flight; 0 is no limit.
func (b *Backend) tryBegin(limit int64) bool {
	if n := b.inflight.Add(1); limit > 0 && n > limit {
		b.inflight.Add(-1)
		return false
	}
	return true
}

// End counts a request that ended. latency is the time to the response head, and
// goes into the average that the p2c balancer compares. ok is false if the backend failed, so that its latency
// says nothing: failing fast must not look like being fast. Upgraded connections pass the time to their 101.
func (b *Backend) End(latency time.Duration, ok bool) {
	b.inflight.Add(-1)
	b.ewma.observe(b.fam.reg.since(), latency, ok)
}

// Cancel is End for a request that tells nothing about the backend's speed, such as
// one whose client went away.
func (b *Backend) Cancel() { b.inflight.Add(-1) }

// SetHealth sets whether the backend may get requests, and why. Sets that have it
// choose among the others at once.
func (b *Backend) SetHealth(up bool, cause string) {
	b.mu.Lock()
	b.setHealthLocked(up, cause)
	b.mu.Unlock()
	b.fam.refresh()
}

func (b *Backend) setHealthLocked(up bool, cause string) {
	if b.down.Swap(!up) == up {
		b.change = HealthChange{At: b.fam.reg.opts.Now(), Up: up, Cause: cause}
	}
}

// watch probes the backend as o says, from now on; nil does not. A check that did
// not change goes on undisturbed.
func (b *Backend) watch(o *health.Options) {
	checker := b.fam.reg.opts.Checker
	b.mu.Lock()
	same := reflect.DeepEqual(b.check, o)
	if same || b.closed || checker == nil {
		b.mu.Unlock()
		return
	}
	stop := b.stop
	b.check, b.stop = o, nil
	b.watchGen++
	gen := b.watchGen
	up := o == nil || o.InitiallyUp()
	b.setHealthLocked(up, "health check configured")
	b.mu.Unlock()
	// Not under the lock: stopping may wait for a callback, and watching may call back.
	if stop != nil {
		stop()
	}
	if o != nil {
		b.start(checker, o, gen)
	}
	b.fam.refresh()
}

func (b *Backend) start(checker Checker, o *health.Options, gen uint64) {
	t := HealthTarget{Network: b.network, Address: b.address, Host: b.host}
	if b.creds != nil {
		t.TLS = func() *tls.Config { return b.clientTLS().config }
	}
	stop := checker.Watch(t, o, func(up bool, cause string) {
		b.mu.Lock()
		current := gen == b.watchGen && !b.closed
		if current {
			b.setHealthLocked(up, cause)
		}
		b.mu.Unlock()
		if current {
			b.fam.refresh()
		}
	})
	b.mu.Lock()
	late := gen != b.watchGen || b.closed
	if !late {
		b.stop = stop
	}
	b.mu.Unlock()
	if late {
		stop()
	}
}

// Pool returns the connections for the routes of one tag. After the first call for a
// tag it costs an atomic load and an index.
func (b *Backend) Pool(t Tag) *Pool {
	if l := b.tags.Load(); l != nil && int(t) < len(*l) {
		if p := (*l)[t]; p != nil {
			return p
		}
	}
	return b.addPool(t)
}

func (b *Backend) addPool(t Tag) *Pool {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*Pool
	if l := b.tags.Load(); l != nil {
		list = slices.Clone(*l)
	}
	for int(t) >= len(list) {
		list = append(list, nil)
	}
	if list[t] == nil {
		list[t] = newPool(b, b.fam.reg.tagName(t))
		list[t].retired.Store(b.closed)
	}
	b.tags.Store(&list)
	return list[t]
}

// allPools returns the pools that exist.
func (b *Backend) allPools() []*Pool {
	l := b.tags.Load()
	if l == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*l), func(p *Pool) bool { return p == nil })
}

// close ends the backend: no more probes, idle connections closed, those in use
// closed when they are released.
func (b *Backend) close() {
	b.mu.Lock()
	b.closed = true
	stop := b.stop
	b.stop = nil
	pools := b.allPools()
	b.mu.Unlock()
	if stop != nil {
		stop()
	}
	for _, p := range pools {
		p.retire()
	}
}

// retireTags closes the pools of tags that keep does not have.
func (b *Backend) retireTags(keep func(Tag) bool) {
	b.mu.Lock()
	var gone []*Pool
	if l := b.tags.Load(); l != nil {
		list := slices.Clone(*l)
		for i, p := range list {
			if p != nil && !keep(Tag(i)) {
				gone = append(gone, p)
				list[i] = nil
			}
		}
		b.tags.Store(&list)
	}
	b.mu.Unlock()
	for _, p := range gone {
		p.retire()
	}
}
