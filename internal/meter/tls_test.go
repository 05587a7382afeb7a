package meter

import (
	"crypto/tls"
	"testing"
	"time"
)

func TestHandshakes(t *testing.T) {
	m := New("test")
	m.Handshake(Handshake{
		Version: tls.VersionTLS12, Group: "X25519", KeyType: "rsa", All: 10 * time.Millisecond, Gate: time.Millisecond, Client: 8 * time.Millisecond,
	})
	m.Handshake(Handshake{Version: tls.VersionTLS13, Group: "P-256", Resumed: true, All: 300 * time.Microsecond})
	m.Handshake(Handshake{Version: tls.VersionTLS10})
	got := page(t, m)
	for _, line := range []string{
		`tickgate_tls_handshakes_total{version="1.2",resumed="false"} 1`,
		`tickgate_tls_handshakes_total{version="1.2",resumed="true"} 0`,
		`tickgate_tls_handshakes_total{version="1.3",resumed="true"} 1`,
		`tickgate_tls_handshakes_total{version="other",resumed="false"} 1`,
		`tickgate_tls_handshake_duration_seconds_bucket{version="1.2",group="X25519",key_type="rsa",resumed="false",le="0.005"} 0`,
		`tickgate_tls_handshake_duration_seconds_bucket{version="1.2",group="X25519",key_type="rsa",resumed="false",le="0.01"} 1`,
		`tickgate_tls_handshake_duration_seconds_sum{version="1.3",group="P-256",key_type="none",resumed="true"} 0.0003`,
		`tickgate_tls_handshake_duration_seconds_count{version="other",group="none",key_type="none",resumed="false"} 1`,
		`tickgate_tls_handshake_phase_seconds_sum{phase="gate"} 0.001`,
		`tickgate_tls_handshake_phase_seconds_sum{phase="client"} 0.008`,
		`tickgate_tls_handshake_phase_seconds_sum{phase="compute"} 0.0013`,
	} {
		wantLine(t, got, line)
	}
}
