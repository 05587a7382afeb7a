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

	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// Where there is no reactor (systems other than Linux), a tunnel has a goroutine for each
// direction and knows no framing.

// tunnelHere joins the two connections until both directions ended.
func (x *Exchange) tunnelHere(be backendConn) {
	t := &tunnel{idle: x.rt.tunnel.Idle, stall: x.rt.tunnel.Stall, bug: func(p any) { x.c.gw.logBug(p, "copying through a tunnel") }}
	t.touch()
	toBackend := bytes.Clone(x.c.in[x.c.r:x.c.w]) // the client's first frames
	toClient := bytes.Clone(x.rb.buf[x.rb.r:x.rb.w])
	x.c.r = x.c.w
	x.c.joinTunnel(be.sk)
	defer x.c.joinTunnel(nil)
	x.c.reviewLate()
	t.join(leg{x.c.rw, x.c.sk}, leg{be.rw, be.sk}, toBackend, toClient)
	x.bodyBytes += t.toClient.Load()
	x.body.received += t.toBackend.Load()
	x.c.end = orReason(x.c.killed(), t.reason())
	x.ended = x.c.end
}

// tunnel is two connections joined by two goroutines. A half-close is passed on, and
// the other direction goes on.
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

func (t *tunnel) join(client, backend leg, toBackend, toClient []byte) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer t.rescue(client, backend)
		t.copy(backend, client, &t.toBackend, toBackend)
	})
	t.copy(client, backend, &t.toClient, toClient)
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
