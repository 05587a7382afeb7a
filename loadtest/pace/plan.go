package pace

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// ErrPlan is returned for a plan that nothing can be sent by.
var ErrPlan = errors.New("pace: bad plan")

// Phase is a stretch of a plan.
type Phase struct {
	// From and To are events a second at its beginning and its end, linear in between:
	// the same twice is a constant rate, 0 twice a pause.
	From, To float64
	// For is its length.
	For time.Duration
}

// Plan is when events are due, one phase after the other. It does not change.
type Plan struct {
	Phases []Phase
	// Poisson has the events come independently of each other, as those of many users
	// do, at the rate of the phase on average; else they come evenly.
	Poisson bool
	// Seed of the chance in Poisson: the same seed makes the same arrivals.
	Seed uint64
}

// Constant is a plan of one rate.
func Constant(rate float64, d time.Duration) *Plan {
	return &Plan{Phases: []Phase{{From: rate, To: rate, For: d}}}
}

// Duration is the length of all phases together.
func (p *Plan) Duration() (d time.Duration) {
	for _, phase := range p.Phases {
		d += phase.For
	}
	return d
}

// Check tells what is wrong with a plan; its errors are ErrPlan.
func (p *Plan) Check() error {
	events := 0.0
	for i, phase := range p.Phases {
		if !(phase.From >= 0 && phase.To >= 0) || phase.For <= 0 || math.IsInf(phase.From+phase.To, 0) {
			return fmt.Errorf("%w: phase %d is %v to %v a second for %v (want rates of 0 or more, and a time)", ErrPlan, i+1, phase.From, phase.To, phase.For)
		}
		events += phase.events()
	}
	if events == 0 {
		return fmt.Errorf("%w: no events in %d phases", ErrPlan, len(p.Phases))
	}
	return nil
}

// events is how many there are in a phase, on average.
func (p Phase) events() float64 { return (p.From + p.To) / 2 * p.For.Seconds() }

// at is when so many events of a phase are over: the integral of the rate, inverted. The
// form of the solution is the one that neither cancels digits nor divides by a rate
// that does not change.
func (p Phase) at(events float64) time.Duration {
	if events == 0 {
		return 0
	}
	slope := (p.To - p.From) / p.For.Seconds()
	root := math.Sqrt(max(p.From*p.From+2*slope*events, 0))
	return time.Duration(2 * events / (p.From + root) * float64(time.Second))
}

// Arrivals gives out the due times of a plan, in order. One goroutine uses it.
type Arrivals struct {
	plan *Plan
	rng  *rand.Rand // nil for even arrivals

	phase int           // index of the phase under way
	start time.Duration // of it
	past  float64       // events of it that are over
	begun bool
}

// Arrivals returns the due times from the beginning. Each is computed from the start of
// its phase, so that they do not drift.
func (p *Plan) Arrivals() *Arrivals {
	a := &Arrivals{plan: p}
	if p.Poisson {
		a.rng = rand.New(rand.NewPCG(p.Seed, 0)) //nolint:gosec // repeatable, not secret
	}
	return a
}

// Next returns when the next event is due, from the start of the plan; false after the
// last. Even arrivals begin with one at 0.
func (a *Arrivals) Next() (due time.Duration, ok bool) {
	a.past += a.step()
	for a.phase < len(a.plan.Phases) {
		phase := a.plan.Phases[a.phase]
		if all := phase.events(); a.past >= all {
			// The rest of the step goes into the next phase, whatever its rate: both ways
			// of arriving count in events, not in time.
			a.past -= all
			a.start += phase.For
			a.phase++
			continue
		}
		return a.start + phase.at(a.past), true
	}
	return 0, false
}

// step is how many events go by until the next: one, or with chance one on average.
func (a *Arrivals) step() float64 {
	if a.rng != nil {
		return a.rng.ExpFloat64()
	}
	if !a.begun {
		a.begun = true
		return 0
	}
	return 1
}
