package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/proxy/park"
)

// clientConn is a client's connection while it is hot: a worker reads heads from it
// and serves one exchange after the other. It exists from the moment that a worker gets
// the connection until it parks (waiting.go), becomes a tunnel (tunnels.go) or ends.
type clientConn struct {
	// Static while it is hot.
	gw       *Gateway
	ln       *listener
	sk       *sock.Conn
	rw       net.Conn   // sk, or tls over it
	tls      *tls.Conn  // over seat
	seat     *sock.Seat // occupied by sk
	id       uint64
	peer     netip.AddrPort
	addrText []byte // in x
	since    time.Time
	from     park.Conn // as it was handed out, if it was parked
	crew     *crew     // whose worker serves it; nil without a lot

	// Owned by the worker (body.go says when a pump reads in).
	in        []byte // in[r:w] is received and unread
	first     []byte // what in is unless more is needed
	buffer    *[]byte
	large     *[]byte // of largeInPool, once a request needed it
	r, w      int
	readErr   error // of the last fill
	x         *Exchange
	requests  int
	begun     time.Duration // when the first bytes of the head came, as far as known; 0 is now
	idleBy    time.Duration // when the wait for a request ends
	bodyBy    time.Duration // when the wait for the rest of a body ends, with which it parks; 0 is none
	queued    time.Duration // the wait for a worker that its first request had
	discarded int           // bytes thrown away while lingering
	warm      bool          // its requests follow each other within workers.park_after
	fate      fate
	end       reason.Reason
	tunnel    *tunnelHandoff
	shake     *shake // its handshake, nil if it had none here

	facts tlsFacts

	// Shared with the sweep, the admin API and drain.
	state  atomic.Uint32
	note   atomic.Pointer[tlsNote] // of seat, once the handshake is over
	served atomic.Bool             // it has had a request and is idle since

	shaking atomic.Bool // in its handshake: it may wait in the lot

	mu        sync.Mutex // guards what follows; never held over I/O
	backend   *sock.Conn // the attempt that PeerGone cancels
	tunnelled *sock.Conn // the other end of a tunnel with goroutines, which only kill interrupts
	gone      bool
	left      bool // parked or relayed: no longer this object's connection
	killedBy  reason.Reason
}

// fate is what becomes of a connection when its worker leaves it.
type fate uint8

const (
	fateClose  fate = iota
	fatePark        // it waits without a worker
	fateRelay       // it is a tunnel
	fateLinger      // its end is sent, and the peer\'s is waited for without a worker
)

// tlsFacts describe the client's TLS session for logs and headers.
type tlsFacts struct{ version, cipher, serverName, ja4 string }

const firstBuffer = 4 << 10

var inPool = sync.Pool{New: func() any { b := make([]byte, firstBuffer); return &b }}

// largeIn is the size of the buffer that takes heads, and bodies awaited as a whole, that do not
// fit into the first one.
const largeIn = 32 << 10

var largeInPool = sync.Pool{New: func() any { b := make([]byte, largeIn); return &b }}

// run serves the connection until it ends, parks or becomes a tunnel.
func (c *clientConn) run() {
	defer c.leave()
	defer c.rescue()
	if c.tls != nil && c.from.Phase == park.Fresh && !c.handshake() {
		return
	}
	c.bind()
	c.recall()
	for c.readHead() {
		c.x.serve()
		if !c.next() {
			return
		}
	}
}

// recall takes up the part of a request that came before the connection parked.
func (c *clientConn) recall() {
	rest := c.from.Rest
	if len(rest) > len(c.in) {
		c.grow(2 * len(rest))
	}
	c.w = copy(c.in, rest)
	c.from.Rest = nil
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
			c.x.begin(snap)
			return true
		}
		if !c.readMore(snap) {
			return false
		}
	}
}

// await waits for the first byte of a request: for a while here, then parked.
func (c *clientConn) await() bool {
	c.x.forget()
	if !c.sk.Held() {
		c.x.shrink() // what is still held to be sent stays: the next request overwrites it
	}
	now := c.gw.now()
	if c.idleBy == 0 {
		// By the coarse clock, as this comes with every request: early at most by how late the loops are.
		c.idleBy = now + c.idleLimit() + clockStep
	}
	if c.waitForBytes(min(c.patience(), c.idleBy-now)) {
		c.idleBy = 0
		c.warm = c.warm || c.requests > 0 // it came within the patience of this worker
		c.activate()
		// A tls.Conn may have held the request, so that nothing was read below it.
		return !c.sk.Held() || c.sk.Flush() == nil || c.unsent()
	}
	cause := c.sk.Interrupted()
	if c.sk.Held() && !cause.Has(sock.Cancelled|sock.WriteExpired) {
		// The wait ended before it began: the response is still to be sent.
		c.resume(sock.ReadExpired)
		if c.sk.Flush() != nil {
			return c.unsent()
		}
	}
	switch {
	case c.killed() != reason.OK:
		c.end = c.killed()
	case c.gw.draining.Load() && cause.Has(sock.Cancelled):
		c.end = reason.Draining
		return c.lastWord()
	case cause.Has(sock.WriteExpired), c.sk.Held() && c.sk.Flush() != nil:
		// The wait may have ended before it began, with the response not yet sent.
		return c.unsent()
	case c.mayPark(cause) && c.gw.now() < c.idleBy:
		if c.sk.PrepareRelease() != nil {
			return c.awaitHere() // no descriptor is free
		}
		c.fate = fatePark
	case cause.Has(sock.ReadExpired):
		c.end = reason.IdleTimeout
	case c.end == reason.OK:
		c.end = reason.ClientClosed
	}
	return false
}

// awaitHere waits for a request without a way to park: a descriptor would be needed for
// a moment.
func (c *clientConn) awaitHere() bool {
	c.resume(sock.ReadExpired)
	if c.waitForBytes(max(c.idleBy-c.gw.now(), time.Millisecond)) {
		c.idleBy = 0
		return true
	}
	c.end = orReason(c.killed(), reason.IdleTimeout)
	if !c.sk.Interrupted().Has(sock.ReadExpired) {
		c.end = orReason(c.killed(), reason.ClientClosed)
	}
	return false
}

// idleLimit is how long the connection may stay without a request; the first one has
// to come as soon as a head has to be whole.
func (c *clientConn) idleLimit() time.Duration {
	timeouts := &c.gw.snap.Load().cfg.Timeouts
	if c.requests == 0 {
		return timeouts.Head
	}
	return timeouts.Idle
}

// waitForBytes fills once, waiting at most d; 0 does not wait.
func (c *clientConn) waitForBytes(d time.Duration) bool {
	if d <= 0 {
		c.sk.NoWait(true)
		ok := c.fill()
		c.sk.NoWait(false)
		return ok
	}
	c.sk.ArmRead(d)
	c.sk.Yield(true)
	ok := c.fill()
	c.sk.Yield(false)
	return ok
}

// readMore reads more of a head that is not whole. A slow client waits for the rest
// parked, but its time goes on from the first byte.
func (c *clientConn) readMore(snap *Snapshot) bool {
	now := c.gw.clock()
	if c.begun == 0 {
		c.begun = now
	}
	c.resume(sock.ReadExpired) // of the wait before, if it passed as these bytes came
	left := snap.cfg.Timeouts.Head - (now - c.begun)
	if left <= 0 {
		return c.headLate(snap)
	}
	wait := left
	if c.gw.lot != nil {
		wait = min(left, c.headPatience())
	}
	if c.waitForBytes(wait) {
		return true
	}
	cause := c.sk.Interrupted()
	switch {
	case c.killed() != reason.OK:
		c.end = c.killed()
	case wait < left && c.mayPark(cause):
		if c.sk.PrepareRelease() != nil { // no descriptor is free: it waits on here
			c.resume(sock.ReadExpired)
			return c.waitForBytes(left) || c.headLate(snap)
		}
		c.fate = fatePark
	case cause.Has(sock.ReadExpired):
		return c.headLate(snap)
	case c.w > c.r:
		c.end = reason.ClientGone
	}
	return false
}

// sinceFirstByte is how long ago the head that was just read began to arrive, which nobody
// knows of one that waited for a worker: that wait is it. It forgets the time of the head.
func (c *clientConn) sinceFirstByte() time.Duration {
	begun := c.begun
	c.begun = 0
	if begun != 0 {
		return c.gw.clock() - begun
	}
	return c.queued
}

// lastWord sends what is still held when an idle connection is told to close, and
// gives a request that has arrived in the same moment its answer.
func (c *clientConn) lastWord() bool {
	c.activate()
	c.resume(sock.ReadExpired) // the wait may have ended for both reasons
	if c.sk.Flush() != nil {
		return c.unsent()
	}
	return c.sk.Readable() && c.waitForBytes(headPatience)
}

// activate marks the connection as busy, unless it is. The lock keeps a drain from
// taking it for idle from here on.
func (c *clientConn) activate() {
	if c.state.Load() == uint32(meter.Active) {
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

// closeIfIdle tells an idle connection to close.
func (c *clientConn) closeIfIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left || !c.served.Load() && time.Since(c.since) < firstRequest {
		return // parked, or its request is probably on the way
	}
	switch {
	case c.state.Load() == uint32(meter.Idle):
		c.sk.Interrupt(sock.Cancelled)
	case c.shaking.Load(): // whose client has stopped in the middle
		c.killLocked(reason.Draining)
	}
}

// killed tells why the connection was ended from outside, OK if it was not.
func (c *clientConn) killed() reason.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killedBy
}

// headLate ends a connection whose request head did not become whole in time.
func (c *clientConn) headLate(snap *Snapshot) bool {
	c.resume(sock.ReadExpired)
	c.x.req.Abandon(c.in[c.r:c.w])
	c.refuse(snap, reason.HeadTimeout)
	return false
}

// refuse answers a head that the parser did not accept, and ends the connection:
// where the next request would begin is unknown.
func (c *clientConn) refuse(snap *Snapshot, r reason.Reason) {
	c.strayPreface(c.in[c.r:c.w])
	c.x.begin(snap)
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
		c.grow(2 * len(c.in))
	}
	var n int
	n, c.readErr = c.rw.Read(c.in[c.w:]) // an error that comes with bytes comes again
	c.w += n
	return n > 0
}

// grow moves unread bytes into a buffer of n bytes or more. The old one stays as it is: a head
// that was parsed is still there.
func (c *clientConn) grow(n int) {
	rest := c.in[c.r:c.w]
	if c.large == nil && n <= largeIn {
		c.large = largeInPool.Get().(*[]byte)
		c.in = *c.large
	} else {
		c.in = make([]byte, n)
	}
	c.r, c.w = 0, copy(c.in, rest)
}

// compact moves unread bytes to the front, and gives up a grown buffer that they no
// longer need.
func (c *clientConn) compact() {
	rest := c.in[c.r:c.w]
	small := len(rest) < len(c.first)
	if small {
		c.in = c.first
	}
	c.r, c.w = 0, copy(c.in, rest)
	if small {
		c.releaseLarge()
	}
}

// releaseLarge gives the larger buffer back, which nothing may refer to any more.
func (c *clientConn) releaseLarge() {
	if c.large != nil {
		largeInPool.Put(c.large)
		c.large = nil
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
	if c.fate == fatePark {
		return false // within a request, whose body is to come
	}
	c.requests++
	if c.fate == fateRelay {
		return false
	}
	if !c.x.keepAlive {
		if c.end == reason.OK {
			c.end = reason.ClientClosed
		}
		if c.state.Load() != uint32(meter.Relayed) {
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
	if c.tls != nil && c.sk.Writable() { // a peer that takes nothing will miss the rest as well
		_ = c.tls.CloseWrite()
		c.sk.ArmWrite(0) // crypto/tls leaves a deadline behind that has passed
	}
	if c.sk.CloseWrite() != nil {
		return
	}
	c.sk.ArmRead(lingerTime)
	c.sk.NoWait(c.gw.lot != nil)
	for c.discarded < lingerBytes {
		n, err := c.sk.Read(c.in[:cap(c.in)])
		if errors.Is(err, sock.ErrWouldBlock) {
			c.fate = fateLinger
		}
		if err != nil {
			return
		}
		c.discarded += n
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
		c.end, c.fate = reason.Internal, fateClose
		c.endShake()
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

// kill ends the connection from another goroutine. It reports false if the connection
// has left for the lot or the relay.
func (c *clientConn) kill(r reason.Reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return false
	}
	c.killLocked(r)
	return true
}

func (c *clientConn) killLocked(r reason.Reason) {
	c.gone, c.killedBy = true, r
	c.sk.Interrupt(sock.Cancelled)
	if c.shaking.Load() {
		c.sk.Inspect(hangUp) // where it waits, nobody knows of interruptions
	}
	if c.backend != nil {
		c.backend.Interrupt(sock.Cancelled)
	}
	if c.tunnelled != nil {
		c.tunnelled.Interrupt(sock.Cancelled)
	}
}

// reset makes the end of a connection that was killed a RST. One in its handshake is closed by its goroutine: where it waits, in the lot,
// a descriptor must not be closed under it, as nobody would tell, and its number soon is another connection's.
func (c *clientConn) reset() {
	if c.shaking.Load() {
		c.sk.Inspect(abortOnClose)
		return
	}
	_ = c.sk.Reset()
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

// leave ends the worker's part: the connection parks, goes to the relay, or is closed
// and everything given back.
func (c *clientConn) leave() {
	switch {
	case c.fate == fatePark && c.park(), c.fate == fateRelay && c.relay(), c.fate == fateLinger && c.linger():
		c.unbind()
	default:
		if c.bodyBy != 0 { // it could not park
			c.x.fail(orReason(c.killed(), reason.Internal))
			c.x.finish()
		}
		if c.tls == nil || c.sk.Writable() { // close_notify is not worth a worker's wait
			_ = c.rw.Close()
		}
		_ = c.sk.Close()
		c.unbind()
		c.gw.ended(c.ln, c.peer, meter.ConnState(c.state.Load()), orReason(c.killed(), c.end))
	}
	c.gw.forget(c)
}

// asReason returns the reason in err, or other.
func asReason(err error, other reason.Reason) reason.Reason {
	var r reason.Reason
	if errors.As(err, &r) {
		return r
	}
	return other
}
