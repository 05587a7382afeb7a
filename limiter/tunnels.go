package limiter

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
)

// tunnelShards is how many maps count tunnels per client. They share one lock: there
// are several so that rebuilding one of them after a flood (shrinkAbove), which a
// caller may do on an event loop, moves only its share of the entries.
const tunnelShards = 64

// A map that is empty is dropped if it once held more than this; a smaller one is kept,
// so that a few clients who come and go allocate nothing.
const dropAbove = 8

// TunnelCaps caps open tunnels; 0 is no limit.
type TunnelCaps struct {
	// Max is in all, MaxPerClient from one client.
	Max, MaxPerClient int
}

// TunnelVerdict is the answer to a request for a tunnel.
type TunnelVerdict uint8

const (
	// TunnelOK admits the tunnel; a Release must follow.
	TunnelOK TunnelVerdict = iota
	// TunnelTooMany refuses it: tunnels.max is reached.
	TunnelTooMany
	// TunnelTooManyPerClient refuses it: tunnels.max_per_client is reached for its client.
	TunnelTooManyPerClient
	// TunnelTooManyOnRoute refuses it: its route's tunnel.max is reached.
	TunnelTooManyOnRoute
	// TunnelTooManyPerClientOnRoute refuses it: its route's tunnel.max_per_client is reached for
	// its client.
	TunnelTooManyPerClientOnRoute

	numTunnelVerdicts
)

// tunnelVerdicts is the word and the configuration key of each verdict.
var tunnelVerdicts = [numTunnelVerdicts]struct{ word, key string }{
	TunnelOK:                      {"ok", ""},
	TunnelTooMany:                 {"too_many", "tunnels.max"},
	TunnelTooManyPerClient:        {"too_many_per_client", "tunnels.max_per_client"},
	TunnelTooManyOnRoute:          {"too_many_on_route", "routes.tunnel.max"},
	TunnelTooManyPerClientOnRoute: {"too_many_per_client_on_route", "routes.tunnel.max_per_client"},
}

// String returns the snake_case word used in metrics, logs and tests.
func (v TunnelVerdict) String() string {
	if v < numTunnelVerdicts {
		return tunnelVerdicts[v].word
	}
	return "unknown"
}

// Key returns the configuration key of the cap that refused, "" for TunnelOK.
func (v TunnelVerdict) Key() string {
	if v < numTunnelVerdicts {
		return tunnelVerdicts[v].key
	}
	return ""
}

// RouteID is the handle that a tunnel keeps of its route. It stays good until the tunnel's
// Release, whether or not the route is still configured.
type RouteID uint32

// allRoutes is the RouteID of a client's tunnels over all routes; no route has it.
const allRoutes RouteID = 0

// Tunnels caps open tunnels: in all, per client, per route, and per route and client.
//
// Routes go by name. A reload changes their caps and keeps what is counted; a
// route that is gone is forgotten with its last tunnel. Every tunnel is counted for all
// four caps even while they are off, so that a reload that sets one applies to
// what is open. Memory is bounded by the routes configured and the tunnels open: a
// client takes one entry of 16 B, and one more for each route it has tunnels on, which a Go
// map makes 20 to 39 B each (47 B together for each of 100,000 clients with one tunnel).
//
// One lock guards all of it, since a verdict looks at four counters at once, and
// an upgrade costs a hundred times what is done under the lock.
type Tunnels struct {
	mul uint64 // as in Conns

	mu sync.Mutex
	// All below is guarded by mu.
	caps    TunnelCaps
	open    int
	refused [numTunnelVerdicts]uint64
	names   map[string]RouteID
	routes  map[RouteID]*tunnelRoute
	lastID  RouteID
	shards  [tunnelShards]tunnelShard
}

// tunnelRoute is one route that is configured or has tunnels.
type tunnelRoute struct {
	name       string
	caps       TunnelCaps
	configured bool
	open       int
	opened     uint64
	refused    uint64
}

// tunnelKey is a client on a route, or on allRoutes. The client's key is in two halves to keep an
// entry at 16 B.
type tunnelKey struct {
	high, low uint32
	route     RouteID
}

type tunnelShard struct {
	counts map[tunnelKey]uint32
	peak   int // most entries since counts was made
}

// RouteTunnels is what Tunnels counts for one route.
type RouteTunnels struct {
	// Name is as given to SetCaps or Acquire.
	Name string
	// Open is the tunnels open now.
	Open int
	// Opened and Refused count since the route was first configured or used.
	Opened, Refused uint64
}

// NewTunnels returns a Tunnels without caps and routes.
func NewTunnels() *Tunnels {
	return &Tunnels{
		mul:    rand.Uint64() | 1,
		names:  map[string]RouteID{},
		routes: map[RouteID]*tunnelRoute{},
	}
}

// SetCaps changes all caps: those over all routes, and those of each route by name. Counts
// are kept, also of a route that appears again. A lowered cap closes nothing: it refuses
// new tunnels until enough of the old ones are gone.
func (t *Tunnels) SetCaps(all TunnelCaps, routes map[string]TunnelCaps) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.caps = all
	for name, id := range t.names {
		if _, ok := routes[name]; !ok {
			r := t.routes[id]
			r.configured, r.caps = false, TunnelCaps{}
			t.forgetLocked(id)
		}
	}
	for name, caps := range routes {
		r := t.routes[t.routeLocked(name)]
		r.configured, r.caps = true, caps
	}
}

// Client is whom tunnels are counted for. The zero value is nobody: only the caps on all clients hold.
type Client struct {
	key   uint64
	known bool
}

// ByAddr is the client at an address. The zero addr, of a Unix socket, is nobody's.
func ByAddr(addr netip.Addr) Client {
	if !addr.IsValid() {
		return Client{}
	}
	return Client{clientKey(addr), true}
}

// ByIdentity is the client of a proven identity, by a hash of it that nobody can choose. Its key is in 0100::/8, where no
// client comes from either (see clientKey).
func ByIdentity(hash uint64) Client { return Client{1<<56 | hash>>8, true} }

// Acquire counts a tunnel of the client on the route and admits it, or refuses it and
// counts nothing but the refusal. A route that is not configured, as a request that
// began before a reload may bring, has no caps of its own. A tunnel keeps the RouteID for its Release.
func (t *Tunnels) Acquire(route string, client Client) (RouteID, TunnelVerdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.routeLocked(route)
	r := t.routes[id]
	if v := t.judgeLocked(r, id, client); v != TunnelOK {
		t.refused[v]++
		r.refused++
		t.forgetLocked(id)
		return 0, v
	}
	t.open++
	r.open++
	r.opened++
	if client.known {
		sh, key := t.shardLocked(client)
		sh.add(key)
		key.route = id
		sh.add(key)
	}
	return id, TunnelOK
}

// judgeLocked looks at the wider caps first, so that the verdict names what the
// operator has to raise before anything else helps.
func (t *Tunnels) judgeLocked(r *tunnelRoute, id RouteID, client Client) TunnelVerdict {
	if reached(t.open, t.caps.Max) {
		return TunnelTooMany
	}
	if reached(r.open, r.caps.Max) {
		return TunnelTooManyOnRoute
	}
	if !client.known {
		return TunnelOK
	}
	sh, key := t.shardLocked(client)
	if reached(int(sh.counts[key]), t.caps.MaxPerClient) {
		return TunnelTooManyPerClient
	}
	key.route = id
	if reached(int(sh.counts[key]), r.caps.MaxPerClient) {
		return TunnelTooManyPerClientOnRoute
	}
	return TunnelOK
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// Release gives back what Acquire admitted for the client.
func (t *Tunnels) Release(id RouteID, client Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.routes[id]
	if r == nil || r.open == 0 {
		panic("BUG: limiter: Release of a tunnel without Acquire")
	}
	t.open--
	r.open--
	t.forgetLocked(id)
	if client.known {
		sh, key := t.shardLocked(client)
		sh.remove(key)
		key.route = id
		sh.remove(key)
		sh.shrink()
	}
}

// routeLocked returns the route's handle, a new one if it has none.
func (t *Tunnels) routeLocked(name string) RouteID {
	if id, ok := t.names[name]; ok {
		return id
	}
	id := t.lastID + 1
	for id == allRoutes || t.routes[id] != nil { // after 2³² routes
		id++
	}
	t.lastID = id
	t.names[name] = id
	t.routes[id] = &tunnelRoute{name: name}
	return id
}

// forgetLocked drops a route that is neither configured nor in use. No tunnel has its
// RouteID then.
func (t *Tunnels) forgetLocked(id RouteID) {
	if r := t.routes[id]; !r.configured && r.open == 0 {
		delete(t.names, r.name)
		delete(t.routes, id)
	}
}

// shardLocked returns the map with the client's entries and its key over all routes.
func (t *Tunnels) shardLocked(client Client) (*tunnelShard, tunnelKey) {
	return &t.shards[client.key*t.mul>>58], tunnelKey{high: uint32(client.key >> 32), low: uint32(client.key), route: allRoutes}
}

func (sh *tunnelShard) add(key tunnelKey) {
	if sh.counts == nil {
		sh.counts = make(map[tunnelKey]uint32)
	}
	sh.counts[key]++
	sh.peak = max(sh.peak, len(sh.counts))
}

func (sh *tunnelShard) remove(key tunnelKey) {
	switch n := sh.counts[key]; n {
	case 0:
		panic("BUG: limiter: Release of a client's tunnel without Acquire")
	case 1:
		delete(sh.counts, key)
	default:
		sh.counts[key] = n - 1
	}
}

// shrink gives memory back after a flood of distinct clients.
func (sh *tunnelShard) shrink() {
	if len(sh.counts) == 0 && sh.peak > dropAbove {
		sh.counts, sh.peak = nil, 0
	}
	if sh.peak < shrinkAbove || len(sh.counts) > sh.peak/shrinkShare {
		return
	}
	smaller := make(map[tunnelKey]uint32, len(sh.counts))
	for k, n := range sh.counts {
		smaller[k] = n
	}
	sh.counts, sh.peak = smaller, len(smaller)
}

// Open returns the tunnels open now.
func (t *Tunnels) Open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open
}

// OpenFrom returns the tunnels open now from the client.
func (t *Tunnels) OpenFrom(client Client) int {
	if !client.known {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	sh, key := t.shardLocked(client)
	return int(sh.counts[key])
}

// Refused returns how often the verdict was given since the start; it is 0 for TunnelOK.
func (t *Tunnels) Refused(v TunnelVerdict) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused[v]
}

// Routes returns the routes that are configured or have tunnels, sorted by name.
func (t *Tunnels) Routes() []RouteTunnels {
	t.mu.Lock()
	out := make([]RouteTunnels, 0, len(t.names))
	for _, id := range t.names {
		r := t.routes[id]
		out = append(out, RouteTunnels{Name: r.name, Open: r.open, Opened: r.opened, Refused: r.refused})
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b RouteTunnels) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
