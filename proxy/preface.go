package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/config"
	"tickgate/internal/meter"
	"tickgate/internal/preface"
	"tickgate/internal/reason"
	"tickgate/limiter"
	"tickgate/proxy/park"
)

// The preface of a connection from a proxy in front is its PROXY header, before the first byte of
// TLS or HTTP. It is awaited in the lot (phase park.Preface) and read on the loop, to its last byte
// and no further; from then on the connection is that of the client in it. Until then it counts in
// all, and as nobody's: the proxy must not use up connections.max_per_client, nor has the client begun to.

// prefaceRules are a listener's proxy_protocol; nil is none.
type prefaceRules struct {
	from     peerList
	timeout  time.Duration
	required bool
}

func newPrefaceRules(o *config.ProxyProtocol) (*prefaceRules, error) {
	if o == nil {
		return nil, nil
	}
	from, err := newPeerList(o.From)
	if err != nil {
		return nil, fmt.Errorf("proxy_protocol.from: %w", err)
	}
	return &prefaceRules{from: from, timeout: o.Timeout, required: o.Required}, nil
}

// expects reports whether a connection of peer begins with a header, or may.
func (r *prefaceRules) expects(peer netip.AddrPort) bool { return r != nil && r.from.has(peer.Addr()) }

// prefaceCounts are what became of headers, over all listeners.
type prefaceCounts struct {
	v1, v2, own, absent atomic.Uint64
	failures            []atomic.Uint64 // by preface.Failure
}

// took counts a header.
func (c *prefaceCounts) took(h preface.Header) {
	switch {
	case h.Own:
		c.own.Add(1)
	case h.Version == 1:
		c.v1.Add(1)
	default:
		c.v2.Add(1)
	}
}

func (g *Gateway) writePrefaceMetrics(w io.Writer) {
	c := &g.prefaces
	metrics.WriteCounterUint64(w, `tickgate_proxy_headers_total{kind="v1"}`, c.v1.Load())
	metrics.WriteCounterUint64(w, `tickgate_proxy_headers_total{kind="v2"}`, c.v2.Load())
	metrics.WriteCounterUint64(w, `tickgate_proxy_headers_total{kind="own"}`, c.own.Load())
	metrics.WriteCounterUint64(w, `tickgate_proxy_headers_total{kind="absent"}`, c.absent.Load())
	for _, f := range preface.Failures() {
		metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_proxy_header_failures_total{reason=%q}", f), c.failures[f].Load())
	}
}

// prefaceFailed counts and logs a connection that ends at its header. peer is the proxy.
func (g *Gateway) prefaceFailed(ln *listener, peer netip.AddrPort, f preface.Failure) {
	g.prefaces.failures[f].Add(1)
	if e := g.log.Event(infoLevel, "bad_proxy_header"); e != nil {
		e.Stringer("reason", f).Str("proxy", peerText(peer)).Str("listen", ln.name).Msg("PROXY header failed")
	}
}

// strayPreface tells whether a connection that failed begins with a header that nobody
// awaited: a proxy that is not in proxy_protocol.from is a mistake that is not found otherwise.
func (c *clientConn) strayPreface(first []byte) {
	if !preface.Resembles(first) {
		return
	}
	c.gw.prefaces.failures[preface.Unexpected].Add(1)
	if e := c.gw.log.Event(warnLevel, "unexpected_proxy_header"); e != nil {
		e.Stringer("reason", preface.Unexpected).Str("client", peerText(c.peer)).Str("listen", c.ln.name).
			Msg("a PROXY header came from an address that is not in proxy_protocol.from, or a second one")
	}
}

// strayRecord is strayPreface for a failed handshake, which knows the first five bytes.
func (c *clientConn) strayRecord(err error) {
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		c.strayPreface(header.RecordHeader[:])
	}
}

// firstLimit is how long a connection may take for its first request, or its handshake, from accept.
func (ln *listener) firstLimit() time.Duration {
	timeouts := &ln.gw.snap.Load().cfg.Timeouts
	if ln.tls.Load() != nil {
		return timeouts.Handshake
	}
	return timeouts.Head
}

// prefaceEnd says what follows a look at the first bytes.
type prefaceEnd uint8

const (
	prefaceWait    prefaceEnd = iota // more bytes are needed
	prefaceWhole                     // a header has come
	prefaceAbsent                    // none, and none is required
	prefaceRefused                   // none that is acceptable
)

// judge looks at the first bytes of a connection that expects a header, of which the
// first size are one. f says why they are refused.
func (r *prefaceRules) judge(seen []byte) (end prefaceEnd, h preface.Header, size int, f preface.Failure) {
	h, size, err := preface.Parse(seen)
	switch {
	case err == nil && size == 0:
		return prefaceWait, h, 0, 0
	case err == nil:
		return prefaceWhole, h, size, 0
	case errors.Is(err, preface.Missing) && r.optional():
		return prefaceAbsent, h, 0, 0
	}
	return prefaceRefused, h, 0, asFailure(err)
}

func asFailure(err error) (f preface.Failure) {
	errors.As(err, &f)
	return f
}

// optional reports whether a connection may do without. After a reload without proxy_protocol, those from before still
// need a header.
func (r *prefaceRules) optional() bool { return r != nil && !r.required }

// clientIn is the client of a header on a connection of peer.
func clientIn(h *preface.Header, peer netip.AddrPort) netip.AddrPort {
	if h.Own {
		return peer
	}
	return h.Client
}

// prefaceBuffers hold a header while it is read.
var prefaceBuffers = sync.Pool{New: func() any { return new([preface.MaxLen]byte) }}

// preface is told by wake, on a loop, that a connection waits for its header no longer. On
// true the connection is its client's, in phase park.Fresh, and the first byte is here.
func (g *Gateway) preface(p *park.Conn, why park.Why) bool {
	ln := g.listener(p.Owner)
	switch {
	case why == park.Ready, why == park.Evicted && g.draining.Load() && !g.stopping.Load() && readable(p.FD):
		return g.readPreface(ln, p)
	case why == park.Gone:
		g.prefaceGone(ln, p)
	case why == park.Evicted:
		g.closeParked(*p, g.whyClosed(p, why))
	case ln.preface.Load().optional() && len(p.Rest) == 0: // what came may be the beginning of a request
		g.prefaces.absent.Add(1)
		return g.introduce(ln, p, p.Peer) && g.first(p, p.Partial)
	default:
		g.refusePreface(ln, p, preface.TimedOut)
	}
	return false
}

// readPreface looks at what has come.
func (g *Gateway) readPreface(ln *listener, p *park.Conn) bool {
	buf := prefaceBuffers.Get().(*[preface.MaxLen]byte)
	defer prefaceBuffers.Put(buf)
	had := copy(buf[:], p.Rest)
	n, ok := peek(p.FD, buf[had:])
	if !ok {
		g.prefaceGone(ln, p)
		return false
	}
	rules, seen := ln.preface.Load(), buf[:had+n]
	end, h, size, f := rules.judge(seen)
	switch {
	case end == prefaceRefused, end == prefaceAbsent && had > 0: // what was taken cannot be given back, after a reload
		g.refusePreface(ln, p, f)
		return false
	case end == prefaceWait:
		maybe := had == 0 && rules.optional() && !preface.Recognised(seen)
		if maybe && n > 0 && !awaitMore(p.FD, n, p.Partial) {
			break // the kernel does not wait: the few bytes so far decide
		}
		g.keepPreface(p, seen, maybe)
		return false
	case end == prefaceWhole:
		take(p.FD, buf[:size-had])
		g.prefaces.took(h)
		return g.introduce(ln, p, clientIn(&h, p.Peer)) && g.first(p, len(seen) > size)
	}
	g.prefaces.absent.Add(1)
	return g.introduce(ln, p, p.Peer) && g.first(p, true)
}

// keepPreface has a connection wait for more. What belongs to a header for certain is taken from the
// socket, as the kernel tells of what it holds again and again. What may be a request (maybe) stays there.
func (g *Gateway) keepPreface(p *park.Conn, seen []byte, maybe bool) {
	if !maybe {
		if p.Partial && len(p.Rest) == 0 {
			wakeOnAny(p.FD)
		}
		fresh := len(seen) - len(p.Rest)
		p.Rest = append(make([]byte, 0, len(seen)), seen...)
		take(p.FD, seen[:fresh]) // whose bytes are read again
	}
	p.Partial = len(seen) > 0 // so that a drain leaves it its time
	g.place(*p)
}

// introduce makes the connection that of its client.
func (g *Gateway) introduce(ln *listener, p *park.Conn, client netip.AddrPort) bool {
	if g.conns.Claim(client.Addr()) != limiter.OK {
		g.prefaces.failures[preface.TooManyConns].Add(1)
		g.logOverCap(ln, client)
		g.closeParked(*p, reason.TooManyConns)
		return false
	}
	if p.Partial && len(p.Rest) == 0 {
		wakeOnAny(p.FD)
	}
	p.Rest = nil
	p.Peer, p.Phase = client, park.Fresh
	p.Until = g.deadline(ln.firstLimit() - time.Since(time.Unix(0, p.Since)))
	return true
}

// first has a connection that was introduced wait for its first byte, unless that is here.
func (g *Gateway) first(p *park.Conn, here bool) bool {
	p.Partial = false
	if !here {
		g.place(*p)
	}
	return here
}

// prefaceGone ends a connection whose proxy is gone. One that sent nothing is a probe of the port.
func (g *Gateway) prefaceGone(ln *listener, p *park.Conn) {
	if len(p.Rest) > 0 || p.Partial {
		g.refusePreface(ln, p, preface.CutShort)
		return
	}
	g.closeParked(*p, reason.ClientClosed)
}

func (g *Gateway) refusePreface(ln *listener, p *park.Conn, f preface.Failure) {
	g.prefaceFailed(ln, p.Peer, f)
	g.closeParked(*p, reason.BadPreface)
}

// greet reads the header of an accepted connection and serves its client, where there is no lot.
func (ln *listener) greet(nc net.Conn, peer netip.AddrPort, rules *prefaceRules, since time.Time) {
	g := ln.gw
	rest, client, end := ln.await(nc, peer, rules, since)
	if end == reason.OK && g.conns.Claim(client.Addr()) != limiter.OK {
		g.prefaces.failures[preface.TooManyConns].Add(1)
		g.logOverCap(ln, client)
		end = reason.TooManyConns
	}
	if end != reason.OK {
		_ = nc.Close()
		g.ended(ln, netip.AddrPort{}, meter.Accepted, end)
		return
	}
	if len(rest) > 0 {
		nc = &replay{Conn: nc, rest: rest}
	}
	c := ln.connect(nc, client, since)
	if g.stopping.Load() {
		c.kill(reason.ShutDown) // cut may not have seen it
	}
	c.run()
}

// await reads until the header is whole, within its time and until the gateway stops. rest is what
// was read behind it.
func (ln *listener) await(nc net.Conn, peer netip.AddrPort, rules *prefaceRules, since time.Time) (rest []byte, client netip.AddrPort, end reason.Reason) {
	_ = nc.SetReadDeadline(since.Add(min(rules.timeout, ln.firstLimit())))
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ln.gw.quit:
			_ = nc.SetReadDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	rest, client, end = ln.awaitWhole(nc, peer, rules)
	if ln.gw.stopping.Load() {
		end = reason.ShutDown
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil && end == reason.OK {
		end = reason.ClientClosed
	}
	return rest, client, end
}

func (ln *listener) awaitWhole(nc net.Conn, peer netip.AddrPort, rules *prefaceRules) (rest []byte, client netip.AddrPort, _ reason.Reason) {
	g := ln.gw
	buf := make([]byte, preface.MaxLen)
	for n := 0; ; {
		k, err := nc.Read(buf[n:])
		n += k
		end, h, size, f := rules.judge(buf[:n])
		switch {
		case n > 0 && end == prefaceWhole:
			g.prefaces.took(h)
			return buf[size:n], clientIn(&h, peer), reason.OK
		case end == prefaceAbsent, errors.Is(err, os.ErrDeadlineExceeded) && rules.optional() && !preface.Recognised(buf[:n]):
			g.prefaces.absent.Add(1)
			return buf[:n], peer, reason.OK
		case end == prefaceRefused:
		case errors.Is(err, os.ErrDeadlineExceeded):
			f = preface.TimedOut
		case err != nil && n == 0:
			return nil, peer, reason.ClientClosed
		case err != nil:
			f = preface.CutShort
		default:
			continue
		}
		g.prefaceFailed(ln, peer, f)
		return nil, peer, reason.BadPreface
	}
}

// replay is a connection whose first bytes were read and are to be read again.
type replay struct {
	net.Conn
	rest []byte
}

// Read implements net.Conn.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// CloseWrite sends FIN.
func (r *replay) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// SetLinger is as of a net.TCPConn.
func (r *replay) SetLinger(sec int) error {
	if c, ok := r.Conn.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}
