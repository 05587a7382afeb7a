package proxy

import (
	"time"

	"tickgate/internal/reason"
)

// admit decides whether the request may run now. On true a worker is held until
// leave.
func (x *Exchange) admit() bool {
	if limit := x.rt.maxBody; limit > 0 && x.req.ContentLength > limit {
		return x.fail(reason.BodyTooLarge)
	}
	waited, ok := x.c.gw.workers.Enter(time.Time{})
	x.phases.Queue = waited
	if !ok {
		x.retryIn = time.Second
		return x.fail(reason.Overloaded)
	}
	x.admitted = true
	return true
}

// leave gives the worker back, if one is held. A tunnel does so when it begins.
func (x *Exchange) leave() {
	if x.admitted {
		x.admitted = false
		x.c.gw.workers.Leave()
	}
}
