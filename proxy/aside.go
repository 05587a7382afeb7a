package proxy

import (
	"errors"
	"time"

	"tickgate/internal/sock"
)

// A request whose body streams steps aside while its client pauses: it gives its place at the gate
// back, another worker may run in place of its own, and it keeps neither of the pump's large
// buffers. When bytes come, or the body ends in any way, it takes the place again, without a
// wait and whether one is free or not. What it keeps all the time is its connection to the
// backend, so pool.max_conns bounds how many can be aside.
//
// The steps: headPatience without a byte, then aside; then timeouts.body in all, then 408. A client
// that has stalled is not waited for with a place again, until one read brings fullRead.
//
// Exchange.admitted stays true meanwhile: the pump gives the place back and takes it again, and has it
// when it ends (endPump), so that Exchange.leave is right whenever it runs. Only keepPlace, when the
// response begins, may take it in the pump's stead. requestBody.place decides between the two.

// fullRead is what a client that has stalled has to send at once to be taken for a fast one.
const fullRead = 4 << 10

// smallRead is the room for what ends a stall.
const smallRead = 512

// pump is what pumpBody reads into.
type pump struct {
	bufs  *pumpBuffers // nil while aside
	small []byte       // made at the first stall
	slow  bool         // it has stalled
}

func (p *pump) release() {
	if p.bufs != nil {
		pumpPool.Put(p.bufs)
		p.bufs = nil
	}
}

// readPiece reads some of the body, stepping aside for as long as none comes.
func (x *Exchange) readPiece(p *pump) (src []byte, err error) {
	b, c := &x.body, x.c
	pause := x.snap.cfg.Timeouts.Body
	wait := min(pause, headPatience)
	if c.sk.Interrupted().Has(sock.ReadExpired) {
		c.resume(sock.ReadExpired) // of the read before, if it passed as these bytes came
	}
	if p.slow {
		wait = 0
		c.sk.NoWait(true)
	}
	c.sk.ArmRead(wait)
	n, err := c.rw.Read(p.bufs.in[:b.readSize(len(p.bufs.in))])
	c.sk.ArmRead(0) // a slow backend is no fault of the client
	c.sk.NoWait(false)
	if n > 0 || !c.stalls(err) {
		p.slow = p.slow && n < fullRead
		return p.bufs.in[:n], err
	}
	if pause -= wait; pause <= 0 {
		return nil, err
	}
	if !x.stepAside() {
		return x.readOn(p.bufs.in, pause)
	}
	p.release()
	p.slow = true
	if p.small == nil {
		p.small = make([]byte, smallRead)
	}
	src, err = x.readOn(p.small, pause)
	x.comeBack()
	p.bufs = pumpPool.Get().(*pumpBuffers)
	return src, err
}

// readOn is the rest of a wait that began in readPiece.
func (x *Exchange) readOn(in []byte, pause time.Duration) ([]byte, error) {
	c := x.c
	c.resume(sock.ReadExpired)
	c.sk.ArmRead(pause)
	n, err := c.rw.Read(in[:x.body.readSize(len(in))])
	c.sk.ArmRead(0)
	return in[:n], err
}

// stalls reports whether the read that just failed found nothing, rather than an end.
func (c *clientConn) stalls(err error) bool {
	return errors.Is(err, sock.ErrWouldBlock) || c.sk.Interrupted() == sock.ReadExpired
}

// stepAside gives the place back until comeBack. It fails once the response has begun.
func (x *Exchange) stepAside() bool {
	if !x.body.place.CompareAndSwap(placeHeld, placeAside) {
		return false
	}
	g := x.c.gw
	g.aside.Add(1)
	g.gate.Leave()
	x.c.lend(1)
	return true
}

// comeBack takes the place again, unless keepPlace has.
func (x *Exchange) comeBack() {
	if x.body.place.CompareAndSwap(placeAside, placeHeld) {
		x.resume()
	}
}

// keepPlace has the request keep its place from now on: it has work besides its body.
func (x *Exchange) keepPlace() {
	if x.body.place.Swap(placeKept) == placeAside {
		x.resume()
	}
}

// resume undoes stepAside. Its steps may come before those, which does no harm: the
// sums are right when both are over.
func (x *Exchange) resume() {
	g := x.c.gw
	g.gate.Resume()
	x.c.lend(-1)
	g.aside.Add(-1)
}

// lend has the connection's crew have n more workers, or -n fewer.
func (c *clientConn) lend(n int) {
	if c.crew != nil {
		c.crew.lend(n)
	}
}
