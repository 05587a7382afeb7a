package tlsload

import (
	"crypto/tls"
	"sync"
)

// mostSessions bounds the sessions that are kept; a later one takes the place of the oldest.
const mostSessions = 4096

// sessions are those that connections may resume, shared by all workers. The oldest is taken
// first, so that tickets are as old as they would be with clients that come back.
type sessions struct {
	mu   sync.Mutex
	ring [mostSessions]*tls.ClientSessionState // guarded by mu
	from int                                   // guarded by mu; index of the oldest
	n    int                                   // guarded by mu
}

func (s *sessions) put(state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == mostSessions {
		s.from, s.n = (s.from+1)%mostSessions, s.n-1
	}
	s.ring[(s.from+s.n)%mostSessions] = state
	s.n++
}

// take returns nil if there is none.
func (s *sessions) take() *tls.ClientSessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return nil
	}
	state := s.ring[s.from]
	s.ring[s.from] = nil
	s.from, s.n = (s.from+1)%mostSessions, s.n-1
	return state
}

// cache is the tls.ClientSessionCache of one worker, and thus of one connection at a
// time: it hands out the session that the worker has chosen, or none.
type cache struct {
	all      *sessions
	offer    *tls.ClientSessionState
	tickets  int    // that came since the worker set it to 0
	onTicket func() // called for each; nil does nothing
}

// Get implements tls.ClientSessionCache.
func (c *cache) Get(string) (*tls.ClientSessionState, bool) { return c.offer, c.offer != nil }

// Put implements tls.ClientSessionCache; nil says that the session offered is of no use.
func (c *cache) Put(_ string, state *tls.ClientSessionState) {
	if state == nil {
		c.offer = nil
		return
	}
	c.tickets++
	c.all.put(state)
	if c.onTicket != nil {
		c.onTicket()
	}
}
