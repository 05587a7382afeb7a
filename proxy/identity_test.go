package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/admin"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/tlsterm"
)

// mutual is a gateway that asks for certificates: with `optional` on its listener, with `required` on private.example, with none on
// open.example.
type mutual struct {
	*testGateway
	t       *testing.T
	ca      *testcert.CA
	caFile  string
	crlFile string
	watch   string
	server  *testcert.Pair
}

func newMutual(t *testing.T, yaml string) *mutual {
	t.Helper()
	return newMutualWatching(t, yaml, "20ms")
}

// newMutualWatching is newMutual that looks at its files this often.
func newMutualWatching(t *testing.T, yaml, watch string) *mutual {
	t.Helper()
	m := newMutualFiles(t, watch)
	m.testGateway = newGateway(t, m.config(yaml))
	return m
}

// newMutualFiles is newMutualWatching before it has its gateway.
func newMutualFiles(t *testing.T, watch string) *mutual {
	t.Helper()
	m := &mutual{t: t, watch: watch, ca: testcert.NewCA(t), server: testcert.New(t, "localhost", "private.example", "open.example")}
	dir := t.TempDir()
	m.caFile, m.crlFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "crl.pem")
	m.write(m.caFile, m.ca.RootPEM)
	m.revoke()
	return m
}

func (m *mutual) config(yaml string) string {
	auth := func(mode string) string {
		return `{mode: ` + mode + `, ca_file: "` + m.caFile + `", crl_files: ["` + m.crlFile + `"]}`
	}
	return yaml + `
listeners:
  - listen: "127.0.0.1:0"
    acceptors: 1
    tls:
      certificates: [` + certificate(m.t, m.server) + `]
      client_auth: ` + auth("optional") + `
      watch: ` + m.watch + `
      ja4: true
      policies:
        - {names: [private.example], client_auth: ` + auth("required") + `}
        - {names: [open.example], client_auth: {mode: off}}
`
}

func (m *mutual) write(file string, data []byte) {
	m.t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mutual) revoke(pairs ...*testcert.Pair) {
	m.t.Helper()
	m.write(m.crlFile, slices.Concat(m.ca.InterPEM, m.ca.RevocationList(m.t, nil, pairs...)))
}

// client is a certificate with this common name and, if it is not empty, URI.
func (m *mutual) client(cn, uri string) *testcert.Pair {
	m.t.Helper()
	return m.ca.Issue(m.t, testcert.Request{Names: []string{"client.example"}, Alter: func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: cn, Organization: []string{"Acme"}}
		if uri != "" {
			u, err := url.Parse(uri)
			if err != nil {
				m.t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}})
}

// tls is a client's configuration; pair may be nil.
func (m *mutual) tls(serverName string, pair *testcert.Pair) *tls.Config {
	conf := m.server.ClientTLS(serverName)
	if pair != nil {
		cert := pair.TLS(m.t)
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return conf
}

func (m *mutual) dialAs(pair *testcert.Pair) *testkit.Client {
	m.t.Helper()
	return testkit.DialTLS(m.t, m.addr, m.tls("localhost", pair))
}

// refuses expects that the client does not get in.
func (m *mutual) refuses(what string, conf *tls.Config) {
	m.t.Helper()
	c := testkit.Dial(m.t, m.addr)
	defer c.Close()
	conn := tls.Client(c.Conn, conf)
	if err := conn.Handshake(); err != nil {
		return
	}
	// In TLS 1.3 the client is done before the server has seen its certificate.
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "remote error") {
		m.t.Errorf("%s: let in (%v)", what, err)
	}
}

func TestIdentityToBackends(t *testing.T) {
	t.Parallel()
	be := echoTarget(t)
	const headers = `, request_headers: {set: {X-Subject: "${tls_client_subject}", X-SPIFFE: "${tls_client_spiffe}", X-Verified: "${tls_client_verified}", X-SAN: "${tls_client_san}", X-Serial: "${tls_client_serial}", X-Issuer: "${tls_client_issuer}"}}`
	routes := func(extra string) string {
		return `
upstreams: {be: {servers: [{address: "` + be.Addr() + `"}]}}
forwarding: {client_cert_fields: [X-Client-Role]` + extra + `}
routes: [{path: /h, upstream: be` + headers + `}, {path: /, upstream: be}]
`
	}
	// What a client may not say of itself, in all spellings that some backend takes for the same.
	lies := []string{
		"X-Forwarded-Client-Cert: Hash=0;Subject=\"CN=root\"", "x-forwarded-client-cert: a", "X_Forwarded_Client_Cert: a", "X-Forwarded_Client-Cert: a",
		"Client-Cert: :AAAA:", "CLIENT-CERT: a", "Client_Cert: a", "Client-Cert-Chain: :AAAA:", "client_cert-chain: a",
		"X-Client-Role: admin", "x_client_role: admin", "X-Subject: CN=root", "X_SUBJECT: CN=root", "x-spiffe: spiffe://a/root", "X-Verified: yes",
		"X.Forwarded.Client.Cert: a", "client.cert: a", "Client~Cert-Chain: a", "X!Client!Role: admin", "X.Subject: CN=root",
	}
	isLie := func(name string) bool {
		return slices.ContainsFunc(lies, func(l string) bool {
			lie, _, _ := strings.Cut(l, ":")
			return sameVariable([]byte(lie), []byte(name))
		})
	}
	// told are the fields of a request by which the backend learns of a certificate.
	told := func(r *testkit.Request) string {
		var out []string
		for _, f := range append(slices.Clone(r.Fields), r.Trailers...) {
			if isLie(f.Name) || strings.HasPrefix(f.Name, "X-S") || f.Name == "X-Issuer" {
				out = append(out, f.Name+": "+f.Value)
			}
		}
		return strings.Join(out, "\n")
	}
	check := func(what string, c *testkit.Client, request, want string) {
		t.Helper()
		be.Forget()
		expectStatus(t, what, c.Do(request), 200)
		if got := told(be.WaitRequests(t, 1)[0]); got != want {
			t.Errorf("%s: the backend is told\n%s\nwant\n%s", what, got, want)
		}
	}

	m := newMutual(t, routes(""))
	const spiffe = "spiffe://example.org/ns/md/sa/feed"
	pair := m.client("feed, \"x\"\r\nX-Evil: 1", spiffe)
	leaf := pair.Leaf(t)
	c := m.dialAs(pair)
	check("no setting", c, get("/", lies...), "")
	serial := leaf.SerialNumber.Text(16)
	check("variables", c, get("/h", lies...), "X-Issuer: CN=tickgate test intermediate,O=tickgate\nX-SAN: DNS:client.example,URI:"+spiffe+
		"\nX-SPIFFE: "+spiffe+"\nX-Serial: "+serial+"\nX-Subject: CN=feed\\, \\22x\\22\\0D\\0AX-Evil: 1,O=Acme\nX-Verified: yes")
	none := m.dialAs(nil)
	check("nobody", none, get("/", lies...), "")
	check("nobody, variables", none, get("/h", lies...), "X-Verified: no")
	chunked := "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Good: 1\r\n" + strings.Join(lies, "\r\n") + "\r\n\r\n"
	check("trailers", none, chunked, "")
	if tr := be.Requests()[0].Trailers; len(tr) != 1 || tr[0].Name != "X-Good" {
		t.Errorf("trailers: %+v", tr)
	}

	hash := tlsterm.IdentityOf(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}).Fingerprint
	xfcc := "X-Forwarded-Client-Cert: Hash=" + hash + ";Subject=\"CN=feed\\, \\22x\\22\\0D\\0AX-Evil: 1,O=Acme\";URI=" + spiffe + ";DNS=client.example"
	if err := m.Reload(parseConfig(t, m.config(routes(", client_cert: xfcc")))); err != nil {
		t.Fatal(err)
	}
	check("xfcc", c, get("/", lies...), xfcc)
	check("xfcc, nobody", none, get("/", lies...), "")
	if err := m.Reload(parseConfig(t, m.config(routes(", client_cert: rfc9440")))); err != nil {
		t.Fatal(err)
	}
	rfc9440 := "Client-Cert: :" + base64.StdEncoding.EncodeToString(leaf.Raw) + ":"
	check("rfc9440", c, get("/", lies...), rfc9440)
	upgrade := get("/", append([]string{
		"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lies...)...)
	check("upgrade", m.dialAs(pair), upgrade, rfc9440)
	check("upgrade, nobody", m.dialAs(nil), upgrade, "")
	check("rfc9440, nobody", none, get("/", lies...), "")

	// A trusted proxy is not believed about certificates, unless it is said to be.
	if err := m.Reload(parseConfig(t, m.config(routes(", client_cert: rfc9440, trusted_proxies: [127.0.0.1]")))); err != nil {
		t.Fatal(err)
	}
	check("trusted proxy", c, get("/", lies...), rfc9440)
	if err := m.Reload(parseConfig(t, m.config(routes(", client_cert: rfc9440, trusted_proxies: [127.0.0.1], client_cert_from_proxies: true")))); err != nil {
		t.Fatal(err)
	}
	check("trusted proxy that is believed", c, get("/", "Client-Cert: :AAAA:", "X-Client-Role: admin"), "Client-Cert: :AAAA:\nX-Client-Role: admin")
	check("trusted proxy that says nothing", c, get("/"), rfc9440)
	// What its client says in another spelling, or in trailers, it has not looked at.
	believed := slices.DeleteFunc(slices.Clone(lies), func(l string) bool {
		name, _, _ := strings.Cut(strings.ToLower(l), ":")
		return slices.Contains([]string{"x-forwarded-client-cert", "client-cert", "client-cert-chain", "x-client-role", "x-subject", "x-spiffe", "x-verified"}, name)
	})
	check("trusted proxy that passes on what looks alike", c, get("/", append(believed, "x-client-role: user")...), "x-client-role: user\n"+rfc9440)
	check("trailers of a trusted proxy", c, chunked, rfc9440)
}

// An identity stays with its connection while that is parked, and is that of a resumed session.
func TestIdentityStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := newMutual(t, `
log: {access: {output: "`+dir+`/access", flush: 1ms}}
workers: {park_after: 0s}
routes: [{static_response: {body: "${tls_client_subject}"}}]
`)
	pair := m.client("feed", "")
	conf := m.tls("localhost", pair)
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c := testkit.DialTLS(t, m.addr, conf)
		for range 3 {
			expectStatus(t, "request", c.Do(get("/")), 200, "CN=feed,O=Acme")
			m.wait("parking", func() bool { return m.lot == nil || len(m.connections()) == 0 })
		}
		if got := c.Conn.(*tls.Conn).ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed %t", i, got)
		}
	}
	list := (Admin{Gateway: m.Gateway}).Connections(admin.ConnFilter{Limit: 10}).([]*connStatus)
	if len(list) != 2 || list[0].Identity != "CN=feed,O=Acme" || list[1].Identity != list[0].Identity || list[1].JA4 == "" {
		t.Errorf("connections: %+v", list)
	}
	m.wait("log line", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "access"))
		return strings.Count(string(text), `"tls_client_subject":"CN=feed,O=Acme"`) == 6
	})
	if n := m.metric("tickgate_tls_client_certificates_total", `result="verified"`); n != 2 {
		t.Errorf("%v verified certificates counted, want 2", n)
	}
}

func TestRoutesByIdentity(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `
routes:
  - {path: /a, identity: {spiffe: ["spiffe://example.org/ns/*/sa/feed"]}, static_response: {body: feed}}
  - {path: /a, identity: {}, static_response: {body: somebody}}
  - {path: /a, static_response: {body: nobody}}
  - {path: /b, require_identity: {subject: ["*,O=Acme"], dns: ["*.example"]}, static_response: {body: in}}
  - {path: /c, require_identity: {spiffe: ["spiffe://example.org/*"]}, static_response: {body: in}}
`)
	feed, other := m.client("feed", "spiffe://example.org/ns/md/sa/feed"), m.client("other", "")
	f := func(pair *testcert.Pair, path string, status int, body string) {
		t.Helper()
		expectStatus(t, path, m.dialAs(pair).Do(get(path)), status, body)
	}
	f(feed, "/a", 200, "feed")
	f(other, "/a", 200, "somebody")
	f(nil, "/a", 200, "nobody")
	f(feed, "/b", 200, "in")
	f(other, "/b", 200, "in")
	f(nil, "/b", 403, "identity_missing")
	f(feed, "/c", 200, "in")
	f(other, "/c", 403, "identity_denied")
	f(nil, "/c", 403, "identity_missing")
	m.wait("log", func() bool { return strings.Contains(m.logs.String(), `"identity":"CN=other,O=Acme"`) })
	for _, r := range []reason.Reason{reason.IdentityMissing, reason.IdentityDenied} {
		if n := m.metric("tickgate_requests_total", `reason="`+r.String()+`"`); n == 0 {
			t.Errorf("no request is counted as %s", r)
		}
	}
}

// Over plain HTTP nobody has an identity.
func TestIdentityOverPlainHTTP(t *testing.T) {
	t.Parallel()
	g := newGateway(t, `routes: [{path: /x, identity: {}, static_response: {body: x}}, {require_identity: {}, static_response: {body: in}}]`)
	expectStatus(t, "plain", g.get("/x"), 403, "identity_missing")
}

func TestClientCertificatesByName(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `routes: [{static_response: {body: "${host} ${tls_client_subject}"}}]`)
	pair := m.client("feed", "")
	to := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	f := func(serverName string, pair *testcert.Pair, host string, status int, body string) {
		t.Helper()
		c := testkit.DialTLS(t, m.addr, m.tls(serverName, pair))
		expectStatus(t, serverName+" for "+host, c.Do(to(host)), status, body)
	}
	f("private.example", pair, "private.example", 200, "private.example CN=feed,O=Acme")
	f("private.example", pair, "PRIVATE.example:443", 200, "CN=feed,O=Acme")
	f("open.example", pair, "open.example", 200, "open.example ")
	f("private.example", pair, "open.example", 200, "open.example CN=feed,O=Acme")
	// The way around: ask for a name that wants no certificate, then for a host that does.
	f("open.example", nil, "private.example", 421, "misdirected")
	f("localhost", nil, "private.example:8443", 421, "misdirected")
	f("localhost", pair, "private.example", 421, "misdirected") // its rules may be others
	f("open.example", nil, "other.example", 421, "misdirected")
	// Without a host: the routes for any host are the listener's, which asks.
	noHost := testkit.DialTLS(t, m.addr, m.tls("open.example", nil))
	expectStatus(t, "open.example without a host", noHost.Do("GET / HTTP/1.0\r\n\r\n"), 421, "misdirected")
	m.refuses("private without a certificate", m.tls("private.example", nil))
	m.waitConnEnd(reason.TLSFailed, 1)
	if !strings.Contains(m.logs.String(), `"certificate":"missing"`) {
		t.Error("the log does not say what was wrong")
	}
	if n := m.metric("tickgate_tls_failures_total", `reason="bad_client_certificate"`); n != 1 {
		t.Errorf("%v bad certificates counted, want 1", n)
	}
	if n := m.metric("tickgate_tls_client_certificates_total", `result="missing"`); n != 1 {
		t.Errorf("%v missing certificates counted, want 1", n)
	}
}

// A policy's star stands for one label and a route's for any number, and each has limits of its own for names: nothing gets through between them.
func TestHostsBelowPolicy(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `routes: [{host: "*.private.example", static_response: {body: "in"}}, {static_response: {body: "out"}}]`)
	wider := strings.Replace(m.config(`routes: [{host: "*.private.example", static_response: {body: "in"}}, {static_response: {body: "out"}}]`),
		"names: [private.example]", `names: [private.example, "*.private.example"]`, 1)
	if err := m.Reload(parseConfig(t, wider)); err != nil {
		t.Fatal(err)
	}
	label := strings.Repeat("a", 237)
	for _, host := range []string{
		"a.private.example", "b.a.private.example", "B.A.Private.Example:443", "b.a.private.example.", "b.a.private.example.:443",
		label + ".private.example", label + ".private.example:443", label + ".private.example.:65535", "b." + label + ".private.example:443",
	} {
		request := "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
		expectStatus(t, "without a certificate for "+host, m.dialAs(nil).Do(request), 421, "misdirected")
		c := testkit.DialTLS(t, m.addr, m.tls("localhost", nil))
		expectStatus(t, "absolute-form for "+host, c.Do("GET https://"+host+"/ HTTP/1.0\r\n\r\n"), 421, "misdirected")
		conf := m.tls("x.private.example", m.client("feed", ""))
		conf.InsecureSkipVerify = true // the certificate does not hold the name
		expectStatus(t, "with one for "+host, testkit.DialTLS(t, m.addr, conf).Do(request), 200, "in")
	}
}

// Files that change are followed while the gateway runs, and bad ones leave the good in force.
func TestClientFilesAreFollowed(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `routes: [{static_response: {body: "${tls_client_subject}"}}]`)
	pair := m.client("feed", "")
	conf := m.tls("localhost", pair)
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	in := func(what string) {
		t.Helper()
		expectStatus(t, what, testkit.DialTLS(t, m.addr, conf).Do(get("/")), 200, "CN=feed")
	}
	reloads := func(n float64) {
		t.Helper()
		m.wait("reload of files", func() bool { return m.metric("tickgate_tls_files_reloads_total") == n })
	}
	stale := func(n float64) {
		t.Helper()
		m.wait("staleness", func() bool { return m.metric("tickgate_tls_files_stale") == n })
	}
	in("at first")
	open := testkit.DialTLS(t, m.addr, conf)
	expectStatus(t, "before", open.Do(get("/")), 200, "CN=feed")
	m.revoke(pair)
	reloads(1)
	expectStatus(t, "on an open connection", open.Do(get("/")), 403, "identity_revoked")
	open.ExpectClosed()
	m.refuses("revoked, with a session", conf)
	m.write(m.crlFile, []byte("rubbish"))
	stale(1)
	m.refuses("revoked, and a bad list", conf)
	m.revoke()
	reloads(2)
	stale(0)
	in("not revoked any more")
	if n := m.metric("tickgate_tls_client_certificates_total", `result="revoked"`); n != 2 {
		t.Errorf("%v revoked certificates counted, want 2", n)
	}
	again := parseConfig(t, m.config("routes: [{static_response: {body: x}}]"))
	m.write(m.caFile, testcert.NewCA(t).RootPEM) // whose lists are now signed by nobody
	stale(1)
	in("bad authorities")
	if err := m.Reload(again); err == nil {
		t.Error("a reload with bad authorities succeeds")
	}
	in("a reload that failed")
}

// Tunnels keep the identity of their client: for the limits, the log and the admin API, and the backend is told it with the upgrade.
func TestTunnelsByIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	be := testkit.NewEchoWS(t)
	yaml := func(client string) string {
		return `
log: {access: {output: "` + dir + `/access", flush: 1ms}}
tunnels: {max_per_client: 2, client: ` + client + `}
forwarding: {client_cert: xfcc}
` + toBackend(be.Addr())
	}
	m := newMutual(t, yaml("identity"))
	feed, other := m.client("feed", "spiffe://example.org/feed"), m.client("other", "")
	renewed := m.client("feed, renewed", "spiffe://example.org/feed")
	var open []*testkit.WSClient
	dial := func(what string, pair *testcert.Pair, want bool) {
		t.Helper()
		c, err := testkit.TryDialWS(t, "wss://"+m.addr+"/", m.tls("localhost", pair), nil)
		if (err == nil) != want {
			t.Errorf("%s: %v, want a tunnel: %t", what, err, want)
		}
		if err == nil {
			c.SendText("x")
			if got := c.Text(); got != "x" {
				t.Errorf("%s: %q comes back", what, got)
			}
			open = append(open, c)
		}
	}
	dial("first", feed, true)
	dial("a renewed certificate", renewed, true)
	dial("third", feed, false)
	dial("another", other, true)
	dial("nobody", nil, true) // by address, of which there are no others
	dial("nobody again", nil, true)
	dial("nobody once more", nil, false)
	m.wait("five tunnels with their names", func() bool { // one on its way to the relay may be seen twice
		names := map[string]int{}
		for _, st := range (Admin{Gateway: m.Gateway}).Connections(admin.ConnFilter{Limit: 10, State: "relayed"}).([]*connStatus) {
			names[st.Identity]++
		}
		return names["spiffe://example.org/feed"] == 2 && names["CN=other,O=Acme"] == 1 && names[""] == 2
	})
	// What a client is changes under tunnels that are open; each is given back as it was counted.
	if err := m.Reload(parseConfig(t, m.config(yaml("address")))); err != nil {
		t.Fatal(err)
	}
	dial("by address", other, false)
	for _, c := range open {
		_ = c.Conn.Close()
	}
	m.wait("the end of all tunnels", func() bool { return m.tunnelCaps.Open() == 0 })
	open = nil
	dial("by address again", feed, true)
	dial("by address, another", other, true)
	dial("by address, too many", other, false)
	m.wait("log lines", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "access"))
		return strings.Count(string(text), `"tls_client_spiffe":"spiffe://example.org/feed"`) == 3 && // two ended and one refused
			strings.Count(string(text), `"tls_client_subject":"CN=feed\\, renewed,O=Acme"`) == 1
	})
}

// What is told of an identity allocates nothing.
func TestIdentityAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing to measure")
		return
	}
	be := allocBackend(t, []byte("HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"))
	for _, told := range []string{"off", "xfcc", "rfc9440", "xfcc, client_cert_chain: 8KiB", "rfc9440, client_cert_chain: 8KiB"} {
		m := newMutualWatching(t, `
log: {access: {output: "`+t.TempDir()+`/json", flush: 1ms}}
forwarding: {client_cert: `+told+`}
upstreams: {be: {servers: [{address: "`+be+`"}]}}
routes:
  - {identity: {fingerprint: ["`+strings.Repeat("00", 32)+`"]}, static_response: {body: x}}
  - upstream: be
    identity: {spiffe: ["spiffe://*/*/feed"], dns: ["*.example"]}
    require_identity: {subject: ["*,O=Acme"]}
    request_headers: {set: {X-Who: "${tls_client_subject} ${tls_client_san} ${tls_client_verified}"}}
`, "0s")
		c := m.dialAs(m.client("feed", "spiffe://example.org/a/feed")).Conn
		request := strings.Replace(get("/", "X-Forwarded-Client-Cert: a", "Client_Cert: b", "X-Other: c"), "example.com", "localhost", 1)
		// As in TestForwardAllocatesNothing, two are crypto/tls's.
		if n := allocsPerRequest(t, c, []byte(request)) - 2; n >= 0.01 {
			t.Errorf("%s: %.3f allocations per request, want none", told, n)
		}
	}
}

// TestReloadRequiresCertificates has a client without a certificate on an open connection while a reload makes its name require one.
func TestReloadRequiresCertificates(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `routes: [{static_response: {body: ok}}]`)
	anonymous, known := m.dialAs(nil), m.dialAs(m.client("feed", ""))
	expectStatus(t, "before", anonymous.Do(get("/")), 200)
	expectStatus(t, "before", known.Do(get("/")), 200)
	stricter := strings.Replace(m.config(`routes: [{static_response: {body: ok}}]`), "mode: optional", "mode: required", 1)
	if err := m.Reload(parseConfig(t, stricter)); err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "without a certificate", anonymous.Do(get("/")), 403, "identity_missing")
	anonymous.ExpectClosed()
	expectStatus(t, "with one", known.Do(get("/")), 200)
}
