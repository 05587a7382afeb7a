package h1

import (
	"bytes"

	"tickgate/internal/reason"
)

// maxHostName is the longest host name in bytes (RFC 1035 section 2.3.4).
const maxHostName = 255

// settleHost checks the Host field against version and target (RFC 9112 section 3.2).
func (h *RequestHead) settleHost() reason.Reason {
	i := h.Index(Host)
	if i < 0 {
		if h.Minor == 0 {
			return reason.OK
		}
		return reason.BadHost
	}
	value := h.Value(i)
	name, port, ok := parseAuthority(value)
	if !ok || h.Repeated(Host) {
		return reason.BadHost
	}
	switch h.Form {
	case AuthorityForm:
		return reason.OK
	case AbsoluteForm:
		if !h.sameHost(value[:name], port) {
			return reason.BadHost
		}
		return reason.OK
	}
	start := int(h.Fields[i].ValueStart)
	h.host = makeSpan(start, start+len(value))
	h.hostName = makeSpan(start, start+name)
	h.port = port
	return reason.OK
}

// sameHost compares a Host value with the authority of an absolute-form target. RFC 9112 section 3.2.2
// lets the target win; two different names in one request are refused here, since a backend may choose the other.
func (h *RequestHead) sameHost(name []byte, port int32) bool {
	standard := int32(80)
	if h.TargetTLS {
		standard = 443
	}
	own := h.port
	if own < 0 {
		own = standard
	}
	if port < 0 {
		port = standard
	}
	return own == port && equalFoldBytes(name, h.HostName())
}

// parseAuthority reads uri-host [ ":" port ]. It returns the length of the host and the
// port, -1 without.
func parseAuthority(b []byte) (name int, port int32, ok bool) {
	if len(b) == 0 {
		return 0, -1, false
	}
	if b[0] == '[' {
		name = bytes.IndexByte(b, ']') + 1
		if name == 0 || !validIPv6(b[1:name-1]) {
			return 0, -1, false
		}
	} else {
		if name = nameLength(b); name == 0 {
			return 0, -1, false
		}
	}
	if name == len(b) {
		return name, -1, true
	}
	if b[name] != ':' {
		return 0, -1, false
	}
	port, ok = parsePort(b[name+1:])
	return name, port, ok
}

// nameLength returns the length of the host name that b begins with: 0 if there is none, or
// if it is too long or has an empty label other than the root's.
func nameLength(b []byte) int {
	n, label := 0, 0
	for n < len(b) && is(b[n], classHost) {
		label++
		if b[n] == '.' {
			if label == 1 {
				return 0
			}
			label = 0
		}
		n++
	}
	if n > maxHostName {
		return 0
	}
	return n
}

// parsePort reads 1 to 5 digits, 0 to 65535.
func parsePort(b []byte) (int32, bool) {
	if len(b) == 0 || len(b) > 5 {
		return -1, false
	}
	var n int32
	for _, c := range b {
		if c-'0' > 9 {
			return -1, false
		}
		n = n*10 + int32(c-'0')
	}
	return n, n <= 65535
}

// validIPv6 checks the text of an IPv6 address without zone (RFC 4291 section 2.2).
func validIPv6(b []byte) bool {
	groups, compressed := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		compressed, b = true, b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && is(b[n], classHex) {
			n++
		}
		if n < len(b) && b[n] == '.' {
			return validIPv4(b) && fullIPv6(groups+2, compressed)
		}
		if n == 0 || n > 4 {
			return false
		}
		groups++
		b = b[n:]
		if len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return false
		}
		b = b[1:]
		if b[0] == ':' {
			if compressed {
				return false
			}
			compressed, b = true, b[1:]
		}
	}
	return fullIPv6(groups, compressed)
}

// fullIPv6 reports whether the groups written, with "::" for one or more, make eight.
func fullIPv6(groups int, compressed bool) bool {
	if compressed {
		return groups < 8
	}
	return groups == 8
}

// validIPv4 checks four decimal numbers of 0 to 255 without leading zeros.
func validIPv4(b []byte) bool {
	for part := 0; part < 4; part++ {
		n, v := 0, 0
		for n < len(b) && n < 3 && is(b[n], classDigit) {
			v = v*10 + int(b[n]-'0')
			n++
		}
		if n == 0 || v > 255 || n > 1 && b[0] == '0' {
			return false
		}
		b = b[n:]
		if part == 3 {
			return len(b) == 0
		}
		if len(b) == 0 || b[0] != '.' {
			return false
		}
		b = b[1:]
	}
	return false
}
