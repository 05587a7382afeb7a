package report

import (
	"math"
	"testing"
)

func TestNumber(t *testing.T) {
	f := func(v float64, decimals int, want string) {
		t.Helper()
		if got := number(v, decimals); got != want {
			t.Errorf("%v with %d decimals: %q, want %q", v, decimals, got, want)
		}
	}
	f(0, 0, "0")
	f(999, 0, "999")
	f(1000, 0, "1,000")
	f(1234567.891, 2, "1,234,567.89")
	f(-1234.5, 1, "−1,234.5")
	f(-0.001, 1, "0.0")
	f(math.NaN(), 2, "–")
	f(math.Inf(1), 0, "+∞")
	f(math.MaxFloat64, 2, "1.798e+308")
}

func TestDecimals(t *testing.T) {
	f := func(want int, values ...float64) {
		t.Helper()
		if got := decimalsFor(values); got != want {
			t.Errorf("%v: %d, want %d", values, got, want)
		}
	}
	f(0)
	f(0, 0, 0)
	f(0, nan, inf)
	f(0, 1, 2, 20000)
	f(1, 12.34, 50.05)
	f(0, 281.4, 20769.5)
	f(3, 0.442, 0.5)
	f(2, 1.234, nan, 0)
	f(1, 0.001, 12345.5)
	f(0, 0.001, 1234567.5)
	f(6, 1.5e-9)
	f(0, 1e300, 1.5)
}

func TestFactor(t *testing.T) {
	f := func(v float64, want string) {
		t.Helper()
		if got := factor(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	f(0, "0.00")
	f(1, "1.00")
	f(0.998, "0.998")
	f(1.0001, "1.00")
	f(1.004, "1.004")
	f(0.71, "0.71")
	f(0.0954, "0.10")
	f(0.07, "0.070")
	f(0.0087, "0.0087")
	f(0.00001, "1e-05")
	f(12.34, "12.3")
	f(1234.5, "1,234")
	f(inf, "∞")
	f(nan, "–")
}

func TestTickLabel(t *testing.T) {
	f := func(v, step, largest float64, want string) {
		t.Helper()
		if got := tickLabel(v, step, largest); got != want {
			t.Errorf("%v by %v up to %v: %q, want %q", v, step, largest, got, want)
		}
	}
	f(0, 5, 20, "0")
	f(15, 5, 20, "15")
	f(0.30000000000000004, 0.1, 0.5, "0.3")
	f(2000, 1000, 5000, "2,000")
	f(0, 20000, 80000, "0")
	f(20000, 20000, 80000, "20k")
	f(2500, 2500, 10000, "2.5k")
	f(20e6, 10e6, 50e6, "20M")
	f(2e-9, 1e-9, 5e-9, "2e-09")
	f(-50, 50, 100, "−50")
}
