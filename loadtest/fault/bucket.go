package fault

import (
	"sync"
	"time"
)

// bucket is a rate of bytes that several connections share. It has no burst: what passes is
// paid for before the next may.
type bucket struct {
	mu   sync.Mutex
	free time.Time // guarded by mu; when all that was taken has been paid for
}

// take takes n bytes of rate bytes a second at now, and returns how long they take until they
// have passed, behind those before them.
func (b *bucket) take(now time.Time, n int, rate int64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free.Before(now) {
		b.free = now
	}
	b.free = b.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return b.free.Sub(now)
}

// portion is how many bytes are sent at once at a rate: 20 ms of it, so that a slow stream
// flows.
func portion(rate int64) int { return int(max(1, rate/50)) }
