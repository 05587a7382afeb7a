package proxy

import (
	"fmt"
	"runtime/debug"

	"tickgate/internal/reason"
)

// serve is the road of a request. Each phase either goes on or has set the reason
// for which the request ends; an answer that the phases did not send is sent here.
func (x *Exchange) serve() {
	defer x.rescue()
	if x.route() && x.admit() {
		x.rt.action.serve(x)
		x.leave()
	}
	if x.ended != reason.OK && !x.started {
		x.replyError()
	}
	x.settleBody()
	x.finish()
}

// rescue turns a panic, which no peer should be able to cause, into a 500 and a
// closed connection: one bug must not end every other connection.
func (x *Exchange) rescue() {
	p := recover()
	if p == nil {
		return
	}
	x.c.gw.log.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).
		Bytes("target", x.req.Target()).Msg("BUG: panic while serving a request")
	x.ended = reason.Internal
	x.keepAlive = false
	if !x.started {
		x.replyError()
	}
	x.finish()
}
