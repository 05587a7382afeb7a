package testkit

import (
	"testing"
	"time"
)

// firstPause is between the first two looks of WaitUntil; each is half as long again, up to longestPause.
const (
	firstPause   = time.Millisecond
	longestPause = 50 * time.Millisecond
)

// WaitUntil asks again and again until holds, and fails the test after Patience. The pauses grow,
// and are never shorter than what it takes to look: reading all metrics every other millisecond took the
// processor from what a test waits for.
func WaitUntil(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	pause := firstPause
	for {
		began := time.Now()
		if holds() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v", what, Patience)
		}
		<-time.After(max(pause, time.Since(began)))
		pause = min(pause*3/2, longestPause)
	}
}
