package meter

import (
	"slices"
	"testing"
	"time"
)

func TestBounds(t *testing.T) {
	if !slices.IsSorted(bounds[:]) {
		t.Errorf("bounds are not ascending: %v", bounds)
	}
	for i, want := range map[int]string{0: "1e-05", 6: "0.0001", 7: "0.00015", 30: "1", 35: "6.8", 42: "100", 43: "+Inf"} {
		if boundLabels[i] != want {
			t.Errorf("bound %d is %s, want %s", i, boundLabels[i], want)
		}
	}
}

func TestSlot(t *testing.T) {
	for n := range uint64(1 << 16) {
		if i := slot(n); slotStart(i) > n || slotStart(i+1) <= n {
			t.Fatalf("slot(%d) = %d, which is %d to %d", n, i, slotStart(i), slotStart(i+1)-1)
		}
	}
	if i := slot(1<<64 - 1); i != numSlots-1 {
		t.Errorf("the largest number is in slot %d, want %d", i, numSlots-1)
	}
}

// TestHistogramFindsTheBucket checks each bound and its neighbours against a plain search.
func TestHistogramFindsTheBucket(t *testing.T) {
	try := func(d time.Duration) {
		t.Helper()
		var h histogram
		h.add(d)
		want, _ := slices.BinarySearch(bounds[:], uint64(max(d, 0)))
		if h.counts[want] != 1 {
			t.Errorf("%v is in bucket %d, want %d", d, slices.Index(h.counts[:], 1), want)
		}
	}
	for _, ns := range bounds {
		try(time.Duration(ns - 1))
		try(time.Duration(ns))
		try(time.Duration(ns + 1))
	}
	for _, d := range []time.Duration{-1, 0, 1, time.Hour, 1<<63 - 1} {
		try(d)
	}
	for d := time.Duration(1); d < 200*time.Second; d += d/100 + 1 {
		try(d)
	}
}
