package health

import "time"

// State decides whether a backend is up. It is pure: it knows no clock and no
// socket, and is told outcomes one by one. Who observes them does not matter to it,
// so outcomes of real requests can be fed into the same State as those of probes.
// It is not safe for concurrent use.
type State struct {
	rise, fall int
	up         bool
	run        int // consecutive outcomes that speak against up
	since      time.Time
}

// NewState returns a state that is up or down and changes after rise consecutive
// successes or fall consecutive failures. Both count as 1 if they are smaller.
func NewState(up bool, rise, fall int, now time.Time) State {
	return State{rise: max(rise, 1), fall: max(fall, 1), up: up, since: now}
}

// Observe takes one outcome and reports whether the state changed by it. An
// outcome that agrees with the state forgets all that spoke against it before.
func (s *State) Observe(ok bool, now time.Time) (changed bool) {
	if ok == s.up {
		s.run = 0
		return false
	}
	s.run++
	need := s.fall
	if ok {
		need = s.rise
	}
	if s.run < need {
		return false
	}
	s.up, s.run, s.since = ok, 0, now
	return true
}

// Up reports the state.
func (s *State) Up() bool { return s.up }

// Since returns when the state last changed, or was made.
func (s *State) Since() time.Time { return s.since }
