package relay

import (
	"net/netip"
	"slices"

	"tickgate/internal/reason"
	"tickgate/internal/ws"
)

// reviewBatch is how many tunnels a loop ends before others have their turn.
const reviewBatch = 64

// Reviewed is a tunnel as Review shows it.
type Reviewed struct {
	ID     uint64
	Peer   netip.AddrPort
	Labels *Labels
	Owner  any // of Params
	Note   any // of the client's seat
}

// Review shows every tunnel whose client has a note to judge, on the caller's goroutine, and ends those that it has a reason for, in the way of Close
// but with the close code of the reason, to both sides. It returns how many were ended. Judge may take its time: nothing is held or waits meanwhile. Tunnels that join
// meanwhile may be missed, and one that is about to close is not shown. Review waits for the loops, so it must not be called on one.
func (r *Relay) Review(judge func(*Reviewed) reason.Reason) (ended int) {
	for _, lp := range r.loops {
		for page := 0; ; page += eachSlots / pageSlots {
			var found []candidate
			if !lp.call(func() { found = lp.candidates(page) }) || found == nil {
				break
			}
			ended += lp.sentence(found, judge)
		}
	}
	return ended
}

// candidate is a tunnel to be judged, and then what it ends for.
type candidate struct {
	Reviewed
	mark mark
	why  reason.Reason
}

// candidates returns the tunnels of some pages whose clients have notes, nil after the last page.
func (lp *loop) candidates(page int) []candidate {
	if page >= len(lp.slab.pages) {
		return nil
	}
	found := []candidate{}
	for p := page; p < min(len(lp.slab.pages), page+eachSlots/pageSlots); p++ {
		lp.inPage(p, func(i uint32, s *slot) bool {
			if note := lp.clientNote(s); note != nil && s.flags&closing == 0 {
				found = append(found, candidate{
					Reviewed: Reviewed{s.id, lp.slab.getPeer(i, s), lp.labels.entries[s.labels].key, lp.slab.getExtra(i, s).owner, note},
					mark:     mark{i: i, gen: s.gen},
				})
			}
			return true
		})
	}
	return found
}

// clientNote is the note of the client's seat, nil without TLS.
func (lp *loop) clientNote(s *slot) any {
	if s.tls == 0 {
		return nil
	}
	if seat := lp.secure.get(s.tls).seat[client]; seat != nil {
		return seat.Note
	}
	return nil
}

// sentence judges, not on the loop, and has the loop end whoever there is a reason for, some at a time.
func (lp *loop) sentence(found []candidate, judge func(*Reviewed) reason.Reason) (ended int) {
	for k := range found {
		found[k].why = judge(&found[k].Reviewed)
	}
	found = slices.DeleteFunc(found, func(c candidate) bool { return c.why == reason.OK })
	for batch := range slices.Chunk(found, reviewBatch) {
		lp.call(func() {
			for k := range batch {
				if lp.execute(batch[k].mark, batch[k].why) {
					ended++
				}
			}
		})
	}
	return ended
}

// execute ends the marked tunnel, unless it has ended meanwhile or is about to.
func (lp *loop) execute(m mark, why reason.Reason) bool {
	s := lp.find(m)
	if s == nil || s.flags&closing != 0 || !lp.enter(m.i) {
		return false
	}
	code := ws.CloseCode(why)
	lp.end(m.i, s, why, code, code)
	lp.leave()
	return true
}
