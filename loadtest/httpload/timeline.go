package httpload

import (
	"math/bits"
	"sync"
	"time"
)

// Second is what one second of a run showed, by when responses and errors came.
type Second struct {
	// Time is the second's number, from the end of the warm-up.
	Time   int   `json:"t"`
	OK     int64 `json:"ok"`
	Errors int64 `json:"errors"`
	// P99 is of the latency of its OK responses, in microseconds, exact to 3 %.
	P99 float64 `json:"p99_us"`
}

const (
	// sketchSteps is the number of buckets for each doubling.
	sketchSteps   = 32
	sketchBuckets = 32 * sketchSteps // to over half an hour

	// openSeconds is how many seconds are kept in detail, for loops that are behind.
	openSeconds = 4
)

// sketch is a small histogram, as there is one for each second of a run: microseconds, in
// buckets of 3 %.
type sketch [sketchBuckets]uint32

func (s *sketch) add(d time.Duration) { s[sketchBucket(d)]++ }

func sketchBucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < sketchSteps {
		return int(us)
	}
	shift := bits.Len64(us) - 6 // leaves six bits, the first of which is 1
	return min((shift+1)*sketchSteps+int(us>>shift)-sketchSteps, sketchBuckets-1)
}

// sketchBound is the upper end of a bucket in microseconds.
func sketchBound(bucket int) float64 {
	if bucket < sketchSteps {
		return float64(bucket + 1)
	}
	shift := bucket/sketchSteps - 1
	return float64((uint64(bucket%sketchSteps) + sketchSteps + 1) << shift)
}

// p99 returns the quantile in microseconds; 0 if nothing was added.
func (s *sketch) p99() float64 {
	var all, seen uint64
	for _, n := range s {
		all += uint64(n)
	}
	for i, n := range s {
		if seen += uint64(n); seen > 0 && float64(seen) >= float64(all)*0.99 {
			return sketchBound(i)
		}
	}
	return 0
}

// tally is what one loop adds up within a second.
type tally struct {
	ok, errors int64
	times      sketch
}

// timeline collects the seconds of all loops.
type timeline struct {
	mu      sync.Mutex
	seconds []Second       // guarded by mu
	open    map[int]*tally // guarded by mu; of the latest seconds
}

// add adds a loop's tally of a second, and empties it.
func (l *timeline) add(second int, from *tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[int]*tally)
	}
	for n := len(l.seconds); n <= second; n++ {
		l.seconds = append(l.seconds, Second{Time: n})
		l.open[n] = new(tally)
		if old := n - openSeconds; old >= 0 {
			l.settleLocked(old)
		}
	}
	if to := l.open[second]; to != nil {
		to.ok += from.ok
		to.errors += from.errors
		for i, n := range from.times {
			to.times[i] += n
		}
	}
	*from = tally{}
}

// settleLocked keeps of a second only what is reported.
func (l *timeline) settleLocked(second int) {
	if t := l.open[second]; t != nil {
		l.seconds[second] = Second{second, t.ok, t.errors, t.times.p99()}
		delete(l.open, second)
	}
}

// latest returns the last second that is over for all loops that keep up.
func (l *timeline) latest(now int) (s Second) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(now, len(l.seconds)) - 1
	if n < 0 {
		return Second{}
	}
	if t := l.open[n]; t != nil {
		return Second{n, t.ok, t.errors, t.times.p99()}
	}
	return l.seconds[n]
}

// all returns every second.
func (l *timeline) all() []Second {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range l.seconds {
		l.settleLocked(n)
	}
	return l.seconds
}
