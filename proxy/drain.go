package proxy

import (
	"context"
	"sync/atomic"
	"time"

	"tickgate/internal/reason"
	"tickgate/proxy/park"
	"tickgate/proxy/relay"
	"tickgate/proxy/upstream"
)

// drainProgress is how far the drain of the process has come.
type drainProgress struct {
	began    time.Time
	deadline time.Time
	phase    atomic.Pointer[string]
	tunnels  atomic.Pointer[relay.Draining] // nil before their turn
}

// The phases of a drain, as the admin API words them.
var (
	phaseGrace   = "grace"   // readiness fails, everything is served
	phaseClosing = "closing" // listeners are closed, connections end
	phaseCut     = "cut"     // time is over
	phaseDone    = "done"
)

// Drain ends the gateway without losing a request: readiness fails, after
// drain.grace the listeners close, idle connections close, tunnels close spread over
// drain.window, and requests in flight finish, for drain.timeout at most or until ctx ends.
// It returns the number of connections that had to be cut.
func (g *Gateway) Drain(ctx context.Context) (cut int) {
	cfg := g.CurrentConfig().Drain
	p := &drainProgress{began: time.Now(), deadline: time.Now().Add(cfg.Grace + cfg.Timeout)}
	p.phase.Store(&phaseGrace)
	g.progress.Store(p)
	g.draining.Store(true)
	g.log.Info().Stringer("grace", cfg.Grace).Stringer("timeout", cfg.Timeout).Stringer("window", cfg.Window).
		Int("connections", g.conns.Open()).Int("tunnels", g.tunnelCaps.Open()).Msg("draining")
	wait(ctx, cfg.Grace)
	p.phase.Store(&phaseClosing)
	g.closeListeners()
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if g.tunnels != nil {
		// No HardCap: what is left at the end of ctx is counted first, and cut with the loops.
		p.tunnels.Store(g.tunnels.Drain(relay.DrainOptions{
			Window: min(cfg.Window, cfg.Timeout-min(lastAnswers, cfg.Timeout/4)), Code: uint16(cfg.CloseCode), Reason: reason.Draining, Sticky: true,
		}))
	}
	g.awaitEnds(ctx)
	p.phase.Store(&phaseCut)
	cut = g.conns.Open()
	g.cut()
	g.stop()
	p.phase.Store(&phaseDone)
	g.log.Info().Int("cut", cut).Stringer("took", time.Since(p.began).Round(time.Millisecond)).Msg("drained")
	return cut
}

const (
	// lastAnswers is what drain.timeout leaves the tunnels closed last for their close
	// handshakes, unless it is short itself.
	lastAnswers = 5 * time.Second
	// drainRound is how often connections that became idle meanwhile are looked for.
	drainRound = 20 * time.Millisecond
	// drainReport is how often the log hears of a drain that takes long.
	drainReport = 2 * time.Second
)

// awaitEnds closes connections as they become idle until none is left.
func (g *Gateway) awaitEnds(ctx context.Context) {
	for report := time.Now().Add(drainReport); ctx.Err() == nil && g.conns.Open() > 0; wait(ctx, drainRound) {
		for _, c := range g.connections() {
			c.closeIfIdle()
		}
		if g.lot != nil {
			g.lot.Evict(mayClose)
		}
		if now := time.Now(); now.After(report) {
			report = now.Add(drainReport)
			g.log.Info().Int("connections", g.conns.Open()).Int("tunnels", g.tunnelCaps.Open()).Msg("still draining")
		}
	}
}

// mayClose reports whether a parked connection can be closed without losing a request:
// no part of one is here, nor probably on the way.
func mayClose(i *park.Info) bool {
	return !i.Partial && i.Phase != park.Head && i.Phase != park.Body && i.Phase != park.Linger && i.Phase != park.Shake && (i.Served > 0 || time.Since(time.Unix(0, i.Since)) >= firstRequest)
}

// cut ends what is open.
func (g *Gateway) cut() {
	g.stopping.Store(true)
	for _, c := range g.connections() {
		c.kill(reason.ShutDown)
	}
	for _, p := range g.handshakes.gate.Drop() {
		g.closeParked(p, reason.ShutDown)
	}
	if g.lot != nil {
		g.lot.Evict(func(*park.Info) bool { return true })
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Stop ends the gateway at once.
func (g *Gateway) Stop() {
	g.draining.Store(true)
	g.closeListeners()
	g.cut()
	g.stop()
}

// stop gives back what is left.
func (g *Gateway) stop() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	if g.stopped {
		return
	}
	g.stopped = true
	close(g.quit)
	if g.loops != nil {
		g.loops.Close()
	}
	g.releaseProcess()
	g.workers.stop()
	g.handshakes.crew.stop()
	g.sweeper.Close()
	g.registry.Close()
	if a := g.access.Load(); a != nil {
		_ = a.Close()
	}
}

// backendDrains are the drains of tunnels of single backends. Guarded by Gateway.reloadMu.
type backendDrains map[drainKey]backendDrain

type backendDrain struct {
	*relay.Draining
	of *upstream.Backend // one of them, if the settings have changed
}

// drainKey names a backend. Its settings are no part of it: tunnels from before and after a
// change of them are one drain, with one pacing.
type drainKey struct{ upstream, label string }

// drainBackendsLocked closes the tunnels to backends that are drained or gone, in the pacing
// of the window, and stops doing so for backends that are back.
func (g *Gateway) drainBackendsLocked(snap *Snapshot, window time.Duration) {
	if g.tunnels == nil {
		return
	}
	drained := map[drainKey]*upstream.Backend{} // those with tunnels
	for _, owner := range g.owners.list() {
		if set := snap.sets[owner.labels.Upstream]; set == nil || set.Drains(owner.backend) {
			drained[drainKey{owner.labels.Upstream, owner.labels.Backend}] = owner.backend
		}
	}
	for key, d := range g.backends {
		if drained[key] == nil {
			d.Cancel()
			delete(g.backends, key)
		}
	}
	for key, b := range drained {
		if _, ok := g.backends[key]; ok {
			continue
		}
		d := g.tunnels.Drain(relay.DrainOptions{
			Match:  func(l *relay.Labels) bool { return l.Upstream == key.upstream && l.Backend == key.label },
			Window: window, Code: uint16(snap.cfg.Drain.CloseCode), Reason: reason.Draining, Sticky: true,
		})
		g.backends[key] = backendDrain{d, b}
		g.log.Info().Str("upstream", key.upstream).Str("backend", key.label).Int("tunnels", d.Total()).Stringer("window", window).Msg("draining the tunnels of a backend")
	}
}

// drainLate closes a tunnel that was on its way while its backend began to be drained.
func (g *Gateway) drainLate(owner *tunnelOwner) {
	set := g.snap.Load().sets[owner.labels.Upstream]
	if set != nil && !set.Drains(owner.backend) {
		return
	}
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	snap := g.snap.Load()
	g.drainBackendsLocked(snap, snap.cfg.Drain.Window)
}

// list returns the owners of open tunnels.
func (o *tunnelOwners) list() []*tunnelOwner {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*tunnelOwner, 0, len(o.all))
	for _, owner := range o.all {
		out = append(out, owner)
	}
	return out
}
