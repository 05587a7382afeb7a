package tlsload

import (
	"container/heap"
	"crypto/tls"
	"math/rand/v2"
	"sync"
	"time"
)

// mostSessions bounds the sessions that are kept; a later one takes the place of the one that would be
// taken first.
const mostSessions = 16384

// session is one that a connection may resume.
type session struct {
	state *tls.ClientSessionState
	came  time.Time // with its ticket
	due   time.Time // not resumed before
}

// byDue is a heap of sessions, the one first that is due first.
type byDue []session

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *byDue) Push(s any) { *h = append(*h, s.(session)) }

// Pop implements heap.Interface.
func (h *byDue) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = session{}
	*h = old[:len(old)-1]
	return last
}

// sessions are those that connections may resume, shared by all workers. Without a time to stay away the oldest
// is taken first, so that tickets are as old as they would be with clients that come back.
type sessions struct {
	least, most time.Duration // that a client stays away; does not change

	mu   sync.Mutex
	heap byDue      // guarded by mu
	dice *rand.Rand // guarded by mu
}

// put keeps a session, of which the client comes back after a time between least and most.
func (s *sessions) put(state *tls.ClientSessionState, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	away := s.least
	if s.most > s.least {
		away += time.Duration(s.dice.Int64N(int64(s.most - s.least)))
	}
	if len(s.heap) >= mostSessions {
		heap.Pop(&s.heap)
	}
	heap.Push(&s.heap, session{state, now, now.Add(away)})
}

// take returns the session that is due first; none if its time has not come. Where clients do not stay away, any will
// do, also one that came while now was read.
func (s *sessions) take(now time.Time) (taken session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heap) == 0 || s.most > 0 && s.heap[0].due.After(now) {
		return session{}, false
	}
	return heap.Pop(&s.heap).(session), true
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
	c.all.put(state, time.Now())
	if c.onTicket != nil {
		c.onTicket()
	}
}
