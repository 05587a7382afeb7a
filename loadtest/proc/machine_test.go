package proc

import (
	"testing"
	"time"
)

func TestParseMachine(t *testing.T) {
	f := func(stat string, wantBusy, wantAll time.Duration) {
		t.Helper()
		busy, all, err := parseMachine(stat)
		if err != nil || busy != wantBusy || all != wantAll {
			t.Errorf("%q: %v of %v, %v; want %v of %v", stat, busy, all, err, wantBusy, wantAll)
		}
	}
	f("cpu  1 2 3 40 50 6 7 8 1000 1000\ncpu0 9", 270*time.Millisecond, 1170*time.Millisecond)
	f("cpu 1 0 0 1 1", 10*time.Millisecond, 30*time.Millisecond)
	for _, stat := range []string{"", "cpu 1 2 3 4", "intr 1 2 3 4 5", "cpu a 2 3 4 5"} {
		if _, _, err := parseMachine(stat); err == nil {
			t.Errorf("%q is no error", stat)
		}
	}
}
