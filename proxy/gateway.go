package proxy

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/config"
	"tickgate/internal/accesslog"
	"tickgate/internal/errlog"
	"tickgate/internal/gctune"
	"tickgate/internal/meter"
	"tickgate/internal/preface"
	"tickgate/internal/sock"
	"tickgate/internal/watchdog"
	"tickgate/limiter"
	"tickgate/proxy/park"
	"tickgate/proxy/reactor"
	"tickgate/proxy/relay"
	"tickgate/proxy/upstream"
	"tickgate/tlsterm"
)

// Gateway is the running whole: listeners, the current snapshot, and what lives
// longer than a snapshot.
type Gateway struct {
	// Static after New.
	log      *errlog.Logger
	meter    *meter.Meter
	sweeper  *sock.Sweeper
	registry *upstream.Registry
	conns    *limiter.Conns
	gate     *limiter.Gate // admits requests to be served
	rates    handshakeRates
	version  string

	// Connections without a worker, and who serves them when they wake. Where there is no
	// reactor, loops, lot and tunnels are nil: every connection keeps a goroutine.
	loops      *reactor.Group
	lot        *park.Lot
	tunnels    *relay.Relay
	tunnelCaps *limiter.Tunnels
	owners     tunnelOwners
	workers    *crew
	handshakes handshakes
	notes      sharedNotes
	byIndex    listenerTable
	quit       chan struct{} // closed by stop
	reviews    chan struct{} // has one while a review of tunnels is wanted

	tuner    *gctune.Tuner // these two are nil unless the process is the gateway's
	watchdog *watchdog.Watchdog

	tlsFailures []atomic.Uint64 // by tlsterm.Failure
	prefaces    prefaceCounts
	started     time.Time

	snap       atomic.Pointer[Snapshot]
	access     atomic.Pointer[accesslog.Logger]
	draining   atomic.Bool
	resets     sync.Map    // IDs of parked connections that are to be closed with RST
	stopping   atomic.Bool // what is still open is being cut
	progress   atomic.Pointer[drainProgress]
	snaps      snapshotCount
	obituaries atomic.Int32  // lines about tunnels on their way to the log
	aside      atomic.Int64  // requests whose body stalls, so that their place is free
	late       atomic.Uint64 // requests refused since no worker could read them in time
	nextID     atomic.Uint64
	stores     atomic.Pointer[[]tlsStore]
	tickets    atomic.Pointer[[]ticketKeys]
	staplers   atomic.Pointer[[]stapler]
	inquiries  tlsterm.Inquiries // of all staplers

	// Client certificates that were good, and those that were not by tlsterm.ClientCertProblem.
	clientsVerified atomic.Uint64
	certProblems    []atomic.Uint64
	chainsOmitted   atomic.Uint64 // too long to be sent to a backend

	droppedBefore atomic.Uint64 // by access logs that a reload replaced

	reloadMu  sync.Mutex // one reload or drain at a time; guards the seven below
	listeners map[string]*listener
	reloads   uint64
	lastLoad  time.Time
	lastError error
	closing   bool // listeners are closed for good
	stopped   bool
	backends  backendDrains

	liveMu sync.Mutex
	live   map[*clientConn]struct{}
}

// snapshotCount counts snapshots in memory.
type snapshotCount struct{ atomic.Int64 }

// Options are what a Gateway needs besides its configuration.
type Options struct {
	// Process has the gateway tune the garbage collector and watch for leaks, both of the whole process.
	Process bool
	Log     *errlog.Logger
	Version string
	// Checker probes backends; nil probes none.
	Checker upstream.Checker

	goroutines bool // in place of loops, as where the system has no epoll
}

// New builds a gateway for cfg, which must be valid. Start makes it listen.
func New(cfg *config.Config, o Options) (*Gateway, error) {
	g := &Gateway{
		log: o.Log, version: o.Version, started: time.Now(),
		meter:     meter.New(o.Version),
		sweeper:   sock.NewSweeper(),
		conns:     limiter.NewConns(cfg.Connections),
		gate:      limiter.NewGate(gateLimits(cfg)),
		rates:     newHandshakeRates(&cfg.Handshakes),
		listeners: map[string]*listener{},
		quit:      make(chan struct{}),
		reviews:   make(chan struct{}, 1),

		backends:   backendDrains{},
		tunnelCaps: limiter.NewTunnels(),
		owners:     tunnelOwners{all: map[tunnelKey]*tunnelOwner{}},
		live:       map[*clientConn]struct{}{},

		tlsFailures:  make([]atomic.Uint64, len(tlsterm.Failures())),
		certProblems: make([]atomic.Uint64, len(tlsterm.ClientCertProblems())),
	}
	g.prefaces.failures = make([]atomic.Uint64, len(preface.Failures()))
	g.workers = newCrew(crewSize(cfg), g.visit, g.sweeper.Urge, g.clock)
	g.handshakes = g.newHandshakes(cfg)
	if !o.goroutines {
		if err := g.startLoops(cfg); err != nil {
			return nil, err
		}
	}
	g.registry = upstream.NewRegistry(g.registryOptions(o.Checker))
	access, err := accesslog.Open(cfg.Log.Access)
	if err != nil {
		return nil, err
	}
	g.access.Store(access)
	g.stores.Store(&[]tlsStore{})
	g.tickets.Store(&[]ticketKeys{})
	g.staplers.Store(&[]stapler{})
	g.registerMetrics()
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	if err := g.applyLocked(cfg); err != nil {
		return nil, err
	}
	if o.Process {
		g.takeProcess(cfg)
	}
	go g.tend()
	go g.review()
	return g, nil
}

// Meter gives access to the metrics.
func (g *Gateway) Meter() *meter.Meter { return g.meter }

// CurrentConfig returns the configuration in use.
func (g *Gateway) CurrentConfig() *config.Config { return g.snap.Load().cfg }

// ErrStopped says that the process drains, so that there is nothing to reload.
var ErrStopped = errors.New("proxy: the gateway is stopping")

// Reload goes over to cfg: all of it, or, on error, none.
func (g *Gateway) Reload(cfg *config.Config) error {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	if g.closing {
		return ErrStopped
	}
	err := g.applyLocked(cfg)
	g.lastError = err
	if err != nil {
		g.meter.ReloadFailed()
		g.log.Error().Err(err).Uint64("generation", g.snap.Load().generation).Msg("reload failed, the old configuration stays")
		return err
	}
	g.log.Info().Uint64("generation", g.snap.Load().generation).Msg("configuration reloaded")
	return nil
}

// RefuseReload notes a reload whose configuration could not be read.
func (g *Gateway) RefuseReload(err error) {
	g.reloadMu.Lock()
	g.lastError = err
	g.reloadMu.Unlock()
	g.meter.ReloadFailed()
}

// applyLocked builds a snapshot with its listeners, swaps it in and retires the old
// one. Everything that can fail comes before the swap.
func (g *Gateway) applyLocked(cfg *config.Config) error {
	sets, commit, abort, err := g.registry.Build(cfg.Upstreams, cfg.Resolver)
	if err != nil {
		return err
	}
	if err := g.lostNames(sets); err != nil {
		abort()
		return err
	}
	b := &builder{gw: g, cfg: cfg, sets: sets}
	snap, err := b.build(g.reloads + 1)
	if err != nil {
		abort()
		return err
	}
	plan, err := g.planListeners(cfg)
	if err != nil {
		snap.retire()
		abort()
		return err
	}
	access, err := g.planAccessLog(cfg)
	if err != nil {
		plan.undo()
		snap.retire()
		abort()
		return err
	}
	g.reloads++
	g.lastLoad = time.Now()
	old := g.snap.Swap(snap)
	commit()
	g.registry.KeepTags(snap.tags()...)
	g.conns.SetOptions(cfg.Connections)
	g.gate.SetLimits(gateLimits(cfg))
	g.rates.setOptions(&cfg.Handshakes, g.now())
	g.workers.setLimit(crewSize(cfg))
	g.handshakes.setOptions(cfg)
	g.setTunnelCaps(snap)
	g.tuneProcess(cfg)
	access()
	plan.commit()
	g.drainBackendsLocked(snap, cfg.Drain.Window)
	g.followStoresLocked()
	g.followTicketsLocked()
	g.followStaplersLocked()
	g.wantReview()
	g.meter.Loaded(g.reloads, g.lastLoad)
	if old != nil {
		old.retire()
	}
	return nil
}

// lostNames refuses a reload to an upstream none of whose names can be resolved, while
// the running one has backends. At start such an upstream waits for its names.
func (g *Gateway) lostNames(sets map[string]*upstream.Set) error {
	old := g.snap.Load()
	if old == nil {
		return nil
	}
	for _, name := range sortedKeys(sets) {
		if prev := old.sets[name]; len(sets[name].Backends()) == 0 && (prev == nil || len(prev.Backends()) > 0) {
			return fmt.Errorf("upstreams.%s: %w", name, errNoAddress)
		}
	}
	return nil
}

var errNoAddress = errors.New("none of its names can be resolved")

// planAccessLog opens the access log if its settings changed; the returned function
// goes over to it.
func (g *Gateway) planAccessLog(cfg *config.Config) (func(), error) {
	old := g.snap.Load()
	if old == nil || reflect.DeepEqual(old.cfg.Log.Access, cfg.Log.Access) {
		return func() {}, nil
	}
	next, err := accesslog.Open(cfg.Log.Access)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return func() {
		if prev := g.access.Swap(next); prev != nil {
			_ = prev.Close()
			g.droppedBefore.Add(prev.Dropped())
		}
	}, nil
}

// ReopenLogs opens log files again, after a rotation.
func (g *Gateway) ReopenLogs() error {
	var errs []error
	if a := g.access.Load(); a != nil {
		errs = append(errs, a.Reopen())
	}
	return errors.Join(append(errs, g.log.Reopen())...)
}

// remember registers a connection that a worker serves.
func (g *Gateway) remember(c *clientConn) {
	g.liveMu.Lock()
	g.live[c] = struct{}{}
	g.liveMu.Unlock()
}

// forget unregisters a connection that its worker has left.
func (g *Gateway) forget(c *clientConn) {
	g.liveMu.Lock()
	delete(g.live, c)
	g.liveMu.Unlock()
}

// connections returns the connections that workers serve.
func (g *Gateway) connections() []*clientConn {
	g.liveMu.Lock()
	defer g.liveMu.Unlock()
	all := make([]*clientConn, 0, len(g.live))
	for c := range g.live {
		all = append(all, c)
	}
	return all
}
