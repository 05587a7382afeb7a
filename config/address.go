package config

import (
	"net/netip"
	"strconv"
	"strings"
)

// splitHostPort reads host:port, with an IPv6 address in brackets and a numeric
// port from minPort up. The host may be empty. why says what is wrong.
func splitHostPort(s string, minPort int) (host string, port int, why string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, "there is no port"
	}
	host, text := s[:i], s[i+1:]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() {
			return "", 0, "not an IPv6 address in brackets"
		}
		host = inner
	} else if strings.ContainsAny(host, ":") {
		return "", 0, "an IPv6 address goes in brackets"
	} else if host != "" && !isHostname(host) {
		return "", 0, "not a host name or address"
	}
	port, err := strconv.Atoi(text)
	if err != nil || text[0] == '+' || port < minPort || port > 65535 {
		return "", 0, "the port is not a number from " + strconv.Itoa(minPort) + " to 65535"
	}
	return host, port, ""
}

// isHostname reports whether s is a DNS name or an IPv4 address. Underscores are
// let through, as names of services hold them.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.TrimLeftFunc(label, func(r rune) bool { return isNameRune(r) || r == '-' }) != "" {
			return false
		}
		last = label
	}
	// No top-level name is a number, so this is an IPv4 address or a mistyped one.
	if strings.Trim(last, "0123456789") == "" {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	return true
}

// parsePrefix reads a CIDR or a single address.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return addr.Prefix(addr.BitLen())
}

// boundAddress is an address that is listened on, in comparable form.
type boundAddress struct {
	unix string
	host netip.Addr // the unspecified IPv6 address for every address
	name string     // a host name, if it is none
	port int
}

// collides reports whether two addresses cannot, or should not, be listened on at
// once: they are the same, or one is every address and the other of the same port.
func (a boundAddress) collides(b boundAddress) bool {
	if a.unix != "" || b.unix != "" {
		return a.unix == b.unix
	}
	if a.port != b.port || a.port == 0 {
		return false
	}
	if a.host == b.host && a.name == b.name {
		return true
	}
	return a.covers(b) || b.covers(a)
}

// covers reports whether a takes in every address of b: ":443" does for all, and
// 0.0.0.0:443 for those of IPv4.
func (a boundAddress) covers(b boundAddress) bool {
	if !a.host.IsValid() || !a.host.IsUnspecified() {
		return false
	}
	return a.host.Is6() || b.host.IsValid() && b.host.Is4() || b.name != ""
}

// parseListen reads an address to listen on.
func parseListen(s string) (a boundAddress, why string) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		// A socket's address holds 108 bytes on Linux, 104 elsewhere, the final NUL included.
		switch {
		case !strings.HasPrefix(path, "/"):
			return a, "the path of a Unix socket begins with /"
		case len(path) > 103:
			return a, "the path of a Unix socket has at most 103 bytes"
		}
		return boundAddress{unix: path}, ""
	}
	host, port, why := splitHostPort(s, 0)
	if why != "" {
		return a, why
	}
	a.port = port
	if host == "" {
		a.host = netip.IPv6Unspecified()
	} else if addr, err := netip.ParseAddr(host); err == nil {
		a.host = addr.Unmap()
	} else if name := strings.ToLower(strings.TrimSuffix(host, ".")); name == "localhost" {
		a.host = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // of its addresses, package net listens on the one of IPv4
	} else {
		a.name = name
	}
	return a, ""
}
