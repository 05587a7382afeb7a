package proxy

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// requestBody is the state of a request's body. What arrived together with the head
// becomes the prefix, which is sent in one write with the head and can be sent
// again on a retry. The rest, if any, is pumped by a goroutine of its own, since
// the backend may answer before it has read everything.
//
// While the pump runs it alone reads the client connection and owns everything
// here; the exchange waits for it in settleBody before it touches either again.
type requestBody struct {
	chunked  bool
	left     int64 // bytes not yet read, of a body with Content-Length
	chunks   h1.Chunked
	prefix   []byte // framed for the backend: room, or a part of the input buffer
	room     []byte
	received int64
	limit    int64
	complete bool // nothing is left to read
	pumping  bool
	begun    bool // some of it was read from the connection after the prefix
	failed   reason.Reason
	hidden   *nameSet // trailer fields that are not passed on, besides those that cannot be trailers; nil is none
	done     chan struct{}
	sentAt   time.Time // when the pump ended

	// Shared while the pump runs.
	drained atomic.Bool   // the pump has read all of it; the last bytes may still be on their way
	place   atomic.Uint32 // a place
}

// place says whether a request whose body is pumped has its place at the gate. Whoever changes it
// does to gate and crew what the change means (aside.go).
type place = uint32

const (
	placeHeld  place = iota // it has, and may step aside
	placeAside              // it has given it back while its client sends nothing
	placeKept               // it has, to the end: the final response head has come
)

// begin looks at what the head promises.
func (b *requestBody) begin(x *Exchange) {
	b.chunked = x.req.Chunked
	b.left = max(0, x.req.ContentLength)
	b.complete = !b.chunked && b.left == 0
	b.prefix, b.room = nil, b.room[:0]
	b.received, b.limit = 0, 0
	b.pumping, b.begun = false, false
	b.failed = reason.OK
	b.drained.Store(false)
	b.place.Store(placeHeld)
	if b.chunked {
		b.chunks.Reset()
	}
}

// takePrefix frames what has already arrived. Called again, it goes on with what has come since.
func (x *Exchange) takePrefix() bool {
	b, c := &x.body, x.c
	if b.complete {
		return true
	}
	if !b.chunked { // it goes on as it came
		from := c.r - len(b.prefix)
		c.r += b.pass(c.w - c.r)
		b.prefix = c.in[from:c.r:c.r]
		return true
	}
	b.limit = x.rt.maxBody
	b.hidden = &x.snap.clientCert // also a proxy that is believed says in the head who its client is
	var n int
	b.room, n = b.take(b.room, c.in[c.r:c.w])
	b.prefix = b.room
	c.r += n
	return b.failed == reason.OK || x.fail(b.failed)
}

// pass counts up to n bytes of a body with Content-Length as read, and returns how many.
func (b *requestBody) pass(n int) int {
	n = int(min(b.left, int64(n)))
	b.left -= int64(n)
	b.received += int64(n)
	b.complete = b.left == 0
	return n
}

// take consumes from src, appends it to dst as it goes to the backend, and returns
// how much it consumed: never a byte beyond the body.
func (b *requestBody) take(dst, src []byte) ([]byte, int) {
	if !b.chunked {
		n := b.pass(len(src))
		return append(dst, src[:n]...), n
	}
	used := 0
	for used < len(src) && !b.complete && b.failed == reason.OK {
		data, n, err := b.chunks.Decode(src[used:])
		used += n
		b.received += int64(len(data))
		if err != nil {
			b.failed = asReason(err, reason.BadChunk)
		} else if b.limit > 0 && b.received > b.limit {
			b.failed = reason.BodyTooLarge
		} else if len(data) > 0 {
			dst = appendChunk(dst, data)
		}
		if b.failed == reason.OK && b.chunks.Done() {
			b.complete = true
			dst = h1.AppendLastChunk(dst, b.hidden.strip(b.chunks.Trailers()))
		}
	}
	return dst, used
}

// replayable reports whether nothing of the body was lost to a failed attempt: the
// prefix can be sent again, and what follows it has not been read.
func (b *requestBody) replayable() bool { return !b.begun }

// unread reports whether some of the body is still to be read from the client.
func (b *requestBody) unread() bool {
	if b.pumping {
		return !b.drained.Load()
	}
	return !b.complete
}

// appendChunk frames data as one chunk.
func appendChunk(dst, data []byte) []byte {
	dst = h1.AppendChunkHeader(dst, int64(len(data)))
	return append(append(dst, data...), "\r\n"...)
}

// Body buffers: what is read at once, and its framed form.
const pumpBuffer = 32 << 10

var pumpPool = sync.Pool{New: func() any { return &pumpBuffers{in: make([]byte, pumpBuffer)} }}

type pumpBuffers struct{ in, out []byte }

// startPump sends the rest of the body to the backend on another goroutine.
func (x *Exchange) startPump(be backendConn) {
	b := &x.body
	if b.complete || b.pumping {
		return
	}
	b.pumping, b.begun = true, true
	b.place.Store(placeHeld)      // an answer to an attempt before is none to this one
	be.sk.ArmRead(x.readLimit(0)) // the wait for the response begins when the body ends
	if b.done == nil {
		b.done = make(chan struct{}, 1)
	}
	go x.pumpBody(be)
}

// pumpBody ends when the body is complete or either side fails. A client that
// breaks off or breaks the framing takes the attempt with it; a backend that no
// longer reads does not, since it may have answered already.
func (x *Exchange) pumpBody(be backendConn) {
	b := &x.body
	p := pump{bufs: pumpPool.Get().(*pumpBuffers)}
	defer x.endPump(be)
	writeLimit := x.limits().Write
	for !b.complete && b.failed == reason.OK {
		src, err := x.readPiece(&p)
		if len(src) == 0 && err != nil {
			b.failed = x.readFailure(err)
			break
		}
		var used int
		p.bufs.out, used = b.take(p.bufs.out[:0], src)
		x.c.unread(src[used:])
		b.drained.Store(b.complete)
		be.sk.ArmWrite(writeLimit)
		_, err = be.rw.Write(p.bufs.out)
		be.sk.ArmWrite(0) // a slow backend is no fault of the client, nor the other way round
		if err != nil {
			b.failed = reason.BackendWriteFailed
			break
		}
	}
	p.release()
}

// endPump tells the attempt how the body ended. It is deferred, as a bug in the pump
// must end one request and not the process.
func (x *Exchange) endPump(be backendConn) {
	if p := recover(); p != nil {
		x.c.gw.logBug(p, "pumping a request body")
		x.body.failed = reason.Internal
	}
	x.comeBack()
	x.body.sentAt = time.Now()
	switch x.body.failed {
	case reason.OK, reason.BackendWriteFailed:
		// After a failed write the response, if there is one, tells more.
		if x.body.place.Load() != placeKept {
			be.sk.ArmRead(x.readLimit(x.limits().ResponseHeader))
		}
	default:
		be.sk.Interrupt(sock.Cancelled)
	}
	x.body.done <- struct{}{} // has room for one
}

// readSize bounds a read so that a body with Content-Length is never read past its
// end.
func (b *requestBody) readSize(room int) int {
	if b.chunked {
		return room
	}
	return int(min(b.left, int64(room)))
}

// readFailure says why the body could not be read: OK if joinPump stopped it.
func (x *Exchange) readFailure(err error) reason.Reason {
	cause := x.c.sk.Interrupted()
	switch {
	case errors.Is(err, net.ErrClosed):
		return reason.OK // abort closed it, for a reason of its own
	case cause.Has(sock.Cancelled) && !x.c.isGone():
		return reason.OK
	case cause.Has(sock.ReadExpired):
		return reason.BodyTimeout
	}
	return orReason(x.c.killed(), reason.ClientGone)
}

// joinPump waits for the pump. One that still reads when the response is over is
// stopped: the rest of the body interests nobody any more.
func (x *Exchange) joinPump(be backendConn) {
	b := &x.body
	if !b.pumping {
		return
	}
	b.pumping = false
	if !b.awaitEnd() {
		be.sk.Interrupt(sock.Cancelled)
		x.c.sk.Interrupt(sock.Cancelled)
		<-b.done
	}
	x.c.resume(sock.Cancelled | sock.ReadExpired) // so that the client can be told
}

// lastWrite is how long a pump that has read the whole body may take to be done
// with it. Usually it is done but for its last instructions.
const lastWrite = 50 * time.Millisecond

// awaitEnd reports whether the pump ended by itself.
func (b *requestBody) awaitEnd() bool {
	select {
	case <-b.done:
		return true
	default:
	}
	if !b.drained.Load() {
		return false
	}
	timer := fasthttp.AcquireTimer(lastWrite)
	defer fasthttp.ReleaseTimer(timer)
	select {
	case <-b.done:
		return true
	case <-timer.C:
		return false
	}
}

// settleBody gives up the connection if some of the body is still to come, as
// nobody knows where the next request begins.
func (x *Exchange) settleBody() {
	if !x.body.complete {
		x.keepAlive = false
	}
}
