// Package latency records durations in an HDR histogram: three significant digits at any
// magnitude from a nanosecond to an hour, so that a tail of seconds and a median of
// microseconds stand in one record (http://hdrhistogram.org).
package latency

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// longest is the longest duration told apart; longer ones count as this long.
	longest = time.Hour
	digits  = 3
)

// Histogram counts durations. The zero value is empty and ready; it takes a quarter of a
// megabyte once something is added. All methods may be called from any goroutine, but one
// that adds very often is better off with a histogram of its own, added to another with Merge.
type Histogram struct {
	mu  sync.Mutex
	hdr *hdrhistogram.Histogram // guarded by mu; nil while empty
	sum time.Duration           // guarded by mu; exact, as the buckets are not
	max time.Duration           // guarded by mu; exact
}

// Add counts one duration; a negative one counts as zero.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.mu.Lock()
	h.ready()
	_ = h.hdr.RecordValue(int64(min(d, longest))) // fails above longest only
	h.sum += d
	h.max = max(h.max, d)
	h.mu.Unlock()
}

// ready makes the record; mu is held.
func (h *Histogram) ready() {
	if h.hdr == nil {
		h.hdr = hdrhistogram.New(1, int64(longest), digits)
	}
}

// Merge adds what from holds at this moment, which must not be h.
func (h *Histogram) Merge(from *Histogram) {
	from.mu.Lock()
	defer from.mu.Unlock()
	if from.hdr == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready()
	h.hdr.Merge(from.hdr)
	h.sum += from.sum
	h.max = max(h.max, from.max)
}

// Count is the number of durations added.
func (h *Histogram) Count() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.countLocked()
}

func (h *Histogram) countLocked() uint64 {
	if h.hdr == nil {
		return 0
	}
	return uint64(h.hdr.TotalCount())
}

// Quantile returns the duration that the share q (0 to 1) of all does not exceed;
// 0 if nothing was added.
func (h *Histogram) Quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.quantileLocked(q)
}

func (h *Histogram) quantileLocked(q float64) time.Duration {
	if h.hdr == nil {
		return 0
	}
	return min(time.Duration(h.hdr.ValueAtQuantile(q*100)), h.max)
}

// Summary is what a report says of a histogram, in microseconds.
type Summary struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P95   float64 `json:"p95_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	P9999 float64 `json:"p9999_us"`
	Max   float64 `json:"max_us"`
}

// Summary returns the usual quantiles.
func (h *Histogram) Summary() Summary {
	h.mu.Lock()
	defer h.mu.Unlock()
	us := func(q float64) float64 { return float64(h.quantileLocked(q)) / 1e3 }
	s := Summary{
		Count: h.countLocked(), P50: us(0.5), P90: us(0.9), P95: us(0.95), P99: us(0.99), P999: us(0.999), P9999: us(0.9999),
		Max: float64(h.max) / 1e3,
	}
	if s.Count > 0 {
		s.Mean = float64(h.sum) / float64(s.Count) / 1e3
	}
	return s
}

// Point is one point of a curve: the share Quantile (0 to 1) of all took at most Micros.
type Point struct {
	Quantile float64 `json:"q"`
	Micros   float64 `json:"us"`
}

// Curve returns the latency by quantile for a plot whose horizontal axis is logarithmic in
// 1-q: ten points for each halving of what is left, as long as that is one duration or more.
// It is empty if nothing was added.
func (h *Histogram) Curve() []Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	count := h.countLocked()
	if count == 0 {
		return nil
	}
	const steps = 10
	var points []Point
	for rest := 1.0; rest*float64(count) >= 1; rest /= 2 {
		for i := range steps {
			q := 1 - rest + rest/2*float64(i)/steps
			points = append(points, Point{q, float64(h.quantileLocked(q)) / 1e3})
		}
	}
	return append(points, Point{1, float64(h.max) / 1e3})
}

// Encoded returns the whole record in nanoseconds, as the base64 text of HdrHistogram's
// V2 compressed encoding, which the usual HdrHistogram tools read; "" if nothing was added.
func (h *Histogram) Encoded() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hdr == nil {
		return "", nil
	}
	b, err := h.hdr.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return "", fmt.Errorf("latency: encode histogram: %w", err)
	}
	return string(b), nil
}

// String writes the quantiles in milliseconds, for people.
func (s Summary) String() string {
	return fmt.Sprintf("p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  p99.99 %.2f  max %.2f ms (%d)",
		s.P50/1e3, s.P90/1e3, s.P99/1e3, s.P999/1e3, s.P9999/1e3, s.Max/1e3, s.Count)
}
