package httpload

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tickgate/internal/h1"
	"tickgate/loadtest/target"
)

// Request is one kind of request of a mix.
type Request struct {
	// Name of the kind in results; "" is the method and the path.
	Name string
	// Weight is its share among the mix; 0 is 1.
	Weight int
	// Method; "" is GET.
	Method string
	// Path is the target as it is sent; "" is the URL's.
	Path string
	// Header fields in order. Host is the URL's unless it is among them, and
	// Content-Length is that of Body, likewise.
	Header []Field
	Body   []byte
	// Think is the pause behind a response, in the closed loop only: on average, and
	// distributed exponentially.
	Think time.Duration
	// Expect is the status wanted; 0 is any below 400.
	Expect int
}

// Field is one field line.
type Field struct{ Name, Value string }

// message is a Request made ready to be sent. It does not change.
type message struct {
	wire   []byte
	method h1.MethodID
	kind   int // index into run.kinds
	expect int
	think  time.Duration
}

// wanted says whether a status is what the request expects.
func (m *message) wanted(status int) bool {
	if m.expect == 0 {
		return status < 400
	}
	return status == m.expect
}

// name is the kind's name in results.
func (r *Request) name(t *target.Target) string {
	if r.Name != "" {
		return r.Name
	}
	return r.method() + " " + r.path(t)
}

func (r *Request) method() string {
	if r.Method == "" {
		return "GET"
	}
	return r.Method
}

func (r *Request) path(t *target.Target) string {
	if r.Path == "" {
		return t.URL.RequestURI()
	}
	return r.Path
}

// compile makes the request ready. What would break the message's lines is refused,
// with ErrOptions.
func (r *Request) compile(t *target.Target, kind int) (*message, error) {
	method, path := r.method(), r.path(t)
	if !clean(method, " ") || !clean(path, " ") {
		return nil, fmt.Errorf("%w: request %q %q", ErrOptions, method, path)
	}
	b := fmt.Appendf(make([]byte, 0, 256+len(r.Body)), "%s %s HTTP/1.1\r\n", method, path)
	if !r.has("Host") {
		b = fmt.Appendf(b, "Host: %s\r\n", t.URL.Host)
	}
	for _, f := range r.Header {
		if !clean(f.Name, " :") || f.Value != "" && !clean(f.Value, "") {
			return nil, fmt.Errorf("%w: header field %q: %q", ErrOptions, f.Name, f.Value)
		}
		b = fmt.Appendf(b, "%s: %s\r\n", f.Name, f.Value)
	}
	carries := len(r.Body) > 0 || slices.Contains([]string{"POST", "PUT", "PATCH"}, method)
	if carries && !r.has("Content-Length") && !r.has("Transfer-Encoding") {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(r.Body))
	}
	b = append(b, '\r', '\n')
	return &message{
		wire: append(b, r.Body...), method: h1.LookupMethod([]byte(method)), kind: kind, expect: r.Expect, think: r.Think,
	}, nil
}

// has says whether a header field is given.
func (r *Request) has(name string) bool {
	return slices.ContainsFunc(r.Header, func(f Field) bool { return strings.EqualFold(f.Name, name) })
}

// clean says whether s is not empty and holds neither control characters, HTAB aside,
// nor one of those in not.
func clean(s, not string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f || strings.IndexByte(not, c) >= 0 {
			return false
		}
	}
	return s != ""
}
