package proxy

import (
	"net/netip"
	"strings"
)

// peerList are addresses that a configuration names: those of proxies that are believed about their clients.
type peerList struct {
	nets []netip.Prefix
	unix bool // Unix sockets
}

// newPeerList reads addresses, networks in CIDR form and the word "unix".
func newPeerList(list []string) (peerList, error) {
	var p peerList
	for _, text := range list {
		if text == "unix" {
			p.unix = true
			continue
		}
		prefix, err := parsePrefix(text)
		if err != nil {
			return peerList{}, err
		}
		p.nets = append(p.nets, prefix)
	}
	return p, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// has reports whether a is one of them; the zero Addr is a Unix socket.
func (p *peerList) has(a netip.Addr) bool {
	if !a.IsValid() {
		return p.unix
	}
	a = a.WithZone("") // a prefix has none, and contains no address with one
	for _, prefix := range p.nets {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}
