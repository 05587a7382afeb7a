package tlsattack

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tickgate/internal/hello"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// afterFailure is how long a client rests whose connect failed.
const afterFailure = 10 * time.Millisecond

// Records and messages of RFC 8446 that are told apart.
const (
	alertRecord     = 21
	handshakeRecord = 22
	serverHello     = 2
)

// Run attacks until Duration has passed, all mutants are sent or ctx ends. An error means that nothing was tried.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t, h, err := o.prepare()
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, target: t, hello: h, began: time.Now()}
	r.tally.meter, r.tally.alerts = target.NewMeter(), make(map[uint8]int64)
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	defer r.reportProgress()()
	if o.Kind == Flood {
		err = r.flood(ctx)
	} else {
		r.clients(ctx)
	}
	r.took = time.Since(r.began)
	return r.result(), err
}

// run is one run.
type run struct {
	Options
	target *target.Target
	hello  *hello.Hello
	began  time.Time
	number atomic.Int64 // of the next connection
	tally  tally
	took   time.Duration // set by Run

	mu   sync.Mutex
	next time.Time // guarded by mu; when the next connection may begin
}

// turn waits until another connection may begin, and returns its number; false if there is none to come.
func (r *run) turn(ctx context.Context) (number int, ok bool) {
	r.mu.Lock()
	at := time.Now()
	if r.Rate > 0 {
		if r.next.After(at) {
			at = r.next
		}
		r.next = at.Add(time.Duration(float64(time.Second) / r.Rate))
	}
	r.mu.Unlock()
	if !pace.Until(ctx, at) {
		return 0, false
	}
	number = int(r.number.Add(1) - 1)
	return number, r.Kind != Mutate || r.Count == 0 || number < r.Count
}

// clients has each of its goroutines make one connection after the other.
func (r *run) clients(ctx context.Context) {
	var wg sync.WaitGroup
	for range r.Conns {
		wg.Go(func() {
			for {
				number, ok := r.turn(ctx)
				if !ok {
					return
				}
				if r.connection(ctx, number).err != nil {
					pace.Sleep(ctx, afterFailure)
				}
			}
		})
	}
	wg.Wait()
}

// connection makes one connection and counts what became of it.
func (r *run) connection(ctx context.Context, number int) (o outcome) {
	r.tally.begin()
	o.number = -1
	if r.Kind == Mutate {
		o.number = number + r.First
	}
	defer func() { r.tally.add(o) }()
	conn, err := r.target.DialTCP(ctx, number)
	switch {
	case err != nil && ctx.Err() != nil:
		return o // HungUp
	case err != nil:
		o.end, o.err = connectFailure(err), err
		return o
	}
	began := time.Now()
	defer func() { o.lasted = time.Since(began); _ = conn.Close() }()
	_ = conn.SetLinger(0) // leaves with RST, and no port in TIME_WAIT
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c := client{run: r, conn: conn, rng: rand.New(rand.NewPCG(r.Seed, uint64(number+r.First)))} //nolint:gosec // repeatable, not secret
	c.act(&o)
	if ctx.Err() != nil {
		o.end = HungUp
	}
	return o
}

// client is one connection that is open. Its goroutine owns it.
type client struct {
	*run
	conn *net.TCPConn
	rng  *rand.Rand
	head [7]byte // the first bytes that came
	got  int     // so many
}

// act does what the kind of attack wants, until the server ends the connection.
func (c *client) act(o *outcome) {
	switch c.Kind {
	case Dribble:
		if !c.dribble(o) {
			return
		}
	case Stall:
		_, _ = c.conn.Write(c.hello.AppendFresh(nil, c.rng)) // if that fails, so does reading
	case Mutate:
		_, _ = c.conn.Write(c.hello.Mutant(c.rng))
		_ = c.conn.CloseWrite()
		_ = c.conn.SetReadDeadline(time.Now().Add(c.target.Timeout()))
	}
	for !c.read(o) {
		continue
	}
}

// dribble sends a hello byte by byte; false says that the server has ended the connection meanwhile.
func (c *client) dribble(o *outcome) bool {
	for _, b := range c.hello.AppendFresh(nil, c.rng) {
		_ = c.conn.SetReadDeadline(time.Now().Add(c.Every))
		for {
			ended := c.read(o)
			if ended && o.end != Unanswered {
				return false
			}
			if ended {
				break
			}
		}
		_, _ = c.conn.Write([]byte{b}) // if that fails, so does reading
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	return true
}

// read reads once; ended says that nothing more comes, or not in time.
func (c *client) read(o *outcome) (ended bool) {
	var buf [4096]byte
	n, err := c.conn.Read(buf[:])
	c.got += copy(c.head[c.got:], buf[:n])
	o.served = c.got > 5 && c.head[0] == handshakeRecord && c.head[5] == serverHello
	if err == nil {
		return false
	}
	o.end, o.alert = judge(c.head[:c.got], err)
	return true
}

// judge says how a server has ended a connection, by what it sent first and how reading failed.
func judge(head []byte, err error) (e End, alert uint8) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Unanswered, 0
	case len(head) == 7 && head[0] == alertRecord:
		return Alerted, head[6]
	case len(head) > 0 && head[0] != handshakeRecord:
		return Odd, 0
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset, 0
	}
	return Closed, 0
}

// reportProgress calls Progress once a second until the function that it returns is called.
func (r *run) reportProgress() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for pace.Sleep(ctx, time.Second) {
			r.Progress(r.tally.progress(time.Since(r.began)))
		}
	})
	return func() { cancel(); wg.Wait() }
}
