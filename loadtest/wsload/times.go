package wsload

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
)

// Second is one second of the traffic.
type Second struct {
	// Time is the second's number. Received messages came in it, and OK is the same number by
	// the name that all tools use; Errors counts tunnels that the server ended.
	Time   int   `json:"t"`
	OK     int64 `json:"ok"`
	Errors int64 `json:"errors"`
	Sent   int64 `json:"sent"`
	// Open tunnels at its end.
	Open int64 `json:"open"`
	// P99 is of the latency of its messages, in microseconds.
	P99 float64 `json:"p99_us"`
}

// times records latencies by the second. A record that has been taken out is added to the sum one
// second later: by then nobody adds to it any more, who had got hold of it before.
type times struct {
	now atomic.Pointer[latency.Histogram]

	mu  sync.Mutex
	old *latency.Histogram // guarded by mu; taken out, and not in all
	all latency.Histogram
}

func newTimes() *times {
	t := new(times)
	t.now.Store(new(latency.Histogram))
	return t
}

func (t *times) add(d time.Duration) { t.now.Load().Add(d) }

// turn begins a new second and returns the record of the one that is over.
func (t *times) turn() *latency.Histogram {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleLocked()
	t.old = t.now.Swap(new(latency.Histogram))
	return t.old
}

func (t *times) settleLocked() {
	if t.old != nil {
		t.all.Merge(t.old)
		t.old = nil
	}
}

// sum returns everything; nobody adds any more.
func (t *times) sum() *latency.Histogram {
	t.turn()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleLocked()
	return &t.all
}

// watch notes the seconds of the traffic until the function that it returns is called.
func (r *run) watch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		began, last := time.Now(), Second{}
		for n := 0; pace.Until(ctx, began.Add(time.Duration(n+1)*time.Second)); n++ {
			last = r.second(n, last)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// second notes that one is over; last holds the sums until the one before.
func (r *run) second(n int, last Second) (sums Second) {
	over := r.messageTime.turn()
	r.mu.Lock()
	defer r.mu.Unlock()
	sums = Second{Time: n, OK: r.received.Load(), Errors: int64(len(r.ends)), Sent: r.sent.Load(), Open: r.open.Load()}
	r.seconds = append(r.seconds, Second{
		Time: n, OK: sums.OK - last.OK, Errors: sums.Errors - last.Errors, Sent: sums.Sent - last.Sent,
		Open: sums.Open, P99: float64(over.Quantile(0.99)) / 1e3,
	})
	return sums
}
