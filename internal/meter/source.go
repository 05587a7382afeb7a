package meter

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Source is where the figures of open tunnels and event loops come from: those who hold them
// are asked when the metrics are read. A nil field is a part that is not there.
type Source struct {
	// OpenTunnels calls emit for each route and mode that has open tunnels, once or in parts,
	// with their number and what went through them since they were opened.
	OpenTunnels func(emit func(route string, mode TunnelMode, open int, flows Flows))
	// Draining calls emit for each listener with tunnels that were told to close, once or in
	// parts: they are shown as draining in place of relayed.
	Draining func(emit func(listener string, tunnels int))
	// Relay returns the figures of all open tunnels together.
	Relay func() RelayFigures
	// Loops returns the figures of the event loops, by their numbers.
	Loops func() []LoopFigures
}

// RelayFigures tells about the relay as a whole: now, and since the start.
type RelayFigures struct {
	Queued  int // bytes that wait for one side of a tunnel to take them
	Paused  int // tunnels of which one side is not read, as the other does not take its bytes
	Delayed int // tunnels whose client is not read, as it sends more than its rate

	Pauses       uint64 // how often a tunnel began to be Paused
	Pings, Pongs uint64 // pings sent by the gateway, and answers to them
}

// LoopFigures tells about one event loop, since the start unless something else is said.
type LoopFigures struct {
	Wakes  uint64 // turns
	Events uint64 // socket events
	Posts  uint64 // functions that others gave it to run
	Agains uint64 // times that a connection had more to do and let others go first
	Panics uint64 // bugs caught
	// Lag holds the durations of its turns: how long an event may have had to wait for others.
	Lag    Buckets
	MaxLag time.Duration // the longest turn since the last reading
}

// Watch sets where the figures of open tunnels and event loops come from.
func (m *Meter) Watch(s Source) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.source = s
}

// openTunnels is what a Source tells of one route.
type openTunnels struct {
	open  [numTunnelModes]int
	flows Flows
}

// ask collects the open tunnels by route.
func (s *Source) ask() map[string]*openTunnels {
	all := map[string]*openTunnels{}
	if s.OpenTunnels == nil {
		return all
	}
	s.OpenTunnels(func(route string, mode TunnelMode, open int, flows Flows) {
		o := all[route]
		if o == nil {
			o = &openTunnels{}
			all[route] = o
		}
		if mode < numTunnelModes {
			o.open[mode] += open
		}
		o.flows.add(flows)
	})
	return all
}

// writeTunnels writes what is known about tunnels.
func (m *Meter) writeTunnels(w *bytes.Buffer, tunnels []*Tunnel, s *Source) {
	for i, r := range m.reasons {
		fmt.Fprintf(w, "tickgate_tunnel_ends_total{reason=%q} %d\n", r, m.tunnelEnds[i].Load())
	}
	m.flowMu.Lock()
	defer m.flowMu.Unlock()
	// First what has ended, then what is open: a tunnel that ends in between is missing from
	// both and not in both. So a sum may be too low for one reading, but writeFlows never
	// lets it fall, which would look like a restart.
	ended := make([]Flows, len(tunnels))
	for i, t := range tunnels {
		ended[i] = t.ended()
	}
	open := s.ask()
	for i, t := range tunnels {
		label := Label("route", t.route)
		o := open[t.route]
		if o == nil {
			o = &openTunnels{}
		}
		delete(open, t.route)
		writeOpen(w, label, o)
		t.writeCounts(w, label)
		ended[i].add(o.flows)
		t.shown.atLeast(ended[i])
		writeFlows(w, label, &t.shown)
	}
	// Tunnels that were never counted as opened are shown all the same.
	for _, route := range slices.Sorted(maps.Keys(open)) {
		writeOpen(w, Label("route", route), open[route])
	}
	m.writeRelay(w, s)
}

func writeOpen(w *bytes.Buffer, label string, o *openTunnels) {
	for mode := range numTunnelModes {
		fmt.Fprintf(w, "tickgate_tunnels{%s,mode=%q} %d\n", label, mode, o.open[mode])
	}
}

func (t *Tunnel) writeCounts(w *bytes.Buffer, label string) {
	for mode := range numTunnelModes {
		fmt.Fprintf(w, "tickgate_tunnels_opened_total{%s,mode=%q} %d\n", label, mode, t.opened[mode].Load())
	}
	for limit := range numTunnelLimits {
		fmt.Fprintf(w, "tickgate_tunnels_refused_total{%s,limit=%q} %d\n", label, limit, t.refused[limit].Load())
	}
	for i := range t.ends {
		if n := t.ends[i].Load(); n != nil {
			fmt.Fprintf(w, "tickgate_tunnels_closed_total{%s,reason=%q} %d\n", label, t.meter.reasons[i], n.Load())
		}
	}
	WriteHistogram(w, "tickgate_tunnel_lifetime_seconds", label, t.lifetime.Buckets())
}

func writeFlows(w *bytes.Buffer, label string, f *Flows) {
	const messages = "tickgate_tunnel_messages_total{%s,direction=%q,kind=%q} %d\n"
	for _, way := range []struct {
		word string
		flow *Flow
	}{{"to_client", &f.ToClient}, {"to_backend", &f.ToBackend}} {
		fmt.Fprintf(w, "tickgate_tunnel_bytes_total{%s,direction=%q} %d\n", label, way.word, way.flow.Bytes)
		fmt.Fprintf(w, messages, label, way.word, "text", way.flow.Text)
		fmt.Fprintf(w, messages, label, way.word, "binary", way.flow.Binary)
		fmt.Fprintf(w, messages, label, way.word, "control", way.flow.Control)
	}
}

// writeRelay writes the figures of the relay and of the event loops.
func (m *Meter) writeRelay(w *bytes.Buffer, s *Source) {
	relay := RelayFigures{}
	if s.Relay != nil {
		relay = s.Relay()
	}
	fmt.Fprintf(w, "tickgate_tunnel_queued_bytes %d\n", relay.Queued)
	fmt.Fprintf(w, "tickgate_tunnels_paused{cause=\"queue\"} %d\n", relay.Paused)
	fmt.Fprintf(w, "tickgate_tunnels_paused{cause=\"rate\"} %d\n", relay.Delayed)
	fmt.Fprintf(w, "tickgate_tunnel_pauses_total %d\n", relay.Pauses)
	fmt.Fprintf(w, "tickgate_tunnel_pings_total %d\n", relay.Pings)
	fmt.Fprintf(w, "tickgate_tunnel_pongs_total %d\n", relay.Pongs)
	if s.Loops == nil {
		return
	}
	for i, l := range s.Loops() {
		label := Label("loop", strconv.Itoa(i))
		fmt.Fprintf(w, "tickgate_loop_wakes_total{%s} %d\n", label, l.Wakes)
		fmt.Fprintf(w, "tickgate_loop_events_total{%s} %d\n", label, l.Events)
		fmt.Fprintf(w, "tickgate_loop_posts_total{%s} %d\n", label, l.Posts)
		fmt.Fprintf(w, "tickgate_loop_agains_total{%s} %d\n", label, l.Agains)
		fmt.Fprintf(w, "tickgate_loop_panics_total{%s} %d\n", label, l.Panics)
		fmt.Fprintf(w, "tickgate_loop_lag_max_seconds{%s} %s\n", label, secondsText(l.MaxLag))
		WriteHistogram(w, "tickgate_loop_lag_seconds", label, l.Lag)
	}
}
