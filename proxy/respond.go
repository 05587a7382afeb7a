package proxy

import (
	"errors"
	"io"
	"os"
	"strconv"
	"sync"

	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// framing is how a response body is delimited on the client's side.
type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	byClose // HTTP/1.0 clients only
)

// flushAt is how much of a response may gather before it is written.
const flushAt = 16 << 10

// respond sends the response in x.res to the client, body as it comes. When it
// fails after something was sent the connection is reset, so that no cut response
// can be taken for a whole one.
func (x *Exchange) respond(be backendConn) {
	kind := x.res.BodyKind(x.req.MethodID)
	out := x.clientFraming(kind)
	x.status, x.bodyBytes = x.res.Status, 0
	x.planPersistence(kind, out)
	x.enc = x.chooseEncoder(out)
	if x.enc != nil {
		out = x.clientFraming(h1.ChunkedBody) // its length is not known in advance
	}
	x.out = x.responseHead(x.out[:0], out)
	x.passBody(be, kind, out)
	if x.enc != nil {
		x.enc.release()
		x.enc = nil
	}
	if x.att.failed != reason.OK && x.started {
		x.abort()
	}
}

// clientFraming chooses how the client will see the end of the body.
func (x *Exchange) clientFraming(kind h1.BodyKind) framing {
	switch {
	case kind == h1.NoBody:
		return noBody
	case kind == h1.LengthBody:
		return byLength
	case x.req.Minor >= 1:
		return byChunks
	}
	return byClose
}

// planPersistence decides whether the two connections outlive this response.
func (x *Exchange) planPersistence(kind h1.BodyKind, out framing) {
	x.att.reuse = x.res.KeepAlive && kind != h1.UntilClose
	if out == byClose || !x.c.mayPersist(x.snap) || x.body.unread() {
		x.keepAlive = false
	}
}

// responseHead appends the head for the client.
func (x *Exchange) responseHead(dst []byte, out framing) []byte {
	dst = appendStatusLine(dst, x.res.Status, x.res.ReasonPhrase())
	dst = x.copyResponseFields(dst, out)
	if !x.res.Has(h1.Date) && x.answers(h1.Date) {
		dst = appendDate(dst, x.att.firstByte)
	}
	switch {
	case out == byChunks:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case out == byLength && x.res.ContentLength >= 0:
		dst = strconv.AppendInt(append(dst, "Content-Length: "...), x.res.ContentLength, 10)
		dst = append(dst, "\r\n"...)
	}
	if x.enc != nil {
		dst = x.enc.appendFields(dst, x)
	}
	if x.variesByCoding() && x.answers(h1.Vary) {
		dst = append(dst, "Vary: Accept-Encoding\r\n"...)
	}
	if x.snap.cfg.Forwarding.Via && x.answers(h1.Via) {
		dst = append(dst, "Via: 1.1 tickgate\r\n"...)
	}
	if ops := x.rt.resOps; ops != nil {
		dst = ops.append(dst, x)
	}
	return append(x.appendConnection(dst), "\r\n"...)
}

// answers reports whether the gateway writes a response field of its own: the route may
// set it to something else, or remove it.
func (x *Exchange) answers(id h1.FieldID) bool { return !x.rt.resOps.drops(id, "") }

// appendConnection says what becomes of the connection, where the version's default
// does not (RFC 9112 section 9.3).
func (x *Exchange) appendConnection(dst []byte) []byte {
	switch {
	case !x.keepAlive:
		return append(dst, "Connection: close\r\n"...)
	case x.req.Minor == 0:
		return append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}

// copyResponseFields copies the backend's fields that are passed on. Content-Length
// is written anew by responseHead, but for an answer without a body, where it says
// what a GET would bring (RFC 9110 section 8.6).
func (x *Exchange) copyResponseFields(dst []byte, out framing) []byte {
	var skip h1.FieldSet
	if out != noBody || x.res.StripLength {
		skip |= lengthField
	}
	if x.enc != nil {
		skip |= x.enc.replaces
	}
	if ops := x.rt.resOps; ops != nil {
		skip |= ops.drop.known
		ops.drop.dropFrom(&x.res.Head)
	}
	return x.res.AppendFields(dst, skip)
}

var lengthField = h1.FieldsOf(h1.ContentLength)

func appendStatusLine(dst []byte, status int, phrase []byte) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(append(dst, ' '), phrase...)
	return append(dst, "\r\n"...)
}

// passInterim passes a 1xx head on to a client that knows them.
func (x *Exchange) passInterim() error {
	if x.req.Minor == 0 || x.res.Status == 100 && (!x.req.Expect100 || x.body.pumping) {
		return nil // not for this client (RFC 9110 section 15.2), or it was told already
	}
	x.scratchHead()
	return x.send(x.scratch)
}

// send writes to the client within timeouts.write.
func (x *Exchange) send(p []byte) error {
	x.c.sk.ArmWrite(x.snap.cfg.Timeouts.Write)
	_, err := x.c.rw.Write(p)
	x.c.sk.ArmWrite(0) // the next write may be far off
	return err
}

func (x *Exchange) scratchHead() {
	dst := appendStatusLine(x.scratch[:0], x.res.Status, x.res.ReasonPhrase())
	dst = x.copyResponseFields(dst, noBody)
	x.scratch = append(dst, "\r\n"...)
}

// passBody sends x.out, which holds the head, and the body behind it.
func (x *Exchange) passBody(be backendConn, kind h1.BodyKind, out framing) {
	ok := true
	switch kind {
	case h1.NoBody:
		x.noteExcess()
	case h1.LengthBody:
		ok = x.passLength(be, out)
	case h1.ChunkedBody:
		ok = x.passChunks(be, out)
	case h1.UntilClose:
		ok = x.passUntilClose(be, out)
	}
	if !ok {
		return
	}
	if x.enc != nil && !x.enc.finish(x) {
		return
	}
	if out == byChunks {
		x.out = h1.AppendLastChunk(x.out, x.trailers(kind))
	}
	x.flushLast()
}

// trailers are those of a chunked response, for a client that gets it chunked.
func (x *Exchange) trailers(kind h1.BodyKind) []byte {
	if kind == h1.ChunkedBody && x.enc == nil {
		return x.chunks.Trailers()
	}
	return nil
}

// noteExcess gives up a connection on which the backend sent more than its
// response: what comes next there is not an answer to anything asked.
func (x *Exchange) noteExcess() {
	if x.rb.r < x.rb.w {
		x.att.reuse = false
		x.c.gw.logExcess(x, x.rb.w-x.rb.r)
	}
}

// passLength passes a body of known length.
func (x *Exchange) passLength(be backendConn, out framing) bool {
	left := x.res.ContentLength
	if left > responseBufferSize {
		x.rb.useLarge()
	}
	for {
		n := int(min(left, int64(x.rb.w-x.rb.r)))
		if !x.emit(x.rb.buf[x.rb.r:x.rb.r+n], out) {
			return false
		}
		x.rb.r += n
		left -= int64(n)
		if left == 0 {
			x.noteExcess()
			return true
		}
		if !x.refill(be) {
			return false
		}
	}
}

// passChunks passes a chunked body: decoded, checked and framed anew.
func (x *Exchange) passChunks(be backendConn, out framing) bool {
	chunks := &x.chunks
	chunks.Reset()
	for {
		for x.rb.r < x.rb.w && !chunks.Done() {
			data, n, err := chunks.Decode(x.rb.buf[x.rb.r:x.rb.w])
			if err != nil {
				return x.attemptFailed(reason.BadBackendFraming)
			}
			if !x.emit(data, out) {
				return false
			}
			x.rb.r += n
		}
		if chunks.Done() {
			x.noteExcess()
			return true
		}
		if !x.refill(be) {
			return false
		}
	}
}

// passUntilClose passes a body that ends with the backend's connection. Over TLS
// the end counts only with a close_notify: without it anyone on the path could
// have cut the body.
func (x *Exchange) passUntilClose(be backendConn, out framing) bool {
	for {
		if !x.emit(x.rb.buf[x.rb.r:x.rb.w], out) {
			return false
		}
		x.rb.r = x.rb.w
		if x.enc != nil && !x.enc.flush(x) || !x.flush() {
			return false
		}
		x.rb.r, x.rb.w = 0, 0
		err := x.readBody(be)
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return x.attemptFailed(x.backendFailure(err, reason.BackendTruncated))
		}
	}
}

// refill sends what has gathered and reads more. Everything a backend sends goes
// out before the next wait, so event streams arrive as they are made.
func (x *Exchange) refill(be backendConn) bool {
	if x.enc != nil && !x.enc.flush(x) || !x.flush() {
		return false
	}
	x.rb.r, x.rb.w = 0, 0
	if err := x.readBody(be); err != nil {
		return x.attemptFailed(x.backendFailure(err, reason.BackendTruncated))
	}
	return true
}

// readBody reads more of the response within timeouts.read. A client that is slow to
// take it must not use up the backend's time.
func (x *Exchange) readBody(be backendConn) error {
	be.sk.ArmRead(x.readLimit(x.limits().Read))
	err := x.readMore(be)
	be.sk.ArmRead(0)
	return err
}

// emit adds body data to the response, compressed and framed as it must be.
func (x *Exchange) emit(data []byte, out framing) bool {
	if len(data) == 0 {
		return true
	}
	if x.enc != nil {
		return x.enc.write(x, data)
	}
	return x.emitFramed(data, out)
}

func (x *Exchange) emitFramed(data []byte, out framing) bool {
	x.bodyBytes += int64(len(data))
	switch {
	case out == byChunks:
		x.out = appendChunk(x.out, data)
	case len(x.out)+len(data) <= flushAt:
		x.out = append(x.out, data...)
	default:
		return x.flush() && x.write(data)
	}
	return len(x.out) < flushAt || x.flush()
}

// flush writes what has gathered.
func (x *Exchange) flush() bool {
	if len(x.out) == 0 {
		return true
	}
	ok := x.write(x.out)
	x.out = x.out[:0]
	return ok
}

func (x *Exchange) write(p []byte) bool {
	x.started = true
	err := x.send(p)
	if err == nil {
		return true
	}
	return x.attemptFailed(x.clientFailure(err))
}

// clientFailure says why writing to the client failed.
func (x *Exchange) clientFailure(err error) reason.Reason {
	if errors.Is(err, os.ErrDeadlineExceeded) && x.c.sk.Interrupted().Has(sock.WriteExpired) {
		return reason.ClientStall
	}
	return orReason(x.c.killed(), reason.ClientGone)
}

// flushLast writes the end of a response. On a connection that goes on it is held
// until the wait for the next request, which saves that wait a system call.
func (x *Exchange) flushLast() {
	if !x.keepAlive || x.body.pumping || len(x.out) > keepBytes {
		x.flush()
		return
	}
	x.started = true
	mode := sock.HoldRef
	if x.c.tls != nil {
		mode = sock.HoldCopy
	}
	x.c.sk.ArmWrite(x.snap.cfg.Timeouts.Write)
	x.c.sk.Hold(mode)
	_, err := x.c.rw.Write(x.out)
	x.c.sk.Hold(sock.HoldOff)
	if err != nil {
		x.attemptFailed(x.clientFailure(err))
	}
}

// abort ends a response that cannot be finished.
func (x *Exchange) abort() {
	x.keepAlive = false
	x.c.end = x.att.failed
	_ = x.c.sk.Reset()
}

// Large bodies are read with a buffer of their own size class.
const largeBuffer = 64 << 10

var largePool = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// useLarge swaps in a large buffer until release, unless the head made it grow that
// far already.
func (b *responseBuffer) useLarge() {
	if len(b.buf) >= largeBuffer {
		return
	}
	b.large = largePool.Get().(*[]byte)
	n := copy(*b.large, b.buf[b.r:b.w])
	b.buf, b.r, b.w = *b.large, 0, n
}
