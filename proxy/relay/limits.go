package relay

import (
	"time"

	"tickgate/internal/reason"
)

const (
	// A tick looks at scanPages pages of slots, or at every scanPart-th if there are more: with
	// up to 1,024 slots each of them every tick, beyond about once a second.
	scanPages = 4
	scanPart  = 10

	// trimAfter is how long a TLS side is idle after a large record before its buffers are
	// trimmed: the next record would only have to make them again.
	trimAfter = time.Second
)

// limits is where the tick stands.
type limits struct {
	page    int    // to be looked at next
	trims   []mark // sides that are large
	delays  []mark // clients that are delayed
	delays2 []mark // the other list, while that one is gone through
}

// mark names a side for later. It may be stale by then.
type mark struct {
	i, gen uint32
	d      side
}

// find returns the marked tunnel, nil if it has ended.
func (lp *loop) find(m mark) *slot {
	if s := lp.slab.at(m.i); s != nil && s.gen == m.gen {
		return s
	}
	return nil
}

func (lp *loop) tickLimits() {
	lp.tickStalls()
	lp.tickDelays()
	lp.tickTrims()
	n := len(lp.slab.pages)
	for range min(n, max(scanPages, (n+scanPart-1)/scanPart)) {
		if lp.limits.page >= len(lp.slab.pages) {
			lp.limits.page = 0
		}
		lp.inPage(lp.limits.page, lp.check)
		lp.limits.page++
	}
}

// check applies the limits of time to one tunnel.
func (lp *loop) check(i uint32, s *slot) bool {
	if !lp.enter(i) {
		return false
	}
	p := lp.policyOf(s)
	switch {
	case s.closeBy != 0:
		if lp.now >= s.closeBy {
			lp.finish(i, s, false)
		}
	case p.Idle > 0 && lp.now-s.last >= shorten(p.Idle, p.Jitter, s.jitter):
		lp.end(i, s, reason.IdleTimeout, goingAway, goingAway)
	case p.Lifetime > 0 && lp.now-s.born >= shorten(p.Lifetime, p.Jitter, s.jitter):
		lp.end(i, s, reason.MaxLifetime, goingAway, goingAway)
	case s.frames != 0:
		lp.checkPing(i, s)
	}
	lp.leave()
	return true
}

// shorten takes up to percent of d off, by where dice is in its range.
func shorten(d time.Duration, percent int, dice uint16) time.Duration {
	return d - d/100*time.Duration(percent)/(1<<16)*time.Duration(dice)
}

// tickStalls ends tunnels of which a side takes nothing.
func (lp *loop) tickStalls() {
	for _, page := range lp.queues.pages {
		for k := range page {
			if page[k].used {
				lp.checkStall(&page[k])
			}
		}
	}
}

func (lp *loop) checkStall(qs *queues) {
	i := qs.slot
	s := lp.slab.at(i)
	limit := lp.policyOf(s).Stall
	if limit <= 0 || s.flags&closing != 0 {
		return
	}
	for d := range qs.q {
		if qs.q[d].n > 0 && lp.now-qs.q[d].since >= limit {
			s.why = reason.TunnelStalled
			lp.finish(i, s, true)
			return
		}
	}
}

// delay stops reading the client until its rate allows.
func (lp *loop) delay(i uint32, s *slot) {
	if s.f[client]&delayed != 0 {
		return
	}
	s.f[client] |= delayed
	lp.stats.Delayed++
	lp.limits.delays = append(lp.limits.delays, mark{i: i, gen: s.gen})
}

// undelay undoes delay; the list forgets at the next tick.
func (lp *loop) undelay(s *slot, d side) {
	if s.f[d]&delayed != 0 {
		s.f[d] &^= delayed
		lp.stats.Delayed--
	}
}

// tickDelays reads delayed clients again. Who still may not is delayed anew.
func (lp *loop) tickDelays() {
	marks := lp.limits.delays
	lp.limits.delays = lp.limits.delays2[:0]
	for _, m := range marks {
		s := lp.find(m)
		if s == nil || s.f[client]&delayed == 0 {
			continue
		}
		if lp.enter(m.i) {
			lp.undelay(s, client)
			lp.pump(m.i, s)
			lp.leave()
		}
	}
	lp.limits.delays2 = marks[:0]
}

// wantTrim notes that side d has read a large record.
func (lp *loop) wantTrim(i uint32, s *slot, d side) {
	if s.f[d]&large == 0 && lp.relay.trim != nil {
		s.f[d] |= large
		lp.limits.trims = append(lp.limits.trims, mark{i, s.gen, d})
	}
}

// tickTrims trims the TLS sides that are idle by now.
func (lp *loop) tickTrims() {
	kept := lp.limits.trims[:0]
	for _, m := range lp.limits.trims {
		s := lp.find(m)
		switch {
		case s == nil:
		case lp.now-s.last < trimAfter:
			kept = append(kept, m)
		default:
			s.f[m.d] &^= large
			lp.relay.trim(lp.secure.get(s.tls).conn[m.d])
		}
	}
	lp.limits.trims = kept
}
