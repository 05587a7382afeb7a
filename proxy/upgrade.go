package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// upgrading reports whether the request asks for a WebSocket and may have one.
// Other upgrades are not passed on: the request goes as a plain one.
func (x *Exchange) upgrading() bool { return x.req.WebSocket && x.rt.websocket }

// checkUpgrade refuses upgrades while the process drains: a tunnel would outlive it.
func (x *Exchange) checkUpgrade() bool {
	if x.upgrading() && x.c.gw.draining.Load() {
		return x.fail(reason.Draining)
	}
	return true
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

// tunnel sends the 101 and joins the two connections until both directions ended.
func (x *Exchange) tunnel(be backendConn) {
	x.status = 101
	x.keepAlive = false
	dst := appendStatusLine(x.out[:0], 101, x.res.ReasonPhrase())
	dst = x.copyResponseFields(dst, noBody)
	if x.rt.resOps != nil {
		dst = x.rt.resOps.append(dst, x)
	}
	dst = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	dst = append(dst, x.rb.buf[x.rb.r:x.rb.w]...) // the backend's first frames
	x.out = dst
	if !x.flush() {
		return
	}
	x.leaveForTunnel()
	t := &tunnel{idle: x.snap.cfg.Timeouts.Tunnel, stall: x.snap.cfg.Timeouts.Write, bug: func(p any) { x.c.gw.logBug(p, "copying through a tunnel") }}
	t.touch()
	early := bytes.Clone(x.c.in[x.c.r:x.c.w]) // the client's first frames
	x.c.r = x.c.w
	x.c.joinTunnel(be.sk)
	defer x.c.joinTunnel(nil)
	t.join(leg{x.c.rw, x.c.sk}, leg{be.rw, be.sk}, early)
	x.bodyBytes += t.toClient.Load()
	x.body.received += t.toBackend.Load()
	x.c.end = orReason(x.c.killed(), t.reason())
	x.ended = x.c.end
}

// leaveForTunnel stops counting the connection as a request being served.
func (x *Exchange) leaveForTunnel() {
	x.c.setState(meter.Upgraded)
	x.c.sk.Watch(false)
	x.c.detach()
	x.leave()
	x.rb.release()
	x.upgraded = true
}

// tunnel is two connections joined. Each direction has a goroutine; a half-close
// is passed on, and the other direction goes on.
type tunnel struct {
	idle      time.Duration
	stall     time.Duration // how long one side may refuse bytes: timeouts.write
	bug       func(p any)   // writes a panic to the log
	last      atomic.Int64  // when the last byte went through, in Unix nanoseconds
	toClient  atomic.Int64
	toBackend atomic.Int64
	ended     atomic.Uint32 // the first reason
}

// leg is one side of a tunnel.
type leg struct {
	rw net.Conn
	sk *sock.Conn
}

func (t *tunnel) touch() { t.last.Store(time.Now().UnixNano()) }

func (t *tunnel) reason() reason.Reason {
	if r := reason.Reason(t.ended.Load()); r != reason.OK {
		return r
	}
	return reason.TunnelDone
}

func (t *tunnel) join(client, backend leg, early []byte) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer t.rescue(client, backend)
		t.copy(backend, client, &t.toBackend, early)
	})
	t.copy(client, backend, &t.toClient, nil)
	wg.Wait()
}

// rescue ends the tunnel after a panic in the direction that has a goroutine of its own.
func (t *tunnel) rescue(a, b leg) {
	if p := recover(); p != nil {
		t.bug(p)
		t.fail(a, b, reason.Internal)
	}
}

var tunnelPool = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// copy moves bytes from src to dst until src ends, then half-closes dst. A failure
// ends both directions.
func (t *tunnel) copy(dst, src leg, count *atomic.Int64, early []byte) {
	buf := tunnelPool.Get().(*[]byte)
	defer tunnelPool.Put(buf)
	data := early
	for {
		if len(data) > 0 {
			dst.sk.ArmWrite(t.stall)
			n, err := dst.rw.Write(data)
			dst.sk.ArmWrite(0)
			count.Add(int64(n))
			t.touch()
			if err != nil {
				t.fail(dst, src, reason.TunnelDone)
				return
			}
		}
		n, err := t.read(src, *buf)
		data = (*buf)[:n]
		if n > 0 {
			continue
		}
		if errors.Is(err, io.EOF) || errors.Is(err, sock.ErrCut) {
			halfClose(dst)
			return
		}
		r := reason.TunnelDone
		if src.sk.Interrupted().Has(sock.ReadExpired) {
			r = reason.IdleTimeout
		}
		t.fail(dst, src, r)
		return
	}
}

// read waits for bytes. A silent direction is not idle while the other one talks.
func (t *tunnel) read(src leg, p []byte) (int, error) {
	for {
		src.sk.ArmRead(t.idle)
		n, err := src.rw.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !src.sk.Interrupted().Has(sock.ReadExpired) {
			return n, err
		}
		if time.Since(time.Unix(0, t.last.Load())) >= t.idle {
			return 0, err
		}
		src.sk.Resume(sock.ReadExpired)
	}
}

func (t *tunnel) fail(a, b leg, r reason.Reason) {
	t.ended.CompareAndSwap(uint32(reason.OK), uint32(r))
	a.sk.Interrupt(sock.Cancelled)
	b.sk.Interrupt(sock.Cancelled)
}

// halfClose passes the end of one direction on: close_notify over TLS, then FIN.
func halfClose(l leg) {
	if c, ok := l.rw.(interface{ CloseWrite() error }); ok && l.rw != net.Conn(l.sk) {
		_ = c.CloseWrite()
		l.sk.ArmWrite(0) // crypto/tls leaves a deadline behind that has passed
	}
	_ = l.sk.CloseWrite()
}
