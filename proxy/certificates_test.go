package proxy

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
)

// writeChain writes a chain with the key of its first certificate, and returns its entry in a list of certificates.
func writeChain(t testing.TB, leaf *testcert.Node, above ...*testcert.Node) (entry, certFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	text := leaf.PEM()
	for _, n := range above {
		text = append(text, n.PEM()...)
	}
	for file, content := range map[string][]byte{certFile: text, keyFile: leaf.KeyPEM(t)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return `{cert_file: "` + certFile + `", key_file: "` + keyFile + `"}`, certFile
}

// The earliest end in a chain is what the metric shows and the log warns about: once for each stage, and daily after it.
func TestCertificateExpiry(t *testing.T) {
	t.Parallel()
	now := time.Now()
	end := now.AddDate(0, 0, 60)
	mid := testcert.Root(t, "root").Authority(t, "mid", func(c *x509.Certificate) { c.NotAfter = end })
	entry, certFile := writeChain(t, mid.Leaf(t, "leaf.example", nil), mid)
	g := newGateway(t, `
routes: [{static_response: {}}]
listeners:
- {listen: "127.0.0.1:0", acceptors: 1, tls: {certificates: [`+entry+`]}}
- {listen: "localhost:0", acceptors: 1, tls: {certificates: [`+entry+`]}}
`)
	series := `tickgate_tls_certificate_expiry_timestamp_seconds{listener="127.0.0.1:0",cert_file=` + strconv.Quote(certFile) + `}`
	if got := g.metric(series); got != float64(end.Unix()) {
		t.Errorf("the metric says %.0f, want the end of the intermediate, %d", got, end.Unix())
	}
	var w expiryWatch
	f := func(at time.Duration, wantLevel, want string) {
		t.Helper()
		before := len(g.logs.String())
		g.watchExpiries(&w, now.Add(at))
		got := g.logs.String()[before:]
		if want == "" && got != "" {
			t.Errorf("after %s: log %q, want nothing", at, got)
		}
		if n := strings.Count(got, "\n"); n > 1 {
			t.Errorf("after %s: %d lines, want one", at, n)
		}
		if !strings.Contains(got, wantLevel) || !strings.Contains(got, want) {
			t.Errorf("after %s: log %q, want %s and %s", at, got, wantLevel, want)
		}
	}
	const day = 24 * time.Hour
	f(0, "", "")
	f(31*day, `"level":"warn"`, `"stage":"30d"`)
	f(31*day+expiryRound/2, "", "")
	f(32*day, "", "")
	f(54*day, `"level":"warn"`, `"stage":"7d"`)
	f(60*day-time.Hour, `"level":"error"`, `"stage":"1d"`)
	f(60*day+time.Minute, `"level":"error"`, `"stage":"expired"`)
	f(60*day+2*time.Minute+expiryRound, "", "")
	f(61*day+time.Minute, `"level":"error"`, `"intermediate":true`)
}

// One that is taken over on its last day is an error, as it is where ends are watched.
func TestChangedCertificateOnItsLastDay(t *testing.T) {
	t.Parallel()
	root := testcert.Root(t, "root")
	leaf := root.Leaf(t, "leaf.example", nil)
	entry, certFile := writeChain(t, leaf)
	g := newGateway(t, `
routes: [{static_response: {}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {watch: 10ms, certificates: [`+entry+`]}}]
`)
	f := func(left time.Duration, level, text string) {
		t.Helper()
		before := len(g.logs.String())
		next := root.Sign(t, leaf.Cert, leaf.Key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(left) })
		if err := os.WriteFile(certFile, next.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		var line string
		g.wait("a line", func() bool {
			for line = range strings.Lines(g.logs.String()[before:]) {
				if strings.Contains(line, "expires_soon") {
					return true
				}
			}
			return false
		})
		if !strings.Contains(line, `"level":"`+level+`"`) || !strings.Contains(line, text) {
			t.Errorf("with %s left: %s, want level %s and %q", left, line, level, text)
		}
	}
	f(5*24*time.Hour+time.Hour, "warn", "in 5 days")
	f(3*time.Hour+time.Hour/2, "error", "in 3 hours")
}

// A certificate that changes into one which is used, but not as it should be, is warned about.
func TestChangedCertificateIsJudged(t *testing.T) {
	t.Parallel()
	root := testcert.Root(t, "root")
	mid := root.Authority(t, "mid", nil)
	leaf := mid.Leaf(t, "leaf.example", nil)
	entry, certFile := writeChain(t, leaf, mid)
	g := newGateway(t, `
routes: [{static_response: {}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {watch: 10ms, certificates: [`+entry+`]}}]
`)
	text := append(append(root.PEM(), mid.PEM()...), leaf.PEM()...)
	if err := os.WriteFile(certFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	g.wait("a warning", func() bool {
		logs := g.logs.String()
		return strings.Contains(logs, "root_included") && strings.Contains(logs, "leaf_not_first") && strings.Contains(logs, certFile)
	})
}
