package proxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"tickgate/internal/h1"
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

// compileTemplate compiles s; re is the route's path_regex, or nil.
func compileTemplate(s string, re *regexp.Regexp) (*template, error) {
	t := &template{}
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			t.parts = append(t.parts, templatePart{text: s})
			break
		}
		if i > 0 {
			t.parts = append(t.parts, templatePart{text: s[:i]})
		}
		part, rest, err := compileVariable(s[i+1:], re)
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, part)
		s = rest
	}
	return t, nil
}

// compileVariable reads what follows a dollar sign.
func compileVariable(s string, re *regexp.Regexp) (templatePart, string, error) {
	switch c := s[0]; {
	case c == '$':
		return templatePart{text: "$"}, s[1:], nil
	case c >= '0' && c <= '9':
		return templatePart{value: captureValue(int(c - '0'))}, s[1:], nil
	case c != '{':
		return templatePart{text: "$"}, s, nil
	}
	name, rest, ok := strings.Cut(s[1:], "}")
	if !ok {
		return templatePart{}, "", fmt.Errorf("variable %q is not closed by }", "$"+s)
	}
	if n, err := strconv.Atoi(name); err == nil {
		return templatePart{value: captureValue(n)}, rest, nil
	}
	if h, ok := strings.CutPrefix(name, "header:"); ok {
		return templatePart{value: headerValue(h)}, rest, nil
	}
	if k, ok := strings.CutPrefix(name, "cookie:"); ok {
		return templatePart{value: cookieValue(k)}, rest, nil
	}
	if v, ok := variables[name]; ok {
		return templatePart{value: v}, rest, nil
	}
	if re != nil {
		if n := re.SubexpIndex(name); n >= 0 {
			return templatePart{value: captureValue(n)}, rest, nil
		}
	}
	return templatePart{}, "", fmt.Errorf("unknown variable ${%s}", name)
}

// variables are the plain variables; their names and meanings are documented at
// config.HeaderOps.
var variables = map[string]func(x *Exchange, dst []byte) []byte{
	"client_addr": func(x *Exchange, dst []byte) []byte { return append(dst, x.c.addrText...) },
	"client_port": func(x *Exchange, dst []byte) []byte { return strconv.AppendUint(dst, uint64(x.c.peer.Port()), 10) },
	"host":        func(x *Exchange, dst []byte) []byte { return append(dst, x.req.Host()...) },
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
		if i := indexByte(field, ';'); i >= 0 {
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
