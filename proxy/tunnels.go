package proxy

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"tickgate/config"
	"tickgate/internal/accesslog"
	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/limiter"
	"tickgate/proxy/relay"
	"tickgate/proxy/upstream"
	"tickgate/tlsterm"
)

// tunnelRequest is what an upgrade holds before it is a tunnel.
type tunnelRequest struct {
	held   bool
	id     limiter.RouteID
	client limiter.Client // whom it is counted for
}

// tunnelHandoff is a tunnel that begins when its worker leaves the connection.
type tunnelHandoff struct {
	params relay.Params
	owner  *tunnelOwner
}

// tunnelOwner is what the tunnels of one route, backend and listener have in common. It
// outlives snapshots and references none.
type tunnelOwner struct {
	labels  relay.Labels
	ln      *listener
	limit   limiter.RouteID
	metrics *meter.Tunnel
	backend *upstream.Backend

	refs int // guarded by tunnelOwners.mu
}

// tunnelOwners interns them. Guarded by mu.
type tunnelOwners struct {
	mu  sync.Mutex
	all map[tunnelKey]*tunnelOwner
}

// tunnelKey tells owners apart. A listener or backend that a reload replaced by one of the
// same name is another one.
type tunnelKey struct {
	labels  relay.Labels
	ln      *listener
	backend *upstream.Backend
}

// take returns the owner for key, made by create if there is none. A release must follow.
func (o *tunnelOwners) take(key tunnelKey, create func() *tunnelOwner) *tunnelOwner {
	o.mu.Lock()
	defer o.mu.Unlock()
	owner := o.all[key]
	if owner == nil {
		owner = create()
		o.all[key] = owner
	}
	owner.refs++
	return owner
}

func (o *tunnelOwners) release(owner *tunnelOwner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if owner.refs--; owner.refs == 0 {
		delete(o.all, tunnelKey{owner.labels, owner.ln, owner.backend})
	}
}

// tunnelPolicy compiles how a route's tunnels are treated.
func tunnelPolicy(cfg *config.Config, r *config.Route) *relay.Policy {
	t := &r.Tunnel
	p := &relay.Policy{
		Idle: cfg.Timeouts.Tunnel, Lifetime: t.Lifetime, Stall: cfg.Timeouts.Write, Jitter: t.Jitter,
		Queue: int(cfg.Tunnels.Queue), CloseTimeout: t.CloseTimeout,
	}
	if t.Idle > 0 {
		p.Idle = t.Idle
	}
	if t.Mode == "frames" {
		p.Mode = relay.Frames
		p.Ping, p.Pong = t.PingInterval, t.PongTimeout
		p.MaxMessage, p.CheckUTF8 = int64(t.MaxMessage), t.CheckUTF8
		p.MessageRate, p.ByteRate, p.Delay = int64(t.MessageRate), int64(t.ByteRate), t.OverRate == "delay"
	}
	return p
}

// tunnelCaps are the limits on tunnels in a configuration.
func (g *Gateway) setTunnelCaps(snap *Snapshot) {
	routes := map[string]limiter.TunnelCaps{}
	for i, rt := range snap.routes {
		if rt.upstream != nil {
			t := &snap.cfg.Routes[i].Tunnel
			routes[rt.name] = limiter.TunnelCaps{Max: t.Max, MaxPerClient: t.MaxPerClient}
		}
	}
	all := &snap.cfg.Tunnels
	g.tunnelCaps.SetCaps(limiter.TunnelCaps{Max: all.Max, MaxPerClient: all.MaxPerClient}, routes)
}

// tunnelLimits are the limits behind the verdicts, for the metrics.
var tunnelLimits = map[limiter.TunnelVerdict]meter.TunnelLimit{
	limiter.TunnelTooMany:                 meter.TunnelsMax,
	limiter.TunnelTooManyPerClient:        meter.TunnelsMaxPerClient,
	limiter.TunnelTooManyOnRoute:          meter.TunnelMax,
	limiter.TunnelTooManyPerClientOnRoute: meter.TunnelMaxPerClient,
}

// reserveTunnel counts the tunnel that an upgrade asks for, before a backend is bothered.
func (x *Exchange) reserveTunnel() bool {
	client := x.tunnelClient()
	id, verdict := x.c.gw.tunnelCaps.Acquire(x.rt.name, client)
	if verdict == limiter.TunnelOK {
		x.tunnelFor = tunnelRequest{held: true, id: id, client: client}
		return true
	}
	x.retryIn = time.Second
	x.rt.tunnelMetrics.Refused(tunnelLimits[verdict])
	if e := x.c.gw.log.Event(warnLevel, reason.TooManyTunnels.String()); e != nil {
		e.Str("client", peerText(x.c.peer)).Str("route", x.rt.name).Str("limit", verdict.Key()).Msg("tunnel refused: a limit on tunnels is reached")
	}
	return x.fail(reason.TooManyTunnels)
}

// tunnelClient is whom a tunnel is counted for (tunnels.client).
func (x *Exchange) tunnelClient() limiter.Client {
	if id := x.c.identity(); id != nil && x.snap.cfg.Tunnels.Client == "identity" {
		return limiter.ByIdentity(id.Hash)
	}
	return limiter.ByAddr(x.client().addr)
}

// releaseTunnel gives the place back, unless a tunnel has it.
func (x *Exchange) releaseTunnel() {
	if x.tunnelFor.held {
		x.tunnelFor.held = false
		x.c.gw.tunnelCaps.Release(x.tunnelFor.id, x.tunnelFor.client)
	}
}

// handOff prepares the tunnel: the backend's socket is taken out of its pool and the
// client's follows when the worker leaves it. On false nothing has happened.
func (x *Exchange) handOff(be backendConn) bool {
	fd, err := be.sk.Release()
	if err != nil {
		return false
	}
	be.sk.Detach()
	owner := x.takeOwner()
	p := relay.Params{
		ID: x.c.id, Peer: x.c.peer, Since: x.c.since,
		Backend:  relay.Leg{FD: fd},
		ToClient: bytes.Clone(x.rb.buf[x.rb.r:x.rb.w]), ToBackend: bytes.Clone(x.c.in[x.c.r:x.c.w]),
		Policy: x.rt.tunnel, Labels: &owner.labels, Owner: owner,
	}
	var known bool
	if p.Deflate, known = x.extensions(); !known {
		p.Policy = x.rt.tunnelOpaque // what its frames mean is not known here
	}
	if be.tls {
		p.Backend.TLS, p.Backend.Seat = be.secured()
		p.Backend.Seat.Vacate()
		tlsterm.Trim(p.Backend.TLS)
	}
	p.Stub = x.stub()
	x.tunnelFor.held = false // the tunnel has it
	x.c.r = x.c.w
	x.c.tunnel = &tunnelHandoff{params: p, owner: owner}
	x.c.fate = fateRelay
	return true
}

// extensions tells which extensions the backend accepted (RFC 6455 section 9.1: a list, over
// any number of fields): deflate is permessage-deflate (RFC 7692), known is that there are
// no others.
func (x *Exchange) extensions() (deflate, known bool) {
	known = true
	for i := range x.res.Fields {
		if x.res.Fields[i].ID != h1.SecWebSocketExtensions {
			continue
		}
		for e := range bytes.SplitSeq(x.res.Value(i), []byte(",")) {
			name, _, _ := bytes.Cut(e, []byte(";"))
			switch name = bytes.TrimSpace(name); {
			case bytes.EqualFold(name, permessageDeflate):
				deflate = true
			case len(name) > 0:
				known = false
			}
		}
	}
	return deflate, known
}

var permessageDeflate = []byte("permessage-deflate")

// takeOwner returns what this tunnel has in common with others.
func (x *Exchange) takeOwner() *tunnelOwner {
	key := tunnelKey{
		labels:  relay.Labels{Listener: x.c.ln.name, Route: x.rt.name, Upstream: x.rt.upstreamName(), Backend: x.backend.Label()},
		ln:      x.c.ln,
		backend: x.backend,
	}
	return x.c.gw.owners.take(key, func() *tunnelOwner {
		return &tunnelOwner{labels: key.labels, ln: key.ln, backend: key.backend, limit: x.tunnelFor.id, metrics: x.rt.tunnelMetrics}
	})
}

// relay gives the connection to the relay, when nothing here touches it any more. On false
// it is still this worker's, to be closed.
func (c *clientConn) relay() bool {
	h := c.tunnel
	ok := c.sign()
	fd := -1
	if ok {
		var err error
		fd, err = c.sk.Release()
		ok = err == nil
	}
	h.owner.metrics.Opened(meter.TunnelMode(h.params.Policy.Mode))
	h.owner.backend.TunnelOpened()
	if !ok {
		c.gw.abandonTunnel(h, orReason(c.killed(), reason.Internal))
		return false
	}
	if c.tls != nil {
		c.seat.Vacate()
		tlsterm.Trim(c.tls)
		h.params.Client.TLS, h.params.Client.Seat = c.tls, c.seat
	}
	if c.from.Loop != nil && !c.sk.Waited() {
		c.unlist() // the relay registers it anew
	}
	h.params.Client.FD = fd
	c.gw.tunnels.Join(h.params)
	c.reviewLate()
	c.gw.drainLate(h.owner)
	return true
}

// abandonTunnel ends a tunnel that never got to the relay: its client was closed meanwhile.
func (g *Gateway) abandonTunnel(h *tunnelHandoff, why reason.Reason) {
	p := &h.params
	_ = closeFD(p.Backend.FD)
	g.backendClosed()
	now := time.Now()
	g.settleTunnel(&relay.Ended{
		ID: p.ID, Peer: p.Peer, Since: p.Since, Opened: now, Labels: p.Labels, Mode: p.Policy.Mode,
		Reason: why, Stub: p.Stub, Owner: p.Owner,
	})
}

// tunnelEnded is told by the relay, on a loop, that a tunnel has ended and its sockets
// are closed.
func (g *Gateway) tunnelEnded(e relay.Ended) {
	owner := e.Owner.(*tunnelOwner)
	g.backendClosed()
	g.settleTunnel(&e)
	g.ended(owner.ln, e.Peer, meter.Relayed, e.Reason)
}

// settleTunnel takes an ended tunnel out of all counts and has it logged.
func (g *Gateway) settleTunnel(e *relay.Ended) {
	owner := e.Owner.(*tunnelOwner)
	owner.metrics.Ended(e.Lifetime, e.Reason, meter.Flows{ToClient: flowOf(e.ToClient), ToBackend: flowOf(e.ToBackend)})
	owner.backend.TunnelClosed()
	g.owners.release(owner) // first: an owner in the map has a route that tunnelCaps knows
	st := readStub(e)
	g.tunnelCaps.Release(owner.limit, st.counted)
	if access := g.access.Load(); access != nil && st.line != nil {
		logTunnel(access, e, &st)
	}
	g.logTunnelEnd(e)
}

func flowOf(f relay.Flow) meter.Flow {
	return meter.Flow{Bytes: f.Bytes, Text: f.Text, Binary: f.Binary, Control: f.Control}
}

// maxObituaries is how many lines about ends of tunnels may wait for the output.
const maxObituaries = 64

// logTunnelEnd tells the error log of an end that is not an ordinary one.
func (g *Gateway) logTunnelEnd(e *relay.Ended) {
	level := debugLevel
	switch e.Reason {
	case reason.BadFrame, reason.BadText, reason.MessageTooBig, reason.TooFast, reason.PingTimeout, reason.TunnelStalled:
		level = infoLevel
	}
	if g.obituaries.Load() >= maxObituaries {
		return // the log does not take them
	}
	if ev := g.log.Event(level, e.Reason.String()); ev != nil {
		ev = ev.Uint64("connection", e.ID).Str("client", peerText(e.Peer)).Str("route", e.Labels.Route).Str("backend", e.Labels.Backend).
			Float64("lifetime_seconds", e.Lifetime.Seconds()).Uint64("to_client", e.ToClient.Bytes).Uint64("to_backend", e.ToBackend.Bytes).
			Uint16("code", e.Code)
		g.obituaries.Add(1)
		go func() { // a loop must not wait for a slow output
			ev.Msg("tunnel ended")
			g.obituaries.Add(-1)
		}()
	}
}

// A stub is what is wanted of a request when its tunnel ends, much later: the client, if
// a trusted proxy named it, the identity if limits count by that, and for the access log when the request began, its id, what
// is said of TLS, and its head as it was received. Most tunnels without an access log
// need none.
const (
	stubClient   byte = 1 << iota // 16 bytes of address follow
	stubIdentity                  // 8 bytes of Identity.Hash follow
	stubLine                      // the rest is for the access log
)

func (x *Exchange) stub() []byte {
	var flags byte
	client := x.client().addr
	if client != x.c.peer.Addr() {
		flags |= stubClient
	}
	id := x.c.identity()
	if id != nil && x.tunnelFor.client == limiter.ByIdentity(id.Hash) {
		flags |= stubIdentity
	}
	if x.rt.accessLog && x.c.gw.access.Load() != nil {
		flags |= stubLine
	}
	if flags == 0 {
		return nil
	}
	s := append(make([]byte, 0, 64+len(x.req.Raw)), flags)
	if flags&stubClient != 0 {
		a := client.As16()
		s = append(s, a[:]...)
	}
	if flags&stubIdentity != 0 {
		s = binary.LittleEndian.AppendUint64(s, id.Hash)
	}
	if flags&stubLine == 0 {
		return s
	}
	facts := &x.c.facts
	s = binary.LittleEndian.AppendUint64(s, uint64(x.start.UnixNano()))
	parts := [stubParts]string{string(x.id()), facts.version, facts.cipher, facts.serverName, facts.ja4}
	if c := x.c.logClient(); c != nil {
		copy(parts[5:], []string{c.Subject, c.Issuer, c.SAN, c.SPIFFE, c.Fingerprint, c.Serial})
	}
	for _, part := range parts {
		n := min(len(part), maxStubPart)
		s = append(binary.LittleEndian.AppendUint16(s, uint16(n)), part[:n]...)
	}
	return append(s, x.req.Raw...)
}

const (
	// stubParts counts the strings before the head.
	stubParts = 11
	// maxStubPart cuts names of clients, which may be long.
	maxStubPart = 2048
)

// tunnelStub is a stub as it is read.
type tunnelStub struct {
	client  netip.AddrPort
	counted limiter.Client
	line    []byte // what the access log needs, nil if that is nothing
}

func readStub(e *relay.Ended) (st tunnelStub) {
	st.client = e.Peer
	rest := e.Stub
	if len(rest) == 0 {
		st.counted = limiter.ByAddr(e.Peer.Addr())
		return st
	}
	flags := rest[0]
	rest = rest[1:]
	if flags&stubClient != 0 {
		st.client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[:16])).Unmap(), 0)
		rest = rest[16:]
	}
	st.counted = limiter.ByAddr(st.client.Addr())
	if flags&stubIdentity != 0 {
		st.counted = limiter.ByIdentity(binary.LittleEndian.Uint64(rest))
		rest = rest[8:]
	}
	if flags&stubLine != 0 {
		st.line = rest
	}
	return st
}

// logTunnel writes the access log's line of a tunnel.
func logTunnel(access *accesslog.Logger, e *relay.Ended, st *tunnelStub) {
	x := exchangePool.Get().(*Exchange)
	defer exchangePool.Put(x)
	line := st.line
	start := time.Unix(0, int64(binary.LittleEndian.Uint64(line)))
	line = line[8:]
	var parts [stubParts]string
	for i := range parts {
		n := int(binary.LittleEndian.Uint16(line))
		parts[i], line = string(line[2:2+n]), line[2+n:]
	}
	x.req.Reset()
	limits := h1.Limits{MaxLine: len(line), MaxHead: len(line), MaxFields: len(line)}
	if n, err := x.req.Parse(line, &limits); n == 0 || err != nil {
		return // it was accepted once, so this cannot be
	}
	now := time.Now()
	x.record = accesslog.Record{
		Time: now, Duration: now.Sub(start), ClientAddr: st.client, Status: 101,
		BytesSent: int64(e.ToClient.Bytes), BytesReceived: int64(e.ToBackend.Bytes), Reason: e.Reason, Attempts: 1,
		Route: e.Labels.Route, Upstream: e.Labels.Upstream, Backend: e.Labels.Backend, Listener: e.Labels.Listener, Scheme: "http",
		RequestID: []byte(parts[0]), TLSVersion: parts[1], TLSCipher: parts[2], TLSServerName: parts[3], TLSJA4: parts[4],
		Method: x.req.Method(), Host: x.req.Host(), Path: x.req.Path(), Query: x.req.Query(), Target: x.req.Target(), Proto: proto[x.req.Minor&1],
		Referer: x.req.Get(h1.Referer), UserAgent: x.req.Get(h1.UserAgent), Header: x.lookup,
	}
	if parts[1] != "" {
		x.record.Scheme = "https"
	}
	if parts[9] != "" { // every identity has a fingerprint
		x.record.TLSClient = &accesslog.TLSClient{
			Subject: parts[5], Issuer: parts[6], SAN: parts[7], SPIFFE: parts[8], Fingerprint: parts[9], Serial: parts[10],
		}
	}
	access.Log(&x.record)
	x.record = accesslog.Record{}
	x.req.Reset()
}

// drainingTunnels tells the metrics which tunnels are to close.
func (g *Gateway) drainingTunnels(emit func(listener string, tunnels int)) {
	g.tunnels.Each(func(i relay.Info) bool {
		if i.Draining {
			emit(i.Labels.Listener, 1)
		}
		return true
	})
}

// openTunnels tells the metrics what is open.
func (g *Gateway) openTunnels(emit func(route string, mode meter.TunnelMode, open int, flows meter.Flows)) {
	g.tunnels.Each(func(i relay.Info) bool {
		emit(i.Labels.Route, meter.TunnelMode(i.Mode), 1, meter.Flows{ToClient: flowOf(i.ToClient), ToBackend: flowOf(i.ToBackend)})
		return true
	})
}
