package httpload

import (
	"crypto/tls"
	"errors"
	"io"
	"syscall"
	"time"

	"tickgate/internal/sock"
	"tickgate/proxy/reactor"
)

// state is what a connection does. Those from connecting on have a deadline.
type state uint8

const (
	closed   state = iota
	shaking        // with the crew that connects over TLS, which has deadlines of its own
	idle           // in the list of the free
	thinking       // pauses
	connecting
	sent // a request is under way
)

// conn is a slot for one connection at a time, owned by its loop.
type conn struct {
	index, gen uint32
	fd         int32 // -1 if there is none
	state      state
	next, prev uint32 // in the list of the free
	served     int    // whole responses
	deadline   time.Duration

	// The request under way; also that which goes again over a new connection, while that
	// is made.
	message  *message // nil if there is none
	due      time.Duration
	sent     time.Duration
	unsent   []byte // what the socket has not taken yet
	response response

	tls  *tls.Conn // nil for plain TCP
	seat *sock.Seat
}

// begin sends a request.
func (w *worker) begin(c *conn, m *message, due time.Duration) {
	if c.message == nil {
		w.busy++
	}
	c.message, c.due, c.sent, c.state = m, due, w.now, sent
	c.deadline = w.now + w.run.Timeout
	c.response.reset(m.method)
	if w.record.counts(due) {
		w.record.sent++
		w.record.bytesOut += int64(len(m.wire))
	}
	if err := w.send(c, m.wire); err != nil {
		w.lost(c, classify(err), err)
	}
}

// send gives bytes to the socket, or keeps what it does not take: by reference, as
// messages do not change.
func (w *worker) send(c *conn, p []byte) error {
	if c.tls != nil {
		return w.seal(c, p)
	}
	n, err := trySend(c.fd, p)
	c.unsent = p[n:]
	return err
}

// trySend returns how much the socket took.
func trySend(fd int32, p []byte) (n int, err error) {
	for n < len(p) {
		k, errno := sock.Send(uintptr(fd), p[n:])
		switch errno {
		case 0:
			n += k
		case syscall.EAGAIN:
			return n, nil
		case syscall.EINTR:
		default:
			return n, errno
		}
	}
	return n, nil
}

// flush goes on with a request that the socket had no room for. An error is not the end
// yet: a server may answer and close before it has read everything. Who reads sees.
func (w *worker) flush(c *conn) {
	n, _ := trySend(c.fd, c.unsent)
	c.unsent = c.unsent[n:]
}

// serve handles an event of a connection.
func (w *worker) serve(c *conn, ev reactor.Event) {
	switch c.state {
	case connecting:
		if ev&(reactor.Writable|reactor.Failed|reactor.PeerClosed) != 0 {
			w.connected(c)
		}
	case idle, thinking:
		if ev&(reactor.Readable|reactor.PeerClosed|reactor.Failed) != 0 && w.spoiled(c) {
			w.close(c)
		}
	case sent:
		if ev&reactor.Writable != 0 && len(c.unsent) > 0 {
			w.flush(c)
		}
		if ev != reactor.Writable {
			w.read(c, ev&(reactor.PeerClosed|reactor.Failed) != 0)
		}
	}
}

// spoiled says whether a connection that nobody uses has ended, or has bytes that nobody
// asked for. TLS has some: tickets, for one.
func (w *worker) spoiled(c *conn) bool {
	p := w.reactor.Buffer()
	if c.tls == nil {
		p = p[:1]
	}
	_, err := w.receive(c, p)
	return !errors.Is(err, sock.ErrWouldBlock)
}

// receive reads what there is: sock.ErrWouldBlock if that is nothing, sock.ErrCut at the
// end of the stream.
func (w *worker) receive(c *conn, p []byte) (int, error) {
	if c.tls != nil {
		return w.openRecord(c, p)
	}
	return tryReceive(c.fd, p)
}

func tryReceive(fd int32, p []byte) (int, error) {
	for {
		n, errno := sock.Recv(uintptr(fd), p)
		switch {
		case n > 0:
			return n, nil
		case errno == 0:
			return 0, sock.ErrCut
		case errno == syscall.EAGAIN:
			return 0, sock.ErrWouldBlock
		case errno != syscall.EINTR:
			return 0, errno
		}
	}
}

// read takes what has come of the response. With ending, the peer has closed, or the
// connection failed.
func (w *worker) read(c *conn, ending bool) {
	p := w.reactor.Buffer()
	for range readsAtOnce {
		n, err := w.receive(c, p)
		switch {
		case err == sock.ErrWouldBlock: //nolint:errorlint // the fast path; it is not wrapped
			return
		case err != nil:
			w.ended(c, err)
			return
		}
		if w.record.counts(c.due) {
			w.record.bytesIn += int64(n)
		}
		whole, err := c.response.feed(p[:n], &w.head)
		switch {
		case err != nil:
			w.lost(c, Malformed, err)
			return
		case whole:
			w.answered(c, ending)
			return
		case n < len(p) && !ending && c.tls == nil:
			return // the socket is empty
		}
		w.now = w.run.clock()
	}
	w.reactor.Again(token(c))
}

// ended handles the end of a connection with a request under way.
func (w *worker) ended(c *conn, err error) {
	over := errors.Is(err, sock.ErrCut) || errors.Is(err, io.EOF)
	switch {
	case over && c.response.ended():
		w.answered(c, true)
	case over:
		w.lost(c, ClosedEarly, nil)
	default:
		w.lost(c, classify(err), err)
	}
}

// answered handles a whole response.
func (w *worker) answered(c *conn, ending bool) {
	m := c.message
	w.record.answered(c, w.now)
	w.busy--
	c.message = nil
	c.served++
	spent := w.run.PerConn > 0 && c.served >= w.run.PerConn
	switch pause := m.pause(w.rng); {
	case ending || spent || !c.response.keep || len(c.unsent) > 0:
		w.close(c)
	case pause > 0 && !w.run.open && !w.draining:
		w.think(c, pause)
	default:
		w.available(c)
	}
}

// close ends a connection; its slot is free for another.
func (w *worker) close(c *conn) {
	switch c.state {
	case idle:
		w.free.remove(w.conns, c.index)
	case connecting, shaking:
		w.opening--
	}
	if c.fd >= 0 {
		closeFD(c.fd)
	}
	c.fd, c.state, c.served = -1, closed, 0
	c.gen = (c.gen + 1) & genMask
	c.message, c.unsent, c.tls, c.seat = nil, nil, nil, nil
	w.unopened = append(w.unopened, c.index)
}

// genMask is what a token keeps of a generation.
const genMask = 1<<24 - 1

func token(c *conn) reactor.Token { return reactor.MakeToken(reactor.Load, c.index, c.gen) }
