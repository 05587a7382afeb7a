package accept

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"tickgate/loadtest/proc"
	"tickgate/loadtest/target"
)

// Split is who had the processors of the machine, as shares of all of them from 0 to 1.
type Split struct {
	Wall       time.Duration `json:"wall_ns"`
	Processors int           `json:"processors"`
	Gateway    float64       `json:"gateway"`
	Load       float64       `json:"load"` // this process
	Backends   float64       `json:"backends"`
	// Others is what was taken by none of these: other processes, the kernel on its own
	// account, and other guests of the same host (steal).
	Others float64 `json:"others"`
}

// Busy is the share that was taken by whomever.
func (s Split) Busy() float64 { return s.Gateway + s.Load + s.Backends + s.Others }

// GatewayCPU is the processor time of the gateway.
func (s Split) GatewayCPU() time.Duration {
	return time.Duration(s.Gateway * float64(s.Wall) * float64(s.Processors))
}

// String returns the shares in per cent.
func (s Split) String() string {
	return fmt.Sprintf("CPU: gateway %.0f %%, load %.0f %%, backends %.0f %%, others %.0f %%", 100*s.Gateway, 100*s.Load, 100*s.Backends, 100*s.Others)
}

const (
	// mostOthers is the share of the machine that others may take before a missed bound says
	// more of them than of the gateway.
	mostOthers = 0.10
	// fullMachine is the share, on average, from which on what is ready mostly finds the
	// processors taken.
	fullMachine = 0.80
	// mostlyGateway is the gateway's part of what is used of a full machine from which on it is
	// the gateway that makes everybody wait.
	mostlyGateway = 0.75
)

// contention says what else than the gateway may have set a figure of time or speed: "" if
// nothing did. Bottleneck is what the load tool says of itself.
func contention(s Split, bottleneck string) string {
	switch {
	case s.Others > mostOthers:
		return fmt.Sprintf("others had %.0f %% of the machine", 100*s.Others)
	case bottleneck != "":
		return "the load tool was the limit: " + bottleneck
	case s.Busy() > fullMachine && s.Gateway < mostlyGateway*s.Busy():
		return fmt.Sprintf("the machine was full, with %.0f %% for the load and the backends and %.0f %% for the gateway", 100*(s.Load+s.Backends), 100*s.Gateway)
	}
	return ""
}

// meter reads the processor times from a moment on.
type meter struct {
	backends []process
	began    time.Time
	at       reading
}

// reading is processor time so far.
type reading struct {
	own, family, backends, machine time.Duration
}

// newMeter returns a meter that starts now. Gateways are all the descendants of this process,
// ended ones too, but the backends.
func newMeter(backends []process) *meter {
	return &meter{backends, time.Now(), read(backends)}
}

// read leaves zero what the system does not tell.
func read(backends []process) (r reading) {
	r.own = target.CPUTime()
	if t, err := proc.CPU(os.Getpid()); err == nil {
		r.family = t.Total()
	}
	for _, p := range backends {
		if t, err := proc.CPU(p.ID()); err == nil && p.ID() != os.Getpid() {
			r.backends += t.Total()
		}
	}
	r.machine, _, _ = proc.Machine()
	return r
}

// split returns who had the processors since the meter was made.
func (m *meter) split() Split {
	s := Split{Wall: time.Since(m.began), Processors: runtime.NumCPU()}
	now := read(m.backends)
	share := func(d time.Duration) float64 { return max(float64(d)/float64(s.Wall)/float64(s.Processors), 0) }
	s.Load, s.Backends = share(now.own-m.at.own), share(now.backends-m.at.backends)
	s.Gateway = max(share(now.family-m.at.family)-s.Load-s.Backends, 0)
	s.Others = max(share(now.machine-m.at.machine)-s.Gateway-s.Backends-s.Load, 0)
	return s
}
