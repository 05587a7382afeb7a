package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"tickgate/internal/admin"
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

// drainStatus is the drain of the process in the admin API.
type drainStatus struct {
	Draining    bool                 `json:"draining"`
	Phase       string               `json:"phase,omitempty"` // grace, closing, cut or done
	Elapsed     float64              `json:"elapsed_seconds,omitempty"`
	TimeLeft    float64              `json:"time_left_seconds,omitempty"`
	Connections int                  `json:"connections"`
	Tunnels     *tunnelDrain         `json:"tunnels,omitempty"`
	Backends    []backendDrainStatus `json:"backends"`
}

// tunnelDrain counts tunnels that a drain closes.
type tunnelDrain struct {
	Total int `json:"total"`
	Left  int `json:"left"`
}

// backendDrainStatus is the drain of one backend's tunnels.
type backendDrainStatus struct {
	Upstream string `json:"upstream"`
	Backend  string `json:"backend"`
	tunnelDrain
}

// DrainStatus implements admin.Gateway.
func (a Admin) DrainStatus() any {
	st := drainStatus{Draining: a.draining.Load(), Connections: a.conns.Open(), Backends: []backendDrainStatus{}}
	if p := a.progress.Load(); p != nil {
		st.Phase = *p.phase.Load()
		st.Elapsed = time.Since(p.began).Seconds()
		st.TimeLeft = max(0, time.Until(p.deadline).Seconds())
		if d := p.tunnels.Load(); d != nil {
			st.Tunnels = &tunnelDrain{d.Total(), d.Left()}
		}
	}
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	for key, d := range a.backends {
		st.Backends = append(st.Backends, backendDrainStatus{key.upstream, key.label, tunnelDrain{d.Total(), d.Left()}})
	}
	slices.SortFunc(st.Backends, func(x, y backendDrainStatus) int {
		return cmp.Or(cmp.Compare(x.Upstream, y.Upstream), cmp.Compare(x.Backend, y.Backend))
	})
	return st
}

// Reload implements admin.Gateway.
func (a Admin) Reload() error { return a.ReloadFile() }

// Drain implements admin.Gateway.
func (a Admin) Drain(name, addr string, drain bool, window time.Duration) error {
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	snap := a.snap.Load()
	set := snap.sets[name]
	if set == nil {
		return fmt.Errorf("%w: no upstream %q", admin.ErrNotFound, name)
	}
	if !set.SetDrain(addr, drain) {
		return fmt.Errorf("%w: upstream %q has no backend %q", admin.ErrNotFound, name, addr)
	}
	if window == admin.ConfiguredWindow {
		window = snap.cfg.Drain.Window
	}
	a.log.Info().Str("upstream", name).Str("backend", addr).Bool("drain", drain).Msg("backend drain changed")
	for key, d := range a.backends { // the new window counts
		if key.upstream == name && (d.of.Address() == addr || d.of.Server() == addr) {
			d.Cancel()
			delete(a.backends, key)
		}
	}
	a.drainBackendsLocked(snap, window)
	return nil
}
