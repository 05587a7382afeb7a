package health

import (
	"testing"
	"time"
)

func TestState(t *testing.T) {
	begin := time.Unix(1000, 0)
	// f feeds outcomes ('+' success, '-' failure), one a second, and wants for each whether the backend
	// is up ('U', 'D') afterwards; lower case says that this outcome changed nothing.
	f := func(what string, initial bool, rise, fall int, outcomes, want string) {
		t.Helper()
		s := NewState(initial, rise, fall, begin)
		since := begin
		for i, o := range []byte(outcomes) {
			now := begin.Add(time.Duration(i+1) * time.Second)
			changed := s.Observe(o == '+', now)
			if changed {
				since = now
			}
			got := map[bool]map[bool]byte{
				true:  {true: 'U', false: 'D'},
				false: {true: 'u', false: 'd'},
			}[changed][s.Up()]
			if got != want[i] {
				t.Errorf("%s: step %d (%c): %c, want %c", what, i+1, o, got, want[i])
				return
			}
			if !s.Since().Equal(since) {
				t.Errorf("%s: step %d: since %s, want %s", what, i+1, s.Since(), since)
			}
		}
	}
	f("up, stays up", true, 2, 3, "+++++", "uuuuu")
	f("down, stays down", false, 2, 3, "-----", "ddddd")
	f("falls after 3", true, 2, 3, "----", "uuDd")
	f("rises after 2", false, 2, 3, "+++", "dUu")
	f("a success forgets failures", true, 2, 3, "--+--+--", "uuuuuuuu")
	f("a failure forgets successes", false, 2, 3, "+-+-++", "dddddU")
	f("falls and rises", true, 2, 3, "---++---", "uuDdUuuD")
	f("changes with every outcome", true, 1, 1, "-+-+", "DUDU")
	f("thresholds below 1 are 1", true, 0, -5, "-+", "DU")
}

func TestFirstDelay(t *testing.T) {
	f := func(interval time.Duration, r float64, want time.Duration) {
		t.Helper()
		if got := firstDelay(interval, r); got != want {
			t.Errorf("firstDelay(%s, %v) = %s, want %s", interval, r, got, want)
		}
	}
	f(5*time.Second, 0, 0)
	f(5*time.Second, 0.5, 500*time.Millisecond)
	f(5*time.Second, 0.999, 999*time.Millisecond)
	f(100*time.Millisecond, 0.5, 50*time.Millisecond)
}

func TestNextDelay(t *testing.T) {
	f := func(interval, took time.Duration, r float64, want time.Duration) {
		t.Helper()
		if got := nextDelay(interval, took, r); got != want {
			t.Errorf("nextDelay(%s, %s, %v) = %s, want %s", interval, took, r, got, want)
		}
	}
	// A tenth to either side.
	f(10*time.Second, 0, 0, 9*time.Second)
	f(10*time.Second, 0, 0.5, 10*time.Second)
	f(10*time.Second, 0, 0.75, 10500*time.Millisecond)
	// The distance is between beginnings.
	f(10*time.Second, 2*time.Second, 0.5, 8*time.Second)
	// A probe that took longer is followed at once.
	f(time.Second, 2*time.Second, 0.5, 0)
}
