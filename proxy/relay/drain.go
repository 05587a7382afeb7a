package relay

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/reason"
)

// drainBatch is how many tunnels a loop closes at once: some ten milliseconds of its time.
// More wait for the next tick.
const drainBatch = 2000

// DrainOptions say which tunnels to close, how, and by when.
type DrainOptions struct {
	// Match chooses tunnels by their labels; nil is all. It is called on the loops, at the
	// same time, and must not block.
	Match func(*Labels) bool
	// Window is the time over which the tunnels are closed, HardCap the time after which the
	// rest is cut, both from now; 0 is at once, and never.
	Window, HardCap time.Duration
	// Code is the close code that clients get in Frames mode; backends get 1001.
	Code   uint16
	Reason reason.Reason
	// Sticky: tunnels that join later and match are closed as well, spread over what is left
	// of the window, until Cancel. Whoever drains something that comes and goes has to call
	// it.
	Sticky bool
}

// Draining is one drain under way. Of n tunnels, the k-th (from 0) is closed at (k+u)/n
// of the window, u being random from 0 to 1: evenly over all loops together.
type Draining struct {
	relay *Relay
	o     DrainOptions

	// Static once the loops know of the drain.
	start time.Duration

	total, left atomic.Int64
	done        chan struct{}
	once        sync.Once
	cancelled   atomic.Bool
}

// part is a drain on one loop.
type part struct {
	d       *Draining
	members map[uint32]uint32 // slot -> generation
	plan    []due             // by time
}

// due is when a tunnel is to be closed.
type due struct {
	at     time.Duration
	i, gen uint32
}

// Drain closes the tunnels that match, in the way of Close. It returns when they are
// counted; as that waits for the loops, it must not be called on one.
func (r *Relay) Drain(o DrainOptions) *Draining {
	d := &Draining{relay: r, o: o, done: make(chan struct{})}
	if o.Match == nil {
		d.o.Match = func(*Labels) bool { return true }
	}
	d.left.Store(1) // until the plan is made
	r.loops[0].call(func() { d.start = r.loops[0].now })
	counts := make([]int, len(r.loops))
	for k, lp := range r.loops {
		lp.call(func() { counts[k] = lp.beginDrain(d) })
	}
	n := 0
	for _, c := range counts {
		n += c
	}
	places := rand.Perm(n)
	for k, lp := range r.loops {
		mine := places[:counts[k]]
		places = places[counts[k]:]
		lp.call(func() { lp.planDrain(d, mine, n) })
	}
	d.gone()
	return d
}

// Left is how many of the tunnels are still open.
func (d *Draining) Left() int { return int(d.left.Load()) }

// Total is how many tunnels there were, later ones of a sticky drain included.
func (d *Draining) Total() int { return int(d.total.Load()) }

// Done is closed when none of the tunnels is left, or the drain was cancelled. A sticky
// drain still closes tunnels that join after that.
func (d *Draining) Done() <-chan struct{} { return d.done }

// Cancel lets the tunnels live that are not being closed yet, and new ones. It waits
// for the loops, so it must not be called on one.
func (d *Draining) Cancel() {
	if d.cancelled.Swap(true) {
		return
	}
	for _, lp := range d.relay.loops {
		lp.call(func() { lp.cancelDrain(d) })
	}
	d.once.Do(func() { close(d.done) })
}

// gone counts one tunnel less.
func (d *Draining) gone() {
	if d.left.Add(-1) == 0 {
		d.once.Do(func() { close(d.done) })
	}
}

// add counts one tunnel more.
func (p *part) add(i uint32, s *slot) {
	s.flags |= draining
	p.members[i] = s.gen
	p.d.total.Add(1)
	p.d.left.Add(1)
}

// beginDrain collects the loop's tunnels for a drain and returns their number.
func (lp *loop) beginDrain(d *Draining) int {
	p := &part{d: d, members: map[uint32]uint32{}}
	for i, s := range lp.all {
		if d.o.Match(lp.labels.entries[s.labels].key) {
			p.add(i, s)
		}
	}
	lp.parts = append(lp.parts, p)
	return len(p.members)
}

// planDrain gives the loop's members their places of n. Some may have ended meanwhile:
// their places stay empty. Those that joined meanwhile have a time already.
func (lp *loop) planDrain(d *Draining, places []int, n int) {
	k := slices.IndexFunc(lp.parts, func(p *part) bool { return p.d == d })
	if k < 0 {
		return // the loop has closed
	}
	p := lp.parts[k]
	planned := map[uint32]bool{}
	for _, late := range p.plan {
		planned[late.i] = true
	}
	for i, gen := range p.members {
		if planned[i] {
			continue
		}
		at := float64(d.o.Window) * (float64(places[0]) + rand.Float64()) / float64(n)
		places = places[1:]
		p.plan = append(p.plan, due{d.start + time.Duration(at), i, gen})
	}
	slices.SortFunc(p.plan, byTime)
	if d.o.Window <= 0 {
		lp.runDrain(p)
	}
}

func byTime(a, b due) int { return int(a.at - b.at) }

// joinDrains has a new tunnel closed by the sticky drains that match it, at a random
// time in what is left of their windows.
func (lp *loop) joinDrains(i uint32, s *slot, l *Labels) {
	for _, p := range lp.parts {
		if !p.d.o.Sticky || !p.d.o.Match(l) {
			continue
		}
		p.add(i, s)
		at := lp.now + time.Duration(float64(max(p.d.start+p.d.o.Window-lp.now, 0))*rand.Float64())
		e := due{at, i, s.gen}
		where, _ := slices.BinarySearchFunc(p.plan, e, byTime)
		p.plan = slices.Insert(p.plan, where, e)
	}
}

// leaveDrains takes a tunnel that has ended out of its drains.
func (lp *loop) leaveDrains(i uint32) {
	for _, p := range lp.parts {
		if _, ok := p.members[i]; ok {
			delete(p.members, i)
			p.d.gone()
		}
	}
}

func (lp *loop) tickDrains() {
	for _, p := range lp.parts {
		lp.runDrain(p)
	}
	lp.parts = slices.DeleteFunc(lp.parts, func(p *part) bool { return len(p.members) == 0 && !p.d.o.Sticky && p.d.left.Load() == 0 })
}

// runDrain closes the members whose time has come, and after the hard cap cuts those
// that are still there. A tunnel that joined after that is closed in order, as nobody
// waits for it.
func (lp *loop) runDrain(p *part) {
	k := 0
	for k < min(len(p.plan), drainBatch) && p.plan[k].at <= lp.now {
		e := p.plan[k]
		k++
		if s := lp.find(mark{i: e.i, gen: e.gen}); s != nil {
			if lp.enter(e.i) {
				lp.end(e.i, s, p.d.o.Reason, p.d.o.Code, goingAway)
				lp.leave()
			}
		}
	}
	p.plan = p.plan[k:]
	if p.d.o.HardCap <= 0 || lp.now < p.d.start+p.d.o.HardCap {
		return
	}
	for i, gen := range p.members {
		s := lp.find(mark{i: i, gen: gen})
		if s == nil || s.born >= p.d.start+p.d.o.HardCap {
			continue
		}
		if s.flags&closing == 0 {
			s.why = p.d.o.Reason
		}
		lp.finish(i, s, true)
	}
}

// cancelDrain forgets a drain.
func (lp *loop) cancelDrain(d *Draining) {
	k := slices.IndexFunc(lp.parts, func(p *part) bool { return p.d == d })
	if k < 0 {
		return
	}
	p := lp.parts[k]
	lp.parts = slices.Delete(lp.parts, k, k+1)
	for i, gen := range p.members {
		d.left.Add(-1)
		s := lp.find(mark{i: i, gen: gen})
		elsewhere := slices.ContainsFunc(lp.parts, func(q *part) bool { _, ok := q.members[i]; return ok })
		if s != nil && !elsewhere {
			s.flags &^= draining
		}
	}
}
