package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"

	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// upgrade is a WebSocket handshake.
func upgrade(fields ...string) string {
	return get("/", append([]string{"Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wsKey}, fields...)...)
}

// switching is a 101 with the right accept key.
func switching(fields ...string) string {
	accept := h1.WebSocketAccept([]byte(wsKey))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " + string(accept[:]) +
		"\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// tlsGateway is a gateway with a TLS listener at secure, and how to connect to it.
func tlsGateway(t testing.TB, yaml string) (g *testGateway, secure string, client *tls.Config) {
	t.Helper()
	pair := testcert.New(t)
	cert, key := pair.Files(t)
	g = newGateway(t, yaml+`
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1}
  - {listen: "127.0.0.2:0", acceptors: 1, tls: {certificates: [{cert_file: "`+cert+`", key_file: "`+key+`"}]}}
`)
	return g, g.listener("127.0.0.2:0"), pair.ClientTLS("localhost")
}

func TestWebSocketEcho(t *testing.T) {
	t.Parallel()
	be := testkit.NewEchoWS(t)
	g, secure, client := tlsGateway(t, toBackend(be.Addr()))
	f := func(url string) {
		t.Helper()
		c := testkit.DialWS(t, url, client, nil)
		c.SendText("hello")
		if got := c.Text(); got != "hello" {
			t.Errorf("%s: got %q back, want hello", url, got)
		}
		big := strings.Repeat("x", 1<<20)
		go c.Send(ws.OpText, []byte(big))
		if got := c.Text(); got != big {
			t.Errorf("%s: got %d bytes back, want %d", url, len(got), len(big))
		}
		c.Ping("are you there")
		if n := int(g.metric("tickgate_connections{", `state="relayed"`)); n != 1 {
			t.Errorf("%s: %d upgraded connections counted, want 1", url, n)
		}
		if code := c.Close(ws.StatusNormalClosure, "bye"); code != ws.StatusNormalClosure {
			t.Errorf("%s: close code %d, want 1000", url, code)
		}
		_ = c.Conn.Close()
		g.wait("end of the tunnel", func() bool { now, _ := be.Open(); return now == 0 && g.conns.Open() == 0 })
	}
	f("ws://" + g.addr + "/")
	f("wss://" + secure + "/")
	g.waitTunnelEnd(reason.ClosedByBackend, 2)
	if n := g.metric("tickgate_request_duration_seconds_count"); n != 0 {
		t.Errorf("%v upgraded connections in the latency histogram, want none", n)
	}
}

// TestTunnelBytesWithHandshake sends bytes together with the handshake in both
// directions, and half-closes.
func TestTunnelBytesWithHandshake(t *testing.T) {
	t.Parallel()
	f := func(secured bool) {
		t.Helper()
		be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()+"first from backend;"), testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
			got, err := io.ReadAll(r) // to the client's half-close
			if err == nil {
				_, err = io.WriteString(c, "after "+string(got))
			}
			return errors.Join(err, io.EOF)
		}))
		g, secure, client := tlsGateway(t, toBackend(be.Addr()))
		c := g.dial()
		if secured {
			c = testkit.DialTLS(t, secure, client)
		}
		c.Send(upgrade() + "first from client;")
		resp := c.Response("GET")
		expectStatus(t, "handshake", resp, 101)
		if want := switching(); len(resp.All("Connection")) != 1 || !strings.EqualFold(resp.Get("Upgrade"), "websocket") || resp.Get("Sec-WebSocket-Accept") == "" {
			t.Errorf("101 is %q, want like %q", resp.Raw, want)
		}
		c.Until("first from backend;")
		c.Send("second")
		c.CloseWrite()
		if got := c.Rest(); got != "after first from client;second" {
			t.Errorf("TLS %t: after the half-close got %q", secured, got)
		}
		g.waitTunnelEnd(reason.ClosedByClient, 1)
	}
	f(false)
	f(true)
}

// TestTunnelBackendHalfClose has the backend end its direction first.
func TestTunnelBackendHalfClose(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()+"all"), testkit.CloseWrite(), testkit.Handle(func(r *bufio.Reader, _ *net.TCPConn) error {
		b, _ := io.ReadAll(r)
		got <- string(b)
		return io.EOF
	}))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(upgrade())
	c.Response("GET")
	if s := c.Rest(); s != "all" {
		t.Errorf("got %q, want all", s)
	}
	c.Send("still here")
	c.CloseWrite()
	if s := <-got; s != "still here" {
		t.Errorf("the backend got %q after its half-close, want still here", s)
	}
}

func TestTunnelEndsBothSides(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()), testkit.Gone(gone))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(upgrade())
	c.Response("GET")
	c.Reset()
	wait1(t, "end at the backend after the client's reset", gone)
}

func TestTunnelIdle(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()), testkit.Gone(gone))
	// The other limits are shorter than the tunnel's: none of them may end it.
	g := newGateway(t, toBackends("timeouts: {read: 1s, response_header: 1s, write: 1s, request: 1s}", "", be.Addr())+
		"timeouts: {tunnel_idle: 1500ms, idle: 10ms, write: 10ms, body: 10ms}")
	c := g.dial()
	c.Send(upgrade())
	c.Response("GET")
	c.ExpectClosed()
	wait1(t, "end of the tunnel at the backend", gone)
	g.waitTunnelEnd(reason.IdleTimeout, 1)
}

func TestUpgradeHandshakeFields(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	be := testkit.NewScript(t, testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
		req, err := testkit.ReadRequestHead(r)
		if err != nil {
			return err
		}
		heads <- string(req.Raw)
		_, err = io.WriteString(c, switching("Sec-WebSocket-Protocol: b", "X-Extra: 1"))
		return err
	}), testkit.Hang())
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(upgrade("Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Extensions: permessage-deflate", "Origin: http://x"))
	resp := c.Response("GET")
	expectStatus(t, "handshake", resp, 101)
	if resp.Get("Sec-WebSocket-Protocol") != "b" || resp.Get("X-Extra") != "1" {
		t.Errorf("101 is %q, want the backend's fields", resp.Raw)
	}
	head := <-heads
	for _, want := range []string{
		"Sec-WebSocket-Protocol: a, b\r\n", "Sec-WebSocket-Extensions: permessage-deflate\r\n", "Origin: http://x\r\n",
		"Sec-WebSocket-Key: " + wsKey + "\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("the backend got %q, want %q in it", head, want)
		}
	}
}

// TestUnaskedUpgrade lists the 101s that are not passed on.
func TestUnaskedUpgrade(t *testing.T) {
	t.Parallel()
	f := func(name, req, answer string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(answer), testkit.Hang())
		g := newGateway(t, toBackends("retry: {attempts: 1}", "", be.Addr()))
		expectStatus(t, name, g.do(req), 502, "reason: unasked_upgrade")
		if n := g.requests(reason.UnaskedUpgrade); n != 1 {
			t.Errorf("%s: %d counted, want 1", name, n)
		}
	}
	f("nobody asked", get("/"), switching())
	f("wrong accept key", upgrade(), strings.Replace(switching(), "Accept: s", "Accept: t", 1))
	f("no accept key", upgrade(), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
	f("another protocol", upgrade(), strings.Replace(switching(), "websocket", "h2c", 1))
	f("a sub-protocol that was not offered", upgrade("Sec-WebSocket-Protocol: a"), switching("Sec-WebSocket-Protocol: b"))
	f("a sub-protocol though none was offered", upgrade(), switching("Sec-WebSocket-Protocol: b"))
}

// TestRefusedUpgrade passes the backend's refusal on as the plain response it is.
func TestRefusedUpgrade(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")...)
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	for range 2 {
		resp := c.Do(upgrade())
		expectStatus(t, "refused", resp, 403, "no")
	}
	if be.Conns() != 1 {
		t.Errorf("%d backend connections, want 1: both sides go on", be.Conns())
	}
}

func TestUpgradeNotAllowed(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackends("", "websocket: false", be.Addr()))
	expectStatus(t, "websocket: false", g.do(upgrade()), 200)
	if req := be.WaitRequests(t, 1)[0]; req.Get("Upgrade") != "" || req.Get("Connection") != "" {
		t.Errorf("the backend got %q, want a plain request", req.Raw)
	}
}

func TestBadUpgradeRequests(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(raw string, status int, why string) *testkit.Response {
		t.Helper()
		resp := g.do(raw)
		expectStatus(t, raw, resp, status, "reason: "+why)
		return resp
	}
	for _, version := range []string{"8", "0", "013", "14"} {
		resp := f(strings.Replace(upgrade(), "Version: 13", "Version: "+version, 1), 426, "bad_upgrade")
		// RFC 6455 section 4.4, and RFC 9110 section 15.5.22 for Upgrade.
		if resp.Get("Sec-WebSocket-Version") != "13" || !strings.EqualFold(resp.Get("Upgrade"), "websocket") {
			t.Errorf("426 is %q, want Sec-WebSocket-Version: 13 and Upgrade: websocket", resp.Raw)
		}
		if all := strings.ToLower(strings.Join(resp.All("Connection"), ",")); !strings.Contains(all, "upgrade") {
			t.Errorf("426: Connection %q, want upgrade in it", all)
		}
	}
	f(strings.Replace(upgrade(), wsKey, "c2hvcnQ=", 1), 400, "bad_upgrade")
	f(strings.Replace(upgrade(), "Sec-WebSocket-Version: 13\r\n", "", 1), 400, "bad_upgrade")
	f(upgrade("Sec-WebSocket-Protocol:"), 400, "bad_upgrade")
	f(upgrade("Content-Length: 2")+"hi", 400, "body_on_upgrade")
	if n := len(be.Requests()); n != 0 {
		t.Errorf("%d of them reached the backend", n)
	}
}
