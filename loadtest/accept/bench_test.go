package accept

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
)

// inProcess is a backend or a gateway of the test's own process.
type inProcess struct{ stop func() }

func (inProcess) ID() int             { return os.Getpid() }
func (inProcess) Reload(string) error { return errors.New("no reload here") }
func (p inProcess) Stop() error       { p.stop(); return nil }

// testBench is a bench with the real gateway, backends in this process, and nothing that
// excuses a missed bound.
func testBench(t *testing.T) *bench {
	t.Helper()
	// Test processes side by side look for ports in different places.
	const first, blocks, size = 24_500, 40, stagePorts
	o := Options{Scale: 1e-6, Shortest: 400 * time.Millisecond, Rate: 200, FirstPort: first + os.Getpid()%blocks*size, Dir: t.TempDir()}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	p := programs{tickgate: testkit.Binary(t), dir: o.Dir}
	b := &bench{Options: o, parts: p.parts(), bounds: bounds{testkit.Patience, testkit.Patience}}
	b.backend = ownBackend
	b.contention = func(Split, string) string { return "" }
	return b
}

// ownBackend serves as tickload backend does.
func ownBackend(_ context.Context, s backendSpec) (process, error) {
	ln, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, err
	}
	if s.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, err
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = baseline.ServeBackend(ctx, ln, s.Size, 0) })
	return inProcess{func() { cancel(); serving.Wait() }}, nil
}

var addressKey = regexp.MustCompile(`address: "([^"]+)"`)

// standIn makes a gateway of the test's process that forwards to the first backend, with
// something wrong around it.
func standIn(wrong func(next http.Handler) http.Handler) func(context.Context, gatewaySpec) (process, error) {
	return func(_ context.Context, s gatewaySpec) (process, error) {
		ln, err := net.Listen("tcp", s.Listen)
		if err != nil {
			return nil, err
		}
		to := &url.URL{Scheme: "http", Host: addressKey.FindStringSubmatch(s.YAML)[1]}
		proxy := httputil.NewSingleHostReverseProxy(to)
		proxy.Transport = &http.Transport{DisableKeepAlives: true} // nothing is left for a backend to wait for
		quiet := log.New(io.Discard, "", 0)
		proxy.ErrorLog = quiet
		server := &http.Server{Handler: wrong(proxy), ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(ln) })
		return inProcess{func() { _ = server.Close(); serving.Wait() }}, nil
	}
}

// after waits before it forwards what matches.
func after(d time.Duration, matches func(*http.Request) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if matches(r) {
				<-time.After(d)
			}
			next.ServeHTTP(w, r)
		})
	}
}

func every(*http.Request) bool { return true }

// only runs one item and returns its rows.
func (b *bench) only(t *testing.T, id string) []Row {
	t.Helper()
	b.Items = []string{id}
	rows := run(t.Context(), b, "tickgate under test").Rows
	if len(rows) == 0 {
		t.Fatalf("%s has no rows", id)
	}
	return rows
}
