package meter

import (
	"crypto/tls"
	"testing"
)

func TestHandshakes(t *testing.T) {
	m := New("test")
	m.Handshake(tls.VersionTLS12, false)
	m.Handshake(tls.VersionTLS13, true)
	m.Handshake(tls.VersionTLS10, false)
	got := page(t, m)
	for _, line := range []string{
		`tickgate_tls_handshakes_total{version="1.2",resumed="false"} 1`,
		`tickgate_tls_handshakes_total{version="1.2",resumed="true"} 0`,
		`tickgate_tls_handshakes_total{version="1.3",resumed="true"} 1`,
		`tickgate_tls_handshakes_total{version="other",resumed="false"} 1`,
	} {
		wantLine(t, got, line)
	}
}
