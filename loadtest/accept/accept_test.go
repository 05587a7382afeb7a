package accept

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/tlsload"
)

// What must not depend on the speed of a machine passes with the real gateway.
func TestTickgate(t *testing.T) {
	// f wants every row to be passed, or to have lost nothing where only its time was missed.
	f := func(id string, wantRows int) {
		t.Helper()
		rows := testBench(t).only(t, id)
		if len(rows) != wantRows {
			t.Errorf("%s has %d rows, want %d", id, len(rows), wantRows)
		}
		timed := slices.Contains([]string{"burst", "tls", "handshake", "takeover", "mixed"}, id)
		for _, r := range rows {
			if r.Demand == "capacity of a node" {
				continue // all of it is speed
			}
			lost := r.Values["errors"] + r.Values["lost"]
			if r.Item != id || r.Values == nil || lost != 0 || r.Verdict != Passed && !timed {
				t.Errorf("%+v", r)
			}
		}
	}
	f("sustained", 2)
	f("burst", 1)
	f("partition", len(partitionKinds()))
	f("switch", 1)
	f("tls", 1)
	f("handshake", 1)
	f("takeover", 1)
	f("mixed", 1)
}

// The real gateway is asked what it has.
func TestUnsupported(t *testing.T) {
	b := testBench(t)
	p := programs{tickgate: testkit.Binary(t), dir: b.Dir}
	l := layout{listen: "127.0.0.1:1", admin: "127.0.0.1:2", servers: []string{"127.0.0.1:3"}}
	if err := p.supports(t.Context(), l.yaml(), "upstreams.be.unheard_of"); err != nil {
		t.Errorf("a valid configuration: %v", err)
	}
	l.upstream = "unheard_of: 1\n"
	if err := p.supports(t.Context(), l.yaml(), "upstreams.be.unheard_of"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("an unknown key: %v", err)
	}
	if err := p.supports(t.Context(), l.yaml(), "upstreams.be.other"); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("another unknown key: %v", err)
	}
	p.tickgate = "/nonexistent"
	if err := p.supports(t.Context(), l.yaml(), "upstreams.be.unheard_of"); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("no program: %v", err)
	}
	b.parts.supports = func(context.Context, string, string) error { return ErrUnsupported }
	if r := b.only(t, "adaptive")[0]; r.Verdict != Unsupported {
		t.Errorf("%+v", r)
	}
}

func TestRefusal(t *testing.T) {
	f := func(text string, unsupported bool) {
		t.Helper()
		if err := refusal([]byte(text), "a.b"); err == nil || errors.Is(err, ErrUnsupported) != unsupported {
			t.Errorf("%s: %v, want unsupported: %v", text, err, unsupported)
		}
	}
	f(`{"problems": [{"severity": "error", "path": "a.b"}, {"severity": "warning", "path": "c"}]}`, true)
	f(`{"problems": [{"severity": "error", "path": "a.b"}, {"severity": "error", "path": "c"}]}`, false)
	f(`{"problems": [{"severity": "warning", "path": "a.b"}]}`, false)
	f(`no JSON`, false)
}

// made is a load of 100 requests in a second that were all answered.
func made(change func(*loaded)) loaded {
	l := loaded{&httpload.Result{Due: 100, OK: 100, Seconds: 1, OKPerSecond: 100}, Split{Wall: time.Second, Processors: 2, Gateway: 0.2, Load: 0.1, Backends: 0.1}}
	l.Latency = latency.Summary{P95: 1000, P99: 2000}
	l.ByName = map[string]httpload.Kind{order: {Count: 20, OK: 20, Latency: l.Latency}}
	change(&l)
	return l
}

func TestJudges(t *testing.T) {
	idle := &bench{parts: parts{contention: contention}}
	judges := map[string]func(l loaded) Row{
		"sustained": func(l loaded) Row { return judgeSustained(l, "") },
		"capacity":  idle.judgeCapacity,
		"surge":     func(l loaded) (r Row) { idle.judgeSurge(&r, l, 100, burstBound); return r },
		"switch":    func(l loaded) (r Row) { judgeSwitch(&r, l, 1, 1, nil); return r },
		"secure":    func(l loaded) (r Row) { idle.judgeSecure(&r, l, 100); return r },
		"mixed":     func(l loaded) (r Row) { idle.judgeMixed(&r, l, 100); return r },
	}
	// f changes a good load and wants a verdict, for a reason.
	f := func(judge string, want Verdict, why string, change func(*loaded)) {
		t.Helper()
		if r := judges[judge](made(change)); r.Verdict != want || !strings.Contains(r.Why, why) || (r.Why == "") != (want == Passed) || r.Figure == "" {
			t.Errorf("%s: %+v, want %v because of %q", judge, r, want, why)
		}
	}
	good := func(*loaded) {}
	lost := func(l *loaded) { l.OK, l.Errors = 99, map[string]int64{"reset": 1} }
	unanswered := func(l *loaded) { l.OK = 99 }
	few := func(l *loaded) { l.Due, l.OK, l.OKPerSecond = 90, 90, 90 }
	slow := func(l *loaded) {
		l.Latency = latency.Summary{P95: 16_000, P99: 16_000}
		l.ByName = map[string]httpload.Kind{order: {OK: 1, Latency: l.Latency}}
	}
	f("sustained", Passed, "", good)
	f("sustained", Failed, "1 of 100 requests failed", lost)
	f("sustained", Failed, "99 of 100 requests were answered", unanswered)
	f("sustained", Failed, "0 of 0", func(l *loaded) { l.Due, l.OK = 0, 0 })
	f("sustained", Failed, "1 of 100", func(l *loaded) { lost(l); l.Others = 0.9 }) // no speed excuses a loss

	f("capacity", Inconclusive, "shared the machine", good)
	f("capacity", Failed, "less than the target", func(l *loaded) { l.Load, l.Backends = 0.001, 0 })
	f("capacity", Passed, "", func(l *loaded) { l.OK = 20_000 }) // 20 µs each
	f("capacity", Inconclusive, "does not tell", func(l *loaded) { l.Gateway = 0 })
	f("capacity", Failed, "nothing was answered", func(l *loaded) { l.OK = 0 })

	f("surge", Passed, "", good)
	f("surge", Passed, "", func(l *loaded) { l.Due, l.Refused, l.Errors = 300, 200, map[string]int64{"wrong_status": 200} })
	f("surge", Failed, "otherwise than by a refusal", func(l *loaded) { l.Due, l.Refused, l.Errors = 300, 199, map[string]int64{"wrong_status": 200} })
	f("surge", Failed, "p95 is 16.0 ms", slow)
	f("surge", Failed, "90 requests/s were answered of 100/s", few)
	f("surge", Failed, "nothing was admitted", func(l *loaded) { l.OK = 0 })
	f("surge", Inconclusive, "others had 20 %", func(l *loaded) { slow(l); l.Others = 0.2 })
	f("surge", Inconclusive, "tool was the limit: busy", func(l *loaded) { slow(l); l.Bottleneck = "busy" })
	f("surge", Inconclusive, "machine was full", func(l *loaded) { slow(l); l.Load = 0.7 })
	f("surge", Inconclusive, "machine was full", func(l *loaded) { slow(l); l.Gateway, l.Load, l.Backends = 0.65, 0.15, 0.15 })
	f("surge", Failed, "p95", func(l *loaded) { slow(l); l.Gateway = 0.8 }) // full of the gateway
	f("surge", Passed, "", func(l *loaded) { l.Others = 0.9 })

	f("switch", Passed, "", good)
	f("switch", Failed, "1 of 100", func(l *loaded) { lost(l); l.Others = 0.9 })

	f("secure", Passed, "", good)
	f("secure", Failed, "the gateway took 66 %", func(l *loaded) { l.Gateway = 0.66 })
	f("secure", Inconclusive, "others had", func(l *loaded) { l.Gateway, l.Others = 0.66, 0.3 })
	f("secure", Failed, "of 100/s", few)
	f("secure", Failed, "1 of 100", lost)

	f("mixed", Passed, "", good)
	f("mixed", Failed, "p99 of orders is 16.00 ms", slow)
	f("mixed", Failed, "no order was answered", func(l *loaded) { l.ByName = nil })
	f("mixed", Failed, "1 of 100", lost)
	f("mixed", Failed, "of 100/s", few)
}

// Speed that is not judged excuses what is slow, and no loss.
func TestIgnoreSpeed(t *testing.T) {
	b := &bench{Options: Options{IgnoreSpeed: true}, parts: parts{contention: contention}}
	var slow, lost Row
	b.judgeSurge(&slow, made(func(l *loaded) { l.Latency.P95 = 16_000 }), 100, burstBound)
	b.judgeSurge(&lost, made(func(l *loaded) { l.Errors = map[string]int64{"reset": 1} }), 100, burstBound)
	if slow.Verdict != Inconclusive || !strings.Contains(slow.Why, "speed is not judged") || lost.Verdict != Failed {
		t.Errorf("%+v, %+v", slow, lost)
	}
}

func TestJudgeHandshake(t *testing.T) {
	b := &bench{parts: parts{contention: contention}}
	f := func(want Verdict, got tlsload.Result, s Split) {
		t.Helper()
		var r Row
		if b.judgeHandshake(&r, &got, s); r.Verdict != want {
			t.Errorf("%+v, want %v", r, want)
		}
	}
	f(Passed, tlsload.Result{Due: 1, OK: 1, Latency: latency.Summary{P99: 2900}}, Split{Others: 0.9})
	f(Failed, tlsload.Result{Due: 1, OK: 1, Latency: latency.Summary{P99: 3000}}, Split{})
	f(Inconclusive, tlsload.Result{Due: 1, OK: 1, Latency: latency.Summary{P99: 3000}}, Split{Others: 0.9})
	f(Failed, tlsload.Result{Due: 2, OK: 1, Errors: map[string]int64{"reset": 1}}, Split{Others: 0.9})
	f(Failed, tlsload.Result{}, Split{})
}

// samples makes a watch of OK responses at milliseconds; a negative one is a failure.
func samples(start time.Time, at ...int) *watch {
	w := &watch{}
	for _, n := range at {
		s := probe.Sample{End: start.Add(time.Duration(max(n, -n)) * time.Millisecond)}
		if n < 0 {
			s.Kind, s.Status, s.Err = probe.WrongStatus, 503, errors.New("refused")
		}
		w.observe(s)
	}
	return w
}

func TestJudgeTakeOver(t *testing.T) {
	b := &bench{parts: parts{contention: contention}}
	start := time.Now()
	f := func(want Verdict, why string, fresh, kept *watch, change func(*loaded)) {
		t.Helper()
		var r Row
		b.judgeTakeOver(&r, taken{told: start, fresh: fresh, kept: kept, load: made(change)})
		if r.Verdict != want || !strings.Contains(r.Why, why) {
			t.Errorf("%+v, want %v because of %q", r, want, why)
		}
	}
	good := func(*loaded) {}
	quick, slow := []int{-0, 10, 210, 300}, []int{10, 211, 300}
	f(Passed, "", samples(start, quick...), samples(start, quick...), good)
	f(Failed, "gap is 201ms", samples(start, slow...), samples(start, quick...), good)
	f(Failed, "gap is 201ms", samples(start, quick...), samples(start, slow...), good)
	f(Inconclusive, "others had", samples(start, slow...), samples(start, quick...), func(l *loaded) { l.Others = 0.5 })
	f(Failed, "status 503 1", samples(start, 10, -20, 30), samples(start, quick...), func(l *loaded) { l.Others = 0.5 })
	f(Failed, "99 of 100", samples(start, quick...), samples(start, quick...), func(l *loaded) { l.OK, l.Others = 99, 0.5 })
	f(Failed, "no OK responses behind", samples(start), samples(start, quick...), good)
	f(Passed, "", samples(start.Add(-time.Second), 1, 500, 990, 1020), samples(start, quick...), func(l *loaded) {}) // a gap before does not count
}

func TestRecovery(t *testing.T) {
	start := time.Now()
	many := func(from int) (list []int) {
		for i := range goodInARow {
			list = append(list, from+i)
		}
		return list
	}
	f := func(at []int, want time.Duration) {
		t.Helper()
		if got := samples(start, at...).recovery(start.Add(100 * time.Millisecond)); got != want {
			t.Errorf("%v: %v, want %v", at, got, want)
		}
	}
	f(nil, 0)
	f(many(0), 0)
	f(many(150), 50*time.Millisecond)
	f(many(100), 1) // at once
	f(many(150)[1:], 0)
	f(slices.Concat(many(150)[1:], []int{-300}, many(400)), 300*time.Millisecond)

	var r Row
	judgeRecovery(&r, samples(start, 1, -2).all(), 4*time.Second, 30*time.Second)
	if r.Verdict != Passed || !strings.Contains(r.Figure, "target missed") || !strings.Contains(r.Figure, "1 OK and 1 failed (status 503 1)") {
		t.Errorf("%+v", r)
	}
	if judgeRecovery(&r, saw{}, 31*time.Second, 30*time.Second); r.Verdict != Failed {
		t.Errorf("%+v", r)
	}
}

func TestOutcome(t *testing.T) {
	f := func(want Outcome, verdicts ...Verdict) {
		t.Helper()
		var rows []Row
		for _, v := range verdicts {
			rows = append(rows, Row{Verdict: v})
		}
		if got := outcome(rows); got != want {
			t.Errorf("%v: %v, want %v", verdicts, got, want)
		}
	}
	f(AllPassed, Passed, Passed)
	f(SomeMissing, Passed, Unsupported)
	f(SomeUncertain, Unsupported, Inconclusive, Passed)
	f(SomeFailed, Unsupported, Inconclusive, Failed, Passed)
	f(SomeFailed, Passed, NotRun)
}

func TestOptions(t *testing.T) {
	f := func(want string, o Options) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	f("scale 0", Options{FirstPort: 1})
	f("scale 2", Options{Scale: 2, FirstPort: 1})
	f("-1 requests", Options{Scale: 1, Rate: -1, FirstPort: 1})
	f("port 0", Options{Scale: 1})
	f(`no item "x"`, Options{Scale: 1, FirstPort: 1, Items: []string{"burst", "x"}})
	if _, err := Run(t.Context(), Options{Scale: 1, FirstPort: 1, Tickgate: "/nonexistent/tickgate"}); err == nil || errors.Is(err, ErrOptions) {
		t.Errorf("no program: %v", err)
	}
}

// An interrupt ends what was started; what was not over has not been run.
func TestInterrupt(t *testing.T) {
	b := testBench(t)
	b.Items, b.Shortest = []string{"mixed", "takeover"}, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	real := b.gateway
	stopped := 0
	b.gateway = func(ctx context.Context, s gatewaySpec) (process, error) {
		p, err := real(ctx, s)
		cancel()
		return inProcess{func() { stopped++; _ = p.Stop() }}, err
	}
	r := run(ctx, b, "tickgate under test")
	if len(r.Rows) != 2 || r.Rows[0].Verdict != NotRun || r.Rows[1].Verdict != NotRun || r.Outcome != SomeFailed || stopped != 1 {
		t.Errorf("%+v, %d stopped", r, stopped)
	}
}

// The rated load is a part of what the machine holds.
func TestCalibration(t *testing.T) {
	b := testBench(t)
	b.Rate = 0
	rate, err := b.rate(t.Context())
	if err != nil || rate <= 0 || rate != b.closedLoop*ratedShare {
		t.Errorf("%v of %v, %v", rate, b.closedLoop, err)
	}
}

// Descendants that have ended are part of what the gateways took.
func TestSplitCountsTheEnded(t *testing.T) {
	m := newMeter(nil)
	for m.split().GatewayCPU() < 50*time.Millisecond { // the test's own time-out is the bound
		if err := exec.Command("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").Run(); err != nil {
			t.Fatal(err)
		}
	}
	if s := m.split(); s.Load < 0 || s.Backends != 0 || s.Busy() > 1.5 || !strings.Contains(s.String(), "gateway") {
		t.Errorf("%+v", s)
	}
	if !pace.Sleep(t.Context(), 0) {
		t.Error("the test has ended")
	}
}

func TestForms(t *testing.T) {
	r := &Result{Gateway: "tickgate 1", Processors: 2, Scale: 0.01, Rated: 1000, Rows: []Row{
		{Item: "a", Demand: "b|c", Method: "d", Figure: "e", Bound: "f", Verdict: Failed, Why: "g\nh"},
		{Item: "i", Verdict: Unsupported, Method: "–"},
	}}
	var text, markdown strings.Builder
	if _, err := r.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteMarkdown(&markdown); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	f := func(form, want string) {
		t.Helper()
		if !strings.Contains(form, want) {
			t.Errorf("no %q in\n%s", want, form)
		}
	}
	f(text.String(), "acceptance of tickgate 1 on 2 processors, scale 0.01, rated load 1000 requests/s")
	f(text.String(), "FAILED             a          b|c")
	f(text.String(), "1 FAILED, 1 not supported yet")
	f(markdown.String(), `| a | b\|c | f | e | **failed**: g h | d |`)
	f(string(asJSON), `"verdict":"not supported yet"`)
}
