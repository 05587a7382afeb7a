package fault

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/latency"
)

// at is a time of a run, in milliseconds.
func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func good(due, end int) probe.Sample { return probe.Sample{Due: at(due), End: at(end), Status: 200} }

func bad(due, end int) probe.Sample {
	return probe.Sample{Due: at(due), End: at(end), Kind: probe.Reset, Err: errors.New("reset")}
}

func TestRecorder(t *testing.T) {
	r := recorder{consecutive: 3}
	observe := func(samples ...probe.Sample) {
		for _, s := range samples {
			r.observe(requests, s)
		}
	}
	// 1: before the first step, and a calm one.
	observe(good(-10, -5))
	calm := r.begin(at(0))
	observe(good(0, 5))
	// 2: a fault. What was under way when it came counts for neither step.
	struck := r.begin(at(100))
	r.struck()
	observe(bad(90, 120), bad(110, 130), good(120, 140), good(121, 141), good(122, 142), bad(150, 160))
	// 3: its end. Three in a row are a recovery; what ended before does not count.
	r.healed(struck, at(200))
	observe(good(180, 190), good(190, 210), bad(170, 220), good(210, 230), good(220, 240), good(230, 250), bad(240, 260))
	// 4: another fault, from which nothing recovers before the next.
	second := r.begin(at(300))
	r.struck()
	r.healed(second, at(320))
	observe(good(330, 340), good(331, 341))
	r.struck()
	observe(good(332, 342))

	if s := calm.stats[requests]; s.Count != 1 || s.OK != 1 || s.UnderWay != 1 || s.FirstError != nil {
		t.Errorf("calm: %+v", s)
	}
	s := struck.stats[requests]
	if s.Count != 12 || s.OK != 8 || s.Errors["reset"] != 4 || s.Statuses[200] != 8 || s.Example != "reset" {
		t.Errorf("struck: %+v", s)
	}
	if *s.FirstError != 0.03 || *s.LastError != 0.16 || s.Recovered == nil || *s.Recovered != 0.03 {
		t.Errorf("first error %v, last %v, recovered %v", *s.FirstError, *s.LastError, s.Recovered)
	}
	if s := second.stats[requests]; s.Recovered != nil || s.Count != 3 {
		t.Errorf("second: %+v", s)
	}
	if total, bad := r.counts(); total[requests] != 18 || bad[requests] != 5 || total[tunnels] != 0 {
		t.Errorf("%v of %v", bad, total)
	}
}

func TestJudge(t *testing.T) {
	after := 2.5
	seen := func() *Stats {
		s := &Stats{
			Count: 10, OK: 8, Statuses: map[int]int64{200: 8, 503: 1}, Errors: map[string]int64{"reset": 1, "wrong_status": 1}, Recovered: &after, Example: "e",
		}
		for range 8 {
			s.times.Add(10 * time.Millisecond)
		}
		return s
	}
	f := func(want Expect, unmet string) {
		t.Helper()
		var s StepResult
		s.judge("requests", seen(), &want)
		got := strings.Join(s.Unmet, "\n")
		if unmet == "" && got != "" || !strings.Contains(got, unmet) {
			t.Errorf("%+v: %q, want %q", want, got, unmet)
		}
	}
	f(Expect{MaxErrorPercent: 20, MinErrorPercent: 20, MinOK: 8, MaxP99: time.Second, MinP50: time.Millisecond, RecoverWithin: 3 * time.Second}, "")
	f(Expect{MaxErrorPercent: 100, Statuses: []int{200, 503}, Kinds: []string{"reset", "wrong_status"}}, "")
	f(Expect{MaxErrorPercent: 19}, "20.00 % errors (want at most max_error_percent=19)")
	f(Expect{MaxErrorPercent: 100, MinErrorPercent: 21}, "min_error_percent=21")
	f(Expect{MaxErrorPercent: 100, MinOK: 9}, "8 ended well (want at least min_ok=9)")
	f(Expect{MaxErrorPercent: 100, Statuses: []int{200}}, "1 with status 503")
	f(Expect{MaxErrorPercent: 100, Kinds: []string{"reset"}}, "1 errors of kind wrong_status")
	f(Expect{MaxErrorPercent: 100, MaxP99: 5 * time.Millisecond}, "max_p99=5ms")
	f(Expect{MaxErrorPercent: 100, MinP50: time.Second}, "the fault was not felt")
	f(Expect{MaxErrorPercent: 100, RecoverWithin: 2 * time.Second}, "recovered after 2.50 s")

	var none StepResult
	none.judge("requests", &Stats{Latency: latency.Summary{}}, &Expect{MaxErrorPercent: 100, RecoverWithin: time.Second, MaxP99: time.Second})
	if got := strings.Join(none.Unmet, "\n"); !strings.Contains(got, "did not recover") || !strings.Contains(got, "p99 is 0s of 0") {
		t.Errorf("nothing was sent: %q", got)
	}
}
