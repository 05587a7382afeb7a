package httpload

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"tickgate/internal/sock"
	"tickgate/loadtest/target"
	"tickgate/proxy/reactor"
)

// mostShaking is how many handshakes are under way at once: crypto/tls wants a goroutine
// for each.
const mostShaking = 64

// crew connects over TLS. What it has made goes back to the loop that asked.
type crew struct {
	// Static after newCrew.
	target  *target.Target
	sweeper *sock.Sweeper
	resume  int         // per cent
	trying  *tls.Config // resumes sessions
	full    *tls.Config
	jobs    chan job
	cancel  context.CancelFunc

	running sync.WaitGroup
}

// job is a slot that wants a connection.
type job struct {
	w          *worker
	index, gen uint32
	number     int
}

// secured is a connection after its handshake.
type secured struct {
	fd      int
	conn    *tls.Conn
	seat    *sock.Seat
	resumed bool
}

// newSettings returns a crew without goroutines.
func newSettings(t *target.Target, resume int) *crew {
	k := &crew{target: t, resume: resume, trying: t.TLS(), full: t.TLS()}
	if resume > 0 {
		sessions := tls.NewLRUClientSessionCache(0)
		k.trying.ClientSessionCache = sessions
		k.full.ClientSessionCache = keepOnly{sessions}
	}
	return k
}

// newCrew starts the goroutines; close ends them.
func newCrew(ctx context.Context, t *target.Target, conns, resume int) *crew {
	k := newSettings(t, resume)
	k.sweeper, k.jobs = sock.NewSweeper(), make(chan job, conns)
	ctx, k.cancel = context.WithCancel(ctx)
	for range min(conns, mostShaking) {
		k.running.Go(func() { k.run(ctx) })
	}
	return k
}

func (k *crew) close() {
	k.cancel()
	k.running.Wait()
	k.sweeper.Close()
}

// keepOnly keeps sessions for others and offers none: handshakes with it are full ones.
type keepOnly struct{ tls.ClientSessionCache }

func (keepOnly) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

// config returns the settings of connection number n. So many per cent try to resume a
// session, evenly spread.
func (k *crew) config(n int) *tls.Config {
	if (n+1)*k.resume/100 > n*k.resume/100 {
		return k.trying
	}
	return k.full
}

func (k *crew) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-k.jobs:
			s, f, err := k.dial(ctx, j.number)
			if !j.w.reactor.Post(func() { j.w.adopt(j, s, f, err) }) && err == nil {
				closeFD(int32(s.fd))
			}
		}
	}
}

// dial connects and shakes hands.
func (k *crew) dial(ctx context.Context, number int) (s secured, f Failure, err error) {
	ctx, cancel := context.WithTimeout(ctx, k.target.Timeout())
	defer cancel()
	tcp, err := k.target.DialTCP(ctx, number)
	if err != nil {
		if target.IsTimeout(err) {
			return s, ConnectTimeout, err
		}
		return s, connectFailure(err), err
	}
	below := sock.New(tcp, k.sweeper)
	below.UnderTLS()
	s.seat = &sock.Seat{Conn: below}
	s.conn = tls.Client(s.seat, k.config(number))
	if err := s.conn.HandshakeContext(ctx); err != nil {
		_ = below.Close()
		return s, TLSFailed, fmt.Errorf("handshake: %w", err)
	}
	s.resumed = s.conn.ConnectionState().DidResume
	if s.fd, err = below.Release(); err != nil {
		_ = below.Close()
		return s, ConnectFailed, err
	}
	s.seat.Vacate()
	return s, 0, nil
}

// shake has the crew make a connection.
func (w *worker) shake(c *conn) {
	w.run.crew.jobs <- job{w, c.index, c.gen, w.run.number()} // there is room for all slots
}

// adopt takes a connection from the crew, or learns why there is none.
func (w *worker) adopt(j job, s secured, f Failure, err error) {
	w.now = w.run.clock()
	c := &w.conns[j.index]
	switch {
	case c.gen != j.gen || c.state != shaking:
		if err == nil {
			closeFD(int32(s.fd))
		}
		return
	case err != nil:
		w.unconnected(c, f, err)
	default:
		w.seated(c, s)
	}
	w.settle()
}

func (w *worker) seated(c *conn, s secured) {
	c.fd, c.tls, c.seat = int32(s.fd), s.conn, s.seat
	w.record.handshakes += w.record.one(w.now)
	if s.resumed {
		w.record.resumed += w.record.one(w.now)
	}
	if err := w.reactor.Add(s.fd, token(c), reactor.EdgeBoth); err != nil {
		w.unconnected(c, ConnectFailed, err)
		return
	}
	w.ready(c)
}

// seal sends bytes encrypted.
func (w *worker) seal(c *conn, p []byte) error {
	w.wire.c = c
	c.seat.Take(&w.wire)
	defer c.seat.Vacate()
	_, err := c.tls.Write(p)
	return err
}

// openRecord reads what there is, decrypted.
func (w *worker) openRecord(c *conn, p []byte) (int, error) {
	w.wire.c = c
	c.seat.Take(&w.wire)
	defer c.seat.Vacate()
	return c.tls.Read(p)
}

// wire is the net.Conn below a tls.Conn while the loop uses it. It never blocks.
type wire struct {
	w *worker
	c *conn // the one being worked on
}

// Read implements net.Conn. Its sock.ErrWouldBlock is not sticky in crypto/tls, and
// sock.ErrCut is no end in order, as io.EOF would be.
func (w *wire) Read(p []byte) (int, error) { return tryReceive(w.c.fd, p) }

// Write implements net.Conn: it always takes everything.
func (w *wire) Write(p []byte) (int, error) {
	c := w.c
	n := 0
	if len(c.unsent) == 0 {
		var err error
		if n, err = trySend(c.fd, p); err != nil {
			return n, err
		}
	}
	c.unsent = append(c.unsent, p[n:]...)
	return len(p), nil
}

// The rest of net.Conn. crypto/tls sets deadlines around alerts; nothing here waits.

func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
