package proxy

import (
	"errors"
	"runtime"
	"sync"

	"tickgate/config"
	"tickgate/internal/meter"
	"tickgate/limiter"
	"tickgate/proxy/park"
	"tickgate/proxy/reactor"
	"tickgate/proxy/relay"
	"tickgate/tlsterm"
)

// startLoops starts the event loops with the lot and the relay on them, where the system
// has epoll.
func (g *Gateway) startLoops(cfg *config.Config) error {
	loops, err := reactor.New(reactor.Options{Loops: loopCount(cfg), Log: g.logLoop, Courteous: g.handshakes.gate.Crowded})
	if errors.Is(err, reactor.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	g.loops = loops
	g.lot = park.New(park.Options{Group: loops, Wake: g.wake})
	g.tunnels = relay.New(relay.Options{Group: loops, Ended: g.tunnelEnded, Trim: tlsterm.Trim})
	g.meter.Watch(meter.Source{OpenTunnels: g.openTunnels, Draining: g.drainingTunnels, Relay: g.relayFigures, Loops: g.loopFigures})
	loops.Start()
	return nil
}

// loopCount is one loop for every two processors by default: at 10,000 messages a second over
// 1,000 tunnels on two processors, one loop took 20 to 27 us of CPU for a message, two 25 to 30
// (nginx 21 to 27; three runs of each in turn on a busy machine).
func loopCount(cfg *config.Config) int {
	if cfg.Workers.Loops > 0 {
		return cfg.Workers.Loops
	}
	return (runtime.GOMAXPROCS(0) + 1) / 2
}

func (g *Gateway) logLoop(event string, err error) {
	if e := g.log.Event(errorLevel, event); e != nil {
		e.Err(err).Msg("event loop")
	}
}

// lobby is how many workers there are beyond those that serve and those that wait for
// their turn: they read heads, and refuse what has waited for too long.
const lobby = 64

// crewSize is the most workers of a configuration.
func crewSize(cfg *config.Config) int { return cfg.Workers.Max + queueSize(cfg) + lobby }

// minQueue is the queue of a configuration that leaves its size open, at least.
const minQueue = 1024

func queueSize(cfg *config.Config) int {
	if cfg.Workers.Queue > 0 {
		return cfg.Workers.Queue
	}
	return max(minQueue, cfg.Workers.Max)
}

// gateLimits are the limits on requests served at once. Workers are reserved only if there
// is someone to use them.
func gateLimits(cfg *config.Config) limiter.GateLimits {
	l := limiter.GateLimits{Max: cfg.Workers.Max, MaxWait: cfg.Workers.QueueTimeout, MaxQueue: queueSize(cfg)}
	for _, r := range cfg.Routes {
		if r.Priority == limiter.Critical.String() {
			l.Reserved = min((cfg.Workers.Max*cfg.Workers.Reserved+99)/100, cfg.Workers.Max-1)
		}
	}
	return l
}

// relayFigures and loopFigures tell the metrics about the event loops.
func (g *Gateway) relayFigures() meter.RelayFigures {
	st := g.tunnels.Stats()
	return meter.RelayFigures{Queued: st.Queued, Paused: st.Paused, Delayed: st.Delayed, Pauses: st.Pauses, Pings: st.Pings, Pongs: st.Pongs}
}

func (g *Gateway) loopFigures() []meter.LoopFigures {
	out := make([]meter.LoopFigures, 0, runtime.GOMAXPROCS(0))
	for _, st := range g.loops.Stats() {
		out = append(out, meter.LoopFigures{
			Wakes: st.Wakes, Events: st.Events, Posts: st.Posts, Agains: st.Agains, Panics: st.Panics, MaxLag: st.MaxTurn,
			Lag: meter.Buckets{Bounds: reactor.LagBounds[:], Counts: st.Lag[:], Sum: st.SumTurns},
		})
	}
	return out
}

// listenerTable finds listeners by the number that parked connections keep.
type listenerTable struct {
	mu  sync.RWMutex
	all []*listener // guarded by mu; nil where free
}

// add gives ln a number. Listeners that are closed and empty give theirs up.
func (t *listenerTable) add(ln *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, old := range t.all {
		if old == nil || old.gone.Load() && old.retired.Load() && old.open.Load() == 0 {
			ln.index, t.all[i] = uint32(i), ln
			return
		}
	}
	ln.index = uint32(len(t.all))
	t.all = append(t.all, ln)
}

// listener returns the listener of a parked connection.
func (g *Gateway) listener(index uint32) *listener {
	g.byIndex.mu.RLock()
	defer g.byIndex.mu.RUnlock()
	return g.byIndex.all[index]
}
