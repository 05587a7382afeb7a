package proxy

import (
	"crypto/tls"
	"strings"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// certificate writes a pair and returns its entry in a list of certificates.
func certificate(t testing.TB, p *testcert.Pair) string {
	t.Helper()
	cert, key := p.Files(t)
	return `{cert_file: "` + cert + `", key_file: "` + key + `"}`
}

func TestSNI(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	issue := func(names ...string) string {
		return certificate(t, ca.Issue(t, testcert.Request{Names: names}))
	}
	start := func(extra string) *testGateway {
		return newGateway(t, `
routes: [{static_response: {body: "${tls_server_name} ${tls_version} ${scheme}"}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {`+extra+`certificates: [`+
			strings.Join([]string{issue("default.example"), issue("one.example", "two.example"), issue("*.wild.example"), issue("exact.wild.example")}, ", ")+`]}}]
`)
	}
	g := start("")
	f := func(name, want string) {
		t.Helper()
		c := testkit.DialTLS(t, g.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if got := c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0]; got != want {
			t.Errorf("server name %q: certificate of %s, want %s", name, got, want)
		}
		expectStatus(t, name, c.Do(get("/")), 200, name+" TLSv1.3 https")
	}
	f("one.example", "one.example")
	f("two.example", "one.example")
	f("ONE.example", "one.example")
	f("a.wild.example", "*.wild.example")
	f("exact.wild.example", "exact.wild.example")
	f("a.b.wild.example", "default.example")
	f("wild.example", "default.example")
	f("unknown.example", "default.example")
	f("", "default.example")

	strict := start("unknown_name: reject, ")
	c := testkit.Dial(t, strict.addr)
	if err := tls.Client(c.Conn, &tls.Config{ServerName: "unknown.example", InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Error("unknown_name: reject: the handshake succeeded")
	}
	strict.waitConnEnd(reason.TLSFailed, 1)
}

func TestPlainHTTPOnTLSPort(t *testing.T) {
	t.Parallel()
	g, secure, _ := tlsGateway(t, "routes: [{static_response: {body: ok}}]")
	c := testkit.Dial(t, secure)
	resp := c.Do(get("/"))
	expectStatus(t, "plain on TLS", resp, 400, "HTTPS")
	c.ExpectClosed()
	c.Close()
	g.waitConnEnd(reason.PlainOnTLS, 1)
}

func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	g, secure, _ := tlsGateway(t, "routes: [{static_response: {body: ok}}]\ntimeouts: {handshake: 100ms}")
	testkit.Dial(t, secure).ExpectClosed()
	g.waitConnEnd(reason.TLSFailed, 1)
	if n := g.metric("tickgate_tls_failures_total"); n != 1 {
		t.Errorf("%v failed handshakes counted, want 1", n)
	}
}

// TestResumptionAcrossReload resumes a session that began before a reload, and goes
// over to a renewed certificate.
func TestResumptionAcrossReload(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	cert, key := ca.Issue(t, testcert.Request{}).Files(t)
	yaml := `
routes: [{static_response: {body: ok}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {certificates: [{cert_file: "` + cert + `", key_file: "` + key + `"}]}}]
`
	g := newGateway(t, yaml)
	conf := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	f := func(step string, resumed bool) (serial string) {
		t.Helper()
		c := testkit.DialTLS(t, g.addr, conf)
		expectStatus(t, step, c.Do(get("/")), 200) // the ticket of TLS 1.3 comes with the first answer
		st := c.Conn.(*tls.Conn).ConnectionState()
		if st.DidResume != resumed {
			t.Errorf("%s: resumed %t, want %t", step, st.DidResume, resumed)
		}
		c.Close()
		return st.PeerCertificates[0].SerialNumber.String()
	}
	first := f("first", false)
	f("again", true)
	if err := g.Reload(parseConfig(t, yaml+"workers: {max: 100}")); err != nil {
		t.Fatal(err)
	}
	f("after a reload", true)
	open := testkit.DialTLS(t, g.addr, conf)
	expectStatus(t, "open", open.Do(get("/")), 200)

	ca.Issue(t, testcert.Request{}).Write(t, cert, key)
	if err := g.Reload(parseConfig(t, yaml)); err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "a connection that was open", open.Do(get("/")), 200)
	conf.ClientSessionCache = nil
	if renewed := f("renewed certificate", false); renewed == first {
		t.Error("the old certificate is still served after a reload")
	}
	if n := g.metric("tickgate_tls_handshakes_total", `resumed="true"`); n < 2 {
		t.Errorf("%v resumed handshakes counted, want at least 2", n)
	}
}

// TestTLSSemantics sends some of what is tested over plain connections through TLS.
func TestTLSSemantics(t *testing.T) {
	t.Parallel()
	be := echoTarget(t)
	_, secure, conf := tlsGateway(t, toBackend(be.Addr()))
	c := testkit.DialTLS(t, secure, conf)
	big := strings.Repeat("x", 100_000)
	f := func(raw string, want ...string) {
		t.Helper()
		go func() { _ = c.TrySend(raw) }()
		for _, w := range want {
			if got := string(c.Response("GET").Body); got != w {
				t.Errorf("%.60q: got %.80q, want %.80q", raw, got, w)
			}
		}
	}
	f(get("/1")+get("/2"), "GET /1 ", "GET /2 ")
	f(post(big)+get("/2"), "POST / "+big, "GET /2 ")
	f(chunkedPost("3\r\nabc\r\n0\r\n\r\n"), "POST / abc")
	c.Send(get("/", "Connection: close"))
	c.Response("GET")
	c.ExpectClosed() // with close_notify, which Rest demands of TLS
}
