// Package latency records durations in a histogram of fixed size: log-linear, as
// HdrHistogram's, with an error below 0.8 % at any magnitude, so that a tail of
// seconds and a median of microseconds stand in one record.
package latency

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	subBits = 7 // 128 buckets for each power of two
	subs    = 1 << subBits
	buckets = 2*subs + (63-subBits-1)*subs
)

// Histogram counts durations in nanoseconds. The zero value is empty and ready.
// All methods may be called from any goroutine; a reader that runs beside writers
// sees some of what they are adding.
type Histogram struct {
	counts [buckets]atomic.Uint64
	count  atomic.Uint64
	sum    atomic.Int64
	max    atomic.Int64
}

// bucket returns the index of a value: exact below 256 ns, then 128 buckets for
// each doubling.
func bucket(v int64) int {
	shift := bits.Len64(uint64(v)) - subBits - 1
	if shift <= 0 {
		return int(v)
	}
	return 2*subs + (shift-1)*subs + int(v>>shift) - subs
}

// highest returns the largest value of a bucket.
func highest(i int) int64 {
	if i < 2*subs {
		return int64(i)
	}
	shift := (i-2*subs)/subs + 1
	low := int64((i-2*subs)%subs+subs) << shift
	return low + 1<<shift - 1
}

// Add counts one duration; a negative one counts as zero.
func (h *Histogram) Add(d time.Duration) {
	v := max(int64(d), 0)
	h.counts[bucket(v)].Add(1)
	h.count.Add(1)
	h.sum.Add(v)
	for {
		old := h.max.Load()
		if v <= old || h.max.CompareAndSwap(old, v) {
			return
		}
	}
}

// Count is the number of durations added.
func (h *Histogram) Count() uint64 { return h.count.Load() }

// Quantile returns the duration that the share q (0 to 1) of all does not exceed;
// 0 if nothing was added.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.count.Load()
	if total == 0 {
		return 0
	}
	rank := max(uint64(q*float64(total)+0.5), 1)
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return time.Duration(min(highest(i), h.max.Load()))
		}
	}
	return time.Duration(h.max.Load())
}

// Summary is what a report says of a histogram, in microseconds.
type Summary struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	P9999 float64 `json:"p9999_us"`
	Max   float64 `json:"max_us"`
}

// Summary returns the usual quantiles.
func (h *Histogram) Summary() Summary {
	us := func(q float64) float64 { return float64(h.Quantile(q)) / 1e3 }
	s := Summary{
		Count: h.Count(), P50: us(0.5), P90: us(0.9), P99: us(0.99), P999: us(0.999), P9999: us(0.9999),
		Max: float64(h.max.Load()) / 1e3,
	}
	if s.Count > 0 {
		s.Mean = float64(h.sum.Load()) / float64(s.Count) / 1e3
	}
	return s
}

// String writes the quantiles in milliseconds, for people.
func (s Summary) String() string {
	return fmt.Sprintf("p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  p99.99 %.2f  max %.2f ms (%d)",
		s.P50/1e3, s.P90/1e3, s.P99/1e3, s.P999/1e3, s.P9999/1e3, s.Max/1e3, s.Count)
}
