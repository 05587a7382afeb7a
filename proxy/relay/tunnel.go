package relay

import (
	"errors"
	"syscall"
	"time"

	"tickgate/internal/reason"
)

// The functions on a tunnel that may end it return whether it still lives. After a false
// its slot is free and must not be touched.

// The end of a tunnel. Each direction ends by itself: the end of what a side sends is
// passed on to the other once the queue is empty. When both directions have ended, the
// tunnel has. The relay itself ends a tunnel (closing) by sending the end both ways and
// dropping what still comes, until both sides have ended too or CloseTimeout is over; in
// Frames mode Close frames go first, and the client's answer is enough.

const (
	// defaultCloseTimeout stands for a Policy.CloseTimeout of 0.
	defaultCloseTimeout = 5 * time.Second

	// answerTime is how long a backend may still take to answer a Close frame when the client
	// has answered: its answer changes nothing any more.
	answerTime = time.Second
)

// resetBy is why a tunnel ends that one side broke off.
var resetBy = [...]reason.Reason{client: reason.ResetByClient, backend: reason.ResetByBackend}

// endOf notes that side d has sent all, and passes it on.
func (lp *loop) endOf(s *slot, d side, cut bool) {
	s.f[d] = s.f[d]&^readable | ended
	s.f[d.other()] |= fin
	s.f[d.other()] &^= byeWanted // the boundary it waits for will not come
	if s.first == 0 {
		s.first = uint8(d) + 1
		if cut && s.flags&closing == 0 {
			s.why = resetBy[d]
		}
	}
}

// refused handles an error of sending to side d. EPIPE means that its peer ended in order
// before it refused bytes: what it sent is still there to be read, and then its end.
// Any other reset has no end behind it.
func (lp *loop) refused(i uint32, s *slot, d side, err error) bool {
	if errors.Is(err, syscall.EPIPE) {
		s.f[d] |= finSeen
	}
	if s.f[d]&(finSeen|ended|byeSeen|dead) != finSeen || s.flags&closing != 0 {
		return lp.failed(i, s, d)
	}
	lp.kill(s, d)
	s.f[d] |= readable
	return lp.settle(i, s)
}

// failed handles an error on the socket of side d, or of TLS on it.
func (lp *loop) failed(i uint32, s *slot, d side) bool {
	if s.f[d]&(ended|byeSeen) == 0 && s.flags&closing == 0 {
		s.why = resetBy[d]
		lp.finish(i, s, true)
		return false
	}
	// It had ended its own direction before, and now takes no more bytes; or the relay
	// closes it anyway.
	lp.kill(s, d)
	lp.endOf(s, d, false)
	return lp.settle(i, s)
}

// kill has everything for side d dropped.
func (lp *loop) kill(s *slot, d side) {
	s.f[d] |= dead | fin | shut
	s.f[d] &^= byeWanted
	if s.queues != 0 {
		lp.dropQueue(s, d)
	}
	lp.unpause(s, d.other())
}

// settle passes ends on that are due, and finishes the tunnel if nothing more will
// come.
func (lp *loop) settle(i uint32, s *slot) bool {
	if s.flags&(closing|framed) == closing|framed {
		lp.settleAnswers(s)
	}
	for _, d := range [...]side{client, backend} {
		if s.f[d]&(fin|shut) == fin && lp.waiting(s, d) == 0 && !lp.shutdown(i, s, d) {
			return false
		}
	}
	if over(s, client) && over(s, backend) || s.flags&lasting != 0 && answered(s, backend) && s.f[client]&s.f[backend]&shut != 0 {
		lp.finish(i, s, false)
		return false
	}
	return true
}

// over reports whether nothing more goes from side d to the other.
func over(s *slot, d side) bool {
	to := s.f[d.other()]
	return to&dead != 0 || s.f[d]&ended != 0 && to&shut != 0
}

// answered reports whether side d has said that it will send no more.
func answered(s *slot, d side) bool { return s.f[d]&(byeSeen|ended|dead) != 0 }

// settleAnswers has a tunnel that is closing with Close frames end when the client has
// answered. Its FIN then comes from here: a client waits for the server to close first
// (RFC 6455 section 7.1.1).
func (lp *loop) settleAnswers(s *slot) {
	if s.flags&lasting != 0 || !answered(s, client) || s.f[client]&byeWanted != 0 {
		return
	}
	s.flags |= lasting
	s.closeBy = min(s.closeBy, lp.now+answerTime)
	for _, d := range [...]side{client, backend} {
		s.f[d] = s.f[d]&^byeWanted | fin
		s.f[d] |= swallow
	}
}

// shutdown tells side d that nothing more comes.
func (lp *loop) shutdown(i uint32, s *slot, d side) bool {
	if s.f[d]&secure != 0 {
		if !lp.notify(i, s, d) {
			return false
		}
		if lp.waiting(s, d) > 0 {
			return true // close_notify is in the queue
		}
	}
	s.f[d] |= shut
	if sendFIN(s.fd[d]) != nil && s.f[d]&(ended|dead) == 0 {
		s.f[d] |= readable | hup // the peer has gone: reading tells how
		lp.again(i, s)
	}
	return true
}

// end begins to close a tunnel for a reason of the relay's. The codes are for Close
// frames, 0 sends none to that side.
func (lp *loop) end(i uint32, s *slot, why reason.Reason, toClient, toBackend uint16) bool {
	if s.flags&closing != 0 {
		return true
	}
	lp.beginClosing(s, why)
	if s.flags&framed == 0 {
		for _, d := range [...]side{client, backend} {
			s.f[d] |= fin | swallow
		}
		lp.again(i, s)
		return lp.settle(i, s)
	}
	lp.again(i, s)
	return lp.bye(i, s, client, toClient) && lp.bye(i, s, backend, toBackend) && lp.settle(i, s)
}

// beginClosing marks the tunnel as one that the relay ends. Reading goes on, so that
// answers are found.
func (lp *loop) beginClosing(s *slot, why reason.Reason) {
	s.flags |= closing
	s.why = why
	s.closeBy = lp.now + lp.closeTimeout(s)
	for _, d := range [...]side{client, backend} {
		lp.unpause(s, d)
		lp.undelay(s, d)
	}
}

func (lp *loop) closeTimeout(s *slot) time.Duration {
	if d := lp.policyOf(s).CloseTimeout; d > 0 {
		return d
	}
	return defaultCloseTimeout
}

func (lp *loop) policyOf(s *slot) *Policy { return lp.policies.entries[s.policy].key }

// verdict is the reason of a tunnel that ends now.
func verdict(s *slot) reason.Reason {
	switch {
	case s.why != reason.OK:
		return s.why
	case s.first == uint8(client)+1:
		return reason.ClosedByClient
	default:
		return reason.ClosedByBackend
	}
}

// finish ends a tunnel at once: closes the sockets, frees everything, tells the owner.
// With reset, both sides get a RST, so that a cut is not taken for an end; without, only
// a side that is dead.
func (lp *loop) finish(i uint32, s *slot, reset bool) {
	e := lp.epitaph(i, s)
	for _, d := range [...]side{client, backend} {
		lp.unpause(s, d)
		lp.undelay(s, d)
		closeFD(s.fd[d], reset || s.f[d]&dead != 0)
	}
	lp.dropQueues(s)
	if s.tls != 0 {
		lp.secure.release(s.tls)
	}
	if s.frames != 0 {
		lp.dropFrames(s)
	}
	lp.policies.leave(s.policy)
	lp.labels.leave(s.labels)
	if s.flags&draining != 0 {
		defer lp.leaveDrains(i)
	}
	lp.slab.release(i)
	if lp.current == i+1 {
		lp.current = 0
	}
	lp.stats.Open[e.Mode]--
	lp.stats.Ended[e.Reason]++
	defer lp.relay.count.Add(-1) // so that a count of 0 means that all owners know
	lp.relay.onEnded(e)
}

// epitaph describes a tunnel as it ends.
func (lp *loop) epitaph(i uint32, s *slot) Ended {
	p := lp.policyOf(s)
	x := lp.slab.getExtra(i, s)
	e := Ended{
		ID: s.id, Peer: lp.slab.getPeer(i, s), Since: fromUnixNano(s.since), Opened: fromUnixNano(s.opened), Lifetime: lp.now - s.born,
		Labels: lp.labels.entries[s.labels].key, Mode: p.Mode, Reason: verdict(s), Code: s.code, Stub: x.stub, Owner: x.owner,
	}
	e.ToClient, e.ToBackend = lp.flows(s)
	return e
}

// flows returns what went to the client and to the backend.
func (lp *loop) flows(s *slot) (toClient, toBackend Flow) {
	if s.frames != 0 {
		fr := lp.frames.get(s.frames)
		toClient, toBackend = fr.dir[backend].flow(), fr.dir[client].flow()
	}
	toClient.Bytes, toBackend.Bytes = s.bytes[backend], s.bytes[client]
	return toClient, toBackend
}

// doByID calls do for the tunnel with the given ID.
func (lp *loop) doByID(id uint64, do func(lp *loop, i uint32, s *slot)) bool {
	for i, s := range lp.all {
		if s.id == id {
			if !lp.enter(i) {
				return false
			}
			do(lp, i, s)
			lp.leave()
			return true
		}
	}
	return false
}
