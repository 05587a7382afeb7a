package compare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tickgate/loadtest/baseline"
	"tickgate/loadtest/peer"
	"tickgate/loadtest/report"
	"tickgate/loadtest/wsload"
)

// actAs makes the test binary stand for tickload, or for one that is broken in the way that it says.
const actAs = "COMPARE_TEST_ACT_AS"

func TestMain(m *testing.M) {
	role := os.Getenv(actAs)
	if role == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := act(ctx, role, os.Args[1:])
	stop()
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}

// act is tickload with the commands that a comparison runs.
func act(ctx context.Context, role string, args []string) error {
	switch args[0] {
	case "version":
		fmt.Println("tickload test go0 a/b")
		return nil
	case "backend":
		size, _ := strconv.Atoi(args[4])
		if role == "wrong" {
			size++
		}
		return listening(args[2], func(ln net.Listener) error { return baseline.ServeBackend(ctx, ln, size, 0) })
	case "ws-backend":
		b, err := wsload.NewBackend(wsload.BackendOptions{})
		if err != nil {
			return err
		}
		return listening(args[2], func(ln net.Listener) error { return b.Serve(ctx, ln) })
	case "baseline":
		if role == "failing" {
			return errors.New("no way")
		}
		g, err := baseline.Load(args[2])
		if err != nil {
			return err
		}
		return g.Serve(ctx, func(net.Addr) error { return nil })
	}
	return fmt.Errorf("no command %q", args)
}

func listening(addr string, serve func(net.Listener) error) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return serve(ln)
}

// options are those of a short comparison of the baseline with itself.
func options(t *testing.T, role string) Options {
	t.Helper()
	t.Setenv(actAs, role)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	peers, err := ParsePeers("nethttp,nethttp")
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Peers: peers, Rounds: 1, MainRounds: 2, Duration: 200 * time.Millisecond, Warmup: 50 * time.Millisecond,
		Conns: 4, Rate: 200, Tunnels: 10, Messages: 200, IdleCounts: []int{5, 30}, Settle: 20 * time.Millisecond, Workers: 2,
		Port: 22700, Backend: OwnBackend, Programs: peer.Programs{Tickload: self}, Dir: t.TempDir(), Command: "test",
	}
}

// The whole path with real processes: the baseline against itself.
func TestComparison(t *testing.T) {
	o := options(t, "tickload")
	var (
		mu    sync.Mutex
		turns []string
	)
	o.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		turns = append(turns, p.Text)
		if p.Left < 0 {
			t.Errorf("%v left", p.Left)
		}
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{
		"http, round 1 of 2, nethttp", "http, round 1 of 2, nethttp-2", "http, round 2 of 2, nethttp", "http, round 2 of 2, nethttp-2", "https, round 1 of 1, nethttp",
	}; !slices.Equal(turns[:len(want)], want) || len(turns) != 4+2*(len(scenarios)-1) {
		t.Errorf("turns %q", turns)
	}
	for _, note := range r.Notes {
		if strings.Contains(note, "not measured") || strings.Contains(note, "failed") {
			t.Error(note)
		}
	}
	if r.Subject != "nethttp" || r.Peers[1].Name != "net/http ReverseProxy go0 (nethttp-2)" || !strings.Contains(r.Peers[0].Config, "upstreams:") || r.Command != "test" || r.Machine.Processors < 1 {
		t.Errorf("%+v", r)
	}
	var ids []string
	for _, s := range r.Sections {
		ids = append(ids, s.ID)
		checkSection(t, s)
	}
	if !slices.Equal(ids, ScenarioNames()) {
		t.Errorf("sections %q", ids)
	}
}

// checkSection wants a figure of both contenders in each row and round, and lines in each plot.
func checkSection(t *testing.T, s report.Section) {
	t.Helper()
	rounds := 1
	if s.ID == "http" {
		rounds = 2
	}
	if n := len(scenarioOf(s.ID).figures); len(s.Rows) < n {
		t.Errorf("%s: %d rows, want %d", s.ID, len(s.Rows), n)
	}
	for _, row := range s.Rows {
		if got := slices.Sorted(maps.Keys(row.Rounds)); !slices.Equal(got, []string{"nethttp", "nethttp-2"}) {
			t.Errorf("%s, %s: peers %q", s.ID, row.Name, got)
		}
		for id, values := range row.Rounds {
			if len(values) != rounds || slices.ContainsFunc(values, math.IsNaN) {
				t.Errorf("%s, %s, %s: rounds %v", s.ID, row.Name, id, values)
			}
		}
		for _, counted := range []string{failedRequests, failedTunnels, lostMessages, failedHandshakes, failedConnections} {
			if row.Name == counted && slices.ContainsFunc(row.Rounds["nethttp"], func(v float64) bool { return v != 0 }) {
				t.Errorf("%s: %s %v", s.ID, counted, row.Rounds)
			}
		}
	}
	plots := 1 // of latency; the windows are too short for throughput over time
	if s.ID == "idle" {
		plots = len(idleKinds)
	}
	if len(s.Plots) != plots {
		t.Errorf("%s: %d plots, want %d", s.ID, len(s.Plots), plots)
	}
	for _, p := range s.Plots {
		if len(p.Series) != 2 || len(p.Series[0].X) < 1 || len(p.Series[0].X) != len(p.Series[0].Y) {
			t.Errorf("%s, %s: %+v", s.ID, p.Title, p.Series)
		}
	}
}

// A gateway that does not start, and one that is missing, are notes; the rest goes on.
func TestPeersThatCannotRun(t *testing.T) {
	o := options(t, "failing")
	o.Scenarios = []string{"http", "open"}
	o.Peers = append([]Contender{{"tickgate", peer.Tickgate}}, o.Peers[:1]...)
	o.Programs.Tickgate = "/no/such/tickgate"
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Sections) != 0 || r.Subject != "nethttp" || len(r.Peers) != 1 {
		t.Errorf("%+v", r)
	}
	text := strings.Join(r.Notes, "\n")
	for _, want := range []string{
		"tickgate was left out: peer: program is missing", "http, round 2, nethttp: not measured: peer: process does not start: nethttp: exit status 1: no way", "open, round 1, nethttp: not",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("notes %q, want %q", text, want)
		}
	}
	o.Peers = o.Peers[:1]
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrNoPeer) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%v, want ErrNoPeer", err)
	}
}

// What answers something else than the backend should is not measured.
func TestWrongAnswer(t *testing.T) {
	o := options(t, "wrong")
	o.Scenarios = []string{"https"}
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Sections) != 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "wrong answer: status 200 with 1025 bytes (want 200 with 1024)") {
		t.Errorf("%v %+v", err, r)
	}
}

// A comparison that is broken off stops what it started, and reports what there is.
func TestBrokenOff(t *testing.T) {
	o := options(t, "tickload")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(p Progress) {
		if p.Text == "http, round 2 of 2, nethttp-2" {
			cancel()
		}
	}
	r, err := Run(ctx, o)
	if !errors.Is(err, context.Canceled) || len(r.Sections) != 1 || !strings.Contains(strings.Join(r.Notes, "\n"), "broken off") {
		t.Fatalf("%v %+v", err, r)
	}
	for _, row := range r.Sections[0].Rows {
		if row.Name == cpuPerRequest && (len(row.Rounds["nethttp"]) != 2 || len(row.Rounds["nethttp-2"]) != 1) {
			t.Errorf("rounds %v", row.Rounds)
		}
	}
	ports, err := peer.FreePorts(t.Context(), o.Port, 10)
	if err != nil || ports[9] != o.Port+9 {
		t.Errorf("ports %v are free, want all from %d on: %v", ports, o.Port, err)
	}
}

func TestOptionErrors(t *testing.T) {
	good := options(t, "tickload")
	f := func(change func(o *Options), want string) {
		t.Helper()
		o := good
		change(&o)
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrOptions with %q", err, want)
		}
	}
	f(func(o *Options) { o.Peers = nil }, "no peers")
	f(func(o *Options) { o.Rounds = -1 }, "below 1")
	f(func(o *Options) { o.Rate = -1 }, "below 1")
	f(func(o *Options) { o.Duration = -1 }, "not positive")
	f(func(o *Options) { o.Size = 1 }, "1 bytes")
	f(func(o *Options) { o.IdleCounts = []int{1} }, "rising")
	f(func(o *Options) { o.IdleCounts = []int{10, 10} }, "rising")
	f(func(o *Options) { o.IdleCounts = []int{1, 5000} }, "more than 20000 descriptors")
	f(func(o *Options) { o.Backend = "apache" }, `backend "apache"`)
	f(func(o *Options) { o.Scenarios = []string{"http", "ftp"} }, `"ftp" (want one of [http https open ws wss tls idle]`)
	f(func(o *Options) { o.Dir = "/no/such/folder" }, "no folder")
	if _, err := ParsePeers("nginx,apache"); !errors.Is(err, peer.ErrUnknown) {
		t.Errorf("%v, want peer.ErrUnknown", err)
	}
	if all, err := ParsePeers(""); err != nil || len(all) != 4 || all[0].ID != "tickgate" {
		t.Errorf("%v %v", all, err)
	}
}

// What is missing leaves a gap where it belongs, and a tool that was too slow has no say on pace.
func TestGapsAndBottlenecks(t *testing.T) {
	p := newPlayed(&plainHTTP)
	full := func(cpu float64) *sample {
		s := newSample()
		s.values[cpuPerRequest], s.values[requestsASecond] = cpu, 100
		return s
	}
	p.skip("a", 0)
	p.add("a", 1, full(10))
	p.skip("a", 2)
	p.add("b", 0, full(20))
	slow := full(21)
	slow.bottleneck = "too slow"
	p.add("b", 1, slow)
	o := Options{}
	s := p.section(&o, []string{"a", "b"})
	cpu, rate := s.Rows[0], s.Rows[1]
	if !cpu.Judged || rate.Judged || len(s.Rows) != 2 {
		t.Errorf("%+v", s.Rows)
	}
	if note := p.limitNote(); len(note) != 1 || !strings.Contains(note[0], "in 1 of 3 turns, so speed and latency are not judged. The first: b in round 2: too slow.") {
		t.Errorf("%q", note)
	}
	a := cpu.Rounds["a"]
	if len(a) != 3 || !math.IsNaN(a[0]) || a[1] != 10 || !math.IsNaN(a[2]) || !slices.Equal(cpu.Rounds["b"], []float64{20, 21}) {
		t.Errorf("%v", cpu.Rounds)
	}
}

// Both readings of CPU time see the same work of this process.
func TestCPUReadings(t *testing.T) {
	began, err := readCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if len(began.threads) == 0 {
		t.Fatal("no threads")
	}
	for ended := began; ; {
		burn()
		if ended, err = readCPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		stat, threads := ended.stat-began.stat, ended.threads.since(began.threads)
		if stat < 400*time.Millisecond {
			continue
		}
		s := newSample()
		s.cpu(cpuPerMessage, began, ended, 1000)
		if apart := float64(threads)/float64(stat) - 1; math.Abs(apart) > 0.1 || s.values[cpuPerMessage] < 400 {
			t.Errorf("%v and %v, %v", stat, threads, s.values)
		}
		return
	}
}

// burn takes some milliseconds of CPU time.
func burn() {
	x := uint64(1)
	for range 10_000_000 {
		x = x*6364136223846793005 + 1
	}
	sink = x
}

var sink uint64

func TestChecks(t *testing.T) {
	r := &report.Report{
		Peers: []report.Peer{{ID: "a"}, {ID: "b"}},
		Sections: []report.Section{
			{ID: "http", Rows: []report.Row{
				{Name: cpuPerRequest, Rounds: map[string][]float64{"a": {10, math.NaN(), 12}, "b": {20}}},
				{Name: cpuPerRequest + secondReading, Rounds: map[string][]float64{"a": {10, 12}, "b": {21}}},
			}},
			{ID: "idle"},
		},
	}
	got := Checks(r)
	if want := []CPUCheck{{"http", cpuPerRequest, "a", 11, 11}, {"http", cpuPerRequest, "b", 20, 21}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if note := cpuNote(r); len(note) != 1 || !strings.Contains(note[0], "at most 5.0 % apart (http, CPU per request, b: 20.00 and 21.00 µs)") {
		t.Errorf("%q", note)
	}
	if note := cpuNote(&report.Report{}); note != nil {
		t.Errorf("%q", note)
	}
}
