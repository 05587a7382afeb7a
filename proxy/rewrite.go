package proxy

import (
	"bytes"
	"regexp"

	"tickgate/config"
	"tickgate/internal/h1"
	"tickgate/internal/reason"
)

// rewriter is a compiled config.Rewrite.
type rewriter struct {
	strip   []byte
	replace []byte
	prefix  int // length of the matched prefix that replace stands for
	whole   *template
}

func compileRewrite(r *config.Rewrite, rt *route, re *regexp.Regexp) (*rewriter, error) {
	if r == nil {
		return nil, nil
	}
	rw := &rewriter{strip: []byte(r.StripPrefix), replace: []byte(r.ReplacePrefix), prefix: rt.prefixLen()}
	if r.Path != "" {
		t, err := compileTemplate(r.Path, re)
		if err != nil {
			return nil, err
		}
		rw.whole = t
	}
	return rw, nil
}

// rewrite makes the target that the backend gets, if the route changes it. The result
// is held to the same rules as a client's target: a rewrite must not join what the
// client sent into a dot segment, or into a second word of the request line.
func (x *Exchange) rewrite() bool {
	rw := x.rt.rewrite
	if rw == nil || x.req.Form == h1.AsteriskForm {
		return true
	}
	if rw.whole != nil {
		x.target = rw.replaceAll(x.target, x)
	} else {
		x.target = rw.replacePrefix(x.target, x)
	}
	path, _, _ := bytes.Cut(x.target, question)
	x.scratch = decodeUnreserved(x.scratch[:0], path)
	return !hasDotSegment(x.scratch) || x.fail(reason.BadTarget)
}

var question = []byte("?")

// replaceAll appends the path that the template makes, and the client's query: after
// "&" if the template brought a query of its own.
func (rw *rewriter) replaceAll(dst []byte, x *Exchange) []byte {
	x.scratch = rw.whole.append(x.scratch[:0], x)
	if len(x.scratch) == 0 || x.scratch[0] != '/' {
		dst = append(dst, '/')
	}
	dst = appendEncoded(dst, x.scratch)
	q := x.req.Query()
	if q == nil {
		return dst
	}
	sep := byte('?')
	if bytes.IndexByte(dst, '?') >= 0 {
		sep = '&'
	}
	return append(append(dst, sep), q...)
}

// appendEncoded appends text with the bytes that no target may hold percent-encoded.
func appendEncoded(dst, text []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range text {
		if c <= ' ' || c >= 0x7f || c == '#' {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// replacePrefix appends the path with its prefix cut or replaced, and the client's
// query. Prefixes end where a segment ends, and are cut from the client's own bytes
// when these begin with them literally, else from the decoded path that was matched.
func (rw *rewriter) replacePrefix(dst []byte, x *Exchange) []byte {
	prefix := rw.strip
	if len(prefix) == 0 {
		prefix = x.path[:min(rw.prefix, len(x.path))]
	}
	path := x.req.Path()
	if !bytes.HasPrefix(path, prefix) {
		path = x.path
	}
	rest, found := bytes.CutPrefix(path, prefix)
	if !found || !endsSegment(path, len(prefix)) {
		return appendURI(dst, x.req.Path(), &x.req)
	}
	dst = append(dst, rw.replace...)
	switch slash := len(dst) > 0 && dst[len(dst)-1] == '/'; {
	case slash && len(rest) > 0 && rest[0] == '/':
		rest = rest[1:]
	case !slash && (len(rest) > 0 && rest[0] != '/' || len(rest)+len(dst) == 0):
		dst = append(dst, '/')
	}
	return appendURI(dst, rest, &x.req)
}
