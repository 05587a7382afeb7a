//go:build linux

package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/tlsterm"
)

// ja4Gateway is a gateway whose listeners, on 127.0.0.1 and without fingerprints on 127.0.0.2, speak TLS.
func ja4Gateway(t *testing.T, yaml string) (g *testGateway, plain string, client *tls.Config, listeners string) {
	t.Helper()
	pair := testcert.New(t)
	listeners = `
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1, tls: {ja4: true, certificates: [` + certificate(t, pair) + `]}}
  - {listen: "127.0.0.2:0", acceptors: 1, tls: {certificates: [` + certificate(t, pair) + `]}}
`
	g = newGateway(t, yaml+listeners)
	return g, g.listener("127.0.0.2:0"), pair.ClientTLS("localhost"), listeners
}

// fingerprintOf is what a server sees of clients of this configuration.
func fingerprintOf(t *testing.T, client *tls.Config) (ja4 string) {
	t.Helper()
	server, c := net.Pipe()
	go func() { _ = tls.Client(c, client).Handshake() }()
	seen := errors.New("seen")
	err := tls.Server(server, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ja4 = tlsterm.JA4(hello)
		return nil, seen
	}}).Handshake()
	_ = server.Close()
	if !errors.Is(err, seen) {
		t.Fatal(err)
	}
	return ja4
}

// The fingerprint goes with the connection through requests, parking and tunnels, to where it is wanted.
func TestJA4EverywhereItIsWanted(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	file := filepath.Join(t.TempDir(), "access")
	g, plain, client, _ := ja4Gateway(t, `
upstreams: {be: {servers: [{address: "`+be.addr()+`"}]}}
routes:
  - {path: /local, static_response: {body: "<${tls_ja4}>"}}
  - {path: /, upstream: be, request_headers: {set: {X-Fingerprint: "${tls_ja4}"}}}
log: {access: {output: "`+file+`", format: "${path} ${tls_ja4}"}}
workers: {park_after: 0s}
`)
	want := fingerprintOf(t, client)
	if !strings.HasPrefix(want, "t13d") {
		t.Fatalf("the fingerprint is %q", want)
	}
	expectShown := func(state meter.ConnState, want string) {
		t.Helper()
		g.wait("a connection that is "+state.String(), func() bool { return len(g.list(admin.ConnFilter{State: state.String()})) == 1 })
		if got := g.list(admin.ConnFilter{})[0].JA4; got != want {
			t.Errorf("%s: the admin API shows %q, want %q", state, got, want)
		}
	}
	c := testkit.DialTLS(t, g.addr, client)
	expectStatus(t, "first request", c.Do(get("/local")), 200, "<"+want+">")
	expectShown(meter.Parked, want)
	expectStatus(t, "after parking", c.Do(get("/local")), 200, "<"+want+">")

	c.Send(upgrade())
	backend := be.take()
	if head := backend.Until("\r\n\r\n"); !strings.Contains(head, "X-Fingerprint: "+want) {
		t.Errorf("the backend was asked %q", head)
	}
	expectShown(meter.Active, want)
	backend.Send(switching())
	expectStatus(t, "upgrade", c.Response("GET"), 101)
	expectShown(meter.Relayed, want)
	backend.Close()
	c.ExpectClosed()
	c.Close()
	g.waitNone()

	// Where it is off there is none.
	c = testkit.DialTLS(t, plain, client)
	expectStatus(t, "off", c.Do(get("/local")), 200, "<>")
	expectShown(meter.Parked, "")

	got := g.accessLines(file, 4) // in no order, as each processor has its buffer
	slices.Sort(got)
	if want := []string{"/ " + want, "/local -", "/local " + want, "/local " + want}; !slices.Equal(got, want) {
		t.Errorf("access log: %q, want %q", got, want)
	}
}

// crowdOf has n clients shake hands at once from an address, and returns how many were let in. The others have to have got
// an alert.
func crowdOf(t *testing.T, n int, source, addr string, client *tls.Config) (admitted int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			d := net.Dialer{Timeout: testkit.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
			raw, err := d.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = raw.Close() }()
			_ = raw.SetDeadline(time.Now().Add(testkit.Patience))
			switch err := tls.Client(raw, client).Handshake(); {
			case err == nil:
				mu.Lock()
				admitted++
				mu.Unlock()
			case err.Error() != "remote error: tls: internal error":
				t.Errorf("a refused client got %v, want an alert", err)
			}
		})
	}
	wg.Wait()
	return admitted
}

// overRate sends crowds until some of one were refused, and fails if more were let in than the rate of one a second allows.
func overRate(t *testing.T, addr string, client *tls.Config, burst int) {
	t.Helper()
	begun, admitted := time.Now(), 0
	for crowds := 1; ; crowds++ {
		admitted += crowdOf(t, 20, "127.0.0.1", addr, client)
		if admitted < 20*crowds {
			break
		}
	}
	if most := burst + 1 + int(time.Since(begun)/time.Second); admitted > most || admitted < 1 {
		t.Errorf("%d were let in within %s, want 1 to %d", admitted, time.Since(begun), most)
	}
}

func TestHandshakeRatePerClient(t *testing.T) {
	t.Parallel()
	const base = "routes: [{static_response: {body: ok}}]\n"
	g, _, client, listeners := ja4Gateway(t, base+"handshakes: {rate_per_client: 1, burst_per_client: 3, queue_timeout: 1h}")
	held := testkit.DialTLS(t, g.addr, client)
	overRate(t, g.addr, client, 2)
	refused := g.metric(`tickgate_tls_failures_total{reason="rate_limited"}`)
	if refused < 1 {
		t.Errorf("%v refusals are counted", refused)
	}
	g.waitConnEnd(reason.TLSFailed, int(refused))
	if !strings.Contains(g.logs.String(), `"reason":"rate_limited"`) {
		t.Errorf("no line about it in the log:\n%s", g.logs)
	}
	// Other addresses, and connections that are open, go on.
	if n := crowdOf(t, 1, "127.0.5.1", g.addr, client); n != 1 {
		t.Error("another address is refused, too")
	}
	expectStatus(t, "an open connection", held.Do(get("/")), 200)

	g.reload(base + "handshakes: {queue_timeout: 1h}" + listeners)
	if n := crowdOf(t, 20, "127.0.0.1", g.addr, client); n != 20 {
		t.Errorf("without a limit %d of 20 are let in", n)
	}
}

func TestHandshakeRatePerJA4(t *testing.T) {
	t.Parallel()
	g, plain, client, _ := ja4Gateway(t, "routes: [{static_response: {body: ok}}]\nhandshakes: {rate_per_ja4: 1, burst_per_ja4: 2, queue_timeout: 1h}")
	overRate(t, g.addr, client, 2)
	if n := g.metric(`tickgate_tls_failures_total{reason="rate_limited_ja4"}`); n < 1 {
		t.Errorf("%v refusals are counted", n)
	}
	if line := `"ja4":"` + fingerprintOf(t, client) + `","reason":"rate_limited_ja4"`; !strings.Contains(g.logs.String(), line) {
		t.Errorf("no line with %s in the log:\n%s", line, g.logs)
	}
	// Other clients, from the same address, and listeners without fingerprints.
	other := client.Clone()
	other.MaxVersion = tls.VersionTLS12
	if n := crowdOf(t, 1, "127.0.0.1", g.addr, other); n != 1 {
		t.Error("another client is refused, too")
	}
	if n := crowdOf(t, 20, "127.0.0.1", plain, client); n != 20 {
		t.Errorf("where there are no fingerprints, %d of 20 are let in", n)
	}
}

// A refused handshake leaves nothing behind, and nothing of it was computed.
func TestHandshakeRateIsCheap(t *testing.T) {
	t.Parallel()
	g, _, client, _ := ja4Gateway(t, "routes: [{static_response: {body: ok}}]\nhandshakes: {rate_per_client: 1, burst_per_client: 1}")
	before := g.metric("tickgate_tls_handshakes_total")
	admitted := 0
	for range 10 {
		admitted += crowdOf(t, 50, "127.0.0.1", g.addr, client)
	}
	g.waitNone()
	if got := int(g.metric("tickgate_tls_handshakes_total") - before); got != admitted {
		t.Errorf("%d handshakes are counted, %d clients were let in", got, admitted)
	}
	if running, idle := g.handshakes.crew.size(); running != idle {
		t.Errorf("%d of %d goroutines of handshakes are busy", running-idle, running)
	}
}
