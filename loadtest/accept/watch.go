package accept

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/pace"
)

// watch keeps the samples of a probe. Its memory is bounded by the rate of the probe and the
// length of the item: some hundred a second, for minutes.
type watch struct {
	mu   sync.Mutex
	list []probe.Sample // guarded by mu; in the order of their ends
}

// observe takes a sample.
func (w *watch) observe(s probe.Sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, s)
}

// lookEvery is the pace at which the samples are looked at while something is awaited.
const lookEvery = 20 * time.Millisecond

// await waits for a recovery from a time on; false if there is none within the time.
func (w *watch) await(ctx context.Context, from time.Time, within time.Duration) bool {
	for w.recovery(from) == 0 {
		if time.Since(from) > within+goodInARow*time.Second/partitionRate || !pace.Sleep(ctx, lookEvery) {
			return false
		}
	}
	return true
}

// recovery returns the time from a moment to the end of the first of so many OK responses in a
// row, of those that ended later; 0 if there are none.
func (w *watch) recovery(from time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first time.Time
	run := 0
	for _, s := range w.list {
		switch {
		case s.End.Before(from):
			continue
		case s.Kind != probe.OK:
			run = 0
			continue
		case run == 0:
			first = s.End
		}
		if run++; run == goodInARow {
			return max(first.Sub(from), 1)
		}
	}
	return 0
}

// between sums up what ended from a time up to another.
func (w *watch) between(from, to time.Time) saw {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := saw{kinds: make(map[string]int)}
	for _, s := range w.list {
		if s.End.Before(from) || !s.End.Before(to) {
			continue
		}
		if s.Kind == probe.OK {
			sum.ok++
			continue
		}
		sum.failed++
		word := s.Kind.String()
		if s.Kind == probe.WrongStatus {
			word = fmt.Sprintf("status %d", s.Status)
		}
		sum.kinds[word]++
	}
	return sum
}

// all sums up everything.
func (w *watch) all() saw { return w.between(time.Time{}, time.Now().Add(time.Hour)) }

// longestGap is the longest time between two OK responses one after the other, of those
// pairs whose second ended behind a time; 0 if there are none.
func (w *watch) longestGap(from time.Time) (gap time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last time.Time
	for _, s := range w.list {
		if s.Kind != probe.OK {
			continue
		}
		if !last.IsZero() && s.End.After(from) {
			gap = max(gap, s.End.Sub(last))
		}
		last = s.End
	}
	return gap
}

// example is the text of the latest failure.
func (w *watch) example() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.list) - 1; i >= 0; i-- {
		if err := w.list[i].Err; err != nil {
			return err.Error()
		}
	}
	return "nothing failed"
}
