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
	return true
}

// leave gives the worker back. A tunnel did so when it began.
func (x *Exchange) leave() {
	if !x.upgraded {
		x.c.gw.workers.Leave()
	}
}
