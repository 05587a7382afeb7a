package meter

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// Histogram counts durations between bounds of its owner's choice. It is safe for concurrent
// use, and made for what is rare: requests have shards of their own.
type Histogram struct {
	bounds []time.Duration // ascending; static after construction
	counts []atomic.Uint64 // one more than bounds: the last is above all of them
	sum    atomic.Uint64   // nanoseconds
}

// NewHistogram returns an empty histogram. The bounds ascend; a duration that is equal to
// one counts below it, as `le` says.
func NewHistogram(bounds ...time.Duration) *Histogram {
	if !slices.IsSorted(bounds) {
		panic("BUG: meter: the bounds of a histogram do not ascend")
	}
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Add counts one duration; a negative one is taken for 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	i, _ := slices.BinarySearch(h.bounds, d)
	h.counts[i].Add(1)
	h.sum.Add(uint64(d))
}

// Buckets returns what was counted so far. Durations added meanwhile may be in part of it.
func (h *Histogram) Buckets() Buckets {
	b := Buckets{Bounds: h.bounds, Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		b.Counts[i] = h.counts[i].Load()
	}
	return b
}

// Buckets is what a histogram holds, for those who count by themselves.
type Buckets struct {
	Bounds []time.Duration // ascending
	Counts []uint64        // one for each bound, not cumulative, and one for what is above all of them
	Sum    time.Duration
}

// WriteHistogram writes the lines of a histogram in the text format. The labels are as Label
// makes them, with commas between; "" is none. A Buckets without counts is written as empty.
func WriteHistogram(w io.Writer, name, labels string, b Buckets) {
	before, alone := "", ""
	if labels != "" {
		before, alone = labels+",", "{"+labels+"}"
	}
	count := uint64(0)
	for i, bound := range b.Bounds {
		if i < len(b.Counts) {
			count += b.Counts[i]
		}
		fmt.Fprintf(w, "%s_bucket{%sle=%q} %d\n", name, before, secondsText(bound), count)
	}
	if i := len(b.Bounds); i < len(b.Counts) {
		count += b.Counts[i]
	}
	fmt.Fprintf(w, "%s_bucket{%sle=\"+Inf\"} %d\n", name, before, count)
	fmt.Fprintf(w, "%s_sum%s %s\n", name, alone, secondsText(b.Sum))
	fmt.Fprintf(w, "%s_count%s %d\n", name, alone, count)
}

// secondsText writes a duration in seconds with the digits it needs.
func secondsText(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'g', -1, 64) }
