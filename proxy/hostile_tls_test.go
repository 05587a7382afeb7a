package proxy_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/hello"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/tlsterm"
)

const (
	// mutatedHellos are sent by helloClients at the same time, each on a connection of its own.
	mutatedHellos = 1000 / hostileScale
	helloClients  = 32
	// goodEvery of them is followed by a client that means well.
	goodEvery = 25
)

// newHello is the ClientHello that mutants are made of.
func newHello(t testing.TB, groups ...tls.CurveID) *hello.Hello {
	t.Helper()
	h, err := hello.New(&tls.Config{ServerName: "localhost", NextProtos: []string{"http/1.1"}, CurvePreferences: groups})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// whisper sends bytes to the TLS port, in two pieces if cut is within, and FIN, and returns all that comes back. The
// gateway must end the connection.
func (g *hostileGateway) whisper(n int, raw []byte, cut int) (answer []byte, err error) {
	c, err := g.dialRaw(n, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	cut = min(cut, len(raw))
	// What has been refused already may not take the rest.
	_, _ = c.Write(raw[:cut])
	_, _ = c.Write(raw[cut:])
	c.end()
	answer, err = io.ReadAll(c)
	if errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	return answer, err
}

// judgeAnswer wants an alert, the gateway's share of a handshake, a word for plain HTTP, or nothing.
func judgeAnswer(raw, answer []byte) error {
	const alert, handshake = 21, 22
	plain := bytes.HasPrefix(answer, []byte("HTTP/1.1 400 "))
	switch {
	case len(answer) == 0, answer[0] == alert, answer[0] == handshake:
		return nil
	case plain && raw[0] >= 'A' && raw[0] <= 'Z':
		return nil
	}
	return fmt.Errorf("answer %.40q", answer)
}

// exposition returns the metrics as they are read.
func (g *hostileGateway) exposition(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	if err := g.Meter().WritePrometheus(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// wellMeant makes a request over a new TLS connection.
func (g *hostileGateway) wellMeant(n int) error {
	c, err := g.dial(n, true)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, goodRequest("tls")); err != nil {
		return err
	}
	resp, err := testkit.ReadResponse(c.br, "GET")
	if err == nil && resp.Status != 200 {
		err = fmt.Errorf("status %d", resp.Status)
	}
	return err
}

// fireHellos sends mutants of the numbers from 0 on, and returns how many were answered with a ServerHello.
func fireHellos(t *testing.T, g *hostileGateway, h *hello.Hello) (served int64) {
	t.Helper()
	var next, answered atomic.Int64
	var wg sync.WaitGroup
	for range helloClients {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < mutatedHellos; i = int(next.Add(1) - 1) {
				rng := rand.New(rand.NewPCG(hostileSeed, uint64(i)))
				raw := h.Mutant(rng)
				answer, err := g.whisper(1<<16+i, raw, rng.IntN(2*len(raw)))
				if err == nil {
					err = judgeAnswer(raw, answer)
				}
				if err != nil {
					t.Errorf("mutant %d: %v\nsent %x", i, err, raw)
				}
				if len(answer) > 5 && answer[0] == 22 {
					answered.Add(1)
				}
				if i%goodEvery != 0 {
					continue
				}
				if err := g.wellMeant(1<<17 + i); err != nil {
					t.Errorf("a good client beside mutant %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	return answered.Load()
}

// TestMutatedClientHellos sends ClientHellos with errors in them. Each is ended, by a reason that is one of the enum, the
// gateway serves others meanwhile, and in the end nothing is left of any.
func TestMutatedClientHellos(t *testing.T) {
	// Time-outs are too long to end anything.
	g := startHostile(t, "timeouts: {handshake: 10m}\nroutes: [{static_response: {body: ok}}]\n")
	if err := g.wellMeant(1 << 17); err != nil {
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	served := fireHellos(t, g, newHello(t))
	if served < 1 || served > mutatedHellos/2 {
		t.Errorf("%d of %d mutants were answered with a ServerHello", served, mutatedHellos)
	}
	awaitThat(t, "every connection has ended", func() bool { return testkit.SumMetric(g.exposition(t), "tickgate_connections{") == 0 })

	text := g.exposition(t)
	sum := 0
	for _, f := range tlsterm.Failures() {
		n := int(testkit.SumMetric(text, fmt.Sprintf("tickgate_tls_failures_total{reason=%q}", f)))
		sum += n
		t.Logf("%s: %d", f, n)
	}
	if sum != mutatedHellos {
		t.Errorf("%d handshakes failed for a reason, want all %d", sum, mutatedHellos)
	}
	for _, r := range []reason.Reason{reason.Internal, reason.PlainOnTLS} {
		if n := testkit.SumMetric(text, fmt.Sprintf("tickgate_connection_ends_total{reason=%q}", r)); n != 0 {
			t.Errorf("%v connections ended with %s", n, r)
		}
	}
	if n := testkit.SumMetric(text, fmt.Sprintf("tickgate_connection_ends_total{reason=%q}", reason.TLSFailed)); n != mutatedHellos {
		t.Errorf("%v connections ended with %s, want %d", n, reason.TLSFailed, mutatedHellos)
	}
	if n := testkit.SumMetric(text, "tickgate_tls_handshakes_under_way"); n != 0 {
		t.Errorf("%v handshakes are under way", n)
	}
	if err := g.wellMeant(1<<17 + 1); err != nil {
		t.Errorf("a good client at last: %v", err)
	}
	// Workers go once they have been idle for a while.
	awaitThat(t, "there are no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// awaitThat waits for something that is to come, as long as patience lasts.
func awaitThat(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.After(testkit.Patience)
	for !holds() {
		select {
		case <-limit:
			t.Fatalf("%s: it has not come to that", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// FuzzClientHello sends bytes to a TLS port: whatever they are, the connection is ended with nothing, an alert, a
// ServerHello or a word for plain HTTP, by a reason that is none of ours.
//
//	go test -run '^$' -fuzz FuzzClientHello ./proxy
func FuzzClientHello(f *testing.F) {
	h := newHello(f, tls.X25519)
	f.Add(h.Raw(), uint16(0))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), uint16(3))
	for i := range uint64(100) {
		rng := rand.New(rand.NewPCG(hostileSeed, i))
		raw := h.Mutant(rng)
		f.Add(raw, uint16(rng.IntN(len(raw))))
	}
	g := startHostile(f, "timeouts: {handshake: 10m}\nroutes: [{static_response: {body: ok}}]\n")
	n := 0
	f.Fuzz(func(t *testing.T, raw []byte, cut uint16) {
		if len(raw) == 0 {
			return
		}
		n++
		answer, err := g.whisper(1<<16+n%(1<<22), raw, int(cut))
		if err == nil {
			err = judgeAnswer(raw, answer)
		}
		if err != nil {
			t.Errorf("%v\nsent %x, cut at %d", err, raw, cut)
		}
		if n := testkit.SumMetric(g.exposition(t), fmt.Sprintf("tickgate_connection_ends_total{reason=%q}", reason.Internal)); n != 0 {
			t.Fatalf("%v panics\nsent %x, cut at %d", n, raw, cut)
		}
	})
}
