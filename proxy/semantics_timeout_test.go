package proxy

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// Timeouts in these tests are short for those that should pass, and long (or the
// default) for all others, so that the reason tells which one it was. Those that run
// while the test has yet to do something are 2s: a busy machine may take one for it.

func TestClientTimeouts(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	atOnce(t, func(run runner) {
		f := func(timeouts, send string, status int, why reason.Reason) {
			run(timeouts, func(t *testing.T) {
				g := newGateway(t, toBackend(be.Addr())+"timeouts: {"+timeouts+"}")
				c := g.dial()
				c.Send(send)
				resp := c.Response("POST")
				expectStatus(t, send, resp, status, "reason: "+why.String())
				if resp.Get("Connection") != "close" {
					t.Errorf("%q: Connection %q, want close", send, resp.Get("Connection"))
				}
				c.ExpectClosed()
				g.waitEnd(why, 1)
			})
		}
		// It runs from the connection's beginning.
		f("head: 2s", "GET / HTTP/1.1\r\nHost:", 408, reason.HeadTimeout)
		f("head: 2s", "\r\n", 408, reason.HeadTimeout)
		f("body: 100ms", request("POST", "/", "Content-Length: 5")+"abc", 408, reason.BodyTimeout)
		f("body: 100ms", request("POST", "/", "Content-Length: 5"), 408, reason.BodyTimeout)
		f("body: 100ms", chunkedPost("3\r\nabc\r\n"), 408, reason.BodyTimeout)
		f("body: 100ms", chunkedPost("3\r\nabc\r\n0\r\nX: y\r\n"), 408, reason.BodyTimeout)
	})
}

// TestHeadDribbles sends a byte at a time: each is early, the head is late.
func TestHeadDribbles(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{static_response: {body: ok}}]\ntimeouts: {head: 2s}")
	c := g.dial()
	c.Send("GET / HTTP/1.1\r\nHost: h\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond) // fewer fields than are too many
		defer tick.Stop()
		for c.TrySend("X: 1\r\n") == nil {
			<-tick.C
		}
	}()
	resp, err := c.TryResponse("GET")
	if resp.Status != 408 {
		t.Errorf("got %d, %v; want 408", resp.Status, err)
	}
	g.waitEnd(reason.HeadTimeout, 1)
	c.Close()
	<-done
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{static_response: {body: ok}}]\ntimeouts: {idle: 100ms, head: 2s}")
	c := g.dial()
	expectStatus(t, "first", c.Do(get("/")), 200)
	c.ExpectClosed() // in silence: a 408 could be taken for the answer to the next request
	g.waitConnEnd(reason.IdleTimeout, 1)
	// A connection that never said anything has as long as for a head.
	g.dial().ExpectClosed()
	g.waitConnEnd(reason.IdleTimeout, 2)
	if n := g.metric("tickgate_requests_total"); n != 1 {
		t.Errorf("%v requests counted, want 1", n)
	}
}

func TestBackendTimeouts(t *testing.T) {
	t.Parallel()
	atOnce(t, func(run runner) {
		f := func(timeouts, send string, status int, why reason.Reason, steps ...testkit.Step) {
			run(timeouts, func(t *testing.T) {
				gone := make(chan struct{})
				be := testkit.NewScripts(t, func(conn int) []testkit.Step {
					if conn > 0 {
						return []testkit.Step{testkit.Hang()}
					}
					return append(steps, testkit.Gone(gone))
				})
				g := newGateway(t, toBackends("timeouts: {"+timeouts+"}", "", be.Addr()))
				c := g.dial()
				c.Send(send)
				expectStatus(t, send, c.Response("GET"), status, "reason: "+why.String())
				g.waitEnd(why, 1)
				wait1(t, "end of the backend's connection", gone)
			})
		}
		interim := testkit.Send("HTTP/1.1 103 Early Hints\r\n\r\n")
		f("response_header: 100ms", get("/"), 504, reason.BackendTimeout, testkit.Receive())
		f("response_header: 100ms", get("/"), 504, reason.BackendTimeout, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nX:"))
		f("response_header: 100ms", get("/"), 504, reason.BackendTimeout, testkit.Receive(), interim)
		f("response_header: 100ms", post("hi"), 504, reason.BackendTimeout, testkit.Receive())
		f("response_header: 100ms", expecting("5")+"hello", 504, reason.BackendTimeout, testkit.Receive())
		// It runs from before the dial.
		f("request: 4s", get("/"), 504, reason.RequestTimeout, testkit.Receive())
		f("request: 4s", post(strings.Repeat("x", 100_000)), 504, reason.RequestTimeout, testkit.Receive())
		f("request: 4s", request("POST", "/", "Content-Length: 30000")+"abc", 504, reason.RequestTimeout, testkit.ReceiveHead())
	})
}

// TestRouteTimeout prefers the route's deadline to the upstream's.
func TestRouteTimeout(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Receive(), testkit.Hang())
	g := newGateway(t, toBackends("timeouts: {request: 100s}", "timeout: 100ms", be.Addr()))
	expectStatus(t, "route timeout", g.get("/"), 504, "reason: request_timeout")
}

// TestStalledBodies abort the response, so that a cut body cannot be taken for a whole one.
func TestStalledBodies(t *testing.T) {
	t.Parallel()
	atOnce(t, func(run runner) {
		f := func(timeouts string, why reason.Reason, answer string) {
			run(timeouts, func(t *testing.T) {
				be := testkit.NewScript(t, testkit.Receive(), testkit.Send(answer), testkit.Hang())
				g := newGateway(t, toBackends("timeouts: {"+timeouts+"}", "", be.Addr()))
				c := g.dial()
				c.Send(get("/"))
				resp, err := c.TryResponse("GET")
				if err == nil {
					t.Errorf("%q was passed on as a whole response: %q", answer, resp.Raw)
				}
				g.waitEnd(why, 1)
				g.waitConnEnd(why, 1)
			})
		}
		f("read: 100ms", reason.BackendStalled, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		f("read: 100ms", reason.BackendStalled, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		f("read: 100ms", reason.BackendStalled, "HTTP/1.1 200 OK\r\n\r\nabc")
		f("request: 2s", reason.RequestTimeout, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
	})
}

// TestClientStall has a client that does not read.
func TestClientStall(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"),
		testkit.Handle(func(_ *bufio.Reader, c *net.TCPConn) error {
			_, err := io.Copy(c, endless{})
			close(gone)
			return err
		}))
	g := newGateway(t, toBackend(be.Addr())+"timeouts: {write: 200ms}")
	c := g.dial()
	c.Send(get("/"))
	wait1(t, "end of the backend's connection", gone)
	g.waitEnd(reason.ClientStall, 1)
}

// endless is a reader of "x" without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestWriteStall has a backend that does not take the request.
func TestWriteStall(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	be := testkit.NewScript(t, testkit.WaitFor(hold))
	g := newGateway(t, toBackends("timeouts: {write: 200ms, response_header: 100ms}", "", be.Addr()))
	c := g.dial()
	go func() { _ = c.TrySend(request("POST", "/", "Content-Length: 100000000") + strings.Repeat("x", 64<<20)) }()
	expectStatus(t, "write stall", c.Response("POST"), 502, "reason: backend_write_failed")
	close(hold)
}

// TestSlowIsNotStalled has each party pause for longer than a timeout that is about
// another one: none of them may fire.
func TestSlowIsNotStalled(t *testing.T) {
	t.Parallel()
	// What does not pause must be done within short, on a busy machine too.
	const short = "2s"
	const pause = 2400 * time.Millisecond // some sweeps beyond the timeouts
	f := func(name, client, backend string, act func(c *testkit.Client), steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := testkit.NewScript(t, steps...)
			g := newGateway(t, toBackends("timeouts: {"+backend+"}", "", be.Addr())+"timeouts: {"+client+"}")
			c := g.dial()
			act(c)
			resp, err := c.TryResponse("GET")
			if err != nil || resp.Status != 200 {
				t.Errorf("%d, %v: %.200q", resp.Status, err, resp.Raw)
			}
		})
	}
	send := func(parts ...string) func(c *testkit.Client) {
		return func(c *testkit.Client) { c.SendEach(func() { pauseFor(pause) }, parts...) }
	}
	ok := testkit.Send(string(testkit.OK("ok")))
	f("the backend thinks, write is short", "head: "+short+", body: "+short+", idle: "+short+", write: "+short, "write: "+short+", read: "+short,
		send(get("/")), testkit.Receive(), testkit.Pause(pause), ok)
	f("the backend pauses in its response", "head: "+short+", body: "+short+", idle: "+short+", write: "+short, "write: "+short+", response_header: "+short,
		send(get("/")), testkit.Receive(), testkit.SendSplit("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", 39, pause))
	f("the backend pauses in a body until its end", "write: "+short, "write: "+short+", response_header: "+short,
		send(get("/")), testkit.Receive(), testkit.SendSplit("HTTP/1.1 200 OK\r\n\r\nab", 20, pause), testkit.Close())
	f("the client pauses in its upload", "head: "+short+", write: "+short+", idle: "+short, "write: "+short+", response_header: "+short+", read: "+short,
		send(request("POST", "/", "Content-Length: 4")+"a", "b", "cd"), testkit.Receive(), ok)
	f("the client pauses in an expected upload", "write: "+short, "write: "+short+", response_header: "+short,
		func(c *testkit.Client) {
			c.Send(expecting("4"))
			c.Until(continueLine)
			c.SendEach(func() { pauseFor(pause) }, "a", "bcd")
		}, testkit.ReceiveHead(), testkit.Send(continueLine), testkit.ReceiveBytes(4), ok)
	// The backend pauses in reading a large upload.
	f("the backend is slow to read", "body: "+short, "response_header: 5s",
		func(c *testkit.Client) { go c.TrySend(post(strings.Repeat("x", 32<<20))) },
		testkit.ReceiveHead(), testkit.Pause(pause), testkit.ReceiveBytes(32<<20), ok)
	// The client pauses in reading a large download.
	f("the client is slow to read", "idle: "+short, "read: "+short+", response_header: "+short,
		func(c *testkit.Client) { c.Send(get("/")); pauseFor(pause) },
		testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(32<<20)+"\r\n\r\n"+strings.Repeat("x", 32<<20)))
}

// pauseFor lets time pass where the passing of time is what is tested.
func pauseFor(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
