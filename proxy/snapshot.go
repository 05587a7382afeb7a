package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tickgate/config"
	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/limiter"
	"tickgate/proxy/relay"
	"tickgate/proxy/upstream"
)

// Snapshot is one immutable build of the whole configuration. A request uses the
// one that was current when its head was read, to its end.
type Snapshot struct {
	cfg        *config.Config
	generation uint64
	router     *router
	routes     []*route
	noRoute    *route // stands in for requests that no route takes
	sets       map[string]*upstream.Set

	reqLimits     h1.Limits
	resLimits     h1.Limits
	trustedPeers  peerList
	requestIDName []byte

	requestIDField h1.FieldID // of requestIDName
	trace          traceMode
	rewritten      nameSet // request fields that are written anew
	clientCert     nameSet // request fields that tell who the client is
	clientCertMode clientCertMode

	clientCertChain int // the longest chain that is sent; 0 sends none
}

// builder holds what building a snapshot needs.
type builder struct {
	gw   *Gateway
	cfg  *config.Config
	sets map[string]*upstream.Set
}

// build compiles a validated configuration. Nothing of it is in use yet.
func (b *builder) build(generation uint64) (*Snapshot, error) {
	cfg := b.cfg
	s := &Snapshot{
		cfg: cfg, generation: generation, sets: b.sets,
		reqLimits:     h1.Limits{MaxLine: int(cfg.Limits.MaxRequestLine), MaxHead: int(cfg.Limits.MaxHead), MaxFields: cfg.Limits.MaxHeaders},
		resLimits:     h1.Limits{MaxLine: int(cfg.Limits.MaxResponseHead), MaxHead: int(cfg.Limits.MaxResponseHead), MaxFields: 1000},
		requestIDName: []byte(cfg.Forwarding.RequestIDHeader),

		requestIDField: h1.LookupField([]byte(cfg.Forwarding.RequestIDHeader)),

		clientCertMode: clientCertModeOf(cfg.Forwarding.ClientCert),

		clientCertChain: int(cfg.Forwarding.ClientCertChain),

		trace:   traceModeOf(cfg.Forwarding.TraceContext),
		noRoute: &route{name: meter.Unrouted, accessLog: true, metrics: b.gw.meter.Unrouted},
	}
	b.gw.countSnapshot(s)
	s.collectRewritten()
	s.collectClientCert()
	if err := s.parseTrusted(cfg.Forwarding.TrustedProxies); err != nil {
		return nil, err
	}
	for i, r := range cfg.Routes {
		rt, err := b.route(r, i)
		if err != nil {
			s.retire()
			return nil, err
		}
		s.routes = append(s.routes, rt)
	}
	s.router = newRouter(s.routes)
	return s, nil
}

// collectRewritten names the request fields that head.go writes itself.
func (s *Snapshot) collectRewritten() {
	f := &s.cfg.Forwarding
	s.rewritten.known = h1.FieldsOf(h1.Host, h1.ContentLength, h1.TransferEncoding, h1.Expect)
	if f.XForwarded {
		s.rewritten.known |= h1.FieldsOf(h1.XForwardedFor, h1.XForwardedProto, h1.XForwardedHost)
	}
	if f.Forwarded {
		s.rewritten.known |= h1.FieldsOf(h1.Forwarded)
	}
	if f.RequestIDHeader != "" {
		s.rewritten.add(f.RequestIDHeader)
	}
	switch s.trace {
	case traceExtend:
		s.rewritten.add("Traceparent")
	case traceOff:
		s.rewritten.add("Traceparent")
		s.rewritten.add("Tracestate")
	}
}

func (s *Snapshot) parseTrusted(list []string) (err error) {
	if s.trustedPeers, err = newPeerList(list); err != nil {
		return fmt.Errorf("forwarding.trusted_proxies: %w", err)
	}
	return nil
}

// trusts reports whether a is a trusted proxy; the zero Addr is a Unix socket.
func (s *Snapshot) trusts(a netip.Addr) bool { return s.trustedPeers.has(a) }

// route compiles one route.
func (b *builder) route(r *config.Route, index int) (*route, error) {
	rt := &route{
		name: r.Name, index: index, tag: r.Tag, websocket: r.WebSocket, timeout: r.Timeout, accessLog: r.AccessLog,
		maxBody: cmp.Or(int64(r.MaxBody), int64(b.cfg.Limits.MaxBody)),
		gathers: cmp.Or(int64(r.RequestBuffer), int64(b.cfg.Limits.RequestBuffer)),
	}
	if rt.name == "" {
		rt.name = defaultName(r)
	}
	if err := rt.compileMatch(r); err != nil {
		return nil, err
	}
	var err error
	if rt.rewrite, err = compileRewrite(r.Rewrite, rt, rt.pathRegex); err == nil {
		rt.reqOps, err = compileHeaderOps(r.RequestHeaders, rt.pathRegex)
	}
	if err == nil {
		rt.resOps, err = compileHeaderOps(r.ResponseHeaders, rt.pathRegex)
	}
	if err == nil {
		rt.action, err = compileAction(b, r, rt)
	}
	if err != nil {
		return nil, fmt.Errorf("route %q: %w", rt.name, err)
	}
	rt.compress = compileCompression(r.Compression)
	rt.metrics = b.gw.meter.Route(rt.name)
	rt.tunnelMetrics = b.gw.meter.Tunnel(rt.name)
	rt.tunnel = tunnelPolicy(b.cfg, r)
	opaque := *rt.tunnel
	opaque.Mode = relay.Opaque
	rt.tunnelOpaque = &opaque
	rt.class, _ = limiter.ParseClass(r.Priority)
	return rt, nil
}

// defaultName names a route by what it matches.
func defaultName(r *config.Route) string {
	return r.Host + cmp.Or(r.PathExact, r.PathRegex, r.Path, "/")
}

// tags are the route tags in use.
func (s *Snapshot) tags() []string {
	tags := make([]string, 0, len(s.routes))
	for _, rt := range s.routes {
		tags = append(tags, rt.tag)
	}
	return tags
}

// retire gives back what the snapshot holds of things that outlive it.
func (s *Snapshot) retire() {
	for _, rt := range s.routes {
		rt.metrics.Retire()
		rt.tunnelMetrics.Retire()
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
