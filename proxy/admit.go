package proxy

import (
	"time"

	"tickgate/internal/reason"
	"tickgate/limiter"
)

// admit decides whether the request may run now. On true a worker is held until
// leave.
func (x *Exchange) admit() bool {
	if x.tooLarge() {
		return x.fail(reason.BodyTooLarge)
	}
	waited, ok := x.enter()
	x.phases.Queue = waited
	if !ok {
		x.retryIn = time.Second
		return x.fail(reason.Overloaded)
	}
	x.admitted = true
	return true
}

// enter takes a place among the requests served at once. What the connection waited for
// a worker to read this request counts towards workers.queue_timeout, but critical requests
// have their whole wait: nobody knew what they are.
func (x *Exchange) enter() (waited time.Duration, ok bool) {
	g := x.c.gw
	before := x.waited
	if before == 0 || x.rt.class == limiter.Critical {
		waited, ok = g.gate.Enter(x.rt.class, time.Time{})
		return before + waited, ok
	}
	left := x.snap.cfg.Workers.QueueTimeout - before
	if left <= 0 {
		g.late.Add(1)
		return before, false
	}
	waited, ok = g.gate.Enter(x.rt.class, time.Now().Add(left))
	return before + waited, ok
}

// leave gives the worker back, if one is held. A tunnel does so when it begins.
func (x *Exchange) leave() {
	if x.admitted {
		x.admitted = false
		x.c.gw.gate.Leave()
	}
}
