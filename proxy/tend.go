package proxy

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/config"
	"tickgate/internal/gctune"
	"tickgate/internal/watchdog"
)

// tend does what is to be done now and then.
func (g *Gateway) tend() {
	t := time.NewTicker(crewRound)
	defer t.Stop()
	var expiries expiryWatch
	for {
		select {
		case now := <-t.C:
			g.workers.trim(now)
			g.handshakes.crew.trim(now)
			g.handshakes.gate.Trim()
			g.watchExpiries(&expiries, now)
		case <-g.quit:
			return
		}
	}
}

// countSnapshot counts s for as long as anything references it.
func (g *Gateway) countSnapshot(s *Snapshot) {
	g.snaps.Add(1)
	runtime.AddCleanup(s, func(n *snapshotCount) { n.Add(-1) }, &g.snaps)
}

// takeProcess tunes the garbage collector and watches for leaks, both of the whole process.
func (g *Gateway) takeProcess(cfg *config.Config) {
	g.tuner = gctune.New(cfg.Memory)
	g.watchdog = watchdog.New(cfg.Watchdog, watchdog.Hooks{
		Sample: g.sample, Holders: g.holders, Report: g.reportLeak, Cleared: g.reportCleared,
	})
}

// tuneProcess goes over to the settings of a reload.
func (g *Gateway) tuneProcess(cfg *config.Config) {
	if g.tuner != nil {
		g.tuner.SetOptions(cfg.Memory)
		g.watchdog.SetOptions(cfg.Watchdog)
	}
}

func (g *Gateway) releaseProcess() {
	if g.tuner != nil {
		g.watchdog.Close()
		g.tuner.Close()
	}
}

// The kinds of descriptors that the gateway knows to hold.
const (
	clientFDs   = "client"
	backendFDs  = "backend"
	listenerFDs = "listener"
)

// sample tells the watchdog what the process holds, and what of it has an owner.
func (g *Gateway) sample() watchdog.Sample {
	fds := &g.meter.FDs
	workers, _ := g.workers.size()
	shaking, _ := g.handshakes.crew.size()
	return watchdog.Sample{
		FDs:        watchdog.OpenFDs(),
		Goroutines: runtime.NumGoroutine(),
		Busy:       workers + shaking,
		ByKind: []watchdog.Count{
			{Name: clientFDs, N: int(fds.Client.Load())},
			{Name: backendFDs, N: int(fds.Backend.Load())},
			{Name: listenerFDs, N: int(fds.Listener.Load())},
		},
		Open:    g.owned(),
		Traffic: g.nextID.Load() + g.meter.Requests(),
	}
}

// owned counts the descriptors that someone can close: those of connections with a
// worker, in the lot, waiting for a worker, tunnels, pools and listeners.
func (g *Gateway) owned() int {
	n := len(g.connections()) + int(g.meter.FDs.Listener.Load())
	if g.lot != nil {
		n += g.lot.Len() + 2*g.tunnels.Count()
		n += int(g.workers.waiting.Load()+g.handshakes.crew.waiting.Load()) + g.handshakes.gate.Stats().Queued
	}
	for _, set := range g.snap.Load().sets {
		for _, b := range set.Status().Backends {
			for _, p := range b.Pools {
				n += p.Idle + p.InUse
			}
		}
	}
	return n
}

// holders names the oldest connections.
func (g *Gateway) holders(kind string, n int) []string {
	if kind != clientFDs {
		return nil
	}
	var all []*connView
	g.each(func(v *connView) { all = append(all, v) })
	slices.SortFunc(all, func(x, y *connView) int { return cmp.Compare(x.id, y.id) })
	var out []string
	for _, v := range all[:min(n, len(all))] {
		out = append(out, fmt.Sprintf("connection %d from %s, %s, %v old", v.id, peerText(v.peer), v.state, time.Since(v.since).Round(time.Second)))
	}
	return out
}

func (g *Gateway) reportLeak(v watchdog.Verdict) {
	g.log.Warn().Str("kind", v.Kind).Str("which", v.Which).Str("detail", v.Detail).Int("growth", v.Growth).Strs("oldest", v.Oldest).
		Msg("leak suspected: grows without traffic that explains it")
}

func (g *Gateway) reportCleared(v watchdog.Verdict) {
	g.log.Info().Str("kind", v.Kind).Str("which", v.Which).Int("growth", v.Growth).Msg("suspected leak has ended")
}

// writeRuntime writes what is known of the process as a whole.
func (g *Gateway) writeRuntime(w io.Writer) {
	metrics.WriteGaugeUint64(w, "tickgate_goroutines", uint64(runtime.NumGoroutine()))
	leaks := map[string]uint64{}
	var gc gctune.Stats
	if g.tuner != nil {
		gc = g.tuner.Stats()
		for _, l := range g.watchdog.Leaks() {
			leaks[l.Kind] = 1
		}
	}
	for _, kind := range []string{watchdog.Descriptors, watchdog.Goroutines} {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_leak_suspected{kind=%q}", kind), leaks[kind])
	}
	limit := uint64(gc.Limit)
	if gc.Limit == math.MaxInt64 {
		limit = 0
	}
	metrics.WriteGaugeUint64(w, "tickgate_gc_live_bytes", gc.Live)
	metrics.WriteGaugeFloat64(w, "tickgate_gc_gogc_percent", float64(gc.GOGC))
	metrics.WriteGaugeUint64(w, "tickgate_gc_limit_bytes", limit)
	metrics.WriteCounterUint64(w, "tickgate_gc_cycles_total", gc.Cycles)
	metrics.WriteCounterFloat64(w, "tickgate_gc_cpu_seconds_total", gc.GCCPU)
}
