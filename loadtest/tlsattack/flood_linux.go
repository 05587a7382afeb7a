package tlsattack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

const (
	// perLoop is how many connections a second one loop is good for.
	perLoop = 20_000
	// mostAtOnce is how many that are due are begun before there is another look for answers.
	mostAtOnce = 64
	// shortestSleep is as exact as sleeping is.
	shortestSleep = 200 * time.Microsecond
	// stages are how often a connection is looked at.
	stages = 3
)

// flood begins connections at the rate. Each loop has its share of the rate and of the connections.
func (r *run) flood(ctx context.Context) error {
	to, err := r.target.Resolve(ctx)
	if err != nil {
		return err
	}
	loops := min(1+int(r.Rate/perLoop), r.Conns)
	var wg sync.WaitGroup
	for i := range loops {
		l := &flooder{
			run: r, to: to, rng: rand.New(rand.NewPCG(r.Seed, uint64(i))), most: r.Conns / loops, //nolint:gosec // repeatable, not secret
			schedule: pace.New(r.began, r.Rate/float64(loops)),
		}
		l.waits = [stages]time.Duration{min(r.Linger, r.target.Timeout()), min(10*r.Linger, r.target.Timeout()), r.target.Timeout()}
		wg.Go(func() { l.loop(ctx) })
	}
	wg.Wait()
	return nil
}

// flooder is one loop. Its goroutine owns it.
type flooder struct {
	*run
	to       netip.AddrPort
	rng      *rand.Rand
	most     int
	schedule pace.Schedule
	waits    [stages]time.Duration // since the connect, until the look of each stage

	due    int                 // connections that came due
	open   int                 // connections
	queues [stages][]*flooding // that wait for their look, the oldest first
	raw    []byte              // the next hello
	buf    [4096]byte
}

// flooding is one connection.
type flooding struct {
	fd    int
	began time.Time
	hello []byte // still to be sent, as the connect takes its time
}

func (l *flooder) loop(ctx context.Context) {
	for ctx.Err() == nil {
		l.beginDue(ctx)
		l.lookAll(time.Now())
		pace.Sleep(ctx, max(time.Until(l.nextAt()), shortestSleep))
	}
	for stage := range l.queues {
		for _, c := range l.queues[stage] {
			l.end(c, outcome{end: HungUp})
		}
	}
}

// beginDue begins some of the connections that are due. What is due while too many are open is left out.
func (l *flooder) beginDue(ctx context.Context) {
	for range mostAtOnce {
		if l.schedule.Due(l.due).After(time.Now()) || ctx.Err() != nil {
			return
		}
		l.due++
		if l.open >= l.most {
			l.tally.holdBack()
			continue
		}
		l.begin()
	}
}

// nextAt is when there is something to do.
func (l *flooder) nextAt() time.Time {
	at := l.schedule.Due(l.due)
	for stage, queue := range l.queues {
		if len(queue) == 0 {
			continue
		}
		if t := queue[0].began.Add(l.waits[stage]); t.Before(at) {
			at = t
		}
	}
	return at
}

// begin connects and sends a hello. On loopback the connect is over when the call returns, though it says that it
// is under way.
func (l *flooder) begin() {
	l.tally.begin()
	l.open++
	c := &flooding{began: time.Now()}
	source, _ := l.target.Source(int(l.number.Add(1) - 1))
	var err error
	if c.fd, err = target.Connect(l.to, source, withRST); err != nil {
		l.end(c, outcome{end: connectFailure(err), err: err})
		return
	}
	l.raw = l.hello.AppendFresh(l.raw[:0], l.rng)
	switch err := c.send(l.raw); {
	case isNotYet(err):
		c.hello = bytes.Clone(l.raw)
	case errors.Is(err, unix.ECONNREFUSED):
		l.end(c, outcome{end: ConnectRefused, err: os.NewSyscallError("connect", err)})
		return
	}
	l.queues[0] = append(l.queues[0], c)
}

// withRST has a socket leave with RST when it is closed.
func withRST(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

// send sends a hello. Its error may be that of the connect; those of a connection that is there already reading
// tells again.
func (c *flooding) send(p []byte) error {
	return unix.Sendto(c.fd, p, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
}

// isNotYet says that the connect is still under way.
func isNotYet(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOTCONN) }

// lookAll looks at the connections whose time has come, the latest stage first, so that each is looked at once.
func (l *flooder) lookAll(now time.Time) {
	for stage := stages - 1; stage >= 0; stage-- {
		for len(l.queues[stage]) > 0 && !l.queues[stage][0].began.Add(l.waits[stage]).After(now) {
			c := l.queues[stage][0]
			l.queues[stage][0] = nil
			l.queues[stage] = l.queues[stage][1:]
			l.look(c, stage)
		}
	}
}

// look reads the answer. Without one the connection waits for its next look, if there is one.
func (l *flooder) look(c *flooding, stage int) {
	if c.hello != nil && !isNotYet(c.send(c.hello)) {
		c.hello = nil
	}
	n, _, err := unix.Recvfrom(c.fd, l.buf[:], unix.MSG_DONTWAIT)
	switch {
	case n > 0:
		l.end(c, answered(l.buf[:n]))
	case err == nil:
		l.end(c, outcome{end: Closed})
	case errors.Is(err, unix.EAGAIN) && stage < stages-1:
		l.queues[stage+1] = append(l.queues[stage+1], c)
	case errors.Is(err, unix.EAGAIN):
		l.end(c, outcome{end: Unanswered})
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		l.end(c, outcome{end: Reset})
	default:
		l.end(c, outcome{end: connectFailure(err), err: fmt.Errorf("connect: %w", os.NewSyscallError("recv", err))})
	}
}

// answered judges the first bytes of an answer.
func answered(p []byte) outcome {
	if len(p) > 5 && p[0] == handshakeRecord && p[5] == serverHello {
		return outcome{end: HungUp, served: true}
	}
	head := p[:min(len(p), 7)]
	e, alert := judge(head, syscall.Errno(0))
	return outcome{end: e, alert: alert}
}

// end closes a connection and counts what became of it.
func (l *flooder) end(c *flooding, o outcome) {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	l.open--
	o.number = -1
	o.lasted = time.Since(c.began)
	l.tally.add(o)
}
