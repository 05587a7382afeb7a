package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/config"
	"tickgate/internal/listen"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/limiter"
	"tickgate/proxy/park"
	"tickgate/tlsterm"
)

// listener is an address accepted on, with its sockets. It lives over reloads that
// keep its socket settings.
type listener struct {
	// Static.
	gw      *Gateway
	name    string
	cfg     config.Listener // socket settings as opened
	sockets []net.Listener
	meter   *meter.Conns

	tls     atomic.Pointer[tls.Config]    // nil for plain
	asks    atomic.Pointer[tlsterm.Store] // nil if nobody is asked for a certificate
	preface atomic.Pointer[prefaceRules]  // nil without proxy_protocol
	max     atomic.Int64                  // open connections; 0 is no limit
	gone    atomic.Bool                   // removed: its connections close after their request
	open    atomic.Int64

	retired atomic.Bool // and accepts no more
	index   uint32      // in Gateway.byIndex; set before start
	wg      sync.WaitGroup

	store *tlsterm.Store // guarded by Gateway.reloadMu
}

// listenerPlan is what a reload will do to the listeners.
type listenerPlan struct {
	g      *Gateway
	opened []*listener
	next   map[string]*listener
	change []func()

	// That did not exist before.
	keys     []*tlsterm.Tickets
	staplers []*tlsterm.Stapler
}

// planListeners opens what is new and prepares what changes, without touching what
// is in use.
func (g *Gateway) planListeners(cfg *config.Config) (*listenerPlan, error) {
	p := &listenerPlan{g: g, next: map[string]*listener{}}
	for i := range cfg.Listeners {
		if err := p.add(&cfg.Listeners[i]); err != nil {
			p.undo()
			return nil, err
		}
	}
	p.prime()
	return p, nil
}

func (p *listenerPlan) add(l *config.Listener) error {
	old := p.g.listeners[l.Listen]
	var prev *tlsterm.Store
	if old != nil {
		prev = old.store
	}
	rules, err := newPrefaceRules(l.ProxyProtocol)
	if err != nil {
		return fmt.Errorf("listener %s: %w", l.Listen, err)
	}
	store, conf, err := loadTLS(l, prev)
	if err != nil {
		return fmt.Errorf("listener %s: %w", l.Listen, err)
	}
	if store != nil && store != prev {
		store.OnJA4(p.g.fingerprinted)
	}
	if err := p.openTickets(store, prev); err != nil {
		return fmt.Errorf("listener %s: %w", l.Listen, err)
	}
	p.openStapler(store, prev)
	if old != nil && sameSockets(&old.cfg, l) {
		p.next[l.Listen] = old
		p.change = append(p.change, func() {
			old.store = store
			old.tls.Store(conf)
			old.preface.Store(rules)
			old.asks.Store(asking(store))
			old.max.Store(int64(l.MaxConnections))
		})
		return nil
	}
	open := listen.Open
	if old != nil || l.Share {
		open = listen.Join
	}
	sockets, err := open(l)
	if err != nil {
		return err
	}
	ln := &listener{gw: p.g, name: l.Listen, cfg: *l, sockets: sockets, store: store, meter: p.g.meter.Listener(l.Listen)}
	ln.tls.Store(conf)
	ln.preface.Store(rules)
	ln.asks.Store(asking(store))
	ln.max.Store(int64(l.MaxConnections))
	p.opened = append(p.opened, ln)
	p.next[l.Listen] = ln
	return nil
}

func loadTLS(l *config.Listener, prev *tlsterm.Store) (*tlsterm.Store, *tls.Config, error) {
	if l.TLS == nil {
		return nil, nil, nil
	}
	store, err := tlsterm.Load(l.TLS, prev)
	if err != nil {
		return nil, nil, err
	}
	return store, store.Config(), nil
}

// asking returns the store if it asks any client for a certificate.
func asking(s *tlsterm.Store) *tlsterm.Store {
	if s == nil || !s.AsksClients() {
		return nil
	}
	return s
}

// sameSockets reports whether two listeners differ at most in what can be changed
// on open sockets.
func sameSockets(a, b *config.Listener) bool {
	x, y := *a, *b
	x.TLS, y.TLS = nil, nil
	x.ProxyProtocol, y.ProxyProtocol = nil, nil
	x.MaxConnections, y.MaxConnections = 0, 0
	return reflect.DeepEqual(x, y)
}

// undo closes what was opened.
func (p *listenerPlan) undo() {
	for _, ln := range p.opened {
		for _, s := range ln.sockets {
			discard(s)
		}
		ln.meter.Retire()
	}
	for _, k := range p.keys {
		k.Close()
	}
}

// discard closes a socket that was never accepted from. Clients may have queued on
// it already, if it shares its address with one in use.
func discard(s net.Listener) {
	_ = s.Close()
	for {
		nc, err := s.Accept()
		if err != nil {
			return
		}
		_ = nc.Close()
	}
}

// commit starts the new listeners, then ends those that are no longer wanted.
func (p *listenerPlan) commit() {
	for _, f := range p.change {
		f()
	}
	for _, ln := range p.opened {
		ln.start()
		p.g.log.Info().Str("listen", ln.name).Bool("tls", ln.store != nil).Int("sockets", len(ln.sockets)).Msg("listening")
	}
	for name, old := range p.g.listeners {
		if p.next[name] != old {
			old.close()
			p.g.log.Info().Str("listen", name).Msg("listener closed")
		}
	}
	p.g.listeners = p.next
}

func (ln *listener) start() {
	ln.gw.byIndex.add(ln)
	ln.gw.meter.FDs.Listener.Add(int64(len(ln.sockets)))
	for _, s := range ln.sockets {
		ln.wg.Add(1)
		go ln.accept(s)
	}
}

// settle is how long TCP handshakes that have begun may take when a listener closes.
const settle = 20 * time.Millisecond

// close stops accepting. Connections that the kernel has completed are still
// served; open ones close after their current request.
func (ln *listener) close() {
	ln.gone.Store(true)
	if err := listen.Retire(ln.sockets, settle); err != nil {
		ln.gw.log.Warn().Err(err).Str("listen", ln.name).Msg("cannot drain the accept queue")
	}
	ln.wg.Wait()
	ln.retired.Store(true)
	ln.gw.meter.FDs.Listener.Add(-int64(len(ln.sockets)))
	ln.meter.Retire()
}

func (g *Gateway) closeListeners() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.closing = true
	for _, ln := range g.listeners {
		ln.close()
	}
	g.listeners = map[string]*listener{}
	g.followStoresLocked()
	g.followTicketsLocked()
	g.followStaplersLocked()
}

// accept takes connections from one socket until it is closed.
func (ln *listener) accept(s net.Listener) {
	defer ln.wg.Done()
	var backoff listen.Backoff
	for accepted := 0; ; {
		err := ln.acceptOne(s)
		if err == nil {
			backoff.Accepted()
			accepted++
			ln.pace(accepted)
			continue
		}
		pause, ok := backoff.Failed(err)
		if !ok {
			return
		}
		if e := ln.gw.log.Event(errorLevel, "accept_failed"); e != nil {
			e.Err(err).Str("listen", ln.name).Msg("cannot accept")
		}
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

// pace keeps an accept loop from what it would do to others. It steps back now and then, as a full backlog is a tenth of a second of work. While more
// handshakes come than can be done, it waits until there is room for them: each connection would only cost what it takes to refuse it, some 50 us of which
// half is the kernel's. What is not accepted waits there, and beyond the backlog its clients try again. It does not wait for long: those that have
// given up meanwhile have to be found, or nobody else gets in.
func (ln *listener) pace(accepted int) {
	h := &ln.gw.handshakes
	if ln.tls.Load() == nil || !h.gate.Crowded() {
		if accepted%acceptBatch == 0 {
			h.line.StepBack()
		}
		return
	}
	if accepted%crowdedBatch != 0 {
		return
	}
	for n := 0; n < mostPauses && (h.gate.Full() || n == 0 && h.gate.Pressed()); n++ {
		time.Sleep(pressedPause)
	}
	h.line.StepBack()
}

// Connections that an accept loop takes in one go, otherwise and while handshakes wait for their turn; and how long it waits for room among these.
const (
	acceptBatch  = 64
	crowdedBatch = 8
	pressedPause = 400 * time.Microsecond
	mostPauses   = 25
)

// descriptors is a listener that gives sockets away as descriptors.
type descriptors interface {
	AcceptFD() (fd int, peer netip.AddrPort, err error)
}

// acceptOne takes one connection. Where it can park, it does so until it sends something.
func (ln *listener) acceptOne(s net.Listener) error {
	if d, ok := s.(descriptors); ok && ln.gw.lot != nil {
		fd, peer, err := d.AcceptFD()
		if err == nil {
			ln.admit(fd, peer)
		}
		return err
	}
	nc, err := s.Accept()
	if err == nil {
		ln.admitConn(nc)
	}
	return err
}

// enter applies the connection caps. On true the connection is counted, and ended must
// follow. While its client is not known (phase park.Preface), counted is the zero Addr: nobody's.
func (ln *listener) enter(peer netip.AddrPort, counted netip.Addr) bool {
	g := ln.gw
	if g.conns.Acquire(counted) == limiter.OK {
		if limit := ln.max.Load(); ln.open.Add(1) <= limit || limit <= 0 {
			g.meter.FDs.Client.Add(1)
			ln.meter.Opened(meter.Accepted)
			return true
		}
		ln.open.Add(-1)
		g.conns.Release(counted)
	}
	g.meter.ConnRefused(reason.TooManyConns)
	g.logOverCap(ln, peer)
	return false
}

func (g *Gateway) logOverCap(ln *listener, client netip.AddrPort) {
	if e := g.log.Event(warnLevel, reason.TooManyConns.String()); e != nil {
		e.Str("listen", ln.name).Str("client", peerText(client)).Msg("connection refused: a cap on connections is reached")
	}
}

// admit has an accepted connection wait for its first byte.
func (ln *listener) admit(fd int, peer netip.AddrPort) {
	g := ln.gw
	p := park.Conn{FD: fd, Peer: peer, Owner: ln.index, Phase: park.Fresh}
	limit, counted := ln.firstLimit(), peer.Addr()
	if rules := ln.preface.Load(); rules.expects(peer) {
		p.Phase, limit, counted = park.Preface, min(limit, rules.timeout), netip.Addr{}
	}
	if !ln.enter(peer, counted) {
		_ = closeFD(fd)
		return
	}
	p.ID, p.Since, p.Until = g.nextID.Add(1), time.Now().UnixNano(), g.deadline(limit)
	g.place(p)
}

// admitConn starts a goroutine for an accepted connection, where there is no lot.
func (ln *listener) admitConn(nc net.Conn) {
	var peer netip.AddrPort
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		peer = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	rules, counted := ln.preface.Load(), peer.Addr()
	greets := rules.expects(peer)
	if greets {
		counted = netip.Addr{}
	}
	if !ln.enter(peer, counted) {
		_ = nc.Close()
		return
	}
	if greets {
		go ln.greet(nc, peer, rules, time.Now())
		return
	}
	go ln.connect(nc, peer, time.Now()).run()
}

// connect makes a connection of a client out of one of package net.
func (ln *listener) connect(nc net.Conn, peer netip.AddrPort, since time.Time) *clientConn {
	g := ln.gw
	c := &clientConn{gw: g, ln: ln, sk: sock.New(nc, g.sweeper), id: g.nextID.Add(1), peer: peer, since: since}
	c.rw = c.sk
	c.sk.SetWatcher(c)
	c.sk.Stall(g.snap.Load().cfg.Timeouts.Write)
	c.state.Store(uint32(meter.Accepted))
	if conf := ln.tls.Load(); conf != nil {
		c.secure(conf)
		c.joinShake()
		c.rw = c.tls
	}
	g.remember(c)
	return c
}

// secure begins TLS over a seat.
func (c *clientConn) secure(conf *tls.Config) {
	c.seat = new(sock.Seat)
	c.tls = tls.Server(c.seat, conf)
}
