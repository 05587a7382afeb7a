package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// TestRetries states the guarantee as a list: which failures of which requests lead
// to a second attempt. The first connection, to whichever backend, fails as told; a
// second one answers.
func TestRetries(t *testing.T) {
	t.Parallel()
	f := func(retry, send string, status int, attempts int, fail ...testkit.Step) {
		t.Helper()
		var once sync.Once
		script := func(int) []testkit.Step {
			steps := testkit.Respond(string(testkit.OK("ok")))
			once.Do(func() { steps = append(fail, testkit.Close()) })
			return steps
		}
		one, two := testkit.NewScripts(t, script), testkit.NewScripts(t, script)
		g := newGateway(t, toBackends("retry: {"+retry+"}, timeouts: {response_header: 1s}", "", one.Addr(), two.Addr()))
		method, _, _ := strings.Cut(send, " ")
		c := g.dial()
		c.Send(send)
		resp, err := c.TryResponse(method)
		if resp.Status != status {
			t.Errorf("%s, %.40q: got %d, %v, want %d: %.200q", retry, send, resp.Status, err, status, resp.Body)
		}
		if n := one.Conns() + two.Conns(); n != attempts {
			t.Errorf("%s, %.40q: %d attempts, want %d", retry, send, n, attempts)
		}
		if attempts == 2 && one.Conns() != 1 {
			t.Errorf("%s, %.40q: the second attempt was at the same backend", retry, send)
		}
	}
	closed := []testkit.Step{testkit.Receive()}
	reset := []testkit.Step{testkit.Receive(), testkit.Reset()}
	f("attempts: 2", get("/"), 200, 2, closed...)
	f("attempts: 2", get("/"), 200, 2, reset...)
	f("attempts: 2", request("HEAD", "/"), 200, 2, closed...)
	f("attempts: 2", request("DELETE", "/"), 200, 2, closed...)
	f("attempts: 2", request("PUT", "/", "Content-Length: 2")+"hi", 200, 2, closed...)
	// What can happen twice is not sent twice.
	f("attempts: 2", post("hi"), 502, 1, closed...)
	f("attempts: 2", request("POST", "/"), 502, 1, closed...)
	f("attempts: 2", request("PATCH", "/"), 502, 1, closed...)
	f("attempts: 2", request("BREW", "/"), 502, 1, closed...)
	// Nor what is not all here any more.
	big := request("PUT", "/", "Content-Length: 200000") + strings.Repeat("x", 200_000)
	f("attempts: 2", big, 502, 1, closed...)
	// Never when some of the answer is with the client.
	f("attempts: 2", get("/"), 200, 1, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"))
	// Only on the named conditions, and as often as allowed.
	f("attempts: 1", get("/"), 502, 1, closed...)
	f("on: [connect]", get("/"), 502, 1, closed...)
	f("on: [timeout]", get("/"), 200, 2, testkit.Receive(), testkit.Hang())
	f("on: [reset]", get("/"), 504, 1, testkit.Receive(), testkit.Hang())
	f("on: [bad_response]", get("/"), 200, 2, testkit.Receive(), testkit.Send("rubbish\r\n"))
	f("on: [reset]", get("/"), 502, 1, testkit.Receive(), testkit.Send("rubbish\r\n"))
	const busy = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
	f("on: ['503']", get("/"), 200, 2, testkit.Receive(), testkit.Send(busy))
	f("on: ['503']", post("hi"), 503, 1, testkit.Receive(), testkit.Send(busy))
	f("on: ['502', '504']", get("/"), 503, 1, testkit.Receive(), testkit.Send(busy))
	f("on: ['503'], budget_percent: 0, budget_min: 0", get("/"), 503, 1, testkit.Receive(), testkit.Send(busy))
	f("budget_percent: 0, budget_min: 0", get("/"), 502, 1, closed...)
}

// TestRetryConnect tries another backend for any request when nothing was sent.
func TestRetryConnect(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	f := func(raw string) {
		t.Helper()
		g := newGateway(t, toBackends("retry: {budget_min: 100}", "", testkit.DeadAddr(t), be.Addr()))
		be.Forget()
		for range 4 { // round robin: every other one begins at the dead backend
			c := g.dial()
			c.Send(raw)
			expectStatus(t, raw[:min(40, len(raw))], c.Response("POST"), 200)
			c.Close()
		}
		for _, r := range be.Requests() {
			if strings.HasPrefix(raw, "POST") && len(r.Body) != 100_000 && len(r.Body) != 2 {
				t.Errorf("%.40q: the backend got a body of %d bytes", raw, len(r.Body))
			}
		}
		if !strings.Contains(g.logs.String(), "cannot connect to backend") {
			t.Errorf("no line about the dead backend in the log")
		}
	}
	f(get("/"))
	f(post("hi"))
	f(post(strings.Repeat("x", 100_000)))
	f(chunkedPost("2\r\nhi\r\n0\r\n\r\n"))
}

// TestRetryStatusLastAnswerPasses has every backend refuse: the last refusal is the
// answer.
func TestRetryStatusLastAnswerPasses(t *testing.T) {
	t.Parallel()
	const busy = "HTTP/1.1 503 Busy\r\nX-From: backend\r\nContent-Length: 4\r\n\r\nbusy"
	one, two := testkit.NewScript(t, testkit.Respond(busy)...), testkit.NewScript(t, testkit.Respond(busy)...)
	g := newGateway(t, toBackends("retry: {attempts: 3, on: ['503']}", "", one.Addr(), two.Addr()))
	resp := g.get("/")
	expectStatus(t, "all busy", resp, 503, "busy")
	if resp.Get("X-From") != "backend" || one.Requests()+two.Requests() != 3 {
		t.Errorf("got %q after %d attempts, want the backend's own answer after 3", resp.Raw, one.Requests()+two.Requests())
	}
}

// TestRetryDeadline never goes past the request's deadline.
func TestRetryDeadline(t *testing.T) {
	t.Parallel()
	one, two := testkit.NewScript(t, testkit.Receive(), testkit.Hang()), testkit.NewScript(t, testkit.Receive(), testkit.Hang())
	g := newGateway(t, toBackends("retry: {attempts: 5, on: [timeout, connect, reset]}, timeouts: {response_header: 100ms, request: 150ms}", "", one.Addr(), two.Addr()))
	expectStatus(t, "deadline", g.get("/"), 504, "reason: request_timeout")
	if n := one.Conns() + two.Conns(); n > 3 {
		t.Errorf("%d attempts in 150ms of 100ms each", n)
	}
}

// TestRetryBudget bounds the retries to a share of the requests.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	bad := testkit.NewScript(t, testkit.Receive(), testkit.Close())
	g := newGateway(t, toBackends("retry: {attempts: 2, budget_percent: 10, budget_min: 0}", "", bad.Addr()))
	const requests = 100
	c := g.dial()
	for range requests {
		expectStatus(t, "bad backend", c.Do(get("/")), 502)
	}
	if n := bad.Conns() - requests; n < 5 || n > 10 {
		t.Errorf("%d retries of %d requests, want about a tenth and no more", n, requests)
	}
	if n := g.metric("tickgate_upstream_retry_budget_total", `result="denied"`); n < 90 {
		t.Errorf("%v retries were counted as denied, want at least 90", n)
	}
}

// TestStaleConnections has backends that close a connection after one request: the
// next one takes another, whatever its method, as nothing was sent.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	f := func(name string, after ...testkit.Step) {
		t.Helper()
		spoilt := make(chan struct{}, 10)
		steps := append(testkit.Respond(string(testkit.OK("ok"))), after...)
		be := testkit.NewScript(t, append(steps, testkit.Handle(func(_ *bufio.Reader, _ *net.TCPConn) error { spoilt <- struct{}{}; return io.EOF }))...)
		g := newGateway(t, toBackends("retry: {attempts: 1}", "", be.Addr()))
		c := g.dial()
		for i := range 5 {
			expectStatus(t, name, c.Do(post("hi")), 200, "ok")
			<-spoilt
			if i == 0 && be.Requests() != 1 {
				t.Errorf("%s: %d requests", name, be.Requests())
			}
		}
		if be.Requests() != 5 {
			t.Errorf("%s: the backend got %d requests, want 5", name, be.Requests())
		}
	}
	f("closed")
	f("excess bytes, then closed", testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))
}

// TestExcessBytesDoNotPoison has a backend send an answer that nobody asked for behind
// the first one: the next request must not get it.
func TestExcessBytesDoNotPoison(t *testing.T) {
	t.Parallel()
	f := func(method, answer string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(answer+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		for range 3 {
			if got := c.Do(request(method, "/")); strings.Contains(string(got.Raw), "poison") {
				t.Errorf("%s %q: got %q", method, answer, got.Raw)
			}
		}
		if be.Conns() != 3 {
			t.Errorf("%s %q: %d connections for 3 requests: one was used again", method, answer, be.Conns())
		}
	}
	f("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	f("GET", "HTTP/1.1 204 No Content\r\n\r\n")
	f("GET", "HTTP/1.1 304 Not Modified\r\n\r\n")
	f("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
}

// TestTruncatedResponses cut a response after its head: it is aborted, never passed
// on as sound.
func TestTruncatedResponses(t *testing.T) {
	t.Parallel()
	f := func(answer string, why reason.Reason, end testkit.Step) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(answer), end)
		g := newGateway(t, toBackends("retry: {attempts: 1}", "", be.Addr()))
		for _, req := range []string{get("/"), "GET / HTTP/1.0\r\n\r\n"} {
			c := g.dial()
			c.Send(req)
			resp, err := c.TryResponse("GET")
			if err == nil && resp.Status == 200 {
				t.Errorf("%q: %.20q got a whole response: %q", answer, req, resp.Raw)
			}
		}
		g.waitEnd(why, 2)
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", reason.BackendTruncated, testkit.Close())
	f("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", reason.BackendTruncated, testkit.Reset())
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", reason.BackendTruncated, testkit.Close())
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", reason.BackendTruncated, testkit.Close())
	f("HTTP/1.1 200 OK\r\n\r\nabc", reason.BackendTruncated, testkit.Reset())
	f("HTTP/1.1 200 OK\r\nX: y\r\n", reason.BackendReset, testkit.Close())
	f("", reason.BackendReset, testkit.Close())
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", reason.BadBackendFraming, testkit.Close())
}

// TestTagsNeverShareConnections sends requests of two tags in turn.
func TestTagsNeverShareConnections(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /canary, upstream: be, tag: canary}
  - {path: /prod,   upstream: be, tag: prod}
  - {path: /prod2,  upstream: be, tag: prod}
  - {path: /,       upstream: be}
`)
	c := g.dial()
	paths := []string{"/canary", "/prod", "/prod2", "/", "/canary", "/prod"}
	for _, p := range paths {
		expectStatus(t, p, c.Do(get(p)), 200)
	}
	var byConn []string
	for _, conn := range be.Conns() {
		var targets []string
		for _, r := range conn.Requests {
			targets = append(targets, r.Target)
		}
		byConn = append(byConn, strings.Join(targets, " "))
	}
	want := []string{"/canary /canary", "/prod /prod2 /prod", "/"}
	if !slices.Equal(byConn, want) {
		t.Errorf("requests by connection: %q, want %q", byConn, want)
	}
}

// TestPoolLimit has one connection, which is busy.
func TestPoolLimit(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.WaitFor(release), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackends("pool: {max_conns: 1, wait_timeout: 100ms}, retry: {attempts: 1}", "", be.Addr()))
	busy := g.dial()
	busy.Send(get("/"))
	g.wait("request at the backend", func() bool { return be.Requests() == 1 })
	resp := g.get("/")
	expectStatus(t, "full pool", resp, 503, "reason: pool_full")
	if resp.Get("Retry-After") == "" {
		t.Errorf("no Retry-After with %q", resp.Raw)
	}
	if n := g.metric("tickgate_upstream_pool_rejected_total"); n != 1 {
		t.Errorf("%v rejections counted, want 1", n)
	}
	waiting := g.dial()
	waiting.Send(get("/"))
	g.wait("a waiting request", func() bool {
		return g.metric("tickgate_upstream_pool_connections{", `state="waiting"`) == 1 || g.requests(reason.PoolFull) == 2
	})
	close(release)
	expectStatus(t, "the busy one", busy.Response("GET"), 200)
	waiting.Response("GET")
	if be.Conns() != 1 {
		t.Errorf("%d connections, want no more than max_conns", be.Conns())
	}
}

// TestPoolWaits gets the connection that becomes free in time.
func TestPoolWaits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.WaitFor(release), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackends("pool: {max_conns: 1, wait_timeout: 10s}", "", be.Addr()))
	const clients = 5
	var open []*testkit.Client
	for range clients {
		c := g.dial()
		c.Send(get("/"))
		open = append(open, c)
	}
	g.wait("waiting requests", func() bool {
		return g.metric("tickgate_upstream_pool_connections{", `state="waiting"`) == clients-1
	})
	close(release)
	for _, c := range open {
		expectStatus(t, "waiting", c.Response("GET"), 200)
	}
	if be.Conns() != 1 {
		t.Errorf("%d connections, want 1", be.Conns())
	}
}

func TestNoBackend(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`", drain: true}]}}
routes: [{upstream: be}]
`)
	expectStatus(t, "all drained", g.get("/"), 503, "reason: no_backend")
	dead := newGateway(t, toBackends("retry: {attempts: 1}", "", testkit.DeadAddr(t)))
	expectStatus(t, "dead", dead.get("/"), 502, "reason: dial_failed")
}

// TestDrainBackend takes a backend out through the admin API and back in.
func TestDrainBackend(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	one := testkit.NewScript(t, testkit.Receive(), testkit.WaitFor(release), testkit.Send(string(testkit.OK("one"))))
	two := testkit.NewRecorder(t, func(*testkit.Request) []byte { return testkit.OK("two") })
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+one.Addr()+`"}, {address: "`+two.Addr()+`", backup: true}]}}
routes: [{upstream: be}]
`)
	busy := g.dial()
	busy.Send(get("/"))
	g.wait("request at the backend", func() bool { return one.Requests() == 1 })
	admin := Admin{Gateway: g.Gateway}
	if err := admin.Drain("be", one.Addr(), true, 0); err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "while it drains", g.get("/"), 200, "two")
	close(release)
	expectStatus(t, "in flight", busy.Response("GET"), 200, "one")
	if err := admin.Drain("be", one.Addr(), false, 0); err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "back again", g.get("/"), 200, "one")
	if err := admin.Drain("be", "127.0.0.1:1", true, 0); err == nil {
		t.Error("an unknown backend was drained")
	}
	if err := admin.Drain("none", one.Addr(), true, 0); err == nil {
		t.Error("a backend of an unknown upstream was drained")
	}
}

func TestHashByRequest(t *testing.T) {
	t.Parallel()
	var addrs []string
	for range 4 {
		be := testkit.NewRecorder(t, nil)
		addrs = append(addrs, be.Addr())
		be.Forget()
	}
	f := func(key string, same, different []string) {
		t.Helper()
		g := newGateway(t, toBackends(`balance: hash, hash_key: "`+key+`"`, `response_headers: {set: {X-Backend: "${backend}"}}`, addrs...))
		seen := map[string]bool{}
		for _, raw := range same {
			seen[g.do(raw).Get("X-Backend")] = true
		}
		if len(seen) != 1 {
			t.Errorf("%s: %q went to %d backends, want 1", key, same, len(seen))
		}
		for _, raw := range different {
			seen[g.do(raw).Get("X-Backend")] = true
		}
		if len(different) > 0 && len(seen) < 2 {
			t.Errorf("%s: all requests went to one backend", key)
		}
	}
	var users, cookies, paths []string
	for _, c := range "abcdefghij" {
		users = append(users, get("/", "X-User: "+string(c)))
		cookies = append(cookies, get("/", "Cookie: x=1; sid="+string(c)))
		paths = append(paths, get("/"+string(c)))
	}
	f("header:X-User", []string{get("/a", "x-user: 1"), get("/b", "X-User: 1")}, users)
	f("cookie:sid", []string{get("/a", "Cookie: sid=1"), get("/b", "Cookie: a=b; sid=1")}, cookies)
	f("path", []string{get("/a?x"), get("/a?y"), get("/a")}, paths)
	f("uri", []string{get("/a?x"), get("/a?x")}, paths)
	f("client_addr", paths, nil)
	f("header:X-User", paths, nil) // without the header: by client address
}

// tlsBackend is a backend that answers over TLS, with what it saw of the handshake.
func tlsBackend(t testing.TB, conf *tls.Config) (addr string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln)
	return ln.Addr().String()
}

// serveBackend answers every request on ln until the test ends.
func serveBackend(t testing.TB, ln net.Listener) {
	var group sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			go answerConn(c)
		}
	})
}

// answerConn answers with server name, client certificate and body.
func answerConn(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		req, err := testkit.ReadRequest(r)
		if err != nil {
			return
		}
		saw := "plain"
		if tc, ok := c.(*tls.Conn); ok {
			st := tc.ConnectionState()
			saw = "sni=" + st.ServerName
			if len(st.PeerCertificates) > 0 {
				saw += " client=" + st.PeerCertificates[0].DNSNames[0]
			}
		}
		if _, err := c.Write(testkit.OK(saw + " " + string(req.Body))); err != nil {
			return
		}
	}
}

func TestTLSBackends(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	server := ca.Issue(t, testcert.Request{Names: []string{"backend.internal", "127.0.0.1", "localhost"}})
	client := ca.Issue(t, testcert.Request{Names: []string{"gateway.internal"}})
	clientCert, clientKey := client.Files(t)
	root := ca.RootFile(t)
	other := testcert.NewCA(t).RootFile(t)
	plain := tlsBackend(t, server.ServerTLS(t))
	mutual := server.ServerTLS(t)
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	mutual.MaxVersion = tls.VersionTLS12 // so that the refusal comes within the handshake
	demanding := tlsBackend(t, mutual)
	old := server.ServerTLS(t)
	old.MaxVersion = tls.VersionTLS12
	tls12 := tlsBackend(t, old)

	f := func(addr, settings string, status int, want string) {
		t.Helper()
		g := newGateway(t, toBackends("retry: {attempts: 1}, tls: {"+settings+"}", "", addr))
		c := g.dial()
		for range 2 {
			resp := c.Do(post("body"))
			expectStatus(t, settings, resp, status, want)
		}
	}
	trust := `ca_file: "` + root + `"`
	_, port, _ := net.SplitHostPort(plain)
	f("localhost:"+port, trust, 200, "sni=localhost body")
	f(plain, trust, 200, "sni= body") // an address is no server name (RFC 6066 section 3)
	f(plain, trust+", server_name: backend.internal", 200, "sni=backend.internal body")
	f(plain, trust+", server_name: wrong.internal", 502, "reason: backend_tls_failed")
	f(plain, "", 502, "reason: backend_tls_failed") // not of the system's authorities
	f(plain, `ca_file: "`+other+`"`, 502, "reason: backend_tls_failed")
	f(plain, "insecure_skip_verify: true", 200, "body")
	f(demanding, trust, 502, "reason: backend_tls_failed")
	f(demanding, trust+`, cert_file: "`+clientCert+`", key_file: "`+clientKey+`"`, 200, "client=gateway.internal body")
	f(tls12, trust, 200, "body")
	f(tls12, trust+`, min_version: "1.3"`, 502, "reason: backend_tls_failed")

	// A backend without TLS where TLS is wanted, and the other way round.
	be := testkit.NewRecorder(t, nil)
	f(be.Addr(), trust, 502, "reason: backend_tls_failed")
	g := newGateway(t, toBackends("retry: {attempts: 1}", "", plain))
	expectStatus(t, "plain to TLS", g.get("/"), 502, "reason: b")
	// A TLS client does not force TLS on the backend.
	g, secure, conf := tlsGateway(t, toBackend(be.Addr()))
	expectStatus(t, "TLS client", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
	_ = g
}

// TestTLSBackendBodies streams over TLS on both sides.
func TestTLSBackendBodies(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	addr := tlsBackend(t, ca.Issue(t, testcert.Request{}).ServerTLS(t))
	g, secure, conf := tlsGateway(t, toBackends(`tls: {ca_file: "`+ca.RootFile(t)+`"}`, "", addr))
	c := testkit.DialTLS(t, secure, conf)
	body := strings.Repeat("0123456789abcdef", 100_000)
	for range 3 {
		resp := c.Do(post(body))
		if resp.Status != 200 || string(resp.Body) != "sni= "+body {
			t.Fatalf("got %d with %d bytes, want the body of %d back", resp.Status, len(resp.Body), len(body))
		}
	}
	if n := g.metric("tickgate_upstream_dials_total", `result="ok"`); n != 1 {
		t.Errorf("%v dials, want 1: TLS connections are used again", n)
	}
}

func TestUnixSocketBackend(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "b")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln)
	g := newGateway(t, toBackends("host: backend, retry: {attempts: 1}", "", "unix:"+path))
	c := g.dial()
	for range 3 {
		expectStatus(t, "unix", c.Do(post("over a socket")), 200, "plain over a socket")
	}
	if n := g.metric("tickgate_upstream_dials_total", `result="ok"`); n != 1 {
		t.Errorf("%v dials, want 1", n)
	}
	_ = ln.Close()
	_ = os.Remove(path)
	gone := newGateway(t, toBackends("retry: {attempts: 1}", "", "unix:"+path))
	expectStatus(t, "no socket", gone.get("/"), 502, "reason: dial_failed")
}
