package meter

import (
	"math/bits"
	"slices"
	"strconv"
	"time"
)

// Bounds of the latency histograms: six a decade (1, 1.5, 2.2, 3.3, 4.7, 6.8) from 10 us to
// 100 s, so that a quantile read from them is within a fifth of the truth. They are written
// as cumulative `le` buckets, which Prometheus and VictoriaMetrics both understand.
var (
	bounds      = makeBounds() // in nanoseconds, ascending
	boundLabels = makeBoundLabels()
	firstBound  = makeFirstBound()
)

const (
	numBounds = 43
	// subBits is the number of bits below the highest one that choose a slot.
	subBits  = 3
	numSlots = (64 - subBits + 1) << subBits
)

// histogram counts durations. It is not safe for concurrent use.
//
// metrics.Histogram would do the same at 23 ns an update on one processor, but three of
// them, shared by two processors, cost 280 to 550 ns of processor time a request, as their
// mutexes and counters move between caches. See BenchmarkDone for what this one costs.
type histogram struct {
	counts [numBounds + 1]uint64 // the last is above all bounds
	sum    uint64                // nanoseconds
}

func (h *histogram) add(d time.Duration) {
	ns := uint64(max(d, 0))
	i := int(firstBound[slot(ns)])
	// A slot is narrower than the distance of two bounds, so this turns at most once.
	for i < numBounds && ns > bounds[i] {
		i++
	}
	h.counts[i]++
	h.sum += ns
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.sum += o.sum
}

// slot maps n to one of eight equal parts of its power of two.
func slot(n uint64) int {
	exp := bits.Len64(n)
	if exp <= subBits {
		return int(n)
	}
	return (exp-subBits)<<subBits | int(n>>(exp-subBits-1)&(1<<subBits-1))
}

// slotStart is the smallest number in slot i.
func slotStart(i int) uint64 {
	exp, sub := i>>subBits, uint64(i&(1<<subBits-1))
	if exp == 0 {
		return sub
	}
	return (1<<subBits | sub) << (exp - 1)
}

func makeBounds() (b [numBounds]uint64) {
	i := 0
	for decade := uint64(10_000); decade < 100e9; decade *= 10 {
		for _, tenths := range []uint64{10, 15, 22, 33, 47, 68} {
			b[i] = decade / 10 * tenths
			i++
		}
	}
	b[i] = 100e9
	return b
}

func makeBoundLabels() (labels [numBounds + 1]string) {
	for i, ns := range bounds {
		labels[i] = strconv.FormatFloat(time.Duration(ns).Seconds(), 'g', -1, 64)
	}
	labels[numBounds] = "+Inf"
	return labels
}

// makeFirstBound finds, for each slot, the first bound that its smallest number fits under.
func makeFirstBound() (first [numSlots]uint8) {
	for i := range first {
		n, _ := slices.BinarySearch(bounds[:], slotStart(i))
		first[i] = uint8(n)
	}
	return first
}
