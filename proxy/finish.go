package proxy

import (
	"net/netip"
	"time"

	"tickgate/internal/accesslog"
	"tickgate/internal/h1"
	"tickgate/internal/reason"
)

// finish counts and logs the exchange; it runs once for each request that was read,
// refused ones included.
func (x *Exchange) finish() {
	now := time.Now()
	phases := &x.phases
	phases.Total = now.Sub(x.start)
	if !x.att.firstByte.IsZero() {
		phases.Transfer = now.Sub(x.att.firstByte)
	}
	if x.upgraded {
		phases = nil // a tunnel's lifetime is no latency
	}
	x.releaseTunnel()
	x.rt.metrics.Done(x.status, x.ended, phases, x.body.received, x.bodyBytes)
	if x.c.fate == fateRelay {
		return // its line is written when it ends
	}
	if x.rt.accessLog && x.c.gw.access.Load() != nil {
		x.logAccess(now)
	}
	if x.ended != reason.OK && x.ended != reason.LocalResponse && !x.upgraded {
		x.c.gw.logEnd(x)
	}
}

func (x *Exchange) logAccess(now time.Time) {
	rec := &x.record
	*rec = accesslog.Record{
		Time: now, Duration: now.Sub(x.start), UpstreamDuration: x.upstreamTime, ClientAddr: x.logAddr(),
		Status: x.status, BytesSent: x.bodyBytes, BytesReceived: x.body.received,
		Reason: x.ended, Attempts: x.att.number,
		Route: x.rt.name, Upstream: x.rt.upstreamName(), Backend: x.backendAddr(),
		Listener: x.c.ln.name, Scheme: x.scheme(),
		TLSVersion: x.c.facts.version, TLSCipher: x.c.facts.cipher, TLSServerName: x.c.facts.serverName, TLSJA4: x.c.facts.ja4,
		TLSClient: x.c.logClient(),
	}
	if len(x.req.Raw) > 0 {
		rec.Method, rec.Host, rec.Path, rec.Query = x.req.Method(), x.req.Host(), x.req.Path(), x.req.Query()
		rec.Target, rec.Proto = x.req.Target(), proto[x.req.Minor&1]
		rec.Referer, rec.UserAgent = x.req.Get(h1.Referer), x.req.Get(h1.UserAgent)
		rec.RequestID, rec.Header = x.id(), x.lookup
	}
	x.c.gw.access.Load().Log(rec)
}

// logAddr is the client's address, with a port if it is the connection's own.
func (x *Exchange) logAddr() netip.AddrPort {
	if addr := x.client().addr; addr != x.c.peer.Addr() {
		return netip.AddrPortFrom(addr, 0)
	}
	return x.c.peer
}

var proto = [2][]byte{[]byte("HTTP/1.0"), []byte("HTTP/1.1")}
