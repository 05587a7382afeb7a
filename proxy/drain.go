package proxy

import (
	"context"
	"time"

	"tickgate/internal/reason"
)

// Drain ends the gateway without losing a request: readiness fails, after
// drain.grace the listeners close, idle connections close, and requests in flight
// finish, for drain.timeout at most or until ctx ends. It returns the number of
// connections that had to be cut.
func (g *Gateway) Drain(ctx context.Context) (cut int) {
	cfg := g.CurrentConfig().Drain
	g.draining.Store(true)
	g.log.Info().Dur("grace", cfg.Grace).Dur("timeout", cfg.Timeout).Int("connections", len(g.connections())).Msg("draining")
	wait(ctx, cfg.Grace)
	g.closeListeners()
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	g.awaitIdle(ctx)
	rest := g.connections()
	for _, c := range rest {
		c.kill(reason.ShutDown)
	}
	g.stop()
	g.log.Info().Int("cut", len(rest)).Msg("drained")
	return len(rest)
}

// drainRound is how often connections that became idle meanwhile are looked for.
const drainRound = 20 * time.Millisecond

// awaitIdle closes connections as they become idle until none is left.
func (g *Gateway) awaitIdle(ctx context.Context) {
	for ctx.Err() == nil {
		open := g.connections()
		if len(open) == 0 {
			return
		}
		for _, c := range open {
			c.closeIfIdle()
		}
		wait(ctx, drainRound)
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
	for _, c := range g.connections() {
		c.kill(reason.ShutDown)
	}
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
	g.registry.Close()
	if a := g.access.Load(); a != nil {
		_ = a.Close()
	}
}
