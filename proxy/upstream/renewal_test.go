package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"tickgate/config"
	"tickgate/health"
	"tickgate/internal/filewatch"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// mutual is a backend that wants client certificates, with an upstream to it whose files tests replace.
type mutual struct {
	t       *testing.T
	ca      *testcert.CA
	srv     *lineServer
	seen    chan string // for each handshake, who the client was and whether it resumed
	dir     string
	log     bytes.Buffer // of looks, which tests make one after the other
	reg     *Registry
	set     *Set
	watcher *watcher
}

// newMutual makes both; the upstream is known to the backend as "first", and nobody but look looks at its files.
func newMutual(t *testing.T, change func(server *tls.Config)) *mutual {
	t.Helper()
	m := &mutual{t: t, ca: testcert.NewCA(t), seen: make(chan string, 100), dir: t.TempDir()}
	conf := m.ca.Issue(t, testcert.Request{}).ServerTLS(t)
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, m.ca.Pool()
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		m.seen <- fmt.Sprintf("%s %v", s.PeerCertificates[0].Subject.CommonName, s.DidResume)
		return nil
	}
	if change != nil {
		change(conf)
	}
	m.srv = newLineServer(t, tls.NewListener(listenTCP(t), conf))
	m.put("ca.pem", m.ca.RootPEM)
	m.renew("first")
	m.reg = newRegistry(t, Options{Log: zerolog.New(zerolog.SyncWriter(&m.log))})
	m.set = build(t, m.reg, m.config(0))
	m.watcher = &watcher{creds: m.set.creds, files: filewatch.New(m.file("ca.pem"), m.file("cert.pem"), m.file("key.pem"))}
	return m
}

func (m *mutual) config(watch time.Duration) *config.Upstream {
	cfg := upstreamOf("random", config.Server{Address: m.srv.addr, Weight: 1})
	cfg.TLS = &config.BackendTLS{
		ServerName: "localhost", CAFile: m.file("ca.pem"), CertFile: m.file("cert.pem"), KeyFile: m.file("key.pem"), SessionCache: 4, Watch: watch,
	}
	return cfg
}

func (m *mutual) file(name string) string { return filepath.Join(m.dir, name) }

// put replaces a file as a whole, as those who renew certificates do.
func (m *mutual) put(name string, data []byte) {
	m.t.Helper()
	if err := os.WriteFile(m.file(".new"), data, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(m.file(".new"), m.file(name)); err != nil {
		m.t.Fatal(err)
	}
}

// renew has the authority issue a new client certificate.
func (m *mutual) renew(name string) { m.renewAs(testcert.Request{Names: []string{name}}) }

func (m *mutual) renewAs(r testcert.Request) {
	m.t.Helper()
	pair := m.ca.Issue(m.t, r)
	m.put("key.pem", pair.KeyPEM)
	m.put("cert.pem", pair.CertPEM)
}

// look does what the watching goroutine does until a change is taken.
func (m *mutual) look() {
	now := time.Now()
	m.watcher.look(now)
	m.watcher.look(now)
}

func (m *mutual) pool() *Pool { return m.set.Backends()[0].Pool(0) }

// connects opens a connection and checks who the backend takes it for. The connection is not used again.
func (m *mutual) connects(when, want string) {
	m.t.Helper()
	mustDo(m.t, m.pool(), exchange(func(c net.Conn, fresh bool) (bool, error) {
		_, err := line("a")(c, fresh)
		return false, err
	}))
	if got := <-m.seen; got != want {
		m.t.Errorf("%s: the backend saw %q, want %q", when, got, want)
	}
}

// metrics checks the series; "!" in front wants that there is no such one.
func (m *mutual) metrics(when string, want ...string) {
	m.t.Helper()
	var out strings.Builder
	m.reg.WriteMetrics(&out)
	for _, w := range want {
		text, absent := strings.CutPrefix(w, "!")
		if strings.Contains(out.String(), text) == absent {
			m.t.Errorf("%s: want %q in\n%s", when, w, out.String())
		}
	}
}

// logged checks how many lines have a text.
func (m *mutual) logged(text string, want int) {
	m.t.Helper()
	if got := strings.Count(m.log.String(), text); got != want {
		m.t.Errorf("%d lines with %q, want %d, in\n%s", got, text, want, m.log.String())
	}
}

func TestRenewedCertificate(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			m := newMutual(t, func(c *tls.Config) { c.MaxVersion = version })
			m.connects("at first", "first false")
			m.connects("then", "first true")
			m.renew("second")
			m.watcher.look(time.Now())
			m.connects("looked at once", "first true")
			m.watcher.look(time.Now())
			m.connects("no session of the old identity is resumed", "second false")
			m.connects("but one of the new", "second true")
			m.look()
			m.metrics("renewed once",
				`tickgate_upstream_tls_files_reloads_total{upstream="up"} 1`, `tickgate_upstream_tls_files_errors_total{upstream="up"} 0`,
				`tickgate_upstream_tls_files_stale{upstream="up"} 0`,
				fmt.Sprintf(`tickgate_upstream_tls_certificate_expiry_timestamp_seconds{upstream="up",cert_file=%q} %d`,
					m.file("cert.pem"), m.set.creds.current.Load().leaf.NotAfter.Unix()))
			m.logged("in use as they are now", 1)
		})
	}
}

// TestSessionsOfOpenConnections has a connection of the old identity receive its ticket when the new one is in use.
func TestSessionsOfOpenConnections(t *testing.T) {
	m := newMutual(t, nil)
	mustDo(t, m.pool(), exchange(func(c net.Conn, fresh bool) (bool, error) {
		m.renew("second")
		m.look()
		m.connects("while it is open", "first false") // the handshake of the connection that is open
		_, err := line("a")(c, fresh)                 // reads its ticket
		return false, err
	}))
	m.connects("after it", "second false") // that of connects above
	m.connects("the ticket of the old identity is not used", "second true")
	if got := <-m.seen; got != "second true" {
		t.Errorf("the backend saw %q", got)
	}
}

func TestBadFilesLeaveTheIdentity(t *testing.T) {
	f := func(name, wantError string, spoil func(m *mutual)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			m := newMutual(t, nil)
			spoil(m)
			for range 3 {
				m.look()
			}
			m.connects("with bad files", "first false")
			m.metrics("with bad files", `tickgate_upstream_tls_files_stale{upstream="up"} 1`, `!tickgate_upstream_tls_files_errors_total{upstream="up"} 0`,
				`tickgate_upstream_tls_files_reloads_total{upstream="up"} 0`)
			if st := m.set.Status().TLS; st == nil || !strings.Contains(st.Error, wantError) || !strings.Contains(st.Subject, "first") {
				t.Errorf("status %+v, want the error %q", st, wantError)
			}
			m.logged("cannot be used", 1)
			m.put("ca.pem", m.ca.RootPEM)
			m.renew("second")
			m.look()
			m.connects("with good ones", "second false")
			m.metrics("with good ones", `tickgate_upstream_tls_files_stale{upstream="up"} 0`, `tickgate_upstream_tls_files_reloads_total{upstream="up"} 1`)
			if st := m.set.Status().TLS; st == nil || st.Error != "" || !strings.Contains(st.Subject, "second") || st.NotAfter.IsZero() {
				t.Errorf("status %+v, want no error", st)
			}
			m.logged("in use as they are now", 1)
		})
	}
	f("certificate before its key", "private key does not match", func(m *mutual) {
		m.put("cert.pem", m.ca.Issue(t, testcert.Request{Names: []string{"half"}}).CertPEM)
	})
	f("no certificate", "upstreams.up.tls.cert_file", func(m *mutual) { m.put("cert.pem", nil) })
	f("half a certificate", "upstreams.up.tls.cert_file", func(m *mutual) {
		m.put("cert.pem", m.ca.Issue(t, testcert.Request{}).CertPEM[:200])
	})
	f("no key", "upstreams.up.tls.key_file: open", func(m *mutual) {
		if err := os.Remove(m.file("key.pem")); err != nil {
			t.Fatal(err)
		}
	})
	f("no authority", "upstreams.up.tls.ca_file: no certificate", func(m *mutual) { m.put("ca.pem", []byte("-----BEGIN")) })
	f("expired", "valid only from", func(m *mutual) {
		m.renewAs(testcert.Request{Names: []string{"expired"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	})
	f("for later", "valid only from", func(m *mutual) {
		m.renewAs(testcert.Request{Names: []string{"later"}, NotBefore: time.Now().Add(time.Hour)})
	})
}

// TestFilesBackAsTheyWere has the error go away with its cause, though nothing is new.
func TestFilesBackAsTheyWere(t *testing.T) {
	m := newMutual(t, nil)
	key, err := os.ReadFile(m.file("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	m.put("key.pem", nil)
	m.look()
	m.metrics("without a key", `files_stale{upstream="up"} 1`)
	m.put("key.pem", key)
	m.look()
	m.metrics("with it", `files_stale{upstream="up"} 0`, `files_reloads_total{upstream="up"} 0`)
	m.logged("in use as they are now", 1)
	m.connects("afterwards", "first false")
}

// TestCertificateForLater becomes valid without its file changing.
func TestCertificateForLater(t *testing.T) {
	m := newMutual(t, nil)
	m.renewAs(testcert.Request{Names: []string{"later"}, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(3 * time.Hour)})
	m.look()
	m.connects("before its time", "first false")
	m.watcher.look(time.Now().Add(2 * time.Hour))
	if leaf := m.set.creds.current.Load().leaf; leaf.Subject.CommonName != "later" {
		t.Errorf("in its time, the certificate is that of %q", leaf.Subject.CommonName)
	}
}

func TestRenewedAuthority(t *testing.T) {
	m := newMutual(t, nil)
	m.connects("known authority", "first false")
	m.put("ca.pem", testcert.NewCA(t).RootPEM)
	m.look()
	var tm Timing
	wantReason(t, m.pool().Do(line("a"), 0, &tm), reason.BackendTLSFailed) // with a session of the old one in hand
	m.put("ca.pem", m.ca.RootPEM)
	m.look()
	for len(m.seen) > 0 { // TLS 1.3: the backend may have been done when it was refused
		<-m.seen
	}
	m.connects("known again", "first false")
}

// TestAuthoritiesThatABackendLists do not decide what it is shown.
func TestAuthoritiesThatABackendLists(t *testing.T) {
	other := testcert.NewCA(t)
	m := newMutual(t, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAnyClientCert, other.Pool() })
	m.connects("with another authority in the list", "first false")
}

// TestBackendThatCannotCheck asks for a certificate whose signature it does not know.
func TestBackendThatCannotCheck(t *testing.T) {
	pair := testcert.New(t).TLS(t)
	asked := &tls.CertificateRequestInfo{Version: tls.VersionTLS13, SignatureSchemes: []tls.SignatureScheme{tls.Ed25519}}
	if got, err := show(&pair)(asked); err != nil || len(got.Certificate) != 0 {
		t.Errorf("%d certificates and error %v, want none", len(got.Certificate), err)
	}
	asked.SignatureSchemes = append(asked.SignatureSchemes, tls.ECDSAWithP256AndSHA256)
	if got, err := show(&pair)(asked); err != nil || got != &pair {
		t.Errorf("got %v and error %v, want the pair", got, err)
	}
}

func TestPooledConnectionsOfAnOldIdentity(t *testing.T) {
	m := newMutual(t, nil)
	mustDo(t, m.pool(), line("a"))
	old := m.set.creds.current.Load()
	m.renew("second")
	m.look()
	at := func(ago time.Duration) {
		then := time.Now().Add(-ago)
		old.ended.Store(&then)
	}
	at(-time.Hour)
	if tm := mustDo(t, m.pool(), line("b")); tm.Fresh {
		t.Error("the pooled connection was not used in its share of the window")
	}
	at(renewalWindow)
	if tm := mustDo(t, m.pool(), line("c")); !tm.Fresh {
		t.Error("the pooled connection was used after the window")
	}
	m.srv.waitEnded(t, 1)
	if tm := mustDo(t, m.pool(), line("d")); tm.Fresh {
		t.Error("a connection of the new identity was not pooled")
	}
	if a, b := <-m.seen, <-m.seen; a != "first false" || b != "second false" {
		t.Errorf("the backend saw %q and %q", a, b)
	}
	if st := m.pool().Stats(); st.Stale != 1 {
		t.Errorf("%d stale connections, want 1", st.Stale)
	}
}

func TestSuperseded(t *testing.T) {
	now := time.Now()
	ended := &identity{}
	ended.ended.Store(&now)
	f := func(name string, want bool, id *identity, grace, after time.Duration) {
		t.Helper()
		if got := (&conn{id: id, grace: grace}).superseded(now.Add(after)); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	f("plain", false, nil, 0, time.Hour)
	f("present", false, &identity{}, 0, time.Hour)
	f("at once", true, ended, 0, 0)
	f("within its share", false, ended, time.Second, time.Second-1)
	f("after its share", true, ended, time.Second, time.Second)
	f("since before it ended", false, ended, 0, -1)
	for _, random := range []uint64{0, 1, uint64(renewalWindow), 1<<64 - 1} {
		if g := graceOf(random); g < 0 || g >= renewalWindow {
			t.Errorf("grace %v for %d", g, random)
		}
	}
}

// TestReloadKeepsBackendsOfRenewedFiles renews the files and reloads.
func TestReloadKeepsBackendsOfRenewedFiles(t *testing.T) {
	m := newMutual(t, nil)
	m.connects("at first", "first false")
	backend := m.set.Backends()[0]
	m.renew("second")
	_, _, abort, err := m.reg.Build(map[string]*config.Upstream{"up": m.config(0)}, config.Resolver{})
	if err != nil {
		t.Fatal(err)
	}
	abort()
	m.connects("a reload that is given up changes nothing", "first true")

	if set := build(t, m.reg, m.config(0)); set != m.set {
		t.Error("renewed files make another Set")
	}
	m.connects("reloaded", "second false")
	cfg := m.config(0)
	cfg.Balance = "p2c"
	m.set = build(t, m.reg, cfg)
	if m.set.Backends()[0] != backend {
		t.Error("another Set with the same TLS settings has other backends")
	}
	m.connects("and sessions go on", "second true")
	m.renew("third")
	m.set = build(t, m.reg, m.config(0))
	m.connects("renewed, with another Set", "third false")
	cfg = m.config(0)
	cfg.TLS.MinVersion = "1.3"
	m.set = build(t, m.reg, cfg)
	if m.set.Backends()[0] == backend {
		t.Error("other TLS settings have the same backends")
	}
	m.connects("with other settings", "third false")
	m.renew("half")
	m.put("key.pem", nil)
	if _, _, _, err := m.reg.Build(map[string]*config.Upstream{"up": m.config(0)}, config.Resolver{}); err == nil {
		t.Error("a reload with bad files succeeds")
	}
	m.connects("after a bad reload", "third true")
}

// TestLaterReadWins has what was read first arrive last.
func TestLaterReadWins(t *testing.T) {
	m := newMutual(t, nil)
	read := func(name string) *identity {
		t.Helper()
		m.renew(name)
		id, err := m.reg.readIdentity("up", m.set.cfg.TLS)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	second, third := read("second"), read("third")
	c := m.set.creds
	if !c.take(third) || c.take(second) || c.current.Load() != third {
		t.Error("what was read earlier replaced what was read later")
	}
	c.fail(second.read, "late")
	if c.trouble.Load() != nil {
		t.Error("trouble of an earlier read counts")
	}
}

// TestWatching runs the goroutine: reloads start it, change it and end it.
func TestWatching(t *testing.T) {
	m := newMutual(t, nil)
	m.connects("at first", "first false") // the pool starts a goroutine of its own
	m.srv.waitEnded(t, 1)
	before := runtime.NumGoroutine()
	follows := func(name string) {
		t.Helper()
		m.renew(name)
		testkit.WaitUntil(t, name+" is in use", func() bool { return m.set.creds.current.Load().leaf.Subject.CommonName == name })
	}
	m.set = build(t, m.reg, m.config(time.Millisecond))
	follows("second")
	m.connects("watched", "second false")
	m.set = build(t, m.reg, m.config(2*time.Millisecond))
	follows("third")
	if err := os.Remove(m.file("cert.pem")); err != nil {
		t.Fatal(err)
	}
	testkit.WaitUntil(t, "trouble", func() bool { return m.set.creds.trouble.Load() != nil })
	follows("fourth")
	testkit.WaitUntil(t, "no more trouble", func() bool { return m.set.creds.trouble.Load() == nil })

	m.set = build(t, m.reg, m.config(0))
	testkit.WaitUntil(t, "not watched any more", func() bool { return runtime.NumGoroutine() <= before })
	m.set = build(t, m.reg, m.config(time.Millisecond))
	follows("fifth")
	_, _, abort, err := m.reg.Build(map[string]*config.Upstream{"up": {TLS: m.config(0).TLS, Balance: "random"}, "other": m.config(time.Millisecond)}, config.Resolver{})
	if err != nil {
		t.Fatal(err)
	}
	abort()
	follows("sixth")
	m.reg.Close()
	testkit.WaitUntil(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// TestIdentityOfProbes hands the checker what is in use.
func TestIdentityOfProbes(t *testing.T) {
	m := newMutual(t, nil)
	checker := &fakeChecker{}
	m.reg = newRegistry(t, Options{Checker: checker})
	cfg := m.config(0)
	cfg.HealthCheck = &health.Options{Type: "http"}
	m.set = build(t, m.reg, cfg)
	target := checker.at(m.srv.addr).target
	probe := func(want string) {
		t.Helper()
		c, err := tls.Dial(target.Network, target.Address, target.TLS())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := line("a")(c, true); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if got := <-m.seen; got != want {
			t.Errorf("the backend saw the probe as %q, want %q", got, want)
		}
	}
	probe("first false")
	m.renew("second")
	m.set = build(t, m.reg, cfg)
	probe("second false")
	if checker.started != 1 {
		t.Errorf("%d checks were started, want 1", checker.started)
	}
}

func TestUpstreamsWithoutFiles(t *testing.T) {
	r := newRegistry(t, Options{})
	cfg := upstreamOf("random", servers(1)...)
	cfg.TLS = &config.BackendTLS{Watch: time.Millisecond}
	before := runtime.NumGoroutine()
	s := build(t, r, cfg)
	if s.creds.stop != nil || runtime.NumGoroutine() > before {
		t.Error("files are watched though there are none")
	}
	if s.Status().TLS != nil {
		t.Errorf("status %+v", s.Status().TLS)
	}
	var out strings.Builder
	r.WriteMetrics(&out)
	if strings.Contains(out.String(), "tls_files") || strings.Contains(out.String(), "tls_certificate") {
		t.Errorf("series of files in\n%s", out.String())
	}
}

func TestExpiryOf(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f := func(life, left time.Duration, want expiryStage) {
		t.Helper()
		id := &identity{leaf: &x509.Certificate{NotBefore: now.Add(left - life), NotAfter: now.Add(left)}}
		if got := expiryOf(id, now); got != want {
			t.Errorf("%v of %v left: %d, want %d", left, life, got, want)
		}
	}
	day := 24 * time.Hour
	f(365*day, 30*day, expiryFar)
	f(365*day, 7*day, expiryFar)
	f(365*day, 7*day-1, expirySoon)
	f(365*day, 0, expirySoon)
	f(365*day, -1, expiryPast)
	f(day, 3*time.Hour, expiryFar)
	f(day, 3*time.Hour-1, expirySoon)
	if got := expiryOf(&identity{}, now); got != expiryFar {
		t.Errorf("no certificate: %d", got)
	}
}

func TestExpiryIsLoggedOnce(t *testing.T) {
	m := newMutual(t, nil)
	end := m.set.creds.current.Load().leaf.NotAfter
	for range 3 {
		m.watcher.look(end.Add(-time.Minute))
	}
	m.logged("expires soon", 1)
	for range 3 {
		m.watcher.look(end.Add(time.Minute))
	}
	m.logged("has expired", 1)
	m.renewAs(testcert.Request{Names: []string{"second"}, NotBefore: end, NotAfter: end.Add(16 * time.Minute)})
	for range 3 {
		m.watcher.look(end.Add(15 * time.Minute))
	}
	m.logged("expires soon", 2)
	m.logged("has expired", 1)
}

func TestTroubleIsLoggedAgainAfterAWhile(t *testing.T) {
	m := newMutual(t, nil)
	m.put("key.pem", nil)
	now := time.Now()
	for i := range 200 {
		m.watcher.look(now.Add(time.Duration(i) * time.Minute))
	}
	m.logged("cannot be used", 4) // in 199 minutes
	m.put("ca.pem", nil)
	m.look()
	m.logged("cannot be used", 5)
}

func TestPresentIdentityAllocatesNothing(t *testing.T) {
	m := newMutual(t, nil)
	b := m.set.Backends()[0]
	c := &conn{id: m.set.creds.current.Load()}
	now := time.Now()
	b.clientTLS()
	if n := testing.AllocsPerRun(1000, func() {
		if b.clientTLS().id != c.id || c.superseded(now) {
			t.Error("wrong identity")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
