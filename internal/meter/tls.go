package meter

import (
	"crypto/tls"
	"sync/atomic"
)

// tlsVersions are the versions that have a series of their own; the last takes the rest.
var tlsVersions = [...]struct {
	version uint16
	word    string
}{
	{tls.VersionTLS12, "1.2"},
	{tls.VersionTLS13, "1.3"},
	{0, "other"},
}

// tlsCounters counts the handshakes with clients.
type tlsCounters struct {
	full    [len(tlsVersions)]atomic.Uint64
	resumed [len(tlsVersions)]atomic.Uint64
}

// Handshake counts a finished handshake with a client. The version is crypto/tls's number.
func (m *Meter) Handshake(version uint16, resumed bool) {
	i := 0
	for i < len(tlsVersions)-1 && tlsVersions[i].version != version {
		i++
	}
	if resumed {
		m.tls.resumed[i].Add(1)
	} else {
		m.tls.full[i].Add(1)
	}
}
