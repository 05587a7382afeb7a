package httpload

import (
	"errors"
	"fmt"

	"tickgate/internal/h1"
)

// errBehind says that bytes follow a response that nobody asked for.
var errBehind = errors.New("httpload: bytes behind the response")

// headLimits are generous: a tool is to show what a server sends.
var headLimits = h1.Limits{MaxHead: 256 << 10, MaxFields: 1000}

// response reads the response to one request, in whatever pieces it comes. It allocates
// nothing for a head that comes in one piece, unless the body is chunked for the first
// time.
type response struct {
	method h1.MethodID
	body   h1.BodyKind
	// begun says that a byte has come, headed that the head is whole, and keep that the
	// connection may be used again.
	begun, headed, keep bool
	// refused says that it is a 503 with Retry-After.
	refused bool
	status  int
	left    int64       // of a body with a length
	chunks  *h1.Chunked // made for the first chunked body, then kept
	partial []byte      // of a head that came in pieces
}

// reset makes it ready for the response to a request with method m.
func (r *response) reset(m h1.MethodID) {
	r.method, r.begun, r.headed, r.status, r.partial = m, false, false, 0, r.partial[:0]
}

// feed reads the bytes that came next, with head as scratch memory. It says whether the
// response is whole. After an error the connection is of no use.
func (r *response) feed(b []byte, head *h1.ResponseHead) (whole bool, err error) {
	r.begun = r.begun || len(b) > 0
	for !r.headed {
		n, err := r.readHead(b, head)
		if err != nil {
			return false, err
		}
		if n == 0 {
			return false, nil
		}
		b = b[n:]
	}
	return r.readBody(b)
}

// readHead returns how many bytes of b belong to the head; 0 if all and more is to come.
// A head that is not the last is skipped: 1xx, but for 101.
func (r *response) readHead(b []byte, head *h1.ResponseHead) (n int, err error) {
	all, before := b, len(r.partial)
	if before > 0 {
		r.partial = append(r.partial, b...)
		all = r.partial
	}
	head.Reset()
	n, err = head.Parse(all, &headLimits)
	if err != nil {
		return 0, fmt.Errorf("response head: %w", err)
	}
	if n == 0 {
		if before == 0 {
			r.partial = append(r.partial, b...)
		}
		return 0, nil
	}
	r.partial = r.partial[:0]
	n -= before
	if head.Interim() {
		if n == len(b) {
			return 0, nil
		}
		return n, nil
	}
	r.begin(head)
	return n, nil
}

// begin notes what the head says.
func (r *response) begin(head *h1.ResponseHead) {
	r.headed, r.status = true, head.Status
	r.refused = head.Status == 503 && head.Has(h1.RetryAfter)
	r.body = head.BodyKind(r.method)
	r.keep = head.KeepAlive && r.body != h1.UntilClose && head.Status != 101
	switch r.body {
	case h1.LengthBody:
		r.left = head.ContentLength
	case h1.ChunkedBody:
		if r.chunks == nil {
			r.chunks = &h1.Chunked{Response: true}
		}
		r.chunks.Reset()
	}
}

// readBody reads bytes behind the head.
func (r *response) readBody(b []byte) (whole bool, err error) {
	switch r.body {
	case h1.UntilClose:
		return false, nil
	case h1.LengthBody:
		n := min(r.left, int64(len(b)))
		r.left -= n
		b, whole = b[n:], r.left == 0
	case h1.ChunkedBody:
		if b, err = r.readChunks(b); err != nil {
			return false, err
		}
		whole = r.chunks.Done()
	default:
		whole = true
	}
	if whole && len(b) > 0 && r.status != 101 {
		return false, fmt.Errorf("%w: %d of them", errBehind, len(b))
	}
	return whole, nil
}

// readChunks returns what is behind the body.
func (r *response) readChunks(b []byte) (rest []byte, err error) {
	for len(b) > 0 && !r.chunks.Done() {
		_, n, err := r.chunks.Decode(b)
		if err != nil {
			return nil, fmt.Errorf("chunked body: %w", err)
		}
		b = b[n:]
	}
	return b, nil
}

// ended says whether the end of the connection makes the response whole.
func (r *response) ended() bool { return r.headed && r.body == h1.UntilClose }
