package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestQuantiles(t *testing.T) {
	var h Histogram
	values := make([]int64, 100_000)
	for i := range values {
		values[i] = int64(math.Exp(rand.Float64() * 20))
		h.Add(time.Duration(values[i]))
	}
	slices.Sort(values)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := float64(values[max(int(q*float64(len(values))+0.5), 1)-1])
		if got := float64(h.Quantile(q)); math.Abs(got-want) > want*0.002+1 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
}

func TestSummary(t *testing.T) {
	var h Histogram
	if got := h.Summary(); got != (Summary{}) {
		t.Errorf("empty: %+v", got)
	}
	h.Add(-time.Second)
	h.Add(10 * time.Millisecond)
	got := h.Summary()
	if got.Count != 2 || got.Max != 10_000 || got.P50 != 0 || got.P99 != 10_000 || got.Mean != 5000 {
		t.Errorf("%+v", got)
	}
	if want := "p50 0.00  p90 10.00  p99 10.00  p99.9 10.00  p99.99 10.00  max 10.00 ms (2)"; got.String() != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	h := new(Histogram)
	if n := testing.AllocsPerRun(100, func() { h.Add(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Two records together say what one of everything would.
func TestMerge(t *testing.T) {
	var a, b, all Histogram
	for i := range 1000 {
		h := &a
		if i%3 == 0 {
			h = &b
		}
		d := time.Duration(i*i) * time.Microsecond
		h.Add(d)
		all.Add(d)
	}
	a.Merge(&b)
	a.Merge(new(Histogram))
	if got, want := a.Summary(), all.Summary(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCurve(t *testing.T) {
	var h Histogram
	if h.Curve() != nil {
		t.Error("an empty record has a curve")
	}
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	curve := h.Curve()
	for i := 1; i < len(curve); i++ {
		if curve[i].Quantile <= curve[i-1].Quantile || curve[i].Micros < curve[i-1].Micros {
			t.Errorf("point %d is %+v after %+v", i, curve[i], curve[i-1])
		}
	}
	if n := len(curve); n != 101 || curve[n-1] != (Point{1, 1e6}) || curve[10].Quantile != 0.5 {
		t.Errorf("%d points, the last %+v, the median at %v", n, curve[n-1], curve[10].Quantile)
	}
}

// What is written can be read by the library that others use.
func TestEncoded(t *testing.T) {
	var h Histogram
	if text, err := h.Encoded(); text != "" || err != nil {
		t.Errorf("empty: %q, %v", text, err)
	}
	h.Add(3 * time.Millisecond)
	h.Add(2 * longest)
	text, err := h.Encoded()
	if err != nil {
		t.Fatal(err)
	}
	got, err := hdrhistogram.Decode([]byte(text))
	if err != nil || got.TotalCount() != 2 || !got.ValuesAreEquivalent(got.Min(), int64(3*time.Millisecond)) {
		t.Errorf("%v: %+v", err, got)
	}
}
