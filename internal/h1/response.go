package h1

import (
	"tickgate/internal/reason"
)

// BodyKind says how the end of a response body is found (RFC 9112 section 6.3).
type BodyKind uint8

// Kinds of response bodies.
const (
	NoBody      BodyKind = iota // the response ends with its head
	LengthBody                  // ContentLength bytes, perhaps 0
	ChunkedBody                 // to the last chunk and its trailers
	UntilClose                  // to the end of the connection
)

// ResponseHead is the head of one response, interim ones included. The zero value is
// ready; Reset makes it ready for the next. It is large: keep it, do not copy it.
type ResponseHead struct {
	Head
	// Status is the status code, 100 to 599.
	Status int
	// StripLength says that Content-Length is 0 where it may not be sent at all, in a
	// 101 or 204 response: it is harmless, but must not be passed on.
	StripLength bool
	// WebSocket says that the response is a 101 that upgrades to "websocket". The caller
	// checks that it was asked for, and the accept key.
	WebSocket bool

	phrase span
}

// Reset forgets the message, and keeps the memory of Fields.
func (h *ResponseHead) Reset() {
	h.reset()
	h.Status, h.StripLength, h.WebSocket = 0, false, false
	h.phrase = span{}
}

// Parse reads a response head, as RequestHead.Parse reads a request. Errors are
// BadBackendHead, BadBackendFraming and BackendHeadTooLarge.
func (h *ResponseHead) Parse(buf []byte, lim *Limits) (n int, err error) {
	e := lim.effective()
	n, r := h.parse(buf, &e)
	if r != reason.OK {
		h.Raw = buf
		return 0, backendReason(r)
	}
	return n, nil
}

// backendReason tells a violation by a client as one by a backend.
func backendReason(r reason.Reason) reason.Reason {
	switch r {
	case reason.HeadTooLarge, reason.TooManyHeaders:
		return reason.BackendHeadTooLarge
	case reason.LengthConflict, reason.BadTransferCoding:
		return reason.BadBackendFraming
	}
	return reason.BadBackendHead
}

func (h *ResponseHead) parse(buf []byte, lim *Limits) (int, reason.Reason) {
	if h.stage < stageLine {
		if ready, r := h.begin(buf); !ready {
			return 0, r
		}
	}
	if h.stage == stageLine {
		eol, r := h.line(buf, lim.MaxHead)
		if r != reason.OK || eol == more {
			return 0, r
		}
		if !h.statusLine(buf[:eol]) {
			return 0, reason.BadBackendHead
		}
		h.pos, h.scan, h.stage = eol+2, eol+2, stageFields
	}
	n, r := h.readFields(buf, lim)
	if n == more {
		return 0, r
	}
	if r := h.finish(buf[:n]); r != reason.OK {
		return 0, r
	}
	return n, reason.OK
}

// begin compares the first bytes as they come, so that HTTP/0.9 babble ends at once.
func (h *ResponseHead) begin(buf []byte) (ready bool, r reason.Reason) {
	const prefix = "HTTP/1."
	n := min(len(buf), len(prefix))
	if string(buf[:n]) != prefix[:n] {
		return false, reason.BadBackendHead
	}
	if n < len(prefix) {
		return false, reason.OK
	}
	h.stage = stageLine
	h.ContentLength = -1 // for the zero value, which no Reset prepared
	return true, reason.OK
}

// statusLine reads HTTP/1.x SP 3DIGIT SP [ reason-phrase ] (RFC 9112 section 4). Many servers leave out
// the SP with the phrase, so that is accepted.
func (h *ResponseHead) statusLine(line []byte) bool {
	const short = len("HTTP/1.1 200")
	if len(line) < short || line[7]|1 != '1' || line[8] != ' ' || !all(line[9:12], classDigit) {
		return false
	}
	if len(line) > short && line[short] != ' ' {
		return false
	}
	h.Minor = line[7] - '0'
	h.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	h.phrase = makeSpan(min(short+1, len(line)), len(line))
	return h.Status >= 100 && h.Status <= 599
}

// finish settles what depends on the status and several fields.
func (h *ResponseHead) finish(raw []byte) reason.Reason {
	if r := h.Head.finish(raw); r != reason.OK {
		return r
	}
	if h.Status < 200 || h.Status == 204 {
		// RFC 9112 section 6.1, RFC 9110 section 8.6: neither field may be here.
		if h.Chunked || h.ContentLength > 0 {
			return reason.LengthConflict
		}
		if h.ContentLength == 0 {
			if h.Status != 101 && h.Status != 204 {
				return reason.LengthConflict
			}
			h.StripLength = true
		}
	}
	h.WebSocket = h.Status == 101 && h.Upgrade && equalFold(h.Get(Upgrade), "websocket")
	return reason.OK
}

// ReasonPhrase returns the text after the status code, which may be empty.
func (h *ResponseHead) ReasonPhrase() []byte { return h.phrase.of(h.Raw) }

// Interim reports whether a further response to the same request follows: 1xx other than 101.
func (h *ResponseHead) Interim() bool { return h.Status < 200 && h.Status != 101 }

// BodyKind says how the body of this response ends, if it answers a request with method m (RFC 9112
// section 6.3). A tunnel, after 101 or after a successful CONNECT, has NoBody.
func (h *ResponseHead) BodyKind(m MethodID) BodyKind {
	switch {
	case m == MethodHead, h.Status < 200, h.Status == 204, h.Status == 304:
		return NoBody
	case m == MethodConnect && h.Status < 300:
		return NoBody
	case h.Chunked:
		return ChunkedBody
	case h.ContentLength >= 0:
		return LengthBody
	}
	return UntilClose
}
