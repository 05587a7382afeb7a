package upstream

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	// Each step is at a second, makes requests, and then asks for retries.
	type step struct{ at, requests, ask, want int }
	f := func(name string, percent, perSecond int, steps ...step) {
		t.Helper()
		b := NewBudget(percent, perSecond)
		for i, s := range steps {
			now := time.Unix(1_700_000_000+int64(s.at), 0)
			for range s.requests {
				b.Request(now)
			}
			got := 0
			for range s.ask {
				if b.AllowRetry(now) {
					got++
				}
			}
			if got != s.want {
				t.Errorf("%s: step %d: %d of %d retries allowed, want %d", name, i+1, got, s.ask, s.want)
			}
		}
	}
	f("share of live traffic", 20, 0, step{0, 100, 100, 20})
	f("no traffic, no retries", 20, 0, step{0, 0, 10, 0})
	f("rounds down", 20, 0, step{0, 9, 10, 1}, step{0, 1, 10, 1})
	f("minimum without traffic", 20, 3, step{0, 0, 10, 3}, step{1, 0, 10, 3}, step{2, 0, 10, 3})
	f("minimum and share are not added", 20, 3, step{0, 100, 100, 20}, step{0, 0, 10, 0})
	f("minimum although the share is used up", 10, 2, step{0, 100, 100, 10}, step{1, 0, 10, 2})
	f("the share is over the whole window", 10, 0, step{0, 100, 5, 5}, step{9, 0, 100, 5})
	f("what is older than the window is forgotten", 10, 0, step{0, 100, 5, 5}, step{10, 0, 100, 0})
	f("retries are forgotten too", 10, 0, step{0, 100, 10, 10}, step{9, 100, 100, 10}, step{10, 0, 10, 0}, step{19, 100, 100, 10})
	f("slots are reused", 10, 0, step{0, 1000, 0, 0}, step{16, 10, 100, 1}, step{32, 10, 100, 1})
	f("off", 0, 0, step{0, 1000, 10, 0})
	f("minimum only", 0, 2, step{0, 1000, 10, 2})
	f("everything", 100, 0, step{0, 10, 100, 10})
}

func TestBudgetCounts(t *testing.T) {
	b := NewBudget(0, 2)
	now := time.Unix(1_700_000_000, 0)
	for range 5 {
		b.AllowRetry(now)
	}
	if allowed, denied := b.Counts(); allowed != 2 || denied != 3 {
		t.Errorf("allowed %d, denied %d, want 2 and 3", allowed, denied)
	}
}

func TestBudgetUnderConcurrency(t *testing.T) {
	b := NewBudget(10, 0)
	now := time.Unix(1_700_000_000, 0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.Request(now)
			}
		})
	}
	wg.Wait()
	var allowed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.AllowRetry(now) {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := allowed.Load(); n != 800 {
		t.Errorf("%d retries allowed for 8000 requests at 10%%, want exactly 800", n)
	}
}

func TestBudgetSaturates(t *testing.T) {
	b := NewBudget(100, 0)
	now := time.Unix(1_700_000_000, 0)
	s, _ := b.slot(now.Unix())
	s.Add(1<<requestBits - 1<<10) // as if there had been that many
	b.Request(now)
	b.Request(now)
	if v := s.Load(); slotRetries(v) != 0 {
		t.Errorf("requests ran over into retries: %d", slotRetries(v))
	}
}

func TestBudgetAllocatesNothing(t *testing.T) {
	b := NewBudget(20, 3)
	now := time.Unix(1_700_000_000, 0)
	n := testing.AllocsPerRun(1000, func() {
		now = now.Add(10 * time.Millisecond)
		b.Request(now)
		b.AllowRetry(now)
	})
	if n != 0 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBudget(b *testing.B) {
	budget := NewBudget(20, 3)
	b.RunParallel(func(pb *testing.PB) {
		now := time.Now()
		for pb.Next() {
			budget.Request(now)
		}
	})
	if budget.AllowRetry(time.Now()) == false && b.N > 100 {
		b.Error("no retry allowed after many requests")
	}
}
