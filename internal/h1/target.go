package h1

import (
	"tickgate/internal/reason"
)

// readTarget reads the request target line[start:end] by its form (RFC 9112 section 3.2).
func (h *RequestHead) readTarget(line []byte, start, end int) reason.Reason {
	if h.MethodID == MethodConnect {
		h.Form = AuthorityForm
		h.path = makeSpan(end, end)
		return h.readAuthority(line, start, end, true)
	}
	if line[start] == '/' {
		// Fast path: origin-form.
		h.Form = OriginForm
		return h.readPath(line, start, end)
	}
	if line[start] == '*' && end == start+1 {
		h.Form = AsteriskForm
		h.path = makeSpan(start, end)
		if h.MethodID != MethodOptions {
			return reason.BadTarget
		}
		return reason.OK
	}
	return h.readAbsolute(line, start, end)
}

// readAbsolute reads an absolute-form target: http or https, an authority, and
// perhaps path and query.
func (h *RequestHead) readAbsolute(line []byte, start, end int) reason.Reason {
	target := line[start:end]
	authority := start
	switch {
	case len(target) > 7 && equalFold(target[:7], "http://"):
		authority += 7
	case len(target) > 8 && equalFold(target[:8], "https://"):
		authority += 8
		h.TargetTLS = true
	default:
		return judgeTarget(target)
	}
	h.Form = AbsoluteForm
	path := authority
	for path < end && line[path] != '/' && line[path] != '?' {
		path++
	}
	if r := h.readAuthority(line, authority, path, false); r != reason.OK {
		return r
	}
	return h.readPath(line, path, end)
}

// judgeTarget says what is wrong with a target of no known form: a space in it means
// that the request line has too many parts.
func judgeTarget(target []byte) reason.Reason {
	for _, c := range target {
		if c == ' ' || c == '\t' {
			return reason.BadRequestLine
		}
	}
	return reason.BadTarget
}

// readAuthority reads the host and port line[start:end] of the target.
func (h *RequestHead) readAuthority(line []byte, start, end int, portNeeded bool) reason.Reason {
	name, port, ok := parseAuthority(line[start:end])
	if !ok || portNeeded && port < 0 {
		return judgeTarget(line[start:end])
	}
	h.host = makeSpan(start, end)
	h.hostName = makeSpan(start, start+name)
	h.port = port
	return reason.OK
}

// readPath checks path and query, line[start:end]. Neither is changed or decoded.
func (h *RequestHead) readPath(line []byte, start, end int) reason.Reason {
	i := start
	h.path = makeSpan(start, end)
	for i < end {
		c := line[i]
		if is(c, classTarget) {
			i++
			continue
		}
		switch {
		case c == '%' && validEscape(line[i:end]):
			i += 3
		case c == '?':
			h.path = makeSpan(start, i)
			h.query, h.hasQuery = makeSpan(i+1, end), true
			return judgeQuery(line[i+1 : end])
		default:
			return judgeTarget(line[i:end])
		}
	}
	return reason.OK
}

// validEscape reports whether b begins with a percent encoding of a byte other than NUL.
func validEscape(b []byte) bool {
	return len(b) >= 3 && is(b[1], classHex) && is(b[2], classHex) && (b[1] != '0' || b[2] != '0')
}

// judgeQuery checks the bytes of a query. Its percent signs are not looked at, since
// queries are often not encoded, and no proxy acts on them.
func judgeQuery(query []byte) reason.Reason {
	for _, c := range query {
		if !is(c, classTarget) && c != '%' && c != '?' {
			return judgeTarget(query)
		}
	}
	return reason.OK
}
