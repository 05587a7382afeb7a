package proxy

import (
	"bytes"
	"time"

	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
)

// upgrading reports whether the request asks for a WebSocket and may have one.
// Other upgrades are not passed on: the request goes as a plain one.
func (x *Exchange) upgrading() bool { return x.req.WebSocket && x.rt.websocket }

// checkUpgrade refuses upgrades while the process drains, as a tunnel would outlive it, and
// beyond the limits on tunnels.
func (x *Exchange) checkUpgrade() bool {
	if !x.upgrading() {
		return true
	}
	if x.c.gw.draining.Load() {
		x.retryIn = time.Second
		return x.fail(reason.Draining)
	}
	return x.reserveTunnel()
}

// acceptUpgrade verifies a 101 against the request (RFC 6455 section 4.1, RFC 9110
// section 7.8).
func (x *Exchange) acceptUpgrade() bool {
	if !x.upgrading() || !x.res.WebSocket {
		return false
	}
	// Of two, the client could take the other.
	if x.res.Repeated(h1.SecWebSocketAccept) || x.res.Repeated(h1.SecWebSocketProtocol) {
		return false
	}
	if x.res.Has(h1.SecWebSocketExtensions) && !x.req.Has(h1.SecWebSocketExtensions) {
		return false
	}
	want := h1.WebSocketAccept(x.req.Get(h1.SecWebSocketKey))
	return bytes.Equal(x.res.Get(h1.SecWebSocketAccept), want[:]) && x.offered()
}

// offered reports whether the sub-protocol the backend chose was offered.
func (x *Exchange) offered() bool {
	chosen := x.res.Get(h1.SecWebSocketProtocol)
	if chosen == nil {
		return true
	}
	for i := range x.req.Fields {
		if x.req.Fields[i].ID != h1.SecWebSocketProtocol {
			continue
		}
		for p := range bytes.SplitSeq(x.req.Value(i), []byte(",")) {
			if bytes.Equal(bytes.TrimSpace(p), chosen) {
				return true
			}
		}
	}
	return false
}

// tunnel sends the 101 and joins the two connections. Usually the relay takes both
// sockets over, and this exchange is done.
func (x *Exchange) tunnel(be backendConn) {
	if x.c.gw.tunnels != nil && (be.sk.PrepareRelease() != nil || x.c.sk.PrepareRelease() != nil) {
		x.retryIn = time.Second
		x.att.failed = reason.TooManyTunnels // for want of descriptors
		return
	}
	x.status = 101
	x.keepAlive = false
	dst := appendStatusLine(x.out[:0], 101, x.res.ReasonPhrase())
	dst = x.copyResponseFields(dst, noBody)
	if x.rt.resOps != nil {
		dst = x.rt.resOps.append(dst, x)
	}
	x.out = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	if !x.flush() {
		return
	}
	x.leaveForTunnel()
	if x.c.gw.tunnels == nil || !x.handOff(be) {
		x.tunnelHere(be)
	}
	x.rb.release()
}

// leaveForTunnel stops counting the connection as a request being served.
func (x *Exchange) leaveForTunnel() {
	x.c.setState(meter.Relayed)
	x.c.sk.Watch(false)
	x.c.detach()
	x.leave()
	x.upgraded = true
}
