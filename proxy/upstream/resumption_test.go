package upstream

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"tickgate/config"
	"tickgate/internal/testcert"
)

// TestBackendSessions opens one connection after the other to a backend.
func TestBackendSessions(t *testing.T) {
	cert := testcert.NewCA(t).Issue(t, testcert.Request{})
	// A connection that is not used again.
	once := exchange(func(c net.Conn, fresh bool) (bool, error) {
		_, err := line("a")(c, fresh)
		return false, err
	})
	f := func(what string, version uint16, cache int, wantFull, wantResumed uint64, want ...string) {
		t.Helper()
		conf := cert.ServerTLS(t)
		conf.MinVersion, conf.MaxVersion = version, version
		srv, _ := tlsServer(t, conf)
		p := poolTo(t, Options{}, srv.addr, withTLS(config.BackendTLS{InsecureSkipVerify: true, SessionCache: cache}))
		for range 3 {
			mustDo(t, p, once)
		}
		if full, resumed := p.b.full.Load(), p.b.resumed.Load(); full != wantFull || resumed != wantResumed {
			t.Errorf("%s, %s: %d full and %d resumed, want %d and %d", what, tls.VersionName(version), full, resumed, wantFull, wantResumed)
		}
		var out strings.Builder
		p.b.fam.reg.WriteMetrics(&out)
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: want %q in\n%s", what, w, out.String())
			}
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		f("cached", version, 1, 1, 2, `resumed="false"} 1`, `resumed="true"} 2`)
		f("not cached", version, 0, 3, 0, `resumed="false"} 3`, `resumed="true"} 0`)
	}
}
