package replay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/loadtest/httpload"
)

// Bodies says what is sent where the log knows of a body.
type Bodies string

// The kinds of bodies.
const (
	BodiesNone Bodies = "none" // requests are sent without
	BodiesZero Bodies = "zero" // zeros, as many as were logged
)

// MaxBody is the longest body that is sent; longer ones are cut to it, and counted.
const MaxBody = 1 << 20

// unlogged is what is taken off $request_length for the fields of a request that logs do not
// hold, such as Accept and Content-Type.
const unlogged = 128

// zeros is what every body is a part of. It is only read.
var zeros [MaxBody]byte

// neverSent are methods that change what a connection is, or echo secrets.
var neverSent = []string{"CONNECT", "TRACE", "PRI"}

// safeMethods are replayed unless others are asked for; they have no bodies.
var safeMethods = []string{"GET", "HEAD", "OPTIONS"}

// entry is a request and its time.
type entry struct {
	at      int64 // nanoseconds since 1970
	coarse  bool  // at is a whole second, and the request came within it
	size    int   // bytes of memory, about
	request *httpload.Request
}

// block is what a request takes, in one piece. A fourth field has never been logged.
type block struct {
	request httpload.Request
	fields  [3]httpload.Field
}

// builder makes requests of records. It is owned by one goroutine.
type builder struct {
	methods   []string // nil is all but neverSent
	keepHost  bool
	bodies    Bodies
	fromStart bool

	clock clock
	head  h1.RequestHead
	text  []byte // the request's head as it would be sent
	value []byte // method and target without escapes
	host  []byte
	names [1000]string
	cut   int64 // bodies longer than MaxBody
	plain int64 // fields that cannot be sent
}

// newBuilder checks the options that are about requests.
func newBuilder(o *Options) (*builder, error) {
	b := &builder{methods: o.Methods, keepHost: o.KeepHost, bodies: o.Bodies, fromStart: o.FromStart}
	switch {
	case len(o.Methods) == 0:
		b.methods = safeMethods
	case slices.Equal(o.Methods, []string{"any"}):
		b.methods = nil
	}
	for _, m := range b.methods {
		if slices.Contains(neverSent, m) {
			return nil, fmt.Errorf("%w: method %s is never replayed", ErrOptions, m)
		}
		if m == "" || m != strings.ToUpper(m) {
			return nil, fmt.Errorf("%w: method %q (want upper-case names, or any)", ErrOptions, m)
		}
	}
	switch o.Bodies {
	case BodiesNone, BodiesZero:
	case "":
		b.bodies = BodiesNone
	default:
		return nil, fmt.Errorf("%w: bodies %q (want %s or %s)", ErrOptions, o.Bodies, BodiesNone, BodiesZero)
	}
	return b, nil
}

// build makes the request of a record. status is what the log has as its status, 0 for none.
func (b *builder) build(rec *record) (e entry, status int, r Reason) {
	at, coarse, ok := b.clock.read(rec.values[fieldTime])
	if !ok {
		return e, 0, BadTime
	}
	if status, ok = readStatus(rec.values[fieldStatus]); !ok {
		return e, 0, BadNumber
	}
	if b.fromStart && rec.values[fieldDuration] != nil {
		took, ok := readSeconds(rec.values[fieldDuration])
		if !ok {
			return e, status, BadNumber
		}
		at -= int64(took)
		if coarse { // the end is somewhere in its second: take its middle
			at = (at + 5e8) / 1e9 * 1e9
		}
	}
	spans, r := b.write(rec)
	if r != OK {
		return e, status, r
	}
	if status == 101 {
		return e, status, Tunnel
	}
	method := spans.method.of(b.text)
	if !b.wanted(method) {
		return e, status, OtherMethod
	}
	if r := b.judge(&spans); r != OK {
		return e, status, r
	}
	body, r := b.body(method, rec)
	if r != OK {
		return e, status, r
	}
	e = entry{at: at, coarse: coarse, size: len(b.text) + 300, request: b.request(&spans, status)}
	e.request.Body = body
	return e, status, OK
}

// readStatus reads three digits; 000 and nothing are requests without a response.
func readStatus(b []byte) (status int, ok bool) {
	if b == nil {
		return 0, true
	}
	status, ok = digits(b)
	return status, ok && len(b) == 3
}

// wanted says whether requests of a method are replayed.
func (b *builder) wanted(method []byte) bool {
	if b.methods == nil {
		return !slices.Contains(neverSent, string(method))
	}
	return slices.Contains(b.methods, string(method))
}

// span is a part of the text.
type span struct{ start, end int }

func (s span) of(b []byte) []byte { return b[s.start:s.end] }

// spans are the parts of a request that the load needs; a field that is absent is empty.
type spans struct{ method, target, host, referer, agent span }

// write writes the request's head as it would be sent, to b.text.
func (b *builder) write(rec *record) (s spans, r Reason) {
	b.value = b.value[:0]
	method, target, r := b.line(rec)
	if r != OK {
		return s, r
	}
	b.host = decode(b.host[:0], rec.values[fieldHost])
	host, target := splitAbsolute(target)
	if host == nil {
		host = b.host
	}
	b.text = b.text[:0]
	s.method = b.add(method)
	b.text = append(b.text, ' ')
	s.target = b.add(target)
	b.text = append(b.text, " HTTP/1.1\r\nHost: "...)
	if b.keepHost && len(host) > 0 {
		s.host = b.add(host)
	} else {
		b.text = append(b.text, "target"...) // whatever the URL has
	}
	s.referer = b.field("\r\nReferer: ", rec.values[fieldReferer])
	s.agent = b.field("\r\nUser-Agent: ", rec.values[fieldAgent])
	b.text = append(b.text, "\r\n\r\n"...)
	return s, OK
}

func (b *builder) add(text []byte) span {
	start := len(b.text)
	b.text = append(b.text, text...)
	return span{start, len(b.text)}
}

// field adds a field, unless it is absent or has bytes that no field may have: then the
// request is worth sending without it.
func (b *builder) field(name string, raw []byte) span {
	if raw == nil {
		return span{}
	}
	start := len(b.text)
	b.text = append(b.text, name...)
	from := len(b.text)
	b.text = decode(b.text, raw)
	value := b.text[from:]
	if !sendable(value) {
		b.text = b.text[:start]
		b.plain++
		return span{}
	}
	return span{from, len(b.text)}
}

// sendable says whether a field may have a value, and means it: white space around it is not part
// of it (RFC 9110 section 5.5).
func sendable(value []byte) bool {
	for _, c := range value {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(value) > 0 && len(bytes.Trim(value, " \t")) == len(value)
}

// line finds method and target, without escapes. They are valid until b.value is used again.
func (b *builder) line(rec *record) (method, target []byte, r Reason) {
	if rec.values[fieldRequest] != nil {
		b.value = decode(b.value, rec.values[fieldRequest])
		return splitLine(b.value)
	}
	if rec.values[fieldMethod] == nil || rec.values[fieldURI] == nil {
		return nil, nil, NoRequest
	}
	b.value = decode(b.value, rec.values[fieldMethod])
	n := len(b.value)
	b.value = decode(b.value, rec.values[fieldURI])
	if rec.values[fieldQuery] != nil && bytes.IndexByte(b.value[n:], '?') < 0 {
		b.value = decode(append(b.value, '?'), rec.values[fieldQuery])
	}
	return b.value[:n], b.value[n:], OK
}

// splitLine splits a request line. All versions are taken, as all are sent as HTTP/1.1.
func splitLine(line []byte) (method, target []byte, r Reason) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	if !ok || len(method) == 0 || len(target) == 0 || !bytes.HasPrefix(version, []byte("HTTP/")) || len(version) > len("HTTP/1.1") {
		return nil, nil, BadRequestLine
	}
	return method, target, OK
}

// splitAbsolute takes scheme and authority off an absolute-form target, as sent to proxies.
func splitAbsolute(target []byte) (authority, rest []byte) {
	n := 0
	for _, scheme := range []string{"http://", "https://"} {
		if len(target) > len(scheme) && bytes.EqualFold(target[:len(scheme)], []byte(scheme)) {
			n = len(scheme)
		}
	}
	if n == 0 {
		return nil, target
	}
	end := bytes.IndexByte(target[n:], '/')
	if end < 0 {
		return target[n:], []byte("/")
	}
	return target[n : n+end], target[n+end:]
}

// judge has the gateway's strict parser read what would be sent. It must be one request without a
// body, and of the parts that were put in: a line end in a part would make two of one.
func (b *builder) judge(s *spans) Reason {
	fields := 1
	for _, f := range []span{s.referer, s.agent} {
		if f.end > 0 {
			fields++
		}
	}
	b.head.Reset()
	n, err := b.head.Parse(b.text, nil)
	switch {
	case errors.Is(err, reason.BadHost), err == nil && s.host.end > 0 && !bytes.Equal(b.head.Get(h1.Host), s.host.of(b.text)):
		return BadHost
	case err != nil, n != len(b.text), len(b.head.Fields) != fields,
		b.head.Form != h1.OriginForm && b.head.Form != h1.AsteriskForm,
		!bytes.Equal(b.head.Method(), s.method.of(b.text)), !bytes.Equal(b.head.Target(), s.target.of(b.text)):
		return BadTarget
	}
	return OK
}

// request copies what b.text holds, in one piece.
func (b *builder) request(s *spans, status int) *httpload.Request {
	text := string(b.text)
	part := func(s span) string { return text[s.start:s.end] }
	p := &block{request: httpload.Request{Name: b.name(status), Method: part(s.method), Path: part(s.target)}}
	fields := p.fields[:0]
	if s.host.end > 0 {
		fields = append(fields, httpload.Field{Name: "Host", Value: part(s.host)})
	}
	if s.referer.end > 0 {
		fields = append(fields, httpload.Field{Name: "Referer", Value: part(s.referer)})
	}
	if s.agent.end > 0 {
		fields = append(fields, httpload.Field{Name: "User-Agent", Value: part(s.agent)})
	}
	p.request.Header = fields
	p.request.Expect = expected(status)
	return &p.request
}

// expected is the status that a request must have to count as answered well: that of
// the log if the client was to blame, as a 404 is then no failure of the target, and otherwise any below
// 400. Some servers log statuses that they never sent.
func expected(status int) int {
	switch {
	case status < 400, status >= 500, status == 408, status == 444, status == 499:
		return 0
	}
	return status
}

// name is the kind of a request in results: what its status was then.
func (b *builder) name(status int) string {
	if b.names[status] == "" {
		b.names[status] = NameOf(status)
	}
	return b.names[status]
}

// NameOf is the name of requests whose logged status is status; 0 is none.
func NameOf(status int) string {
	if status == 0 {
		return "logged none"
	}
	return fmt.Sprintf("logged %d", status)
}

// body returns the body to send.
func (b *builder) body(method []byte, rec *record) ([]byte, Reason) {
	if b.bodies == BodiesNone || slices.Contains(safeMethods, string(method)) {
		return nil, OK
	}
	n, r := b.bodyLength(rec)
	if r != OK {
		return nil, r
	}
	if n > MaxBody {
		b.cut++
		n = MaxBody
	}
	return zeros[:n:n], OK
}

// bodyLength returns how long the body was. $request_length has the head as well, of which
// the log shows a part; the rest is guessed, so such a body is off by some dozens of bytes.
func (b *builder) bodyLength(rec *record) (int, Reason) {
	head := 0
	raw := rec.values[fieldBody]
	if raw == nil {
		raw, head = rec.values[fieldLength], len(b.text)+unlogged
	}
	if raw == nil {
		return 0, NoLength
	}
	var n int64
	for _, c := range raw {
		if c-'0' > 9 || len(raw) > 18 {
			return 0, BadNumber
		}
		n = n*10 + int64(c-'0')
	}
	return int(max(n-int64(head), 0)), OK
}
