package proxy

import (
	"fmt"
	"strings"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// echoTarget is a backend that answers with what it was asked for.
func echoTarget(t testing.TB) *testkit.Recorder {
	return testkit.NewRecorder(t, func(r *testkit.Request) []byte {
		return testkit.OK(r.Method + " " + r.Target + " " + string(r.Body))
	})
}

func TestPipelining(t *testing.T) {
	t.Parallel()
	be := echoTarget(t)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /local, static_response: {body: local}}
  - {path: /, upstream: be}
`)
	big := strings.Repeat("x", 20_000)
	f := func(raw string, want ...string) {
		t.Helper()
		// At once, and in pieces that no request ends with.
		for _, size := range []int{len(raw), 7000, 61} {
			c := g.dial()
			go func() {
				for rest := raw; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					if c.TrySend(rest[:min(size, len(rest))]) != nil {
						return
					}
				}
			}()
			for _, w := range want {
				if got := string(c.Response("GET").Body); got != w {
					t.Errorf("%.80q in pieces of %d: got %.80q, want %.80q", raw, size, got, w)
				}
			}
			c.Close()
		}
	}
	f(get("/1")+get("/2")+get("/3"), "GET /1 ", "GET /2 ", "GET /3 ")
	f(get("/local")+get("/2")+get("/local")+get("/4"), "local", "GET /2 ", "local", "GET /4 ")
	f(post("body")+get("/2"), "POST / body", "GET /2 ")
	f(post(big)+post("b")+get("/3"), "POST / "+big, "POST / b", "GET /3 ")
	f(chunkedPost("3\r\nabc\r\n0\r\n\r\n")+get("/2"), "POST / abc", "GET /2 ")
	f(chunkedPost("3\r\nabc\r\n0\r\nX: y\r\n\r\n")+chunkedPost("0\r\n\r\n")+get("/3"), "POST / abc", "POST / ", "GET /3 ")
	f(chunkedPost(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(big), big))+get("/2"), "POST / "+big, "GET /2 ")
	f(strings.Repeat(get("/x"), 300), slicesOf("GET /x ", 300)...)
	for _, flaw := range be.Flaws() {
		t.Errorf("the backend got a malformed request: %v", flaw)
	}
}

// slicesOf is n times s.
func slicesOf(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// TestPipelinedAnswerDoesNotWait has the first answer arrive although the second
// request is stuck.
func TestPipelinedAnswerDoesNotWait(t *testing.T) {
	t.Parallel()
	f := func(second string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(string(testkit.OK("one"))), testkit.Hang())
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		c.Send(get("/1") + second)
		expectStatus(t, second, c.Response("GET"), 200, "one")
	}
	f(get("/2"))
	f("GET /half HTTP/1.1\r\nHo")
}

func TestPersistence(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(raw string, persists bool, connection string) {
		t.Helper()
		c := g.dial()
		resp := c.Do(raw)
		if got := resp.Get("Connection"); got != connection {
			t.Errorf("%q: Connection %q, want %q", raw, got, connection)
		}
		if persists {
			expectStatus(t, raw, c.Do(get("/")), 200)
			c.Close()
			return
		}
		c.ExpectClosed()
	}
	f("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true, "")
	f("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", true, "")
	f("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false, "close")
	f("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n", false, "close")
	f("GET / HTTP/1.0\r\nHost: h\r\n\r\n", false, "close")
	f("GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n", true, "keep-alive")
	f("GET / HTTP/1.0\r\nHost: h\r\nConnection: close, keep-alive\r\n\r\n", false, "close")
	f(strings.Replace(post("hi", "Connection: close"), "HTTP/1.1", "HTTP/1.0", 1), false, "close")
	if n := len(be.Conns()); n != 1 {
		t.Errorf("%d backend connections, want 1: what clients do is not passed on", n)
	}
}

func TestKeepAliveLimits(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	f := func(limits string, why reason.Reason, served int) {
		t.Helper()
		g := newGateway(t, toBackend(be.Addr())+"limits: {"+limits+"}")
		c := g.dial()
		for i := 1; i <= served; i++ {
			want := ""
			if i == served {
				want = "close"
			}
			if got := c.Do(get("/")).Get("Connection"); got != want {
				t.Errorf("%s: response %d has Connection %q, want %q", limits, i, got, want)
			}
		}
		c.ExpectClosed()
		c.Close()
		g.waitConnEnd(why, 1)
	}
	f("max_requests_per_conn: 1", reason.MaxRequests, 1)
	f("max_requests_per_conn: 3", reason.MaxRequests, 3)
	f("max_conn_age: 1ns", reason.MaxLifetime, 1)
}

func TestConnectionCaps(t *testing.T) {
	t.Parallel()
	f := func(yaml string, limit int) {
		t.Helper()
		g := newGateway(t, "routes: [{static_response: {body: ok}}]\n"+yaml)
		var open []*testkit.Client
		for range limit {
			c := g.dial()
			expectStatus(t, yaml, c.Do(get("/")), 200)
			open = append(open, c)
		}
		g.dial().ExpectClosed()
		g.waitConnEnd(reason.TooManyConns, 1)
		// One leaves, so another one may come.
		open[0].Close()
		g.wait("end of the connection", func() bool { return g.conns.Open() == limit-1 })
		expectStatus(t, yaml, g.get("/"), 200)
	}
	f("connections: {max: 3}", 3)
	f("connections: {max_per_client: 2}", 2)
	f(`listeners: [{listen: "127.0.0.1:0", acceptors: 1, max_connections: 2}]`, 2)
}

// TestOverloaded has one worker, which is busy.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.WaitFor(release), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackend(be.Addr())+"workers: {max: 1, queue_timeout: 50ms}")
	busy := g.dial()
	busy.Send(get("/"))
	g.wait("request at the backend", func() bool { return be.Requests() == 1 })
	resp := g.get("/")
	expectStatus(t, "no worker", resp, 503, "reason: overloaded")
	if resp.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q, want 1", resp.Get("Retry-After"))
	}
	waiting := g.dial()
	waiting.Send(get("/"))
	close(release)
	expectStatus(t, "the busy one", busy.Response("GET"), 200)
	_, _ = waiting.TryResponse("GET") // in time or not: it depends on the clock
}

// TestClientGone cancels the attempt: the backend sees its connection closed.
func TestClientGone(t *testing.T) {
	t.Parallel()
	f := func(name string, send string, leave func(c *testkit.Client), answer ...testkit.Step) {
		t.Helper()
		arrived, gone := make(chan struct{}), make(chan struct{})
		steps := append([]testkit.Step{testkit.ReceiveHead(), testkit.Signal(arrived)}, answer...)
		be := testkit.NewScript(t, append(steps, testkit.Gone(gone))...)
		g := newGateway(t, toBackend(be.Addr())+"limits: {request_buffer: 0B}")
		c := g.dial()
		c.Send(send)
		wait1(t, "request at the backend", arrived)
		if len(answer) > 0 {
			c.Until("some")
		}
		leave(c)
		wait1(t, name+": end of the backend's connection", gone)
		g.waitEnd(reason.ClientGone, 1)
		if be.Conns() != 1 {
			t.Errorf("%s: %d connections: a request whose client has gone was retried", name, be.Conns())
		}
	}
	closes := func(c *testkit.Client) { c.Close() }
	resets := func(c *testkit.Client) { c.Reset() }
	f("closed while waiting", get("/"), closes)
	f("reset while waiting", get("/"), resets)
	f("closed behind a pipelined request", get("/")+get("/2"), closes)
	f("closed during the upload", request("POST", "/", "Content-Length: 10")+"abc", closes)
	f("reset during a chunked upload", chunkedPost("3\r\nabc\r\n"), resets)
	f("closed during a quiet download", get("/"), closes, testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"))
	f("closed during an event stream", get("/"), resets, testkit.Send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nsome"))
}

// TestClientGoneWhileDownloading leaves in the middle of a download without pause.
func TestClientGoneWhileDownloading(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"), testkit.SendForever(strings.Repeat("x", 10_000)))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(get("/"))
	c.Until("xxx")
	c.Reset()
	g.waitEnd(reason.ClientGone, 1)
}

func TestCompact(t *testing.T) {
	f := func(size int, received string, read int, want string, wantSize int) {
		t.Helper()
		c := &clientConn{first: make([]byte, 8), in: make([]byte, size)}
		if size == 8 {
			c.in = c.first
		}
		c.r, c.w = read, copy(c.in, received)
		c.compact()
		if got := string(c.in[c.r:c.w]); got != want || c.r != 0 || len(c.in) != wantSize {
			t.Errorf("buffer of %d with %q, %d of it read: %q at %d in a buffer of %d, want %q at 0 in %d", size, received, read, got, c.r, len(c.in), want, wantSize)
		}
	}
	f(8, "", 0, "", 8)
	f(8, "abcdef", 6, "", 8)
	f(8, "abcdef", 4, "ef", 8)
	f(8, "abcdef", 0, "abcdef", 8)
	// A buffer that had to grow is given up as soon as it is not needed.
	f(16, "0123456789", 10, "", 8)
	f(16, "0123456789", 5, "56789", 8)
	f(16, "0123456789", 1, "123456789", 16)
	f(16, "0123456789", 0, "0123456789", 16)
}
