package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/fault/dnsflip"
	"tickgate/loadtest/fault/probe"
)

// parsed reads a scenario that must be sound.
func parsed(t *testing.T, text string) *Scenario {
	t.Helper()
	s, report := Parse("test.yaml", text)
	for _, p := range report.Problems {
		t.Fatalf("%s", p)
	}
	return s
}

// played plays a scenario with the real gateway.
func played(t *testing.T, text string) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	result, err := Run(ctx, parsed(t, text), RunOptions{Tickgate: testkit.Binary(t), Progress: func(text string) { t.Log(text) }})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// shown is a result for people.
func shown(r *Result) string {
	var b strings.Builder
	_, _ = r.WriteTo(&b) // a Builder takes everything
	return b.String()
}

const gatewayHead = `
gateway:
  config: |
    admin: {listen: "$${ADMIN}"}
    listeners: [{listen: "$${LISTEN}"}]
    resolver: {servers: ["$${DNS}"], timeout: 500ms, interval: 100ms, family: ipv4}
    log: {access: {output: "off"}}
    drain: {grace: 0s, timeout: 1s}
    routes: [{path: /feed, upstream: feed, tunnel: {idle: 30s}}, {path: /name, upstream: named}, {path: /, upstream: main}]
    upstreams:
      feed: {servers: [{address: "$${PROXY_E}"}]}
      named: {servers: [{address: "backend.test:1"}]}
      main:
        servers: [{address: "$${PROXY_A}"}]
        tls: {ca_file: "$${CA_FILE}"}
        retry: {attempts: 1}
backends: {a: {tls: true}, e: {kind: echo}}
proxies: {a: {backend: a}, e: {backend: e}}
dns: {names: {backend.test: {addresses: [127.0.0.1]}}}
`

// The whole way, with a fault of each kind of thing: connections, a clock, a name.
func TestRun(t *testing.T) {
	result := played(t, "name: whole"+gatewayHead+`
load: {rate: 40, timeout: 5s, consecutive: 5, tunnels: {count: 2, rate: 20, path: /feed}}
steps:
  - name: calm
    for: 1s
    expect: {min_ok: 1, max_error_percent: 0, statuses: [200]}
    expect_tunnels: {min_ok: 1, max_error_percent: 0}
  - name: cut
    faults: {a: {hole: refuse, reset: {now: true}}, e: {reset: {now: true}}}
    for: 2s
    settle: 3s
    expect: {min_error_percent: 1, recover_within: 10s}
    expect_tunnels: {min_error_percent: 1, kinds: [reset, closed_early, wrong_status], recover_within: 10s}
    metrics: [{name: 'tickgate_upstream_dials_total{backend="$${PROXY_A}",result="failed"}', op: ">", value: 0}]
  - name: expired
    faults: {a: {clock: -48h, reset: {now: true}}}
    dns: {backend.test: {mode: nxdomain}}
    for: 2s
    settle: 3s
    expect: {min_error_percent: 1, statuses: [200, 502, 503], recover_within: 10s}
    metrics: [{name: 'tickgate_upstream_dns_lookups_total{result="not_found"}', value: 1}]
  - {name: kept, faults: {a: {to_client: {delay: 50ms}}}, keep: true, for: 1s}
  - {name: still kept, for: 1500ms, expect: {min_p50: 50ms}}
`)
	if !result.Passed || len(result.Steps) != 5 || result.Questions == 0 {
		t.Fatal(shown(result))
	}
	if s := result.Steps[1]; s.Requests.FirstError == nil || s.Requests.Recovered == nil || s.Tunnels.Recovered == nil || len(s.Metrics) != 1 {
		t.Errorf("cut: %+v", s)
	}
	if n := result.Proxies["a"]; n.Reset == 0 || n.ToClient == 0 {
		t.Errorf("%+v", n)
	}
	b, err := json.Marshal(result)
	if err != nil || !strings.Contains(string(b), `"recovered_s":`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestRunUnmet(t *testing.T) {
	result := played(t, "name: broken"+gatewayHead+`
load: {rate: 40, timeout: 5s}
steps:
  - name: gone
    faults: {a: {hole: refuse, reset: {now: true}}}
    for: 1500ms
    expect: {max_error_percent: 0, recover_within: 1ns}
    metrics: [{name: tickgate_snapshot_generation, of: value, op: "==", value: 77}]
`)
	var b strings.Builder
	if _, err := result.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FAIL gone", "max_error_percent=0", "did not recover", "value is 1 (want == 77)", "log of the gateway", "connect_failed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	if result.Passed {
		t.Error("passed")
	}
}

// A gateway that runs already needs no binary; here it is a proxy.
func TestRunElsewhere(t *testing.T) {
	s := parsed(t, `
name: elsewhere
backends: {a: {}}
proxies: {a: {backend: a}}
gateway: {url: "http://$${PROXY_A}"}
load: {rate: 50, timeout: 5s, consecutive: 3, background: {rate: 20, conns: 4}}
steps:
  - name: corrupt
    after: 100ms
    faults: {a: {to_client: {corrupt: {per_million: 100000, part: body}}}}
    for: 4s
    settle: 2s
    expect: {min_error_percent: 1, kinds: [corrupt], recover_within: 10s}
`)
	result, err := Run(t.Context(), s, RunOptions{Scale: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	if !result.Passed || result.Background.OK == 0 || result.Scale != 0.5 || result.Steps[0].Seconds < 3 {
		t.Error(shown(result))
	}

	f := func(change func(*Scenario), o RunOptions, want error) {
		t.Helper()
		c := *s
		change(&c)
		if _, err := Run(t.Context(), &c, o); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	f(func(*Scenario) {}, RunOptions{Scale: -1}, ErrScenario)
	f(func(s *Scenario) { s.Gateway.URL = "ftp://a" }, RunOptions{}, ErrScenario)
	f(func(s *Scenario) { s.Gateway = GatewaySpec{Config: "x"} }, RunOptions{Tickgate: "/nonexistent"}, ErrGateway)
	f(func(s *Scenario) { s.Gateway = GatewaySpec{Config: "listeners: []", ReadyWithin: time.Minute} }, RunOptions{Tickgate: testkit.Binary(t)}, ErrGateway)
	f(func(s *Scenario) { s.DNS = &DNSSpec{Listen: "127.0.0.1:0", Names: map[string]dnsflip.Answer{"": {}}} }, RunOptions{}, ErrScenario)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, s, RunOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the end of the context", err)
	}
}

func TestBackendClock(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	b, err := startBackend("a", &BackendSpec{Kind: BackendHTTP, TLS: true, Size: 100}, ca)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.pem()) {
		t.Fatal("the authority is no PEM")
	}
	trust := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	ask := func() string {
		t.Helper()
		return testkit.DialTLS(t, b.addr, trust).Do("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").Get("Date")
	}
	skew := func() time.Duration {
		t.Helper()
		date, err := time.Parse(time.RFC1123, ask())
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(date).Round(time.Hour)
	}
	if got := skew(); got != 0 {
		t.Errorf("Date is off by %v", got)
	}
	for _, offset := range []time.Duration{48 * time.Hour, -48 * time.Hour} {
		b.setClock(offset)
		conn := tls.Client(testkit.Dial(t, b.addr).Conn, trust)
		var invalid x509.CertificateInvalidError
		if err := conn.HandshakeContext(t.Context()); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
			t.Errorf("%v: %v, want a certificate outside of its time", offset, err)
		}
	}
	b.setClock(10 * time.Minute) // not enough for the certificate, enough for Date
	date, err := time.Parse(time.RFC1123, ask())
	if ahead := time.Until(date); err != nil || ahead < 9*time.Minute {
		t.Errorf("Date is %v ahead, %v", ahead, err)
	}
}

func TestBackendBody(t *testing.T) {
	b, err := startBackend("a", &BackendSpec{Kind: BackendHTTP, Size: 33}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	resp := testkit.Exchange(t, b.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if len(resp.Body) != 33 || resp.Get("Content-Digest") != probe.Digest(resp.Body) || resp.Get("X-Backend") != "a" {
		t.Errorf("%q, %v", resp.Body, resp.Fields)
	}
}

func TestFindBinary(t *testing.T) {
	t.Setenv(BinEnv, "/from/env")
	for told, want := range map[string]string{"/told": "/told", "": "/from/env"} {
		if got, err := findBinary(told); got != want || err != nil {
			t.Errorf("%q: %q, %v", told, got, err)
		}
	}
	t.Setenv(BinEnv, "")
	t.Setenv("PATH", t.TempDir())
	if got, err := findBinary(""); !errors.Is(err, ErrGateway) {
		t.Errorf("%q, %v", got, err)
	}
	file := filepath.Join(os.Getenv("PATH"), "tickgate")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // to be run
		t.Fatal(err)
	}
	if got, err := findBinary(""); got != file || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExpandAndTail(t *testing.T) {
	if got := expand("a ${B} ${C} $B", map[string]string{"B": "x"}); got != "a x ${C} $B" {
		t.Error(got)
	}
	if got := placeholder("PROXY", "a-b.c"); got != "PROXY_A_B_C" {
		t.Error(got)
	}
	var log tail
	for range 5 {
		_, _ = log.Write([]byte(strings.Repeat("x", keptLog)))
	}
	_, _ = log.Write([]byte("end"))
	if got := log.String(); len(got) != keptLog || !strings.HasSuffix(got, "end") {
		t.Errorf("%d bytes", len(got))
	}
}
