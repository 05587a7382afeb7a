package httpload

import (
	"math/rand/v2"
	"sync"
	"time"

	"tickgate/loadtest/pace"
)

// Source yields the requests of a replay in the order of their due times, from the start
// of the run. The request is only looked at until the next call.
type Source interface {
	Next() (due time.Duration, r *Request, ok bool)
}

// schedule is what an open loop sends, for all event loops together: each takes one
// request ahead, and comes back when that was due.
type schedule struct {
	run   *run
	until time.Duration // no request that is due then or later; 0 has no end

	mu       sync.Mutex
	arrivals *pace.Arrivals // guarded by mu; nil for a replay
	rng      *rand.Rand     // guarded by mu
	last     time.Duration  // guarded by mu; due time of the latest
	over     bool           // guarded by mu
}

// next returns the next request; one that cannot be sent has no bytes. False is the end.
func (s *schedule) next() (due time.Duration, m *message, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, nil, false
	}
	if s.arrivals != nil {
		if due, ok = s.arrivals.Next(); ok {
			m = s.run.mix.pick(s.rng)
		}
	} else {
		due, m, ok = s.replayLocked()
	}
	if !ok || s.until > 0 && due >= s.until {
		s.over = true
		return 0, nil, false
	}
	s.last = due
	return due, m, true
}

func (s *schedule) replayLocked() (due time.Duration, m *message, ok bool) {
	due, r, ok := s.run.Replay.Next()
	if !ok {
		return 0, nil, false
	}
	kind := s.run.kinds.index(r.name(s.run.target))
	if m, err := r.compile(s.run.target, kind); err == nil {
		return due, m, true
	}
	return due, &message{kind: kind}, true
}

// end makes next return no more.
func (s *schedule) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// lastDue is the due time of the latest request given out.
func (s *schedule) lastDue() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// mostKinds bounds what is told apart by name; a replay may have any number of paths.
const mostKinds = 200

// otherKinds is the name of the kinds beyond.
const otherKinds = "other"

// kinds numbers the kinds of requests by their names.
type kinds struct {
	mu     sync.Mutex
	names  []string       // guarded by mu
	byName map[string]int // guarded by mu
}

func (k *kinds) index(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i, ok := k.byName[name]; ok {
		return i
	}
	if len(k.names) >= mostKinds {
		return k.addLocked(otherKinds)
	}
	return k.addLocked(name)
}

func (k *kinds) addLocked(name string) int {
	if i, ok := k.byName[name]; ok {
		return i
	}
	if k.byName == nil {
		k.byName = make(map[string]int)
	}
	k.byName[name] = len(k.names)
	k.names = append(k.names, name)
	return len(k.names) - 1
}

// list returns the names in the order of their numbers.
func (k *kinds) list() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.names
}
