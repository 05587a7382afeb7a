package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of the strict parser. They are far above what a sound peer sends.
const (
	maxLine   = 64 << 10
	maxFields = 1000
)

// Field is one header field, the value without the white space around it.
type Field struct {
	Name, Value string
}

// Request is one request as a strict parser reads it.
type Request struct {
	Method, Target, Proto string
	// Fields in their order and case.
	Fields []Field
	Body   []byte
	// Chunked says that the body came in chunks.
	Chunked  bool
	Trailers []Field
	// Raw is every byte of the request as it came.
	Raw []byte
}

// Response is one response as a strict parser reads it.
type Response struct {
	Proto  string
	Status int
	Reason string
	Fields []Field
	Body   []byte
	// Chunked says that the body came in chunks, UntilClose that the end of the
	// connection ended it.
	Chunked, UntilClose bool
	Trailers            []Field
	// Interim are the 1xx responses before it.
	Interim []Response
	Raw     []byte
}

// Get returns the first value of a field, found in any case, or "".
func (r *Request) Get(name string) string { return first(r.Fields, name) }

// All returns every value of a field.
func (r *Request) All(name string) []string { return all(r.Fields, name) }

// Get returns the first value of a field, found in any case, or "".
func (r *Response) Get(name string) string { return first(r.Fields, name) }

// All returns every value of a field.
func (r *Response) All(name string) []string { return all(r.Fields, name) }

func first(fields []Field, name string) string {
	if values := all(fields, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

func all(fields []Field, name string) (values []string) {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Flaw is a place where two parsers may read a message differently, or where a
// strict one refuses it.
type Flaw struct {
	// Rule is a short constant name, such as "bare-lf".
	Rule string
	// Where is the offset in the message's bytes.
	Where int
	// What was seen.
	What string
}

// Error implements error.
func (f *Flaw) Error() string { return fmt.Sprintf("%s at byte %d: %s", f.Rule, f.Where, f.What) }

// RuleOf returns the rule that err breaks, "cut" for a message that ends too early,
// "end" if there was no message at all, "" for nil, or "io" for anything else.
func RuleOf(err error) string {
	var f *Flaw
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.Rule
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.Is(err, io.EOF):
		return "end"
	default:
		return "io"
	}
}

// ReadRequest reads one request to the end of its body. It returns io.EOF if the
// stream ends before its first byte, io.ErrUnexpectedEOF if it ends within, or a
// *Flaw.
func ReadRequest(r *bufio.Reader) (*Request, error) {
	m := message{r: r}
	req := &Request{}
	err := m.request(req)
	req.Raw = m.raw
	return req, m.ended(err)
}

// ReadRequestHead reads one request without its body; ReadRequest is this and the
// body.
func ReadRequestHead(r *bufio.Reader) (*Request, error) {
	m := message{r: r}
	req := &Request{}
	_, err := m.requestHead(req)
	req.Raw = m.raw
	return req, m.ended(err)
}

// ReadResponse reads the final response to a request of the given method, with the
// interim ones before it. A 101 is final and has no body.
func ReadResponse(r *bufio.Reader, method string) (*Response, error) {
	var interim []Response
	for {
		m := message{r: r}
		resp := &Response{}
		err := m.response(resp, method)
		resp.Raw = m.raw
		if err != nil || resp.Status >= 200 || resp.Status == 101 {
			resp.Interim = interim
			return resp, m.ended(err)
		}
		interim = append(interim, *resp)
	}
}

// ParseRequests reads every request in stream and returns those before the first
// error. The error is nil if the stream ends with a whole request.
func ParseRequests(stream string) ([]*Request, error) {
	r := bufio.NewReader(strings.NewReader(stream))
	var reqs []*Request
	for {
		req, err := ReadRequest(r)
		if errors.Is(err, io.EOF) {
			return reqs, nil
		}
		if err != nil {
			return reqs, err
		}
		reqs = append(reqs, req)
	}
}

// message reads one message from r and remembers its bytes.
type message struct {
	r   *bufio.Reader
	raw []byte
}

// ended turns the end of the stream within a message into io.ErrUnexpectedEOF.
func (m *message) ended(err error) error {
	if errors.Is(err, io.EOF) && len(m.raw) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// flaw makes the error for a broken rule at the current place.
func (m *message) flaw(rule, format string, args ...any) error {
	return &Flaw{Rule: rule, Where: len(m.raw), What: fmt.Sprintf(format, args...)}
}

// line reads one line, which ends with CR LF and holds no other CR or LF, and
// returns it without its end.
func (m *message) line() (string, error) {
	start := len(m.raw)
	for {
		c, err := m.r.ReadByte()
		if err != nil {
			return "", err
		}
		m.raw = append(m.raw, c)
		n := len(m.raw) - start
		switch {
		case n > maxLine:
			return "", m.flaw("line-too-long", "more than %d bytes", maxLine)
		case c == '\n' && (n < 2 || m.raw[len(m.raw)-2] != '\r'):
			return "", m.flaw("bare-lf", "%q", m.raw[start:])
		case c == '\n':
			return string(m.raw[start : len(m.raw)-2]), nil
		case n >= 2 && m.raw[len(m.raw)-2] == '\r':
			return "", m.flaw("bare-cr", "%q", m.raw[start:])
		}
	}
}

// take reads exactly n bytes.
func (m *message) take(n int64) ([]byte, error) {
	start := len(m.raw)
	for left := n; left > 0; {
		buf := make([]byte, min(left, 32<<10))
		got, err := m.r.Read(buf)
		m.raw = append(m.raw, buf[:got]...)
		left -= int64(got)
		if err != nil && left > 0 {
			return nil, err
		}
	}
	return m.raw[start:len(m.raw):len(m.raw)], nil
}

// request reads a whole request.
func (m *message) request(req *Request) error {
	f, err := m.requestHead(req)
	if err != nil {
		return err
	}
	req.Chunked = f.chunked
	if f.chunked {
		req.Body, req.Trailers, err = m.chunks()
		return err
	}
	req.Body, err = m.take(max(f.length, 0)) // without a length a request has no body
	return err
}

// requestHead reads request line and fields and checks what the fields say
// together.
func (m *message) requestHead(req *Request) (framing, error) {
	line, err := m.line()
	if err != nil {
		return framing{}, err
	}
	if err := m.requestLine(req, line); err != nil {
		return framing{}, err
	}
	if req.Fields, err = m.fields(); err != nil {
		return framing{}, err
	}
	if err := m.host(req); err != nil {
		return framing{}, err
	}
	return m.framing(req.Proto, req.Fields)
}

// requestLine splits "METHOD SP TARGET SP HTTP/1.x".
func (m *message) requestLine(req *Request, line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return m.flaw("request-line", "%q has not three parts with one space between", line)
	}
	req.Method, req.Target, req.Proto = parts[0], parts[1], parts[2]
	switch {
	case !isToken(req.Method):
		return m.flaw("method", "%q", req.Method)
	case req.Proto != "HTTP/1.1" && req.Proto != "HTTP/1.0":
		return m.flaw("version", "%q", req.Proto)
	}
	return m.target(req)
}

// target accepts the four forms of RFC 9112 section 3.2 in visible ASCII.
func (m *message) target(req *Request) error {
	t := req.Target
	for i := range len(t) {
		if t[i] <= ' ' || t[i] >= 0x7f || t[i] == '#' {
			return m.flaw("target", "byte %q in %q", t[i], t)
		}
	}
	switch {
	case strings.HasPrefix(t, "/"):
	case t == "*" && req.Method == "OPTIONS":
	case req.Method == "CONNECT" && isAuthority(t):
	case hasScheme(t, "http"), hasScheme(t, "https"):
		_, rest, _ := strings.Cut(t, "://")
		authority := rest
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			authority = rest[:i]
		}
		if !isAuthority(authority) {
			return m.flaw("target", "authority %q", authority)
		}
	default:
		return m.flaw("target", "%q has no form of a target", t)
	}
	return nil
}

// hasScheme says whether t begins with the scheme, in any case (RFC 3986 section 3.1).
func hasScheme(t, scheme string) bool {
	got, _, found := strings.Cut(t, "://")
	return found && strings.EqualFold(got, scheme)
}

// fields reads header or trailer fields and the empty line after them.
func (m *message) fields() ([]Field, error) {
	var fields []Field
	for {
		line, err := m.line()
		if err != nil || line == "" {
			return fields, err
		}
		if line[0] == ' ' || line[0] == '\t' {
			return nil, m.flaw("obs-fold", "%q", line)
		}
		name, value, found := strings.Cut(line, ":")
		switch {
		case !found:
			return nil, m.flaw("no-colon", "%q", line)
		case strings.TrimRight(name, " \t") != name:
			return nil, m.flaw("space-before-colon", "%q", line)
		case !isToken(name):
			return nil, m.flaw("field-name", "%q", name)
		case len(fields) == maxFields:
			return nil, m.flaw("too-many-fields", "more than %d", maxFields)
		}
		value = strings.Trim(value, " \t")
		for i := range len(value) {
			if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
				return nil, m.flaw("control-character", "byte %q in field %q", c, name)
			}
		}
		fields = append(fields, Field{name, value})
	}
}

// host wants exactly one sound Host (RFC 9112 section 3.2), at most one in HTTP/1.0.
func (m *message) host(req *Request) error {
	hosts := all(req.Fields, "Host")
	switch {
	case len(hosts) > 1:
		return m.flaw("host", "%d of them", len(hosts))
	case len(hosts) == 0 && req.Proto == "HTTP/1.1":
		return m.flaw("host", "none")
	case len(hosts) == 1 && hosts[0] != "" && !isAuthority(hosts[0]):
		return m.flaw("host", "%q", hosts[0])
	}
	return nil
}

// framing is what the fields say about the body; length is -1 if they say nothing.
type framing struct {
	chunked bool
	length  int64
}

// framing reads Content-Length and Transfer-Encoding. Whatever RFC 9112 section
// 6.3 allows a recipient to repair is a flaw here.
func (m *message) framing(proto string, fields []Field) (framing, error) {
	lengths, codings := all(fields, "Content-Length"), all(fields, "Transfer-Encoding")
	for _, option := range all(fields, "Connection") {
		for name := range strings.SplitSeq(option, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name == "content-length" || name == "transfer-encoding" || name == "host" {
				return framing{}, m.flaw("connection-names-framing", "%q", option)
			}
		}
	}
	switch {
	case len(lengths) > 0 && len(codings) > 0:
		return framing{}, m.flaw("length-and-coding", "Content-Length %q, Transfer-Encoding %q", lengths, codings)
	case len(lengths) > 1:
		return framing{}, m.flaw("content-length", "%d of them: %q", len(lengths), lengths)
	case len(codings) > 1:
		return framing{}, m.flaw("transfer-encoding", "%d of them: %q", len(codings), codings)
	case len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return framing{}, m.flaw("transfer-encoding", "%q", codings[0])
	case len(codings) == 1 && proto != "HTTP/1.1":
		return framing{}, m.flaw("transfer-encoding", "in %s", proto)
	case len(codings) == 1:
		return framing{chunked: true, length: -1}, nil
	case len(lengths) == 0:
		return framing{length: -1}, nil
	}
	n, err := strconv.ParseInt(lengths[0], 10, 64)
	if err != nil || !isAll(lengths[0], isDigit) {
		return framing{}, m.flaw("content-length", "%q", lengths[0])
	}
	return framing{length: n}, nil
}

// chunks reads a chunked body with its trailers (RFC 9112 section 7.1).
func (m *message) chunks() (body []byte, trailers []Field, err error) {
	for {
		line, err := m.line()
		if err != nil {
			return nil, nil, err
		}
		size, err := m.chunkSize(line)
		if err != nil {
			return nil, nil, err
		}
		if size == 0 {
			trailers, err = m.trailers()
			return body, trailers, err
		}
		data, err := m.take(size)
		if err != nil {
			return nil, nil, err
		}
		body = append(body, data...)
		end, err := m.take(2)
		if err != nil {
			return nil, nil, err
		}
		if string(end) != "\r\n" {
			return nil, nil, m.flaw("chunk-end", "%q after %d bytes", end, size)
		}
	}
}

// chunkSize reads "HEX *( ; name [ = value ] )" without any white space.
func (m *message) chunkSize(line string) (int64, error) {
	digits, extensions, extended := strings.Cut(line, ";")
	if digits == "" || len(digits) > 16 || len(digits) == 16 && digits[0] != '0' || !isAll(digits, isHex) {
		return 0, m.flaw("chunk-size", "%q", line)
	}
	if extended {
		for _, ext := range splitExtensions(extensions) {
			name, value, valued := strings.Cut(ext, "=")
			if !isToken(name) || valued && !isToken(value) && !isQuoted(value) {
				return 0, m.flaw("chunk-extension", "%q", line)
			}
		}
	}
	size, err := strconv.ParseInt(digits, 16, 64)
	if err != nil {
		return 0, m.flaw("chunk-size", "%q", line)
	}
	return size, nil
}

// splitExtensions splits at the semicolons outside of quoted strings.
func splitExtensions(s string) (exts []string) {
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ';' && !quoted:
			exts = append(exts, s[start:i])
			start = i + 1
		}
	}
	return append(exts, s[start:])
}

// trailers reads trailer fields, none of which may change how the message is read.
func (m *message) trailers() ([]Field, error) {
	fields, err := m.fields()
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		switch strings.ToLower(f.Name) {
		case "content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade":
			return nil, m.flaw("trailer", "%q", f.Name)
		}
	}
	return fields, nil
}

// response reads one response with its body, if the method and status have one.
func (m *message) response(resp *Response, method string) error {
	line, err := m.line()
	if err != nil {
		return err
	}
	if err := m.statusLine(resp, line); err != nil {
		return err
	}
	if resp.Fields, err = m.fields(); err != nil {
		return err
	}
	f, err := m.framing(resp.Proto, resp.Fields)
	if err != nil {
		return err
	}
	switch {
	case resp.Status < 200 || resp.Status == 204:
		if f.chunked || f.length >= 0 {
			return m.flaw("body-of-bodiless", "status %d with a length or coding", resp.Status)
		}
		return nil
	case resp.Status == 304 || method == "HEAD":
		return nil
	case f.chunked:
		resp.Chunked = true
		resp.Body, resp.Trailers, err = m.chunks()
		return err
	case f.length >= 0:
		resp.Body, err = m.take(f.length)
		return err
	default:
		resp.UntilClose = true
		resp.Body, err = io.ReadAll(m.r)
		m.raw = append(m.raw, resp.Body...)
		return err
	}
}

// statusLine splits "HTTP/1.x SP 3DIGIT SP REASON".
func (m *message) statusLine(resp *Response, line string) error {
	proto, rest, _ := strings.Cut(line, " ")
	code, reason, spaced := strings.Cut(rest, " ")
	switch {
	case proto != "HTTP/1.1" && proto != "HTTP/1.0":
		return m.flaw("version", "%q", line)
	case len(code) != 3 || !isAll(code, isDigit) || code[0] < '1' || code[0] > '5' || !spaced:
		return m.flaw("status-line", "%q", line)
	case !isAll(reason, func(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f }):
		return m.flaw("status-line", "%q", line)
	}
	resp.Proto, resp.Reason = proto, reason
	resp.Status, _ = strconv.Atoi(code) // three digits
	return nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func isAlpha(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// isAll says whether every byte of s holds; an empty s does.
func isAll(s string, holds func(byte) bool) bool {
	for i := range len(s) {
		if !holds(s[i]) {
			return false
		}
	}
	return true
}

// isToken follows RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && isAll(s, func(c byte) bool {
		return isDigit(c) || isAlpha(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	})
}

// isQuoted says whether s is one quoted-string (RFC 9110 section 5.6.4).
func isQuoted(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	inner := s[1 : len(s)-1]
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '\\':
			if i++; i == len(inner) || inner[i] < ' ' && inner[i] != '\t' || inner[i] == 0x7f {
				return false
			}
		case c == '"' || c < ' ' && c != '\t' || c == 0x7f:
			return false
		}
	}
	return true
}

// isAuthority accepts host [":" port] with a registered name, an IPv4 address or a
// bracketed IPv6 address, and never userinfo.
func isAuthority(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.Atoi(port); port != "" && (err != nil || n > 65535 || !isAll(port, isDigit)) {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && isAll(inner, func(c byte) bool { return isHex(c) || c == ':' || c == '.' })
	}
	return host != "" && isAll(host, func(c byte) bool {
		return isDigit(c) || isAlpha(c) || strings.IndexByte("-._~!$&'()*+,;=%", c) >= 0
	})
}
