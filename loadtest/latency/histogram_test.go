package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsCoverEveryValue(t *testing.T) {
	f := func(v int64) {
		t.Helper()
		i := bucket(v)
		if i < 0 || i >= buckets {
			t.Fatalf("%d: bucket %d of %d", v, i, buckets)
		}
		if top := highest(i); top < v || float64(top-v) > float64(v)/subs {
			t.Errorf("%d: bucket %d ends at %d", v, i, top)
		}
		if i > 0 && highest(i-1) >= v {
			t.Errorf("%d: bucket %d begins above it", v, i)
		}
	}
	for _, v := range []int64{0, 1, 127, 128, 255, 256, 257, 511, 512, 1e6, 1e9, math.MaxInt64 - 1, math.MaxInt64} {
		f(v)
	}
	for range 10_000 {
		f(rand.Int64() >> rand.IntN(63))
	}
}

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
		if got := float64(h.Quantile(q)); math.Abs(got-want) > want*0.01+1 {
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
