package report

import (
	"bytes"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/loadtest/latency"
)

var update = flag.Bool("update", false, "rewrite the sample and the .want files of testdata")

const sampleFile = "testdata/sample.json"

// sample makes a report like those of a comparison, always the same one. Its figures are made
// up, near what is seen in practice.
func sample() *Report {
	m := &maker{rand.New(rand.NewPCG(1, 2))}
	return &Report{
		Title:   "Four gateways compared (a made-up sample)",
		Made:    time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC),
		Command: "bin/tickload compare -rounds 5 -duration 10s -html compare.html",
		Machine: Machine{CPU: "Intel Xeon (virtual)", Processors: 2, MemoryMiB: 24106, Kernel: "Linux 6.18", Go: "go1.26.8"},
		Settings: []Setting{
			{"connections", "64 keep-alive"},
			{"workers", "2 for each peer"},
			{"response", "1 KiB"},
			{"rounds", "5, peers in turn"},
			{"TLS", "1.3, ECDSA P-256, X25519"},
		},
		Subject: "tickgate",
		Peers: []Peer{
			{"tickgate", "tickgate", "listeners:\n  - listen: 127.0.0.1:8080\nupstreams:\n  be: {servers: [{address: 127.0.0.1:9000}]}\nroutes:\n  - {path: /, upstream: be}\n"},
			{"nginx", "nginx 1.22.1", "worker_processes 2;\nhttp {\n\tupstream be { server 127.0.0.1:9000; keepalive 64; }\n\tserver { listen 127.0.0.1:8081; location / { proxy_pass http://be; } }\n}\n"},
			{"haproxy", "HAProxy 2.6.12", "global\n\tnbthread 2\ndefaults\n\tmode http\nlisten gate\n\tbind 127.0.0.1:8082\n\tserver be 127.0.0.1:9000\n"},
			{"nethttp", "net/http ReverseProxy", "tickload baseline -listen 127.0.0.1:8083 -backend 127.0.0.1:9000"},
		},
		Sections: []Section{m.proxied(), m.tls(), m.idle(), m.relayed()},
		Notes:    []string{"Load, backend and gateway share the two processors, so requests/s is no capacity. Compare CPU per request first."},
	}
}

// maker makes up figures.
type maker struct{ r *rand.Rand }

// tidy rounds to four digits, so that the file is short and the same on every machine.
func tidy(v float64) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	return v
}

// rounds makes five figures for each peer, in the order of sample, around a median each; a
// share of what moves them is common to a round. NaN is a peer that was not measured.
func (m *maker) rounds(noise float64, medians ...float64) map[string][]float64 {
	figures := map[string][]float64{}
	for range 5 {
		common := (m.r.Float64() - 0.5) * noise
		for i, peer := range []string{"tickgate", "nginx", "haproxy", "nethttp"} {
			if own := (m.r.Float64() - 0.5) * noise; !math.IsNaN(medians[i]) {
				figures[peer] = append(figures[peer], tidy(medians[i]*(1+common+own)))
			}
		}
	}
	return figures
}

func (m *maker) proxied() Section {
	return Section{
		ID: "proxied", Title: "Proxied requests", About: "GET of 1 KiB over 64 keep-alive connections, as fast as they go, HTTP/1.1 on both sides.",
		Rows: []Row{
			{Name: "CPU per request", Unit: "µs", Judged: true, Key: true, Rounds: m.rounds(0.1, 14.1, 13.9, 15.9, 50)},
			{Name: "requests a second", Higher: true, Judged: true, Key: true, Rounds: m.rounds(0.08, 66100, 71800, 64400, 26800)},
			{Name: "p50", Unit: "ms", Judged: true, Rounds: m.rounds(0.06, 0.83, 0.81, 0.9, 2.1)},
			{Name: "p99", Unit: "ms", Judged: true, Rounds: m.rounds(0.15, 3.91, 1.74, 2.05, 6.5)},
			{Name: "p99.9", Unit: "ms", Judged: true, Rounds: m.rounds(0.3, 6.1, 4.2, 4.4, 12.7)},
			{Name: "p99.99", Unit: "ms", Judged: true, Rounds: m.rounds(0.7, 9.8, 8.1, 8.6, 24.5)},
			{Name: "errors", Judged: true, Rounds: m.rounds(0, 0, 0, 0, 0)},
			{Name: "memory under load, PSS", Unit: "MiB", Judged: false, Rounds: m.rounds(0.05, 17.2, 8.1, 12.2, 16)},
		},
		Plots: []Plot{m.latencies([4]float64{0.83, 3.91, 6.1, 9.8}, [4]float64{0.81, 1.74, 4.2, 8.1}, [4]float64{0.9, 2.05, 4.4, 8.6}, [4]float64{2.1, 6.5, 12.7, 24.5}), m.throughput(66100, 71800, 64400, 26800)},
	}
}

func (m *maker) tls() Section {
	return Section{
		ID: "tls", Title: "The same with TLS 1.3 clients", About: "As above, with TLS between client and gateway; handshakes are not counted.",
		Rows: []Row{
			{Name: "CPU per request", Unit: "µs", Judged: true, Key: true, Rounds: m.rounds(0.04, 14.9, 16.4, 18.5, 49.6)},
			{Name: "requests a second", Higher: true, Judged: true, Rounds: m.rounds(0.06, 60300, 60400, 56300, 25700)},
			{Name: "p99", Unit: "ms", Judged: true, Rounds: m.rounds(0.15, 3.74, 2.47, 2.24, 6.41)},
			{Name: "errors", Judged: true, Rounds: map[string][]float64{"tickgate": {0, 0, 0, 0, 0}, "nginx": {0, 0, 0, 0, 0}, "haproxy": {0, 0, 0, 0, 0}, "nethttp": {0, 2, 0, 0, 1}}},
		},
		Plots: []Plot{m.latencies([4]float64{0.91, 3.74, 5.8, 8.9}, [4]float64{0.93, 2.47, 4.9, 8.8}, [4]float64{1, 2.24, 4.6, 9.9}, [4]float64{2.2, 6.41, 13.1, 26})},
	}
}

func (m *maker) idle() Section {
	memory := Plot{Title: "Memory over idle TLS connections", X: Axis{"connections", Linear}, Y: Axis{"PSS, MiB", Linear}}
	perConn := []float64{5060, 15559, 16254, 38131}
	for i, p := range []string{"tickgate", "nginx", "haproxy", "nethttp"} {
		line := Line{Peer: p}
		for _, n := range []float64{100, 500, 1000, 2000, 3000, 4000, 5000} {
			line.X = append(line.X, n)
			line.Y = append(line.Y, tidy(9+float64(i)*2+n*perConn[i]/(1<<20)))
		}
		memory.Series = append(memory.Series, line)
	}
	missing := math.NaN()
	return Section{
		ID: "idle", Title: "Idle connections", About: "Userland memory (PSS) of each of 5,000 idle connections, after one request each.",
		Rows: []Row{
			{Name: "keep-alive", Unit: "bytes", Judged: true, Rounds: m.rounds(0.05, 281, 537, 1160, 20769)},
			{Name: "keep-alive, TLS 1.3", Unit: "bytes", Judged: true, Key: true, Rounds: m.rounds(0.03, 5060, 15559, 16254, 38131)},
			{Name: "tunnel", Unit: "bytes", Judged: true, Rounds: m.rounds(0.03, 387, 18123, 5810, 44696)},
			{Name: "tunnel, TLS client", Unit: "bytes", Judged: true, Key: true, Rounds: m.rounds(0.03, 6041, 44007, missing, 86860)},
		},
		Plots: []Plot{memory},
	}
}

func (m *maker) relayed() Section {
	return Section{
		ID: "relayed", Title: "Relayed messages", About: "10,000 messages of 200 bytes a second over 1,000 WebSocket tunnels, both directions together.",
		Rows: []Row{
			{Name: "CPU per message", Unit: "µs", Judged: true, Key: true, Rounds: m.rounds(0.06, 29.4, 29.2, 39.5, 71.3)},
			{Name: "echo p50", Unit: "ms", Judged: true, Rounds: m.rounds(0.05, 0.44, 0.46, 0.45, 0.62)},
			{Name: "echo p99", Unit: "ms", Judged: true, Rounds: m.rounds(0.3, 2.31, 4.88, 3.92, 7.7)},
			{Name: "messages lost", Judged: true, Rounds: m.rounds(0, 0, 0, 0, 0)},
		},
	}
}

// latencies makes a curve for each peer of its p50, p99, p99.9 and p99.99 in milliseconds.
func (m *maker) latencies(peers ...[4]float64) Plot {
	p := Plot{Title: "Latency by percentile", X: Axis{"share of requests", Quantile}, Y: Axis{"milliseconds, logarithmic", Log}}
	for i, peer := range []string{"tickgate", "nginx", "haproxy", "nethttp"} {
		var curve []latency.Point
		last := 0.0
		for rest := 1.0; rest > 4e-6; rest /= 2 {
			for step := range 10 {
				q := 1 - rest + rest/2*float64(step)/10
				last = max(last, 1000*through(peers[i], -math.Log10(1-q))*(1+0.06*(m.r.Float64()-0.5)))
				curve = append(curve, latency.Point{Quantile: q, Micros: tidy(last)})
			}
		}
		p.Series = append(p.Series, LatencyLine(peer, "", append(curve, latency.Point{Quantile: 1, Micros: last})))
	}
	return p
}

// through lays a curve through the latencies at 0.3, 2, 3 and 4 nines.
func through(at [4]float64, nines float64) float64 {
	known := [6]float64{0.7 * at[0], at[0], at[1], at[2], at[3], 1.3 * at[3]}
	places := [6]float64{0, 0.301, 2, 3, 4, 5.5}
	i := 1
	for i < 5 && nines > places[i] {
		i++
	}
	part := (nines - places[i-1]) / (places[i] - places[i-1])
	return known[i-1] * math.Pow(known[i]/known[i-1], part)
}

// throughput makes a line of ten seconds for each peer.
func (m *maker) throughput(rates ...float64) Plot {
	p := Plot{Title: "Throughput over time, round 1", X: Axis{"seconds", Linear}, Y: Axis{"requests a second", Linear}}
	for i, peer := range []string{"tickgate", "nginx", "haproxy", "nethttp"} {
		line := Line{Peer: peer}
		for second := range 30 {
			line.X = append(line.X, float64(second+1))
			line.Y = append(line.Y, tidy(rates[i]*(1+0.08*(m.r.Float64()-0.5))))
		}
		p.Series = append(p.Series, line)
	}
	return p
}

// readSample reads the sample from its file.
func readSample(t *testing.T) *Report {
	t.Helper()
	f, err := os.Open(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// golden compares an output with a file of testdata, or rewrites that with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s:%d: %q, want %q (go test -update rewrites it)", name, i+1, gotLines[i], wantLines[i])
		}
	}
	t.Fatalf("%s: %d lines, want %d", name, len(gotLines), len(wantLines))
}

func TestSample(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, sampleFile, b.String())
}

func TestGolden(t *testing.T) {
	r := readSample(t)
	f := func(name string, write func(*bytes.Buffer) error) {
		t.Helper()
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name, b.String())
	}
	f("sample.md.want", func(b *bytes.Buffer) error { return r.WriteMarkdown(b) })
	f("sample.wide.want", func(b *bytes.Buffer) error { return r.WriteText(b, false, 0) })
	f("sample.narrow.want", func(b *bytes.Buffer) error { return r.WriteText(b, false, 80) })
	f("sample.colour.want", func(b *bytes.Buffer) error { return r.WriteText(b, true, 80) })
}
