// Package pace gives out events by a schedule that does not care how long they take:
// the open loop. What falls behind is caught up with at once, and each event carries
// the time it was due, from which its latency counts.
package pace

import (
	"context"
	"time"
)

// Schedule is a steady stream of events. It does not change.
type Schedule struct {
	start time.Time
	rate  float64
}

// New returns a schedule of rate events a second, the first at start. A rate of 0
// or less makes all of them due at the start.
func New(start time.Time, rate float64) Schedule { return Schedule{start, rate} }

// Due is when event k (from 0) is due.
func (s Schedule) Due(k int) time.Time {
	if s.rate <= 0 {
		return s.start
	}
	return s.start.Add(time.Duration(float64(k) / s.rate * float64(time.Second)))
}

// Each calls f for the events 0 to n-1 (all, without end, if n is negative), each
// when it is due or as soon as the calls before it have returned. It returns early
// once ctx has ended.
//
// A sleep ends up to a millisecond late, so events of a high rate come in groups of
// those that became due in the meantime.
func (s Schedule) Each(ctx context.Context, n int, f func(k int, due time.Time)) {
	for k := 0; k != n; k++ {
		due := s.Due(k)
		if !Until(ctx, due) {
			return
		}
		f(k, due)
	}
}

// Until waits for a time; it returns false as soon as ctx has ended.
func Until(ctx context.Context, t time.Time) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Sleep waits for a time span; it returns false as soon as ctx has ended.
func Sleep(ctx context.Context, d time.Duration) bool { return Until(ctx, time.Now().Add(d)) }
