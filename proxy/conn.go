package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/accesslog"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// clientConn is a client's connection: it reads heads and serves one exchange after
// the other, on one goroutine.
type clientConn struct {
	// Static after accept.
	gw       *Gateway
	ln       *listener
	sk       *sock.Conn
	rw       net.Conn // sk, or tls over it
	tls      *tls.Conn
	id       uint64
	peer     netip.AddrPort
	addrText []byte
	since    time.Time

	// Owned by the connection's goroutine (body.go says when a pump reads in).
	in       []byte // in[r:w] is received and unread
	first    []byte // what in is unless more is needed; pooled
	r, w     int
	x        Exchange
	requests int
	scratch  []byte
	allow    []string // for a 405
	facts    tlsFacts
	record   accesslog.Record
	lookup   func(name []byte) []byte // x.req.GetName, made once
	hostBuf  [256]byte
	end      reason.Reason

	// Shared with the sweep, the admin API and drain.
	state  atomic.Uint32
	served atomic.Bool // it has had a request and is idle since

	mu        sync.Mutex // guards what follows; never held over I/O
	backend   *sock.Conn // the attempt that PeerGone cancels
	tunnelled *sock.Conn // the other end of a tunnel, which only kill interrupts
	gone      bool
	killedBy  reason.Reason
}

// tlsFacts describe the client's TLS session for logs and headers.
type tlsFacts struct{ version, cipher, serverName string }

const firstBuffer = 4 << 10

var inPool = sync.Pool{New: func() any { b := make([]byte, firstBuffer); return &b }}

// run serves the connection until it ends.
func (c *clientConn) run() {
	defer c.close()
	defer c.rescue()
	if c.tls != nil && !c.handshake() {
		return
	}
	c.setState(meter.Idle)
	buf := inPool.Get().(*[]byte)
	defer inPool.Put(buf)
	c.first, c.in = *buf, *buf
	c.x.c, c.lookup = c, c.x.req.GetName
	for c.readHead() {
		c.x.serve()
		if !c.next() {
			return
		}
	}
}

// readHead reads until a whole request head stands in c.in. The bytes of the
// previous response may still be held: the first read sends them.
func (c *clientConn) readHead() bool {
	c.x.req.Reset()
	c.compact()
	if c.r == c.w && !c.await() {
		return false
	}
	c.activate()
	snap := c.gw.snap.Load() // not before the wait, which may be long
	if c.requests > 0 {
		c.sk.ArmRead(snap.cfg.Timeouts.Head) // await did so for the first request
	}
	for {
		n, err := c.x.req.Parse(c.in[c.r:c.w], &snap.reqLimits)
		if err != nil {
			c.refuse(snap, asReason(err, reason.BadRequestLine))
			return false
		}
		if n > 0 {
			c.r += n
			if c.sk.Disarm().Has(sock.ReadExpired) {
				c.resume(sock.ReadExpired) // the head was whole as its time ended
			}
			c.x.begin(snap, time.Now())
			return true
		}
		if !c.fill() {
			return c.headCut(snap)
		}
	}
}

// await waits for the first byte of a request.
func (c *clientConn) await() bool {
	c.x.forget()
	c.shrink()
	timeouts := &c.gw.snap.Load().cfg.Timeouts
	if c.requests == 0 {
		c.sk.ArmRead(timeouts.Head)
	} else {
		c.sk.ArmRead(timeouts.Idle)
	}
	if c.fill() {
		c.activate()
		// A tls.Conn may have held the request, so that nothing was read below it.
		return !c.sk.Held() || c.sk.Flush() == nil || c.unsent()
	}
	cause := c.sk.Interrupted()
	switch {
	case c.killed() != reason.OK:
		c.end = c.killed()
	case c.gw.draining.Load() && cause.Has(sock.Cancelled):
		c.end = reason.Draining
		return c.lastWord()
	case cause.Has(sock.WriteExpired):
		return c.unsent()
	case cause.Has(sock.ReadExpired):
		c.end = reason.IdleTimeout
	case c.end == reason.OK:
		c.end = reason.ClientClosed
	}
	return false
}

// lastWord sends what is still held when an idle connection is told to close, and
// gives a request that has arrived in the same moment its answer.
func (c *clientConn) lastWord() bool {
	c.activate()
	if c.sk.Flush() != nil {
		return c.unsent()
	}
	return c.sk.Readable() && c.fill()
}

// activate marks the connection as busy, unless it is. The lock keeps a drain from
// taking it for idle from here on.
func (c *clientConn) activate() {
	if c.state.Load() != uint32(meter.Idle) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setState(meter.Active)
	if c.killedBy == reason.OK && c.sk.Interrupted().Has(sock.Cancelled) {
		c.sk.Resume(sock.Cancelled) // told to close an instant ago, but a request is here
	}
}

// resume undoes interruptions that have done their work, unless the connection was
// killed meanwhile.
func (c *clientConn) resume(what sock.Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killedBy == reason.OK && c.sk.Interrupted().Has(what) {
		c.sk.Resume(what)
	}
}

// firstRequest is how long a drain leaves a new connection to send its first request.
const firstRequest = time.Second

// closeIfIdle tells an idle connection to close.
func (c *clientConn) closeIfIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.served.Load() && time.Since(c.since) < firstRequest {
		return // its request is probably on the way
	}
	if c.state.Load() == uint32(meter.Idle) {
		c.sk.Interrupt(sock.Cancelled)
	}
}

// killed tells why the connection was ended from outside, OK if it was not.
func (c *clientConn) killed() reason.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killedBy
}

// headCut ends a connection whose request head did not become whole.
func (c *clientConn) headCut(snap *Snapshot) bool {
	if c.sk.Interrupted().Has(sock.ReadExpired) {
		c.resume(sock.ReadExpired)
		c.x.req.Abandon(c.in[c.r:c.w])
		c.refuse(snap, reason.HeadTimeout)
		return false
	}
	if c.w > c.r {
		c.end = reason.ClientGone
	}
	return false
}

// refuse answers a head that the parser did not accept, and ends the connection:
// where the next request would begin is unknown.
func (c *clientConn) refuse(snap *Snapshot, r reason.Reason) {
	c.x.begin(snap, time.Now())
	c.x.keepAlive = false
	c.x.ended = r
	c.x.replyError()
	c.x.finish()
	c.end = r
	c.lingerClose()
}

// fill reads once, into a larger buffer if it is full.
func (c *clientConn) fill() bool {
	if c.w == len(c.in) {
		grown := make([]byte, 2*len(c.in))
		c.w = copy(grown, c.in[c.r:c.w])
		c.r = 0
		c.in = grown
	}
	n, _ := c.rw.Read(c.in[c.w:]) // an error that comes with bytes comes again
	c.w += n
	return n > 0
}

// compact moves unread bytes to the front, and gives up a grown buffer that they no
// longer need.
func (c *clientConn) compact() {
	rest := c.in[c.r:c.w]
	if len(rest) < len(c.first) {
		c.in = c.first
	}
	c.r, c.w = 0, copy(c.in, rest)
}

// keepBytes is the most that a buffer of an idle connection may hold; a larger one
// goes back to the heap.
const keepBytes = 4 << 10

// shrink lets go of what large messages left, before the connection idles. What is
// still held to be sent stays: the next request overwrites it.
func (c *clientConn) shrink() {
	if !c.sk.Held() {
		c.x.releaseOut()
	}
	if cap(c.scratch) > keepBytes {
		c.scratch = nil
	}
	if cap(c.x.body.prefix) > keepBytes {
		c.x.body.prefix = nil
	}
}

// unread puts bytes that belong to the next request back.
func (c *clientConn) unread(p []byte) {
	if len(p) == 0 {
		return
	}
	rest := append(append(make([]byte, 0, max(firstBuffer, len(p)+c.w-c.r)), c.in[c.r:c.w]...), p...)
	c.in, c.r, c.w = rest[:cap(rest)], 0, len(rest)
}

// next reports whether another request may follow.
func (c *clientConn) next() bool {
	c.requests++
	if !c.x.keepAlive {
		if c.end == reason.OK {
			c.end = reason.ClientClosed
		}
		if c.state.Load() != uint32(meter.Upgraded) {
			_ = c.sk.Flush()
			c.lingerClose()
		}
		return false
	}
	if c.r < c.w {
		// A pipelined request waits: its answer must not delay the last one's.
		return c.sk.Flush() == nil || c.unsent()
	}
	c.served.Store(true)
	c.setState(meter.Idle)
	return true
}

// unsent ends the connection because the last response could not be sent whole.
func (c *clientConn) unsent() bool {
	c.end = reason.ClientGone
	if c.sk.Interrupted().Has(sock.WriteExpired) {
		c.end = reason.ClientStall
	}
	_ = c.sk.Reset()
	return false
}

// mayPersist reports whether the connection may take another request after this
// one, by the limits on connections. It sets why not.
func (c *clientConn) mayPersist(l *Snapshot) bool {
	switch lim := &l.cfg.Limits; {
	case c.gw.draining.Load():
		c.end = reason.Draining
	case c.ln.gone.Load():
		c.end = reason.ReloadedAway
	case lim.MaxRequestsPerConn > 0 && c.requests+1 >= lim.MaxRequestsPerConn:
		c.end = reason.MaxRequests
	case lim.MaxConnAge > 0 && time.Since(c.since) >= lim.MaxConnAge:
		c.end = reason.MaxLifetime
	default:
		return true
	}
	return false
}

// Lingering: a close while the peer still sends makes the kernel answer with RST,
// which can destroy a response the peer has not read yet. So send FIN, then read
// and discard for a bounded time and amount (RFC 9112 section 9.6).
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 1 << 20
)

func (c *clientConn) lingerClose() {
	c.sk.Hold(sock.HoldOff)
	if c.tls != nil {
		_ = c.tls.CloseWrite()
		c.sk.ArmWrite(0) // crypto/tls leaves a deadline behind that has passed
	}
	if c.sk.CloseWrite() != nil {
		return
	}
	c.sk.ArmRead(lingerTime)
	for total := 0; total < lingerBytes; {
		n, err := c.sk.Read(c.in[:cap(c.in)])
		if err != nil {
			return
		}
		total += n
	}
}

// attach makes sk the connection that is interrupted when the client goes. It
// fails if the client has gone already.
func (c *clientConn) attach(sk *sock.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	c.backend = sk
	return true
}

// detach undoes attach. From its return on, nobody interrupts sk.
func (c *clientConn) detach() {
	c.mu.Lock()
	c.backend = nil
	c.mu.Unlock()
}

// PeerGone implements sock.Watcher: the client has closed while a backend works for
// it, so the attempt is cancelled.
func (c *clientConn) PeerGone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.backend != nil {
		c.backend.Interrupt(sock.Cancelled)
	}
}

// rescue ends the connection after a panic outside of a request: one bug must not end
// every other connection.
func (c *clientConn) rescue() {
	if p := recover(); p != nil {
		c.gw.logBug(p, "serving a connection")
		c.end = reason.Internal
		_ = c.sk.Reset()
	}
}

func (c *clientConn) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func (c *clientConn) setState(s meter.ConnState) {
	if old := meter.ConnState(c.state.Swap(uint32(s))); old != s {
		c.ln.meter.Moved(old, s)
	}
}

// kill ends the connection from another goroutine.
func (c *clientConn) kill(r reason.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone, c.killedBy = true, r
	c.sk.Interrupt(sock.Cancelled)
	if c.backend != nil {
		c.backend.Interrupt(sock.Cancelled)
	}
	if c.tunnelled != nil {
		c.tunnelled.Interrupt(sock.Cancelled)
	}
}

// joinTunnel makes sk the other end of a tunnel, nil when it has ended.
func (c *clientConn) joinTunnel(sk *sock.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tunnelled = sk
	if sk != nil && c.killedBy != reason.OK {
		sk.Interrupt(sock.Cancelled)
	}
}

// close gives everything back.
func (c *clientConn) close() {
	_ = c.rw.Close()
	_ = c.sk.Close()
	c.end = orReason(c.killed(), c.end)
	c.gw.forget(c)
}

// lowerHost returns host in lower case and without its port, for matching.
func (c *clientConn) lowerHost(host []byte) []byte {
	if len(host) > len(c.hostBuf) {
		return host
	}
	h := c.hostBuf[:copy(c.hostBuf[:], host)]
	for i, b := range h {
		if b >= 'A' && b <= 'Z' {
			h[i] = b + 'a' - 'A'
		}
	}
	if i := bytes.LastIndexByte(h, ':'); i >= 0 && bytes.IndexByte(h[i:], ']') < 0 {
		h = h[:i]
	}
	return bytes.TrimSuffix(h, dot)
}

// asReason returns the reason in err, or other.
func asReason(err error, other reason.Reason) reason.Reason {
	var r reason.Reason
	if errors.As(err, &r) {
		return r
	}
	return other
}
