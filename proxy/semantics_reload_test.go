package proxy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

func (g *testGateway) reload(yaml string) {
	g.t.Helper()
	if err := g.Reload(parseConfig(g.t, yaml)); err != nil {
		g.t.Fatalf("reload: %v", err)
	}
}

// TestReloadKeepsConnections uses one client connection and one backend connection
// through reloads that change everything else.
func TestReloadKeepsConnections(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	expectStatus(t, "before", c.Do(get("/")), 200)
	f := func(yaml string) {
		t.Helper()
		g.reload(yaml)
		expectStatus(t, yaml, c.Do(get("/")), 200)
		if n := len(be.Conns()); n != 1 {
			t.Errorf("after a reload to %q: %d backend connections, want the first one", yaml, n)
		}
	}
	f(toBackend(be.Addr()))
	f(toBackends("balance: least_conn, timeouts: {read: 1s}", "", be.Addr()))
	f(toBackends("", "name: other, request_headers: {set: {X: y}}", be.Addr()))
	f(toBackends("retry: {attempts: 3}", "", be.Addr(), testkit.DeadAddr(t)))
	f(toBackend(be.Addr()) + "limits: {max_headers: 50}\nlog: {error: {level: debug}}")
	// Other pool settings need another pool.
	g.reload(toBackends("pool: {max_conns: 7}", "", be.Addr()))
	expectStatus(t, "another pool", c.Do(get("/")), 200)
	if n := len(be.Conns()); n != 2 {
		t.Errorf("%d backend connections, want 2", n)
	}
	if n := g.metric("tickgate_snapshot_generation"); n != 7 {
		t.Errorf("generation %v, want 7", n)
	}
}

func TestReloadChangesRoutes(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{static_response: {body: one}}]")
	c := g.dial()
	expectStatus(t, "before", c.Do(get("/")), 200, "one")
	g.reload("routes: [{static_response: {body: two}}]")
	expectStatus(t, "after, same connection", c.Do(get("/")), 200, "two")
	expectStatus(t, "after, new connection", g.get("/"), 200, "two")
}

// TestIdleConnectionsHoldNoSnapshot has connections that served a request, and one
// that never did, outlive the snapshot of that time.
func TestIdleConnectionsHoldNoSnapshot(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g, secure, conf := tlsGateway(t, toBackend(be.Addr()))
	plain, unused, encrypted := g.dial(), g.dial(), testkit.DialTLS(t, secure, conf)
	expectStatus(t, "plain", plain.Do(get("/")), 200)
	expectStatus(t, "TLS", encrypted.Do(get("/")), 200)
	g.wait("idle connections", func() bool { return g.resting() == 3 })
	var freed atomic.Bool
	runtime.AddCleanup(g.snap.Load(), func(int) { freed.Store(true) }, 0)
	// The listeners must stay, so the configuration is the same but for a timeout.
	cfg := *g.CurrentConfig()
	cfg.Timeouts.Idle++
	if err := g.Reload(&cfg); err != nil {
		t.Fatal(err)
	}
	g.wait("end of the old snapshot", func() bool {
		runtime.GC()
		return freed.Load()
	})
	expectStatus(t, "plain", plain.Do(get("/")), 200)
	expectStatus(t, "unused", unused.Do(get("/")), 200)
	expectStatus(t, "TLS", encrypted.Do(get("/")), 200)
}

// TestReloadDuringRequest ends a request on the snapshot it began with, though its
// upstream is gone.
func TestReloadDuringRequest(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nold"), testkit.WaitFor(release), testkit.Send("one"))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(get("/"))
	c.Until("old")
	g.reload("routes: [{static_response: {body: new}}]")
	expectStatus(t, "meanwhile", g.get("/"), 200, "new")
	close(release)
	if got := c.Next(3); got != "one" {
		t.Errorf("rest of the old response: %q", got)
	}
	expectStatus(t, "same connection", c.Do(get("/")), 200, "new")
	if n := g.metric("tickgate_upstream_"); n != 0 {
		t.Errorf("series of an upstream that is gone: %v", n)
	}
}

func TestBadReloadKeepsOld(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "routes: [{static_response: {body: old}}]")
	taken := g.addr // by the gateway itself, but under another name
	f := func(yaml string) {
		t.Helper()
		if err := g.Reload(parseConfig(t, yaml)); err == nil {
			t.Errorf("reload to %q succeeded", yaml)
		}
		expectStatus(t, yaml, g.get("/"), 200, "old")
	}
	f(`routes: [{static_response: {body: new}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1}, {listen: "` + taken + `"}]`)
	missing := filepath.Join(t.TempDir(), "none", "access.log")
	f(`routes: [{static_response: {body: new}}]
log: {access: {output: "` + missing + `"}}`)
	if ok, failed := g.metric("tickgate_reloads_total", `"ok"`), g.metric("tickgate_reloads_total", `"failed"`); ok != 0 || failed != 2 {
		t.Errorf("%v reloads and %v failures counted, want 0 and 2", ok, failed)
	}
	if g.metric("tickgate_reload_last_success{") != 0 || g.metric("tickgate_snapshot_generation") != 1 {
		t.Error("a failed reload counts as a generation or a success")
	}
	if s := g.api("status"); !strings.Contains(s, `"generation":1`) || strings.Contains(s, `"last_reload":"ok"`) {
		t.Errorf("status %s, want generation 1 and the error", s)
	}
	if !strings.Contains(g.logs.String(), "the old configuration stays") {
		t.Error("nothing in the log about the failed reload")
	}
	g.reload("routes: [{static_response: {body: new}}]")
	expectStatus(t, "a good one", g.get("/"), 200, "new")
	if s := g.api("status"); !strings.Contains(s, `"generation":2`) || !strings.Contains(s, `"last_reload":"ok"`) {
		t.Errorf("status %s, want generation 2 and ok", s)
	}
}

func TestReloadListeners(t *testing.T) {
	t.Parallel()
	const routes = "routes: [{static_response: {body: \"${listener}\"}}]\n"
	const one = `listeners: [{listen: "127.0.0.1:0", acceptors: 1}]`
	const both = `listeners: [{listen: "127.0.0.1:0", acceptors: 1}, {listen: "127.0.0.2:0", acceptors: 2}]`
	g := newGateway(t, routes+one)
	first := g.addr
	kept := testkit.Dial(t, first)
	expectStatus(t, "before", kept.Do(get("/")), 200, "127.0.0.1:0")

	g.reload(routes + both)
	added := g.listener("127.0.0.2:0")
	idle, busy := testkit.Dial(t, added), testkit.Dial(t, added)
	expectStatus(t, "added", idle.Do(get("/")), 200, "127.0.0.2:0")
	busy.Send("GET / HTTP/1.1\r\nHost: ")
	g.wait("begin of the request", func() bool { return g.metric("tickgate_connections{", `"127.0.0.2:0"`, `"active"`) == 1 })

	g.reload(routes + one)
	if g.listener("127.0.0.1:0") != first {
		t.Error("the kept listener was opened again")
	}
	expectStatus(t, "kept", kept.Do(get("/")), 200)
	if err := tryDial(added); err == nil {
		t.Error("the removed listener still accepts")
	}
	// Its connections close after the request they are in.
	busy.Send("example.com\r\n\r\n")
	resp := busy.Response("GET")
	expectStatus(t, "a request that had begun", resp, 200)
	if resp.Get("Connection") != "close" {
		t.Errorf("Connection %q, want close", resp.Get("Connection"))
	}
	busy.Close()
	if resp := idle.Do(get("/")); resp.Get("Connection") != "close" {
		t.Errorf("a connection of a removed listener goes on: %q", resp.Raw)
	}
	idle.Close()
	g.waitConnEnd(reason.ReloadedAway, 2)
	g.wait("end of the listener's series", func() bool { return !strings.Contains(g.text(), `listener="127.0.0.2:0"`) })
}

// TestReloadsAndDrainLoseNothing sends requests all the time: none may fail.
func TestReloadsAndDrainLoseNothing(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	configs := []string{
		toBackend(be.Addr()),
		toBackends("pool: {max_conns: 100}", "", be.Addr()),
		toBackends("", "tag: canary", be.Addr()),
		toBackend(be.Addr()) + `listeners: [{listen: "127.0.0.1:0", acceptors: 1, max_connections: 1000}, {listen: "127.0.0.3:0"}]`,
	}
	g := newGateway(t, configs[0])
	var served atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { sendUntilDrained(t, g, &served) })
	}
	const reloads = 20
	for i := range reloads {
		g.reload(configs[(i+1)%len(configs)])
		want := served.Load() + 100
		g.wait("requests between two reloads", func() bool { return served.Load() >= want })
	}
	cut := g.drain()
	group.Wait()
	if n := <-cut; n != 0 {
		t.Errorf("%d connections had to be cut", n)
	}
	if n := served.Load(); n < reloads*100 {
		t.Errorf("%d requests were served, want at least %d", n, reloads*100)
	}
}

// sendUntilDrained sends requests on connections that it opens again when they close,
// as a client that honours Connection: close does, until no new one is accepted.
func sendUntilDrained(t *testing.T, g *testGateway, served *atomic.Int64) {
	for {
		conn, err := dialRaw(g.addr)
		if err != nil {
			return // the listener is closed: the drain has begun
		}
		c := testkit.NewClient(t, conn)
		for {
			if err := c.TrySend(get("/")); err != nil {
				break // closed while idle
			}
			resp, err := c.TryResponse("GET")
			if testkit.RuleOf(err) == "end" || err != nil && len(resp.Raw) == 0 {
				break // closed while idle, before the request was read
			}
			if err != nil || resp.Status != 200 {
				t.Errorf("a request failed: %d, %v: %q", resp.Status, err, resp.Raw)
				return
			}
			served.Add(1)
			if resp.Get("Connection") == "close" {
				break
			}
		}
		c.Close()
		if !g.draining.Load() {
			continue
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none"), testkit.WaitFor(release), testkit.Send("two"))
	g := newGateway(t, toBackend(be.Addr())+"drain: {timeout: 10s}")
	busy, uploading, idle, begun := g.dial(), g.dial(), g.dial(), g.dial()
	busy.Send(get("/"))
	busy.Until("one")
	uploading.Send(request("POST", "/", "Content-Length: 4") + "ab")
	idle.Send(get("/nothing", "Connection: keep-alive"))
	idle.Until("one")
	begun.Send("GET / HTTP/1.1\r\n")
	g.wait("what was sent in part", func() bool {
		parked := 0
		g.lot.Each(func(i park.Info) bool {
			if i.Phase == park.Head || i.Phase == park.Body {
				parked++
			}
			return true
		})
		return parked == 2
	})

	cut := g.drain()
	if (Admin{Gateway: g.Gateway}).Ready() == nil || !strings.Contains(g.api("status"), `"draining":true`) {
		t.Error("still ready while draining")
	}
	g.wait("end of the listeners", func() bool { return tryDial(g.addr) != nil })
	// An upgrade would outlive the drain.
	begun.Send(strings.TrimPrefix(upgrade(), "GET / HTTP/1.1\r\n"))
	resp := begun.Response("GET")
	expectStatus(t, "upgrade", resp, 503, "reason: draining")
	if resp.Get("Retry-After") == "" {
		t.Errorf("upgrade refused with %q, want Retry-After", resp.Raw)
	}
	begun.Close()
	// What is in flight finishes.
	uploading.Send("cd")
	close(release)
	busy.Until("two")
	busy.ExpectClosed()
	idle.Until("two")
	idle.ExpectClosed()
	expectStatus(t, "upload", uploading.Response("POST"), 200, "onetwo")
	uploading.ExpectClosed()
	for _, c := range []*testkit.Client{busy, idle, uploading} {
		c.Close()
	}
	if n := <-cut; n != 0 {
		t.Errorf("%d connections were cut, want none", n)
	}
	if err := g.Reload(parseConfig(t, toBackend(be.Addr()))); err == nil {
		t.Error("a reload after the drain succeeded")
	}
}

// TestDrainClosesIdle closes idle connections, plain and TLS, without an answer to
// nothing, and answers the request that has just arrived.
func TestDrainClosesIdle(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "routes: [{static_response: {body: ok}}]")
	plain, unused, encrypted := g.dial(), g.dial(), testkit.DialTLS(t, secure, conf)
	expectStatus(t, "plain", plain.Do(get("/")), 200)
	expectStatus(t, "TLS", encrypted.Do(get("/")), 200)
	g.wait("idle connections", func() bool { return g.resting() == 3 })
	cut := g.drain()
	plain.ExpectClosed()
	unused.ExpectClosed()
	encrypted.ExpectClosed()
	if n := <-cut; n != 0 {
		t.Errorf("%d connections were cut", n)
	}
	g.waitConnEnd(reason.Draining, 3)
}

// TestDrainTimeout cuts what does not end.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(switching()), testkit.Hang())
	stuck := testkit.NewScript(t, testkit.Receive(), testkit.Hang())
	g := newGateway(t, `
upstreams: {ws: {servers: [{address: "`+be.Addr()+`"}]}, stuck: {servers: [{address: "`+stuck.Addr()+`"}]}}
routes: [{path: /stuck, upstream: stuck}, {path: /, upstream: ws}]
drain: {timeout: 100ms}
`)
	tunnel, request := g.dial(), g.dial()
	tunnel.Send(upgrade())
	expectStatus(t, "tunnel", tunnel.Response("GET"), 101)
	request.Send(get("/stuck"))
	g.wait("request at the backend", func() bool { return stuck.Requests() == 1 })
	if n := <-g.drain(); n != 2 {
		t.Errorf("%d connections were cut, want 2", n)
	}
	tunnel.ExpectClosed()
	request.Rest()
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(r *testkit.Request) []byte {
		if r.Target == "/cut" {
			return nil
		}
		return testkit.OK("hello")
	})
	file := filepath.Join(t.TempDir(), "access.log")
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}], retry: {attempts: 1}}}
routes:
  - {name: quiet, path: /quiet, access_log: false, upstream: be}
  - {name: local, path: /local, static_response: {status: 404, body: nope}}
  - {name: main, path: /, upstream: be}
log: {access: {output: "`+file+`"}}
`)
	var lines int
	f := func(raw string, want map[string]any) {
		t.Helper()
		_ = testkit.Exchange(t, g.addr, raw)
		lines++
		var all []string
		g.wait("line in the access log", func() bool {
			_ = g.access.Load().Flush()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = strings.Split(strings.TrimSpace(string(b)), "\n")
			return len(all) == lines && all[0] != ""
		})
		var got map[string]any
		if err := json.Unmarshal([]byte(all[lines-1]), &got); err != nil {
			t.Fatalf("line %q: %v", all[lines-1], err)
		}
		for key, w := range want {
			if got[key] != w {
				t.Errorf("%.40q: %s is %v, want %v", raw, key, got[key], w)
			}
		}
	}
	f(post("12345", "User-Agent: test", "Referer: http://r/"), map[string]any{
		"method": "POST", "host": "example.com", "path": "/", "status": 200.0, "reason": "ok", "bytes_sent": 5.0, "bytes_received": 5.0, "attempts": 1.0,
		"route": "main", "upstream": "be", "backend": be.Addr(), "listener": firstListener, "scheme": "http", "proto": "HTTP/1.1",
		"client_addr": "127.0.0.1", "user_agent": "test", "referer": "http://r/",
	})
	f("GET /a?b=c HTTP/1.0\r\n\r\n", map[string]any{"path": "/a", "query": "b=c", "proto": "HTTP/1.0", "host": ""})
	f(get("/local"), map[string]any{"status": 404.0, "reason": "local_response", "route": "local", "attempts": 0.0, "bytes_sent": 4.0, "upstream": nil})
	f(get("/cut"), map[string]any{"status": 502.0, "reason": "backend_reset", "backend": be.Addr(), "attempts": 1.0})
	f("GET / HTTP/1.1\r\nbroken\r\n\r\n", map[string]any{"status": 400.0, "reason": "bad_header_name", "route": "unrouted", "attempts": 0.0})
	f(get("/../x"), map[string]any{"status": 400.0, "reason": "bad_target", "path": "/../x"})
	_ = testkit.Exchange(t, g.addr, get("/quiet")) // no line: the next one would count it
	f(request("HEAD", "/"), map[string]any{"method": "HEAD", "status": 200.0, "bytes_sent": 0.0})

	// The request id in the log is the one that the backend got.
	be.Forget()
	f(get("/id"), nil)
	id := be.WaitRequests(t, 1)[0].Get("X-Request-Id")
	b, _ := os.ReadFile(file)
	if id == "" || !strings.Contains(string(b), id) {
		t.Errorf("request id %q of the backend is not in the log", id)
	}
}

// TestMetricsOfRequests reads the counters after some requests of different ends.
func TestMetricsOfRequests(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {name: main, path: /be, upstream: be}
  - {name: moved, path: /moved, redirect: {location: /}}
`)
	c := g.dial()
	for range 3 {
		c.Do(get("/be"))
	}
	c.Do(get("/moved"))
	c.Do(get("/none"))
	c.Do(strings.Replace(post("12345"), "POST /", "POST /be", 1))
	f := func(want float64, prefix string, labels ...string) {
		t.Helper()
		if got := g.metric(prefix, labels...); got != want {
			t.Errorf("%s %q is %v, want %v", prefix, labels, got, want)
		}
	}
	f(4, "tickgate_requests_total{", `route="main"`, `code="2xx"`, `reason="ok"`)
	f(1, "tickgate_requests_total{", `route="moved"`, `code="3xx"`, `reason="local_response"`)
	f(1, "tickgate_requests_total{", `route="unrouted"`, `code="4xx"`, `reason="no_route"`)
	f(4, "tickgate_request_duration_seconds_count{", `route="main"`)
	f(4, "tickgate_request_phase_seconds_count{", `phase="first_byte"`)
	f(1, "tickgate_request_phase_seconds_count{", `phase="dial"`)
	f(5, "tickgate_request_body_bytes_total{", `route="main"`)
	f(12, "tickgate_response_body_bytes_total{", `route="main"`)
	f(1, "tickgate_connections_total{")
	f(1, "tickgate_upstream_pool_connections{", `state="idle"`)
	f(0, "tickgate_upstream_pool_connections{", `state="in_use"`)
	f(1, "tickgate_upstream_dials_total{", `result="ok"`)
	f(1, "tickgate_process_open_fds{", `kind="backend"`)
	f(1, "tickgate_process_open_fds{", `kind="client"`)
	f(1, "tickgate_process_open_fds{", `kind="listener"`)

	for what, want := range map[string]string{
		"routes":      `{"name":"main","path":"/be","match":"prefix",`,
		"connections": `"state":"idle"`,
		"upstreams":   be.Addr(),
		"config":      `"max_conns"`,
		"status":      `"listen":"127.0.0.1:0"`,
	} {
		if got := g.api(what); !strings.Contains(got, want) {
			t.Errorf("api %s is %s, want %s in it", what, got, want)
		}
	}
}
