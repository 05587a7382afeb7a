package httpload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"tickgate/internal/h1"
	"tickgate/internal/sock"
	"tickgate/loadtest/pace"
)

// blocking is a run on a system without epoll: a goroutine for each connection. It
// gives the same results, takes several times the CPU, and a request that is due goes out up to a
// millisecond late. Which connection is idle is left to chance.
type blocking struct {
	run     *run
	dial    *crew // for its settings of TLS; it has no goroutines
	waiting chan waiter

	mu     sync.Mutex
	record record // guarded by mu until play returns
}

func newBlocking(r *run) *blocking {
	b := &blocking{run: r, waiting: make(chan waiter, mostWaiting/16)}
	b.record.run = r
	r.records = append(r.records, &b.record)
	if r.target.Secure {
		b.dial = newSettings(r.target, r.ResumePercent)
	}
	return b
}

// play sends until ctx ends or the schedule is over, and waits for the last responses.
func (b *blocking) play(ctx context.Context) {
	var clients sync.WaitGroup
	for i := range b.run.Conns {
		clients.Go(func() {
			c := &blockingConn{b: b, rng: rand.New(rand.NewPCG(b.run.Seed, uint64(i)+1)), buf: make([]byte, 16<<10)} //nolint:gosec // repeatable, not secret
			defer c.close()
			if b.run.open {
				c.serve()
				return
			}
			c.ask(ctx)
		})
	}
	if b.run.open {
		b.hand(ctx)
	}
	close(b.waiting)
	clients.Wait()
	b.record.flush(b.record.second)
}

// noting calls f with the record and the time.
func (b *blocking) noting(f func(r *record, now time.Duration)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.record, b.run.clock())
}

// hand gives out what the schedule says.
func (b *blocking) hand(ctx context.Context) {
	for {
		due, m, ok := b.run.schedule.next()
		if !ok || !pace.Until(ctx, b.run.start.Add(due)) {
			return
		}
		b.noting(func(r *record, now time.Duration) {
			r.asked(m, due)
			switch {
			case len(m.wire) == 0:
				r.failed(due, now, Unsendable, nil)
				return
			case r.counts(due):
				r.lag.Add(now - due)
			}
			select {
			case b.waiting <- waiter{m, due}:
			default:
				r.failed(due, now, Backlog, nil)
			}
			r.publish(now, 0, len(b.waiting))
		})
	}
}

// blockingConn is owned by one goroutine. Of its conn, only what the record looks at is used.
type blockingConn struct {
	conn
	b    *blocking
	nc   net.Conn // nil between connections
	rng  *rand.Rand
	head h1.ResponseHead
	buf  []byte
}

// serve sends what waits, until there will be no more.
func (c *blockingConn) serve() {
	for w := range c.b.waiting {
		c.exchange(w.message, w.due)
	}
}

// ask is the closed loop.
func (c *blockingConn) ask(ctx context.Context) {
	for ctx.Err() == nil {
		m, now := c.b.run.mix.pick(c.rng), c.b.run.clock()
		c.b.noting(func(r *record, _ time.Duration) { r.asked(m, now) })
		pause := m.pause(c.rng)
		if !c.exchange(m, now) && c.served == 0 {
			pause = max(pause, 100*time.Millisecond) // as long as a loop's tick
		}
		if pause > 0 && !pace.Sleep(ctx, pause) {
			return
		}
	}
}

// exchange sends a request and notes what comes of it; false if that is no response.
func (c *blockingConn) exchange(m *message, due time.Duration) bool {
	c.message, c.conn.due = m, due
	f, err := c.try(m)
	if (f == Reset || f == ClosedEarly) && err != nil && c.served > 0 && !c.response.begun && m.method.Idempotent() {
		c.close()
		c.b.noting(func(r *record, _ time.Duration) { r.reconnects += r.one(due) })
		f, err = c.try(m)
	}
	c.b.noting(func(r *record, now time.Duration) {
		if err != nil {
			r.failed(due, now, f, err)
			return
		}
		c.served++
		r.answered(&c.conn, now)
	})
	if per := c.b.run.PerConn; err != nil || !c.response.keep || per > 0 && c.served >= per {
		defer c.close()
	}
	return err == nil
}

// try sends a request once, over a new connection if there is none.
func (c *blockingConn) try(m *message) (Failure, error) {
	if c.nc == nil {
		if f, err := c.connect(); err != nil {
			return f, err
		}
	}
	c.sent = c.b.run.clock()
	c.response.reset(m.method)
	c.b.noting(func(r *record, _ time.Duration) {
		r.sent += r.one(c.due)
		r.bytesOut += r.one(c.due) * int64(len(m.wire))
	})
	_ = c.nc.SetDeadline(time.Now().Add(c.b.run.Timeout))
	if _, err := c.nc.Write(m.wire); err != nil {
		return ended(err), fmt.Errorf("send: %w", err)
	}
	for {
		n, err := c.nc.Read(c.buf)
		c.b.noting(func(r *record, _ time.Duration) { r.bytesIn += r.one(c.due) * int64(n) })
		whole, wrong := c.response.feed(c.buf[:n], &c.head)
		switch {
		case wrong != nil:
			return Malformed, wrong
		case whole, errors.Is(err, io.EOF) && c.response.ended():
			return 0, nil
		case err != nil:
			return ended(err), err
		}
	}
}

// ended tells what the end of a connection under a request means.
func ended(err error) Failure {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, sock.ErrCut):
		return ClosedEarly
	}
	return Reset
}

func (c *blockingConn) connect() (Failure, error) {
	n := c.b.run.number()
	ctx, cancel := context.WithTimeout(context.Background(), c.b.run.target.Timeout())
	defer cancel()
	tcp, err := c.b.run.target.DialTCP(ctx, n)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
			return ConnectTimeout, err
		}
		return connectFailure(err), err
	}
	c.nc, c.served = tcp, 0
	resumed := false
	if c.b.dial != nil {
		secure := tls.Client(tcp, c.b.dial.config(n))
		if err := secure.HandshakeContext(ctx); err != nil {
			c.close()
			return TLSFailed, fmt.Errorf("handshake: %w", err)
		}
		c.nc, resumed = secure, secure.ConnectionState().DidResume
	}
	c.b.noting(func(r *record, now time.Duration) {
		one := r.one(now)
		r.opened += one
		if c.b.dial != nil {
			r.handshakes += one
		}
		if resumed {
			r.resumed += one
		}
	})
	return 0, nil
}

func (c *blockingConn) close() {
	if c.nc != nil {
		_ = c.nc.Close()
		c.nc, c.served = nil, 0
	}
}
