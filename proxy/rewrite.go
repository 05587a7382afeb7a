package proxy

import (
	"bytes"
	"regexp"

	"tickgate/config"
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

// append appends the rewritten target with the client's query. Prefixes are cut
// from the client's own bytes when these begin with them literally, else from the
// decoded path that was matched.
func (rw *rewriter) append(dst []byte, x *Exchange) []byte {
	if rw.whole != nil {
		start := len(dst)
		dst = rw.whole.append(dst, x)
		return appendQuery(dst, start, x)
	}
	prefix := rw.strip
	if len(prefix) == 0 {
		prefix = x.path[:min(rw.prefix, len(x.path))]
	}
	path := x.req.Path()
	if !bytes.HasPrefix(path, prefix) {
		path = x.path
	}
	rest, found := bytes.CutPrefix(path, prefix)
	if !found {
		return appendURI(dst, path, &x.req)
	}
	start := len(dst)
	dst = append(dst, rw.replace...)
	if len(dst) == start || dst[len(dst)-1] != '/' {
		if len(rest) == 0 && len(dst) == start || len(rest) > 0 && rest[0] != '/' {
			dst = append(dst, '/')
		}
	} else if len(rest) > 0 && rest[0] == '/' {
		rest = rest[1:]
	}
	return appendURI(dst, rest, &x.req)
}

// appendQuery appends the client's query to the target that begins at start, after
// "&" if the rewritten path brought a query of its own.
func appendQuery(dst []byte, start int, x *Exchange) []byte {
	q := x.req.Query()
	if q == nil {
		return dst
	}
	sep := byte('?')
	if bytes.IndexByte(dst[start:], '?') >= 0 {
		sep = '&'
	}
	return append(append(dst, sep), q...)
}
