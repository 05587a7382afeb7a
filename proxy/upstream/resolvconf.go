package upstream

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// resolvConf is what resolv.conf(5) says, as far as it is used.
type resolvConf struct {
	servers []string // host:port
	search  []string // without final dots
	ndots   int
}

// parseResolvConf reads nameserver, search, domain and options ndots. Without a
// nameserver it is the local host's, as resolv.conf(5) has it.
func parseResolvConf(text string) resolvConf {
	c := resolvConf{ndots: 1}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < 3 { // MAXNS
				c.servers = append(c.servers, net.JoinHostPort(f[1], "53"))
			}
		case "domain":
			c.search = []string{strings.Trim(f[1], ".")}
		case "search":
			c.search = nil
			for _, d := range f[1:] {
				if d = strings.Trim(d, "."); d != "" {
					c.search = append(c.search, d)
				}
			}
		case "options":
			c.readOptions(f[1:])
		}
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53", "[::1]:53"}
	}
	return c
}

func (c *resolvConf) readOptions(options []string) {
	for _, o := range options {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			if n, err := strconv.Atoi(v); err == nil {
				c.ndots = min(max(n, 0), 15) // the C library's cap
			}
		}
	}
}

// candidates returns the full names to ask for, in order, each with a final dot. A
// name with at least ndots dots is tried as it is first, any other last.
func candidates(host string, search []string, ndots int) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	var out []string
	for _, d := range search {
		out = append(out, host+"."+d+".")
	}
	if strings.Count(host, ".") >= ndots {
		return append([]string{host + "."}, out...)
	}
	return append(out, host+".")
}

// parseHosts returns the addresses that the text of hosts(5) has for host.
func parseHosts(text, host string) []netip.Addr {
	host = strings.TrimSuffix(host, ".")
	var out []netip.Addr
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, n := range f[1:] {
			if strings.EqualFold(strings.TrimSuffix(n, "."), host) {
				out = append(out, addr)
				break
			}
		}
	}
	return out
}
