package proxy

import (
	"bytes"
	"net/netip"
	"unsafe"

	"tickgate/internal/h1"
)

// clientIdentity is who the client is taken for: the connection's other end, or whom
// a trusted proxy there speaks for. It is worked out once a request, when first asked.
type clientIdentity struct {
	known bool
	addr  netip.Addr // invalid for a Unix socket
	text  []byte     // as a header value
}

// client returns the request's client. X-Forwarded-For is read from its end, where
// the nearest proxy wrote, and believed as long as trusted proxies wrote it: the
// first address that is none of theirs is the client's. What cannot be read ends
// the walk at the last proxy.
func (x *Exchange) client() *clientIdentity {
	id := &x.identity
	if id.known {
		return id
	}
	id.known, id.addr, id.text = true, x.c.peer.Addr(), x.c.addrText
	if !x.trusted() {
		return id
	}
	for i := len(x.req.Fields) - 1; i >= 0; i-- {
		if x.req.Fields[i].ID == h1.XForwardedFor && !x.walkForwarded(id, x.req.Value(i)) {
			break
		}
	}
	return id
}

// walkForwarded reads one field value from its end, and reports whether the field
// before it counts too.
func (x *Exchange) walkForwarded(id *clientIdentity, value []byte) bool {
	for len(value) > 0 {
		i := bytes.LastIndexByte(value, ',')
		entry := bytes.TrimSpace(value[i+1:])
		value = value[:max(i, 0)]
		addr, ok := parseForwarded(entry)
		if !ok {
			return false
		}
		id.addr, id.text = addr, entry
		if !x.snap.trusts(addr) {
			return false
		}
	}
	return true
}

// parseForwarded reads an entry of X-Forwarded-For: an address, or with a port.
func parseForwarded(entry []byte) (netip.Addr, bool) {
	if len(entry) == 0 || bytes.IndexByte(entry, '%') >= 0 {
		return netip.Addr{}, false // a zone means nothing on another machine
	}
	// Not retained: ParseAddr keeps zones only.
	s := unsafe.String(unsafe.SliceData(entry), len(entry))
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap(), true
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap(), err == nil
}
