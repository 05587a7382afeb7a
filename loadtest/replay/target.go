package replay

import (
	"net/netip"
	"net/url"
)

// Loopback says whether a URL is certainly of this machine. A log is traffic of real users, with real
// orders in it: sending it anywhere else must be asked for.
func Loopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Unmap().IsLoopback() || u.Hostname() == "localhost"
}
