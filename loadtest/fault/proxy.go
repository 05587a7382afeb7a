package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/unit"
)

// ErrClosed is returned by a proxy that has been closed.
var ErrClosed = errors.New("fault: proxy is closed")

// Options configures a proxy.
type Options struct {
	// Listen is the host:port to accept on; port 0 is any.
	Listen string
	// Target is the host:port to relay to.
	Target string
	// HTTP says that connections carry HTTP/1.1 in the clear, from their first byte on, so that
	// responses can be truncated, requests answered and heads told from bodies on all
	// connections. Without it, only connections that are opened under a fault that has
	// Answer.Status or a Corrupt.Part are followed.
	HTTP bool
	// MaxConns bounds the connections; one more is reset. 0 is 10,000.
	MaxConns int
	// Queue bounds the bytes under way in one direction of a connection, so that a long delay
	// limits throughput to Queue by delay; 0 is 4 MiB.
	Queue unit.Size
	// Clock moves the target's clock for Fault.Clock; nil refuses such faults.
	Clock func(offset time.Duration)
}

// dialTimeout bounds the connection to the target.
const dialTimeout = 5 * time.Second

// state is a fault and its end.
type state struct {
	Fault
	ended chan struct{} // closed when another fault is set
}

// Proxy relays TCP connections to a target, under a fault that can be changed.
type Proxy struct {
	opts Options
	door *door
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	all  sync.WaitGroup
	now  atomic.Pointer[state]

	counters counters
	shared   [2]bucket // by direction

	setting sync.Mutex // held by Set

	mu     sync.Mutex
	number uint64             // guarded by mu; of the last connection
	conns  map[*conn]struct{} // guarded by mu
}

// counters are what Counts reads.
type counters struct {
	accepted, toTarget, toClient, reset, lost, vanishFailed, handshakes, flipped, truncated, answered, dialFailed, tooMany atomic.Int64
}

// Counts is what a proxy has done so far.
type Counts struct {
	// Accepted connections, and those open at this moment.
	Accepted int64 `json:"accepted"`
	Open     int64 `json:"open"`
	// Bytes that were passed on.
	ToTarget int64 `json:"to_target"`
	ToClient int64 `json:"to_client"`
	// Connections that were reset by a fault, and those whose other end was taken away;
	// VanishFailed of them stall instead of having vanished, since that is not permitted here.
	Reset        int64 `json:"reset,omitempty"`
	Lost         int64 `json:"lost,omitempty"`
	VanishFailed int64 `json:"vanish_failed,omitempty"`
	// Handshakes that were made fail.
	Handshakes int64 `json:"handshakes,omitempty"`
	// Flipped bytes, truncated responses or connections, and requests answered.
	Flipped   int64 `json:"flipped,omitempty"`
	Truncated int64 `json:"truncated,omitempty"`
	Answered  int64 `json:"answered,omitempty"`
	// Connections reset because the target took none, and because there were too many.
	DialFailed int64 `json:"dial_failed,omitempty"`
	TooMany    int64 `json:"too_many,omitempty"`
}

// New starts a proxy without a fault.
func New(o Options) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(o.Target); err != nil {
		return nil, fmt.Errorf("fault: target %q: %w", o.Target, err)
	}
	if o.MaxConns == 0 {
		o.MaxConns = 10_000
	}
	if o.Queue == 0 {
		o.Queue = 4 << 20
	}
	door, err := newDoor(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	p := &Proxy{opts: o, door: door, conns: make(map[*conn]struct{})}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.now.Store(&state{ended: make(chan struct{})})
	p.all.Go(p.accept)
	return p, nil
}

// Addr is the host:port that the proxy accepts on.
func (p *Proxy) Addr() string { return p.door.addr }

// Fault returns the one of the moment.
func (p *Proxy) Fault() Fault { return p.now.Load().Fault }

// Counts returns the figures so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	open := int64(len(p.conns))
	p.mu.Unlock()
	c := &p.counters
	return Counts{
		c.accepted.Load(), open, c.toTarget.Load(), c.toClient.Load(), c.reset.Load(), c.lost.Load(), c.vanishFailed.Load(),
		c.handshakes.Load(), c.flipped.Load(), c.truncated.Load(), c.answered.Load(), c.dialFailed.Load(), c.tooMany.Load(),
	}
}

// Set replaces the fault. It returns ErrFault for one that cannot be and
// errors.ErrUnsupported for one that this system does not have; the fault before stays
// then, but for its hole.
func (p *Proxy) Set(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.Clock != 0 && p.opts.Clock == nil {
		return fmt.Errorf("%w: the target has no clock that can be moved", ErrFault)
	}
	p.setting.Lock()
	defer p.setting.Unlock()
	if p.ctx.Err() != nil {
		return ErrClosed
	}
	if err := p.door.set(p.ctx, f.Hole); err != nil {
		return err
	}
	if p.opts.Clock != nil {
		p.opts.Clock(f.Clock)
	}
	st := &state{f, make(chan struct{})}
	close(p.now.Swap(st).ended)
	for _, c := range p.open() {
		c.strike(st)
	}
	if f.Reset.Every > 0 {
		p.all.Go(func() { p.resets(st) })
	}
	return nil
}

// resets resets what is open, again and again while a fault lasts.
func (p *Proxy) resets(st *state) {
	tick := time.NewTicker(st.Reset.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-st.ended:
			return
		case <-p.ctx.Done():
			return
		}
		for _, c := range p.open() {
			c.reset()
		}
	}
}

// open lists the connections, the oldest first.
func (p *Proxy) open() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Collect(maps.Keys(p.conns))
	slices.SortFunc(list, func(a, b *conn) int { return cmp.Compare(a.number, b.number) })
	return list
}

// Close ends the proxy and every connection with it, and waits for them. It may be called
// more than once.
func (p *Proxy) Close() {
	p.stop()
	p.door.close()
	for _, c := range p.open() {
		c.cancel()
	}
	p.all.Wait()
}

// accept takes connections until the proxy is closed.
func (p *Proxy) accept() {
	for {
		tcp, err := p.door.next(p.ctx)
		if err != nil {
			return
		}
		p.counters.accepted.Add(1)
		if c := p.add(tcp); c != nil {
			p.all.Go(c.serve)
		}
	}
}

// add notes a connection, unless there are too many.
func (p *Proxy) add(tcp *net.TCPConn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= p.opts.MaxConns {
		p.counters.tooMany.Add(1)
		abort(tcp)
		return nil
	}
	p.number++
	c := newConn(p, tcp, p.number)
	p.conns[c] = struct{}{}
	return c
}

func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// chance returns the source of a connection's chances in one direction.
func chance(seed int, number, direction uint64) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed)^number<<8, direction+1)) //nolint:gosec // to be repeated
}

// abort closes a connection with RST.
func abort(tcp *net.TCPConn) {
	_ = tcp.SetLinger(0)
	_ = tcp.Close()
}
