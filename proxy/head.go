package proxy

import (
	"net/netip"
	"strconv"

	"tickgate/internal/h1"
)

// requestHead appends the head that the backend gets. What needs no change is
// copied as it came, whole runs of lines at once: order, case and spacing of the
// client's fields survive.
func (x *Exchange) requestHead(dst []byte) []byte {
	dst = append(append(dst, x.req.Method()...), ' ')
	dst = x.appendTarget(dst)
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = x.appendHost(dst)
	dst = x.copyFields(dst)
	dst = x.appendFraming(dst)
	dst = x.appendForwarding(dst)
	if ops := x.rt.reqOps; ops != nil {
		dst = ops.append(dst, x)
	}
	return append(dst, "\r\n"...)
}

// appendTarget appends the request target in origin form (RFC 9112 section 3.2.1):
// the client's bytes, unless the route rewrites them.
func (x *Exchange) appendTarget(dst []byte) []byte {
	if len(x.target) > 0 {
		return append(dst, x.target...)
	}
	return x.req.AppendOriginTarget(dst)
}

func (x *Exchange) appendHost(dst []byte) []byte {
	dst = append(dst, "Host: "...)
	switch h := x.rt.upstream.host; {
	case x.rt.reqOps != nil && x.rt.reqOps.host != nil:
		dst = x.rt.reqOps.host.append(dst, x)
	case h == hostOfClient && len(x.req.Host()) > 0:
		dst = append(dst, x.req.Host()...)
	case h == hostOfClient || h == hostOfBackend: // HTTP/1.0 clients may send no Host
		dst = append(dst, x.backend.Host()...)
	default:
		dst = append(dst, h...)
	}
	return append(dst, "\r\n"...)
}

// Values of an upstream's `host`.
const (
	hostOfClient  = "client"
	hostOfBackend = "backend"
)

// copyFields copies the fields that are passed on. Left out are those that concern
// this connection only (RFC 9110 section 7.6.1), those written anew below, and
// those that the route removes.
func (x *Exchange) copyFields(dst []byte) []byte {
	skip := x.snap.rewritten.known
	x.snap.rewritten.dropFrom(&x.req.Head)
	if !x.trusted() {
		skip |= posing
		dropPosing(&x.req.Head)
	}
	switch {
	case !x.believesClientCert():
		skip |= x.snap.clientCert.known
		x.snap.clientCert.dropFrom(&x.req.Head)
	case x.tellsClientCert():
		foreignChain.dropFrom(&x.req.Head)
		fallthrough
	default:
		x.snap.clientCert.dropLookalikes(&x.req.Head) // the proxy's own client may have sent these
	}
	if x.snap.trace == traceExtend && !x.hasTrace() {
		skip |= traceState // it belongs to a trace that ends here
	}
	if ops := x.rt.reqOps; ops != nil {
		skip |= ops.drop.known
		ops.drop.dropFrom(&x.req.Head)
	}
	return x.req.AppendFields(dst, skip)
}

// posing are fields that only a trusted proxy may send on, as backends believe them.
var posing = h1.FieldsOf(h1.XForwardedFor, h1.XForwardedProto, h1.XForwardedHost, h1.XForwardedPort, h1.XRealIP, h1.Forwarded)

// dropPosing drops the rest of the X-Forwarded family, of which more names are in use
// than h1 knows.
func dropPosing(h *h1.Head) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID != h1.Unknown || f.NameEnd-f.NameStart < uint32(len(xForwarded)) {
			continue
		}
		if sameVariable(h.Name(i)[:len(xForwarded)], xForwarded) {
			f.Hop = true
		}
	}
}

var xForwarded = []byte("x-forwarded-")

// appendFraming appends what frames the body (RFC 9112 section 6), and the
// connection fields of an upgrade.
func (x *Exchange) appendFraming(dst []byte) []byte {
	switch {
	case x.req.Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case x.req.ContentLength >= 0:
		dst = strconv.AppendInt(append(dst, "Content-Length: "...), x.req.ContentLength, 10)
		dst = append(dst, "\r\n"...)
	}
	if x.req.Expect100 && !x.body.complete {
		dst = append(dst, "Expect: 100-continue\r\n"...)
	}
	if x.upgrading() {
		return append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	}
	if x.req.TETrailers {
		dst = append(dst, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	return dst
}

// appendForwarding appends what the backend is told about the client. Fields of a
// trusted proxy are extended, anyone else's were dropped.
func (x *Exchange) appendForwarding(dst []byte) []byte {
	f := &x.snap.cfg.Forwarding
	trusted := x.trusted()
	if f.XForwarded {
		dst = x.appendXForwarded(dst, trusted)
	}
	if f.Forwarded && x.sends(h1.Forwarded) {
		dst = x.appendForwarded(dst, trusted)
	}
	if f.RequestIDHeader != "" && !x.rt.reqOps.drops(x.snap.requestIDField, f.RequestIDHeader) {
		dst = append(append(dst, f.RequestIDHeader...), ": "...)
		dst = append(append(dst, x.id()...), "\r\n"...)
	}
	dst = x.appendClientCert(dst)
	if f.Via && x.sends(h1.Via) {
		dst = append(dst, "Via: 1.1 tickgate\r\n"...)
	}
	if x.snap.trace == traceExtend && x.sends(h1.Traceparent) {
		dst = x.appendTrace(dst)
	}
	return dst
}

// sends reports whether the gateway writes a field of its own: the route may set it
// to something else, or remove it.
func (x *Exchange) sends(id h1.FieldID) bool {
	return !x.rt.reqOps.drops(id, "")
}

func (x *Exchange) appendXForwarded(dst []byte, trusted bool) []byte {
	if x.sends(h1.XForwardedFor) {
		dst = append(dst, "X-Forwarded-For: "...)
		if trusted {
			dst = x.appendAll(dst, h1.XForwardedFor)
		}
		dst = append(append(dst, x.c.addrText...), "\r\n"...)
	}
	if x.sends(h1.XForwardedProto) {
		dst = append(dst, "X-Forwarded-Proto: "...)
		if v := x.req.Get(h1.XForwardedProto); trusted && len(v) > 0 {
			dst = append(dst, v...)
		} else {
			dst = append(dst, x.scheme()...)
		}
		dst = append(dst, "\r\n"...)
	}
	host := x.req.Host()
	if v := x.req.Get(h1.XForwardedHost); trusted && len(v) > 0 {
		host = v
	}
	if len(host) > 0 && x.sends(h1.XForwardedHost) {
		dst = append(dst, "X-Forwarded-Host: "...)
		dst = append(append(dst, host...), "\r\n"...)
	}
	return dst
}

// appendAll appends every value of a list field, each followed by ", ".
func (x *Exchange) appendAll(dst []byte, id h1.FieldID) []byte {
	for i := range x.req.Fields {
		if x.req.Fields[i].ID != id {
			continue
		}
		if v := x.req.Value(i); len(v) > 0 {
			dst = append(append(dst, v...), ", "...)
		}
	}
	return dst
}

// appendForwarded appends RFC 7239's field. IPv6 addresses are bracketed and so
// quoted (section 6).
func (x *Exchange) appendForwarded(dst []byte, trusted bool) []byte {
	dst = append(dst, "Forwarded: "...)
	if trusted {
		dst = x.appendAll(dst, h1.Forwarded)
	}
	dst = append(dst, "for="...)
	dst = appendNode(dst, x.c.peer.Addr())
	if host := x.req.Host(); len(host) > 0 {
		dst = append(append(append(dst, ";host=\""...), host...), '"')
	}
	dst = append(dst, ";proto="...)
	dst = append(dst, x.scheme()...)
	return append(dst, "\r\n"...)
}

func appendNode(dst []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(dst, "unknown"...)
	case a.Is4():
		return a.AppendTo(dst)
	}
	dst = append(dst, `"[`...)
	dst = a.AppendTo(dst)
	return append(dst, `]"`...)
}
