package pace

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestEach(t *testing.T) {
	// f counts the events of a rate within 1.95 s, each taking some time, and
	// returns how late the last one was.
	f := func(rate float64, n int, each time.Duration, wantEvents int, wantLate time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 1950*time.Millisecond)
			defer cancel()
			events, late := 0, time.Duration(0)
			New(start, rate).Each(ctx, n, func(k int, due time.Time) {
				if k != events {
					t.Errorf("event %d after %d", k, events-1)
				}
				events++
				late = time.Since(due)
				time.Sleep(each)
			})
			if events != wantEvents || late != wantLate {
				t.Errorf("rate %v: %d events, the last %v late; want %d, %v", rate, events, late, wantEvents, wantLate)
			}
		})
	}
	f(10, -1, 0, 20, 0)                                       // by the clock, until the end
	f(10, 5, 0, 5, 0)                                         // as many as asked for
	f(0, 7, 0, 7, 0)                                          // all at once
	f(10, -1, 200*time.Millisecond, 10, 900*time.Millisecond) // too slow: lateness grows and shows
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		now := time.Now()
		f := func(ctx context.Context, at time.Time, want bool, wantWait time.Duration) {
			t.Helper()
			began := time.Now()
			if got := Until(ctx, at); got != want || time.Since(began) != wantWait {
				t.Errorf("%v after %v, want %v after %v", got, time.Since(began), want, wantWait)
			}
		}
		f(ended, now, false, 0)
		f(ended, now.Add(time.Second), false, 0)
		f(t.Context(), now, true, 0)
		f(t.Context(), now.Add(time.Second), true, time.Second)
		if !Sleep(t.Context(), time.Second) || time.Since(now) != 2*time.Second {
			t.Errorf("slept until %v", time.Since(now))
		}
	})
}
