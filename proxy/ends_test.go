package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// TestUnreadResponsesEnd has clients that send requests and read no answer: what is
// held for them must not outlive timeouts.write.
func TestUnreadResponsesEnd(t *testing.T) {
	t.Parallel()
	f := func(size int) {
		t.Helper()
		be := testkit.NewRecorder(t, func(*testkit.Request) []byte { return testkit.OK(strings.Repeat("x", size)) })
		g := newGateway(t, "timeouts: {write: 200ms, idle: 5s, head: 1s}\n"+toBackend(be.Addr())+
			"\nlisteners: [{listen: \""+firstListener+"\", acceptors: 1, tcp_user_timeout: 0s}]\n")
		smallSendBuffers(t, g) // else megabytes of responses go into each, which takes a busy machine minutes
		c := g.dial()
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		go func() {
			for c.TrySend(strings.Repeat(get("/"), 200)) == nil {
				continue
			}
		}()
		// With both its buffers full, the client's kernel may drop what acknowledges its own
		// bytes: then it is the rest of a head that does not come.
		g.wait("the end of the connection", func() bool {
			return g.metric("tickgate_connection_ends_total{", `"client_stall"`)+g.metric("tickgate_connection_ends_total{", `"head_timeout"`) == 1
		})
	}
	f(3000) // held as the smallest are
	f(8000)
	f(12_000)
}

// smallSendBuffers gives a few kilobytes to each socket that the first listener accepts from now on.
func smallSendBuffers(t *testing.T, g *testGateway) {
	t.Helper()
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	for _, s := range g.listeners[firstListener].sockets {
		raw, err := s.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if outer := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 8<<10) }); outer != nil || err != nil {
			t.Fatal(outer, err)
		}
	}
}

// TestEarlyResponseCutDuringUpload has the backend at fault while the client still
// sends: the backend is to blame.
func TestEarlyResponseCutDuringUpload(t *testing.T) {
	t.Parallel()
	cut := make(chan struct{})
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), testkit.WaitFor(cut), testkit.CloseWrite(), testkit.Hang())
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
	c.Until("abc")
	close(cut)
	g.waitEnd(reason.BackendTruncated, 1)
	g.waitConnEnd(reason.BackendTruncated, 1)
}

// corked keeps what is written until it is uncorked, so that several records leave
// in one segment.
type corked struct {
	net.Conn
	mu   sync.Mutex
	cork bool
	held []byte
}

func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cork {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *corked) set(cork bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork = cork
	if !cork {
		_ = c.SetWriteDeadline(time.Time{}) // CloseWrite of crypto/tls leaves one behind that has passed
		_, _ = c.Conn.Write(c.held)
	}
}

// TestRequestWithCloseNotify sends a request and the end of the TLS session in one
// segment: crypto/tls returns such bytes together with io.EOF.
func TestRequestWithCloseNotify(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	_, secure, conf := tlsGateway(t, toBackend(be.Addr()))
	f := func(version uint16, raw string) {
		t.Helper()
		nc, err := net.Dial("tcp", secure)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		cork := &corked{Conn: nc}
		conf := conf.Clone()
		conf.MaxVersion = version
		c := tls.Client(cork, conf)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		cork.set(true)
		_, _ = io.WriteString(c, raw)
		_ = c.CloseWrite()
		cork.set(false)
		if resp, err := testkit.ReadResponse(bufio.NewReader(c), "GET"); err != nil || resp.Status != 200 {
			t.Errorf("%s %.20q: %v, %v", tls.VersionName(version), raw, resp, err)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		f(version, get("/"))
		f(version, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
	}
}

// TestKilled ends connections through the API in every state.
func TestKilled(t *testing.T) {
	t.Parallel()
	flood := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"), testkit.SendForever(strings.Repeat("x", 4096)))
	deaf := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()), testkit.Hang())
	f := func(name, backend, send string, ready func(g *testGateway, c *testkit.Client)) {
		t.Helper()
		g := newGateway(t, toBackend(backend))
		c := g.dial()
		c.Send(send)
		g.wait(name, func() bool { return g.conns.Open() == 1 })
		ready(g, c)
		g.wait("a connection to close", func() bool { return g.end(g.nextID.Load(), false) })
		g.waitConnEnd(reason.KilledByUser, 1)
	}
	atOnce := func(*testGateway, *testkit.Client) {}
	served := func(_ *testGateway, c *testkit.Client) { c.Until("\r\n\r\n") }
	f("half a head", flood.Addr(), "GET / HT", atOnce)
	f("a body", flood.Addr(), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", atOnce)
	f("a large body", flood.Addr(), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", atOnce)
	f("a download", flood.Addr(), get("/"), served)
	f("a tunnel", deaf.Addr(), upgrade(), served)
	f("a half-closed tunnel", deaf.Addr(), upgrade(), func(g *testGateway, c *testkit.Client) {
		served(g, c)
		c.CloseWrite()
	})
}

// TestReloadDuringDrain must not open the listeners again.
func TestReloadDuringDrain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.WaitFor(release), testkit.Send(string(testkit.OK("x"))))
	yaml := toBackend(be.Addr())
	g := newGateway(t, yaml)
	c := g.dial()
	c.Send(get("/"))
	g.wait("the request", func() bool { return be.Requests() == 1 })
	done := g.drain()
	g.wait("the end of listening", func() bool {
		g.reloadMu.Lock()
		defer g.reloadMu.Unlock()
		return g.closing
	})
	if err := g.Reload(parseConfig(t, yaml)); !errors.Is(err, ErrStopped) {
		t.Errorf("reload during a drain: %v, want ErrStopped", err)
	}
	close(release)
	expectStatus(t, "the request in flight", c.Response("GET"), 200)
	<-done
	if len(g.listeners) != 0 {
		t.Error("drained, yet it listens")
	}
}

// TestLookalikesStay has an untrusted client spell forwarding fields with underscores and other signs.
func TestLookalikesStay(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	names := []string{
		"X_Forwarded_For", "X_Real_IP", "X-Forwarded_Proto", "X_Request_ID", "X_Forwarded_Ssl", "X_Forwarded-Prefix",
		"X.Forwarded.For", "X.Real.IP", "x~real|ip", "X.Request.ID", "X!Forwarded!Server",
	}
	fields := make([]string, len(names))
	for i, n := range names {
		fields[i] = n + ": forged"
	}
	g.get("/", fields...)
	if raw := string(be.WaitRequests(t, 1)[0].Raw); strings.Contains(raw, "forged") {
		t.Errorf("passed on: %q", raw)
	}
}

// TestIdleConnectionsAreSmall: an idle connection is a place in the lot and nothing else.
func TestIdleConnectionsAreSmall(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(*testkit.Request) []byte { return testkit.OK(strings.Repeat("x", 15_000)) })
	g := newGateway(t, "workers: {park_after: 0s}\n"+toBackend(be.Addr()))
	c := g.dial()
	for range 3 {
		expectStatus(t, "large response", c.Do(get("/")), 200)
		g.wait("the connection to park", func() bool {
			_, idle, _ := g.lot.Count()
			return idle == 1 && len(g.connections()) == 0
		})
	}
}

// TestRefusedClientCertificate has a backend that wants a client certificate: under TLS
// 1.3 the handshake succeeds at our side, and the refusal comes as an alert afterwards.
func TestRefusedClientCertificate(t *testing.T) {
	t.Parallel()
	pair := testcert.New(t)
	conf := pair.ServerTLS(t)
	conf.ClientAuth = tls.RequireAnyClientCert
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // fails, with an alert to the other side
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	g := newGateway(t, toBackends("tls: {insecure_skip_verify: true}, retry: {attempts: 1}", "", ln.Addr().String()))
	expectStatus(t, "no client certificate", g.get("/"), 502, "reason: backend_tls_failed")
}

// TestReloadToUnknownName keeps a running gateway from losing an upstream to a typing
// error. At start the same configuration waits for the name.
func TestReloadToUnknownName(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	const lost = "\nresolver: {servers: [\"127.0.0.1:9\"], timeout: 100ms}\n"
	g := newGateway(t, toBackend(be.Addr())+lost)
	if err := g.Reload(parseConfig(t, toBackend("nowhere.invalid:80")+lost)); !errors.Is(err, errNoAddress) {
		t.Errorf("reload: %v, want errNoAddress", err)
	}
	expectStatus(t, "after the refused reload", g.get("/"), 200)
	fresh := newGateway(t, toBackend("nowhere.invalid:80")+lost)
	expectStatus(t, "started without an address", fresh.get("/"), 503, "reason: no_backend")
}
