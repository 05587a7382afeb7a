package proxy

import (
	"net/netip"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/proxy/relay"
	"tickgate/tlsterm"
)

// A request is judged by what is known of its client's certificate at its time (Exchange.permitted). A tunnel was one request, long ago; so tunnels are
// reviewed when what clients are judged by has changed, and every expiryRound for certificates that have run out.

// wantReview has the tunnels of clients with certificates reviewed soon. One that is under way is followed by another, since it may be past those that matter.
func (g *Gateway) wantReview() {
	select {
	case g.reviews <- struct{}{}:
	default: // wanted, and not begun
	}
}

// review reviews tunnels whenever that is wanted, one review at a time.
func (g *Gateway) review() {
	for {
		select {
		case <-g.reviews:
			g.reviewTunnels()
		case <-g.quit:
			return
		}
	}
}

// reviewLate has a tunnel reviewed that was on its way while what its client is judged by changed. What changes later finds it among the others.
func (c *clientConn) reviewLate() {
	n := c.note.Load()
	if n == nil || n.identity == nil {
		return
	}
	if store := c.gw.judges(c.ln); store != nil && store.Stands(n.identity, n.serverName) != nil {
		c.gw.wantReview()
	}
}

// judges returns the store by which the clients of a listener are judged, nil if there is none: that of the listener which has its name now, if it was
// replaced, or else the last that it had.
func (g *Gateway) judges(ln *listener) *tlsterm.Store {
	for _, s := range *g.stores.Load() {
		if s.listen == ln.name {
			return s.Store
		}
	}
	return ln.asks.Load()
}

// reviewTunnels ends the tunnels of clients that would not be let in any more.
func (g *Gateway) reviewTunnels() {
	if g.clientsVerified.Load() == 0 {
		return // nobody has shown a certificate
	}
	g.reviewConnections()
	if g.tunnels == nil {
		return
	}
	g.tunnels.Review(func(t *relay.Reviewed) reason.Reason {
		note, _ := t.Note.(*tlsNote)
		s := suspect{note: note, ln: t.Owner.(*tunnelOwner).ln, id: t.ID, peer: t.Peer, labels: t.Labels}
		return g.judge(&s)
	})
}

// reviewConnections reviews the tunnels that are not the relay's: those with goroutines, and those on their way.
func (g *Gateway) reviewConnections() {
	for _, c := range g.connections() {
		if meter.ConnState(c.state.Load()) != meter.Relayed {
			continue
		}
		s := suspect{note: c.note.Load(), ln: c.ln, id: c.id, peer: c.peer}
		if why := g.judge(&s); why != reason.OK {
			c.kill(why)
		}
	}
}

// suspect is a tunnel under review.
type suspect struct {
	note   *tlsNote // nil if there is none
	ln     *listener
	id     uint64
	peer   netip.AddrPort
	labels *relay.Labels // nil if they are not known
}

// judge returns what a tunnel is to end for, OK if it may go on.
func (g *Gateway) judge(s *suspect) reason.Reason {
	if s.note == nil || s.note.identity == nil {
		return reason.OK
	}
	store := g.judges(s.ln)
	if store == nil {
		return reason.OK
	}
	problem, lapsed := store.Lapsed(s.note.identity, s.note.serverName)
	if !lapsed {
		return reason.OK
	}
	rules := &g.CurrentConfig().Tunnels
	why, rule := reason.IdentityRevoked, rules.Revoked
	if problem == tlsterm.ClientCertExpired {
		why, rule = reason.IdentityExpired, rules.Expired
	}
	if rule == "keep" {
		return reason.OK
	}
	g.logLapsed(s, problem, why)
	return why
}

func (g *Gateway) logLapsed(s *suspect, problem tlsterm.ClientCertProblem, why reason.Reason) {
	e := g.log.Event(infoLevel, why.String())
	if e == nil {
		return
	}
	e = e.Stringer("certificate", problem).Str("identity", s.note.identity.Name()).Str("serial", s.note.identity.Serial).
		Uint64("connection", s.id).Str("client", peerText(s.peer)).Str("listen", s.ln.name)
	if s.labels != nil {
		e = e.Str("route", s.labels.Route).Str("backend", s.labels.Backend)
	}
	e.Msg("tunnel of a client that would not be let in any more is closed")
}
