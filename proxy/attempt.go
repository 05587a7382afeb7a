package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/proxy/upstream"
)

// attempt is one try of the request at one backend.
type attempt struct {
	number    int
	backend   *upstream.Backend
	start     time.Time
	sent      time.Time // when the request was on its way
	firstByte time.Time // when the response head was whole
	timing    upstream.Timing
	wrote     bool // some of the request was written
	reuse     bool // the connection is sound and both sides keep it
	again     bool // given up for its status: another attempt was granted
	failed    reason.Reason
}

// latency is from the start to the response head, for the balancer.
func (a *attempt) latency() time.Duration {
	if a.firstByte.IsZero() {
		return time.Since(a.start)
	}
	return max(0, a.firstByte.Sub(a.start))
}

// backendConn is a leased connection to a backend.
type backendConn struct {
	rw  net.Conn   // what HTTP is spoken over
	sk  *sock.Conn // the socket below
	tls bool
}

func backendConnOf(nc net.Conn) backendConn {
	switch c := nc.(type) {
	case *sock.Conn:
		return backendConn{rw: c, sk: c}
	case *tls.Conn:
		sk := c.NetConn().(*sock.Seat).Conn.(*sock.Conn)
		sk.UnderTLS()
		return backendConn{rw: c, sk: sk, tls: true}
	}
	panic("BUG: backend connection of an unknown type")
}

// secured returns the TLS connection and the seat below it.
func (be *backendConn) secured() (*tls.Conn, *sock.Seat) {
	c := be.rw.(*tls.Conn)
	return c, c.NetConn().(*sock.Seat)
}

// dirty reports whether a pooled connection was closed or holds bytes that nobody
// asked for; p is room for one. A tls.Conn may have read them together with the last
// response, so a look at the socket is not enough.
func (be *backendConn) dirty(p []byte) bool {
	if !be.tls {
		return be.sk.Dirty()
	}
	be.sk.NoWait(true)
	n, err := be.rw.Read(p)
	be.sk.NoWait(false)
	return n > 0 || !errors.Is(err, sock.ErrWouldBlock)
}

// responseBuffer holds what was received from the backend: buf[r:w] is unread.
type responseBuffer struct {
	pooled *[]byte
	large  *[]byte // of largePool, while a large body passes
	buf    []byte
	r, w   int
}

const responseBufferSize = 16 << 10

var responsePool = sync.Pool{New: func() any { b := make([]byte, responseBufferSize); return &b }}

func (b *responseBuffer) acquire() {
	b.pooled = responsePool.Get().(*[]byte)
	b.buf, b.r, b.w = *b.pooled, 0, 0
}

func (b *responseBuffer) release() {
	if b.pooled == nil {
		return // a tunnel gave it back
	}
	if b.large != nil {
		largePool.Put(b.large)
		b.large = nil
	}
	responsePool.Put(b.pooled)
	b.pooled, b.buf = nil, nil
}

// grow makes room for more of a head that fills the buffer.
func (b *responseBuffer) grow() {
	if b.r > 0 {
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
		return
	}
	grown := make([]byte, 2*len(b.buf))
	copy(grown, b.buf[:b.w])
	b.buf = grown
}

// Exchange implements upstream.Exchanger: it runs the attempt on a leased
// connection and reports whether the connection may be used again. The only error
// it returns is sock.ErrStale, which asks for another connection; everything else
// is in x.att.failed.
func (x *Exchange) Exchange(nc net.Conn, fresh bool) (reuse bool, err error) {
	be := backendConnOf(nc)
	if !x.c.attach(be.sk) {
		x.att.failed = orReason(x.c.killed(), reason.ClientGone)
		return true, nil // untouched
	}
	x.c.sk.Watch(true)
	ended := false
	defer func() {
		if !ended { // a panic must not leave the pump behind
			x.endAttempt(be)
		}
	}()
	err = x.converse(be, fresh)
	cause := x.endAttempt(be)
	ended = true
	x.timeBody()
	switch {
	case x.att.failed == reason.OK:
	case x.body.failed != reason.OK && x.body.failed != reason.BackendWriteFailed:
		x.att.failed = x.body.failed // the cause of what the response side saw
	case x.att.failed == reason.BackendTimeout && cause.Has(sock.WriteExpired):
		x.att.failed = reason.BackendWriteFailed // it would not take the request
	}
	if errors.Is(err, sock.ErrStale) {
		return false, err
	}
	return x.att.reuse && x.att.failed == reason.OK && x.bodySent() && cause == sock.NotInterrupted, nil
}

// endAttempt lets go of the connection: from its return on nothing that belongs to
// the attempt touches it, and it can be pooled unless it was interrupted.
func (x *Exchange) endAttempt(be backendConn) sock.Cause {
	x.c.sk.Watch(false)
	x.joinPump(be)
	x.c.detach()
	return be.sk.Disarm()
}

// timeBody leaves out of the backend's time what the client took to send a long body.
func (x *Exchange) timeBody() {
	if !x.body.begun || x.att.firstByte.IsZero() {
		return
	}
	if sent := x.body.sentAt; sent.After(x.att.sent) {
		x.att.start = x.att.start.Add(sent.Sub(x.att.sent))
		x.att.sent = sent
	}
	x.phases.FirstByte = max(0, x.att.firstByte.Sub(x.att.sent))
}

// bodySent reports whether the backend was sent the whole body. One that answered
// without would take the next request on the connection for the rest of it.
func (x *Exchange) bodySent() bool { return x.body.complete && x.body.failed == reason.OK }

// converse sends the request and passes the response on.
func (x *Exchange) converse(be backendConn, fresh bool) error {
	err := x.sendRequest(be, fresh)
	if errors.Is(err, sock.ErrStale) {
		return err
	}
	if err != nil {
		x.att.failed = orReason(x.att.failed, x.backendFailure(err, reason.BackendReset))
		return nil
	}
	if !x.readResponseHead(be) {
		return nil
	}
	x.keepPlace()
	be.sk.ArmRead(0)
	if be.sk.Interrupted().Has(sock.ReadExpired) {
		be.sk.Resume(sock.ReadExpired) // the head was whole as its time ended
	}
	x.att.firstByte = time.Now()
	x.phases.FirstByte = x.att.firstByte.Sub(x.att.sent)
	if x.upgrading() && x.res.Status == 101 {
		x.tunnel(be)
		return nil
	}
	if x.wantsOtherBackend(x.res.Status) {
		x.att.failed = reason.BackendReset // shown only if no backend is left
		x.att.again = true
		return nil
	}
	x.respond(be)
	return nil
}

// sendRequest writes head and what has arrived of the body, starts the pump for
// the rest, and reads the first bytes of the response.
func (x *Exchange) sendRequest(be backendConn, fresh bool) error {
	x.out = x.requestHead(x.out[:0])
	x.out = append(x.out, x.body.prefix...)
	x.rb.r, x.rb.w = 0, 0
	x.res.Reset()
	be.sk.ArmWrite(x.limits().Write)
	x.att.sent = x.att.start
	if fresh || x.att.timing.Wait > 0 {
		x.att.sent = time.Now() // getting a pooled connection takes no time worth a look at the clock
	}
	if x.body.complete {
		be.sk.ArmRead(x.readLimit(x.limits().ResponseHeader))
		return x.roundtrip(be, fresh)
	}
	if x.req.Expect100 {
		return x.expectContinue(be, fresh)
	}
	be.sk.ArmRead(x.readLimit(0))
	if !fresh && be.dirty(x.rb.buf[:1]) {
		return sock.ErrStale
	}
	n, err := be.rw.Write(x.out)
	be.sk.ArmWrite(0)
	x.att.wrote = n > 0
	if err != nil {
		return err
	}
	x.startPump(be)
	return x.readMore(be)
}

// roundtrip writes x.out and reads, in one pass through the poller.
func (x *Exchange) roundtrip(be backendConn, fresh bool) (err error) {
	var n int
	if !be.tls {
		n, x.att.wrote, err = be.sk.Roundtrip(x.out, x.rb.buf)
		x.rb.w = n
		return err
	}
	if !fresh && be.dirty(x.rb.buf[:1]) {
		return sock.ErrStale
	}
	x.att.wrote = true
	be.sk.Hold(sock.HoldCopy)
	_, err = be.rw.Write(x.out)
	be.sk.Hold(sock.HoldOff)
	if err != nil {
		return err
	}
	return x.readMore(be)
}

// readMore appends to the response buffer, which must have room.
func (x *Exchange) readMore(be backendConn) error {
	n, err := be.rw.Read(x.rb.buf[x.rb.w:])
	x.rb.w += n
	if n > 0 {
		return nil
	}
	return err
}

// readLimit is d, or what is left of the whole-request deadline if that is less; 0
// is no limit.
func (x *Exchange) readLimit(d time.Duration) time.Duration {
	if x.rt.timeout == 0 {
		return d
	}
	left, ok := x.remaining(time.Now())
	if !ok {
		left = 1
	}
	if d == 0 {
		return left
	}
	return min(d, left)
}

// backendFailure says why reading from or writing to the backend failed; other is
// the reason for a plain close or reset.
func (x *Exchange) backendFailure(err error, other reason.Reason) reason.Reason {
	if x.c.isGone() {
		return orReason(x.c.killed(), reason.ClientGone)
	}
	if isAlert(err) {
		return reason.BackendTLSFailed // under TLS 1.3 a refused client certificate shows only now
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return other
	}
	if _, ok := x.remaining(time.Now()); !ok {
		return reason.RequestTimeout
	}
	if other == reason.BackendReset {
		return reason.BackendTimeout
	}
	return reason.BackendStalled
}

// maxInterim is how many interim responses may come before the final one: a backend
// that sends nothing else would keep everyone busy.
const maxInterim = 32

// isAlert reports whether the backend ended the TLS session with an alert; crypto/tls
// has no exported type for that but the Op.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// readResponseHead reads until a final response head stands in x.res, or a 101 that
// was asked for. Interim responses are passed on.
func (x *Exchange) readResponseHead(be backendConn) bool {
	for interim := 0; ; {
		n, err := x.res.Parse(x.rb.buf[x.rb.r:x.rb.w], &x.snap.resLimits)
		if err != nil {
			return x.attemptFailed(asReason(err, reason.BadBackendHead))
		}
		if n == 0 {
			if x.rb.w == len(x.rb.buf) {
				x.rb.grow()
			}
			if err := x.readMore(be); err != nil {
				return x.attemptFailed(x.backendFailure(err, reason.BackendReset))
			}
			continue
		}
		x.rb.r += n
		if x.res.Status >= 200 {
			return true
		}
		if x.res.Status == 101 {
			return x.acceptUpgrade() || x.attemptFailed(reason.UnaskedUpgrade)
		}
		if interim++; interim > maxInterim {
			return x.attemptFailed(reason.BadBackendHead)
		}
		if err := x.passInterim(); err != nil {
			return x.attemptFailed(x.clientFailure(err))
		}
		if x.res.Status == 100 {
			x.startPump(be)
		}
		x.res.Reset()
	}
}

func (x *Exchange) attemptFailed(r reason.Reason) bool {
	x.att.failed = r
	return false
}
