package upstream

import (
	"math"
	"sync/atomic"
	"time"
)

// The latency average is Peak EWMA, as in Finagle's load balancer (Twitter,
// com.twitter.finagle.loadbalancer.PeakEwma): a slower answer counts at once, a
// faster one only as time passes, and without answers the average decays, so that a
// backend that was slow gets another chance.
const (
	// ewmaTau is the time after which an old observation weighs 1/e.
	ewmaTau = 10 * time.Second
	// ewmaUnknown is the average below which a backend counts as unobserved.
	ewmaUnknown = time.Microsecond
	// ewmaPenalty is what each request in flight to an unobserved backend costs: one request
	// tries it out, the others wait for what it finds.
	ewmaPenalty = time.Second
	// ewmaFailure is the least that a failed attempt counts as; it counts as twice the average if that is more.
	ewmaFailure = 100 * time.Millisecond
	// ewmaMax bounds the average, so that a row of failures does not banish a backend for minutes.
	ewmaMax = 10 * time.Second
)

// ewma is a latency average without locks: the time of the last update in
// milliseconds (upper half, modulo 2^32) and the value as float32 seconds (lower half).
type ewma struct{ packed atomic.Uint64 }

// value returns the average in seconds at the time now, counted from any fixed point.
func (e *ewma) value(now time.Duration) float64 {
	return decayed(e.packed.Load(), now)
}

func decayed(packed uint64, now time.Duration) float64 {
	v := float64(math.Float32frombits(uint32(packed)))
	age := int32(uint32(now.Milliseconds()) - uint32(packed>>32))
	if v == 0 || age <= 0 {
		return v
	}
	return v * math.Exp(-float64(age)/float64(ewmaTau.Milliseconds()))
}

// observe adds a latency seen at now. A failure counts as slow however fast it was.
func (e *ewma) observe(now, latency time.Duration, ok bool) {
	for {
		old := e.packed.Load()
		next := pack(now, nextEWMA(old, now, latency.Seconds(), ok))
		if e.packed.CompareAndSwap(old, next) {
			return
		}
	}
}

func nextEWMA(old uint64, now time.Duration, sample float64, ok bool) float64 {
	cur := float64(math.Float32frombits(uint32(old)))
	if !ok {
		sample = max(sample, 2*cur, ewmaFailure.Seconds())
	}
	if sample >= cur {
		return min(sample, ewmaMax.Seconds())
	}
	kept := 1.0
	if cur > 0 {
		kept = decayed(old, now) / cur
	}
	return cur*kept + sample*(1-kept)
}

func pack(now time.Duration, v float64) uint64 {
	return uint64(uint32(now.Milliseconds()))<<32 | uint64(math.Float32bits(float32(v)))
}

// load is what p2c compares: the expected wait of one more request. The weight divides
// the queue and not the request itself, so that idle members of equal speed are equal and
// the draw decides, which is by weight.
func load(avg float64, inflight int64, weight int) float64 {
	queue := float64(inflight) / float64(weight)
	if avg < ewmaUnknown.Seconds() {
		return ewmaPenalty.Seconds() * queue
	}
	return avg * (queue + 1)
}
