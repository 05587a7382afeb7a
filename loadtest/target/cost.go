package target

import (
	"fmt"
	"runtime"
	"time"

	"tickgate/loadtest/proc"
)

const (
	// wholeShare is the share of its processors from which on a tool may be the limit.
	wholeShare = 0.9
	// fullMachine is the share of a machine's processors that leaves nothing to wait
	// for; a tool that takes half of that or more is the limit rather than its target.
	fullMachine = 0.95
)

// Meter reads what a tool costs from a moment on.
type Meter struct {
	began     time.Time
	cpu       time.Duration
	busy, all time.Duration // of the machine
}

// NewMeter returns a meter that starts now.
func NewMeter() Meter {
	m := Meter{began: time.Now(), cpu: CPUTime()}
	m.busy, m.all, _ = proc.Machine() // zero where there is none, which Cost notices
	return m
}

// Cost is what a tool took while it ran.
type Cost struct {
	// CPU time of this process within Wall, on Processors that it may use at a time.
	CPU, Wall  time.Duration
	Processors int
	// Busy is the share of the time of the machine's processors that was taken by
	// all processes together, OfBusy this process's part of that; 0 where it is not known.
	Busy, OfBusy float64
}

// Cost returns what was taken since the meter was made.
func (m Meter) Cost() Cost {
	c := Cost{CPU: CPUTime() - m.cpu, Wall: time.Since(m.began), Processors: runtime.GOMAXPROCS(0)}
	busy, all, err := proc.Machine()
	if err == nil && all > m.all && busy > m.busy {
		c.Busy = float64(busy-m.busy) / float64(all-m.all)
		c.OfBusy = min(float64(c.CPU)/float64(busy-m.busy), 1)
	}
	return c
}

// Micros is the CPU time for each of n, in microseconds; 0 if there is none.
func (c Cost) Micros(n int64) float64 {
	if n <= 0 {
		return 0
	}
	return c.CPU.Seconds() * 1e6 / float64(n)
}

// Bottleneck says why the tool, and not its target, limited what was measured, or "".
func (c Cost) Bottleneck() string {
	if c.Wall <= 0 || c.Processors < 1 {
		return ""
	}
	share := float64(c.CPU) / float64(c.Wall) / float64(c.Processors)
	switch {
	case share >= wholeShare:
		return fmt.Sprintf("this tool took %.0f %% of the %d processors that it may use", share*100, c.Processors)
	case c.Busy >= fullMachine && c.OfBusy >= 0.5:
		return fmt.Sprintf("the machine's processors were busy for %.0f %% of the time, %.0f %% of that with this tool", c.Busy*100, c.OfBusy*100)
	default:
		return ""
	}
}
