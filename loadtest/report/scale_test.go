package report

import (
	"math"
	"slices"
	"testing"
)

// labels returns the labels of an axis.
func labels(s scale) []string {
	var list []string
	for _, t := range s.ticks {
		if t.Label != "" {
			list = append(list, t.Label)
		}
	}
	return list
}

func TestScaleLabels(t *testing.T) {
	f := func(kind Scale, values []float64, fromZero bool, want ...string) {
		t.Helper()
		if got := labels(newScale(kind, values, fromZero)); !slices.Equal(got, want) {
			t.Errorf("%s of %v: %q, want %q", kind, values, got, want)
		}
	}
	f(Linear, []float64{1, 97}, true, "0", "20", "40", "60", "80", "100")
	f(Linear, []float64{1, 30}, false, "0", "10", "20", "30")
	f(Linear, []float64{60000, 71000}, true, "0", "20k", "40k", "60k", "80k")
	f(Linear, []float64{-3, 4}, true, "−4", "−2", "0", "2", "4")
	f(Log, []float64{0.6, 47}, true, "0.5", "1", "2", "5", "10", "20", "50")
	f(Log, []float64{0.5, 900000}, true, "1", "10", "100", "1,000", "10k", "100k", "1M")
	f(Log, []float64{3}, true, "2", "5")
	f(Log, []float64{10, 10}, true, "5", "10", "20")
	f(Log, []float64{0, nan, 5, 20}, true, "5", "10", "20")
	f(Quantile, []float64{0, 0.5, 0.99}, false, "0 %", "50 %", "90 %", "99 %")
	f(Quantile, []float64{0.99995}, false, "0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %")
	f(Quantile, []float64{0.999999999}, false, "0 %", "50 %", "90 %", "99 %", "99.99 %", "99.9999 %", "99.999999 %")
}

// Whatever is to be shown, an axis has ends apart, few ticks in order and every value within.
func TestScaleIsSound(t *testing.T) {
	for _, values := range [][]float64{
		nil,
		{nan, inf, -inf},
		{0},
		{0, 0, 0},
		{7},
		{7, 7},
		{-7},
		{-3, -2},
		{1e15, 1e15 + 0.25},
		{math.MaxFloat64, -math.MaxFloat64},
		{math.MaxFloat64, 1},
		{math.SmallestNonzeroFloat64},
		{math.SmallestNonzeroFloat64, 1e299},
		{1e-250, 2e-250},
		{-1e299, 1e299},
		{1, 2, nan},
		{0.5, 1, 1.5},
		{0.9, 0.99, 0.9999999999999999},
	} {
		for _, kind := range []Scale{Linear, Log, Quantile, "nonsense"} {
			for _, fromZero := range []bool{true, false} {
				checkScale(t, newScale(kind, values, fromZero), values)
			}
		}
	}
}

func checkScale(t *testing.T, s scale, values []float64) {
	t.Helper()
	if !finite(s.lo) || !finite(s.hi) || s.lo >= s.hi || len(s.ticks) < 1 || len(s.ticks) > 60 {
		t.Errorf("%v: from %v to %v with %d ticks", values, s.lo, s.hi, len(s.ticks))
	}
	last := -1.0
	for _, tick := range s.ticks {
		if !finite(tick.At) || tick.At < 0 || tick.At > 1 || tick.At <= last {
			t.Errorf("%v: tick %+v after %v", values, tick, last)
		}
		last = tick.At
	}
	for _, v := range values {
		if at, ok := s.at(v); ok && (!finite(at) || at < -1e-6 || at > 1+1e-6) {
			t.Errorf("%v: %v is at %v", values, v, at)
		}
	}
}

func TestScalePlaces(t *testing.T) {
	f := func(s scale, v, want float64, wantOK bool) {
		t.Helper()
		got, ok := s.at(v)
		if ok != wantOK || ok && !same(got, want) {
			t.Errorf("%v: %v, %t; want %v, %t", v, got, ok, want, wantOK)
		}
	}
	linear := newScale(Linear, []float64{0, 100}, true)
	f(linear, 0, 0, true)
	f(linear, 25, 0.25, true)
	f(linear, nan, 0, false)
	f(linear, inf, 0, false)
	log := newScale(Log, []float64{1, 100}, true)
	f(log, 10, 0.5, true)
	f(log, 0, 0, false)
	f(log, -1, 0, false)
	quantile := newScale(Quantile, []float64{0.9999}, false)
	f(quantile, 0.9, 0.25, true)
	f(quantile, 0.99, 0.5, true)
	f(quantile, 1, 0, false)
	f(quantile, -0.1, 0, false)
	f(quantile, 1.1, 0, false)
	zeros := newScale(Log, []float64{0, 0}, true) // linear then
	f(zeros, 0, 0, true)
}
