package relay

import (
	"net/netip"
	"time"
)

// eachSlots is how many slots Each looks at before the loop's tunnels have their turn.
const eachSlots = 4 * pageSlots

// Info describes one open tunnel at one moment.
type Info struct {
	ID                  uint64
	Peer                netip.AddrPort
	Since, Opened       time.Time
	LastActive          time.Time // when the last byte came from either side
	Labels              *Labels
	Mode                Mode
	ClientFD            int // for TCP_INFO; may be another connection's by the time it is used
	Queued              int // bytes that wait for a side to take them
	ToClient, ToBackend Flow
	Draining            bool // chosen by a drain, or about to close
	Note                any  // of the client's seat
}

// Stats are sums over all tunnels, open and ended, no older than a tick of the loops.
type Stats struct {
	// Open counts tunnels by Mode.
	Open [numModes]int
	// Queued is the bytes that wait now, Paused the tunnels that a full queue, and Delayed
	// those that a rate holds up now.
	Queued, Paused, Delayed int
	ToClient, ToBackend     Flow
	// Ended counts tunnels by reason.Reason.
	Ended []uint64
	// Pings and Pongs count pings sent by the gateway and answers to them, Pauses how often
	// a full queue stopped the reading of a side.
	Pings, Pongs, Pauses uint64
}

// Each calls f, on the caller's goroutine, for each open tunnel until it returns false.
// It is no snapshot: tunnels that open or end meanwhile may be in it or not. It waits
// for the loops, so it must not be called on one.
func (r *Relay) Each(f func(Info) bool) {
	for _, lp := range r.loops {
		for page, more := 0, true; more; page += eachSlots / pageSlots {
			var found []Info
			more = lp.call(func() { found = lp.describe(page) }) && found != nil
			for _, info := range found {
				if !f(info) {
					return
				}
			}
		}
	}
}

// describe returns the tunnels of some pages, nil after the last.
func (lp *loop) describe(page int) []Info {
	if page >= len(lp.slab.pages) {
		return nil
	}
	found := []Info{}
	now := time.Now()
	for p := page; p < min(len(lp.slab.pages), page+eachSlots/pageSlots); p++ {
		lp.inPage(p, func(i uint32, s *slot) bool {
			info := Info{
				ID: s.id, Peer: lp.slab.getPeer(i, s), Since: fromUnixNano(s.since), Opened: fromUnixNano(s.opened),
				LastActive: now.Add(s.last - lp.now), Labels: lp.labels.entries[s.labels].key, Mode: lp.policyOf(s).Mode,
				ClientFD: int(s.fd[client]), Queued: lp.waiting(s, client) + lp.waiting(s, backend),
				Draining: s.flags&(draining|closing) != 0,
			}
			if s.tls != 0 {
				if seat := lp.secure.get(s.tls).seat[client]; seat != nil {
					info.Note = seat.Note
				}
			}
			info.ToClient, info.ToBackend = lp.flows(s)
			found = append(found, info)
			return true
		})
	}
	return found
}

// publish lets Stats see the loop's counters.
func (lp *loop) publish() {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	sums := lp.published.Ended
	copy(sums, lp.stats.Ended)
	lp.published = lp.stats
	lp.published.Ended = sums
}

// Stats returns the sums.
func (r *Relay) Stats() Stats {
	var sum Stats
	for _, lp := range r.loops {
		lp.mu.Lock()
		sum.add(&lp.published)
		lp.mu.Unlock()
	}
	return sum
}

func (s *Stats) add(t *Stats) {
	if s.Ended == nil {
		s.Ended = make([]uint64, len(t.Ended))
	}
	for m := range s.Open {
		s.Open[m] += t.Open[m]
	}
	for k := range s.Ended {
		s.Ended[k] += t.Ended[k]
	}
	s.Queued += t.Queued
	s.Paused += t.Paused
	s.Delayed += t.Delayed
	s.ToClient.add(t.ToClient)
	s.ToBackend.add(t.ToBackend)
	s.Pings += t.Pings
	s.Pongs += t.Pongs
	s.Pauses += t.Pauses
}
