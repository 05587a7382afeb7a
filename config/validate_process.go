package config

import (
	"cmp"
	"fmt"
	"time"
)

// workers judges who gets a worker and how long connections keep theirs.
func (v *validator) workers() {
	w, def := v.cfg.Workers, defaultOf[Workers]()
	if w.QueueTimeout == 0 && w.Queue > 0 {
		v.warn("workers.queue", "has no effect, since workers.queue_timeout is 0s")
	}
	if idle := v.cfg.Timeouts.Idle; w.ParkAfter >= idle {
		v.warn("workers.park_after", "is not shorter than timeouts.idle (%s): connections close before they park", durationText(idle))
	}
	byPriority := map[string]int{}
	for _, r := range v.cfg.Routes {
		byPriority[r.Priority]++
	}
	critical := byPriority["critical"]
	switch {
	case v.hasBroken("routes"):
		// How many are critical is not known.
	case critical == 0 && w.Reserved != def.Reserved:
		v.warn("workers.reserved_percent", "has no effect: no route has priority critical")
	case critical == 0:
	case critical == len(v.cfg.Routes) && critical > 1:
		v.warn("routes", "every route is critical, so none goes before another")
	case w.Reserved == 0:
		v.warn("workers.reserved_percent", "no worker is kept for the critical routes")
	case w.Max < 100 && w.Max*w.Reserved < 100:
		v.warn(cmp.Or(v.firstSet("workers.max", "workers.reserved_percent"), "workers"),
			"%d%% of %d is less than one worker, so none is kept for the critical routes", w.Reserved, w.Max)
	}
}

// leastMemory is what a small gateway needs: below, the collector would hardly ever pause.
const leastMemory = 64 << 20

// memory judges the settings of the garbage collector.
func (v *validator) memory() {
	m, def := v.cfg.Memory, defaultOf[Config]().Memory
	if m.Limit > 0 && m.Limit < leastMemory {
		v.warn("memory.limit", "is less than a gateway needs (64MiB): processor time will go into collecting garbage")
		return
	}
	switch {
	case m.Adaptive && m.Limit > 0 && m.MaxHeadroom > m.Limit:
		v.warn("memory.max_headroom", "is more than memory.limit (%s)", m.Limit)
	case m.Adaptive && m.MinHeadroom > m.MaxHeadroom:
		v.warn("memory.min_headroom", "is more than memory.max_headroom (%s): the floor wins", m.MaxHeadroom)
	case m.Adaptive:
	default:
		if m.MinHeadroom != def.MinHeadroom {
			v.warn("memory.min_headroom", "has no effect, since adaptive_gc is false")
		}
		if m.MaxHeadroom != def.MaxHeadroom {
			v.warn("memory.max_headroom", "has no effect, since adaptive_gc is false")
		}
		if m.Headroom != def.Headroom {
			v.warn("memory.headroom_percent", "has no effect, since adaptive_gc is false")
		}
	}
}

// watchdog judges how leaks are looked for.
func (v *validator) watchdog() {
	w, def := v.cfg.Watchdog, defaultOf[Config]().Watchdog
	if w.Interval == 0 {
		for _, one := range []struct {
			key     string
			changed bool
		}{{"looks", w.Looks != def.Looks}, {"min_growth", w.MinGrowth != def.MinGrowth}} {
			if one.changed {
				v.warn("watchdog."+one.key, "has no effect, since watchdog.interval is 0s")
			}
		}
		return
	}
	const shortest = time.Minute
	if looks := time.Duration(w.Looks); w.Interval < shortest/looks {
		v.warn(cmp.Or(v.firstSet("watchdog.interval", "watchdog.looks"), "watchdog"),
			"looks back on %s only (interval × looks): ordinary growth may be called a leak", durationText(w.Interval*looks))
	}
}

// descriptorNeeds returns how many file descriptors the limits allow to be open, and what for.
func (v *validator) descriptorNeeds() (need uint64, shown string) {
	clients, clientsText := v.clientLimit()
	backends := uint64(0)
	for name, u := range v.cfg.Upstreams {
		backends += uint64(len(u.Servers)) * uint64(u.Pool.MaxConns) * uint64(max(1, len(v.tagsOf(name))))
	}
	shown = fmt.Sprintf("%s and %d connections to backends (servers × pool.max_conns × route tags)", clientsText, backends)
	// A tunnel has two: that of its client, and one to its backend that is in no pool.
	if tunnels := v.tunnelLimit(); tunnels > 0 {
		if v.cfg.Connections.Max > 0 {
			tunnels = min(tunnels, clients)
		}
		clients = max(clients, tunnels)
		need += tunnels
		shown += fmt.Sprintf(", and %d tunnels take a second one each", tunnels)
	}
	// An event loop has two: its epoll instance, and what wakes it.
	need += clients + backends + uint64(len(v.cfg.Listeners)) + 2*uint64(v.cfg.Workers.Loops) + reservedDescriptors
	return need, shown
}

// clientLimit returns how many clients may be connected, and how to say so. Where nothing
// bounds them, it is what the listeners say, if anything.
func (v *validator) clientLimit() (n uint64, shown string) {
	if most := v.cfg.Connections.Max; most > 0 {
		return uint64(most), fmt.Sprintf("%d clients", most)
	}
	for _, l := range v.cfg.Listeners {
		n += uint64(l.MaxConnections)
	}
	return n, "any number of clients (connections.max is 0)"
}

// tunnelLimit returns how many tunnels may be open: over all routes, or else on those that
// have a limit.
func (v *validator) tunnelLimit() (n uint64) {
	if most := v.cfg.Tunnels.Max; most > 0 {
		return uint64(most)
	}
	for _, r := range v.cfg.Routes {
		if r.Upstream != "" && r.WebSocket {
			n += uint64(r.Tunnel.Max)
		}
	}
	return n
}
