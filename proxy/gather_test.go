//go:build linux

package proxy

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

// waitBodies waits until n connections are parked within a body, with rest bytes of the
// request each unless that is 0, and none has a worker.
func (g *testGateway) waitBodies(n, rest int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d parked bodies", n), func() bool {
		found := 0
		g.lot.Each(func(i park.Info) bool {
			if i.Phase == park.Body && (rest == 0 || i.Rest == rest) {
				found++
			}
			return true
		})
		return found == n && len(g.connections()) == 0
	})
}

// expectNoPlace checks that nobody has a place at the gate, nor a connection to a backend.
func (g *testGateway) expectNoPlace() {
	g.t.Helper()
	if st := g.gate.Stats(); st.InUse != 0 || st.Waiting != 0 {
		g.t.Errorf("%d requests have a worker and %d wait for one, want none", st.InUse, st.Waiting)
	}
}

// TestSlowSmallBodiesHoldNobody has many more clients stop in a small body than there
// are workers, in the queue and in the lobby too.
func TestSlowSmallBodiesHoldNobody(t *testing.T) {
	t.Parallel()
	const clients = 80
	be := testkit.NewRecorder(t, nil)
	onEach(t, toBackend(be.Addr())+"workers: {max: 2, queue: 2, queue_timeout: 20s, park_after: 1ms}\ntimeouts: {body: 100s, handshake: 100s, head: 100s}\n",
		func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
			slow := make([]*testkit.Client, clients)
			for i := range slow {
				slow[i] = dial()
				slow[i].Send(request("POST", "/slow", "Content-Length: 10") + "1")
			}
			g.waitBodies(clients, 0)
			for i := range 8 {
				for _, c := range slow {
					c.Send(strconv.Itoa(i))
				}
				g.expectNoPlace()
				expectStatus(t, "GET", dial().Do(get("/quick")), 200)
			}
			for _, c := range slow {
				c.Send("e")
				expectStatus(t, "slow POST", c.Response("POST"), 200)
			}
			if n := int(g.metric("tickgate_workers_rejected_total")); n != 0 {
				t.Errorf("%d requests were refused", n)
			}
			g.waitEnd(reason.OK, clients+8)
			g.waitParked(clients + 8)
			g.expectNoPlace()
		})
}

// TestBodiesInPieces parks between the pieces of a body. The backend gets it whole, and the
// request behind it is answered too.
func TestBodiesInPieces(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 1200)
	wide := "X-Wide: " + strings.Repeat("w", 6000)
	f := func(name, raw, body, trailers string, cuts ...int) {
		t.Run(name, func(t *testing.T) {
			be := testkit.NewRecorder(t, nil)
			onEach(t, toBackend(be.Addr())+soon+"timeouts: {body: 100s, handshake: 100s, head: 100s}\n", func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
				c := dial()
				for range 2 {
					from := 0
					for _, cut := range cuts {
						c.Send(raw[from:cut])
						from = cut
						g.waitBodies(1, cut)
						g.expectNoPlace()
					}
					c.Send(raw[from:] + get("/next"))
					expectStatus(t, "POST", c.Response("POST"), 200)
					expectStatus(t, "next", c.Response("GET"), 200)
				}
			})
			t.Cleanup(func() { // after the parallel ones
				posts := 0
				for _, r := range be.Requests() {
					if r.Method != "POST" {
						continue
					}
					posts++
					if string(r.Body) != body || fmt.Sprint(r.Trailers) != trailers {
						t.Errorf("the backend got %.100q with trailers %v, want %.100q and %s", r.Body, r.Trailers, body, trailers)
					}
				}
				if flaws := be.Flaws(); posts != 6 || len(flaws) > 0 {
					t.Errorf("%d requests, malformed: %v", posts, flaws)
				}
			})
		})
	}
	head := len(post("", "X: 1"))
	f("length", post("hello", "X: 1"), "hello", "[]", head, head+1, head+4)
	chunked := chunkedPost("3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum")
	end := len(chunked)
	f("chunked", chunked, "abcde", "[{X-Sum 1}]", end-36, end-35, end-28, end-22, end-15, end-5, end-1)
	large := post(long, "X: 1")
	f("larger than the first buffer", large, long, "[]", 200, 4096, 4097, 9000, len(large)-1)
	both := post(long, wide)
	f("behind a large head", both, long, "[]", 6300, 8192, 8193, len(both)-1)
}

// TestBodyIsAwaitedForSoLong lets the time of bodies pass, at once and while pieces come.
func TestBodyIsAwaitedForSoLong(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	onEach(t, toBackend(be.Addr())+"timeouts: {body: 250ms, handshake: 100s, head: 100s}\n", func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		c.Send(request("POST", "/", "Content-Length: 10") + "abc")
		resp := c.Response("POST")
		expectStatus(t, "pause", resp, 408, "reason: body_timeout")
		if resp.Get("Connection") != "close" {
			t.Errorf("Connection %q, want close", resp.Get("Connection"))
		}
		c.ExpectClosed()
		g.waitConnEnd(reason.BodyTimeout, 1)

		c = dial()
		c.Send(request("POST", "/", "Content-Length: 16000"))
		over, stopped := make(chan struct{}), make(chan struct{})
		go func() { // no pause is long
			defer close(stopped)
			for range 15_999 {
				select {
				case <-over:
					return
				case <-time.After(5 * time.Millisecond):
				}
				_ = c.TrySend("x")
			}
		}()
		expectStatus(t, "dribbling", c.Response("POST"), 408, "reason: body_timeout")
		close(over)
		wait1(t, "end of the dribbling", stopped)
		g.waitEnd(reason.BodyTimeout, 2)
		g.expectNoPlace()
	})
	t.Cleanup(func() {
		if n := len(be.Requests()); n != 0 {
			t.Errorf("the backend got %d requests", n)
		}
	})
}

// TestHalfBodiesEnd ends requests in the middle of their body, each with its reason.
func TestHalfBodiesEnd(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	f := func(why reason.Reason, upstream string, end func(g *testGateway, c *testkit.Client)) {
		t.Run(why.String(), func(t *testing.T) {
			onEach(t, toBackends(upstream, "", be.Addr())+"timeouts: {body: 100s, handshake: 100s, head: 100s}\n", func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
				c := dial()
				c.Do(get("/"))
				c.Send(request("POST", "/", "Content-Length: 10") + "abc")
				g.waitBodies(1, 0)
				end(g, c)
				g.waitEnd(why, 1)
				g.waitNone()
				if n := g.metric("tickgate_request_body_bytes_total{"); n != 3 {
					t.Errorf("%v bytes of body counted, want 3", n)
				}
				g.expectNoPlace()
			})
		})
	}
	f(reason.ClientGone, "", func(_ *testGateway, c *testkit.Client) { c.Close() })
	f(reason.KilledByUser, "", func(g *testGateway, c *testkit.Client) {
		if !g.end(g.onlyID(), true) {
			t.Error("nobody to close")
		}
		c.Close()
	})
	f(reason.ShutDown, "", func(g *testGateway, c *testkit.Client) {
		g.draining.Store(true)
		g.cut()
		c.Close()
	})
	f(reason.RequestTimeout, "timeouts: {request: 2s}", func(_ *testGateway, c *testkit.Client) {
		expectStatus(t, "late", c.Response("POST"), 504, "reason: request_timeout")
		c.Close()
	})
}

// TestDrainWaitsForBodies as it does for heads.
func TestDrainWaitsForBodies(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	onEach(t, toBackend(be.Addr())+"drain: {grace: 1ms, timeout: 60s}\ntimeouts: {body: 100s, handshake: 100s, head: 100s}\n", func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c, idle := dial(), dial()
		idle.Do(get("/"))
		c.Do(get("/"))
		c.Send(post("hello")[:len(post("hello"))-1])
		g.waitBodies(1, 0)
		cut := g.drain()
		idle.ExpectClosed() // what waits for nothing
		g.waitBodies(1, 0)
		c.Send("o")
		resp := c.Response("POST")
		expectStatus(t, "while draining", resp, 200)
		if resp.Get("Connection") != "close" {
			t.Errorf("Connection %q, want close", resp.Get("Connection"))
		}
		c.Close()
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
	})
}

// TestReloadMeetsHalfBody serves a body by the configuration of the moment when it is whole.
func TestReloadMeetsHalfBody(t *testing.T) {
	t.Parallel()
	before, after := testkit.NewRecorder(t, nil), testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(before.Addr()))
	whole := post("hello")
	half := func() *testkit.Client {
		c := g.dial()
		c.Send(whole[:len(whole)-1])
		return c
	}
	a, b := half(), half()
	g.waitBodies(2, 0)
	g.reload(toBackend(after.Addr()) + "limits: {request_buffer: 3B}")
	a.Send("o")
	expectStatus(t, "whole after a reload", a.Response("POST"), 200)
	if n, m := len(before.Requests()), len(after.Requests()); n != 0 || m != 1 {
		t.Errorf("%d requests to the old backend and %d to the new one, want 0 and 1", n, m)
	}
	g.reload(static(""))
	b.Send("x")
	expectStatus(t, "now static", b.Response("POST"), 200)
	g.waitEnd(reason.LocalResponse, 1)
}

// TestWhatNeedsNoBody is answered before it is here, and what cannot be right is refused early.
func TestWhatNeedsNoBody(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams:
  be: {servers: [{address: "`+be.Addr()+`"}]}
  drained: {servers: [{address: "`+be.Addr()+`", drain: true}]}
timeouts: {body: 100s, handshake: 100s, head: 100s}
routes:
  - {path: /static, static_response: {body: ok}}
  - {path: /redirect, redirect: {location: /}}
  - {path: /gone, upstream: drained}
  - {path: /small, upstream: be, max_body: 5B}
  - {path: /dots, upstream: be, rewrite: {path: "/../x"}}
  - {path: /, methods: [POST], upstream: be}
`)
	f := func(method, path, framing, body string, want int) {
		t.Helper()
		c := g.dial()
		c.Send(request(method, path, framing) + body)
		expectStatus(t, path+" "+framing, c.Response(method), want)
		c.Close()
	}
	length, chunked := "Content-Length: 10", "Transfer-Encoding: chunked"
	f("POST", "/static", length, "", 200)
	f("POST", "/redirect", length, "", 308)
	f("POST", "/gone", length, "abc", 503)
	f("POST", "/gone", chunked, "3\r\nabc\r\n", 503)
	f("POST", "/small", length, "", 413)
	f("POST", "/small", chunked, "6\r\nabcdef\r\n", 413)
	f("POST", "/dots", length, "abc", 400)
	f("PUT", "/", length, "", 405)
	f("POST", "/", chunked, "3\r\nabcd", 400)
	f("POST", "/", chunked, "x", 400)
	if n := len(be.Requests()); n != 0 {
		t.Errorf("the backend got %d requests", n)
	}
}

// TestWhatStreams reaches the backend before it is whole.
func TestWhatStreams(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
limits: {request_buffer: 20B}
routes:
  - {path: /more, upstream: be, request_buffer: 1KiB}
  - {path: /off, upstream: be, request_buffer: 1B}
  - {path: /, upstream: be}
`)
	f := func(raw, seen string) {
		t.Helper()
		be.Forget()
		c := g.dial()
		c.Send(raw)
		g.wait("part of a request at the backend", func() bool {
			return slices.ContainsFunc(be.Conns(), func(c testkit.RecordedConn) bool { return strings.HasSuffix(string(c.Raw), seen) })
		})
		c.Close()
		be.WaitIdle(t)
	}
	f(request("POST", "/", "Content-Length: 21")+"a", "\r\n\r\na")
	f(request("POST", "/off", "Content-Length: 2")+"a", "\r\n\r\na")
	f(request("POST", "/off", "Transfer-Encoding: chunked")+"1\r\na\r\n", "1\r\na\r\n")
	f(request("POST", "/", "Transfer-Encoding: chunked")+"11\r\n0123456789abcdefg\r\n", "11\r\n0123456789abcdefg\r\n")
	f(request("POST", "/", "Transfer-Encoding: chunked")+"1;"+strings.Repeat("x", 30)+"\r\na\r\n", "1\r\na\r\n")
	f(request("POST", "/more", "Content-Length: 1025"), "\r\n\r\n")
	f(request("POST", "/more", "Content-Length: 10", "Expect: 100-continue"), "\r\n\r\n")
	g.waitNone()
	g.expectNoPlace()
}

// TestWholeBodiesAreRepeated sends a body that parked to another backend when the first fails.
func TestWholeBodiesAreRepeated(t *testing.T) {
	t.Parallel()
	bad := testkit.NewScript(t, testkit.Receive(), testkit.Reset())
	good := testkit.NewRecorder(t, nil)
	body := strings.Repeat("0123456789abcdef", 900)
	f := func(framing, raw string) {
		t.Helper()
		g := newGateway(t, toBackends("retry: {attempts: 2, on: [reset]}", "", bad.Addr(), good.Addr()))
		for range 2 { // one of them meets the bad backend first
			c := g.dial()
			c.Send(request("PUT", "/", framing) + raw[:5000])
			g.waitBodies(1, 0)
			c.Send(raw[5000:])
			expectStatus(t, framing, c.Response("PUT"), 200)
		}
		if n := g.metric("tickgate_upstream_retries_total"); bad.Requests() == 0 {
			t.Errorf("%s: the bad backend was never asked; %v retries", framing, n)
		}
	}
	f("Content-Length: "+strconv.Itoa(len(body)), body)
	f("Transfer-Encoding: chunked", strconv.FormatInt(int64(len(body)), 16)+"\r\n"+body+"\r\n0\r\n\r\n")
	for _, r := range good.Requests() {
		if string(r.Body) != body {
			t.Errorf("the backend got %d bytes, want %d", len(r.Body), len(body))
		}
	}
}

// TestGatheringMuch awaits a body that needs a buffer from the heap.
func TestGatheringMuch(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr())+"limits: {request_buffer: 1MiB}\ntimeouts: {body: 100s, handshake: 100s, head: 100s}\n")
	c := g.dial()
	c.Send(request("POST", "/", "Content-Length: 1048576") + "a")
	g.waitBodies(1, len(request("POST", "/", "Content-Length: 1048576"))+1)
	body := strings.Repeat("b", 1<<20-1)
	c.Send(body[:500_000])
	g.waitBodies(1, len(request("POST", "/", "Content-Length: 1048576"))+500_001)
	c.Send(body[500_000:])
	expectStatus(t, "large", c.Response("POST"), 200)
	if r := be.WaitRequests(t, 1)[0]; string(r.Body) != "a"+body {
		t.Errorf("the backend got %d bytes", len(r.Body))
	}
	g.waitParked(1)
}

// splitConn sends everything in two segments.
type splitConn struct {
	net.Conn
	at int
}

func (c splitConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:c.at])
	if err != nil {
		return n, err
	}
	m, err := c.Conn.Write(p[c.at:])
	return n + m, err
}

func TestGatheringAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing to measure")
		return
	}
	answer := []byte("HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok")
	f := func(name, raw string, at int) {
		t.Helper()
		g := newGateway(t, toBackend(allocBackend(t, answer)))
		if n := allocsPerRequest(t, splitConn{g.dial().Conn, at}, []byte(raw)); n >= 0.01 {
			t.Errorf("%s: %.3f allocations per request, want none", name, n)
		}
	}
	small := post("a small body")
	f("in one segment", small, len(small))
	f("body in a segment of its own", small, len(small)-len("a small body"))
	f("cut in its body", small, len(small)-3)
	large := post(strings.Repeat("x", 10_000) + "body")
	f("larger than the first buffer", large, len(large))
	f("larger, in two segments", large, len(large)-5000)
}
