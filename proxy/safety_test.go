package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/internal/testkit"
)

// TestRewriteStaysInItsPlace tries to make a rewrite build what the parser would have
// refused from a client.
func TestRewriteStaysInItsPlace(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(*testkit.Request) []byte { return testkit.OK("ok") })
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /strip, upstream: be, rewrite: {strip_prefix: /strip}}
  - {path: /, upstream: be, rewrite: {strip_prefix: /files}}
  - {path_regex: "^/r(.*)$", upstream: be, rewrite: {path: /data/$1}}
  - {path_regex: "^/bare/(.*)$", upstream: be, rewrite: {path: $1}}
  - {path_exact: /field, upstream: be, rewrite: {path: "/x${header:X-P}"}}
`)
	f := func(path, field string, status int, target string) {
		t.Helper()
		be.Forget()
		resp := g.get(path, "X-P: "+field)
		if resp.Status != status {
			t.Errorf("%s: %d, want %d", path, resp.Status, status)
		}
		got := ""
		if rs := be.Requests(); len(rs) > 0 {
			got = rs[0].Target
		}
		if got != target {
			t.Errorf("%s, X-P %q: the backend got %q, want %q", path, field, got, target)
		}
	}
	f("/files/a?q", "", 200, "/a?q")
	f("/files", "", 200, "/")
	f("/filesystem", "", 200, "/filesystem") // no whole segment: no prefix
	f("/files../secret", "", 200, "/files../secret")
	f("/strip/a", "", 200, "/a")
	f("/r../secret", "", 400, "")
	f("/r%2e./secret", "", 400, "")
	f("/rx", "", 200, "/data/x")
	f("/bare/page", "", 200, "/page")
	f("/bare/", "", 200, "/")
	f("/field", "/a HTTP/1.1", 200, "/x/a%20HTTP/1.1")
	f("/field", "/a#b\xff", 200, "/x/a%23b%FF")
	f("/field", "/../a", 400, "")
}

// TestClientIdentity is who the client is taken for behind proxies.
func TestClientIdentity(t *testing.T) {
	t.Parallel()
	const yaml = `
forwarding: {trusted_proxies: [%s]}
routes: [{path: /, static_response: {body: "${client_addr}"}}]
`
	f := func(trusted, forwarded, want string) {
		t.Helper()
		g := newGateway(t, strings.Replace(yaml, "%s", trusted, 1))
		var fields []string
		for v := range strings.SplitSeq(forwarded, "|") {
			fields = append(fields, "X-Forwarded-For: "+v)
		}
		if got := string(g.get("/", fields...).Body); got != want {
			t.Errorf("trusted %s, X-Forwarded-For %q: %q, want %q", trusted, forwarded, got, want)
		}
	}
	f("", "192.0.2.1", "127.0.0.1")
	f("127.0.0.1", "192.0.2.1", "192.0.2.1")
	f("127.0.0.1", "192.0.2.9, 192.0.2.1", "192.0.2.1")
	f("127.0.0.1, 10.0.0.0/8", "192.0.2.9, 192.0.2.1, 10.1.2.3", "192.0.2.1")
	f("127.0.0.1, 10.0.0.0/8", "192.0.2.9, 192.0.2.1|10.1.2.3,10.9.9.9", "192.0.2.1")
	f("127.0.0.1", "2001:db8::1", "2001:db8::1")
	f("127.0.0.1, 10.0.0.0/8", "evil, 10.1.2.3", "10.1.2.3")
	f("127.0.0.1", "", "127.0.0.1")
}

func TestParseForwarded(t *testing.T) {
	f := func(entry, want string, ok bool) {
		t.Helper()
		addr, got := parseForwarded([]byte(entry))
		if got != ok || ok && addr != netip.MustParseAddr(want) {
			t.Errorf("parseForwarded(%q) = %v, %v", entry, addr, got)
		}
	}
	f("192.0.2.1", "192.0.2.1", true)
	f("192.0.2.1:8080", "192.0.2.1", true)
	f("[2001:db8::1]:80", "2001:db8::1", true)
	f("::ffff:192.0.2.1", "192.0.2.1", true)
	f("", "", false)
	f("unknown", "", false)
	f("fe80::1%eth0", "", false)
}

// TestOwnFieldsYield has routes set or remove what the gateway writes itself.
func TestOwnFieldsYield(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(*testkit.Request) []byte {
		return []byte("HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody")
	})
	g := newGateway(t, `
forwarding: {request_id_header: X-Corr, trace_context: extend, via: true}
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - path: /
    upstream: be
    compression: {min_size: 0}
    request_headers: {set: {X-Corr: mine, Traceparent: mine, Via: mine, X-Internal-Auth: mine}}
    response_headers: {set: {Date: mine, Vary: mine, Via: mine}, remove: [ETag]}
  - path: /static
    static_response: {body: hi}
    response_headers: {set: {Content-Type: mine}}
`)
	once := func(what, head, field, value string) {
		t.Helper()
		if strings.Count(strings.ToLower(head), "\r\n"+strings.ToLower(field)+":") != 1 || !strings.Contains(head, field+": "+value+"\r\n") {
			t.Errorf("%s: want one %s: %s in %q", what, field, value, head)
		}
	}
	resp := string(g.get("/", "Accept-Encoding: gzip", "X_Internal_Auth: forged").Raw)
	for _, field := range []string{"Date", "Vary", "Via"} {
		once("response", resp, field, "mine")
	}
	if strings.Contains(resp, "ETag") {
		t.Errorf("the removed ETag is back: %q", resp)
	}
	req := string(be.WaitRequests(t, 1)[0].Raw)
	for _, field := range []string{"X-Corr", "Traceparent", "Via", "X-Internal-Auth"} {
		once("request", req, field, "mine")
	}
	if strings.Contains(req, "forged") {
		t.Errorf("a twin of a set field came through: %q", req)
	}
	once("static", string(g.get("/static").Raw), "Content-Type", "mine")
}

// TestCompressedChunksFlush has every piece of a chunked response arrive as it is
// made, whatever its type.
func TestCompressedChunksFlush(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(),
		testkit.Send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n"),
		testkit.WaitFor(more), testkit.Send("2\r\n3]\r\n0\r\n\r\n"))
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes: [{path: /, upstream: be, compression: {encodings: [gzip], min_size: 0}}]
`)
	c := g.dial()
	c.Send(get("/", "Accept-Encoding: gzip"))
	c.Until("\x00\x00\xff\xff\r\n") // gzip's mark of a flush: the first piece is readable
	close(more)
	c.Until("0\r\n\r\n")
}

// TestDrainServesFreshConnection has a client that connected just before the drain
// and sends its request after it began.
func TestDrainServesFreshConnection(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{path: /, static_response: {body: hi}}]\ndrain: {timeout: 20s}")
	c := g.dial()
	g.wait("the connection", func() bool { return g.conns.Open() == 1 })
	done := g.drain()
	g.wait("the end of listening", func() bool {
		g.reloadMu.Lock()
		defer g.reloadMu.Unlock()
		return len(g.listeners) == 0
	})
	resp := c.Do(get("/"))
	expectStatus(t, "first request during a drain", resp, 200, "hi")
	if !strings.EqualFold(resp.Get("Connection"), "close") {
		t.Errorf("want Connection: close, got %q", resp.Raw)
	}
	c.ExpectClosed()
	if cut := <-done; cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
}

// panicAction fails in the middle of a request.
type panicAction struct{}

func (panicAction) kind() string    { return "panic" }
func (panicAction) serve(*Exchange) { panic("planted") }

// TestPanicGivesBack plants a bug and looks for what it would leak.
func TestPanicGivesBack(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{path: /, static_response: {body: hi}, name: a}]\nlog: {access: {output: 'off'}}")
	snap := *g.snap.Load()
	rt := *snap.routes[0]
	rt.action = panicAction{}
	snap.router = newRouter([]*route{&rt})
	g.snap.Store(&snap)
	for range 3 {
		expectStatus(t, "panic", g.get("/"), 500, "reason: internal")
	}
	g.waitEnd(reason.Internal, 3)
	if n := g.gate.Stats().InUse; n != 0 {
		t.Errorf("%d workers are still held", n)
	}
	g.forgetBugs(3)
}

// forgetBugs looks for the lines about n planted bugs, which cleanup would take for real ones.
func (g *testGateway) forgetBugs(n int) {
	g.t.Helper()
	if got := strings.Count(g.logs.String(), "BUG: panic"); got != n {
		g.t.Errorf("%d lines about panics, want %d", got, n)
	}
	g.logs.mu.Lock()
	g.logs.b.Reset()
	g.logs.mu.Unlock()
}

// TestPanicInHandshake plants a bug within crypto/tls, on a connection of each kind: its turn at the gate is given back.
func TestPanicInHandshake(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "handshakes: {max: 1, concurrency: 1}\n"+static(soon))
	ln := g.listeners["127.0.0.2:0"]
	sound := ln.tls.Load()
	broken := sound.Clone()
	broken.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("planted") }
	ln.tls.Store(broken)
	first := hello(t, conf)
	c := testkit.Dial(t, secure)
	c.Send(first)
	c.ExpectClosed()
	c = testkit.Dial(t, g.withoutLot(ln))
	c.Send(first)
	c.ExpectClosed()
	g.waitConnEnd(reason.Internal, 2)
	if st := g.handshakes.gate.Stats(); st.Computing+st.Waiting+st.Ready != 0 {
		t.Errorf("left over: %+v", st)
	}
	g.forgetBugs(2)
	ln.tls.Store(sound)
	expectStatus(t, "afterwards", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
}

// withoutLot accepts one connection for ln as systems without a lot do, and returns where.
func (g *testGateway) withoutLot(ln *listener) string {
	g.t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { socket.Close() })
	go func() {
		if nc, err := socket.Accept(); err == nil {
			ln.admitConn(nc)
		}
	}()
	return socket.Addr().String()
}

// TestTunnelHalfCloseOverTLS has the backend end its direction while a TLS client
// still sends: crypto/tls leaves an expired deadline behind at such a moment.
func TestTunnelHalfCloseOverTLS(t *testing.T) {
	t.Parallel()
	tail := make(chan string, 1)
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()), testkit.CloseWrite(),
		testkit.Handle(func(r *bufio.Reader, _ *net.TCPConn) error {
			rest, err := io.ReadAll(r)
			tail <- string(rest)
			return err
		}))
	_, secure, client := tlsGateway(t, toBackend(be.Addr()))
	c := testkit.DialTLS(t, secure, client)
	c.Send(upgrade())
	c.Until("\r\n\r\n")
	c.ExpectClosed() // the backend's direction
	for range 5 {
		c.Send("piece ")
		<-time.After(sock.SweepInterval) // in which the deadline would fire
	}
	c.CloseWrite()
	if got := <-tail; got != strings.Repeat("piece ", 5) {
		t.Errorf("the backend got %q after its half-close", got)
	}
}

// TestBusyTunnelOutlivesIdleTime has one direction silent for longer than
// timeouts.tunnel_idle while the other one talks. A tunnel that is being closed takes
// what the client sends, so a byte back must show that it is not.
func TestBusyTunnelOutlivesIdleTime(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()),
		testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
			if _, err := r.ReadString('\n'); err != nil {
				return err
			}
			_, err := io.WriteString(c, "!")
			_, _ = io.Copy(io.Discard, r)
			return err
		}))
	g := newGateway(t, "timeouts: {tunnel_idle: 2500ms}\n"+toBackend(be.Addr()))
	c := g.dial()
	c.Send(upgrade())
	c.Until("\r\n\r\n")
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); {
		if err := c.TrySend("tick"); err != nil {
			t.Fatalf("a busy tunnel was ended: %v", err)
		}
		<-time.After(5 * time.Millisecond) // the pace of the feed
	}
	c.Send("\n")
	if got := c.Next(1); got != "!" {
		t.Errorf("got %q of the backend, want its answer", got)
	}
	if n := g.metric("tickgate_tunnel_ends_total{"); n != 0 {
		t.Errorf("%v tunnels ended", n)
	}
}
