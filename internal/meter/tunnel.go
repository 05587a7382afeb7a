package meter

import (
	"sync/atomic"
	"time"

	"tickgate/internal/reason"
)

// TunnelMode is how a tunnel is treated. Its numbers are those of relay.Mode.
type TunnelMode uint8

// Modes of a tunnel.
const (
	OpaqueTunnel TunnelMode = iota // bytes are passed on
	FramesTunnel                   // WebSocket frames are followed
	numTunnelModes
)

var tunnelModeWords = [numTunnelModes]string{"opaque", "frames"}

// String returns the word used as the metric label.
func (t TunnelMode) String() string {
	if t >= numTunnelModes {
		return "unknown"
	}
	return tunnelModeWords[t]
}

// TunnelLimit is a limit on tunnels; its word is that of its key.
type TunnelLimit uint8

// Limits on tunnels.
const (
	TunnelsMax          TunnelLimit = iota // tunnels.max
	TunnelsMaxPerClient                    // tunnels.max_per_client
	TunnelMax                              // tunnel.max of the route
	TunnelMaxPerClient                     // tunnel.max_per_client of the route
	numTunnelLimits
)

var tunnelLimitWords = [numTunnelLimits]string{"tunnels.max", "tunnels.max_per_client", "tunnel.max", "tunnel.max_per_client"}

// String returns the key of the limit, as it stands in the metric label.
func (l TunnelLimit) String() string {
	if l >= numTunnelLimits {
		return "unknown"
	}
	return tunnelLimitWords[l]
}

// Flow is what went one way through tunnels. Messages are counted in frames mode only.
type Flow struct {
	Bytes                 uint64
	Text, Binary, Control uint64 // messages; a control frame is one
}

func (f *Flow) add(o Flow) {
	f.Bytes += o.Bytes
	f.Text += o.Text
	f.Binary += o.Binary
	f.Control += o.Control
}

// Flows is what went both ways.
type Flows struct{ ToClient, ToBackend Flow }

func (f *Flows) add(o Flows) {
	f.ToClient.add(o.ToClient)
	f.ToBackend.add(o.ToBackend)
}

// atLeast raises each figure to that of o.
func (f *Flows) atLeast(o Flows) {
	for _, way := range []struct{ to, from *Flow }{{&f.ToClient, &o.ToClient}, {&f.ToBackend, &o.ToBackend}} {
		way.to.Bytes = max(way.to.Bytes, way.from.Bytes)
		way.to.Text = max(way.to.Text, way.from.Text)
		way.to.Binary = max(way.to.Binary, way.from.Binary)
		way.to.Control = max(way.to.Control, way.from.Control)
	}
}

// flowCounts is a Flow that many goroutines add to.
type flowCounts struct{ bytes, text, binary, control atomic.Uint64 }

func (c *flowCounts) add(f Flow) {
	c.bytes.Add(f.Bytes)
	c.text.Add(f.Text)
	c.binary.Add(f.Binary)
	c.control.Add(f.Control)
}

func (c *flowCounts) load() Flow {
	return Flow{Bytes: c.bytes.Load(), Text: c.text.Load(), Binary: c.binary.Load(), Control: c.control.Load()}
}

// tunnelLifetimes are the bounds of the histogram of lifetimes: from a client that reconnects
// in a loop to one that stays for a week.
var tunnelLifetimes = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
	3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour,
}

// Tunnel counts the tunnels of one route. Its methods are a few atomic additions each and
// block nowhere, so that an event loop may call them.
type Tunnel struct {
	// Static after construction.
	meter *Meter
	route string

	open     atomic.Int64 // opened and not yet ended
	opened   [numTunnelModes]atomic.Uint64
	refused  [numTunnelLimits]atomic.Uint64
	lifetime *Histogram
	// ends holds the reasons that occurred. They are made when they first do.
	ends []atomic.Pointer[atomic.Uint64]
	// What went through the tunnels that have ended.
	toClient, toBackend flowCounts

	shown Flows // what was last written; guarded by meter.flowMu

	refs int // guarded by meter.mu
}

// Tunnel returns the metrics of the tunnels of the route called name, which are shared by
// all snapshots that have such a route. Each call must be followed by one of Retire.
func (m *Meter) Tunnel(name string) *Tunnel {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tunnels[name]
	if t == nil {
		t = &Tunnel{meter: m, route: name, lifetime: NewHistogram(tunnelLifetimes...), ends: make([]atomic.Pointer[atomic.Uint64], len(m.reasons))}
		m.tunnels[name] = t
	}
	t.refs++
	return t
}

// Retire says that a snapshot with this route is gone. With the last one the series go too,
// as soon as none of the route's tunnels is open: a tunnel keeps no snapshot, but it may keep
// its Tunnel.
func (t *Tunnel) Retire() {
	m := t.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	t.refs--
	if t.refs < 0 {
		panic("BUG: meter: tunnels of route " + t.route + " retired more often than acquired")
	}
}

// unusedLocked reports whether the series may go. It needs meter.mu.
func (t *Tunnel) unusedLocked() bool { return t.refs == 0 && t.open.Load() == 0 }

// Opened counts a tunnel that was opened. One of Ended must follow.
func (t *Tunnel) Opened(mode TunnelMode) {
	t.open.Add(1)
	if mode < numTunnelModes {
		t.opened[mode].Add(1)
	}
}

// Ended counts the end of a tunnel that was open for a lifetime, and what went through it.
// It allocates for the first end of its kind only.
func (t *Tunnel) Ended(lifetime time.Duration, why reason.Reason, flows Flows) {
	t.toClient.add(flows.ToClient)
	t.toBackend.add(flows.ToBackend)
	t.lifetime.Add(lifetime)
	if int(why) < len(t.ends) {
		t.meter.tunnelEnds[why].Add(1)
		t.endCounter(why).Add(1)
	}
	// Last: a retired Tunnel without an open one is no longer read.
	t.open.Add(-1)
}

// Refused counts an upgrade that a limit refused.
func (t *Tunnel) Refused(by TunnelLimit) {
	if by < numTunnelLimits {
		t.refused[by].Add(1)
	}
}

func (t *Tunnel) endCounter(why reason.Reason) *atomic.Uint64 {
	p := &t.ends[why]
	if c := p.Load(); c != nil {
		return c
	}
	p.CompareAndSwap(nil, new(atomic.Uint64))
	return p.Load()
}

// ended returns what went through the tunnels that have ended.
func (t *Tunnel) ended() Flows {
	return Flows{ToClient: t.toClient.load(), ToBackend: t.toBackend.load()}
}
