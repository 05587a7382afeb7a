package proxy

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"time"

	"tickgate/config"
	"tickgate/internal/accesslog"
	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/proxy/upstream"
)

// Exchange is one request and its response. It belongs to its connection's
// goroutine and is reused for the next request; a request body that is pumped by a
// second goroutine shares only what body.go says.
type Exchange struct {
	// Static.
	c *clientConn

	// The request, set by the connection.
	snap  *Snapshot
	req   h1.RequestHead
	body  requestBody
	start time.Time // when its first byte came, as far as known
	read  time.Time // when its head was whole
	ready time.Time // when enough of its body was here (gather)

	// Set by route.
	rt       *route
	path     []byte // for matching: unreserved characters decoded
	pathBuf  []byte
	target   []byte // rewritten; empty if the client's goes on
	captures []int

	// Set by the action.
	up      *upstream.Set
	backend *upstream.Backend
	att     attempt
	res     h1.ResponseHead
	phases  meter.Phases

	upstreamTime time.Duration // spent on attempts, without the way to the client

	// The answer.
	status    int
	ended     reason.Reason
	started   bool  // some of the final response may have reached the client
	bodyBytes int64 // sent, without heads and framing
	keepAlive bool
	upgraded  bool          // the connection became a tunnel
	admitted  bool          // a worker is held
	inFlight  bool          // counted at backend
	retryIn   time.Duration // Retry-After of a 503
	waited    time.Duration // until a worker read the request

	out       []byte  // what is being written to the client
	outBox    *[]byte // its place in outPool
	requestID []byte
	identity  clientIdentity
	idBuf     [32]byte
	rb        responseBuffer
	chunks    h1.Chunked // of a chunked response
	enc       *encoder

	// Room that is used again.
	scratch  []byte
	allow    []string // for a 405
	record   accesslog.Record
	lookup   func(name []byte) []byte // req.GetName, made once
	hostBuf  [256]byte                // for the longest name that h1 accepts
	addrText [64]byte                 // the client's address as text

	tunnelFor tunnelRequest // what an upgrade holds
}

// exchangePool holds Exchanges of connections that are parked or closed.
var exchangePool = sync.Pool{New: func() any {
	x := new(Exchange)
	x.lookup = x.req.GetName
	return x
}}

// bind makes x serve c.
func (c *clientConn) bind() {
	x := exchangePool.Get().(*Exchange)
	x.c, c.x = c, x
	c.addrText = append(x.addrText[:0], "unix:"...)
	if c.peer.IsValid() {
		c.addrText = c.peer.Addr().AppendTo(x.addrText[:0])
	}
	c.buffer = inPool.Get().(*[]byte)
	c.first, c.in, c.r, c.w = *c.buffer, *c.buffer, 0, 0
}

// unbind gives back what a connection without a goroutine does not need.
func (c *clientConn) unbind() {
	x := c.x
	if x == nil {
		return
	}
	x.forget()
	x.shrink()
	x.req.Reset() // and res: they point into buffers that are given away
	x.res.Reset()
	x.record = accesslog.Record{}
	x.tunnelFor = tunnelRequest{}
	x.c, c.x = nil, nil
	exchangePool.Put(x)
	inPool.Put(c.buffer)
	c.releaseLarge()
	c.buffer, c.first, c.in, c.r, c.w = nil, nil, nil, 0, 0
}

// keepBytes is the most that a buffer may hold while its connection idles; a larger
// one goes back to the heap.
const keepBytes = 4 << 10

// shrink lets go of what large messages left.
func (x *Exchange) shrink() {
	x.releaseOut()
	if cap(x.scratch) > keepBytes {
		x.scratch = nil
	}
	if cap(x.body.room) > keepBytes {
		x.body.room = nil
	}
	x.body.prefix = nil
}

// lowerHost returns the host that is asked for, in lower case and without its port, for matching.
func (x *Exchange) lowerHost() []byte {
	h := x.hostBuf[:copy(x.hostBuf[:], x.req.HostName())]
	for i, b := range h {
		if b >= 'A' && b <= 'Z' {
			h[i] = b + 'a' - 'A'
		}
	}
	return bytes.TrimSuffix(h, dot)
}

// begin makes x ready for the request whose head was just read.
func (x *Exchange) begin(snap *Snapshot) {
	x.snap = snap
	x.read = time.Now()
	x.ready = x.read
	x.start = x.read.Add(-x.c.sinceFirstByte())
	x.rt, x.up, x.backend = snap.noRoute, nil, nil
	x.captures = nil
	x.phases = meter.Phases{}
	x.att = attempt{}
	x.status, x.ended, x.started, x.bodyBytes = 0, reason.OK, false, 0
	x.keepAlive = x.req.KeepAlive
	x.upgraded = false
	x.chunks.Response = true
	x.retryIn = 0
	x.waited, x.c.queued = x.c.queued, 0
	x.acquireOut()
	x.requestID = nil
	x.identity.known = false
	x.upstreamTime = 0
	x.target = x.target[:0]
	x.body.begin(x)
}

// outPool holds response buffers, of all sizes that responses made them grow to.
var outPool = sync.Pool{New: func() any { return new([]byte) }}

func (x *Exchange) acquireOut() {
	if x.outBox == nil {
		x.outBox = outPool.Get().(*[]byte)
		x.out = *x.outBox
	}
	x.out = x.out[:0]
}

// releaseOut gives a large buffer back, before the connection idles.
func (x *Exchange) releaseOut() {
	if cap(x.out) <= keepBytes || x.outBox == nil {
		return
	}
	*x.outBox = x.out[:0]
	outPool.Put(x.outBox)
	x.out, x.outBox = nil, nil
}

// forget lets go of everything that belongs to a snapshot: an idle connection must
// not keep an old one in memory.
func (x *Exchange) forget() {
	x.snap, x.rt, x.up, x.backend = nil, nil, nil, nil
	x.att = attempt{}
	x.body.hidden = nil
}

// fail ends the request for r, unless it has ended for another reason before.
// It returns false, so that a phase can end with it.
func (x *Exchange) fail(r reason.Reason) bool {
	if x.ended == reason.OK {
		x.ended = r
	}
	return false
}

// remaining returns the time left of the whole-request deadline; ok is false if it
// has passed. No deadline is 0.
func (x *Exchange) remaining(now time.Time) (left time.Duration, ok bool) {
	limit := x.rt.timeout
	if limit == 0 {
		return 0, true
	}
	left = limit - now.Sub(x.read)
	return left, left > 0
}

// trusted reports whether the client is a proxy whose word about its own client
// counts.
func (x *Exchange) trusted() bool { return x.snap.trusts(x.c.peer.Addr()) }

// scheme is the scheme of the client's connection to this gateway.
func (x *Exchange) scheme() string {
	if x.c.tls != nil {
		return "https"
	}
	return "http"
}

// id returns the request id: a trusted proxy's, or 128 random bits in hex.
func (x *Exchange) id() []byte {
	if x.requestID != nil {
		return x.requestID
	}
	if name := x.snap.cfg.Forwarding.RequestIDHeader; name != "" && x.trusted() {
		if v := x.req.GetName(x.snap.requestIDName); len(v) > 0 && len(v) <= 128 {
			x.requestID = v
			return v
		}
	}
	x.requestID = appendHex128(x.idBuf[:0], rand.Uint64(), rand.Uint64())
	return x.requestID
}

func appendHex128(dst []byte, hi, lo uint64) []byte {
	return appendHex64(appendHex64(dst, hi), lo)
}

func appendHex64(dst []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&15])
	}
	return dst
}

// timeouts of the upstream in use.
func (x *Exchange) limits() *config.BackendTimeouts { return &x.rt.upstream.timeouts }
