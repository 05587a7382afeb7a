package proxy

import (
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/proxy/park"
)

// A small request body is gathered: the request is neither admitted nor given a backend
// before all of it is here, so that a client that dribbles holds nothing that others wait
// for. It is treated like a head that is not whole. The steps, each bounded:
//
//   - headPatience with its worker, in all and not for each piece;
//   - then parked, with head and body so far in park.Conn.Rest: a copy of at most
//     limits.max_head and limits.request_buffer. Every piece costs one visit, which reads
//     what is there, goes through head and body from the start, and does not wait;
//   - timeouts.body without a byte, or gatherTimes as much in all: 408.
//
// The head is parsed and the route is found anew at each visit, so the request is served by
// the configuration of the moment when it is whole.

// gatherTimes is how many times timeouts.body a gathered body may take: a byte in every
// pause would keep a connection for days.
const gatherTimes = 4

// gather returns true once the request may go on: its body is whole, or it is one that
// streams. Otherwise the request has ended, or the connection is to park (fatePark).
func (x *Exchange) gather() bool {
	b, c := &x.body, x.c
	if b.complete || x.rt.upstream == nil || x.req.Expect100 || x.tooLarge() {
		return true // nothing to wait for, or nobody waits for it
	}
	if !b.chunked {
		return b.left <= int64(c.w-c.r) || b.left > x.rt.gathers || x.awaitBody(c.r)
	}
	at := c.r
	if !x.takePrefix() {
		return false
	}
	return b.complete || int64(c.w-at) > x.rt.gathers || x.awaitBody(at)
}

// gathered reports whether the wait for the body is over; at is where the body begins.
func (x *Exchange) gathered(at int) bool {
	b, c := &x.body, x.c
	if !b.chunked {
		return b.left <= int64(c.w-c.r)
	}
	return !x.takePrefix() || b.complete || int64(c.w-at) > x.rt.gathers
}

// awaitBody reads until the body is whole, here for a moment, then parked.
func (x *Exchange) awaitBody(at int) bool {
	if x.refusable() {
		return true // as soon as it is admitted
	}
	c, pause := x.c, x.snap.cfg.Timeouts.Body
	now := c.gw.clock()
	patient, late := now+headPatience, now+pause+clockStep // until when
	if c.resumesBody() {
		x.read = x.read.Add(c.from.Whole - now)
		patient, late = 0, c.from.Until
	}
	if c.gw.lot == nil {
		patient = late
	}
	for {
		last := x.gatherBy(now, pause)
		if c.readBody(min(patient, late, last) - now) {
			now = c.gw.clock()
			if x.gathered(at) {
				break
			}
			late = now + pause + clockStep
			if c.gw.lot == nil {
				patient = late
			}
			continue
		}
		now = c.gw.clock()
		switch cause := c.sk.Interrupted(); {
		case c.killed() != reason.OK:
			return x.broken(c.killed())
		case !c.mayWait(cause):
			return x.broken(reason.ClientGone)
		case min(late, last) <= now:
			return x.bodyLate(now >= last)
		case c.gw.lot != nil && c.sk.PrepareRelease() == nil:
			c.fate, c.bodyBy, c.r = fatePark, min(late, last), 0
			return false
		}
		c.resume(sock.ReadExpired) // no descriptor is free: it waits on here
		patient = late
	}
	if c.sk.Disarm().Has(sock.ReadExpired) {
		c.resume(sock.ReadExpired) // the body was whole as its time ended
	}
	x.ready = time.Now()
	return x.ended == reason.OK
}

// tooLarge reports whether the head announces more of a body than is taken.
func (x *Exchange) tooLarge() bool { return x.rt.maxBody > 0 && x.req.ContentLength > x.rt.maxBody }

// refusable reports whether the request fails whatever its body is.
func (x *Exchange) refusable() bool {
	ok := x.rewrite()
	x.target = x.target[:0] // it is made again when it is needed
	x.ended = reason.OK
	return !ok || x.rt.upstream.set.Pick(x.hashKey(), nil) == nil
}

// gatherBy is when the body has to be whole.
func (x *Exchange) gatherBy(now, pause time.Duration) time.Duration {
	limit := gatherTimes * pause
	if x.rt.timeout > 0 {
		limit = min(limit, x.rt.timeout)
	}
	return now - time.Since(x.read) + limit + clockStep
}

// bodyLate ends a request whose body did not become whole in time. whole says that it was the
// time of the whole that passed.
func (x *Exchange) bodyLate(whole bool) bool {
	if _, ok := x.remaining(time.Now()); whole && !ok {
		return x.broken(reason.RequestTimeout)
	}
	return x.broken(reason.BodyTimeout)
}

// broken ends a request whose body does not become whole, and its connection.
func (x *Exchange) broken(why reason.Reason) bool {
	x.c.resume(sock.ReadExpired) // so that the client can be told
	x.c.end = why
	x.takePrefix() // for the count of bytes
	x.ended = reason.OK
	return x.fail(why)
}

// readBody reads once more behind the head, waiting at most d, and keeps the head at the
// front of the buffer: it parks with the body.
func (c *clientConn) readBody(d time.Duration) bool {
	at := c.r
	c.r = 0
	c.resume(sock.ReadExpired) // of the wait before, if it passed as these bytes came
	ok := c.waitForBytes(d)
	c.r = at
	return ok
}

// mayWait reports whether nothing has come, rather than the end of the connection.
func (c *clientConn) mayWait(cause sock.Cause) bool {
	return c.mayPark(cause) || c.gw.lot == nil && cause == sock.ReadExpired
}

// resumesBody reports whether the request being read is the one whose body was not whole when
// the connection parked.
func (c *clientConn) resumesBody() bool {
	return c.from.Phase == park.Body && c.requests == int(c.from.Served)
}

// abandonBody ends a request whose body did not become whole while the connection was parked.
func (c *clientConn) abandonBody(v *visit) {
	defer c.leave()
	defer c.rescue()
	c.bind()
	c.recall()
	if !c.readHead() {
		return // the limits have changed
	}
	x := c.x
	x.route() // for its labels
	now := c.gw.clock()
	x.read = x.read.Add(c.from.Whole - now)
	switch why := c.gw.whyClosed(&v.conn, v.why); {
	case c.gw.stopping.Load():
		x.broken(reason.ShutDown)
	case v.why == park.Expired:
		x.bodyLate(true)
	default:
		x.broken(why)
	}
	if c.end == reason.KilledByUser && c.gw.wantsReset(c.id) {
		_ = c.sk.Reset()
	}
	x.keepAlive = false
	x.replyError()
	x.finish()
	c.next()
}
