package pace

import (
	"errors"
	"math"
	"testing"
	"time"
)

// dues lists all due times of a plan.
func dues(p *Plan) (all []time.Duration) {
	a := p.Arrivals()
	for due, ok := a.Next(); ok; due, ok = a.Next() {
		all = append(all, due)
	}
	return all
}

func TestPlan(t *testing.T) {
	// f compares the number of events and some of them, in milliseconds.
	f := func(p Plan, wantCount int, want map[int]float64) {
		t.Helper()
		all := dues(&p)
		if len(all) != wantCount {
			t.Errorf("%+v: %d events, want %d", p, len(all), wantCount)
			return
		}
		for i, ms := range want {
			if got := float64(all[i]) / 1e6; math.Abs(got-ms) > 0.001 {
				t.Errorf("%+v: event %d is due at %v ms, want %v", p, i, got, ms)
			}
		}
	}
	const second = time.Second
	f(*Constant(10, second), 10, map[int]float64{0: 0, 1: 100, 9: 900})
	f(*Constant(3, 100*second), 300, map[int]float64{1: 1000. / 3, 299: 299000. / 3})
	// From 0: event k is due when t*t/2*slope is k.
	f(Plan{Phases: []Phase{{0, 100, 2 * second}}}, 100, map[int]float64{0: 0, 1: 200, 25: 1000, 81: 1800})
	// To 0: the same backwards.
	f(Plan{Phases: []Phase{{100, 0, 2 * second}}}, 100, map[int]float64{0: 0, 19: 200, 75: 1000, 99: 1800})
	// A pause between two rates.
	f(Plan{Phases: []Phase{{10, 10, second}, {0, 0, second}, {20, 20, second}}}, 30, map[int]float64{9: 900, 10: 2000, 11: 2050, 29: 2950})
	// What a phase does not use up of a step is the next one's.
	f(Plan{Phases: []Phase{{1, 1, 500 * time.Millisecond}, {10, 10, second}}}, 11, map[int]float64{0: 0, 1: 550, 10: 1450})
	f(Plan{Phases: []Phase{{1000, 3000, second}, {3000, 3000, second}}}, 5000, map[int]float64{2000: 1000, 4999: 1999.667})
}

// The events of an hour are where they belong: nothing adds up.
func TestPlanDoesNotDrift(t *testing.T) {
	a := Constant(999, time.Hour).Arrivals()
	var last time.Duration
	for range 3600 * 999 {
		last, _ = a.Next()
	}
	want := time.Hour - time.Second/999
	if d := last - want; d.Abs() > time.Microsecond {
		t.Errorf("the last of an hour is due at %v, want %v", last, want)
	}
	if _, ok := a.Next(); ok {
		t.Error("more than an hour's events")
	}
}

// Independent arrivals have the rate on average, the spread of a Poisson process, and come the same again.
func TestPoisson(t *testing.T) {
	p := Plan{Phases: []Phase{{1000, 1000, 50 * time.Second}, {2000, 0, 50 * time.Second}}, Poisson: true, Seed: 7}
	all := dues(&p)
	if n := float64(len(all)); math.Abs(n-100_000) > 5*math.Sqrt(100_000) {
		t.Errorf("%v events, want about 100,000", n)
	}
	var mean, square float64
	first := all[:40_000]
	for i := 1; i < len(first); i++ {
		gap := (first[i] - first[i-1]).Seconds() * 1000
		if gap < 0 {
			t.Fatalf("event %d is due before the one before", i)
		}
		mean += gap / float64(len(first))
		square += gap * gap / float64(len(first))
	}
	if math.Abs(mean-1) > 0.03 || math.Abs(square-2) > 0.15 {
		t.Errorf("gaps of %v ms, their squares %v; want 1 and 2", mean, square)
	}
	again := dues(&p)
	p.Seed++
	other := dues(&p)
	if len(again) != len(all) || again[99] != all[99] || other[99] == all[99] {
		t.Error("the seed does not decide")
	}
}

func TestCheck(t *testing.T) {
	f := func(wantOK bool, phases ...Phase) {
		t.Helper()
		err := (&Plan{Phases: phases}).Check()
		if (err == nil) != wantOK || err != nil && !errors.Is(err, ErrPlan) {
			t.Errorf("%v: %v", phases, err)
		}
	}
	f(true, Phase{0, 1, time.Second}, Phase{0, 0, time.Second})
	f(false)
	f(false, Phase{0, 0, time.Second})
	f(false, Phase{1, 1, 0})
	f(false, Phase{-1, 1, time.Second})
	f(false, Phase{math.NaN(), 1, time.Second})
	f(false, Phase{math.Inf(1), 1, time.Second})
	if got := (&Plan{Phases: []Phase{{1, 1, time.Second}, {2, 2, time.Minute}}}).Duration(); got != 61*time.Second {
		t.Errorf("%v, want 1m1s", got)
	}
}
