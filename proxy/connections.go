package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/tcpinfo"
	"tickgate/proxy/park"
	"tickgate/proxy/relay"
)

// connView is one connection as it was found: with a worker, in the lot, or a tunnel.
type connView struct {
	id       uint64
	listener string
	peer     netip.AddrPort
	state    meter.ConnState
	since    time.Time
	requests int
	queued   int
	inspect  func(f func(fd int)) bool
	note     any         // of its seat, once its handshake is over
	tunnel   *relay.Info // nil for others
}

// connStatus is a connection in the admin API.
type connStatus struct {
	ID       uint64  `json:"id"`
	Listener string  `json:"listener"`
	Peer     string  `json:"peer"`
	State    string  `json:"state"`
	Age      float64 `json:"age_seconds"`
	Requests int     `json:"requests,omitempty"`
	JA4      string  `json:"tls_ja4,omitempty"`
	// Who the client proved to be: SPIFFE ID, or subject, or fingerprint of its certificate.
	Identity string `json:"identity,omitempty"`
	// Of tunnels.
	Route     string  `json:"route,omitempty"`
	Upstream  string  `json:"upstream,omitempty"`
	Backend   string  `json:"backend,omitempty"`
	Mode      string  `json:"mode,omitempty"`
	Silent    float64 `json:"silent_seconds,omitempty"`
	Queued    int     `json:"queued_bytes"` // here and in the kernel, to be sent to the client
	ToClient  *flow   `json:"to_client,omitempty"`
	ToBackend *flow   `json:"to_backend,omitempty"`
	// Of the client's TCP connection; absent for Unix sockets and where the system does not tell.
	RTT         *float64 `json:"rtt_ms,omitempty"`
	Retransmits *uint32  `json:"retransmits,omitempty"`
}

// flow is what went one way through a tunnel.
type flow struct {
	Bytes    uint64 `json:"bytes"`
	Messages uint64 `json:"messages,omitempty"`
}

// each calls f for every open connection.
func (g *Gateway) each(f func(*connView)) {
	for _, c := range g.connections() {
		f(c.view())
	}
	if g.lot == nil {
		return
	}
	g.lot.Each(func(i park.Info) bool {
		if i.Phase != park.Shake { // that one has a worker
			f(g.parkedView(&i))
		}
		return true
	})
	g.tunnels.Each(func(i relay.Info) bool {
		f(tunnelView(&i))
		return true
	})
}

func (c *clientConn) view() *connView {
	v := &connView{
		id: c.id, listener: c.ln.name, peer: c.peer, state: meter.ConnState(c.state.Load()),
		since: c.since, inspect: c.sk.Inspect,
	}
	if n := c.note.Load(); n != nil {
		v.note = n
	}
	return v
}

func (g *Gateway) parkedView(i *park.Info) *connView {
	v := &connView{
		id: i.ID, listener: g.listener(i.Owner).name, peer: i.Peer, state: stateOf(i.Phase),
		since: time.Unix(0, i.Since), requests: int(i.Served), inspect: look(i.FD), note: i.Note,
	}
	if i.Phase == park.Linger {
		v.requests = 0
	}
	return v
}

func tunnelView(i *relay.Info) *connView {
	state := meter.Relayed
	if i.Draining {
		state = meter.Draining
	}
	return &connView{
		id: i.ID, listener: i.Labels.Listener, peer: i.Peer, state: state, since: i.Since, queued: i.Queued,
		inspect: look(i.ClientFD), note: i.Note, tunnel: i,
	}
}

// look makes an inspect of a descriptor that someone else owns: by now it may be closed
// or another connection's, whose figures are then shown for once.
func look(fd int) func(func(fd int)) bool {
	return func(f func(fd int)) bool {
		f(fd)
		return true
	}
}

// passes reports whether a connection is wanted. The route is known of tunnels only.
func (v *connView) passes(f *admin.ConnFilter, now time.Time) bool {
	age := now.Sub(v.since)
	return (f.ID == 0 || f.ID == v.id) &&
		(f.Listener == "" || f.Listener == v.listener) &&
		(f.State == "" || f.State == v.state.String()) &&
		(f.Route == "" || v.tunnel != nil && v.tunnel.Labels.Route == f.Route) &&
		(!f.Peer.IsValid() || f.Peer.Contains(v.peer.Addr())) &&
		age >= f.MinAge && (f.MaxAge == 0 || age <= f.MaxAge)
}

// status adds what the kernel knows.
func (v *connView) status(now time.Time) *connStatus {
	st := &connStatus{
		ID: v.id, Listener: v.listener, Peer: peerText(v.peer), State: v.state.String(), Age: now.Sub(v.since).Seconds(),
		Requests: v.requests, Queued: v.queued,
	}
	if n, ok := v.note.(*tlsNote); ok {
		st.JA4 = n.ja4
		if n.identity != nil {
			st.Identity = n.identity.Name()
		}
	}
	if t := v.tunnel; t != nil {
		st.Route, st.Upstream, st.Backend, st.Mode = t.Labels.Route, t.Labels.Upstream, t.Labels.Backend, t.Mode.String()
		st.Silent = max(0, now.Sub(t.LastActive).Seconds())
		st.ToClient = &flow{t.ToClient.Bytes, t.ToClient.Messages}
		st.ToBackend = &flow{t.ToBackend.Bytes, t.ToBackend.Messages}
	}
	v.inspect(func(fd int) {
		if info, ok := tcpinfo.Of(fd); ok {
			rtt := float64(info.RTT) / float64(time.Millisecond)
			st.RTT, st.Retransmits = &rtt, &info.Retransmits
			st.Queued += info.SendQueue
		}
	})
	return st
}

// Connections implements admin.Gateway.
func (a Admin) Connections(f admin.ConnFilter) any {
	now := time.Now()
	var views []*connView
	a.each(func(v *connView) {
		if v.passes(&f, now) {
			views = append(views, v)
		}
	})
	slices.SortFunc(views, func(x, y *connView) int { return cmp.Compare(x.id, y.id) }) // the oldest first
	if f.Sort == admin.ByAge && f.MinQueued == 0 && len(views) > f.Limit {
		views = views[:f.Limit] // nothing of the others is needed
	}
	out := make([]*connStatus, 0, len(views))
	for _, v := range views {
		if st := v.status(now); st.Queued >= int(f.MinQueued) {
			out = append(out, st)
		}
	}
	switch f.Sort {
	case admin.ByQueued:
		slices.SortStableFunc(out, func(x, y *connStatus) int { return cmp.Compare(y.Queued, x.Queued) })
	case admin.ByRTT:
		slices.SortStableFunc(out, func(x, y *connStatus) int { return cmp.Compare(y.rtt(), x.rtt()) })
	}
	return out[:min(len(out), f.Limit)]
}

func (st *connStatus) rtt() float64 {
	if st.RTT == nil {
		return 0
	}
	return *st.RTT
}

// Connection implements admin.Gateway.
func (a Admin) Connection(id uint64) (any, error) {
	if found := a.Connections(admin.ConnFilter{ID: id, Limit: 1}).([]*connStatus); len(found) > 0 {
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: no open connection %d", admin.ErrNotFound, id)
}

// CloseConnection implements admin.Gateway. With reset, what has not been sent is thrown
// away and the client gets a RST.
func (a Admin) CloseConnection(id uint64, reset bool) (any, error) {
	was, err := a.Connection(id)
	if err != nil {
		return nil, err
	}
	if !a.end(id, reset) {
		return nil, fmt.Errorf("%w: no open connection %d", admin.ErrNotFound, id)
	}
	a.log.Info().Uint64("connection", id).Bool("reset", reset).Msg("connection closed by the admin API")
	return was, nil
}

// end closes a connection wherever it is. One that moves meanwhile is met where it went, as
// everything is asked twice.
func (g *Gateway) end(id uint64, reset bool) bool {
	for range 2 {
		for _, c := range g.connections() {
			if c.id == id && c.kill(reason.KilledByUser) {
				if reset {
					c.reset()
				}
				return true
			}
		}
		if g.lot == nil {
			continue
		}
		if reset {
			g.resets.Store(id, nil)
		}
		if g.lot.EvictID(id) {
			return true
		}
		g.resets.Delete(id)
		if reset && g.tunnels.Cut(id, reason.KilledByUser) || !reset && g.tunnels.Close(id, reason.KilledByUser) {
			return true
		}
	}
	return false
}
