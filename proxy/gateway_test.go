package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"tickgate/config"
	"tickgate/internal/admin"
	"tickgate/internal/errlog"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// testGateway is a gateway in this process, on real sockets.
type testGateway struct {
	*Gateway
	t    testing.TB
	logs *logBuffer
	addr string // of the first listener
}

// logBuffer collects the error log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// firstListener is what a configuration without listeners gets. The kernel chooses
// the port; over reloads the listener is known by the name it has here.
const firstListener = "127.0.0.1:0"

// newGateway starts a gateway with the configuration, to which one plain listener
// is added unless it has its own. It is stopped when the test ends.
func newGateway(t testing.TB, yaml string) *testGateway {
	t.Helper()
	return startGateway(t, yaml, Options{})
}

// startGateway is newGateway with options, of which it sets the log.
func startGateway(t testing.TB, yaml string, o Options) *testGateway {
	t.Helper()
	g := &testGateway{t: t, logs: &logBuffer{}}
	log, err := errlog.New(g.logs, config.ErrorLog{Format: "json", Level: "debug", Throttle: 1000})
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	o.Log, o.Version = log, "test"
	cfg := parseConfig(t, yaml)
	if g.Gateway, err = New(cfg, o); err != nil {
		t.Fatalf("start gateway: %v", err)
	}
	g.addr = g.listener(cfg.Listeners[0].Listen)
	t.Cleanup(g.cleanup)
	return g
}

func (g *testGateway) cleanup() {
	g.Stop()
	// Those on their way from the lot to a worker are in no list.
	g.wait("the end of every connection", func() bool { return len(g.connections()) == 0 && g.conns.Open() == 0 })
	if g.t.Failed() {
		g.t.Logf("gateway log:\n%s", g.logs)
	}
	if strings.Contains(g.logs.String(), "BUG:") {
		g.t.Errorf("a bug was caught at the border:\n%s", g.logs)
	}
}

func parseConfig(t testing.TB, yaml string) *config.Config {
	t.Helper()
	if !strings.Contains(yaml, "listeners:") {
		yaml += "\nlisteners: [{listen: \"" + firstListener + "\", acceptors: 1}]\n"
	}
	cfg, report := config.Parse("test.yaml", []byte(yaml))
	if err := report.Err(); err != nil {
		t.Fatalf("configuration: %v\n%s", err, yaml)
	}
	return cfg
}

// listener returns the address of the listener called name.
func (g *testGateway) listener(name string) string {
	g.t.Helper()
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	ln := g.listeners[name]
	if ln == nil {
		g.t.Fatalf("no listener %q", name)
	}
	if strings.HasPrefix(name, "unix:") {
		return name
	}
	return ln.sockets[0].Addr().String()
}

// dial opens a client connection to the first listener.
func (g *testGateway) dial() *testkit.Client {
	g.t.Helper()
	return testkit.Dial(g.t, g.addr)
}

// do sends one request on a connection of its own.
func (g *testGateway) do(raw string) *testkit.Response {
	g.t.Helper()
	return testkit.Exchange(g.t, g.addr, raw)
}

// get is do for a plain GET with some further field lines.
func (g *testGateway) get(path string, fields ...string) *testkit.Response {
	g.t.Helper()
	return g.do(get(path, fields...))
}

// get is a GET request.
func get(path string, fields ...string) string { return request("GET", path, fields...) }

// request is a request without a body.
func request(method, path string, fields ...string) string {
	var b strings.Builder
	b.WriteString(method + " " + path + " HTTP/1.1\r\nHost: example.com\r\n")
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	return b.String() + "\r\n"
}

// wait asks again and again until holds.
func (g *testGateway) wait(what string, holds func() bool) {
	g.t.Helper()
	testkit.WaitUntil(g.t, what, holds)
}

// runner runs a subtest.
type runner func(name string, f func(t *testing.T))

// parallel runs subtests in parallel.
func parallel(t *testing.T) runner {
	return func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
}

// atOnce runs the subtests of all beside each other. Unlike parallel ones they take no places
// of the few tests that run at a time, so it is for those that wait more than they work.
func atOnce(t *testing.T, all func(run runner)) {
	t.Helper()
	var group sync.WaitGroup
	defer group.Wait()
	all(func(name string, f func(t *testing.T)) { group.Go(func() { t.Run(name, f) }) })
}

// text is all metrics.
func (g *testGateway) text() string {
	g.t.Helper()
	var b strings.Builder
	if err := g.Meter().WritePrometheus(&b); err != nil {
		g.t.Fatalf("write metrics: %v", err)
	}
	return b.String()
}

// metric returns the sum of the series whose name and labels begin with prefix and
// hold all of labels.
func (g *testGateway) metric(prefix string, labels ...string) (sum float64) {
	g.t.Helper()
series:
	for line := range strings.Lines(g.text()) {
		line = strings.TrimSpace(line)
		i := max(0, strings.LastIndexByte(line, ' '))
		name, value := line[:i], line[i:]
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(name, l) {
				continue series
			}
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			g.t.Fatalf("metric line %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

// requests is the number of requests that ended for r.
func (g *testGateway) requests(r reason.Reason) int {
	return int(g.metric("tickgate_requests_total{", `reason="`+r.String()+`"`))
}

// resting is the number of connections that wait for a request, hot or parked.
func (g *testGateway) resting() int {
	g.t.Helper()
	return int(g.metric("tickgate_connections{", `"idle"`) + g.metric("tickgate_connections{", `"parked"`) + g.metric("tickgate_connections{", `"accepted"`))
}

// waitTunnelEnd waits until n tunnels have ended for r.
func (g *testGateway) waitTunnelEnd(r reason.Reason, n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d tunnels that ended with %v", n, r), func() bool {
		return int(g.metric("tickgate_tunnel_ends_total{", `reason="`+r.String()+`"`)) == n
	})
}

// waitEnd waits until n requests have ended for r.
func (g *testGateway) waitEnd(r reason.Reason, n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d requests that ended with %s", n, r), func() bool { return g.requests(r) == n })
}

// ends is how many connections have ended for a reason.
func (g *testGateway) ends(r reason.Reason) int {
	g.t.Helper()
	return int(g.metric("tickgate_connection_ends_total{", `reason="`+r.String()+`"`))
}

// waitConnEnd waits until n client connections have ended for r.
func (g *testGateway) waitConnEnd(r reason.Reason, n int) {
	g.t.Helper()
	g.wait(fmt.Sprintf("%d connections that ended with %s", n, r), func() bool { return g.ends(r) == n })
}

// api returns what the admin API shows, as JSON.
func (g *testGateway) api(what string) string {
	g.t.Helper()
	a := Admin{Gateway: g.Gateway}
	var v any
	switch what {
	case "status":
		v = a.Status()
	case "routes":
		v = a.Routes()
	case "upstreams":
		v = a.Upstreams()
	case "config":
		v = a.Config()
	case "connections":
		v = a.Connections(admin.ConnFilter{Limit: 1000})
	}
	b, err := json.Marshal(v)
	if err != nil {
		g.t.Fatalf("marshal %s: %v", what, err)
	}
	return string(b)
}

// drain drains the gateway on another goroutine; the channel gives the number of
// connections that were cut.
func (g *testGateway) drain() <-chan int {
	cut := make(chan int, 1)
	go func() { cut <- g.Drain(context.Background()) }()
	g.wait("drain", g.draining.Load)
	return cut
}

// toBackends is a configuration with one upstream "be" of these backends, to which
// every request goes. upstream and route are further keys in flow style, such as
// "timeouts: {read: 1s}".
func toBackends(upstream, route string, addrs ...string) string {
	var b strings.Builder
	b.WriteString("upstreams: {be: {servers: [")
	for _, a := range addrs {
		b.WriteString("{address: \"" + a + "\"}, ")
	}
	b.WriteString("]" + comma(upstream) + "}}\nroutes: [{upstream: be" + comma(route) + "}]\n")
	return b.String()
}

// toBackend is toBackends for one backend and no further keys.
func toBackend(addr string) string { return toBackends("", "", addr) }

func comma(keys string) string {
	if keys == "" {
		return ""
	}
	return ", " + keys
}

// dialRaw connects without failing the test.
func dialRaw(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, testkit.Patience) }

// tryDial reports whether addr accepts connections.
func tryDial(addr string) error {
	c, err := dialRaw(addr)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// expectStatus compares a status and, if words are given, demands them in the body.
func expectStatus(t testing.TB, what string, resp *testkit.Response, want int, words ...string) {
	t.Helper()
	if resp.Status != want {
		t.Errorf("%s: status %d, want %d: %.200q", what, resp.Status, want, resp.Raw)
	}
	for _, w := range words {
		if !strings.Contains(string(resp.Body), w) {
			t.Errorf("%s: body %.200q, want %q in it", what, resp.Body, w)
		}
	}
}
