//go:build linux

package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

// static is a configuration that answers by itself and parks early; more is appended.
func static(more string) string {
	return "routes: [{static_response: {body: \"${path}\"}}]\n" + more
}

// soon parks what has been quiet for a moment.
const soon = "workers: {park_after: 1ms}\n"

// state is the number of connections in a state, by the metrics.
func (g *testGateway) state(s meter.ConnState) int {
	g.t.Helper()
	return int(g.metric("tickgate_connections{", `state="`+s.String()+`"`))
}

// waitParked waits until n connections are parked, and no other is open but those not used yet.
func (g *testGateway) waitParked(n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d parked connections", n), func() bool {
		fresh, idle, head := g.lot.Count()
		return idle+head == n && g.state(meter.Parked) == n && len(g.connections()) == 0 && fresh == g.state(meter.Accepted)
	})
}

// waitHeads waits until n connections are parked with a part of a request.
func (g *testGateway) waitHeads(n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d parked heads", n), func() bool {
		_, _, head := g.lot.Count()
		return head == n && len(g.connections()) == 0
	})
}

// waitNone waits until nothing is counted as open any more.
func (g *testGateway) waitNone() {
	g.t.Helper()
	g.wait("end of all connections", func() bool {
		open := 0
		for _, s := range meter.ConnStates() {
			open += g.state(s)
		}
		fresh, idle, head := g.lot.Count()
		return open == 0 && fresh+idle+head == 0 && g.conns.Open() == 0 && g.Gateway.meter.FDs.Client.Load() == 0
	})
}

// transport is a way to the gateway.
type transport struct {
	name string
	dial func() *testkit.Client
}

// transports are plain, TLS 1.2 and TLS 1.3, to one gateway.
func transports(t testing.TB, yaml string) (*testGateway, []transport) {
	t.Helper()
	g, secure, conf := tlsGateway(t, yaml)
	list := []transport{{"plain", g.dial}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := conf.Clone()
		c.MinVersion, c.MaxVersion = version, version
		list = append(list, transport{tls.VersionName(version), func() *testkit.Client {
			t.Helper()
			return testkit.DialTLS(t, secure, c)
		}})
	}
	return g, list
}

// onEach runs f with a gateway of its own for each transport.
func onEach(t *testing.T, yaml string, f func(t *testing.T, g *testGateway, dial func() *testkit.Client)) {
	t.Helper()
	eachTransport(parallel(t), yaml, f)
}

// onEachAtOnce is onEach for tests that wait more than they work.
func onEachAtOnce(t *testing.T, yaml string, f func(t *testing.T, g *testGateway, dial func() *testkit.Client)) {
	t.Helper()
	atOnce(t, func(run runner) { eachTransport(run, yaml, f) })
}

func eachTransport(run runner, yaml string, f func(t *testing.T, g *testGateway, dial func() *testkit.Client)) {
	for i, name := range []string{"plain", "TLS 1.2", "TLS 1.3"} {
		run(name, func(t *testing.T) {
			g, list := transports(t, yaml)
			f(t, g, list[i].dial)
		})
	}
}

func TestParksAndServesAgain(t *testing.T) {
	t.Parallel()
	for _, after := range []string{"0s", "1ms", "60ms"} {
		onEach(t, static("workers: {park_after: "+after+"}"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
			c := dial()
			for i := range 5 {
				expectStatus(t, "request "+strconv.Itoa(i), c.Do(get("/"+strconv.Itoa(i))), 200, "/"+strconv.Itoa(i))
				g.waitParked(1)
			}
			c.Close()
			g.waitConnEnd(reason.ClientClosed, 1)
			g.waitNone()
		})
	}
}

// TestStaysHot keeps the worker for as long as park_after says, once a second request came.
func TestStaysHot(t *testing.T) {
	t.Parallel()
	onEach(t, static("workers: {park_after: 1h}"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		c.Do(get("/"))
		g.waitParked(1) // most have one request only
		for range 3 {
			c.Do(get("/"))
			g.wait("idle connection", func() bool { return g.state(meter.Idle) == 1 })
		}
		if n := len(g.connections()); n != 1 {
			t.Errorf("%d connections have a worker, want 1", n)
		}
	})
}

// TestIdleTakesNoGoroutine opens many connections. Not parallel: it counts goroutines.
func TestIdleTakesNoGoroutine(t *testing.T) {
	g, list := transports(t, static("workers: {park_after: 1ms, max: 8, queue: 8, queue_timeout: 10s}"))
	for _, tr := range list {
		tr.dial().Do(get("/"))
	}
	g.waitParked(3)
	before := runtime.NumGoroutine()
	const each = 170
	for range each {
		for _, tr := range list {
			expectStatus(t, tr.name, tr.dial().Do(get("/")), 200)
		}
	}
	g.waitParked(3 * (each + 1))
	workers, _ := g.workers.size()
	shaking, _ := g.handshakes.crew.size()
	if workers > crewSize(g.CurrentConfig()) || shaking > crewSize(g.CurrentConfig()) {
		t.Errorf("%d and %d workers, more than %d", workers, shaking, crewSize(g.CurrentConfig()))
	}
	if n := runtime.NumGoroutine() - workers - shaking; n > before+20 {
		t.Errorf("%d goroutines besides workers, %d before %d idle connections", n, before, 3*each)
	}
}

// TestPipelinedAtTheBorder sends two requests in one segment, to a connection that is hot, and
// one that is parked.
func TestPipelinedAtTheBorder(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		for i := range 20 {
			if i%2 == 0 && i > 0 {
				g.waitParked(1)
			}
			c.Send(get("/a") + get("/b") + get("/c")[:20])
			expectStatus(t, "first", c.Response("GET"), 200, "/a")
			expectStatus(t, "second", c.Response("GET"), 200, "/b")
			if i%4 == 3 {
				g.waitHeads(1)
			}
			c.Send(get("/c")[20:])
			expectStatus(t, "third", c.Response("GET"), 200, "/c")
		}
	})
}

// TestRequestsAtTheMomentOfParking pauses for about as long as a worker waits, so that
// requests meet every step on the way to the lot. Each gets one answer, the right one.
func TestRequestsAtTheMomentOfParking(t *testing.T) {
	t.Parallel()
	f := func(after string, rounds int, longest time.Duration) {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			be := echoTarget(t)
			g, list := transports(t, toBackend(be.Addr())+"workers: {park_after: "+after+"}\n")
			var clients sync.WaitGroup
			for k := range 9 {
				c := list[k%3].dial()
				clients.Go(func() { borderClient(t, c, k, rounds, longest) })
			}
			clients.Wait()
			if n := g.requests(reason.OK); n != 9*rounds && !t.Failed() {
				t.Errorf("%d requests counted, want %d", n, 9*rounds)
			}
		})
	}
	f("0s", 1500, 200*time.Microsecond)
	f("1ms", 150, 2*sock.SweepInterval+2*time.Millisecond)
}

// borderClient sends requests, some in two pieces, after pauses of any length up to longest.
func borderClient(t *testing.T, c *testkit.Client, k, rounds int, longest time.Duration) {
	rnd := rand.New(rand.NewPCG(1, uint64(k)))
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for i := range rounds {
		timer.Reset(time.Duration(rnd.Int64N(int64(longest))))
		<-timer.C
		path := fmt.Sprintf("/%d/%d", k, i)
		raw, cut := get(path), 0
		if rnd.IntN(2) == 0 {
			cut = rnd.IntN(len(raw))
		}
		if cut > 0 {
			_ = c.TrySend(raw[:cut])
		}
		_ = c.TrySend(raw[cut:]) // if it fails, no answer comes
		resp, err := c.TryResponse("GET")
		if err != nil || resp.Status != 200 || string(resp.Body) != "GET "+path+" " {
			t.Errorf("client %d, request %d: %d %q, %v", k, i, resp.Status, resp.Body, err)
			return
		}
	}
}

// TestHeldResponseIsSentBeforeParking has the wait for the next request end before it
// began, when the response is still held.
func TestHeldResponseIsSentBeforeParking(t *testing.T) {
	t.Parallel()
	f := func(why string, end func(g *testGateway, c *clientConn)) {
		t.Helper()
		g := newGateway(t, static("workers: {park_after: 1h}"))
		c, client := g.planted(1)
		c.sk.Hold(sock.HoldRef)
		_, _ = c.sk.Write([]byte("response"))
		c.requests++ // it had one, so that it may wait here
		end(g, c)
		if c.await() {
			t.Errorf("%s: a request, when none was sent", why)
		}
		c.leave()
		if got := client.Next(len("response")); got != "response" {
			t.Errorf("%s: client got %q", why, got)
		}
	}
	f("urged or late", func(_ *testGateway, c *clientConn) { c.sk.Interrupt(sock.ReadExpired) })
	f("idle for too long", func(g *testGateway, c *clientConn) {
		c.idleBy = 1
		c.sk.Interrupt(sock.ReadExpired)
	})
	f("draining", func(g *testGateway, c *clientConn) {
		g.draining.Store(true)
		c.sk.Interrupt(sock.ReadExpired | sock.Cancelled)
	})
}

// TestDrainMeetsParking has a request arrive as an idle connection is both told to close
// and to park: it gets its answer.
func TestDrainMeetsParking(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static("workers: {park_after: 1h}"))
	c, client := g.planted(1)
	c.requests++
	g.draining.Store(true)
	c.sk.Interrupt(sock.ReadExpired | sock.Cancelled)
	client.Send(get("/late"))
	g.wait("request", c.sk.Readable)
	c.run()
	expectStatus(t, "late request", client.Response("GET"), 200, "/late")
}

// planted is a connection that the test is the worker of, with served requests behind it.
func (g *testGateway) planted(served uint32) (*clientConn, *testkit.Client) {
	g.t.Helper()
	server, client := testkit.TCPPair(g.t)
	raw, err := server.SyscallConn()
	if err != nil {
		g.t.Fatal(err)
	}
	var fd int
	_ = raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		g.t.Fatal(err)
	}
	_ = server.Close()
	g.reloadMu.Lock()
	ln := g.listeners[firstListener]
	g.reloadMu.Unlock()
	peer := client.LocalAddr().(*net.TCPAddr).AddrPort()
	if !ln.enter(peer, peer.Addr()) {
		g.t.Fatal("refused")
	}
	ln.meter.Moved(meter.Accepted, meter.Parked)
	c := g.heat(&visit{why: park.Ready, conn: park.Conn{
		FD: fd, ID: g.nextID.Add(1), Peer: peer, Owner: ln.index, Phase: park.Idle,
		Since: time.Now().UnixNano(), Served: served, Until: g.deadline(time.Hour),
	}})
	c.warm = true
	c.bind()
	return c, testkit.NewClient(g.t, client)
}

// TestHeadsInPieces parks between the pieces. Between them nobody waits for the next one.
func TestHeadsInPieces(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("v", 12_000)
	f := func(name, raw string, cuts ...int) {
		t.Run(name, func(t *testing.T) {
			onEach(t, static(soon+"limits: {max_head: 64KiB}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
				c := dial()
				for round := range 2 {
					from := 0
					for _, cut := range cuts {
						c.Send(raw[from:cut])
						from = cut
						g.waitHeads(1)
						g.waitParked(1)
					}
					c.Send(raw[from:])
					expectStatus(t, fmt.Sprintf("round %d", round), c.Response("GET"), 200, "/slow")
				}
			})
		})
	}
	short := get("/slow", "X-A: b")
	f("byte by byte at first", short, 1, 2, 3)
	f("lines", short, strings.Index(short, "Host"), strings.Index(short, "X-A"), len(short)-2)
	f("last byte", short, len(short)-1)
	large := get("/slow", long, long)
	f("large", large, 3000, 4096, 5000, 20_000, len(large)-1)
}

func TestHeadTimeoutWhileParked(t *testing.T) {
	t.Parallel()
	onEachAtOnce(t, static(soon+"timeouts: {head: 3s}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		c.Do(get("/first"))
		c.Send("GET / HTTP/1.1\r\nHost: ")
		g.waitHeads(1)
		resp := c.Response("GET")
		expectStatus(t, "late head", resp, 408, "reason: head_timeout")
		c.ExpectClosed()
		c.Close()
		g.waitEnd(reason.HeadTimeout, 1)
		g.waitConnEnd(reason.HeadTimeout, 1)
		g.waitNone()
	})
}

// TestHeadTimeGoesOn lets parking win no time: a byte now and then is not a head.
func TestHeadTimeGoesOn(t *testing.T) {
	t.Parallel()
	onEachAtOnce(t, static(soon+"timeouts: {head: 2s}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		c.Send("GET / HTTP/1.1\r\nHost: h\r\nX: ")
		over := make(chan struct{})
		var dribble sync.WaitGroup
		dribble.Go(func() {
			tick := time.NewTicker(60 * time.Millisecond)
			defer tick.Stop()
			for c.TrySend("x") == nil {
				select {
				case <-tick.C:
				case <-over:
					return
				}
			}
		})
		resp, err := c.TryResponse("GET")
		if err != nil || resp.Status != 408 {
			t.Errorf("got %d, %v; want 408", resp.Status, err)
		}
		close(over)
		dribble.Wait()
		c.Close()
		g.waitEnd(reason.HeadTimeout, 1)
	})
}

// cutter is a client's socket whose next write can be cut in two.
type cutter struct {
	net.Conn
	cut  bool
	rest []byte
}

func (c *cutter) Write(p []byte) (int, error) {
	if !c.cut {
		return c.Conn.Write(p)
	}
	c.cut = false
	c.rest = append(c.rest, p[len(p)/2:]...)
	n, err := c.Conn.Write(p[:len(p)/2])
	return n + len(c.rest), err
}

func (c *cutter) release() error {
	_, err := c.Conn.Write(c.rest)
	c.rest = nil
	return err
}

// dialCut connects with TLS over a cutter.
func dialCut(t *testing.T, addr string, conf *tls.Config) (*testkit.Client, *cutter) {
	t.Helper()
	nc, err := dialRaw(addr)
	if err != nil {
		t.Fatal(err)
	}
	cut := &cutter{Conn: nc}
	conn := tls.Client(cut, conf)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return testkit.NewClient(t, conn), cut
}

// TestCutRecord parks in the middle of a TLS record, of which nothing can be read yet.
func TestCutRecord(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g, secure, conf := tlsGateway(t, static(soon+"timeouts: {head: 2s, idle: 6s}\n"))
		conf.MinVersion, conf.MaxVersion = version, version
		c, cut := dialCut(t, secure, conf)
		for i := range 3 {
			expectStatus(t, "whole", c.Do(get("/whole")), 200)
			if i > 0 {
				g.waitParked(1) // else the half meets a worker
			}
			cut.cut = true
			c.Send(get("/cut"))
			g.waitParked(1)
			if err := cut.release(); err != nil {
				t.Fatal(err)
			}
			expectStatus(t, "cut", c.Response("GET"), 200, "/cut")
		}
		g.waitParked(1)
		cut.cut = true
		c.Send(get("/never"))
		// Half a record may be no request at all: the connection is as idle as it was.
		if resp, err := c.TryResponse("GET"); err == nil {
			t.Errorf("%s: half a record: %d; want the end of the connection", tls.VersionName(version), resp.Status)
		}
		g.waitConnEnd(reason.IdleTimeout, 1)
	}
}

// TestDribblingClients has a thousand clients that send a byte now and then. They hold no
// worker, and a normal client is served among them.
func TestDribblingClients(t *testing.T) {
	g := newGateway(t, static("workers: {max: 4, queue: 4, queue_timeout: 5s, park_after: 1ms}\ntimeouts: {head: 1m}\n"))
	clients := 1000
	if raceEnabled {
		clients = 300
	}
	before := runtime.NumGoroutine()
	slow := make([]*testkit.Client, clients)
	for i := range slow {
		slow[i] = g.dial()
		slow[i].Send("GET /slow HTTP/1.1\r\nHost: h\r\nX: ")
	}
	g.waitHeads(clients)
	stop := make(chan struct{})
	var dribble sync.WaitGroup
	dribble.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := slow[i%clients].TrySend("x"); err != nil {
					t.Errorf("slow client %d: %v", i%clients, err)
					return
				}
			}
		}
	})
	c := g.dial()
	limit := crewSize(g.CurrentConfig())
	most := 0
	for range 500 {
		expectStatus(t, "normal client", c.Do(get("/fast")), 200, "/fast")
		n, _ := g.workers.size()
		most = max(most, n)
	}
	close(stop)
	dribble.Wait()
	if most > limit {
		t.Errorf("%d workers, want at most %d", most, limit)
	}
	if n := runtime.NumGoroutine(); n > before+limit+20 {
		t.Errorf("%d goroutines for %d slow clients, %d before", n, clients, before)
	}
	for i, c := range slow {
		c.Send("\r\n\r\n")
		expectStatus(t, fmt.Sprintf("slow client %d", i), c.Response("GET"), 200, "/slow")
	}
}

func TestIdleTimeoutWhileParked(t *testing.T) {
	t.Parallel()
	onEachAtOnce(t, static(soon+"timeouts: {idle: 3s}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		for range 2 { // the time begins anew with each request
			c.Do(get("/"))
			g.waitParked(1)
		}
		c.ExpectClosed()
		c.Close()
		g.waitConnEnd(reason.IdleTimeout, 1)
		g.waitNone()
	})
}

func TestMaxAgeWhileParked(t *testing.T) {
	t.Parallel()
	onEachAtOnce(t, static(soon+"limits: {max_conn_age: 4s}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		c.Do(get("/"))
		g.waitParked(1)
		c.ExpectClosed()
		c.Close()
		g.waitConnEnd(reason.MaxLifetime, 1)
		g.waitNone()
	})
}

func TestMaxRequestsOverParkings(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon+"limits: {max_requests_per_conn: 3}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		c := dial()
		for i := range 3 {
			resp := c.Do(get("/"))
			if got, last := resp.Get("Connection") == "close", i == 2; got != last {
				t.Errorf("request %d: Connection: close is %v", i+1, got)
			}
			if i < 2 {
				g.waitParked(1)
			}
		}
		c.ExpectClosed()
		c.Close()
		g.waitConnEnd(reason.MaxRequests, 1)
		g.waitNone()
	})
}

// TestPeerEndsWhileParked is noticed and counted.
func TestPeerEndsWhileParked(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		idle, head := 0, 0
		f := func(end func(c *testkit.Client)) {
			t.Helper()
			c := dial()
			c.Do(get("/"))
			g.waitParked(1)
			end(c)
			idle++
			g.waitConnEnd(reason.ClientClosed, idle)
			g.waitNone()
			c = dial()
			c.Send("GET / HT")
			g.waitHeads(1)
			end(c)
			head++
			g.waitConnEnd(reason.ClientGone, head)
			g.waitNone()
		}
		f((*testkit.Client).Close)
		f((*testkit.Client).CloseWrite)
		f((*testkit.Client).Reset)
	})
	g := newGateway(t, static(""))
	g.dial().Close() // without a word
	g.waitConnEnd(reason.ClientClosed, 1)
	g.waitNone()
}

// onlyID returns the ID of the one open connection.
func (g *testGateway) onlyID() uint64 {
	g.t.Helper()
	list := Admin{Gateway: g.Gateway}.Connections(admin.ConnFilter{Limit: 10}).([]*connStatus)
	if len(list) != 1 {
		g.t.Fatalf("%d connections are listed, want 1", len(list))
	}
	return list[0].ID
}

// TestCloseParked closes through the admin API what is parked: idle, in a head, and fresh.
func TestCloseParked(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		n := 0
		f := func(what string, prepare func(c *testkit.Client), reset bool) {
			t.Helper()
			c := dial()
			prepare(c)
			if _, err := (Admin{Gateway: g.Gateway}).CloseConnection(g.onlyID(), reset); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			_ = c.Conn.SetReadDeadline(time.Now().Add(testkit.Patience))
			_, err := c.Conn.Read(make([]byte, 1))
			if got := err != io.EOF; err == nil || got != reset {
				t.Errorf("%s, reset %v: the client reads %v", what, reset, err)
			}
			n++
			g.waitConnEnd(reason.KilledByUser, n)
			g.waitNone()
		}
		for _, reset := range []bool{false, true} {
			f("idle", func(c *testkit.Client) { c.Do(get("/")); g.waitParked(1) }, reset)
			f("head", func(c *testkit.Client) { c.Send("GET "); g.waitHeads(1) }, reset)
		}
		if _, err := (Admin{Gateway: g.Gateway}).CloseConnection(12345, false); err == nil {
			t.Error("a connection that is not there was closed")
		}
	})
	g := newGateway(t, static(soon))
	for i, reset := range []bool{false, true} {
		c := g.dial()
		g.wait("accept", func() bool { return g.state(meter.Accepted) == 1 })
		if _, err := (Admin{Gateway: g.Gateway}).CloseConnection(g.onlyID(), reset); err != nil {
			t.Fatal(err)
		}
		c.ExpectClosed()
		g.waitConnEnd(reason.KilledByUser, i+1)
		g.waitNone()
	}
}

// TestDrainParked closes what is idle at once; a head that has begun may be finished, and
// a connection that is new may send its request.
func TestDrainParked(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon+"drain: {grace: 0s, timeout: 20s}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		idle, head, hot := dial(), dial(), dial()
		idle.Do(get("/"))
		hot.Do(get("/"))
		head.Send(get("/head")[:20])
		g.waitHeads(1)
		g.waitParked(3)
		dialed := time.Now()
		fresh := g.dial()
		g.wait("accept", func() bool { return g.state(meter.Accepted) == 1 })
		cut := g.drain()
		idle.ExpectClosed()
		_ = fresh.TrySend(get("/fresh"))
		inTime := time.Since(dialed) < firstRequest
		if resp, err := fresh.TryResponse("GET"); inTime && (err != nil || resp.Status != 200 || resp.Get("Connection") != "close") {
			t.Errorf("fresh: %v: %.200q", err, resp.Raw)
		}
		hot.ExpectClosed()
		head.Send(get("/head")[20:])
		if resp := head.Response("GET"); resp.Status != 200 || resp.Get("Connection") != "close" {
			t.Errorf("head: %.200q", resp.Raw)
		}
		for _, c := range []*testkit.Client{idle, hot, fresh, head} {
			c.Close()
		}
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		g.waitConnEnd(reason.Draining, 4)
		g.waitNone()
	})
}

// TestDrainLosesNoRequest drains while clients send requests to parked connections: whoever
// gets no answer sees the connection closed without a byte, and no request was served.
func TestDrainLosesNoRequest(t *testing.T) {
	t.Parallel()
	for range 5 {
		be := echoTarget(t)
		g, list := transports(t, toBackend(be.Addr())+"workers: {park_after: 0s}\ndrain: {grace: 0s}\n")
		var clients sync.WaitGroup
		answers := make([]int, 24)
		for k := range answers {
			c := list[k%3].dial()
			expectStatus(t, "first", c.Do(get("/")), 200)
			clients.Go(func() {
				for c.TrySend(get("/more")) == nil {
					resp, err := c.TryResponse("GET")
					if err != nil {
						if len(resp.Raw) > 0 {
							t.Errorf("client %d: a part of an answer: %q, %v", k, resp.Raw, err)
						}
						return
					}
					answers[k]++
				}
			})
		}
		cut := g.drain()
		clients.Wait()
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		total := len(answers)
		for _, n := range answers {
			total += n
		}
		if n := len(be.Requests()); n != total {
			t.Errorf("the backend has served %d requests, the clients got %d answers", n, total)
		}
		g.waitNone()
	}
}

// TestStopParked ends everything that waits, wherever it does.
func TestStopParked(t *testing.T) {
	t.Parallel()
	onEach(t, static(soon), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		idle, head := dial(), dial()
		idle.Do(get("/"))
		head.Send("GET ")
		g.waitHeads(1)
		fresh := g.dial()
		g.waitParked(2)
		g.wait("accept", func() bool { return g.state(meter.Accepted) == 1 })
		g.Stop()
		for _, c := range []*testkit.Client{idle, head, fresh} {
			c.ExpectClosed()
		}
		g.waitConnEnd(reason.ShutDown, 3)
		g.waitNone()
	})
}

// TestParkedHoldNoSnapshot reloads under connections that are parked idle and in a head.
func TestParkedHoldNoSnapshot(t *testing.T) {
	g, list := transports(t, static(soon))
	var idle, heads []*testkit.Client
	for _, tr := range list {
		a, b := tr.dial(), tr.dial()
		a.Do(get("/"))
		b.Do(get("/"))
		b.Send(get("/head")[:10])
		idle, heads = append(idle, a), append(heads, b)
	}
	fresh := g.dial()
	g.waitHeads(3)
	g.waitParked(6)
	for range 10 {
		cfg := *g.CurrentConfig() // the listeners stay
		cfg.Timeouts.Idle++
		if err := g.Reload(&cfg); err != nil {
			t.Fatal(err)
		}
	}
	g.wait("one snapshot", func() bool {
		runtime.GC()
		return g.metric("tickgate_snapshots_alive") == 1
	})
	for i, tr := range list {
		expectStatus(t, tr.name+", idle", idle[i].Do(get("/again")), 200, "/again")
		heads[i].Send(get("/head")[10:])
		expectStatus(t, tr.name+", head", heads[i].Response("GET"), 200, "/head")
	}
	expectStatus(t, "fresh", fresh.Do(get("/")), 200)
}

// TestRemovedListener serves what is parked on it once more.
func TestRemovedListener(t *testing.T) {
	t.Parallel()
	listeners := func(names ...string) string {
		return static(soon + "listeners: [{listen: \"" + strings.Join(names, "\", acceptors: 1}, {listen: \"") + "\", acceptors: 1}]\n")
	}
	g := newGateway(t, listeners("127.0.0.1:0", "127.0.0.2:0"))
	c, quiet := testkit.Dial(t, g.listener("127.0.0.2:0")), testkit.Dial(t, g.listener("127.0.0.2:0"))
	c.Do(get("/"))
	quiet.Do(get("/"))
	g.waitParked(2)
	g.reload(listeners("127.0.0.1:0"))
	resp := c.Do(get("/last"))
	expectStatus(t, "on a removed listener", resp, 200, "/last")
	if resp.Get("Connection") != "close" {
		t.Errorf("Connection %q, want close", resp.Get("Connection"))
	}
	c.ExpectClosed()
	c.Close()
	g.waitConnEnd(reason.ReloadedAway, 1)
	// Another listener may get the number of one that is gone, but not while it has connections.
	g.reload(listeners("127.0.0.1:0", "127.0.0.3:0"))
	other := testkit.Dial(t, g.listener("127.0.0.3:0"))
	expectStatus(t, "new listener", other.Do(get("/")), 200)
	g.waitParked(2)
	for i, want := range []string{"127.0.0.2:0", "127.0.0.3:0"} {
		list := Admin{Gateway: g.Gateway}.Connections(admin.ConnFilter{Limit: 10}).([]*connStatus)
		if len(list) != 2 || list[i].Listener != want {
			t.Fatalf("connection %d of %s is not on %s", i, g.api("connections"), want)
		}
	}
	quiet.Close()
	other.Close()
	g.waitConnEnd(reason.ClientClosed, 2)
	g.waitNone()
}

func TestCapsWhileParked(t *testing.T) {
	t.Parallel()
	f := func(yaml string) {
		t.Helper()
		g := newGateway(t, static(soon+yaml))
		for range 3 {
			a, b := g.dial(), g.dial()
			a.Do(get("/"))
			b.Do(get("/"))
			g.waitParked(2)
			g.dial().ExpectClosed() // one too many
			a.Close()
			g.waitParked(1)
			c := g.dial()
			expectStatus(t, "in the place of another", c.Do(get("/")), 200)
			b.Close()
			c.Close()
			g.waitNone()
		}
		if n := g.metric("tickgate_connection_ends_total{", `"`+reason.TooManyConns.String()+`"`); n != 3 {
			t.Errorf("%s: %v connections refused, want 3", yaml, n)
		}
	}
	f("connections: {max: 2}\n")
	f("connections: {max_per_client: 2}\n")
	f("listeners: [{listen: \"127.0.0.1:0\", acceptors: 1, max_connections: 2}]\n")
}

// dribbler sends a few bytes at a time.
type dribbler struct{ net.Conn }

func (d dribbler) Write(p []byte) (n int, err error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n < len(p) && err == nil {
		var k int
		k, err = d.Conn.Write(p[n:min(len(p), n+16)])
		n += k
		<-tick.C
	}
	return n, err
}

func TestSlowHandshakes(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	var clients sync.WaitGroup
	for range 20 {
		nc, err := dialRaw(secure)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
		clients.Go(func() {
			c := testkit.NewClient(t, tls.Client(dribbler{nc}, conf))
			if err := c.TrySend(get("/")); err != nil {
				t.Errorf("handshake or request: %v", err)
				return
			}
			if resp, err := c.TryResponse("GET"); err != nil || resp.Status != 200 {
				t.Errorf("got %d, %v", resp.Status, err)
			}
		})
	}
	expectStatus(t, "meanwhile", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
	clients.Wait()
	if n := g.metric("tickgate_tls_handshakes_total"); n != 21 {
		t.Errorf("%v handshakes counted, want 21", n)
	}
}

// TestSlowReader pipelines far more than the sockets hold before it reads an answer. None
// is lost when the connection parks behind them.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 1<<10)
	be := testkit.NewRecorder(t, func(r *testkit.Request) []byte { return testkit.OK(r.Target + " " + body) })
	for _, after := range []string{"0s", "1ms"} {
		onEach(t, toBackend(be.Addr())+"workers: {park_after: "+after+"}\n", func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
			c := dial()
			const requests = 800
			var sender sync.WaitGroup
			sender.Go(func() {
				for i := range requests {
					if err := c.TrySend(get("/" + strconv.Itoa(i))); err != nil {
						t.Errorf("request %d: %v", i, err)
						return
					}
				}
			})
			g.wait("pile of answers", func() bool { return g.requests(reason.OK) > 50 })
			for i := range requests {
				resp := c.Response("GET")
				if want := "/" + strconv.Itoa(i) + " " + body; string(resp.Body) != want {
					t.Fatalf("answer %d is %.40q", i, resp.Body)
				}
			}
			sender.Wait()
			g.waitParked(1)
			expectStatus(t, "after all", c.Do(get("/last")), 200, "/last")
		})
	}
}
