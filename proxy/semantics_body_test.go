package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// wait1 waits for ch to be closed.
func wait1(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	timer := time.NewTimer(testkit.Patience)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
		t.Fatalf("no %s within %v", what, testkit.Patience)
	}
}

// post is a POST with a Content-Length body.
func post(body string, fields ...string) string {
	return request("POST", "/", append(fields, "Content-Length: "+strconv.Itoa(len(body)))...) + body
}

// chunkedPost is a POST whose body is the given chunks.
func chunkedPost(body string, fields ...string) string {
	return request("POST", "/", append(fields, "Transfer-Encoding: chunked")...) + body
}

func TestRequestBodies(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(raw, body, framing string) {
		t.Helper()
		// In one write, and then cut at every place that can matter: a body that comes
		// with its head takes another way than one that follows.
		headEnd := strings.Index(raw, "\r\n\r\n") + 4
		for _, cut := range []int{len(raw), headEnd, headEnd - 1, headEnd + 1, len(raw) - 1} {
			if cut > len(raw) {
				continue
			}
			be.Forget()
			c := g.dial()
			c.Send(raw[:cut])
			if cut < len(raw) {
				c.Send(raw[cut:])
			}
			expectStatus(t, raw, c.Response("POST"), 200)
			req := be.WaitRequests(t, 1)[0]
			if string(req.Body) != body {
				t.Errorf("%.100q cut at %d: the backend got body %q, want %q", raw, cut, req.Body, body)
			}
			if got := req.Get("Content-Length") + req.Get("Transfer-Encoding"); got != framing {
				t.Errorf("%.100q cut at %d: the backend got framing %q, want %q", raw, cut, got, framing)
			}
			// The connection goes on.
			expectStatus(t, "next request", c.Do(get("/")), 200)
			c.Close()
		}
	}
	f(post("hello"), "hello", "5")
	f(post(""), "", "0")
	f(post(strings.Repeat("x", 50_000)), strings.Repeat("x", 50_000), "50000")
	f(request("POST", "/"), "", "")
	f(chunkedPost("5\r\nhello\r\n0\r\n\r\n"), "hello", "chunked")
	f(chunkedPost("0\r\n\r\n"), "", "chunked")
	f(chunkedPost("3;ext=\"v\"\r\nabc\r\n00A\r\n0123456789\r\n000\r\n\r\n"), "abc0123456789", "chunked")
	if flaws := be.Flaws(); len(flaws) > 0 {
		t.Errorf("the backend got malformed requests: %v", flaws)
	}
}

func TestRequestTrailers(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(trailers, want string) {
		t.Helper()
		be.Forget()
		expectStatus(t, trailers, g.do(chunkedPost("2\r\nhi\r\n0\r\n"+trailers+"\r\n", "Trailer: X-Sum")), 200)
		req := be.WaitRequests(t, 1)[0]
		if got := fmt.Sprint(req.Trailers); got != want || string(req.Body) != "hi" {
			t.Errorf("trailers %q: the backend got %s and body %q, want %s", trailers, got, req.Body, want)
		}
		if got := req.Get("Trailer"); got != "X-Sum" {
			t.Errorf("the backend got Trailer %q, want X-Sum", got)
		}
	}
	f("X-Sum: 1\r\nX-Two:  2 \r\n", "[{X-Sum 1} {X-Two 2}]")
	f("", "[]")
	// Fields that would change how the request was understood are left out.
	f("X-Sum: 1\r\nAuthorization: x\r\nX-Forwarded-For: 1.2.3.4\r\nCookie: a\r\n", "[{X-Sum 1}]")
	f("X-Sum: 1\r\nX.Forwarded.Prefix: x\r\nX.Real.IP: 1\r\nContent_Type: a\r\nSet.Cookie: a\r\nWWW_Authenticate: a\r\nX.Sum: 2\r\n", "[{X-Sum 1} {X.Sum 2}]")
}

func TestResponseBodies(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", 20_000)
	f := func(raw, body string, reused bool) {
		t.Helper()
		closes := !reused
		script := []testkit.Step{testkit.Receive(), testkit.Send(raw)}
		if closes {
			script = append(script, testkit.Close())
		}
		be := testkit.NewScript(t, script...)
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		for range 2 {
			resp := c.Do(get("/"))
			if resp.Status != 200 || string(resp.Body) != body {
				t.Errorf("%.100q: got %d with body %.100q of %d bytes, want %d", raw, resp.Status, resp.Body, len(resp.Body), len(body))
			}
			if resp.UntilClose || resp.Get("Connection") != "" {
				t.Errorf("%.100q: the client's connection does not persist: %.200q", raw, resp.Raw)
			}
		}
		if got := be.Conns() == 1; got != reused {
			t.Errorf("%.100q: %d connections for two requests, want reuse %t", raw, be.Conns(), reused)
		}
		// An HTTP/1.0 client knows no chunks.
		resp := g.do("GET / HTTP/1.0\r\n\r\n")
		if resp.Chunked || string(resp.Body) != body {
			t.Errorf("%.100q: HTTP/1.0 client got %.100q", raw, resp.Raw)
		}
		resp = g.do(request("HEAD", "/", "X: 1"))
		if len(resp.Body) > 0 {
			t.Errorf("%.100q: HEAD got a body", raw)
		}
	}
	ok := "HTTP/1.1 200 OK\r\n"
	f(ok+"Content-Length: 2\r\n\r\nhi", "hi", true)
	f(ok+"Content-Length: 0\r\n\r\n", "", true)
	f(ok+"Content-Length: "+strconv.Itoa(len(big))+"\r\n\r\n"+big, big, true)
	f(ok+"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n", "hi!", true)
	f(ok+"Transfer-Encoding: chunked\r\n\r\n"+strconv.FormatInt(int64(len(big)), 16)+"\r\n"+big+"\r\n0\r\n\r\n", big, true)
	f(ok+"\r\nuntil the end", "until the end", false)
	f(ok+"\r\n"+big, big, false)
	f("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi", false)
	f("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "hi", true)
	f(ok+"Connection: close\r\nContent-Length: 2\r\n\r\nhi", "hi", false)
	f("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", "hi", true)
}

func TestBodylessResponses(t *testing.T) {
	t.Parallel()
	f := func(method, raw, want string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Respond(raw)...)
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		for range 2 { // the second shows that both connections go on
			resp := c.Do(request(method, "/"))
			if got := withoutDate(t, resp.Raw); got != want {
				t.Errorf("%s %q\n got %q\nwant %q", method, raw, got, want)
			}
		}
		if be.Conns() != 1 {
			t.Errorf("%s %q: %d connections, want 1", method, raw, be.Conns())
		}
	}
	f("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
	f("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n")
	f("HEAD", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n")
	f("GET", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n")
	f("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n")
	f("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 77\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 77\r\n\r\n")
	f("DELETE", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
}

func TestResponseTrailers(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Respond("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nset-cookie: a\r\n\r\n")...)
	g := newGateway(t, toBackend(be.Addr()))
	resp := g.get("/", "TE: trailers")
	if got := fmt.Sprint(resp.Trailers); got != "[{X-Sum 1}]" || resp.Get("Trailer") != "X-Sum" {
		t.Errorf("trailers %s (announced %q), want X-Sum alone", got, resp.Get("Trailer"))
	}
}

// TestResponseStreams has each piece arrive before the next is made.
func TestResponseStreams(t *testing.T) {
	t.Parallel()
	f := func(head, terminator string, pieces ...string) {
		t.Helper()
		next := make(chan struct{})
		be := testkit.NewScript(t, testkit.Receive(), testkit.Handle(func(_ *bufio.Reader, c *net.TCPConn) error {
			_, _ = io.WriteString(c, head)
			for _, p := range pieces {
				<-next
				_, _ = io.WriteString(c, p)
			}
			<-next
			_, _ = io.WriteString(c, terminator)
			return io.EOF
		}))
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		c.Send(get("/"))
		c.Until("\r\n\r\n") // the head comes before any of the body is there
		for _, p := range pieces {
			next <- struct{}{}
			if got := c.Next(len(p)); got != p {
				t.Errorf("%q: got %q, want %q", head, got, p)
			}
		}
		next <- struct{}{}
	}
	f("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n",
		"9\r\ndata: 1\n\n\r\n", "9\r\ndata: 2\n\n\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "", "01234", "56789")
	// Bodies without a length become chunks.
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n", "1\r\na\r\n", "1\r\nb\r\n")
}

func TestUntilCloseStreams(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\n\r\none"), testkit.WaitFor(next), testkit.Send("two"), testkit.Close())
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(get("/"))
	c.Until("3\r\none\r\n")
	close(next)
	c.Until("3\r\ntwo\r\n0\r\n\r\n")
}

// TestRequestStreams has the backend see each piece before the next is sent.
func TestRequestStreams(t *testing.T) {
	t.Parallel()
	f := func(head string, pieces, seen []string) {
		t.Helper()
		next := make(chan struct{})
		be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
			for _, p := range seen {
				b := make([]byte, len(p))
				if _, err := io.ReadFull(r, b); err != nil {
					return err
				}
				if string(b) != p {
					return fmt.Errorf("got %q", b)
				}
				next <- struct{}{}
			}
			_, err := c.Write(testkit.OK("done"))
			return err
		}))
		g := newGateway(t, toBackend(be.Addr())+"limits: {request_buffer: 0B}")
		c := g.dial()
		c.Send(head)
		for _, p := range pieces {
			c.Send(p)
			<-next
		}
		expectStatus(t, head, c.Response("POST"), 200, "done")
	}
	f(request("POST", "/", "Content-Length: 6"), []string{"abc", "def"}, []string{"abc", "def"})
	f(request("POST", "/", "Transfer-Encoding: chunked"), []string{"3\r\nabc\r\n", "3\r\ndef\r\n0\r\n\r\n"}, []string{"3\r\nabc\r\n", "3\r\ndef\r\n0\r\n\r\n"})
	// A chunk is passed on as far as it came, framed anew.
	f(request("POST", "/", "Transfer-Encoding: chunked"), []string{"6\r\nabc", "def\r\n0\r\n\r\n"}, []string{"3\r\nabc\r\n", "3\r\ndef\r\n0\r\n\r\n"})
}

// TestEarlyResponse has the backend answer while the upload goes on.
func TestEarlyResponse(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), testkit.Hang())
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(request("POST", "/", "Content-Length: 1000000") + "begin")
	resp := c.Response("POST")
	expectStatus(t, "early response", resp, 403, "no")
	if resp.Get("Connection") != "close" {
		t.Errorf("Connection %q, want close, as the rest of the body is not read", resp.Get("Connection"))
	}
	c.ExpectClosed()
	g.waitEnd(reason.OK, 1)
}

// TestEarlyResponseThenClose is the same from a backend that closes at once, so that
// writing to it fails: the response counts, not the failed write.
func TestEarlyResponseThenClose(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"), testkit.CloseWrite(), testkit.Hang())
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	go func() { _ = c.TrySend(request("POST", "/", "Content-Length: 100000000") + strings.Repeat("x", 8<<20)) }()
	expectStatus(t, "early response", c.Response("POST"), 413, "no")
}

// TestEchoFullDuplex passes a body through a backend that sends back what it gets
// as it gets it: neither direction may wait for the other.
func TestEchoFullDuplex(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n"); err != nil {
			return err
		}
		_, err := io.CopyN(c, r, size)
		return err
	}))
	g := newGateway(t, toBackend(be.Addr()))
	body := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	c := g.dial()
	sent := make(chan error, 1)
	go func() { sent <- c.TrySend(request("POST", "/", "Content-Length: "+strconv.Itoa(size)) + string(body)) }()
	resp := c.Response("POST")
	if err := <-sent; err != nil || !bytes.Equal(resp.Body, body) {
		t.Errorf("sent with error %v, got %d bytes back, equal: %t", err, len(resp.Body), bytes.Equal(resp.Body, body))
	}
}

func TestMaxBody(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
limits: {max_body: 10B}
routes:
  - {path: /big, upstream: be, max_body: 20B}
  - {path: /stream, upstream: be, request_buffer: 1B}
  - {path: /, upstream: be}
`)
	f := func(raw string, want int) {
		t.Helper()
		c := g.dial()
		_ = c.TrySend(raw)
		expectStatus(t, raw, c.Response("POST"), want)
		c.Close()
	}
	f(post("0123456789"), 200)
	f(post("0123456789a"), 413)
	f(strings.Replace(post("0123456789a"), "POST /", "POST /big", 1), 200)
	f(chunkedPost("a\r\n0123456789\r\n0\r\n\r\n"), 200)
	f(chunkedPost("a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n"), 413)
	f(strings.Replace(chunkedPost("a\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"), "POST /", "POST /big", 1), 413)
	if n := g.requests(reason.BodyTooLarge); n != 3 {
		t.Errorf("%d requests ended with body_too_large, want 3", n)
	}

	// A chunked body that outgrows the limit after the request was sent on.
	c := g.dial()
	c.Send(strings.Replace(chunkedPost("1\r\na\r\n"), "POST /", "POST /stream", 1))
	g.wait("first chunk at the backend", func() bool {
		return slices.ContainsFunc(be.Conns(), func(c testkit.RecordedConn) bool { return bytes.HasSuffix(c.Raw, []byte("1\r\na\r\n")) })
	})
	_ = c.TrySend("a\r\n0123456789\r\n0\r\n\r\n")
	expectStatus(t, "outgrown", c.Response("POST"), 413)
	be.WaitIdle(t) // the cut request's connection is closed
	for _, r := range be.Requests() {
		if len(r.Body) > 20 || len(r.Body) == 1 {
			t.Errorf("the backend got %q as a whole request", r.Body)
		}
	}
}
