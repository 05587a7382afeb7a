package admin

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// fakeGateway answers as it is told and writes down what it was asked.
type fakeGateway struct {
	mu     sync.Mutex
	calls  []string
	filter ConnFilter
	ready  error
	reload error
	status any
	inside chan struct{} // a token when Routes is entered; nil to ignore
	leave  chan struct{} // what Routes waits for; nil not to wait
}

func (g *fakeGateway) call(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, fmt.Sprintf(format, args...))
}

// take returns the calls since the last take.
func (g *fakeGateway) take() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := strings.Join(g.calls, " ")
	g.calls = nil
	return calls
}

func (g *fakeGateway) Ready() error { return g.ready }
func (g *fakeGateway) Status() any  { return g.status }
func (g *fakeGateway) Config() any  { return map[string]string{"url": "a&b<c>"} }

func (g *fakeGateway) Routes() any {
	if g.inside != nil {
		g.inside <- struct{}{}
	}
	if g.leave != nil {
		<-g.leave
	}
	return []string{"api"}
}

func (g *fakeGateway) Upstreams() any { panic("a bug in the gateway") }

func (g *fakeGateway) Connections(f ConnFilter) any {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.filter = f
	return []int{}
}

func (g *fakeGateway) Reload() error {
	g.call("reload")
	return g.reload
}

// openConnection is the one connection that a fakeGateway has.
const openConnection = 7

func (g *fakeGateway) Connection(id uint64) (any, error) {
	if id != openConnection {
		return nil, fmt.Errorf("%w: no open connection %d", ErrNotFound, id)
	}
	return map[string]uint64{"id": id}, nil
}

func (g *fakeGateway) CloseConnection(id uint64, reset bool) (any, error) {
	g.call("close(%d,%t)", id, reset)
	if id == 500 {
		return nil, errors.New("cannot")
	}
	return g.Connection(id)
}

func (g *fakeGateway) DrainStatus() any { return map[string]int{"left": 12} }

func (g *fakeGateway) Drain(upstream, addr string, drain bool, window time.Duration) error {
	switch {
	case window == ConfiguredWindow:
		g.call("drain(%s,%s,%t)", upstream, addr, drain)
	default:
		g.call("drain(%s,%s,%t,%s)", upstream, addr, drain, window)
	}
	switch upstream {
	case "none":
		return fmt.Errorf("%w: upstream %q", ErrNotFound, upstream)
	case "broken":
		return errors.New("cannot")
	}
	return nil
}

// startTest serves gw on the given address, closes it at the end, and returns its URL.
func startTest(t *testing.T, listen string, gw Gateway, opts Options) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(ln, gw, opts)
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return s, "http://127.0.0.1:" + port
}

// client makes a connection for each request.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// answer is a response that is read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request with fields given as "Name: value"; Host is set by "Host: x".
func ask(t *testing.T, method, url string, fields ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ": ")
		if !ok {
			continue // no field
		}
		req.Header.Set(name, value)
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// wantError checks the status of an answer and that its JSON error holds a text.
func wantError(t *testing.T, a answer, status int, text string) {
	t.Helper()
	var e struct{ Error string }
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Errorf("%v in %q", err, a.body)
	}
	if a.status != status || !strings.Contains(e.Error, text) {
		t.Errorf("got %d %q, want %d with %q", a.status, e.Error, status, text)
	}
}

func TestEndpoints(t *testing.T) {
	gw := &fakeGateway{status: map[string]int{"generation": 3}}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{WriteMetrics: writeMetric})
	const jsonType, textType = "application/json; charset=utf-8", "text/plain; charset=utf-8"
	for path, want := range map[string]struct{ contentType, body string }{
		"/healthz":              {textType, "ok\n"},
		"/readyz":               {textType, "ready\n"},
		"/metrics":              {"text/plain; version=0.0.4; charset=utf-8", "tickgate_x_total 1\n"},
		"/api/v1/status":        {jsonType, "{\n  \"generation\": 3\n}\n"},
		"/api/v1/config":        {jsonType, "{\n  \"url\": \"a&b<c>\"\n}\n"},
		"/api/v1/routes":        {jsonType, "[\n  \"api\"\n]\n"},
		"/api/v1/connections":   {jsonType, "[]\n"},
		"/api/v1/connections/7": {jsonType, "{\n  \"id\": 7\n}\n"},
		"/api/v1/drain":         {jsonType, "{\n  \"left\": 12\n}\n"},
	} {
		got := ask(t, "GET", url+path)
		if got.status != 200 || got.body != want.body || got.header.Get("Content-Type") != want.contentType {
			t.Errorf("%s: got %d %q %q, want 200 %q %q", path, got.status, got.header.Get("Content-Type"), got.body, want.contentType, want.body)
		}
		if got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: header %v", path, got.header)
		}
		if head := ask(t, "HEAD", url+path); head.status != 200 || head.body != "" {
			t.Errorf("HEAD %s: got %d %q", path, head.status, head.body)
		}
	}
}

func writeMetric(w io.Writer) error {
	_, err := io.WriteString(w, "tickgate_x_total 1\n")
	return err
}

func TestIndexListsEndpointsThatExist(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{WriteMetrics: writeMetric})
	var list []endpoint
	if err := json.Unmarshal([]byte(ask(t, "GET", url+"/").body), &list); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/api/v1/config", "/api/v1/routes", "/api/v1/upstreams", "/api/v1/connections", "/api/v1/connections/{id}", "/api/v1/drain", "/api/v1/reload", "/api/v1/status"} {
		found := false
		for _, e := range list {
			found = found || e.Path == path && e.Help != ""
		}
		if !found {
			t.Errorf("%s is not listed", path)
		}
	}
}

func TestProfiles(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{})
	for path, want := range map[string]string{
		"/debug/pprof/":                  "full goroutine stack dump",
		"/debug/pprof/goroutine?debug=1": "goroutine profile: total",
		"/debug/pprof/cmdline":           "admin.test",
	} {
		if got := ask(t, "GET", url+path); got.status != 200 || !strings.Contains(got.body, want) {
			t.Errorf("%s: got %d, want %q in %.200q", path, got.status, want, got.body)
		}
	}
}

func TestMetricsAreCompressedOnDemand(t *testing.T) {
	long := strings.Repeat("tickgate_x_total 1\n", 1000)
	write := func(w io.Writer) error { _, err := io.WriteString(w, long); return err }
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{WriteMetrics: write})
	got := ask(t, "GET", url+"/metrics", "Accept-Encoding: gzip")
	zr, err := gzip.NewReader(strings.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(zr); err != nil || string(text) != long {
		t.Errorf("got %d bytes (%v), want %d", len(text), err, len(long))
	}
}

func TestMetricsFail(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{WriteMetrics: func(w io.Writer) error {
		fmt.Fprint(w, "half a page")
		return errors.New("no figures")
	}})
	wantError(t, ask(t, "GET", url+"/metrics"), 500, "no figures")
	_, url = startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{})
	wantError(t, ask(t, "GET", url+"/metrics"), 404, "no metrics")
}

func TestNotReady(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{ready: errors.New("draining")}, Options{})
	if got := ask(t, "GET", url+"/readyz"); got.status != 503 || got.body != "draining\n" {
		t.Errorf("got %d %q, want 503 draining", got.status, got.body)
	}
	if got := ask(t, "GET", url+"/healthz"); got.status != 200 {
		t.Errorf("healthz: got %d, want 200", got.status)
	}
}

func TestWrongPathsAndMethods(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{})
	wantError(t, ask(t, "GET", url+"/nope"), 404, "no such endpoint")
	wantError(t, ask(t, "GET", url+"/healthz/"), 404, "no such endpoint")
	got := ask(t, "GET", url+"/api/v1/reload")
	wantError(t, got, 405, "method")
	if got.header.Get("Allow") != "OPTIONS, POST" {
		t.Errorf("Allow is %q, want OPTIONS, POST", got.header.Get("Allow"))
	}
	if got := ask(t, "OPTIONS", url+"/api/v1/reload"); got.header.Get("Allow") != "OPTIONS, POST" {
		t.Errorf("OPTIONS: Allow is %q, want OPTIONS, POST", got.header.Get("Allow"))
	}
}

func TestPanicAndBadValueAreAnswered(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{status: func() {}}, Options{})
	wantError(t, ask(t, "GET", url+"/api/v1/upstreams"), 500, "internal error")
	wantError(t, ask(t, "GET", url+"/api/v1/status"), 500, "cannot write as JSON")
	if got := ask(t, "GET", url+"/healthz"); got.status != 200 {
		t.Errorf("after a panic: got %d, want 200", got.status)
	}
}

func TestReload(t *testing.T) {
	gw := &fakeGateway{status: map[string]int{"generation": 4}}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{})
	if got := ask(t, "POST", url+"/api/v1/reload"); got.status != 200 || !strings.Contains(got.body, `"generation": 4`) {
		t.Errorf("got %d %q", got.status, got.body)
	}
	gw.reload = errors.New(`t.yaml:3:1: unknown key "lisen"`)
	wantError(t, ask(t, "POST", url+"/api/v1/reload"), 422, `t.yaml:3:1: unknown key "lisen"`)
	if calls := gw.take(); calls != "reload reload" {
		t.Errorf("calls: %s", calls)
	}
}

func TestDrain(t *testing.T) {
	gw := &fakeGateway{}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{})
	const at = "/api/v1/upstreams/"
	for _, c := range []struct{ method, path, want string }{
		{"POST", at + "be/servers/10.0.0.1:80/drain", "drain(be,10.0.0.1:80,true)"},
		{"POST", at + "be/servers/10.0.0.1:80/drain?drain=true", "drain(be,10.0.0.1:80,true)"},
		{"POST", at + "be/servers/10.0.0.1:80/drain?drain=false", "drain(be,10.0.0.1:80,false)"},
		{"POST", at + "be/servers/10.0.0.1:80/drain?window=90s", "drain(be,10.0.0.1:80,true,1m30s)"},
		{"POST", at + "be/servers/10.0.0.1:80/drain?drain=true&window=0s", "drain(be,10.0.0.1:80,true,0s)"},
		{"DELETE", at + "be/servers/10.0.0.1:80/drain", "drain(be,10.0.0.1:80,false)"},
		{"POST", at + "a%20b/servers/unix:%2Frun%2Fa.sock/drain", "drain(a b,unix:/run/a.sock,true)"},
		{"POST", at + "be/servers/[::1]:80/drain", "drain(be,[::1]:80,true)"},
	} {
		if got := ask(t, c.method, url+c.path); got.status != 200 {
			t.Errorf("%s %s: got %d %q", c.method, c.path, got.status, got.body)
		}
		if calls := gw.take(); calls != c.want {
			t.Errorf("%s %s: calls %s, want %s", c.method, c.path, calls, c.want)
		}
	}
	wantError(t, ask(t, "POST", url+at+"none/servers/a:1/drain"), 404, `upstream "none"`)
	wantError(t, ask(t, "POST", url+at+"broken/servers/a:1/drain"), 500, "cannot")
	gw.take()
	for query, want := range map[string]string{
		"?drain=maybe":            `drain: "maybe" (want true or false)`,
		"?window=20":              `window: "20" (want a duration with a unit`,
		"?window=-1s":             `window: "-1s" (want a duration`,
		"?window=":                `window: "" (want a duration`,
		"?drain=false&window=20s": "window: has no effect with drain=false",
		"?windows=20s":            `unknown parameter "windows" (want drain or window)`,
	} {
		wantError(t, ask(t, "POST", url+at+"be/servers/a:1/drain"+query), 400, want)
	}
	if calls := gw.take(); calls != "" {
		t.Errorf("a wrong request got through: %s", calls)
	}
}

func TestToken(t *testing.T) {
	set := metrics.NewSet()
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{Token: "s3cret", Set: set, WriteMetrics: writeMetric})
	refused := 0
	for _, c := range []struct {
		path, field string
		want        int
	}{
		{"/healthz", "", 200},
		{"/readyz", "", 200},
		{"/metrics", "Authorization: Bearer s3cret", 200},
		{"/metrics", "Authorization: bearer s3cret", 200},
		{"/", "Authorization: Bearer s3cret", 200},
		{"/", "", 401},
		{"/metrics", "Authorization: Bearer wrong", 401},
		{"/metrics", "Authorization: Bearer s3cre", 401},
		{"/metrics", "Authorization: Bearer s3cret1", 401},
		{"/metrics", "Authorization: Bearer ", 401},
		{"/metrics", "Authorization: Basic s3cret", 401},
		{"/metrics", "Authorization: s3cret", 401},
		{"/debug/pprof/heap", "", 401},
		{"/nope", "", 401},
		{"//healthz", "", 401},
		{"/healthz/../metrics", "", 401},
	} {
		got := ask(t, "GET", url+c.path, c.field, "Host: any.example")
		if got.status != c.want {
			t.Errorf("%s with %q: got %d, want %d", c.path, c.field, got.status, c.want)
		}
		if c.want == 401 {
			refused++
			wantError(t, got, 401, "token")
			if got.header.Get("WWW-Authenticate") != `Bearer realm="tickgate admin"` {
				t.Errorf("%s: WWW-Authenticate is %q", c.path, got.header.Get("WWW-Authenticate"))
			}
		}
	}
	if n := set.GetOrCreateCounter(`tickgate_admin_refused_total{reason="token"}`).Get(); n != uint64(refused) {
		t.Errorf("%d refusals counted, want %d", n, refused)
	}
}

func TestHostGuard(t *testing.T) {
	set := metrics.NewSet()
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{Set: set, WriteMetrics: writeMetric})
	for host, want := range map[string]int{
		"localhost":               200,
		"LOCALHOST:9180":          200,
		"localhost.":              200,
		"127.0.0.1":               200,
		"127.9.9.9:9180":          200,
		"[::1]":                   200,
		"[::1]:9180":              200,
		"evil.example":            403,
		"evil.example:9180":       403,
		"localhost.evil.example":  403,
		"127.0.0.1.evil.example":  403,
		"10.0.0.1":                403,
		"[2001:db8::1]":           403,
		"notlocalhost":            403,
		"localhost@evil.example":  400, // fasthttp refuses what is no host
		"evil.example#@localhost": 400,
	} {
		if got := ask(t, "GET", url+"/metrics", "Host: "+host); got.status != want {
			t.Errorf("Host %q: got %d, want %d", host, got.status, want)
		}
	}
	if got := ask(t, "GET", url+"/healthz", "Host: evil.example"); got.status != 200 {
		t.Errorf("healthz: got %d, want 200", got.status)
	}
	if n := set.GetOrCreateCounter(`tickgate_admin_refused_total{reason="host"}`).Get(); n != 7 {
		t.Errorf("%d refusals counted, want 7", n)
	}
}

func TestHostGuardIsForLoopbackOnly(t *testing.T) {
	_, url := startTest(t, "0.0.0.0:0", &fakeGateway{}, Options{WriteMetrics: writeMetric})
	if got := ask(t, "GET", url+"/metrics", "Host: gateway.example"); got.status != 200 {
		t.Errorf("got %d, want 200", got.status)
	}
}

func TestOriginGuard(t *testing.T) {
	gw := &fakeGateway{}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{})
	for _, c := range []struct {
		method, field string
		want          int
	}{
		{"POST", "", 200},
		{"POST", "Origin: " + url, 200},
		{"POST", "Sec-Fetch-Site: same-origin", 200},
		{"POST", "Sec-Fetch-Site: none", 200},
		{"POST", "Origin: https://evil.example", 403},
		{"POST", "Origin: null", 403},
		{"POST", "Origin: http://127.0.0.1:1", 403},
		{"POST", "Origin: %zz", 403},
		{"POST", "Sec-Fetch-Site: cross-site", 403},
		{"POST", "Sec-Fetch-Site: same-site", 403},
		{"GET", "Origin: https://evil.example", 405}, // harmless: it only gets as far as the router
	} {
		if got := ask(t, c.method, url+"/api/v1/reload", c.field); got.status != c.want {
			t.Errorf("%s with %q: got %d, want %d", c.method, c.field, got.status, c.want)
		}
		want := ""
		if c.want == 200 {
			want = "reload"
		}
		if calls := gw.take(); calls != want {
			t.Errorf("%s with %q: calls %q, want %q", c.method, c.field, calls, want)
		}
	}
}

func TestShutdownWaitsForRequests(t *testing.T) {
	gw := &fakeGateway{inside: make(chan struct{}), leave: make(chan struct{})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(ln, gw, Options{})
	// 1. A request is in flight.
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/routes HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-gw.inside
	// 2. An impatient Shutdown gives up on it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want DeadlineExceeded", err)
	}
	// 3. Nobody is let in any more.
	<-s.Done()
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("still accepting")
	}
	// 4. The request ends well, and then Shutdown does too.
	close(gw.leave)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
	resp.Body.Close()
	if err := errors.Join(s.Shutdown(context.Background()), s.Err()); err != nil {
		t.Error(err)
	}
}

func TestShutdownAtOnce(t *testing.T) {
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := Serve(ln, &fakeGateway{}, Options{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := s.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}
