package limiter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func TestRatesSteps(t *testing.T) {
	r := NewRates(RateOptions{PerSecond: 10, Burst: 3, Keys: 64})
	allow := func(step int, key uint64, at time.Duration, want bool) {
		t.Helper()
		if got := r.Allow(key, at); got != want {
			t.Fatalf("step %d: Allow(%d, %s) = %t, want %t", step, key, at, got, want)
		}
	}
	const ms = time.Millisecond
	// A burst, then no more; another key has its own.
	allow(1, 1, 0, true)
	allow(2, 1, 0, true)
	allow(3, 1, 0, true)
	allow(4, 1, 0, false)
	allow(5, 2, 0, true)
	// One every 100 ms; refusals cost nothing.
	allow(6, 1, 99*ms, false)
	allow(7, 1, 100*ms, true)
	allow(8, 1, 100*ms, false)
	allow(9, 1, 250*ms, true)
	allow(10, 1, 299*ms, false)
	allow(11, 1, 300*ms, true)
	// A long pause fills the bucket, and no further.
	for range 3 {
		allow(12, 1, time.Hour, true)
	}
	allow(13, 1, time.Hour, false)
	// A new rate applies at once, to buckets as they are: 300 ms from full, and at most empty.
	r.SetOptions(RateOptions{PerSecond: 100, Burst: 2}, time.Hour)
	allow(14, 1, time.Hour, false)
	allow(15, 1, time.Hour+10*ms, true)
	allow(16, 1, time.Hour+10*ms, false)
	r.SetOptions(RateOptions{PerSecond: 1, Burst: 2}, time.Hour+10*ms)
	allow(17, 1, time.Hour+10*ms, true)
	allow(18, 1, time.Hour+10*ms, false)
	// Without a limit nothing is refused, and a limit begins with full buckets.
	r.SetOptions(RateOptions{}, time.Hour+10*ms)
	for range 10 {
		allow(19, 1, time.Hour+10*ms, true)
	}
	r.SetOptions(RateOptions{PerSecond: 1}, time.Hour+10*ms)
	allow(20, 1, time.Hour+10*ms, true)
	allow(21, 1, time.Hour+10*ms, false) // no burst is one
}

func TestRatesSameClient(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		r := NewRates(RateOptions{PerSecond: 1, Burst: 1})
		r.AllowAddr(parseAddr(a), 0)
		if got := !r.AllowAddr(parseAddr(b), 0); got != want {
			t.Errorf("%q and %q are one client: %t, want %t", a, b, got, want)
		}
	}
	f("192.0.2.1", "192.0.2.1", true)
	f("192.0.2.1", "192.0.2.2", false)
	f("192.0.2.1", "::ffff:192.0.2.1", true)
	f("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true)
	f("2001:db8::1", "2001:db8:0:1::1", false)
	f("", "", false) // of Unix sockets nothing is known
}

func TestRatesText(t *testing.T) {
	r := NewRates(RateOptions{PerSecond: 1, Burst: 1})
	if !r.AllowText("a", 0) || r.AllowText("a", 0) || !r.AllowText("b", 0) {
		t.Error("texts do not have a bucket each")
	}
}

// cell is one bucket of an exact limiter.
type cell struct{ full time.Duration }

func (c *cell) allow(now, interval, depth time.Duration) bool {
	full := max(c.full, now) + interval
	if full > now+depth {
		return false
	}
	c.full = full
	return true
}

// No key gets more than its rate, however many keys push each other out, and however few buckets there are: what was
// allowed for each conforms to an exact limiter of its own.
func TestRatesNeverMore(t *testing.T) {
	f := func(buckets, keys int, pace time.Duration) (allowed, more int) {
		t.Helper()
		const calls = 20_000
		o := RateOptions{PerSecond: 20, Burst: 5, Keys: buckets}
		r := NewRates(o)
		exact := make([]cell, keys)
		rnd := rand.New(rand.NewPCG(uint64(buckets), uint64(keys)))
		now := time.Duration(0)
		for range calls {
			now += time.Duration(rnd.Int64N(int64(2 * pace)))
			// A few keys are busy, most come once in a while.
			key := rnd.IntN(keys)
			if rnd.IntN(2) == 0 {
				key = rnd.IntN(4)
			}
			if !r.Allow(uint64(key), now) {
				continue
			}
			allowed++
			if !exact[key].allow(now, time.Second/20, 5*time.Second/20) {
				more++
			}
		}
		t.Logf("%d buckets for %d keys: %d of %d allowed, %d displaced", buckets, keys, allowed, calls, r.Displaced())
		return allowed, more
	}
	for _, buckets := range []int{1, 8, 64, 4096} {
		for _, keys := range []int{6, 100, 20_000} {
			for _, pace := range []time.Duration{time.Microsecond, time.Millisecond, 20 * time.Millisecond} {
				if allowed, more := f(buckets, keys, pace); more > 0 || allowed == 0 {
					t.Errorf("%d buckets, %d keys, one every %s: %d allowed, of them %d over their rate", buckets, keys, pace, allowed, more)
				}
			}
		}
	}
}

// While no set is crowded, every key gets exactly its rate.
func TestRatesExact(t *testing.T) {
	r := NewRates(RateOptions{PerSecond: 20, Burst: 5, Keys: 1 << 14})
	exact := make([]cell, 500)
	rnd := rand.New(rand.NewPCG(1, 2))
	now := time.Duration(0)
	refused := 0
	for i := range 100_000 {
		now += time.Duration(rnd.Int64N(int64(200 * time.Microsecond)))
		key := rnd.IntN(len(exact))
		if rnd.IntN(2) == 0 {
			key %= 10
		}
		got, want := r.Allow(uint64(key), now), exact[key].allow(now, time.Second/20, 5*time.Second/20)
		if got != want {
			t.Fatalf("call %d: key %d at %s is allowed: %t, an exact limiter says %t", i, key, now, got, want)
		}
		if !want {
			refused++
		}
	}
	if refused == 0 || r.Displaced() != 0 {
		t.Errorf("%d refused, %d displaced; want some and none", refused, r.Displaced())
	}
}

// An abuser that floods with other keys, to have its own entry pushed out, is not allowed a single one in between.
func TestRatesFlood(t *testing.T) {
	r := NewRates(RateOptions{PerSecond: 1, Burst: 10, Keys: 1024})
	const abuser = 1 << 60
	for range 10 {
		r.Allow(abuser, 0)
	}
	passed := 0
	for key := range uint64(200_000) {
		if r.Allow(key, 0) {
			passed++
		}
		if r.Allow(abuser, 0) {
			t.Fatalf("the abuser is allowed again after %d other keys", key+1)
		}
	}
	// Before anybody is refused for others' sake, all buckets have to be empty.
	if want := 1024*10 - 10; passed != want {
		t.Errorf("%d of the flood passed, want %d", passed, want)
	}
	if r.Displaced() == 0 {
		t.Error("nothing was displaced, so the flood shows nothing")
	}
	// As buckets refill, newcomers pass again.
	if !r.Allow(1<<61, time.Second) {
		t.Error("a new key is refused after the flood")
	}
}

// Sets cannot be crowded by keys in a row, which one owner of a network has.
func TestRatesSetsAreEven(t *testing.T) {
	r := NewRates(RateOptions{PerSecond: 1, Burst: 2, Keys: 1 << 14})
	for key := range uint64(1 << 11) {
		if !r.Allow(key<<32, 0) { // an eighth of the buckets: one key to a set on average
			t.Fatalf("key %d is refused by others", key)
		}
	}
}

func TestRatesConcurrent(t *testing.T) {
	const workers, rounds, keys, burst = 8, 4000, 5, 100
	r := NewRates(RateOptions{PerSecond: 1, Burst: burst, Keys: 64})
	var allowed [keys]atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range rounds {
				if r.Allow(uint64(i%keys), time.Second) {
					allowed[i%keys].Add(1)
				}
				if i%1000 == 0 {
					r.SetOptions(RateOptions{PerSecond: 1, Burst: burst}, time.Second)
				}
			}
		})
	}
	wg.Wait()
	for i := range allowed {
		if n := allowed[i].Load(); n != burst {
			t.Errorf("%d allowed for key %d, want %d", n, i, burst)
		}
	}
}

func TestRatesMemory(t *testing.T) {
	if size := unsafe.Sizeof(rateSet{}); size != 17*rateWays && unsafe.Sizeof(uintptr(0)) == 8 {
		t.Errorf("a set takes %d B; the options say 17 B a key", size)
	}
	r := NewRates(RateOptions{PerSecond: 1, Keys: 1000})
	if got := len(r.plan.Load().sets) * rateWays; got != 1000 {
		t.Errorf("%d buckets, want 1000", got)
	}
}

func TestRatesAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	r := NewRates(RateOptions{PerSecond: 10, Burst: 2, Keys: 64})
	addrs := []netip.Addr{parseAddr("192.0.2.1"), parseAddr("2001:db8::1"), {}}
	key, allowed := uint64(0), 0
	count := func(ok bool) {
		if ok {
			allowed++
		}
	}
	allocs := testing.AllocsPerRun(1000, func() {
		key++ // new keys most of the time
		now := time.Duration(key) * time.Millisecond
		count(r.Allow(key, now))
		count(r.AllowText("t13d1516h2_8daaf6152771_e5627efa2ab1", now))
		for _, a := range addrs {
			count(r.AllowAddr(a, now))
		}
	})
	if allocs != 0 || allowed == 0 {
		t.Errorf("%v allocations for five calls, want none (%d allowed)", allocs, allowed)
	}
}

func BenchmarkRates(b *testing.B) {
	for _, keys := range []uint64{16, 1 << 12, 1 << 20} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			r := NewRates(RateOptions{PerSecond: 100, Burst: 100})
			b.ReportAllocs()
			var refused atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				n := int64(0)
				for i := uint64(0); pb.Next(); i++ {
					if !r.Allow(i%keys, time.Duration(i)*time.Microsecond) {
						n++
					}
				}
				refused.Add(n)
			})
			b.ReportMetric(float64(refused.Load())/float64(b.N), "refused/op")
		})
	}
}
