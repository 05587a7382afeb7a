package upstream

import (
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"tickgate/config"
)

// Set is one upstream of one configuration: its backends and how to choose among them.
type Set struct {
	// Static.
	name   string
	cfg    *config.Upstream
	fam    *family
	conf   connSettings
	creds  *credentials // nil without TLS
	print  fingerprint
	policy policy

	list   atomic.Pointer[choice]
	turns  [2]atomic.Uint64 // of the primaries and the backups
	again  [2]atomic.Uint64 // the same for retries
	budget *Budget

	mu      sync.Mutex // before fam.mu and Backend.mu
	servers []serverState
	known   map[backendKey]*Backend // each holds a reference
	retired bool
	drains  map[string]bool // set at run time, by backend or server address
}

// choice is what Pick chooses from: immutable, replaced when health, drain, weights or addresses change.
type choice struct {
	primary balancer
	backup  balancer
	all     []listed // for status and metrics, in the order of the configuration
}

// listed is a backend with what the Set says of it.
type listed struct {
	member
	backup  bool
	drained bool
}

// serverState is a server of the configuration and the addresses it stands for now.
type serverState struct {
	cfg     config.Server
	origin  origin
	targets []target
	sub     *subscription // nil if the address is not looked up
}

// Name is the upstream's name in the configuration.
func (s *Set) Name() string { return s.name }

// Config is the configuration that the Set was built from; it must not be changed.
func (s *Set) Config() *config.Upstream { return s.cfg }

// Tag returns the Tag of a route tag, for Backend.Pool.
func (s *Set) Tag(name string) Tag { return s.fam.reg.Tag(name) }

// Budget decides about retries. It outlives reloads that do not change its limits.
func (s *Set) Budget() *Budget { return s.budget }

// Pick chooses a backend by the upstream's policy among those that are up, not
// drained and not full; among the backups if there is none; and one that was tried already only if
// there is no other. It returns nil if no backend can be used. key is what `balance: hash` goes by; 0 is no key.
//
// It takes no lock and allocates nothing. Between Pick and Begin another request may take the last place of a
// backend with max_in_flight; Take leaves no such gap.
func (s *Set) Pick(key uint64, avoid *Tried) *Backend {
	m := s.pick(key, avoid)
	if m == nil {
		return nil
	}
	return m.b
}

// Take is Pick and Begin in one, and never exceeds max_in_flight. The caller owes
// an End or Cancel.
func (s *Set) Take(key uint64, avoid *Tried) *Backend {
	// Each failed round means that another request took the place; the bound is for
	// the case that a great many do so at once.
	for range 64 {
		m := s.pick(key, avoid)
		if m == nil {
			return nil
		}
		if m.b.tryBegin(m.maxInFlight) {
			return m.b
		}
	}
	return nil
}

func (s *Set) pick(key uint64, avoid *Tried) *member {
	c := s.list.Load()
	if m := c.primary.pick(key, avoid); m != nil {
		return m
	}
	if m := c.backup.pick(key, avoid); m != nil {
		return m
	}
	if avoid.Len() == 0 {
		return nil
	}
	if m := c.primary.pick(key, nil); m != nil {
		return m
	}
	return c.backup.pick(key, nil)
}

// Backends returns the backends, in the order of the configuration and of their addresses.
func (s *Set) Backends() []*Backend {
	all := s.list.Load().all
	out := make([]*Backend, len(all))
	for i := range all {
		out[i] = all[i].b
	}
	return out
}

// SetDrain drains a backend at run time, or ends that, whatever the configuration's
// `drain` says; it lasts until the process ends or a reload changes that server's `drain`. addr is the address of a backend, or of
// a server as configured, which stands for all its backends. It reports whether there is such a one.
func (s *Set) SetDrain(addr string, drain bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := slices.ContainsFunc(s.servers, func(sv serverState) bool {
		return sv.cfg.Address == addr || slices.ContainsFunc(sv.targets, func(t target) bool { return t.address == addr })
	})
	if !found {
		return false
	}
	s.drains[addr] = drain
	s.publishLocked()
	return true
}

// drainedLocked says whether a backend gets no new requests: what was set for its
// address, else for its server, else what the configuration says.
func (s *Set) drainedLocked(sv *serverState, t *target) bool {
	for _, addr := range [...]string{t.address, sv.cfg.Address} {
		if d, ok := s.drains[addr]; ok {
			return d
		}
	}
	return sv.cfg.Drain
}

// setTargets replaces the addresses of the i-th server. A subscription calls it.
func (s *Set) setTargets(i int, targets []target) {
	s.mu.Lock()
	if s.retired || slices.Equal(s.servers[i].targets, targets) {
		s.mu.Unlock()
		return
	}
	s.servers[i].targets = targets
	fresh, gone := s.resolveLocked()
	s.mu.Unlock()
	s.follow(fresh, gone)
}

// resolveLocked takes references to the backends of the current targets, publishes
// them, and gives up the references to all others.
func (s *Set) resolveLocked() (fresh, gone []*Backend) {
	next := make(map[backendKey]*Backend, len(s.known))
	for i := range s.servers {
		sv := &s.servers[i]
		for _, t := range sv.targets {
			key := s.keyOf(sv, &t)
			if next[key] != nil {
				continue // the same server twice in the configuration: publishLocked adds up the weights
			}
			b := s.known[key]
			if b == nil {
				var made bool
				if b, made = s.fam.acquire(key, labelOf(key, next, s.known), s, &t); made {
					fresh = append(fresh, b)
				}
			}
			next[key] = b
		}
	}
	for key, b := range s.known {
		if next[key] == nil {
			gone = append(gone, b)
		}
	}
	s.known = next
	s.publishLocked()
	return fresh, gone
}

// labelOf returns the address of a backend to be made, with the server it comes from if
// another backend of the Set has the same address.
func labelOf(key backendKey, known ...map[backendKey]*Backend) string {
	for _, m := range known {
		for other := range m {
			if other.address == key.address && other.server != key.server {
				return key.address + "@" + key.server
			}
		}
	}
	return key.address
}

// follow does what must not be done under locks: new backends are probed, gone
// ones released.
func (s *Set) follow(fresh, gone []*Backend) {
	for _, b := range fresh {
		b.watch(s.cfg.HealthCheck)
	}
	for _, b := range gone {
		s.fam.release(b)
	}
}

func (s *Set) keyOf(sv *serverState, t *target) backendKey {
	return backendKey{server: sv.cfg.Address, network: t.network, address: t.address, conf: s.conf}
}

// publishLocked builds the list that Pick uses.
func (s *Set) publishLocked() {
	c := &choice{}
	for i, l := range []*balancer{&c.primary, &c.backup} {
		l.policy, l.turn, l.retryTurn, l.rand, l.since = s.policy, &s.turns[i], &s.again[i], s.fam.reg.opts.Rand, s.fam.reg.since
	}
	at := map[*Backend]int{}
	heaviest := 0
	for i := range s.servers {
		sv := &s.servers[i]
		for _, t := range sv.targets {
			b := s.known[s.keyOf(sv, &t)]
			weight := max(1, sv.cfg.Weight) * max(1, t.weight)
			if j, twice := at[b]; twice {
				c.all[j].weight += weight
				heaviest = max(heaviest, c.all[j].weight)
				continue
			}
			at[b] = len(c.all)
			heaviest = max(heaviest, weight)
			c.all = append(c.all, listed{
				member: member{b: b, weight: weight, maxInFlight: int64(sv.cfg.MaxInFlight)},
				backup: sv.cfg.Backup || t.backup, drained: s.drainedLocked(sv, &t),
			})
		}
	}
	for _, l := range c.all {
		switch {
		case l.drained || !l.b.Up():
		case l.backup:
			c.backup.members = append(c.backup.members, l.member)
		default:
			c.primary.members = append(c.primary.members, l.member)
		}
	}
	c.primary.prepare(heaviest)
	c.backup.prepare(heaviest)
	s.list.Store(c)
}

// refresh follows a change of a backend's health.
func (s *Set) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.retired {
		s.publishLocked()
	}
}

// inherit takes over from the Set that this one replaces what was set at run time.
func (s *Set) inherit(old *Set) {
	old.mu.Lock()
	drains := maps.Clone(old.drains)
	before := map[string]bool{}
	for _, sv := range old.servers {
		before[sv.cfg.Address] = sv.cfg.Drain
	}
	old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, d := range drains {
		if cfgDrain, configured := s.configuredDrainLocked(addr); configured && cfgDrain == before[s.serverOfLocked(addr)] {
			s.drains[addr] = d
		}
	}
	s.publishLocked()
}

// serverOfLocked returns the configured address of the server that addr belongs to.
func (s *Set) serverOfLocked(addr string) string {
	for _, sv := range s.servers {
		if sv.cfg.Address == addr || slices.ContainsFunc(sv.targets, func(t target) bool { return t.address == addr }) {
			return sv.cfg.Address
		}
	}
	return ""
}

func (s *Set) configuredDrainLocked(addr string) (drain, configured bool) {
	server := s.serverOfLocked(addr)
	for _, sv := range s.servers {
		if sv.cfg.Address == server {
			return sv.cfg.Drain, true
		}
	}
	return false, false
}

// retire gives up the Set's backends and lookups. Pick still works, for requests
// that run on an old snapshot.
func (s *Set) retire() {
	s.mu.Lock()
	if s.retired {
		s.mu.Unlock()
		return
	}
	s.retired = true
	gone := slices.Collect(maps.Values(s.known))
	subs := make([]*subscription, 0, len(s.servers))
	for _, sv := range s.servers {
		if sv.sub != nil {
			subs = append(subs, sv.sub)
		}
	}
	s.mu.Unlock()
	for _, sub := range subs {
		sub.stop()
	}
	s.follow(nil, gone)
	s.fam.leave(s)
	if s.creds != nil {
		s.fam.releaseCredentials(s.creds)
	}
}

// origin is a server's configured address, taken apart.
type origin struct {
	kind originKind
	host string // name to look up, without port
	port string
}

type originKind uint8

const (
	fixedAddress originKind = iota // an IP address, a Unix socket, or localhost
	hostName                       // A and AAAA records
	srvName                        // SRV records
)

// target is one address that a server stands for.
type target struct {
	network string
	address string // to dial
	weight  int    // from SRV records, else 1
	backup  bool   // a lower priority in SRV records
	name    string // host that the address belongs to, for TLS and the Host header
	port    string
}

// parseOrigin takes a server's address apart. An address that is looked up has no
// target yet. "localhost" is not looked up, but dialled by that name: then both of
// its addresses are tried for each connection, whichever of them the backend listens on.
func parseOrigin(address, family string) (origin, []target) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return origin{}, []target{{network: "unix", address: path, weight: 1, name: "localhost"}}
	}
	if name, ok := strings.CutPrefix(address, "srv:"); ok {
		return origin{kind: srvName, host: name}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil { // validation let it through; dialling it will say what is wrong
		return origin{}, []target{{network: "tcp", address: address, weight: 1, name: address}}
	}
	if net.ParseIP(strings.Split(host, "%")[0]) != nil || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return origin{}, []target{{network: networkOf(host, family), address: address, weight: 1, name: host, port: port}}
	}
	return origin{kind: hostName, host: host, port: port}, nil
}

// networkOf applies resolver.family to localhost; a literal address has its family.
func networkOf(host, family string) string {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		switch family {
		case "ipv4":
			return "tcp4"
		case "ipv6":
			return "tcp6"
		}
	}
	return "tcp"
}

// hostHeader names a target in a Host header (RFC 9110 section 7.2): the scheme's
// default port is left out.
func hostHeader(t *target, secure bool) string {
	switch {
	case t.port == "", t.port == "443" && secure, t.port == "80" && !secure:
		if strings.Contains(t.name, ":") && !strings.HasPrefix(t.name, "[") {
			return "[" + t.name + "]"
		}
		return t.name
	}
	return net.JoinHostPort(t.name, t.port)
}

// Drains reports whether b, a backend of this or an earlier set of the same name, is
// one that gets no requests because someone wants it so: its server is drained, or no
// longer configured. An address that merely vanished from a name's lookup is not.
func (s *Set) Drains(b *Backend) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addr := range []string{b.address, b.key.server} {
		if d, ok := s.drains[addr]; ok {
			return d
		}
	}
	drain, configured := s.configuredDrainLocked(b.key.server)
	return drain || !configured
}
