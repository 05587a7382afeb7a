package upstream

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/rs/zerolog"

	"tickgate/config"
)

// Options are what a Registry needs from outside. The zero value works.
type Options struct {
	// Dial opens raw connections. Default: TCP or Unix, with timeouts.dial and pool.tcp_keepalive.
	Dial DialFunc
	// Wrap is applied to each raw connection before TLS, and its result is what Exchangers see. It may offer
	// Stale() bool (closed by the peer, or bytes waiting, while pooled) and Detached() bool (the socket has another owner, so it is not closed here). Default: none.
	Wrap func(raw net.Conn) net.Conn
	// Checker probes backends whose upstream has a health_check. Default: none, all backends are up.
	Checker Checker
	// Log gets one line when a lookup begins to fail and one when it works again. The zero value is silent.
	Log zerolog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Rand gives random 64-bit numbers; it is called concurrently. Default: math/rand/v2.
	Rand func() uint64
}

// Registry holds the upstreams of the process, over configuration snapshots. It is
// safe for concurrent use, but one Build at a time: commit or abort it before the next.
type Registry struct {
	// Static.
	opts     Options
	start    time.Time
	resolver *resolver
	lookups  *metrics.Set

	nextID atomic.Uint32
	reads  atomic.Uint64 // of TLS files, to tell which was later

	mu       sync.Mutex // before Set.mu
	current  map[string]*Set
	families map[string]*family

	tagMu sync.Mutex
	tags  []string
}

// NewRegistry returns a registry without upstreams.
func NewRegistry(opts Options) *Registry {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Uint64
	}
	r := &Registry{
		opts: opts, start: opts.Now(), lookups: metrics.NewSet(),
		current: map[string]*Set{}, families: map[string]*family{}, tags: []string{"default"},
	}
	r.resolver = newResolver(newDNSClient(), opts.Log, r.lookups)
	return r
}

// since is the registry's time for latency averages.
func (r *Registry) since() time.Duration { return r.opts.Now().Sub(r.start) }

// Tag stands for a route tag: a small index, so that finding a Pool needs no map. The
// zero value is the tag "default".
type Tag uint32

// Tag returns the Tag of a name. The same name always gets the same Tag.
func (r *Registry) Tag(name string) Tag {
	r.tagMu.Lock()
	defer r.tagMu.Unlock()
	if i := slices.Index(r.tags, name); i >= 0 {
		return Tag(i)
	}
	r.tags = append(r.tags, name)
	return Tag(len(r.tags) - 1)
}

func (r *Registry) tagName(t Tag) string {
	r.tagMu.Lock()
	defer r.tagMu.Unlock()
	return r.tags[t]
}

// KeepTags retires the pools of all tags but these: call it after a commit with the
// tags of the new routes. A request that still runs on an older snapshot finds a new pool.
func (r *Registry) KeepTags(names ...string) {
	r.mu.Lock()
	families := r.familiesLocked()
	r.mu.Unlock()
	for _, f := range families {
		for _, b := range f.allBackends() {
			b.retireTags(func(t Tag) bool { return slices.Contains(names, r.tagName(t)) })
		}
	}
}

// Build makes the Sets of a configuration. An upstream that did not change is the
// Set that is in use now; the others are new, and share the backends whose connection settings did not change.
// TLS files are read; new contents replace the old ones at the commit, under the same backends and for their next connections.
// It waits at most res.Timeout for names that were never looked up; one that does not resolve has no backends until it does.
//
// Exactly one of commit and abort must be called. commit makes the Sets the current ones and retires what
// only the previous ones used; abort retires what only the new ones use. On an error nothing has changed, and neither
// is returned.
func (r *Registry) Build(cfgs map[string]*config.Upstream, res config.Resolver) (sets map[string]*Set, commit, abort func(), err error) {
	prints, err := r.fingerprints(cfgs, res)
	if err != nil {
		return nil, nil, nil, err
	}
	sets, fresh := r.newSets(prints)
	awaitFirst(fresh, res.Timeout)
	var once sync.Once
	commit = func() { once.Do(func() { r.commit(sets, fresh, prints) }) }
	abort = func() { once.Do(func() { r.drop(fresh) }) }
	return sets, commit, abort, nil
}

// newSets returns the Sets for prints, and those of them that had to be made.
func (r *Registry) newSets(prints map[string]fingerprint) (sets map[string]*Set, fresh []*Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sets = make(map[string]*Set, len(prints))
	for name, print := range prints {
		old := r.current[name]
		if old != nil && old.print.equal(print) {
			sets[name] = old
			continue
		}
		s := r.newSet(name, print, old)
		sets[name] = s
		fresh = append(fresh, s)
	}
	return sets, fresh
}

func (r *Registry) commit(sets map[string]*Set, fresh []*Set, prints map[string]fingerprint) {
	r.mu.Lock()
	old := r.current
	r.current = sets
	r.mu.Unlock()
	for name, s := range sets {
		if s.creds != nil {
			s.creds.adopt(prints[name].tls, s.cfg.TLS.Watch)
		}
	}
	for _, s := range fresh {
		if prev := old[s.name]; prev != nil {
			s.inherit(prev)
		}
		for _, b := range s.Backends() {
			b.watch(s.cfg.HealthCheck)
		}
	}
	var gone []*Set
	for name, s := range old {
		if sets[name] != s {
			gone = append(gone, s)
		}
	}
	r.drop(gone)
}

// drop retires sets, and forgets the upstreams that have none left.
func (r *Registry) drop(sets []*Set) {
	for _, s := range sets {
		s.retire()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range sets {
		if s.fam.unused() && r.families[s.name] == s.fam {
			delete(r.families, s.name)
		}
	}
}

// Close retires every upstream. Connections in use close when they are released.
func (r *Registry) Close() {
	r.mu.Lock()
	sets := make([]*Set, 0, len(r.current))
	for _, s := range r.current {
		sets = append(sets, s)
	}
	r.current = map[string]*Set{}
	r.mu.Unlock()
	r.drop(sets)
}

// Set returns the current Set of an upstream, or nil.
func (r *Registry) Set(name string) *Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current[name]
}

// WriteMetrics writes the series of all upstreams in the Prometheus text format.
func (r *Registry) WriteMetrics(w io.Writer) {
	r.mu.Lock()
	families := r.familiesLocked()
	r.mu.Unlock()
	for _, f := range families {
		f.metrics.WritePrometheus(w)
	}
	r.lookups.WritePrometheus(w)
}

func (r *Registry) familiesLocked() []*family {
	families := make([]*family, 0, len(r.families))
	for _, f := range r.families {
		families = append(families, f)
	}
	slices.SortFunc(families, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	return families
}

// fingerprint is everything a Set is made of.
type fingerprint struct {
	cfg      *config.Upstream
	tls      tlsRead // what the files hold now: they may change without making another Set
	resolver string  // what the servers' addresses depend on
	res      config.Resolver
}

func (p fingerprint) equal(q fingerprint) bool {
	return p.resolver == q.resolver && (p.cfg == q.cfg || reflect.DeepEqual(p.cfg, q.cfg))
}

// fingerprints reads what the upstreams need from files, and reports every error.
func (r *Registry) fingerprints(cfgs map[string]*config.Upstream, res config.Resolver) (map[string]fingerprint, error) {
	prints := make(map[string]fingerprint, len(cfgs))
	var errs []error
	for name, cfg := range cfgs {
		p, err := r.newFingerprint(name, cfg, res)
		if err != nil {
			errs = append(errs, err)
		}
		prints[name] = p
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return prints, errors.Join(errs...)
}

func (r *Registry) newFingerprint(name string, cfg *config.Upstream, res config.Resolver) (p fingerprint, err error) {
	p = fingerprint{cfg: cfg, res: res, resolver: res.Family}
	for i, sv := range cfg.Servers {
		o, targets := parseOrigin(sv.Address, res.Family)
		if o.kind != fixedAddress {
			p.resolver = fmt.Sprintf("%+v", res)
		}
		if cfg.TLS != nil && !cfg.TLS.InsecureSkipVerify && cfg.TLS.ServerName == "" && serverName(o, targets) == "" {
			return p, fmt.Errorf("upstreams.%s.tls.server_name: needed to verify upstreams.%s.servers[%d].address %q, which has no host name",
				name, name, i, sv.Address)
		}
	}
	if cfg.TLS == nil {
		return p, nil
	}
	p.tls, err = r.readTLS(name, cfg.TLS)
	return p, err
}

// serverName is the name that a backend's certificate is verified against unless tls.server_name is set: the
// configured host. For SRV records it is the domain that was asked about, never the target's name, which whoever
// answers the DNS query could choose (RFC 9525 section 6.1).
func serverName(o origin, fixed []target) string {
	switch o.kind {
	case hostName:
		return strings.TrimSuffix(o.host, ".")
	case srvName:
		name := strings.TrimSuffix(o.host, ".")
		for strings.HasPrefix(name, "_") {
			_, rest, _ := strings.Cut(name, ".")
			name = rest
		}
		return name
	}
	if fixed[0].network == "unix" {
		return ""
	}
	host, _, _ := strings.Cut(fixed[0].name, "%") // a zone is no part of a certificate
	return host
}

// serverNameFor is the name that is sent to the backends of a server and verified.
func (s *Set) serverNameFor(server string) string {
	if name := s.cfg.TLS.ServerName; name != "" {
		return name
	}
	return serverName(parseOrigin(server, s.print.res.Family))
}

// newSet makes a Set and starts its lookups and probes. old is the one it may replace.
func (r *Registry) newSet(name string, print fingerprint, old *Set) *Set {
	cfg := print.cfg
	s := &Set{
		name: name, cfg: cfg, print: print, policy: policyOf(cfg.Balance),
		known: map[backendKey]*Backend{}, drains: map[string]bool{},
		conf: connSettings{
			pool: cfg.Pool, dialTimeout: cfg.Timeouts.Dial, tlsTimeout: cfg.Timeouts.TLSHandshake,
			secure: cfg.TLS != nil,
		},
		servers: make([]serverState, len(cfg.Servers)),
	}
	s.print.tls = tlsRead{}
	s.budget = NewBudget(cfg.Retry.BudgetPercent, cfg.Retry.BudgetMin)
	if old != nil && old.cfg.Retry.BudgetPercent == cfg.Retry.BudgetPercent && old.cfg.Retry.BudgetMin == cfg.Retry.BudgetMin {
		s.budget = old.budget
	}
	s.fam = r.families[name]
	if s.fam == nil {
		s.fam = newFamily(r, name)
		r.families[name] = s.fam
	}
	if cfg.TLS != nil {
		s.conf.tls = *cfg.TLS
		s.conf.tls.Watch = 0
		s.creds = s.fam.acquireCredentials(s.conf.tls, print.tls.id, old)
	}
	s.list.Store(&choice{})
	for i, sv := range cfg.Servers {
		st := serverState{cfg: sv}
		st.origin, st.targets = parseOrigin(sv.Address, print.res.Family)
		s.servers[i] = st
	}
	s.fam.join(s)
	s.mu.Lock()
	fresh, _ := s.resolveLocked()
	s.mu.Unlock()
	s.follow(fresh, nil)
	s.subscribe(print.res)
	return s
}

// subscribe starts the lookups of the servers that have names.
func (s *Set) subscribe(res config.Resolver) {
	for i := range s.servers {
		o := s.servers[i].origin
		if o.kind == fixedAddress {
			continue
		}
		sub := s.fam.reg.resolver.subscribe(o, res, func(targets []target) { s.setTargets(i, targets) })
		s.mu.Lock()
		s.servers[i].sub = sub
		s.mu.Unlock()
	}
}

// awaitFirst waits until every name was looked up once, or limit has passed.
func awaitFirst(sets []*Set, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, s := range sets {
		for i := range s.servers {
			sub := s.servers[i].sub
			if sub == nil {
				continue
			}
			select {
			case <-sub.first():
				sub.deliver() // the lookup's own call may still be under way
			case <-timer.C:
				return
			}
		}
	}
}
