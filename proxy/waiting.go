package proxy

import (
	"errors"
	"net/netip"
	"time"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/proxy/park"
	"tickgate/proxy/reactor"
	"tickgate/tlsterm"
)

// Connections without a worker wait in the lot (package park): new ones for their first
// byte, idle ones for their next request, slow ones for the rest of a head or a small body. From there
// they come back as visits to a crew of workers.

const (
	// firstRequest is how long a drain leaves a new connection to send its first request.
	firstRequest = time.Second
	// headPatience is how long a worker waits for the rest of a head that did not come
	// in one piece. The pieces of an honest client follow each other closely; for the others
	// a worker is not the place to wait.
	headPatience = 50 * time.Millisecond
)

// visit is a connection that a worker is to look at.
type visit struct {
	conn   park.Conn
	why    park.Why
	queued time.Duration // since when it waited for a worker; 0 if it did not
	shakes bool          // it begins with a handshake, for which it has a turn, and belongs to that crew
	came   time.Duration // when it came to the gate for that, by Gateway.clock
}

// now is the reactor's coarse clock.
func (g *Gateway) now() time.Duration {
	if g.loops == nil {
		return time.Since(g.started)
	}
	return g.loops.Now()
}

// clock is the same by a look at the clock, for times that begin now.
func (g *Gateway) clock() time.Duration {
	if g.loops == nil {
		return time.Since(g.started)
	}
	return g.loops.Clock()
}

// clockStep is by how much the coarse clock is behind at most, unless the loops are late.
const clockStep = reactor.TickInterval

// deadline is when d from now has passed for certain.
func (g *Gateway) deadline(d time.Duration) time.Duration { return g.clock() + d + clockStep }

// patience is how long a connection keeps its worker while it waits for a request. Only
// one whose last request came soon after the one before is worth it: most connections that
// are opened have one request, and then nothing for long. (5,000 new connections with
// one request each made 3,000 workers before this rule, and some twenty after.)
func (c *clientConn) patience() time.Duration {
	switch {
	case c.gw.lot == nil:
		return c.idleLimit()
	case !c.warm:
		return 0
	case c.requests == int(c.from.Served): // its bytes have woken it
		return 0
	case c.crew.waiting.Load() > 0:
		return 0
	}
	return c.gw.snap.Load().cfg.Workers.ParkAfter
}

// headPatience is how long a worker waits for more of a head.
func (c *clientConn) headPatience() time.Duration {
	if c.from.Phase == park.Head && c.requests == int(c.from.Served) {
		return 0 // it was slow before
	}
	return headPatience
}

// mayPark reports whether nothing has come, rather than the end of the connection.
func (c *clientConn) mayPark(cause sock.Cause) bool {
	if c.gw.lot == nil || cause.Has(sock.Cancelled|sock.WriteExpired) {
		return false
	}
	return cause.Has(sock.ReadExpired) || errors.Is(c.readErr, sock.ErrWouldBlock)
}

// park gives the connection to the lot. On false it is still this worker's, to be
// closed.
func (c *clientConn) park() bool {
	if !c.sign() {
		return false
	}
	p := c.ticket()
	fd, err := c.sk.Release()
	if err != nil {
		c.end = reason.Internal
		return false
	}
	p.FD = fd
	if c.sk.Waited() {
		p.Loop = nil // OnWait took it out
	}
	if c.tls != nil {
		c.seat.Vacate()
		tlsterm.Trim(c.tls)
		p.TLS, p.Seat, p.Partial = c.tls, c.seat, tlsterm.Pending(c.tls)
	}
	c.setState(meter.Parked)
	c.gw.place(p)
	return true
}

// place puts a connection into the lot. If the kernel will not watch its socket, nobody
// would ever look at it again: it is closed.
func (g *Gateway) place(p park.Conn) {
	if !g.lot.Park(p) {
		g.closeParked(p, g.whyNotParked(p.Peer))
	}
}

// whyNotParked says why a connection ends that the lot has not taken: it is closed, or the kernel has no room.
func (g *Gateway) whyNotParked(peer netip.AddrPort) reason.Reason {
	if g.draining.Load() {
		return reason.ShutDown
	}
	if e := g.log.Event(errorLevel, "park_failed"); e != nil {
		e.Str("client", peerText(peer)).Msg("a connection cannot wait and is closed: see fs.epoll.max_user_watches")
	}
	return reason.Internal
}

// sign says that the connection leaves this object, unless someone wants it closed.
func (c *clientConn) sign() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killedBy != reason.OK {
		return false
	}
	c.left = true
	return true
}

// ticket describes the connection to the lot.
func (c *clientConn) ticket() park.Conn {
	p := park.Conn{
		ID: c.id, Peer: c.peer, Owner: c.ln.index, Phase: park.Idle, Since: c.since.UnixNano(),
		Served: uint32(c.requests), Until: c.idleBy, Loop: c.from.Loop,
	}
	snap := c.gw.snap.Load()
	if rest := c.in[c.r:c.w]; len(rest) > 0 {
		p.Rest = append(make([]byte, 0, len(rest)), rest...)
	}
	if c.begun != 0 {
		p.Phase, p.Begun = park.Head, c.begun
		p.Until = c.begun + snap.cfg.Timeouts.Head + clockStep
	}
	if c.bodyBy != 0 {
		now := c.gw.clock()
		p.Phase, p.Until = park.Body, c.bodyBy
		p.Begun, p.Whole = now-time.Since(c.x.start), now-time.Since(c.x.read)
	}
	if age := snap.cfg.Limits.MaxConnAge; age > 0 && p.Phase == park.Idle {
		p.Until = min(p.Until, c.gw.deadline(age-time.Since(c.since)))
	}
	return p
}

// linger gives a connection whose end was sent to the lot, until the peer's end has come.
// Why it ends is kept in Begun, and what was thrown away in Served.
func (c *clientConn) linger() bool {
	if !c.sign() {
		return false
	}
	fd, err := c.sk.Release()
	if err != nil {
		return false
	}
	p := park.Conn{
		FD: fd, ID: c.id, Peer: c.peer, Owner: c.ln.index, Phase: park.Linger, Since: c.since.UnixNano(),
		Served: uint32(c.discarded), Until: c.gw.deadline(lingerTime), Begun: time.Duration(c.end), Loop: c.from.Loop,
	}
	if c.sk.Waited() {
		p.Loop = nil
	}
	c.setState(meter.Draining)
	c.gw.place(p)
	return true
}

// lingered is told that something has come on a lingering connection, or that it is over.
// On a loop: reads are not waited for.
func (g *Gateway) lingered(p park.Conn, why park.Why) {
	if why == park.Ready {
		n, more := throwAway(p.FD, lingerBytes-int(p.Served))
		if p.Served += uint32(n); more && p.Served < lingerBytes {
			g.place(p)
			return
		}
	}
	g.closeParked(p, reason.Reason(p.Begun))
}

// wake is told by the lot, on a loop, that a connection waits no longer.
func (g *Gateway) wake(p park.Conn, why park.Why) {
	switch {
	case p.Phase == park.Linger:
		g.lingered(p, why)
		return
	case p.Phase == park.Shake:
		p.Seat.Conn.(*shake).awake <- wakeUp{p, why} // has room
		return
	case p.Phase == park.Preface:
		if !g.preface(&p, why) {
			return
		}
		why = park.Ready // with the client's first byte
	case p.Phase == park.Body: // the request is to be counted, however it ends
		if why == park.Gone {
			why = park.Ready // to read is to find out
		}
	case why == park.Evicted && g.draining.Load() && !g.stopping.Load() && g.hasBegun(&p):
		why = park.Ready // a request came in the same moment: it gets its answer
	case why == park.Gone:
		end := reason.ClientClosed
		if p.Phase == park.Head {
			end = reason.ClientGone
		}
		g.closeParked(p, end)
		return
	case why != park.Ready && p.TLS == nil && (why != park.Expired || p.Phase != park.Head):
		g.closeParked(p, g.whyClosed(&p, why))
		return
	}
	v := visit{conn: p, why: why}
	if p.Phase == park.Fresh && g.listener(p.Owner).tls.Load() != nil {
		if g.handshakes.gate.Full() {
			g.refuseHandshake(p, tlsterm.GateFull) // without a look at what it is
			return
		}
		if why == park.Ready && !helloComplete(p.FD) {
			g.place(p) // the kernel tells when there is enough
			return
		}
		if !g.rates.client.AllowAddr(p.Peer.Addr(), g.now()) {
			g.refuseHandshake(p, tlsterm.RateLimited)
			return
		}
		g.handshakes.gate.Enter(p)
		return
	}
	g.workers.put(v)
}

// hasBegun reports whether a request, or a whole ClientHello, waits at a connection that is to be closed.
func (g *Gateway) hasBegun(p *park.Conn) bool {
	if !readable(p.FD) {
		return false
	}
	return p.Phase != park.Fresh || g.listener(p.Owner).tls.Load() == nil || helloWhole(p.FD)
}

// whyClosed says why a waiting connection is ended by the gateway.
func (g *Gateway) whyClosed(p *park.Conn, why park.Why) reason.Reason {
	switch {
	case why == park.Evicted && g.stopping.Load():
		return reason.ShutDown
	case why == park.Evicted && g.draining.Load():
		return reason.Draining
	case why == park.Evicted:
		return reason.KilledByUser
	}
	if p.Phase == park.Fresh && g.listener(p.Owner).tls.Load() != nil {
		g.handshakeFailed(tlsterm.TimedOut, failedClient{ln: g.listener(p.Owner), peer: p.Peer}, nil)
		return reason.TLSFailed
	}
	limit := g.snap.Load().cfg.Limits.MaxConnAge
	if p.Phase == park.Idle && limit > 0 && time.Since(time.Unix(0, p.Since)) >= limit {
		return reason.MaxLifetime
	}
	return reason.IdleTimeout
}

// closeParked ends a connection that has no worker.
func (g *Gateway) closeParked(p park.Conn, why reason.Reason) {
	if why == reason.KilledByUser && g.wantsReset(p.ID) {
		abortOnClose(p.FD)
	}
	_ = closeFD(p.FD)
	if p.Phase == park.Preface {
		p.Peer = netip.AddrPort{} // it was counted as nobody's
	}
	g.ended(g.listener(p.Owner), p.Peer, stateOf(p.Phase), why)
}

// stateOf is the state of a connection in the lot.
func stateOf(p park.Phase) meter.ConnState {
	switch p {
	case park.Fresh, park.Preface:
		return meter.Accepted
	case park.Linger:
		return meter.Draining
	}
	return meter.Parked
}

// wantsReset reports whether a parked connection is to be closed with RST, once.
func (g *Gateway) wantsReset(id uint64) bool {
	_, ok := g.resets.LoadAndDelete(id)
	return ok
}

// ended takes a closed connection out of all counts.
func (g *Gateway) ended(ln *listener, peer netip.AddrPort, state meter.ConnState, why reason.Reason) {
	g.conns.Release(peer.Addr())
	g.meter.FDs.Client.Add(-1)
	ln.meter.Closed(state, why)
	ln.open.Add(-1)
}

// visit serves a connection that came from the lot.
func (g *Gateway) visit(v *visit) {
	c := g.heat(v)
	defer c.endShake() // whatever comes
	switch {
	case v.conn.Phase == park.Body && (v.why != park.Ready || g.stopping.Load()):
		c.abandonBody(v)
	case g.stopping.Load(): // cut knows those with a worker and in the lot, not those on their way
		c.end = reason.ShutDown
		c.leave()
	case v.why == park.Ready:
		c.run()
	case v.why == park.Expired && v.conn.Phase == park.Head:
		c.expireHead()
	default:
		c.end = g.whyClosed(&v.conn, v.why)
		if c.end == reason.KilledByUser && g.wantsReset(c.id) {
			_ = c.sk.Reset()
		}
		c.leave() // over TLS with close_notify
	}
}

// heat makes a connection out of what the lot kept of it.
func (g *Gateway) heat(v *visit) *clientConn {
	p := &v.conn
	c := &clientConn{
		gw: g, ln: g.listener(p.Owner), sk: sock.NewFD(p.FD, g.sweeper), id: p.ID, peer: p.Peer,
		since: time.Unix(0, p.Since), from: *p, tls: p.TLS, seat: p.Seat, requests: int(p.Served), begun: p.Begun,
	}
	if v.queued != 0 && !v.shakes { // the wait for a handshake is no request's
		c.queued = max(1, g.clock()-v.queued)
	}
	c.crew = g.workers
	if v.shakes {
		c.crew = g.handshakes.crew
		c.beginShake(v)
	}
	if p.Phase == park.Idle {
		c.idleBy = p.Until
		c.warm = p.Served > 0 && g.now()-p.Parked < g.snap.Load().cfg.Workers.ParkAfter
	}
	c.served.Store(p.Served > 0)
	c.rw = c.sk
	c.state.Store(uint32(stateOf(p.Phase)))
	if c.tls != nil {
		c.rw = c.tls
		if p.Phase != park.Fresh {
			c.seat.Take(c.sk)
			c.noteTLS()
		}
	}
	if p.Loop != nil {
		c.sk.OnWait(c.unlist)
	}
	c.sk.SetWatcher(c)
	c.sk.Stall(g.snap.Load().cfg.Timeouts.Write)
	g.remember(c)
	return c
}

// unlist takes the socket out of the lot's loop, before Go's poller learns of it: two
// pollers would be told of every byte.
func (c *clientConn) unlist() { c.gw.lot.Unregister(&c.from) }

// expireHead answers a client whose head did not become whole while it was parked.
func (c *clientConn) expireHead() {
	defer c.leave()
	defer c.rescue()
	c.bind()
	c.recall()
	c.activate()
	snap := c.gw.snap.Load()
	_, _ = c.x.req.Parse(c.in[c.r:c.w], &snap.reqLimits) // it is not whole; what there is goes to the log
	c.headLate(snap)
}
