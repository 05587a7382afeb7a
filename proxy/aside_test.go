package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// waitAside waits until n requests have stepped aside and inUse have a worker.
func (g *testGateway) waitAside(n, inUse int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d requests aside", n), func() bool {
		return int(g.metric(`tickgate_workers{state="aside"}`)) == n && g.gate.Stats().InUse == inUse && g.workers.borrowed()+g.handshakes.crew.borrowed() == n
	})
}

// borrowed is how many workers the crew has been lent.
func (w *crew) borrowed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lent
}

// TestStalledUploadsHoldNobody has many more clients stop in a large body than there are
// workers, and than connections are served at once.
func TestStalledUploadsHoldNobody(t *testing.T) {
	t.Parallel()
	const clients = 96 // more than workers, queue and lobby together
	uploads, other := testkit.NewRecorder(t, nil), testkit.NewRecorder(t, nil)
	yaml := `
upstreams:
  uploads: {servers: [{address: "` + uploads.Addr() + `"}]}
  be: {servers: [{address: "` + other.Addr() + `"}]}
routes:
  - {path: /upload, upstream: uploads}
  - {path: /, upstream: be}
workers: {max: 8, queue: 2, queue_timeout: 100s, park_after: 1ms}
timeouts: {body: 200s, handshake: 100s}
`
	for _, name := range []string{"plain", "TLS"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, secure, conf := tlsGateway(t, yaml)
			dial := g.dial
			if name == "TLS" {
				dial = func() *testkit.Client { return testkit.DialTLS(t, secure, conf) }
			}
			const size = 20_000
			slow := make([]*testkit.Client, clients)
			for i := range slow {
				slow[i] = dial()
				slow[i].Send(request("POST", "/upload", "Content-Length: "+strconv.Itoa(size)) + "1")
				if i%8 == 7 { // as many as are admitted at once
					g.waitAside(i+1, 0)
				}
			}
			for range 3 {
				for _, c := range slow {
					c.Send("23")
				}
				expectStatus(t, "GET", dial().Do(get("/quick")), 200)
				g.waitAside(clients, 0)
			}
			for i, c := range slow {
				switch i % 4 {
				case 0:
					c.Close()
				default:
					c.Send(strings.Repeat("x", size-7))
					expectStatus(t, "slow upload", c.Response("POST"), 200)
				}
			}
			g.waitEnd(reason.ClientGone, clients/4)
			g.waitEnd(reason.OK, clients-clients/4+3)
			g.waitAside(0, 0)
			if n := int(g.metric("tickgate_workers_rejected_total")); n != 0 {
				t.Errorf("%d requests were refused", n)
			}
		})
	}
	t.Cleanup(func() {
		for _, r := range uploads.Requests() {
			if len(r.Body) != 20_000 || !strings.HasPrefix(string(r.Body), "1232323x") {
				t.Errorf("the backend got %d bytes that begin with %.20q", len(r.Body), r.Body)
			}
		}
	})
}

// TestStalledUploadsEnd ends requests while they are aside.
func TestStalledUploadsEnd(t *testing.T) {
	t.Parallel()
	f := func(name, client, upstream string, why reason.Reason, status int, end func(g *testGateway, c *testkit.Client), steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := testkit.NewScript(t, append([]testkit.Step{testkit.ReceiveHead()}, steps...)...)
			g := newGateway(t, toBackends(upstream, "", be.Addr())+client)
			c := g.dial()
			c.Send(request("POST", "/", "Content-Length: 1000000") + "begin")
			g.waitAside(1, 0)
			end(g, c)
			if status != 0 {
				expectStatus(t, name, c.Response("POST"), status)
			}
			c.Close()
			g.waitEnd(why, 1)
			g.waitAside(0, 0)
		})
	}
	nothing := func(*testGateway, *testkit.Client) {}
	f("its time passes", "timeouts: {body: 2s}", "", reason.BodyTimeout, 408, nothing, testkit.Hang())
	f("the request's time passes", "", "timeouts: {request: 2s}", reason.RequestTimeout, 504, nothing, testkit.Hang())
	f("the client goes", "", "", reason.ClientGone, 0, func(_ *testGateway, c *testkit.Client) { c.Reset() }, testkit.Hang())
	f("it is killed", "", "", reason.KilledByUser, 0, func(g *testGateway, _ *testkit.Client) {
		for _, c := range g.connections() {
			c.kill(reason.KilledByUser)
		}
	}, testkit.Hang())
	f("the process ends", "", "", reason.ShutDown, 0, func(g *testGateway, _ *testkit.Client) {
		g.draining.Store(true)
		g.cut()
	}, testkit.Hang())
	ready := make(chan struct{})
	goOn := func(*testGateway, *testkit.Client) { close(ready) }
	f("the backend goes", "", "", reason.BackendReset, 502, goOn, testkit.WaitFor(ready), testkit.Reset())
	early := make(chan struct{})
	f("the backend answers", "", "", reason.OK, 403, func(*testGateway, *testkit.Client) { close(early) },
		testkit.WaitFor(early), testkit.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), testkit.Hang())
}

// TestResponseTakesThePlaceAgain has the answer begin while its client is silent: from then on the
// request works, and has its place.
func TestResponseTakesThePlaceAgain(t *testing.T) {
	t.Parallel()
	answer, rest := make(chan struct{}), make(chan struct{})
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.WaitFor(answer), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"),
		testkit.WaitFor(rest), testkit.ReceiveBytes(1_000_000), testkit.Send("56789"))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(request("POST", "/", "Content-Length: 1000000"))
	g.waitAside(1, 0)
	close(answer)
	c.Until("01234")
	g.waitAside(0, 1)
	c.Send("x") // and stalls again
	close(rest)
	c.Send(strings.Repeat("x", 999_999))
	c.Until("56789")
	g.waitEnd(reason.OK, 1)
	g.waitAside(0, 0)
}

// TestPlacesBalance ends many uploads at random, from every side and in every order, and
// looks whether everything was given back.
func TestPlacesBalance(t *testing.T) {
	t.Parallel()
	be := newMoodyBackend(t)
	g, secure, conf := tlsGateway(t, toBackends("retry: {attempts: 2, on: [reset, \"503\"]}", "", be)+`
workers: {max: 3, queue: 1000, queue_timeout: 200s, park_after: 1ms}
limits: {request_buffer: 64B}
timeouts: {body: 1s, handshake: 100s, head: 100s}
`)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	var clients sync.WaitGroup
	for k := range 24 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(k)))
			for range rounds {
				c := g.dial()
				if k%3 == 0 {
					c.Close()
					nc, err := tls.Dial("tcp", secure, conf)
					if err != nil {
						continue // killed by another one
					}
					c = testkit.NewClient(t, nc)
				}
				moodyClient(g, c, rnd)
				c.Close()
			}
		})
	}
	clients.Wait()
	g.waitAside(0, 0)
	g.wait("end of all requests", func() bool { return g.metric(`tickgate_workers{state="waiting"}`) == 0 })
	expectStatus(t, "afterwards", g.do(get("/")), 200)
	g.waitAside(0, 0)
}

// moodyClient uploads in pieces with pauses around what a worker waits, and may break off.
func moodyClient(g *testGateway, c *testkit.Client, rnd *rand.Rand) {
	size := []int{10, 100, 5000, 40_000}[rnd.IntN(4)]
	if c.TrySend(request("PUT", "/"+strconv.Itoa(rnd.IntN(8)), "Content-Length: "+strconv.Itoa(size))) != nil {
		return
	}
	for left := size; left > 0; {
		n := min(left, 1+rnd.IntN(size))
		if c.TrySend(strings.Repeat("x", n)) != nil {
			break
		}
		left -= n
		switch rnd.IntN(8) {
		case 0:
			nc := c.Conn
			if secured, ok := nc.(*tls.Conn); ok {
				nc = secured.NetConn()
			}
			_ = nc.(*net.TCPConn).SetLinger(0) // so that Close resets
			_ = nc.Close()
			return
		case 1:
			return
		case 2:
			for _, conn := range g.connections() {
				if rnd.IntN(20) == 0 {
					conn.kill(reason.KilledByUser)
				}
			}
		case 3, 4, 5:
			pauseFor(headPatience * time.Duration(1+rnd.IntN(4)))
		}
	}
	_, _ = c.TryResponse("PUT")
}

// newMoodyBackend answers early, late, with errors or not at all, by the digit in the path.
func newMoodyBackend(t *testing.T) (addr string) {
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
			go beMoody(c)
		}
	}()
	return ln.Addr().String()
}

func beMoody(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		req, err := testkit.ReadRequestHead(r)
		if err != nil {
			return
		}
		n, _ := strconv.ParseInt(req.Get("Content-Length"), 10, 64)
		switch req.Target {
		case "/0":
			_, _ = c.Write([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
		case "/1":
			_, _ = c.Write([]byte("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"))
			return
		case "/2":
			_, _ = io.CopyN(io.Discard, r, n/2)
			return
		case "/3":
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.FormatInt(n, 10) + "\r\n\r\n"))
			_, _ = io.CopyN(c, r, n)
			continue
		}
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return
		}
		if _, err := c.Write(testkit.OK("ok")); err != nil {
			return
		}
	}
}
