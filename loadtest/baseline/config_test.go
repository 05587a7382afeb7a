package baseline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gobwas/ws"

	"tickgate/config"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// written writes a configuration and returns its name.
func written(t *testing.T, yaml string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "gate.yaml")
	if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// serving serves a configuration until the test ends, and returns the addresses of its listeners.
func serving(t *testing.T, yaml string, listeners int) (addrs []string) {
	t.Helper()
	g, err := Load(written(t, yaml))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listening := make(chan string, listeners)
	ended := make(chan error, 1)
	go func() {
		ended <- g.Serve(ctx, func(addr net.Addr) error {
			listening <- addr.String()
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	for range listeners {
		select {
		case addr := <-listening:
			addrs = append(addrs, addr)
		case err := <-ended:
			ended <- err
			t.Fatalf("serve: %v", err)
		}
	}
	return addrs
}

func TestServesConfiguration(t *testing.T) {
	pair := testcert.New(t, "a.test")
	cert, key := pair.Files(t)
	first, second := testkit.NewRecorder(t, nil), testkit.NewRecorder(t, nil)
	echo := testkit.NewEchoWS(t)
	addrs := serving(t, fmt.Sprintf(`
admin: {listen: "off"}
listeners:
- listen: 127.0.0.1:0
- {listen: 127.0.0.1:0, tls: {certificates: [{cert_file: %s, key_file: %s}]}}
limits: {max_body: 4B}
upstreams:
  be: {servers: [{address: %q}, {address: %q}]}
  ws: {servers: [{address: %q}], host: backend}
  gone: {servers: [{address: "127.0.0.1:1"}], host: other.test}
routes:
- {path: /, upstream: be}
- {path: /ws, upstream: ws}
- {path: /gone, upstream: gone}
- {path_exact: /well, static_response: {status: 201, body: well, content_type: text/x}}
`, cert, key, first.Addr(), second.Addr(), echo.Addr()), 2)

	plain := testkit.Dial(t, addrs[0])
	secure := testkit.DialTLS(t, addrs[1], pair.ClientTLS("a.test"))
	defer plain.Close()
	defer secure.Close()
	// f sends a request to both listeners, and compares status and body.
	f := func(request string, wantStatus int, want string) {
		t.Helper()
		for _, c := range []*testkit.Client{plain, secure} {
			if resp := c.Do(request); resp.Status != wantStatus || string(resp.Body) != want {
				t.Errorf("%.30q: %d %q, want %d %q", request, resp.Status, resp.Body, wantStatus, want)
			}
		}
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: A.test:80\r\n\r\n" }
	f(get("/a"), 200, "ok\n")
	f("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nX-Request-Id: mine\r\nX-Forwarded-For: 1.2.3.4\r\n\r\nbody", 200, "ok\n")
	f(get("/well"), 201, "well")
	f(get("/gone"), 502, "")
	f("POST /well HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 413, "")

	// The servers take turns, and plain and secure connections do too.
	for _, reqs := range [][]*testkit.Request{first.WaitRequests(t, 2), second.WaitRequests(t, 2)} {
		get, post := reqs[0], reqs[1]
		if get.Method != "GET" || get.Get("Host") != "A.test:80" || post.Method != "POST" || string(post.Body) != "body" {
			t.Errorf("%s for %q, %s with %q", get.Method, get.Get("Host"), post.Method, post.Body)
		}
		if id := post.Get("X-Request-Id"); len(id) != 32 || post.Get("X-Forwarded-For") != "127.0.0.1" {
			t.Errorf("id %q, for %q", id, post.Get("X-Forwarded-For"))
		}
	}

	tunnel := testkit.DialWS(t, "wss://"+addrs[1]+"/ws", pair.ClientTLS("a.test"), nil)
	tunnel.SendText("there")
	if got := tunnel.Text(); got != "there" {
		t.Errorf("echo %q", got)
	}
	if code := tunnel.Close(ws.StatusNormalClosure, ""); code != ws.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
}

func TestBackendOverTLS(t *testing.T) {
	pair := testcert.New(t, "backend.test")
	cert, key := pair.Files(t)
	backend := testkit.NewRecorder(t, nil)
	behind := started(t, func(ctx context.Context, ln net.Listener) error {
		return Serve(ctx, ln, Options{Backend: backend.Addr(), CertFile: cert, KeyFile: key})
	})
	addrs := serving(t, fmt.Sprintf(`
listeners: [{listen: 127.0.0.1:0}]
upstreams: {be: {servers: [{address: %q}], tls: {ca_file: %s, server_name: backend.test, min_version: "1.3"}}}
routes: [{path: /, upstream: be}]
`, behind, cert), 1)
	if resp := testkit.Exchange(t, addrs[0], "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); resp.Status != 200 {
		t.Errorf("status %d", resp.Status)
	}
}

func TestUnsupported(t *testing.T) {
	// f wants each text to be in the error, one a line below the first, and nothing else.
	f := func(yaml string, want ...string) {
		t.Helper()
		_, err := Load(written(t, yaml))
		if !errors.Is(err, ErrUnsupported) {
			t.Fatalf("%v, want ErrUnsupported", err)
		}
		lines := strings.Split(err.Error(), "\n")[1:]
		if len(lines) != len(want) {
			t.Errorf("%q, want %q", lines, want)
		}
		for i := range min(len(lines), len(want)) {
			if !strings.Contains(lines[i], "gate.yaml:"+want[i]) {
				t.Errorf("%q, want %q", lines[i], want[i])
			}
		}
	}
	f(`
listeners: [{listen: "unix:/tmp/gate"}]
timeouts: {body: 5s, tunnel_idle: 2h}
upstreams:
  be:
    balance: p2c
    servers: [{address: "127.0.0.1:1", weight: 2}]
    timeouts: {read: 61s}
routes:
- {path: /, upstream: be, rewrite: {strip_prefix: /}}
- {path_regex: a, upstream: be}
- {path: /s, static_response: {body: "${uri}"}}
- {path: /ws, upstream: be, tunnel: {mode: frames}}
`,
		"2:22: listeners[0].listen: got unix:/tmp/gate, want host:port",
		"3:18: timeouts.body: is not supported: got 5s",
		"3:35: timeouts.tunnel_idle: got 2h, want 0s, or the default",
		"6:14: upstreams.be.balance: is not supported: got p2c",
		"7:48: upstreams.be.servers[0].weight",
		"8:22: upstreams.be.timeouts.read",
		"10:27: routes[0].rewrite: is not supported",
		"10:51: routes[0].rewrite.strip_prefix",
		"11:16: routes[1].path_regex",
		"12:38: routes[2].static_response.body: got ${uri}, want text without variables",
		"13:44: routes[3].tunnel.mode",
	)
}

func TestIgnored(t *testing.T) {
	g, err := Load(written(t, `
admin: {listen: 127.0.0.1:1}
workers: {max: 10}
watchdog: {looks: 9}
listeners: [{listen: 127.0.0.1:0, acceptors: 2}]
timeouts: {tunnel_idle: 0s, idle: 5m}
upstreams: {be: {servers: [{address: "127.0.0.1:1"}], health_check: {path: /}, retry: {attempts: 2}}}
routes: [{path: /, upstream: be, tag: one, access_log: false}]
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range g.Ignored {
		got = append(got, fmt.Sprintf("%d %s", p.Line, p.Path))
	}
	if text := strings.Join(got, ", "); text != "2 admin.listen, 3 workers.max, 5 listeners[0].acceptors, 7 upstreams.be.health_check, 8 routes[0].tag, 8 routes[0].access_log, 4 watchdog.looks" {
		t.Error(text)
	}
}

func TestLoadErrors(t *testing.T) {
	if _, err := Load(written(t, "listeners: 1")); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("%v, want config.ErrInvalid", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
	pair := testcert.New(t, "a.test")
	cert, _ := pair.Files(t)
	file := written(t, fmt.Sprintf(`
listeners: [{listen: 127.0.0.1:0}]
upstreams: {be: {servers: [{address: "127.0.0.1:1"}], tls: {ca_file: %s}}}
routes: [{path: /, upstream: be}]
`, cert))
	if err := os.WriteFile(cert, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "be") {
		t.Errorf("CA file without a certificate: %v", err)
	}
}

// One address that is taken closes those that were opened.
func TestServeWithTakenAddress(t *testing.T) {
	taken := listening(t)
	defer func() { _ = taken.Close() }()
	g, err := Load(written(t, fmt.Sprintf(`
listeners: [{listen: 127.0.0.1:0}, {listen: %q}]
routes: [{path: /, static_response: {body: well}}]
`, taken.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	var first net.Addr
	err = g.Serve(t.Context(), func(addr net.Addr) error { first = addr; return nil })
	if err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("%v, want a failure to listen", err)
	}
	ln, err := net.Listen("tcp", first.String())
	if err != nil {
		t.Fatalf("the first listener is still open: %v", err)
	}
	_ = ln.Close()
}

func TestRouter(t *testing.T) {
	r := &router{}
	for _, route := range []config.Route{
		{Name: "any", Path: "/"},
		{Name: "api", Path: "/api"},
		{Name: "dir", Path: "/dir/"},
		{Name: "again", Path: "/api"},
		{Name: "exact", PathExact: "/api/x"},
		{Name: "below", Host: "*.a.test", Path: "/"},
		{Name: "far below", Host: "*.b.a.test", Path: "/"},
		{Name: "host", Host: "A.test", Path: "/only"},
	} {
		r.add(&route, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, route.Name) }))
	}
	// f compares the name of the route that is found; "" is none.
	f := func(host, path, want string) {
		t.Helper()
		got := &recorder{}
		if h := r.find(hostOf(host), path); h != nil {
			h.ServeHTTP(got, nil)
		}
		if got.String() != want {
			t.Errorf("%s%s: %q, want %q", host, path, got.String(), want)
		}
	}
	f("x", "/", "any")
	f("x", "/apix", "any")
	f("x", "/api", "api")
	f("x", "/api/y", "api")
	f("x", "/api/x", "exact")
	f("x", "/dir", "any")
	f("x", "/dir/y", "dir")
	f("a.test", "/only", "host")
	f("a.test:80", "/else", "any")
	f("c.A.test", "/", "below")
	f("c.b.a.test:443", "/", "far below")
	f("b.a.test", "/", "below")
	f(".a.test", "/", "any")
	f("x", "*", "")
}

// recorder keeps what a handler writes.
type recorder struct {
	bytes.Buffer
}

// Header implements http.ResponseWriter.
func (*recorder) Header() http.Header { return http.Header{} }

// WriteHeader implements http.ResponseWriter.
func (*recorder) WriteHeader(int) {}
