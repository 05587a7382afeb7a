package target

import (
	"strings"
	"testing"
	"time"
)

func TestBottleneck(t *testing.T) {
	f := func(c Cost, want string) {
		t.Helper()
		if got := c.Bottleneck(); got != want && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
	f(Cost{}, "")
	f(Cost{CPU: 1700 * time.Millisecond, Wall: time.Second, Processors: 2}, "")
	f(Cost{CPU: 1900 * time.Millisecond, Wall: time.Second, Processors: 2}, "took 95 % of the 2 processors")
	f(Cost{CPU: time.Second, Wall: time.Second, Processors: 2, Busy: 0.97, OfBusy: 0.51}, "busy for 97 % of the time, 51 % of that")
	f(Cost{CPU: time.Second, Wall: time.Second, Processors: 2, Busy: 0.97, OfBusy: 0.4}, "")
	f(Cost{CPU: time.Second, Wall: time.Second, Processors: 2, Busy: 0.9, OfBusy: 0.9}, "")
}

func TestMicros(t *testing.T) {
	c := Cost{CPU: 3 * time.Millisecond}
	if c.Micros(2) != 1500 || c.Micros(0) != 0 || (Cost{}).Micros(5) != 0 {
		t.Error(c.Micros(2), c.Micros(0), Cost{}.Micros(5))
	}
}

// What this process burns shows.
func TestMeter(t *testing.T) {
	m := NewMeter()
	for CPUTime()-m.cpu < 30*time.Millisecond { // the test's own time-out is the bound
		continue
	}
	c := m.Cost()
	if c.CPU < 30*time.Millisecond || c.Wall < 10*time.Millisecond || c.Processors < 1 || c.Busy < 0 || c.Busy > 1 || c.OfBusy < 0 || c.OfBusy > 1 {
		t.Errorf("%+v", c)
	}
}
