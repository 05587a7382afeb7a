package baseline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// listening returns a loopback listener.
func listening(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// started runs a server until the test ends, when it must stop in order.
func started(t *testing.T, run func(context.Context, net.Listener) error) string {
	t.Helper()
	ln := listening(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return ln.Addr().String()
}

func TestGateway(t *testing.T) {
	backend := testkit.NewRecorder(t, func(r *testkit.Request) []byte { return testkit.OK(string(r.Body) + "!") })
	addr := started(t, func(ctx context.Context, ln net.Listener) error {
		return Serve(ctx, ln, Options{Backend: backend.Addr()})
	})
	c := testkit.Dial(t, addr)
	for i := range 3 {
		resp := c.Do(fmt.Sprintf("POST /a?b=c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\n\r\n%d", i))
		if want := fmt.Sprint(i, "!"); resp.Status != 200 || string(resp.Body) != want {
			t.Errorf("%d %q, want %q", resp.Status, resp.Body, want)
		}
	}
	c.Close()
	reqs := backend.WaitRequests(t, 3)
	for name, want := range map[string]string{"Host": "example.com", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "example.com", "Accept-Encoding": ""} {
		if got := reqs[0].Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if n := len(backend.Conns()); n != 1 {
		t.Errorf("%d connections to the backend, want one kept alive", n)
	}
}

func TestGatewayTLS(t *testing.T) {
	pair := testcert.New(t, "a.test")
	cert, key := pair.Files(t)
	backend := testkit.NewRecorder(t, nil)
	addr := started(t, func(ctx context.Context, ln net.Listener) error {
		return Serve(ctx, ln, Options{Backend: "http://" + backend.Addr(), CertFile: cert, KeyFile: key})
	})
	c := testkit.DialTLS(t, addr, pair.ClientTLS("a.test"))
	defer c.Close()
	if resp := c.Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"); resp.Status != 200 {
		t.Errorf("status %d", resp.Status)
	}
	if got := backend.WaitRequests(t, 1)[0].Get("X-Forwarded-Proto"); got != "https" {
		t.Errorf("X-Forwarded-Proto %q", got)
	}
}

func TestBackend(t *testing.T) {
	addr := started(t, func(ctx context.Context, ln net.Listener) error { return ServeBackend(ctx, ln, 1024, 0) })
	c := testkit.Dial(t, addr)
	defer c.Close()
	// f compares the status and the length of the body.
	f := func(request string, wantStatus, wantLen int) {
		t.Helper()
		resp := c.Do(request)
		if resp.Status != wantStatus || len(resp.Body) != wantLen {
			t.Errorf("%.50q: %d with %d bytes, want %d with %d", request, resp.Status, len(resp.Body), wantStatus, wantLen)
		}
	}
	get := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	f(get("/"), 200, 1024)
	f(get("/any?x"), 200, 1024)
	f(get("/status/503"), 503, 1024)
	f(get("/status/9"), 200, 1024)
	f(get("/bytes/3000000"), 200, 3000000)
	f(get("/bytes/30?chunked"), 200, 30)
	f(get("/bytes/-1"), 400, 0)
	f("PUT /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"+strings.Repeat("x", 3000000), 200, len("3000000\n"))
	f("PUT /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, len("2\n"))
	f("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /status/500 HTTP/1.1\r\nX: y", 200, 1024)
	f(get("/"), 200, 1024)
}

func TestOptionErrors(t *testing.T) {
	f := func(backend, want string) {
		t.Helper()
		if _, err := Handler(Options{Backend: backend}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", backend, err, want)
		}
	}
	f("", ErrNoBackend.Error())
	f("example", "no http:// URL")
	f("https://example:1", "no http:// URL")
	f("http://%zz", "backend")

	ln := listening(t)
	defer func() { _ = ln.Close() }()
	err := Serve(t.Context(), ln, Options{Backend: "127.0.0.1:1", CertFile: "none.pem", KeyFile: "none.key"})
	if err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Errorf("missing certificate: %v", err)
	}
}

func TestServeReportsFailure(t *testing.T) {
	ln := listening(t)
	_ = ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Serve(ctx, ln, Options{Backend: "127.0.0.1:1"}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}
