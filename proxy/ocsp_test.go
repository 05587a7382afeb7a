package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/tlsterm"
)

// responder answers on one certificate over HTTP.
type responder struct {
	*httptest.Server
	status atomic.Int64 // of package ocsp; down answers with an HTTP status
	asked  atomic.Int64
}

const down = -1

func newResponder(t *testing.T, ca *testcert.CA, leaf func() *x509.Certificate) *responder {
	t.Helper()
	r := &responder{}
	issuer, key := ca.Issuer()
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.asked.Add(1)
		status := r.status.Load()
		if status == down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		now := time.Now()
		der, err := ocsp.CreateResponse(issuer, issuer, ocsp.Response{
			Status: int(status), SerialNumber: leaf().SerialNumber, RevokedAt: now, ThisUpdate: now.Add(-time.Second), NextUpdate: now.Add(time.Hour),
		}, key)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(der)
	}))
	t.Cleanup(r.Close)
	return r
}

// stapledTo returns what is stapled in a handshake.
func stapledTo(t *testing.T, ca *testcert.CA, addr string) []byte {
	t.Helper()
	c := testkit.DialTLS(t, addr, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
	defer c.Close()
	expectStatus(t, addr, c.Do(get("/")), 200)
	return c.Conn.(*tls.Conn).ConnectionState().OCSPResponse
}

// TestStaplingProcess goes through the life of a process whose certificate must be stapled.
func TestStaplingProcess(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	var leaf *x509.Certificate
	r := newResponder(t, ca, func() *x509.Certificate { return leaf })
	pair := ca.Issue(t, testcert.Request{Alter: func(c *x509.Certificate) {
		c.OCSPServer = []string{r.URL}
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	}})
	leaf = pair.Leaf(t)
	certFile, keyFile := pair.Files(t)
	addr := testkit.FreeAddr(t)
	config := func(options string) string {
		return fmt.Sprintf("routes: [{static_response: {body: ok}}]\nlisteners: [{listen: %q, acceptors: 1, tls: {ocsp: {%s}, certificates: [{cert_file: %q, key_file: %q}]}}]\n",
			addr, options, certFile, keyFile)
	}
	const hasty = "refresh_min: 100ms, refresh_max: 1s, timeout: 30s"
	state := func(word string) string {
		return fmt.Sprintf("tickgate_tls_ocsp_state{listener=%q,cert_file=%q,state=%q}", addr, certFile, word)
	}
	missing := fmt.Sprintf("tickgate_tls_ocsp_must_staple_missing{listener=%q,cert_file=%q}", addr, certFile)
	// 1. The first handshake has an answer.
	g := testkit.StartGateway(t, config(hasty))
	staple := stapledTo(t, ca, addr)
	if _, err := ocsp.ParseResponse(staple, nil); err != nil {
		t.Errorf("1: %v", err)
	}
	if g.Metric(state("good")) != 1 || g.Metric(state("waiting")) != 0 || g.Metric(missing) != 0 {
		t.Error("1: the metrics do not say that it is good")
	}
	// 2. The responder fails: the answer serves on, over a reload, too.
	r.status.Store(down)
	g.WaitLog("no OCSP answer that could be stapled")
	g.WaitUntil("failures", func() bool {
		return g.Metric(fmt.Sprintf("tickgate_tls_ocsp_looks_total{listener=%q,result=%q}", addr, "http_status")) > 1
	})
	if code, body := g.Reload(config(hasty + ", ca_file: " + ca.RootFile(t))); code != 200 {
		t.Fatalf("2: %d %s", code, body)
	}
	if stapledTo(t, ca, addr) == nil || g.Metric(state("good")) != 1 {
		t.Error("2: the answer is gone")
	}
	r.status.Store(ocsp.Good)
	g.WaitLog("OCSP answers come again")
	// 3. It is revoked.
	r.status.Store(ocsp.Revoked)
	g.WaitLog("IS REVOKED")
	g.WaitUntil("the state", func() bool { return g.Metric(state("revoked")) == 1 })
	g.WaitUntil("nothing to be stapled", func() bool { return stapledTo(t, ca, addr) == nil })
	if g.Metric(missing) != 1 {
		t.Error("3: that must be stapled is not missed")
	}
	// 4. A restart without a responder: it serves, and says what is missing.
	g.Signal(syscall.SIGTERM)
	g.WaitExit(20 * time.Second)
	r.status.Store(down)
	g = testkit.StartGateway(t, config(hasty))
	if stapledTo(t, ca, addr) != nil || g.Metric(state("waiting")) != 1 || g.Metric(missing) != 1 {
		t.Error("4: stapled from nowhere, or not missed")
	}
	g.WaitLog("demands a stapled OCSP answer")
	// 5. Off: nobody is asked.
	if code, body := g.Reload(config("stapling: off")); code != 200 {
		t.Fatalf("5: %d %s", code, body)
	}
	if g.Metric(state("none")) != 1 {
		t.Error("5: it is not off")
	}
}

// TestStaplingOutlivesProcess restarts beside a responder that is down, first with the answer of the process before, then with half of it.
func TestStaplingOutlivesProcess(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	var leaf *x509.Certificate
	r := newResponder(t, ca, func() *x509.Certificate { return leaf })
	pair := ca.Issue(t, testcert.Request{Alter: func(c *x509.Certificate) { c.OCSPServer = []string{r.URL} }})
	leaf = pair.Leaf(t)
	addr, dir := testkit.FreeAddr(t), t.TempDir()
	config := func(dir string) string {
		return fmt.Sprintf("routes: [{static_response: {body: ok}}]\nlisteners: [{listen: %q, acceptors: 1, tls: {ocsp: {timeout: 30s, cache_dir: %q}, certificates: [%s]}}]\n",
			addr, dir, certificate(t, pair))
	}
	reads := func(result string) string {
		return fmt.Sprintf("tickgate_tls_ocsp_cache_reads_total{listener=%q,result=%q}", addr, result)
	}
	writes := fmt.Sprintf("tickgate_tls_ocsp_cache_writes_total{listener=%q}", addr)
	restart := func(g *testkit.Gateway, next string) *testkit.Gateway {
		t.Helper()
		g.Signal(syscall.SIGTERM)
		g.WaitExit(20 * time.Second)
		return testkit.StartGateway(t, next)
	}
	// 1. A folder that is missing harms nobody.
	g := testkit.StartGateway(t, config(filepath.Join(dir, "none")))
	g.WaitLog("OCSP answer cannot be kept for the next start")
	g.WaitUntil("an answer", func() bool { return stapledTo(t, ca, addr) != nil })
	if g.Metric(fmt.Sprintf("tickgate_tls_ocsp_cache_write_errors_total{listener=%q}", addr)) == 0 || g.Metric(writes) != 0 {
		t.Error("1: the metrics do not say that it cannot be written")
	}
	// 2. It is kept.
	g = restart(g, config(dir))
	g.WaitUntil("a file", func() bool { return g.Metric(writes) == 1 })
	staple := stapledTo(t, ca, addr)
	// 3. The first handshake of the next process has it, and nobody is asked.
	asked := r.asked.Load()
	r.status.Store(down)
	g = restart(g, config(dir))
	if kept := stapledTo(t, ca, addr); staple == nil || !bytes.Equal(kept, staple) {
		t.Errorf("3: stapled %x, want %x", kept, staple)
	}
	if g.Metric(reads("good")) != 1 || g.Metric(reads("malformed")) != 0 || r.asked.Load() != asked {
		t.Error("3: the file was not read, or the responder asked")
	}
	// 4. Half of it is not stapled, and told.
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("4: files %v, %v", names, err)
	}
	if err := os.Truncate(names[0], int64(len(staple)/2)); err != nil {
		t.Fatal(err)
	}
	g = restart(g, config(dir))
	g.WaitLog("kept OCSP answer cannot be used")
	if stapledTo(t, ca, addr) != nil || g.Metric(reads("malformed")) == 0 {
		t.Error("4: it is stapled, or not counted")
	}
}

// TestStaplingIsShared has two listeners with one certificate, for which the responder is asked once.
func TestStaplingIsShared(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	var leaf *x509.Certificate
	r := newResponder(t, ca, func() *x509.Certificate { return leaf })
	pair := ca.Issue(t, testcert.Request{Alter: func(c *x509.Certificate) { c.OCSPServer = []string{r.URL} }})
	leaf = pair.Leaf(t)
	c := certificate(t, pair)
	g := newGateway(t, fmt.Sprintf(`routes: [{static_response: {body: ok}}]
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1, tls: {certificates: [%s], ocsp: {timeout: 30s}}}
  - {listen: "localhost:0", acceptors: 1, tls: {certificates: [%s], ocsp: {timeout: 30s}}}
`, c, c))
	staplers := *g.staplers.Load()
	testkit.WaitUntil(t, "answers", func() bool {
		return len(staplers) == 2 && staplers[0].Stats()[0].State == tlsterm.StapleGood && staplers[1].Stats()[0].State == tlsterm.StapleGood
	})
	if n := r.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
}

// TestStaplersEnd looks for staplers of gone listeners.
func TestStaplersEnd(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	plain := "routes: [{static_response: {body: ok}}]\nlisteners: [{listen: \"127.0.0.1:0\", acceptors: 1}]\n"
	secure := func(preset string) string {
		return fmt.Sprintf("routes: [{static_response: {body: ok}}]\nlisteners: [{listen: \"127.0.0.1:0\", acceptors: 1, tls: {preset: %s, certificates: [%s]}}]\n",
			preset, certificate(t, ca.Issue(t, testcert.Request{})))
	}
	g := newGateway(t, secure("modern"))
	running := func() int { return len(*g.staplers.Load()) }
	first := (*g.staplers.Load())[0].Stapler
	if running() != 1 {
		t.Fatalf("%d staplers, want 1", running())
	}
	if err := g.Reload(parseConfig(t, secure("intermediate"))); err != nil {
		t.Fatal(err)
	}
	if second := (*g.staplers.Load())[0].Stapler; second == first || running() != 1 {
		t.Errorf("the same stapler %t, %d of them", second == first, running())
	}
	if err := g.Reload(parseConfig(t, plain)); err != nil {
		t.Fatal(err)
	}
	if running() != 0 {
		t.Errorf("%d staplers without TLS, want 0", running())
	}
}
