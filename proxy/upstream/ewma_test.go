package upstream

import (
	"math"
	"testing"
	"time"
)

func TestEWMA(t *testing.T) {
	type step struct {
		at, latency time.Duration
		failed      bool
	}
	const ms = time.Millisecond
	f := func(name string, at, want time.Duration, steps ...step) {
		t.Helper()
		var e ewma
		for _, s := range steps {
			e.observe(s.at, s.latency, !s.failed)
		}
		if got := e.value(at); math.Abs(got-want.Seconds()) > 0.01*want.Seconds() {
			t.Errorf("%s: %.6f s, want %.6f s", name, got, want.Seconds())
		}
	}
	f("nothing observed", time.Hour, 0)
	f("first observation counts in full", 0, 10*ms, step{0, 10 * ms, false})
	f("a slower one counts at once", 5*ms, 50*ms, step{0, 10 * ms, false}, step{5 * ms, 50 * ms, false})
	f("a faster one at the same time does not", 0, 50*ms, step{0, 50 * ms, false}, step{0, 10 * ms, false})
	f("a faster one counts as time passes", 10*time.Second, 24715*time.Microsecond, // 50/e + 10*(1-1/e)
		step{0, 50 * ms, false}, step{10 * time.Second, 10 * ms, false})
	f("decays without observations", 10*time.Second, 18394*time.Microsecond, step{0, 50 * ms, false})
	f("a failure counts as slow", 0, 100*ms, step{0, 1, true})
	f("a failure doubles", 0, 400*ms, step{0, 200 * ms, false}, step{0, 1, true})
	f("failures are bounded", 0, 10*time.Second, step{0, 8 * time.Second, false}, step{0, 1, true}, step{0, 1, true})
	f("many fast ones bring it down", 40*time.Second, 10183*time.Microsecond,
		step{0, 20 * ms, false}, step{20 * time.Second, 10 * ms, false}, step{40 * time.Second, 10 * ms, false}, step{40 * time.Second, 10 * ms, false})
	f("the clock's 32 bits may wrap", 1<<32*ms+5*ms, 10*ms, step{1<<32*ms - 5*ms, 10 * ms, false})
}

func TestLoad(t *testing.T) {
	f := func(want, avg float64, inflight int64, weight int) {
		t.Helper()
		if got := load(avg, inflight, weight); math.Abs(got-want) > 1e-9 {
			t.Errorf("load(%v, %d, %d) = %v, want %v", avg, inflight, weight, got, want)
		}
	}
	f(0.01, 0.01, 0, 1)
	f(0.01, 0.01, 0, 5)
	f(0.03, 0.01, 2, 1)
	f(0.02, 0.01, 2, 2)
	f(0, 0, 0, 1)
	f(2, 0, 2, 1)
	f(2, 1e-9, 2, 1) // decayed to nothing: as if unobserved
}
