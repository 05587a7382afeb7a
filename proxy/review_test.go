//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"tickgate/config"
	"tickgate/internal/admin"
	"tickgate/internal/errlog"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

// manyClients is more than the workers of a gateway with workers {max: 2, queue: 1}.
const manyClients = 96

// fewWorkers is a configuration with fewer workers than manyClients.
func fewWorkers(more string) string {
	return static("workers: {max: 2, queue: 1, queue_timeout: 1h, park_after: 1ms}\n" + more)
}

// TestExpiredHeadIsItsOwn answers a parked head that is late with an Exchange that had served
// somebody else before.
func TestExpiredHeadIsItsOwn(t *testing.T) {
	t.Parallel()
	const foreign = "FOREIGN-0001"
	f := func(what, late string, fields ...string) {
		t.Helper()
		g := newGateway(t, static("forwarding: {trusted_proxies: [\"127.0.0.1\"]}\nlimits: {max_head: 64KiB}\n"))
		for range 8 { // a pool may drop what it is given
			c, client := g.planted(1)
			c.unbind()
			other, otherClient := g.planted(0)
			other.unbind()
			otherClient.Send(get("/"+foreign, append(fields, "X-Request-Id: "+foreign, "Cookie: "+foreign, "Connection: close")...))
			g.wait("request", other.sk.Readable)
			other.run()
			expectStatus(t, what+", before", otherClient.Response("GET"), 200, foreign)
			before := len(g.logs.String())
			c.from.Phase, c.from.Rest, c.begun = park.Head, []byte(late), 1
			c.expireHead()
			resp := client.Response("GET")
			expectStatus(t, what, resp, 408, "reason: head_timeout")
			if got := resp.Raw; bytes.Contains(got, []byte(foreign)) {
				t.Errorf("%s: answered with what another client sent: %q", what, got)
			}
			if line := g.logs.String()[before:]; strings.Contains(line, foreign) || strings.Contains(line, "-0001") {
				t.Errorf("%s: logged with what another client sent: %s", what, line)
			}
			client.Close()
			otherClient.Close()
		}
		g.waitEnd(reason.HeadTimeout, 8)
	}
	pad := "X-Pad: " + strings.Repeat("a", 6000)
	f("nothing", "")
	f("part of a request line", "GET /mine HTT")
	f("part of the fields", "GET /mine HTTP/1.1\r\nHost: h\r\nX-Reque")
	f("after a larger head", "GET /mine HTT", pad, pad) // what is left of it lies beyond the buffer
}

// hello returns the first record that a TLS client sends.
func hello(t testing.TB, conf *tls.Config) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	var group sync.WaitGroup
	defer group.Wait()
	defer theirs.Close()
	group.Go(func() { _ = tls.Client(theirs, conf).Handshake() }) // it fails when the pipe is closed
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(ours, head); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(ours, rest); err != nil {
		t.Fatal(err)
	}
	return string(head) + string(rest)
}

// events is how often the loops were told of something.
func (g *testGateway) events() (n uint64) {
	for _, st := range g.loops.Stats() {
		n += st.Events
	}
	return n
}

// ticks waits until every loop has had n more ticks, so that what would spin has spun.
func (g *testGateway) ticks(n uint64) {
	g.t.Helper()
	least := func() uint64 {
		m := ^uint64(0)
		for _, st := range g.loops.Stats() {
			m = min(m, st.Ticks)
		}
		return m
	}
	until := least() + n
	g.wait("ticks", func() bool { return least() >= until })
}

// TestStalledHandshakesHoldNobody has more clients stop in their ClientHello than there are
// workers for handshakes, and for longer than the test lasts.
func TestStalledHandshakesHoldNobody(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, recordHeader, recordHeader + 1, 100} {
		g, secure, conf := tlsGateway(t, fewWorkers("timeouts: {handshake: 1h}\n"))
		if n := crewSize(g.CurrentConfig()); n >= manyClients {
			t.Fatalf("%d workers, want fewer than %d", n, manyClients)
		}
		start := hello(t, conf)[:size]
		var stalled []*testkit.Client
		for range manyClients {
			c := testkit.Dial(t, secure)
			c.Send(start)
			stalled = append(stalled, c)
		}
		g.wait("stalled clients", func() bool { return g.conns.Open() == manyClients })
		for range 3 {
			c, err := dialRaw(secure)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(testkit.Patience))
			conn := tls.Client(c, conf)
			if err := conn.Handshake(); err != nil {
				t.Fatalf("behind %d clients with %d bytes each: %v", manyClients, size, err)
			}
			client := testkit.NewClient(t, conn)
			expectStatus(t, "behind stalled clients", client.Do(get("/")), 200)
			client.Close()
		}
		g.wait("waiting without a worker", func() bool {
			fresh, _, _ := g.lot.Count()
			running, idle := g.handshakes.crew.size()
			return fresh == manyClients && running == idle && g.state(meter.Accepted) == manyClients
		})
		for _, c := range stalled {
			c.Close()
		}
		g.waitNone()
	}
}

// TestHelloInDrops sends a ClientHello byte by byte: nobody looks at each of them.
func TestHelloInDrops(t *testing.T) {
	t.Parallel()
	f := func(version uint16, group tls.CurveID) {
		t.Helper()
		g, secure, conf := tlsGateway(t, fewWorkers("timeouts: {handshake: 1h}\n"))
		conf.MinVersion, conf.MaxVersion = version, version
		// Of a hello with a post-quantum share, the kernel cannot keep so many tiny segments: a part is read before it is whole.
		conf.CurvePreferences = []tls.CurveID{group}
		nc, err := dialRaw(secure)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
		before := g.events()
		c := testkit.NewClient(t, tls.Client(&drops{Conn: nc}, conf))
		expectStatus(t, tls.VersionName(version), c.Do(get("/")), 200)
		// The accept, the first byte, the header, the whole, the client's Finished; then the request; twice that for a
		// slow machine.
		if n := g.events() - before; n > 12 {
			t.Errorf("%s: the loops were woken %d times for one client", tls.VersionName(version), n)
		}
		if n := g.metric("tickgate_tls_handshakes_total"); n != 1 {
			t.Errorf("%s: %v handshakes counted, want 1", tls.VersionName(version), n)
		}
	}
	f(tls.VersionTLS12, tls.X25519)
	f(tls.VersionTLS13, tls.X25519)
}

// drops sends the first write byte by byte.
type drops struct {
	net.Conn
	started bool
}

func (d *drops) Write(p []byte) (n int, err error) {
	if d.started {
		return d.Conn.Write(p)
	}
	d.started = true
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; n < len(p) && err == nil; n++ {
		_, err = d.Conn.Write(p[n : n+1])
		<-tick.C
	}
	return n, err
}

// TestEndInsideHello has clients go in the middle of their ClientHello.
func TestEndInsideHello(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, fewWorkers("timeouts: {handshake: 1h}\n"))
	whole := hello(t, conf)
	f := func(what string, size int, end func(c *testkit.Client)) {
		t.Helper()
		c := testkit.Dial(t, secure)
		c.Send(whole[:size])
		g.wait("part of a ClientHello", func() bool {
			fresh, _, _ := g.lot.Count()
			return fresh == 1 && g.conns.Open() == 1
		})
		before := g.events()
		g.ticks(2)
		if n := g.events() - before; n > 4 {
			t.Errorf("%s: the loops were woken %d times while nothing came", what, n)
		}
		end(c)
		g.waitNone()
		before = g.events()
		g.ticks(2)
		if n := g.events() - before; n > 4 {
			t.Errorf("%s: the loops were woken %d times after the end", what, n)
		}
		c.Close()
	}
	for _, size := range []int{1, recordHeader - 1, recordHeader, recordHeader + 1, len(whole) - 1} {
		name := fmt.Sprintf(" after %d bytes", size)
		f("FIN"+name, size, (*testkit.Client).Close)
		f("FIN of a client that goes on reading"+name, size, (*testkit.Client).CloseWrite)
		f("RST"+name, size, (*testkit.Client).Reset)
	}
	expectStatus(t, "afterwards", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
}

// TestHelloTimeout ends a handshake that never gets under way.
func TestHelloTimeout(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, fewWorkers("timeouts: {handshake: 300ms}\n"))
	c := testkit.Dial(t, secure)
	c.Send(hello(t, conf)[:50])
	c.ExpectClosed()
	g.waitConnEnd(reason.TLSFailed, 1)
	g.waitNone()
}

// TestLingeringHoldsNoWorker has more clients that do not close after their last answer than
// there are workers.
func TestLingeringHoldsNoWorker(t *testing.T) {
	t.Parallel()
	onEach(t, fewWorkers(""), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		var clients []*testkit.Client
		for range manyClients {
			clients = append(clients, dial())
		}
		other := dial()
		g.wait("connections", func() bool { return g.conns.Open() == manyClients+1 })
		for _, c := range clients { // one after the other: two workers do not serve all of them at once
			expectStatus(t, "last answer", c.Do(get("/", "Connection: close")), 200)
		}
		g.wait("lingering without a worker", func() bool {
			running, idle := g.workers.size()
			return g.state(meter.Draining) > 0 && running == idle && len(g.connections()) == 0
		})
		if n := len(g.list(admin.ConnFilter{State: meter.Draining.String()})); n == 0 {
			t.Error("no connection is listed as draining")
		}
		expectStatus(t, "beside lingering connections", other.Do(get("/")), 200)
		for _, c := range clients[:manyClients/2] { // the others wait until lingerTime is over
			c.Close()
		}
		g.waitConnEnd(reason.ClientClosed, manyClients)
		other.Close()
		g.waitNone()
	})
}

// TestLingeringThrowsAway lets a client that goes on sending have its answer, but not forever.
func TestLingeringThrowsAway(t *testing.T) {
	t.Parallel()
	g := newGateway(t, fewWorkers(""))
	c := g.dial()
	c.Send(get("/first", "Connection: close"))
	g.wait("lingering", func() bool { return g.state(meter.Draining) == 1 })
	c.Send(strings.Repeat("x", 1<<10))
	expectStatus(t, "answer", c.Response("GET"), 200, "/first")
	junk := strings.Repeat("x", 64<<10)
	sent := 0
	for ; sent < 64*lingerBytes && c.TrySend(junk) == nil; sent += len(junk) { //nolint:revive // the body is the condition
	}
	if sent >= 64*lingerBytes {
		t.Errorf("%d bytes were taken from a client that had its last answer", sent)
	}
	g.waitNone()
}

// TestWaitIsTheFirstRequests: what a connection waited for a worker is not held against its
// second request, when the first one had no use for it.
func TestWaitIsTheFirstRequests(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /slow, upstream: be}
  - {path: /critical, priority: critical, static_response: {body: c}}
  - {path: /ok, static_response: {body: ok}}
workers: {max: 4, queue: 4, queue_timeout: 20ms}
`)
	g.occupy()
	firsts := []struct {
		path   string
		status int
	}{{"/critical", 200}, {"/nowhere", 404}}
	var clients []*testkit.Client
	for _, f := range firsts {
		clients = append(clients, g.send(f.path))
		clients[len(clients)-1].Send(get("/ok"))
	}
	g.wait("queue for a worker", func() bool { return g.workers.waiting.Load() == int32(len(firsts)) })
	since := g.now()
	g.wait("end of queue_timeout", func() bool { return g.now()-since > 20*time.Millisecond })
	be.release()
	for i, f := range firsts {
		expectStatus(t, f.path, clients[i].Response("GET"), f.status)
		expectStatus(t, "after "+f.path, clients[i].Response("GET"), 200, "ok")
	}
	if n := g.late.Load(); n != 0 {
		t.Errorf("%d requests were refused as late, want none", n)
	}
}

// TestDrainFindsUpgradeInFlight drains a backend that has no tunnel yet, and one on its way.
func TestDrainFindsUpgradeInFlight(t *testing.T) {
	t.Parallel()
	f := func(what string, drain func(g *testGateway, be *tunnelBackend)) {
		t.Helper()
		for _, mode := range tunnelModes {
			be := newTunnelBackend(t, nil)
			yaml := toBackends("", "tunnel: {mode: "+mode+"}", be.addr()) + "drain: {window: 200ms}"
			g := newGateway(t, yaml)
			client := g.dial()
			client.Send(upgrade())
			backend := be.asked()
			drain(g, be)
			backend.Send(switching())
			start := time.Now()
			expectStatus(t, what, client.Response("GET"), 101)
			answerCloses(backend)
			var ends endings
			ends.watch(client, mode == "frames")
			want := ws.StatusCode(0)
			if mode == "frames" {
				want = 1012
			}
			ends.expect(t, what+", "+mode, want)
			if d := time.Since(start); d > testkit.Patience/2 {
				t.Errorf("%s, %s: ended after %v, the window is 200ms", what, mode, d)
			}
			g.waitTunnelEnd(reason.Draining, 1)
			g.waitNoTunnels()
		}
	}
	f("configuration", func(g *testGateway, be *tunnelBackend) {
		g.reload(toBackends("", "", be.addr()) + "drain: {window: 1000h}") // another one, which is over
		g.reload(strings.Replace(toBackends("", "", be.addr()), `"}`, `", drain: true}`, 1) + "drain: {window: 200ms}")
	})
	f("admin API", func(g *testGateway, be *tunnelBackend) {
		if err := (Admin{Gateway: g.Gateway}).Drain("be", be.addr(), true, admin.ConfiguredWindow); err != nil {
			t.Fatal(err)
		}
	})
}

// TestExtensionsOverSeveralFields accepts extensions over several fields (RFC 6455 section
// 9.1). One that the gateway does not know makes the tunnel opaque.
func TestExtensionsOverSeveralFields(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames}", be.addr()))
	f := func(mode string, deflate bool, answers ...string) {
		t.Helper()
		what := fmt.Sprintf("%q", answers)
		for i := range answers {
			answers[i] = "Sec-WebSocket-Extensions: " + answers[i]
		}
		client := g.dial()
		client.Send(upgrade("Sec-WebSocket-Extensions: a, permessage-deflate"))
		backend := be.asked()
		backend.Send(switching(answers...))
		expectStatus(t, what, client.Response("GET"), 101)
		var got string
		g.wait("tunnel", func() bool {
			for _, st := range g.list(admin.ConnFilter{}) {
				got = st.Mode // empty until the relay has it
			}
			return got != ""
		})
		if got != mode {
			t.Errorf("%s: mode %q, want %q", what, got, mode)
		}
		first := byte(textFrame | rsv1)
		if mode == "opaque" {
			first |= 0x30 // all of them may mean something
		}
		client.Send(frame(first, "\xff\xfe", true))
		if deflate || mode == "opaque" {
			expectFrame(t, what, backend, first, "\xff\xfe")
			backend.Send(frame(first, "\xff\xfe", false))
			expectFrame(t, what, client, first, "\xff\xfe")
		} else {
			expectClose(t, what, client, 1002)
		}
		client.Close()
		backend.Close()
		g.waitNoTunnels()
	}
	f("frames", false)
	f("frames", true, "permessage-deflate")
	f("frames", true, "PerMessage-Deflate ; server_no_context_takeover")
	f("frames", true, "", "permessage-deflate; client_max_window_bits=10")
	f("opaque", true, "x-foo", "permessage-deflate")
	f("opaque", true, "permessage-deflate", "x-foo; a=b")
	f("opaque", true, "permessage-deflate, x-foo")
	f("opaque", false, "x-permessage-deflate-foo")
	f("opaque", false, "x-webkit-deflate-frame")
}

// TestSecondDrainOfBackend drains again, with a window that then counts.
func TestSecondDrainOfBackend(t *testing.T) {
	t.Parallel()
	const never = 1000 * time.Hour
	f := func(what string, configured time.Duration, second time.Duration) {
		t.Helper()
		onPairs(t, func(t *testing.T, p *drainPair) {
			p.change(func(cfg *config.Config) { cfg.Drain.Window = configured })
			p.drainA(true, never)
			if st := p.backendDrains(); len(st) != 1 || st[0].Left != pairSize {
				t.Errorf("%s: drains %+v", what, st)
			}
			p.expectAlive(what, 0)
			p.drainA(true, second)
			p.expectDrained(what)
			if st := p.backendDrains(); len(st) > 1 || len(st) == 1 && st[0].Left != 0 {
				t.Errorf("%s: drains %+v afterwards", what, st)
			}
		})
	}
	f("at once", never, 0)
	f("as configured", 100*time.Millisecond, admin.ConfiguredWindow)
}

// noMoreDescriptors has the process get no more descriptors until the function is called. No
// other test may run meanwhile.
func noMoreDescriptors(t *testing.T) func() {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	back := sync.OnceFunc(func() { set(was) })
	t.Cleanup(back)
	set(unix.Rlimit{Cur: 3, Max: was.Max})
	return back
}

// TestNoDescriptorToPark keeps a connection that cannot park for want of a descriptor. Not
// parallel: the limit is of the process.
func TestNoDescriptorToPark(t *testing.T) {
	for _, after := range []string{"while there is none", "when there is one again"} {
		const patience = 300 * time.Millisecond
		g := newGateway(t, static("workers: {park_after: "+patience.String()+"}\n"))
		c := g.dial()
		g.wait("hot connection", func() bool { c.Do(get("/")); return g.state(meter.Idle) == 1 })
		back := noMoreDescriptors(t)
		since := g.now()
		g.wait("time to park", func() bool { return g.now()-since > 2*patience })
		if after != "while there is none" {
			back()
		}
		expectStatus(t, after, c.Do(get("/again")), 200, "/again")
		back()
		g.waitParked(1)
		c.Close()
		g.waitConnEnd(reason.ClientClosed, 1)
	}
}

// TestNoDescriptorForTunnel refuses an upgrade for whose tunnel there is no descriptor: after
// the 101 it would be too late. Not parallel, likewise.
func TestNoDescriptorForTunnel(t *testing.T) {
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackend(be.addr()))
	c := g.dial()
	c.Send(get("/"))
	backend := be.asked()
	backend.Send(string(testkit.OK("one")))
	expectStatus(t, "before", c.Response("GET"), 200, "one")
	back := noMoreDescriptors(t)
	c.Send(upgrade())
	backend.Until("\r\n\r\n") // on the pooled connection
	backend.Send(switching())
	resp := c.Response("GET")
	back()
	expectStatus(t, "no descriptor", resp, 503, "reason: too_many_tunnels")
	if resp.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	backend.ExpectClosed()
	g.waitNoTunnels()
	client, other := be.open(g.dial())
	talk(t, "afterwards", client, other)
}

// stuckLog is an output that takes no line with a certain text until it is released.
type stuckLog struct {
	logBuffer
	text  string
	stuck chan struct{} // one for each line that is stuck
	free  chan struct{}
}

func (w *stuckLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.text)) {
		select {
		case w.stuck <- struct{}{}:
		default:
		}
		<-w.free
	}
	return w.logBuffer.Write(p)
}

// TestStuckLogStopsNoLoop has the error log take nothing more once a tunnel ends badly. There
// is one loop.
func TestStuckLogStopsNoLoop(t *testing.T) {
	t.Parallel()
	w := &stuckLog{text: "tunnel ended", stuck: make(chan struct{}, 1), free: make(chan struct{})}
	log, err := errlog.New(w, config.ErrorLog{Format: "json", Level: "info", Throttle: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	be := newTunnelBackend(t, nil)
	cfg := parseConfig(t, "workers: {loops: 1, park_after: 0s}\n"+`
upstreams: {be: {servers: [{address: "`+be.addr()+`"}]}}
routes:
  - {path: /local, static_response: {body: ok}}
  - {path: /, upstream: be, tunnel: {mode: frames}}
`)
	g := &testGateway{t: t, logs: &w.logBuffer}
	if g.Gateway, err = New(cfg, Options{Log: log, Version: "test"}); err != nil {
		t.Fatal(err)
	}
	g.addr = g.listener(cfg.Listeners[0].Listen)
	t.Cleanup(g.cleanup)
	release := sync.OnceFunc(func() { close(w.free) })
	t.Cleanup(release)
	idle := g.dial()
	idle.Do(get("/local"))
	tunnelled, tunnel := be.open(g.dial())
	end := func() {
		client, backend := be.open(g.dial())
		client.Send(frame(fin|0x7, "", true)) // an opcode that is not there
		expectClose(t, "bad frame", client, 1002)
		client.Send(frame(fin|closeOp, closing(1002), true))
		client.ExpectClosed()
		backend.Close()
	}
	end()
	<-w.stuck
	expectStatus(t, "parked connection", idle.Do(get("/local")), 200)
	expectStatus(t, "new connection", g.get("/local"), 200)
	talk(t, "tunnel", tunnelled, tunnel)
	for range 2 * maxObituaries {
		end()
	}
	g.waitTunnelEnd(reason.BadFrame, 2*maxObituaries+1)
	if n := g.obituaries.Load(); n > maxObituaries {
		t.Errorf("%d lines wait for the log, want at most %d", n, maxObituaries)
	}
	release()
	g.wait("lines", func() bool { return g.obituaries.Load() == 0 })
	if n := strings.Count(g.logs.String(), w.text); n == 0 || n > maxObituaries {
		t.Errorf("%d lines were written, want those that waited, at most %d", n, maxObituaries)
	}
}
