//go:build linux

package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/config"
	"tickgate/internal/errlog"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// tunnelBackend accepts connections for a test that plays the backend itself.
type tunnelBackend struct {
	t        testing.TB
	ln       net.Listener
	conf     *tls.Config // nil for plain
	accepted chan net.Conn
}

func newTunnelBackend(t testing.TB, conf *tls.Config) *tunnelBackend {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &tunnelBackend{t: t, ln: ln, conf: conf, accepted: make(chan net.Conn, 1024)}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.accepted <- c
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		group.Wait()
		for close(b.accepted); ; {
			c, ok := <-b.accepted
			if !ok {
				return
			}
			_ = c.Close()
		}
	})
	return b
}

func (b *tunnelBackend) addr() string { return b.ln.Addr().String() }

// take returns the next connection.
func (b *tunnelBackend) take() *testkit.Client {
	b.t.Helper()
	timer := time.NewTimer(testkit.Patience)
	defer timer.Stop()
	select {
	case c := <-b.accepted:
		if b.conf != nil {
			c = tls.Server(c, b.conf)
		}
		return testkit.NewClient(b.t, c)
	case <-timer.C:
		b.t.Fatalf("no connection at the backend within %v", testkit.Patience)
		return nil
	}
}

// asked takes the next connection and reads an upgrade's head from it.
func (b *tunnelBackend) asked() *testkit.Client {
	b.t.Helper()
	c := b.take()
	c.Until("\r\n\r\n")
	return c
}

// open makes a tunnel through the gateway and returns both its ends.
func (b *tunnelBackend) open(client *testkit.Client, fields ...string) (_, backend *testkit.Client) {
	b.t.Helper()
	client.Send(upgrade(fields...))
	backend = b.asked()
	backend.Send(switching())
	expectStatus(b.t, "upgrade", client.Response("GET"), 101)
	return client, backend
}

// mask is the masking key of the frames that tests send as a client.
const mask = "\x11\x22\x33\x44"

// frame is a WebSocket frame. first is its first byte: FIN, RSV and opcode.
func frame(first byte, payload string, masked bool) string {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return string(b) + payload
	}
	b[1] |= 0x80
	b = append(b, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

const (
	fin       = 0x80
	rsv1      = 0x40
	textOp    = 0x1
	binaryOp  = 0x2
	closeOp   = 0x8
	pingOp    = 0x9
	pongOp    = 0xa
	textFrame = fin | textOp
)

// fromClient and fromBackend are whole text messages.
func fromClient(text string) string  { return frame(textFrame, text, true) }
func fromBackend(text string) string { return frame(textFrame, text, false) }

// closing is the payload of a Close frame.
func closing(code ws.StatusCode) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code)))
}

// readFrame reads one frame and unmasks it.
func readFrame(c *testkit.Client) (first byte, payload string) {
	head := c.Next(2)
	n := int(head[1] & 0x7f)
	switch n {
	case 126:
		n = int(binary.BigEndian.Uint16([]byte(c.Next(2))))
	case 127:
		n = int(binary.BigEndian.Uint64([]byte(c.Next(8))))
	}
	var key string
	if head[1]&0x80 != 0 {
		key = c.Next(4)
	}
	b := []byte(c.Next(n))
	for i := range b {
		if key != "" {
			b[i] ^= key[i%4]
		}
	}
	return head[0], string(b)
}

// expectFrame reads a frame and compares it.
func expectFrame(t testing.TB, what string, c *testkit.Client, first byte, payload string) {
	t.Helper()
	gotFirst, got := readFrame(c)
	if gotFirst != first || got != payload {
		t.Fatalf("%s: got frame %#x %d bytes %.80q, want %#x %d bytes %.80q", what, gotFirst, len(got), got, first, len(payload), payload)
	}
}

// expectClose reads a Close frame and compares its code.
func expectClose(t testing.TB, what string, c *testkit.Client, code ws.StatusCode) {
	t.Helper()
	expectFrame(t, what, c, fin|closeOp, closing(code))
}

// talk sends a message each way through a tunnel.
func talk(t testing.TB, what string, client, backend *testkit.Client) {
	t.Helper()
	client.Send(fromClient("to backend"))
	expectFrame(t, what+", at the backend", backend, textFrame, "to backend")
	backend.Send(fromBackend("to client"))
	expectFrame(t, what+", at the client", client, textFrame, "to client")
}

// waitNoTunnels waits until nothing of a tunnel is left anywhere.
func (g *testGateway) waitNoTunnels() {
	g.t.Helper()
	g.wait("end of all tunnels", func() bool {
		return g.tunnels.Count() == 0 && g.tunnelCaps.Open() == 0 && len(g.owners.list()) == 0 && g.metric("tickgate_tunnels{") == 0 &&
			g.metric("tickgate_upstream_tunnels{") == 0 && g.metric("tickgate_connections{", `"relayed"`) == 0 && g.metric("tickgate_connections{", `"draining"`) == 0
	})
}

// relayed waits until n tunnels are counted.
func (g *testGateway) relayed(n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d tunnels", n), func() bool { return int(g.metric("tickgate_tunnels{")) == n })
}

// change reloads with a changed copy of the configuration; the listeners stay.
func (g *testGateway) change(f func(cfg *config.Config)) {
	g.t.Helper()
	cfg := *g.CurrentConfig()
	f(&cfg)
	if err := g.Reload(&cfg); err != nil {
		g.t.Fatalf("reload: %v", err)
	}
}

// tunnelModes are the values of tunnel.mode.
var tunnelModes = []string{"opaque", "frames"}

// way is a gateway with one backend, and how its tunnels are opened.
type way struct {
	*testGateway
	be     *tunnelBackend
	dial   func() *testkit.Client
	frames bool
	secure bool // the client's side has TLS
}

// onWays runs f for both modes, with and without TLS on either side. more is appended to the
// configuration, keys to the route's tunnel section.
func onWays(t *testing.T, keys, more string, f func(t *testing.T, w *way)) {
	t.Helper()
	eachWay(parallel(t), keys, more, f)
}

// onWaysAtOnce is onWays for tests that wait more than they work.
func onWaysAtOnce(t *testing.T, keys, more string, f func(t *testing.T, w *way)) {
	t.Helper()
	atOnce(t, func(run runner) { eachWay(run, keys, more, f) })
}

func eachWay(run runner, keys, more string, f func(t *testing.T, w *way)) {
	for _, mode := range tunnelModes {
		for k := range 4 {
			secure, secureBackend := k&1 != 0, k&2 != 0
			run(fmt.Sprintf("%s client TLS %t backend TLS %t", mode, secure, secureBackend), func(t *testing.T) {
				w := &way{frames: mode == "frames", secure: secure}
				upstream := ""
				if w.be = newTunnelBackend(t, nil); secureBackend {
					w.be.conf = testcert.New(t).ServerTLS(t)
					upstream = "tls: {insecure_skip_verify: true}"
				}
				g, addr, conf := tlsGateway(t, toBackends(upstream, "name: feed, tunnel: {mode: "+mode+comma(keys)+"}", w.be.addr())+more)
				w.testGateway, w.dial = g, g.dial
				if secure {
					w.dial = func() *testkit.Client { return testkit.DialTLS(t, addr, conf) }
				}
				f(t, w)
			})
		}
	}
}

// open makes a tunnel.
func (w *way) open(fields ...string) (client, backend *testkit.Client) {
	w.t.Helper()
	return w.be.open(w.dial(), fields...)
}

func TestTunnelBothModes(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		// 1. Bytes come together with the handshake, both ways.
		client := w.dial()
		client.Send(upgrade() + fromClient("early client"))
		backend := w.be.asked()
		backend.Send(switching() + fromBackend("early backend"))
		expectStatus(t, "upgrade", client.Response("GET"), 101)
		expectFrame(t, "early", backend, textFrame, "early client")
		expectFrame(t, "early", client, textFrame, "early backend")
		talk(t, "after the handshake", client, backend)
		// 2. Big messages cross each other.
		big := strings.Repeat("0123456789abcdef", 3<<16)
		var sent sync.WaitGroup
		sent.Go(func() { _ = client.TrySend(frame(fin|binaryOp, big, true)) })
		sent.Go(func() { _ = backend.TrySend(frame(fin|binaryOp, big[1:], false)) })
		expectFrame(t, "big", client, fin|binaryOp, big[1:])
		expectFrame(t, "big", backend, fin|binaryOp, big)
		sent.Wait()
		// 3. The client ends its half; the other goes on.
		client.Send(fromClient("last"))
		client.CloseWrite()
		expectFrame(t, "last", backend, textFrame, "last")
		backend.ExpectClosed()
		backend.Send(fromBackend("after the half-close"))
		expectFrame(t, "half-close", client, textFrame, "after the half-close")
		backend.Close()
		client.ExpectClosed()
		client.Close()
		w.waitTunnelEnd(reason.ClosedByClient, 1)
		w.waitNoTunnels()
		w.waitNone()
	})
}

// TestTunnelCloseHandshake ends tunnels with the peers' own Close frames.
func TestTunnelCloseHandshake(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		f := func(fromBackend bool, end reason.Reason) {
			t.Helper()
			client, backend := w.open()
			first, second := client, backend
			if fromBackend {
				first, second = backend, client
			}
			first.Send(frame(fin|closeOp, closing(4321), !fromBackend))
			expectClose(t, "close", second, 4321)
			second.Send(frame(fin|closeOp, closing(4321), fromBackend))
			expectClose(t, "answer", first, 4321)
			first.CloseWrite() // either may be the first to end the connection
			second.ExpectClosed()
			second.Close()
			first.ExpectClosed()
			w.waitTunnelEnd(end, 1)
		}
		f(false, reason.ClosedByClient)
		f(true, reason.ClosedByBackend)
		w.waitNoTunnels()
	})
}

// TestTunnelsHoldNoSnapshot reloads under open tunnels.
func TestTunnelsHoldNoSnapshot(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		type ends struct{ client, backend *testkit.Client }
		var all []ends
		for range 8 {
			c, b := w.open()
			all = append(all, ends{c, b})
		}
		for i := range 40 {
			w.change(func(cfg *config.Config) { cfg.Timeouts.Idle++ })
			talk(t, "between reloads", all[i%8].client, all[i%8].backend)
		}
		w.wait("one snapshot", func() bool {
			runtime.GC()
			return w.metric("tickgate_snapshots_alive") == 1
		})
		for _, e := range all {
			talk(t, "after the reloads", e.client, e.backend)
		}
		if n := w.metric("tickgate_tunnels{", `route="feed"`); n != 8 {
			t.Errorf("%v tunnels, want 8", n)
		}
	})
}

// TestTunnelOutlivesItsRoute removes route and listener under a tunnel; the upstream stays.
func TestTunnelOutlivesItsRoute(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	server := "upstreams: {be: {servers: [{address: \"" + be.addr() + "\"}]}}\n"
	g := newGateway(t, server+"routes: [{name: old, upstream: be, tunnel: {mode: frames}}]\nlisteners: [{listen: \"127.0.0.1:0\", acceptors: 1}, {listen: \"127.0.0.2:0\"}]")
	client, backend := be.open(testkit.Dial(t, g.listener("127.0.0.2:0")))
	g.reload(server + "routes: [{name: new, path: /new, upstream: be}]")
	talk(t, "without its route", client, backend)
	if n := g.metric("tickgate_tunnels{", `route="old"`); n != 1 {
		t.Errorf("%v tunnels of the removed route, want 1", n)
	}
	// The route comes back, and its limits count the tunnel that is open.
	g.reload(server + "routes: [{name: old, upstream: be, tunnel: {mode: frames, max: 1}}]")
	expectStatus(t, "over the limit", g.do(upgrade()), 503, "reason: too_many_tunnels")
	client.Close()
	backend.ExpectClosed()
	backend.Close()
	g.waitTunnelEnd(reason.ClosedByClient, 1)
	g.waitNoTunnels()
	be.open(g.dial())
	g.relayed(1)
	if n := g.metric("tickgate_tunnels_opened_total{", `route="old"`); n != 2 {
		t.Errorf("%v tunnels of the route were opened, want 2", n)
	}
}

// TestTunnelFreesPool opens many tunnels to a backend that may have one connection.
func TestTunnelFreesPool(t *testing.T) {
	t.Parallel()
	for _, mode := range tunnelModes {
		be := newTunnelBackend(t, nil)
		g := newGateway(t, toBackends("pool: {max_conns: 1, wait_timeout: 0s}, retry: {attempts: 1}", "tunnel: {mode: "+mode+"}", be.addr()))
		var last [2]*testkit.Client
		for range 20 {
			last[0], last[1] = be.open(g.dial())
			// The permit is given back after the 101, which is sent before.
			g.wait("free pool", func() bool { return g.metric("tickgate_upstream_pool_connections{", `"in_use"`) == 0 })
		}
		c := g.dial()
		c.Send(get("/"))
		plain := be.asked()
		plain.Send(string(testkit.OK("plain")))
		expectStatus(t, "plain request", c.Response("GET"), 200, "plain")
		talk(t, mode, last[0], last[1])
	}
}

// expectTooManyTunnels checks the refusal of an upgrade.
func expectTooManyTunnels(t testing.TB, what string, resp *testkit.Response) {
	t.Helper()
	expectStatus(t, what, resp, 503, "reason: too_many_tunnels")
	if after, err := strconv.Atoi(resp.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("%s: Retry-After %q, want seconds", what, resp.Get("Retry-After"))
	}
}

func TestTunnelLimits(t *testing.T) {
	t.Parallel()
	f := func(limit, all, route string) {
		t.Helper()
		for _, mode := range tunnelModes {
			be := newTunnelBackend(t, nil)
			g := newGateway(t, toBackends("", "name: feed, tunnel: {mode: "+mode+comma(route)+"}", be.addr())+
				"tunnels: {"+all+"}\nforwarding: {trusted_proxies: [127.0.0.1]}\n")
			perClient := strings.HasSuffix(limit, "per_client")
			from := func(addr string) string { return "X-Forwarded-For: " + addr }
			first, backend := be.open(g.dial(), from("192.0.2.1"))
			second, _ := be.open(g.dial(), from("192.0.2.1"))
			// 1. The third is refused, on a connection that goes on.
			c := g.dial()
			for range 2 {
				expectTooManyTunnels(t, limit, c.Do(upgrade(from("192.0.2.1"))))
			}
			if n := g.metric("tickgate_tunnels_refused_total{", `route="feed"`, `limit="`+limit+`"`); n != 2 {
				t.Errorf("%s: %v refused, want 2", limit, n)
			}
			if n := g.metric("tickgate_tunnels_refused_total{"); n != 2 {
				t.Errorf("%s: %v refused in all, want 2", limit, n)
			}
			if n := g.requests(reason.TooManyTunnels); n != 2 {
				t.Errorf("%s: %d requests counted, want 2", limit, n)
			}
			// 2. Another client may, if the limit is one for each.
			if perClient {
				be.open(g.dial(), from("192.0.2.2"))
				g.relayed(3)
			} else {
				expectTooManyTunnels(t, limit, g.do(upgrade(from("192.0.2.2"))))
			}
			// 3. The end of one makes room for one.
			first.Close()
			backend.ExpectClosed()
			backend.Close()
			g.waitTunnelEnd(reason.ClosedByClient, 1)
			be.open(c, from("192.0.2.1"))
			expectTooManyTunnels(t, limit, g.do(upgrade(from("192.0.2.1"))))
			second.Close()
		}
	}
	f("tunnels.max", "max: 2", "")
	f("tunnels.max_per_client", "max_per_client: 2", "")
	f("tunnel.max", "", "max: 2")
	f("tunnel.max_per_client", "", "max_per_client: 2")
}

// TestTunnelLimitsOfUntrusted counts by the connection's own address.
func TestTunnelLimitsOfUntrusted(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackend(be.addr())+"tunnels: {max_per_client: 1}")
	be.open(g.dial(), "X-Forwarded-For: 192.0.2.1")
	expectTooManyTunnels(t, "the same peer", g.do(upgrade("X-Forwarded-For: 192.0.2.2")))
}

func TestTunnelLimitsByReload(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackend(be.addr()))
	for range 3 {
		be.open(g.dial())
	}
	f := func(allowed bool, keys string) {
		t.Helper()
		g.reload(toBackends("", "tunnel: {"+keys+"}", be.addr()))
		if allowed {
			be.open(g.dial())
		} else {
			expectTooManyTunnels(t, keys, g.do(upgrade()))
		}
	}
	f(false, "max: 2")
	f(false, "max: 3")
	f(true, "max: 4")
	f(false, "max: 4")
	f(true, "max: 0")
	f(false, "max_per_client: 5")
	f(true, "max_per_client: 6")
	// The limit over all routes counts what was open before it.
	g.reload(toBackend(be.addr()) + "tunnels: {max: 6}")
	expectTooManyTunnels(t, "tunnels.max", g.do(upgrade()))
	g.reload(toBackend(be.addr()) + "tunnels: {max: 7}")
	be.open(g.dial())
	g.relayed(7)
}

// TestFailedUpgradesGiveBack has upgrades fail in every way; none keeps its place.
func TestFailedUpgradesGiveBack(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("retry: {attempts: 1}", "tunnel: {max_per_client: 1}", be.addr())+"tunnels: {max: 1}")
	f := func(answer string, status int) {
		t.Helper()
		client := g.dial()
		client.Send(upgrade())
		backend := be.asked()
		backend.Send(answer)
		if status == 0 {
			client.Close() // gone while the backend thinks
		} else {
			if answer == "" {
				backend.Close()
			}
			expectStatus(t, answer, client.Response("GET"), status)
		}
		g.wait("free place", func() bool { return g.tunnelCaps.Open() == 0 })
		backend.Close() // or the next one would find it in the pool
		g.wait("empty pool", func() bool { return g.metric("tickgate_upstream_pool_connections{") == 0 })
	}
	refused := func(status string) string {
		return "HTTP/1.1 " + status + "\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
	}
	f(refused("200 OK"), 200)
	f(refused("403 Forbidden"), 403)
	f(refused("400 Bad Request"), 400)
	f(refused("502 Bad Gateway"), 502)
	f(strings.Replace(switching(), "Accept: s", "Accept: t", 1), 502)
	f(switching("Sec-WebSocket-Extensions: permessage-deflate"), 502)
	f("HTTP/1.1 rubbish\r\n\r\n", 502)
	f("", 502)
	f("", 0)
	client, backend := be.open(g.dial())
	talk(t, "after the failures", client, backend)
}

// violationRules are all rules of frames mode.
const violationRules = "mode: frames, max_message: 1KiB, message_rate: 50, byte_rate: 16KiB, ping_interval: 0s"

// TestTunnelViolations has either side break a rule.
func TestTunnelViolations(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g, secure, conf := tlsGateway(t, toBackends("", "name: feed, tunnel: {"+violationRules+"}", be.addr()))
	ends := map[reason.Reason]int{}
	f := func(what string, byBackend bool, bytes string, code ws.StatusCode, end reason.Reason) {
		t.Helper()
		for _, dial := range []func() *testkit.Client{g.dial, func() *testkit.Client { return testkit.DialTLS(t, secure, conf) }} {
			client, backend := be.open(dial())
			talk(t, what, client, backend)
			bad, other := client, backend
			if byBackend {
				bad, other = backend, client
			}
			bad.Send(bytes)
			expectClose(t, what+", who broke it", bad, code)
			for {
				first, payload := readFrame(other)
				if first == textFrame || first == fin|binaryOp {
					continue // what was sound before
				}
				if first != fin|closeOp || payload != closing(ws.StatusGoingAway) {
					t.Errorf("%s: the other side got %#x %.80q, want Close 1001", what, first, payload)
				}
				break
			}
			bad.Close()
			other.Close()
			ends[end]++
			g.waitTunnelEnd(end, ends[end])
		}
	}
	both := func(what string, frameOf func(masked bool) string, code ws.StatusCode, end reason.Reason) {
		t.Helper()
		f(what+", client", false, frameOf(true), code, end)
		f(what+", backend", true, frameOf(false), code, end)
	}
	both("wrong masking", func(masked bool) string { return frame(textFrame, "x", !masked) }, 1002, reason.BadFrame)
	both("RSV1 without an extension", func(masked bool) string { return frame(textFrame|rsv1, "x", masked) }, 1002, reason.BadFrame)
	both("reserved opcode", func(masked bool) string { return frame(fin|0x3, "x", masked) }, 1002, reason.BadFrame)
	both("fragmented ping", func(masked bool) string { return frame(pingOp, "x", masked) }, 1002, reason.BadFrame)
	both("continuation of nothing", func(masked bool) string { return frame(fin, "x", masked) }, 1002, reason.BadFrame)
	both("bad close code", func(masked bool) string { return frame(fin|closeOp, closing(1005), masked) }, 1002, reason.BadFrame)
	both("not UTF-8", func(masked bool) string { return frame(textFrame, "\xff", masked) }, 1007, reason.BadText)
	both("too big", func(masked bool) string { return frame(fin|binaryOp, strings.Repeat("x", 1025), masked) }, 1009, reason.MessageTooBig)
	both("a sound message, then a bad one", func(masked bool) string { return frame(textFrame, "sound", masked) + frame(fin|0xb, "", masked) }, 1002, reason.BadFrame)
	f("too many messages", false, strings.Repeat(fromClient("x"), 200), 1008, reason.TooFast)
	f("too many bytes", false, strings.Repeat(frame(fin|binaryOp, strings.Repeat("x", 1024), true), 40), 1008, reason.TooFast)
	g.waitNoTunnels()
	for end, n := range ends {
		if got := int(g.metric("tickgate_tunnels_closed_total{", `route="feed"`, `reason="`+end.String()+`"`)); got != n {
			t.Errorf("%d tunnels of the route closed for %v, want %d", got, end, n)
		}
		g.wait(fmt.Sprintf("%d lines for %v", n, end), func() bool { return strings.Count(g.logs.String(), `"event":"`+end.String()+`"`) == n })
	}
}

// TestViolationsAreThrottled logs some of very many violations.
func TestViolationsAreThrottled(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := &testGateway{t: t, logs: &logBuffer{}}
	log, err := errlog.New(g.logs, config.ErrorLog{Format: "json", Level: "info", Throttle: 2})
	if err != nil {
		t.Fatal(err)
	}
	if g.Gateway, err = New(parseConfig(t, toBackends("", "tunnel: {mode: frames}", be.addr())), Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	g.addr = g.listener(firstListener)
	t.Cleanup(g.cleanup)
	const n = 30
	began := time.Now()
	for range n {
		client, _ := be.open(g.dial())
		client.Send(frame(fin|0x3, "", true))
		expectClose(t, "violation", client, 1002)
		client.Close()
	}
	g.waitTunnelEnd(reason.BadFrame, n)
	g.wait("lines", func() bool { return strings.Count(g.logs.String(), "tunnel ended") >= 2 })
	if most := 2 * (int(time.Since(began)/time.Second) + 2); most < n {
		if got := strings.Count(g.logs.String(), "tunnel ended"); got > most {
			t.Errorf("%d lines about %d violations, want %d at most", got, n, most)
		}
	}
}

// TestOpaqueLooksAtNothing passes on what frames mode refuses.
func TestOpaqueLooksAtNothing(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: opaque}", be.addr()))
	client, backend := be.open(g.dial())
	const rubbish = "\xff\xff\x00 no frame at all"
	client.Send(rubbish)
	if got := backend.Next(len(rubbish)); got != rubbish {
		t.Errorf("got %q, want it as sent", got)
	}
}

// TestTunnelDeflate allows RSV1 only after permessage-deflate was agreed upon.
func TestTunnelDeflate(t *testing.T) {
	t.Parallel()
	const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
	compressed := func(masked bool) string { return frame(textFrame|rsv1, "\xff\xfe", masked) } // not UTF-8, nor need it be
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames}", be.addr()))
	open := func(answer ...string) (client, backend *testkit.Client) {
		client = g.dial()
		client.Send(upgrade(offer))
		backend = be.asked()
		backend.Send(switching(answer...))
		expectStatus(t, "upgrade", client.Response("GET"), 101)
		return client, backend
	}
	client, backend := open("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
	client.Send(compressed(true))
	expectFrame(t, "compressed", backend, textFrame|rsv1, "\xff\xfe")
	backend.Send(compressed(false))
	expectFrame(t, "compressed", client, textFrame|rsv1, "\xff\xfe")
	client, backend = open()
	client.Send(compressed(true))
	expectClose(t, "not agreed upon", client, 1002)
	expectClose(t, "not agreed upon", backend, 1001)
	client, backend = open()
	backend.Send(compressed(false))
	expectClose(t, "not agreed upon", backend, 1002)
	expectClose(t, "not agreed upon", client, 1001)
}

// TestTunnelPings has a client answer the gateway's pings; its backend sees none of it.
func TestTunnelPings(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		if !w.frames {
			return // has none
		}
		w.change(func(cfg *config.Config) {
			cfg.Routes = slices.Clone(cfg.Routes)
			cfg.Routes[0].Tunnel.PingInterval, cfg.Routes[0].Tunnel.PongTimeout = time.Millisecond, time.Hour
		})
		client, backend := w.open()
		for range 3 {
			first, payload := readFrame(client)
			if first != fin|pingOp || len(payload) == 0 {
				t.Fatalf("got frame %#x %q, want a ping", first, payload)
			}
			client.Send(frame(fin|pongOp, payload, true))
		}
		w.wait("answers", func() bool { return w.metric("tickgate_tunnel_pongs_total") >= 3 })
		client.Send(frame(fin|pongOp, "unasked", true) + frame(fin|pingOp, "its own", true))
		expectFrame(t, "a pong of the client's own", backend, fin|pongOp, "unasked")
		expectFrame(t, "a ping of the client's own", backend, fin|pingOp, "its own")
		backend.Send(frame(fin|pongOp, "its own", false))
		for {
			first, payload := readFrame(client)
			if first == fin|pongOp && payload == "its own" {
				break
			}
			if first != fin|pingOp {
				t.Fatalf("got frame %#x %q, want the backend's pong", first, payload)
			}
		}
		if n := w.metric("tickgate_tunnel_pings_total"); n < 3 {
			t.Errorf("%v pings, want 3 or more", n)
		}
		client.Close()
		backend.Close()
		w.waitNoTunnels()
	})
}

// TestTunnelDeadPeer has a client that never reacts.
func TestTunnelDeadPeer(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames, ping_interval: 20ms, pong_timeout: 20ms}", be.addr()))
	client, backend := be.open(g.dial())
	expectClose(t, "the other side", backend, 1001)
	backend.Send(frame(fin|closeOp, closing(1001), false))
	backend.ExpectClosed()
	g.waitTunnelEnd(reason.PingTimeout, 1)
	client.Rest() // pings, and a reset
	g.waitNoTunnels()
	g.waitNone()
}

func TestTunnelIdleAndLifetime(t *testing.T) {
	t.Parallel()
	f := func(keys string, end reason.Reason) {
		t.Helper()
		onWaysAtOnce(t, keys+", jitter_percent: 0", "", func(t *testing.T, w *way) {
			client, backend := w.open()
			talk(t, keys, client, backend)
			if !w.frames {
				client.ExpectClosed()
				backend.ExpectClosed()
				client.Close()
				backend.Close()
			} else {
				expectClose(t, keys, client, 1001)
				expectClose(t, keys, backend, 1001)
				client.Send(frame(fin|closeOp, closing(1001), true))
				client.ExpectClosed()
				backend.Close()
			}
			w.waitTunnelEnd(end, 1)
			w.waitNoTunnels()
		})
	}
	f("idle: 3s", reason.IdleTimeout)
	f("lifetime: 3s", reason.MaxLifetime)
}

// TestPingsKeepNoTunnel ends an idle tunnel though its client answers pings.
func TestPingsKeepNoTunnel(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames, ping_interval: 50ms, pong_timeout: 5s, idle: 3s}", be.addr()))
	client, backend := be.open(g.dial())
	pings := 0
	for {
		first, payload := readFrame(client)
		if first == fin|closeOp {
			if payload != closing(1001) {
				t.Errorf("closed with %q, want 1001", payload)
			}
			break
		}
		client.Send(frame(fin|pongOp, payload, true))
		pings++
	}
	if pings == 0 {
		t.Error("no ping came")
	}
	expectClose(t, "backend", backend, 1001)
	client.Close()
	g.waitTunnelEnd(reason.IdleTimeout, 1)
}

// TestLeastConnCountsTunnels opens tunnels where the fewest are.
func TestLeastConnCountsTunnels(t *testing.T) {
	t.Parallel()
	a, b := testkit.NewEchoWS(t), testkit.NewEchoWS(t)
	g := newGateway(t, toBackends("balance: least_conn", "", a.Addr(), b.Addr()))
	clients := map[*testkit.EchoWS][]*testkit.WSClient{}
	open := func() {
		t.Helper()
		before, _ := a.Open()
		total := int(g.metric("tickgate_upstream_tunnels{"))
		c := testkit.DialWS(t, "ws://"+g.addr+"/", nil, nil)
		g.wait("count", func() bool { return int(g.metric("tickgate_upstream_tunnels{")) == total+1 })
		if now, _ := a.Open(); now > before {
			clients[a] = append(clients[a], c)
		} else {
			clients[b] = append(clients[b], c)
		}
	}
	expect := func(na, nb int) {
		t.Helper()
		if len(clients[a]) != na || len(clients[b]) != nb {
			t.Errorf("%d and %d tunnels, want %d and %d", len(clients[a]), len(clients[b]), na, nb)
		}
		for be, n := range map[*testkit.EchoWS]int{a: na, b: nb} {
			if got := int(g.metric("tickgate_upstream_tunnels{", be.Addr())); got != n {
				t.Errorf("%d tunnels counted, want %d", got, n)
			}
		}
	}
	for range 8 {
		open()
	}
	expect(4, 4)
	for _, c := range clients[a][1:] {
		_ = c.Conn.Close()
	}
	clients[a] = clients[a][:1]
	g.relayed(5)
	g.wait("count", func() bool { return int(g.metric("tickgate_upstream_tunnels{", a.Addr())) == 1 })
	for range 3 {
		open()
	}
	expect(4, 4)
}

// TestTunnelMetrics reads every series about tunnels, open and ended.
func TestTunnelMetrics(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		mode := `mode="opaque"`
		if w.frames {
			mode = `mode="frames"`
		}
		f := func(want float64, prefix string, labels ...string) {
			t.Helper()
			if got := w.metric(prefix, labels...); got != want {
				t.Errorf("%s %q is %v, want %v", prefix, labels, got, want)
			}
		}
		framed := func(n float64) float64 {
			if w.frames {
				return n
			}
			return 0
		}
		client, backend := w.open()
		w.relayed(1)
		client.Send(fromClient("12345") + frame(fin|binaryOp, "1", true) + frame(fin|pingOp, "", true))
		backend.Send(fromBackend("123"))
		for range 3 {
			readFrame(backend)
		}
		readFrame(client)
		const toBackend, toClient = 11 + 7 + 6, 5
		f(1, "tickgate_tunnels{", `route="feed"`, mode)
		f(1, "tickgate_tunnels{")
		f(1, "tickgate_connections{", `state="relayed"`)
		f(1, "tickgate_upstream_tunnels{", `upstream="be"`)
		f(1, "tickgate_tunnels_opened_total{", `route="feed"`, mode)
		f(0, "tickgate_tunnel_lifetime_seconds_count{", `route="feed"`)
		again := func() {
			t.Helper()
			f(toBackend, "tickgate_tunnel_bytes_total{", `route="feed"`, `direction="to_backend"`)
			f(toClient, "tickgate_tunnel_bytes_total{", `route="feed"`, `direction="to_client"`)
			f(framed(1), "tickgate_tunnel_messages_total{", `direction="to_backend"`, `kind="text"`)
			f(framed(1), "tickgate_tunnel_messages_total{", `direction="to_backend"`, `kind="binary"`)
			f(framed(1), "tickgate_tunnel_messages_total{", `direction="to_backend"`, `kind="control"`)
			f(framed(1), "tickgate_tunnel_messages_total{", `direction="to_client"`)
		}
		again()
		client.CloseWrite()
		backend.Close()
		client.Close()
		w.waitTunnelEnd(reason.ClosedByClient, 1)
		w.waitNoTunnels()
		w.waitNone()
		again()
		f(1, "tickgate_tunnels_closed_total{", `route="feed"`, `reason="closed_by_client"`)
		f(1, "tickgate_tunnel_ends_total{")
		f(1, "tickgate_tunnel_lifetime_seconds_count{", `route="feed"`)
		f(1, "tickgate_connection_ends_total{", `reason="closed_by_client"`)
		f(1, "tickgate_requests_total{", `route="feed"`, `code="1xx"`)
		f(1, "tickgate_requests_total{")
		f(0, "tickgate_request_duration_seconds_count")
		f(0, "tickgate_tunnel_queued_bytes")
		f(0, "tickgate_process_open_fds{", `kind="backend"`)
		f(0, "tickgate_process_open_fds{", `kind="client"`)
	})
}

// accessLines reads the access log, which must come to n lines.
func (g *testGateway) accessLines(file string, n int) []string {
	g.t.Helper()
	var lines []string
	g.wait(fmt.Sprintf("%d lines in the access log", n), func() bool {
		_ = g.access.Load().Flush()
		b, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		return len(lines) >= n && lines[0] != ""
	})
	if len(lines) != n {
		g.t.Fatalf("%d lines in the access log, want %d:\n%s", len(lines), n, strings.Join(lines, "\n"))
	}
	return lines
}

// TestTunnelAccessLog writes one line for a tunnel, at its end.
func TestTunnelAccessLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "access")
	onWays(t, "", "log: {access: {output: \""+file+"\"}}\nforwarding: {trusted_proxies: [127.0.0.0/8]}", func(t *testing.T, w *way) {
		own := filepath.Join(t.TempDir(), "access") // one for each
		logTo := func(format string) {
			w.change(func(cfg *config.Config) { cfg.Log.Access.Output, cfg.Log.Access.Format = own, format })
		}
		f := func(fields ...string) string {
			t.Helper()
			client, backend := w.dial(), (*testkit.Client)(nil)
			head := strings.Replace(upgrade(fields...), "GET / ", "GET /feed?a=b ", 1)
			client.Send(head)
			backend = w.be.asked()
			backend.Send(switching())
			expectStatus(t, "upgrade", client.Response("GET"), 101)
			talk(t, "access log", client, backend)
			_ = w.access.Load().Flush()
			if b, _ := os.ReadFile(own); len(b) != 0 {
				t.Fatalf("a line before the end: %q", b)
			}
			client.CloseWrite()
			backend.ExpectClosed()
			backend.Close()
			client.Close()
			line := w.accessLines(own, 1)[0]
			if err := os.Truncate(own, 0); err != nil {
				t.Fatal(err)
			}
			return line
		}
		const agent = "User-Agent: feeder"
		logTo("json")
		w.expectJSON(f(agent, "Referer: http://r/", "X-Forwarded-For: 192.0.2.7", "X-Request-Id: abc123"))
		logTo("combined")
		if line := f(agent, "X-Forwarded-For: 192.0.2.7"); !strings.HasPrefix(line, "192.0.2.7 - - [") || !strings.HasSuffix(line, `] "GET /feed?a=b HTTP/1.1" 101 11 "-" "feeder"`) {
			t.Errorf("combined: %q", line)
		}
		logTo("${client_addr} ${header:X-Desk} ${cookie:sid} ${status} ${bytes_sent} ${bytes_received} ${reason} ${duration} ${route}")
		if line := f("X-Desk: rates", "Cookie: a=b; sid=77"); !strings.HasPrefix(line, "127.0.0.1 rates 77 101 11 16 closed_by_client 0.") || !strings.HasSuffix(line, " feed") {
			t.Errorf("custom: %q", line)
		}
	})
}

// expectJSON compares a tunnel's line in the access log.
func (w *way) expectJSON(line string) {
	w.t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		w.t.Fatalf("line %q: %v", line, err)
	}
	want := map[string]any{
		"method": "GET", "host": "example.com", "path": "/feed", "query": "a=b", "proto": "HTTP/1.1", "status": 101.0, "reason": "closed_by_client",
		"bytes_sent": 11.0, "bytes_received": 16.0, "attempts": 1.0, "route": "feed", "upstream": "be", "backend": w.be.addr(),
		"client_addr": "192.0.2.7", "request_id": "abc123", "referer": "http://r/", "user_agent": "feeder", "scheme": "http",
	}
	if w.secure {
		want["scheme"], want["tls_version"], want["tls_server_name"], want["listener"] = "https", "TLSv1.3", "localhost", "127.0.0.2:0"
	}
	for key, v := range want {
		if got[key] != v {
			w.t.Errorf("%s is %v, want %v, in %s", key, got[key], v, line)
		}
	}
	if cipher, _ := got["tls_cipher"].(string); w.secure != (cipher != "") {
		w.t.Errorf("tls_cipher is %q", cipher)
	}
	if d, _ := got["duration"].(float64); d <= 0 || d > testkit.Patience.Seconds() {
		w.t.Errorf("duration is %v", got["duration"])
	}
	if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["time"])); err != nil || time.Since(at) > testkit.Patience {
		w.t.Errorf("time is %v", got["time"])
	}
}
