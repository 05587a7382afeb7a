package proxy

import "tickgate/internal/reason"

// serve is the road of a request. Each phase either goes on or has set the reason
// for which the request ends; an answer that the phases did not send is sent here.
func (x *Exchange) serve() {
	defer x.rescue()
	if x.route() && x.permitted() && x.gather() && x.admit() {
		x.rt.action.serve(x)
		x.leave()
	}
	if x.c.fate == fatePark {
		return // it begins anew with more of its body
	}
	if x.ended != reason.OK && !x.started {
		x.replyError()
	}
	x.settleBody()
	x.finish()
}

// rescue turns a panic, which no peer should be able to cause, into a 500 and a
// closed connection.
func (x *Exchange) rescue() {
	p := recover()
	if p == nil {
		return
	}
	x.c.gw.logBug(p, "serving a request")
	x.settleBackend(false)
	x.leave()
	x.ended = reason.Internal
	x.keepAlive = false
	x.rt = x.snap.noRoute // whose answers run no configured template
	if !x.started {
		x.replyError()
	}
	x.finish()
}
