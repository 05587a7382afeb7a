package proxy

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
)

// allocBackend answers every read with the same bytes, without an allocation of its
// own: small GET requests arrive in one read each.
func allocBackend(t testing.TB, answer []byte) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answerReads(c, answer)
		}
	}()
	return ln.Addr().String()
}

func answerReads(c net.Conn, answer []byte) {
	defer func() { _ = c.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) || bytes.HasSuffix(buf[:n], []byte("body")) {
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}
}

// roundTrips sends request and reads answers of n bytes, count times.
func roundTrips(t testing.TB, c net.Conn, request, buf []byte, n, count int) {
	t.Helper()
	for range count {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < n; {
			m, err := c.Read(buf[got:n])
			if err != nil {
				t.Fatal(err)
			}
			got += m
		}
	}
}

// TestForwardAllocatesNothing measures the whole process, client and backend
// included, over real sockets: what the gateway allocates for a request cannot hide
// on another goroutine.
func TestForwardAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing to measure")
		return
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	chunked := []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + strings.Repeat("x", 1024) + "\r\n0\r\n\r\n")
	dir := t.TempDir()
	f := func(name, yaml, request string, answer []byte, secure bool, limit float64) {
		t.Helper()
		be := allocBackend(t, answer)
		yaml = strings.ReplaceAll(yaml, "BACKEND", be)
		if !strings.Contains(yaml, "upstreams") {
			yaml += toBackend(be)
		}
		var c net.Conn
		if secure {
			_, addr, conf := tlsGateway(t, yaml)
			c = testkit.DialTLS(t, addr, conf).Conn
		} else {
			c = newGateway(t, yaml).dial().Conn
		}
		if n := allocsPerRequest(t, c, []byte(request)) - limit; n >= 0.01 {
			t.Errorf("%s: %.3f allocations per request, want none", name, n)
		}
	}
	browser := get("/path?query=1", "User-Agent: Mozilla/5.0", "Accept: text/html", "Accept-Encoding: gzip, br", "Cookie: a=1; b=2", "X-Custom: value", "Connection: keep-alive")
	f("plain", "", browser, answer, false, 0)
	// crypto/tls allocates a reader of 24 bytes for each record it receives, here and in the test's client.
	f("TLS client", "", browser, answer, true, 2)
	f("chunked response", "", browser, chunked, false, 0)
	undated := bytes.Replace(answer, []byte("Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n"), nil, 1)
	f("backend without Date", "", browser, undated, false, 0)
	big := []byte("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", 60_000))
	f("larger response", "", browser, big, false, 0)
	f("static response", "upstreams: {}\nroutes: [{static_response: {body: \"${host} ${request_id} ${header:Cookie}\"}}]\n", browser, answer, false, 0)
	f("redirect", "upstreams: {}\nroutes: [{redirect: {location: \"https://${host}${uri}\"}}]\n", browser, answer, false, 0)
	f("no route", "upstreams: {}\nroutes: [{path: /x, static_response: {body: x}}]\n", browser, answer, false, 0)
	f("request body", "", request("POST", "/", "Content-Length: 4")+"body", answer, false, 0)
	f("JSON access log", `log: {access: {output: "`+dir+`/json", flush: 1ms}}`+"\n", browser, answer, false, 0)
	f("combined access log", `log: {access: {output: "`+dir+`/combined", format: combined, flush: 1ms}}`+"\n", browser, answer, false, 0)
	f("routes, rewrites and header operations", `
forwarding: {forwarded: true, via: true, trace_context: extend, trusted_proxies: [127.0.0.1]}
upstreams: {be: {servers: [{address: "BACKEND"}], balance: p2c}}
routes:
  - {host: other.example, upstream: be}
  - host: "*.com"
    path: /path
    methods: [GET]
    headers: [{name: X-Custom, regex: "^v"}]
    upstream: be
    rewrite: {strip_prefix: /path}
    request_headers: {remove: [Cookie], set: {X-Who: "${client_addr} ${header:User-Agent}"}}
    response_headers: {set: {X-Route: "${route} ${backend}"}}
`, strings.Replace(browser, "example.com", "www.example.com", 1), answer, false, 0)
	f("compression not accepted", "upstreams: {be: {servers: [{address: BACKEND}]}}\nroutes: [{upstream: be, compression: {}}]\n", get("/"), answer, false, 0)
}

// TestLargeBodiesStream passes bodies that are much larger than what the process
// allocates meanwhile.
func TestLargeBodiesStream(t *testing.T) {
	const size, limit = 256 << 20, 8 << 20
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Handle(func(r *bufio.Reader, c *net.TCPConn) error {
		buf := make([]byte, 256<<10)
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n"); err != nil {
			return err
		}
		for left := size; left > 0; {
			n, err := r.Read(buf)
			if err == nil {
				_, err = c.Write(buf[:n])
			}
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	}))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sent := make(chan error, 1)
	go func() { sent <- sendZeros(c, size) }()
	if n := drainBody(t, c, make([]byte, 256<<10)); n != size {
		t.Fatalf("got %d bytes back, want %d", n, size)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%d MiB were allocated while %d MiB went both ways, want no more than %d", n>>20, size>>20, limit>>20)
	}
}

// drainBody reads one response to the end of its connection and returns the size of
// its body.
func drainBody(t testing.TB, c *testkit.Client, buf []byte) (size int) {
	t.Helper()
	head := 0 // what was read of it
	for body := false; ; {
		_ = c.Conn.SetReadDeadline(time.Now().Add(testkit.Patience))
		n, err := c.Conn.Read(buf[head:])
		switch i := bytes.Index(buf[:head+n], []byte("\r\n\r\n")); {
		case body:
			size += n
		case i >= 0:
			size, body, head = head+n-i-4, true, 0
		default:
			head += n
		}
		if err == io.EOF {
			return size
		}
		if err != nil {
			t.Fatalf("%v after %d bytes", err, size)
		}
	}
}

// sendZeros sends a POST with a body of size bytes.
func sendZeros(c *testkit.Client, size int) error {
	if err := c.TrySend(request("POST", "/", "Content-Length: "+strconv.Itoa(size))); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for left := size; left > 0; {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(testkit.Patience))
		n, err := c.Conn.Write(buf[:min(left, len(buf))])
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// allocsPerRequest returns the mallocs of the process per request on c.
func allocsPerRequest(t testing.TB, c net.Conn, request []byte) float64 {
	t.Helper()
	buf := make([]byte, 64<<10)
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	n := wholeAnswer(t, c, buf)
	const count = 1000
	roundTrips(t, c, request, buf, n, 500) // fill the pools
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC() // so that none is under way
	roundTrips(t, c, request, buf, n, 500)
	// The least of several runs: buffers that still grow, as the log's do when its writer
	// gets no processor, do so once, but what a request allocates is in every run.
	least := math.Inf(1)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		roundTrips(t, c, request, buf, n, count)
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/count)
	}
	return least
}

// wholeAnswer reads one response, whose length the ones that follow have too.
func wholeAnswer(t testing.TB, c net.Conn, buf []byte) (n int) {
	t.Helper()
	for {
		m, err := c.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
		head := bytes.Index(buf[:n], []byte("\r\n\r\n"))
		if head < 0 {
			continue
		}
		if i := bytes.Index(buf[:head], []byte("Content-Length: ")); i >= 0 {
			size, _ := strconv.Atoi(string(bytes.SplitN(buf[i+16:head+2], []byte("\r"), 2)[0]))
			if n == head+4+size {
				return n
			}
		} else if bytes.HasSuffix(buf[:n], []byte("0\r\n\r\n")) {
			return n
		}
	}
}
