package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

const (
	// slowLimit is also the limit of good requests, and of handshakes of all clients at once.
	slowLimit = (1 + hostileScale) * time.Second
	// slowGrace is how late an end may come on a loaded machine.
	slowGrace = 3 * time.Second
	// dribbleEvery is the pause between two bytes of a slow client.
	dribbleEvery = 40 * time.Millisecond
)

func startSlow(t *testing.T, backend string) *hostileGateway {
	t.Helper()
	limit := slowLimit.String()
	return startHostile(t, "timeouts: {handshake: "+limit+", head: "+limit+", body: "+limit+", idle: "+limit+"}\n"+
		"upstreams: {be: {servers: [{address: \""+backend+"\"}], retry: {attempts: 1}, timeouts: {response_header: "+limit+", read: "+limit+"}}}\nroutes: [{upstream: be}]\n")
}

// slowClient sends start at once and then, if there is one, dribble byte by byte until
// it is answered.
type slowClient struct {
	name    string
	start   string
	dribble string
	secure  bool
	noTLS   bool          // plain bytes to the TLS port
	want    reason.Reason // OK: the connection is closed without a word
}

// run returns what is wrong with how the gateway ended it, and when.
func (s slowClient) run(g *hostileGateway, n int) error {
	begin := time.Now()
	dial := g.dial
	if s.noTLS {
		dial = g.dialRaw
	}
	c, err := dial(n, s.secure)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	answered := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.send(c, answered) })
	resp, err := testkit.ReadResponse(c.br, "GET")
	took := time.Since(begin)
	close(answered)
	wg.Wait()
	switch {
	case took < slowLimit || took > slowLimit+slowGrace:
		return fmt.Errorf("ended after %v, want %v", took, slowLimit)
	case s.want == reason.OK && len(resp.Raw) > 0: // the close may be a reset, when a byte crosses it
		return fmt.Errorf("got %q, %w, want a close", resp.Raw, err)
	case s.want == reason.OK:
		return nil
	case err != nil:
		return fmt.Errorf("%w, want %v", err, s.want)
	case resp.Status != s.want.Status() || reasonOf(resp) != s.want.String():
		return fmt.Errorf("got %d %s, want %v", resp.Status, reasonOf(resp), s.want)
	}
	if rest, err := io.ReadAll(c.br); err != nil || len(rest) > 0 {
		return fmt.Errorf("after the answer %q, %w", rest, err)
	}
	return nil
}

func (s slowClient) send(w io.Writer, answered <-chan struct{}) {
	_, _ = io.WriteString(w, s.start)
	tick := time.NewTicker(dribbleEvery)
	defer tick.Stop()
	for i := 0; s.dribble != ""; i++ {
		select {
		case <-answered:
			return
		case <-tick.C:
		}
		if _, err := io.WriteString(w, s.dribble[i%len(s.dribble):][:1]); err != nil {
			return
		}
	}
}

// runSlow runs each client eight times at once, while good requests must be served.
func runSlow(t *testing.T, g *hostileGateway, clients []slowClient) {
	t.Helper()
	const each = 8
	var wg sync.WaitGroup
	for i := range each * len(clients) {
		s := clients[i%len(clients)]
		wg.Go(func() {
			if err := s.run(g, 1<<16+i); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		wg.Wait()
		close(over)
	}()
	served := 0
	for n := 1 << 17; ; n++ {
		c, err := g.dial(n, false)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, _ = io.WriteString(c, goodRequest("meanwhile"))
		resp, err := testkit.ReadResponse(c.br, "GET")
		if err != nil || resp.Status != 200 || time.Since(begin) > slowGrace {
			t.Errorf("good request got %d after %v: %v", resp.Status, time.Since(begin), err)
		}
		_ = c.Close()
		served++
		select {
		case <-over:
			if served >= 10 { // else it is more of the same, alone
				return
			}
		default:
		}
	}
}

// TestSlowHeads has many clients send a head byte by byte.
func TestSlowHeads(t *testing.T) {
	g := startSlow(t, newWitness(t).Addr())
	runSlow(t, g, []slowClient{
		{name: "request line", dribble: "GET /" + strings.Repeat("a", 4000), want: reason.HeadTimeout},
		{name: "request line over TLS", dribble: "GET /" + strings.Repeat("a", 4000), secure: true, want: reason.HeadTimeout},
		{name: "first field", start: "GET / HTTP/1.1\r\n", dribble: "Host: a.example\r\nX-A: " + strings.Repeat("a", 4000), want: reason.HeadTimeout},
		{name: "later fields", start: "GET / HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: 1\r\n", dribble: "X-A: 1\r\n", want: reason.HeadTimeout},
		{name: "last line", start: "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r", want: reason.HeadTimeout},
		{name: "one byte", start: "G", want: reason.HeadTimeout},
		{name: "an empty line", start: "\r\n", want: reason.HeadTimeout},
		{name: "nothing", want: reason.OK},
		{name: "nothing over TLS", secure: true, want: reason.OK},
		{name: "no TLS handshake", secure: true, noTLS: true, want: reason.OK},
		{name: "half a TLS handshake", dribble: "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03" + strings.Repeat("x", 4000), secure: true, noTLS: true, want: reason.OK},
	})
}

// TestSlowBodies has many clients stop in the middle of a body.
func TestSlowBodies(t *testing.T) {
	w := newWitness(t)
	g := startSlow(t, w.Addr())
	runSlow(t, g, []slowClient{
		{name: "no body", start: postWith("Content-Length: 3", ""), want: reason.BodyTimeout},
		{name: "half a body", start: postWith("Content-Length: 3", "a"), want: reason.BodyTimeout},
		{name: "half a body over TLS", start: postWith("Content-Length: 3", "a"), secure: true, want: reason.BodyTimeout},
		{name: "no chunk", start: postWith("Transfer-Encoding: chunked", ""), want: reason.BodyTimeout},
		{name: "half a size", start: postWith("Transfer-Encoding: chunked", "3"), want: reason.BodyTimeout},
		{name: "half a chunk", start: postWith("Transfer-Encoding: chunked", "3\r\na"), want: reason.BodyTimeout},
		{name: "no last chunk", start: postWith("Transfer-Encoding: chunked", "3\r\nabc\r\n"), want: reason.BodyTimeout},
		{name: "no end of trailers", start: postWith("Transfer-Encoding: chunked", "0\r\nX-A: 1\r\n"), want: reason.BodyTimeout},
	})
	g.drained(t)
	w.WaitIdle(t)
	for _, f := range w.Flaws() {
		t.Errorf("flaw at the backend: %v", f)
	}
}

// endless is a client that never stops sending.
type endless struct {
	name  string
	start string
	piece string // again and again
	want  reason.Reason
}

// run sends until the gateway has answered and closed.
func (e endless) run(g *hostileGateway, n int) error {
	c, err := g.dial(n, false)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	piece := []byte(strings.Repeat(e.piece, 1+(16<<10)/len(e.piece)))
	var sent int
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.WriteString(c, e.start)
		for ; err == nil && sent < endlessEnd; sent += len(piece) {
			_, err = c.Write(piece)
		}
	})
	resp, err := testkit.ReadResponse(c.br, "GET")
	if err == nil && (resp.Status != e.want.Status() || reasonOf(resp) != e.want.String()) {
		err = fmt.Errorf("got %d %s, want %v", resp.Status, reasonOf(resp), e.want)
	}
	wg.Wait()
	if sent >= endlessEnd {
		err = errors.Join(err, fmt.Errorf("%d bytes were taken", sent))
	}
	return err
}

// endlessEnd is more than any limit, and what the sockets and the linger after an
// answer hold besides.
const endlessEnd = 64 << 20

// TestEndlessRequests has many clients send what never ends. Each is cut at its limit,
// and costs no more memory than that.
func TestEndlessRequests(t *testing.T) {
	g := startHostile(t, "upstreams: {be: {servers: [{address: \""+newWitness(t).Addr()+"\"}]}}\nroutes: [{upstream: be}]\n")
	const chunked = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
	const head = "GET / HTTP/1.1\r\nHost: a.example\r\n"
	clients := []endless{
		{"method", "", "A", reason.TargetTooLong},
		{"target", "GET /", "a", reason.TargetTooLong},
		{"query", "GET /?", "a=1&", reason.TargetTooLong},
		{"tiny fields", head, "a:\r\n", reason.TooManyHeaders},
		{"large fields", head, "X-A: " + strings.Repeat("a", 4000) + "\r\n", reason.HeadTooLarge},
		{"name", head, "a", reason.HeadTooLarge},
		{"value", head + "X-A: ", "a", reason.HeadTooLarge},
		{"white space", head + "X-A:", " \t", reason.HeadTooLarge},
		{"cookie", head + "Cookie: ", "a=b; ", reason.HeadTooLarge},
		{"empty lines", "", "\r\n", reason.BadRequestLine},
		{"size of zeros", chunked, "0", reason.BadChunk},
		{"extension", chunked + "3;a=", "b", reason.BadChunk},
		{"quoted extension", chunked + "3;a=\"", "b", reason.BadChunk},
		{"extensions of small chunks", chunked, "1;abcdefghijklmnopqrstuvwxyz=abcdefghijklmnopqrstuvwxyz\r\nx\r\n", reason.BadChunk},
		{"trailer", chunked + "0\r\nX-A: ", "a", reason.BadChunk},
		{"trailers", chunked + "0\r\n", "X-A: 1\r\n", reason.BadChunk},
		{"trailers that are dropped", chunked + "0\r\n", "Authorization: 1\r\n", reason.BadChunk},
	}
	const each = 8
	allocated := allocatedBy(func() {
		var wg sync.WaitGroup
		for i := range each * len(clients) {
			e := clients[i%len(clients)]
			wg.Go(func() {
				if err := e.run(g, 1<<16+i); err != nil {
					t.Errorf("%s: %v", e.name, err)
				}
			})
		}
		wg.Wait()
	})
	// Everything that was ever allocated bounds what was held at any time. The clients,
	// in this process too, send more than 1 MiB each.
	const perClient = 256 << 10
	if limit := uint64(each * len(clients) * perClient); allocated > limit {
		t.Errorf("%d KiB allocated, want at most %d KiB", allocated>>10, limit>>10)
	}
}

func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestEndlessResponses has backends send heads that never end, or never come.
func TestEndlessResponses(t *testing.T) {
	f := func(name string, want reason.Reason, steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			s := testkit.NewScript(t, append([]testkit.Step{testkit.Receive()}, steps...)...)
			g := startSlow(t, s.Addr())
			var resp *testkit.Response
			allocated := allocatedBy(func() { resp = testkit.Exchange(t, g.plain, goodRequest("x")) })
			if resp.Status != want.Status() || reasonOf(resp) != want.String() {
				t.Errorf("got %d %s, want %v", resp.Status, reasonOf(resp), want)
			}
			// The backend, in this process too, sends what the sockets hold.
			if allocated > 24<<20 {
				t.Errorf("%d KiB allocated", allocated>>10)
			}
		})
	}
	send, forever := testkit.Send, testkit.SendForever
	f("status line", reason.BackendHeadTooLarge, send("HTTP/1.1 200 "), forever(strings.Repeat("a", 4096)))
	f("value", reason.BackendHeadTooLarge, send("HTTP/1.1 200 OK\r\nX-A: "), forever(strings.Repeat("a", 4096)))
	f("large fields", reason.BackendHeadTooLarge, send("HTTP/1.1 200 OK\r\n"), forever("X-A: "+strings.Repeat("a", 4096)+"\r\n"))
	f("tiny fields", reason.BackendHeadTooLarge, send("HTTP/1.1 200 OK\r\n"), forever(strings.Repeat("a:\r\n", 1000)))
	f("interim responses", reason.BadBackendHead, forever(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)))
	f("early hints", reason.BadBackendHead, forever(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 100)))
	f("babble", reason.BadBackendHead, forever(strings.Repeat("hello ", 1000)))
	f("byte by byte", reason.BackendTimeout, testkit.SendSplit("HTTP/1.1 200 OK\r\nX-A: "+strings.Repeat("a", 4096), 1, dribbleEvery))
	f("silence", reason.BackendTimeout, testkit.Hang())
}

// TestUnreadBodyIsNotReused: a backend that answers before it has the whole body
// would take the next request for the rest of it.
func TestUnreadBodyIsNotReused(t *testing.T) {
	f := func(name, request string, status int) {
		t.Run(name, func(t *testing.T) {
			s := testkit.NewScripts(t, func(conn int) []testkit.Step {
				if conn == 0 {
					return []testkit.Step{testkit.ReceiveHead(), testkit.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), testkit.Hang()}
				}
				return testkit.Respond(string(testkit.OK("good")))
			})
			g := startSlow(t, s.Addr())
			c := testkit.Dial(t, g.plain)
			if got := c.Do(request); got.Status != status {
				t.Errorf("got %d %q, want %d", got.Status, got.Body, status)
			}
			_ = c.TrySend(smuggler) // the rest of the body; the gateway may have closed already
			c.ExpectClosed()
			if got := testkit.Exchange(t, g.plain, goodRequest("next")); string(got.Body) != "good" {
				t.Errorf("next request got %d %q", got.Status, got.Body)
			}
			if n := s.Requests(); n != 2 {
				t.Errorf("%d requests at the backend, want 2", n)
			}
		})
	}
	f("expectation refused", postWith("Expect: 100-continue\r\nContent-Length: 3", ""), 403)
	// Bodies that are not awaited as a whole.
	f("body cut short", postWith("Content-Length: 30000", "abc"), 403)
	f("chunks cut short", postWith("Transfer-Encoding: chunked", "8000\r\n"+strings.Repeat("a", 0x8000)+"\r\n"), 403)
}
