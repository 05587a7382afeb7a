package proxy

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"

	"tickgate/config"
	"tickgate/internal/h1"
	"tickgate/tlsterm"
)

// template is a text with variables, compiled once: ${client_addr}, ${header:NAME},
// $1 and ${name} for the captures of path_regex, $$ for a dollar sign.
type template struct {
	parts []templatePart
}

// templatePart is literal text, or a variable if value is set.
type templatePart struct {
	text  string
	value func(x *Exchange, dst []byte) []byte
}

// append evaluates t for x. Values come from a head that the strict parser
// accepted, so none can hold a line end.
func (t *template) append(dst []byte, x *Exchange) []byte {
	for i := range t.parts {
		if p := &t.parts[i]; p.value != nil {
			dst = p.value(x, dst)
		} else {
			dst = append(dst, p.text...)
		}
	}
	return dst
}

// compileTemplate compiles s; re is the route's path_regex, or nil. The syntax is
// that of config.ParseTemplate.
func compileTemplate(s string, re *regexp.Regexp) (*template, error) {
	parts, err := config.ParseTemplate(s)
	if err != nil {
		return nil, err
	}
	t := &template{}
	for _, p := range parts {
		part := templatePart{text: p.Text}
		switch p.Kind {
		case config.Variable:
			part.value = variables[p.Text]
		case config.RequestHeader:
			part.value = headerValue(p.Text)
		case config.RequestCookie:
			part.value = cookieValue(p.Text)
		case config.Capture:
			part.value = captureOf(p, re)
		}
		if p.Kind != config.Literal && part.value == nil {
			return nil, fmt.Errorf("unknown variable ${%s}", p.Text)
		}
		t.parts = append(t.parts, part)
	}
	return t, nil
}

// captureOf returns the value of a capture, nil if re has no such group.
func captureOf(p config.TemplatePart, re *regexp.Regexp) func(x *Exchange, dst []byte) []byte {
	n := p.Index
	if n == 0 && re != nil {
		n = re.SubexpIndex(p.Text)
	}
	if re == nil || n <= 0 || n > re.NumSubexp() {
		return nil
	}
	return captureValue(n)
}

// variables are the plain variables; their names and meanings are documented at
// config.HeaderOps.
var variables = map[string]func(x *Exchange, dst []byte) []byte{
	"client_addr": func(x *Exchange, dst []byte) []byte { return append(dst, x.client().text...) },
	"client_port": func(x *Exchange, dst []byte) []byte { return strconv.AppendUint(dst, uint64(x.c.peer.Port()), 10) },
	"host":        func(x *Exchange, dst []byte) []byte { return append(dst, x.lowerHost()...) },
	"scheme":      func(x *Exchange, dst []byte) []byte { return append(dst, x.scheme()...) },
	"method":      func(x *Exchange, dst []byte) []byte { return append(dst, x.req.Method()...) },
	"path":        func(x *Exchange, dst []byte) []byte { return append(dst, x.req.Path()...) },
	"query":       func(x *Exchange, dst []byte) []byte { return append(dst, x.req.Query()...) },
	"uri":         func(x *Exchange, dst []byte) []byte { return appendURI(dst, x.req.Path(), &x.req) },
	"request_id":  func(x *Exchange, dst []byte) []byte { return append(dst, x.id()...) },
	"route":       func(x *Exchange, dst []byte) []byte { return append(dst, x.rt.name...) },
	"upstream":    func(x *Exchange, dst []byte) []byte { return append(dst, x.rt.upstreamName()...) },
	"backend":     func(x *Exchange, dst []byte) []byte { return append(dst, x.backendAddr()...) },
	"listener":    func(x *Exchange, dst []byte) []byte { return append(dst, x.c.ln.name...) },
	"tls_version": func(x *Exchange, dst []byte) []byte { return append(dst, x.c.facts.version...) },
	"tls_cipher":  func(x *Exchange, dst []byte) []byte { return append(dst, x.c.facts.cipher...) },
	"tls_server_name": func(x *Exchange, dst []byte) []byte {
		return append(dst, x.c.facts.serverName...)
	},
	"tls_ja4":                func(x *Exchange, dst []byte) []byte { return append(dst, x.c.facts.ja4...) },
	"tls_client_verified":    verifiedValue,
	"tls_client_subject":     withIdentity(func(id *tlsterm.Identity) string { return id.Subject }),
	"tls_client_issuer":      withIdentity(func(id *tlsterm.Identity) string { return id.Issuer }),
	"tls_client_san":         withIdentity(func(id *tlsterm.Identity) string { return id.SAN }),
	"tls_client_spiffe":      withIdentity(func(id *tlsterm.Identity) string { return id.SPIFFE }),
	"tls_client_fingerprint": withIdentity(func(id *tlsterm.Identity) string { return id.Fingerprint }),
	"tls_client_serial":      withIdentity(func(id *tlsterm.Identity) string { return id.Serial }),
}

// appendURI appends path and the request's query, if it has one.
func appendURI(dst, path []byte, req *h1.RequestHead) []byte {
	dst = append(dst, path...)
	if q := req.Query(); q != nil {
		dst = append(append(dst, '?'), q...)
	}
	return dst
}

func captureValue(n int) func(x *Exchange, dst []byte) []byte {
	return func(x *Exchange, dst []byte) []byte {
		if 2*n+1 >= len(x.captures) || x.captures[2*n] < 0 {
			return dst
		}
		return append(dst, x.path[x.captures[2*n]:x.captures[2*n+1]]...)
	}
}

func headerValue(name string) func(x *Exchange, dst []byte) []byte {
	key := []byte(name)
	return func(x *Exchange, dst []byte) []byte { return append(dst, x.req.GetName(key)...) }
}

func cookieValue(name string) func(x *Exchange, dst []byte) []byte {
	return func(x *Exchange, dst []byte) []byte { return append(dst, findCookie(x.req.Get(h1.Cookie), name)...) }
}

// findCookie returns the value of the first cookie of that name in a Cookie field
// (RFC 6265 section 4.2.1), or nil.
func findCookie(field []byte, name string) []byte {
	for len(field) > 0 {
		pair := field
		if i := bytes.IndexByte(field, ';'); i >= 0 {
			pair, field = field[:i], field[i+1:]
		} else {
			field = nil
		}
		for len(pair) > 0 && pair[0] == ' ' {
			pair = pair[1:]
		}
		if len(pair) > len(name) && pair[len(name)] == '=' && string(pair[:len(name)]) == name {
			return pair[len(name)+1:]
		}
	}
	return nil
}

// backendAddr is the address of the backend in use, or "".
func (x *Exchange) backendAddr() string {
	if x.backend == nil {
		return ""
	}
	return x.backend.Label()
}
