package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
)

// Admin is the gateway as the admin endpoint sees it; it implements admin.Gateway.
type Admin struct {
	*Gateway
	// ReloadFile reads the configuration file again and goes over to it.
	ReloadFile func() error
}

var _ admin.Gateway = Admin{}

// Ready implements admin.Gateway.
func (a Admin) Ready() error {
	if a.draining.Load() {
		return errDraining
	}
	return nil
}

var errDraining = errors.New("draining")

// Status implements admin.Gateway.
func (a Admin) Status() any {
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	last := "ok"
	if a.lastError != nil {
		last = a.lastError.Error()
	}
	return struct {
		Version    string    `json:"version"`
		Started    time.Time `json:"started"`
		Uptime     string    `json:"uptime"`
		Draining   bool      `json:"draining"`
		Generation uint64    `json:"generation"`
		LoadedAt   time.Time `json:"loaded_at"`
		LastReload string    `json:"last_reload"`
		Listeners  any       `json:"listeners"`
	}{
		a.version, a.started, time.Since(a.started).Round(time.Second).String(), a.draining.Load(),
		a.snap.Load().generation, a.lastLoad, last, a.listenersLocked(),
	}
}

type listenerStatus struct {
	Listen       string `json:"listen"`
	Sockets      int    `json:"sockets"`
	Connections  int64  `json:"connections"`
	Certificates any    `json:"certificates,omitempty"`
}

func (g *Gateway) listenersLocked() []listenerStatus {
	out := []listenerStatus{}
	for name, ln := range g.listeners {
		st := listenerStatus{Listen: name, Sockets: len(ln.sockets), Connections: ln.open.Load()}
		if ln.store != nil {
			st.Certificates = ln.store.Certificates()
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(x, y listenerStatus) int { return cmp.Compare(x.Listen, y.Listen) })
	return out
}

// Config implements admin.Gateway.
func (a Admin) Config() any { return a.CurrentConfig().Redacted() }

// routeStatus is a route in the admin API.
type routeStatus struct {
	Name     string   `json:"name"`
	Host     string   `json:"host,omitempty"`
	Path     string   `json:"path"`
	Match    string   `json:"match"` // exact, regex or prefix
	Scheme   string   `json:"scheme"`
	Methods  []string `json:"methods,omitempty"`
	Headers  int      `json:"header_conditions,omitempty"`
	Action   string   `json:"action"`
	Upstream string   `json:"upstream,omitempty"`
	Tag      string   `json:"tag,omitempty"`
}

// Routes implements admin.Gateway.
func (a Admin) Routes() any {
	out := []routeStatus{}
	for _, rt := range a.snap.Load().routes {
		st := routeStatus{
			Name: rt.name, Host: rt.host, Path: rt.pathText, Match: "prefix", Scheme: rt.scheme, Methods: rt.methods,
			Headers: len(rt.headers), Action: rt.action.kind(), Upstream: rt.upstreamName(), Tag: rt.tag,
		}
		switch {
		case rt.pathRegex != nil:
			st.Path, st.Match = rt.pathRegex.String(), "regex"
		case rt.pathText != "" && rt.pathText[0] == '=':
			st.Path, st.Match = rt.pathText[1:], "exact"
		}
		out = append(out, st)
	}
	return out
}

// Upstreams implements admin.Gateway.
func (a Admin) Upstreams() any {
	out := []any{}
	sets := a.snap.Load().sets
	for _, name := range sortedKeys(sets) {
		out = append(out, sets[name].Status())
	}
	return out
}

// connStatus is a connection in the admin API.
type connStatus struct {
	ID       uint64  `json:"id"`
	Listener string  `json:"listener"`
	Peer     string  `json:"peer"`
	State    string  `json:"state"`
	Age      float64 `json:"age_seconds"`
}

// Connections implements admin.Gateway: the oldest first.
func (a Admin) Connections(f admin.ConnFilter) any {
	all := a.connections()
	slices.SortFunc(all, func(x, y *clientConn) int { return cmp.Compare(x.id, y.id) })
	out := []connStatus{}
	for _, c := range all {
		if len(out) == f.Limit {
			break
		}
		state := meter.ConnState(c.state.Load()).String()
		if f.Listener != "" && f.Listener != c.ln.name || f.State != "" && f.State != state ||
			f.Peer.IsValid() && !f.Peer.Contains(c.peer.Addr()) {
			continue
		}
		peer := string(c.addrText)
		if c.peer.IsValid() {
			peer = c.peer.String()
		}
		out = append(out, connStatus{c.id, c.ln.name, peer, state, time.Since(c.since).Seconds()})
	}
	return out
}

// Reload implements admin.Gateway.
func (a Admin) Reload() error { return a.ReloadFile() }

// Drain implements admin.Gateway.
func (a Admin) Drain(name, addr string, drain bool) error {
	set := a.snap.Load().sets[name]
	if set == nil {
		return fmt.Errorf("%w: no upstream %q", admin.ErrNotFound, name)
	}
	if !set.SetDrain(addr, drain) {
		return fmt.Errorf("%w: upstream %q has no backend %q", admin.ErrNotFound, name, addr)
	}
	a.log.Info().Str("upstream", name).Str("backend", addr).Bool("drain", drain).Msg("backend drain changed")
	return nil
}
