package h1

import (
	"bytes"

	"tickgate/internal/reason"
)

// maxMethod bounds a method in bytes; the longest registered one has 18.
const maxMethod = 32

// Form is one of the four forms of a request target (RFC 9112 section 3.2).
type Form uint8

// Forms of a request target.
const (
	OriginForm    Form = iota // /path?query
	AbsoluteForm              // http://host/path?query
	AuthorityForm             // host:port, with CONNECT
	AsteriskForm              // *, with OPTIONS
)

// RequestHead is the head of one request. The zero value is ready; Reset makes it
// ready for the next. It is large: keep it, do not copy it.
type RequestHead struct {
	Head
	// MethodID is the method, if known.
	MethodID MethodID
	// Form is the form of the target.
	Form Form
	// TargetTLS says that an absolute-form target has the scheme https.
	TargetTLS bool
	// Expect100 says that the client waits for 100 Continue before it sends a body. It is
	// false in HTTP/1.0 and where no body was announced (RFC 9110 section 10.1.1).
	Expect100 bool
	// WebSocket says that the request is a valid WebSocket handshake (RFC 6455 section 4.2.1).
	WebSocket bool
	// UpgradeRequired tells why Parse returned BadUpgrade: a WebSocket version other
	// than 13, for which the answer is 426 with "Sec-WebSocket-Version: 13".
	UpgradeRequired bool

	lead     int // length of the empty line before the request line: 0 or 2
	method   span
	target   span
	path     span
	query    span // without the "?"
	hasQuery bool
	host     span // the authority of the target, or the Host value
	hostName span
	port     int32 // -1 without
}

// Reset forgets the message, and keeps the memory of Fields.
func (h *RequestHead) Reset() {
	h.reset()
	h.MethodID, h.Form = MethodOther, OriginForm
	h.TargetTLS, h.Expect100, h.WebSocket, h.UpgradeRequired = false, false, false, false
	h.lead = 0
	h.method, h.target, h.path, h.query, h.host, h.hostName = span{}, span{}, span{}, span{}, span{}, span{}
	h.hasQuery, h.port = false, -1
}

// Parse reads a request head. buf holds all bytes of the message received so far; it may
// move between calls, but what was there must stay. The result is n > 0, the bytes that the head takes, when it is
// whole; 0 and nil when more is needed; or an error, which is always a [reason.Reason]. After n > 0
// or an error, call Reset before the next Parse.
//
// After an error Raw is the rest of buf, and the accessors return what had been read, or nothing: enough
// for a log line, for nothing else.
//
// Each byte is looked at once, over all calls. How a message ends does not depend on
// how it is cut into calls.
func (h *RequestHead) Parse(buf []byte, lim *Limits) (n int, err error) {
	e := lim.effective()
	n, r := h.parse(buf, &e)
	if r != reason.OK {
		h.Raw = buf[h.lead:]
		return 0, r
	}
	return n, nil
}

// Abandon gives up a head that will not become whole; buf is as in Parse. The accessors
// then return what had been read, as after an error.
func (h *RequestHead) Abandon(buf []byte) { h.Raw = buf[min(h.lead, len(buf)):] }

// parse is Parse with limits made effective.
func (h *RequestHead) parse(buf []byte, lim *Limits) (int, reason.Reason) {
	if h.stage < stageLine {
		if ready, r := h.begin(buf); !ready {
			return 0, r
		}
	}
	lead := h.lead
	buf = buf[lead:]
	if h.stage == stageLine {
		if done, r := h.readLine(buf, lim); !done {
			return 0, r
		}
	}
	n, r := h.readFields(buf, lim)
	if n == more {
		return 0, r
	}
	if r := h.finish(buf[:n]); r != reason.OK {
		return 0, r
	}
	return n + lead, reason.OK
}

// begin passes over one empty line (RFC 9112 section 2.2) and judges the first byte, so that
// babble such as a TLS handshake ends at once, and not only at its first line feed.
func (h *RequestHead) begin(buf []byte) (ready bool, r reason.Reason) {
	if h.stage == stageLead && len(buf) > 0 {
		if buf[0] == '\n' {
			return false, reason.BareLineFeed
		}
		if buf[0] == '\r' {
			if len(buf) == 1 {
				return false, reason.OK
			}
			if buf[1] != '\n' {
				return false, reason.BareLineFeed
			}
			h.lead = 2
		}
		h.stage = stageFirst
		h.ContentLength, h.port = -1, -1 // for the zero value, which no Reset prepared
	}
	if len(buf) == h.lead {
		return false, reason.OK
	}
	if !is(buf[h.lead], classToken) {
		return false, reason.BadRequestLine
	}
	h.stage = stageLine
	return true, reason.OK
}

// readLine reads the request line, once it is whole.
func (h *RequestHead) readLine(buf []byte, lim *Limits) (done bool, r reason.Reason) {
	eol, r := h.line(buf, lim.MaxHead)
	if h.scan > lim.MaxLine {
		return false, reason.TargetTooLong
	}
	if r == reason.BadHeaderValue {
		return false, controlInLine(buf[:h.scan])
	}
	if r != reason.OK || eol == more {
		return false, r
	}
	if r = h.requestLine(buf[:eol]); r != reason.OK {
		return false, r
	}
	h.pos, h.scan, h.stage = eol+2, eol+2, stageFields
	return true, reason.OK
}

// controlInLine blames a control character in a request line on the part that it follows.
func controlInLine(before []byte) reason.Reason {
	if bytes.Count(before, []byte{' '}) == 1 {
		return reason.BadTarget
	}
	return reason.BadRequestLine
}

// requestLine reads METHOD SP target SP HTTP/1.x (RFC 9112 section 3).
func (h *RequestHead) requestLine(line []byte) reason.Reason {
	m := 0
	for m < len(line) && m <= maxMethod && is(line[m], classToken) {
		m++
	}
	if m == 0 || m > maxMethod || m == len(line) || line[m] != ' ' {
		return reason.BadRequestLine
	}
	const version = " HTTP/1."
	end := len(line) - len(version) - 1
	if end < m+2 || string(line[end:len(line)-1]) != version || line[len(line)-1]|1 != '1' {
		return judgeVersion(line)
	}
	h.Minor = line[len(line)-1] - '0'
	h.method = makeSpan(0, m)
	h.MethodID = LookupMethod(line[:m])
	h.target = makeSpan(m+1, end)
	return h.readTarget(line, m+1, end)
}

// judgeVersion says what is wrong with a line that does not end in " HTTP/1.0" or " HTTP/1.1".
func judgeVersion(line []byte) reason.Reason {
	if bytes.Count(line, []byte{' '}) != 2 || bytes.Contains(line, []byte("  ")) {
		return reason.BadRequestLine
	}
	v := line[bytes.LastIndexByte(line, ' ')+1:]
	if len(v) == len("HTTP/1.1") && string(v[:5]) == "HTTP/" && is(v[5], classDigit) && v[6] == '.' && is(v[7], classDigit) {
		return reason.BadVersion
	}
	return reason.BadRequestLine
}

// finish settles what depends on several fields, or on fields and request line.
func (h *RequestHead) finish(raw []byte) reason.Reason {
	if r := h.Head.finish(raw); r != reason.OK {
		return r
	}
	if r := h.settleHost(); r != reason.OK {
		return r
	}
	hasBody := h.Chunked || h.ContentLength > 0
	if h.Has(Expect) && h.Minor == 1 {
		if h.Repeated(Expect) || !equalFold(h.Get(Expect), "100-continue") {
			return reason.BadExpect
		}
		h.Expect100 = hasBody
	}
	if !h.Upgrade {
		return reason.OK
	}
	if hasBody {
		return reason.BodyOnUpgrade
	}
	if h.upgradeWebSocket && h.MethodID == MethodGet {
		return h.settleWebSocket()
	}
	return reason.OK
}

// Method returns the method.
func (h *RequestHead) Method() []byte { return h.method.of(h.Raw) }

// Target returns the target as it was sent.
func (h *RequestHead) Target() []byte { return h.target.of(h.Raw) }

var (
	slash    = []byte("/")
	asterisk = []byte("*")
)

// Path returns the path of the target as it was sent, not decoded: "/" for an absolute-form
// target without one, "*" in asterisk-form, empty in authority-form. Do not change it.
func (h *RequestHead) Path() []byte {
	switch {
	case h.Form == AsteriskForm:
		return asterisk
	case h.Form == AbsoluteForm && h.path.start == h.path.end:
		return slash
	}
	return h.path.of(h.Raw)
}

// Query returns the query without its "?": nil if there is none, empty if it is empty.
func (h *RequestHead) Query() []byte {
	if !h.hasQuery {
		return nil
	}
	return h.query.of(h.Raw)
}

// Host returns host and port as sent: the authority of an absolute-form or authority-form target,
// otherwise the Host value; nil only in HTTP/1.0 without one.
func (h *RequestHead) Host() []byte {
	if h.host.end == 0 {
		return nil
	}
	return h.host.of(h.Raw)
}

// HostName returns Host without the port. An IPv6 address keeps its brackets.
func (h *RequestHead) HostName() []byte {
	if h.hostName.end == 0 {
		return nil
	}
	return h.hostName.of(h.Raw)
}

// Port returns the port that Host names, or -1.
func (h *RequestHead) Port() int { return int(h.port) }

// HasBody reports whether a body follows the head.
func (h *RequestHead) HasBody() bool { return h.Chunked || h.ContentLength > 0 }

// AppendOriginTarget appends the target as an origin server wants it: path and query, or
// "*" for OPTIONS on a whole server (RFC 9112 section 3.2.4). In authority-form it is the target.
func (h *RequestHead) AppendOriginTarget(dst []byte) []byte {
	if h.Form != AbsoluteForm {
		return append(dst, h.Target()...)
	}
	if h.MethodID == MethodOptions && h.path.start == h.path.end && !h.hasQuery {
		return append(dst, '*')
	}
	dst = append(dst, h.Path()...)
	if h.hasQuery {
		dst = append(append(dst, '?'), h.Query()...)
	}
	return dst
}
