package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"tickgate/internal/sock"
)

const (
	// largeRead is a read after which a tls.Conn is worth trimming: crypto/tls reads records
	// into a buffer that it keeps, of 512 bytes to begin with.
	largeRead = 1 << 10

	// leastCharge is what a record of any size takes of a turn: to open one, and
	// the KeyUpdates before it, costs as much as to move that many bytes, and a peer may send
	// records of a byte each.
	leastCharge = 2 << 10

	// ownSlack is how far a queue may be over its limit before its own side is not read any
	// more: what the other side sends overshoots by one read and its records' overhead, and
	// only what crypto/tls sends by itself goes further.
	ownSlack = 128 << 10

	// gatherAbove is the size of a write whose records are sent together: crypto/tls writes
	// each by itself, the first ones of a connection no larger than a TCP segment.
	gatherAbove = 1200
)

// secured is a tunnel's TLS.
type secured struct {
	conn [2]*tls.Conn // nil for a plain side
	seat [2]*sock.Seat
}

// setTLS keeps the legs' TLS, if any.
func (lp *loop) setTLS(s *slot, p *Params) {
	if p.Client.TLS == nil && p.Backend.TLS == nil {
		return
	}
	n, sec := lp.secure.alloc()
	s.tls = n
	for d, leg := range [...]*Leg{&p.Client, &p.Backend} {
		if leg.TLS != nil {
			sec.conn[d], sec.seat[d] = leg.TLS, leg.Seat
			leg.Seat.Vacate()
			s.f[d] |= secure
		}
	}
}

// readTLS is readSide over TLS. A tls.Conn may hold more than the socket shows, so it
// is asked until it has nothing.
func (lp *loop) readTLS(i uint32, s *slot, d side) bool {
	sec := lp.secure.get(s.tls)
	conn, seat := sec.conn[d], sec.seat[d]
	w := &lp.wires[d]
	w.i, w.s, w.drained = i, s, false
	seat.Take(w)
	defer seat.Vacate()
	for budget := turnBytes; budget > 0 && s.f[d]&(readable|stopped) == readable; {
		if lp.waiting(s, d) > lp.limitOf(s)+ownSlack {
			// It makes crypto/tls answer (KeyUpdate) and does not take the answers.
			lp.pause(s, d)
			break
		}
		p := lp.space(i, s, d)
		if len(p) == 0 {
			break
		}
		n, err := conn.Read(p)
		if n > largeRead {
			lp.wantTrim(i, s, d)
		}
		budget -= max(n, leastCharge)
		if n > 0 && !lp.forward(i, s, d, p[:n]) {
			return false
		}
		switch {
		case err == nil:
		case err == sock.ErrWouldBlock: //nolint:errorlint // the fast path: crypto/tls does not wrap it
			s.f[d] &^= readable
		case errors.Is(err, io.EOF):
			lp.endOf(s, d, false)
		case errors.Is(err, sock.ErrCut):
			lp.endOf(s, d, true)
		default:
			return lp.failed(i, s, d)
		}
	}
	return true
}

// seal gives bytes to side d, encrypted.
func (lp *loop) seal(i uint32, s *slot, d side, p []byte) bool {
	sec := lp.secure.get(s.tls)
	was := lp.seat(i, s, sec, d)
	w := &lp.wires[d]
	w.gather = len(p) > gatherAbove
	_, err := sec.conn[d].Write(p)
	if w.gather {
		w.gather = false
		if err == nil {
			err = toError(lp.put(i, s, d, lp.gathered))
		}
		lp.gathered = lp.gathered[:0]
	}
	sec.seat[d].Take(was)
	return err == nil || lp.refused(i, s, d, err)
}

// notify sends close_notify to side d, once.
func (lp *loop) notify(i uint32, s *slot, d side) bool {
	sec := lp.secure.get(s.tls)
	was := lp.seat(i, s, sec, d)
	err := sec.conn[d].CloseWrite()
	sec.seat[d].Take(was)
	return err == nil || s.f[d]&dead != 0 || lp.refused(i, s, d, err)
}

// seat puts the wire below side d's tls.Conn and returns who was there: the same, if
// the side is being read.
func (lp *loop) seat(i uint32, s *slot, sec *secured, d side) net.Conn {
	w := &lp.wires[d]
	w.i, w.s = i, s
	was := sec.seat[d].Conn
	sec.seat[d].Take(w)
	return was
}

// wire is the net.Conn below a tls.Conn while the relay uses it. It never blocks:
// reads that find nothing fail with sock.ErrWouldBlock, which is not sticky in crypto/tls,
// and writes always succeed, as errors of writes would be.
type wire struct {
	lp *loop
	d  side

	// Of the tunnel being worked on.
	i       uint32
	s       *slot
	drained bool // the last read has emptied the socket
	gather  bool // writes go to loop.gathered
}

// Read implements net.Conn. The end of the stream is sock.ErrCut: crypto/tls would
// take an io.EOF between records for an end in order.
func (w *wire) Read(p []byte) (int, error) {
	if w.drained {
		return 0, sock.ErrWouldBlock
	}
	for {
		n, errno := sock.Recv(uintptr(w.s.fd[w.d]), p)
		switch {
		case n > 0:
			w.drained = n < len(p) && w.s.f[w.d]&hup == 0
			return n, nil
		case errno == 0:
			return 0, sock.ErrCut
		case errno == syscall.EAGAIN:
			w.drained = true
			return 0, sock.ErrWouldBlock
		case errno != syscall.EINTR:
			return 0, errno
		}
	}
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if w.gather {
		w.lp.gathered = append(w.lp.gathered, p...)
		return len(p), nil
	}
	if errno := w.lp.put(w.i, w.s, w.d, p); errno != 0 {
		return 0, errno
	}
	return len(p), nil
}

func toError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// The rest of net.Conn. crypto/tls sets deadlines around alerts; nothing here waits.

func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
