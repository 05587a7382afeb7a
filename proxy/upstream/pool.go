package upstream

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// Error is a failure to get a connection to a backend. No byte of a request was
// written when it is returned.
type Error struct {
	// Reason is PoolFull, DialFailed, BackendTLSFailed, BackendReset if a new connection was closed before it was used,
	// or RequestTimeout if the time left for the request was what ran out.
	Reason reason.Reason
	// Err is the cause, with the backend's address.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return e.Reason.String() + ": " + e.Err.Error() }

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, reason.PoolFull) and the like work.
func (e *Error) Is(target error) bool {
	r, ok := target.(reason.Reason)
	return ok && r == e.Reason
}

// Exchanger sends one request over a leased connection and reads its response.
//
// c is the connection as Options.Wrap returned it, or a *tls.Conn over that. fresh says that nothing was sent over it before.
// reuse says that the response ended cleanly and c can serve another request. An error that is sock.ErrStale says that a
// pooled connection turned out to be dead before anything was written; Do then runs x again on another one.
type Exchanger interface {
	Exchange(c net.Conn, fresh bool) (reuse bool, err error)
}

// Timing is what getting a connection cost, for the phase histograms.
type Timing struct {
	// Wait is the time spent waiting for a free connection.
	Wait time.Duration
	// DNS is 0 unless a name was looked up for this dial: backend names are resolved in the background.
	DNS time.Duration
	// Dial is the time of connect(2); 0 for a pooled connection.
	Dial time.Duration
	// TLS is the time of the TLS handshake; 0 for a pooled connection.
	TLS time.Duration
	// Fresh says that the connection was dialled for this request.
	Fresh bool
}

// PoolStats are the figures of one Pool.
type PoolStats struct {
	Tag          string `json:"tag"`
	Idle         int    `json:"idle"`
	InUse        int    `json:"in_use"`
	Waiting      int    `json:"waiting"`
	Max          int    `json:"max"`
	Dials        uint64 `json:"dials"`
	DialFailures uint64 `json:"dial_failures"`
	Rejected     uint64 `json:"rejected"`
	Stale        uint64 `json:"stale"`
}

// Pool holds the connections to one backend for the routes of one tag.
type Pool struct {
	// Static.
	b   *Backend
	tag string
	hc  *fasthttp.HostClient

	gate    gate
	retired atomic.Bool // connections are closed when released

	dials        atomic.Uint64 // successful ones
	dialFailures atomic.Uint64
	rejected     atomic.Uint64
	stale        atomic.Uint64
}

func newPool(b *Backend, tag string) *Pool {
	p := &Pool{b: b, tag: tag}
	p.gate.init(max(1, b.conf.pool.MaxConns))
	p.hc = &fasthttp.HostClient{
		Addr:                          "backend", // never looked at: DialTimeout knows where to go
		DialTimeout:                   p.dial,
		IsTLS:                         false,
		MaxConns:                      maxHostConns,
		MaxConnWaitTimeout:            0,
		MaxIdleConnDuration:           b.conf.pool.IdleTimeout,
		ConnPoolStrategy:              fasthttp.LIFO,
		NoDefaultUserAgentHeader:      true,
		DisableHeaderNamesNormalizing: true,
		DisablePathNormalizing:        true,
		MaxIdemponentCallAttempts:     1,
	}
	return p
}

// maxHostConns takes HostClient's own limit out of the way. The gate bounds the
// leases, and a connection is dialled only when none is idle, so the gate bounds
// the open connections too, but for those that the idle cleaner is just closing;
// HostClient would count those and refuse.
const maxHostConns = 1<<31 - 1

// Do leases a connection, runs x on it, and returns it to the pool if x and the
// pool's limits allow it.
//
// left is the time that remains for the request; 0 is no limit, and less has
// passed already. The wait for a free connection ends after pool.wait_timeout, the dial after
// timeouts.dial, the handshake after timeouts.tls_handshake, and all of them together after left.
// Do not pass wait_timeout as left: it would bound the dial too.
//
// The error is an *Error if no connection was got, else x's. t is filled in either way. Over pooled connections Do allocates
// nothing. A connection that x detached (see conn.Close) leaves the pool without being closed.
func (p *Pool) Do(x Exchanger, left time.Duration, t *Timing) error {
	*t = Timing{}
	if left < 0 {
		return p.fail(reason.RequestTimeout, errNoTimeLeft)
	}
	if !p.gate.tryEnter() {
		if err := p.wait(left, t); err != nil {
			return err
		}
		if left > 0 {
			if left -= t.Wait; left <= 0 {
				p.gate.leave()
				return p.fail(reason.RequestTimeout, errNoTimeLeft)
			}
		}
	}
	defer p.gate.leave()
	for {
		again, err := p.once(x, left, t)
		if !again {
			return err
		}
		p.stale.Add(1)
	}
}

// once tries one connection. again is true if it was a pooled one past its time, to
// which nothing was written.
func (p *Pool) once(x Exchanger, left time.Duration, t *Timing) (again bool, err error) {
	cc, err := p.hc.AcquireConn(left, false)
	if err != nil {
		if e, ok := err.(*Error); ok {
			return false, e
		}
		return false, p.fail(reason.PoolFull, err)
	}
	c, _ := cc.Conn().(*conn)
	now := time.Now() // a look at the clock is 0.3 % of a request: this one serves the release too
	fresh := !c.used
	if fresh {
		c.used = true
		t.Fresh, t.Dial, t.TLS = true, c.dialTime, c.tlsTime
	} else if p.outdated(cc.CreatedTime(), cc.LastUseTime(), now) || c.superseded(now) || c.isStale() {
		p.hc.CloseConn(cc)
		return true, nil
	}

	keep := false
	defer func() { // also when x panics: a lease that is never returned would be lost for good
		if keep && !p.retired.Load() && !c.detached() && !p.tooOld(cc.CreatedTime(), now) {
			p.hc.ReleaseConn(cc)
			if p.retired.Load() {
				p.hc.CloseIdleConnections() // retire ran between the check and the release
			}
			return
		}
		p.hc.CloseConn(cc)
	}()
	reuse, err := x.Exchange(c.Conn, fresh)
	keep = reuse && err == nil
	if err != nil && errors.Is(err, sock.ErrStale) {
		if !fresh {
			return true, nil
		}
		return false, p.fail(reason.BackendReset, err) // closed as soon as it was accepted
	}
	return false, err
}

// outdated reports whether a pooled connection was idle or open for too long.
func (p *Pool) outdated(created, lastUse, now time.Time) bool {
	return now.Sub(lastUse) > p.b.conf.pool.IdleTimeout || p.tooOld(created, now)
}

func (p *Pool) tooOld(created, now time.Time) bool {
	life := p.b.conf.pool.MaxLifetime
	return life > 0 && now.Sub(created) > life
}

// wait is the slow path of Do: every connection is in use.
func (p *Pool) wait(left time.Duration, t *Timing) error {
	limit, why, cause := p.b.conf.pool.WaitTimeout, reason.PoolFull, error(ErrPoolFull)
	if left > 0 && left < limit {
		limit, why, cause = left, reason.RequestTimeout, errNoTimeLeft
	}
	start := time.Now()
	ok := p.gate.enter(limit)
	t.Wait = time.Since(start)
	p.b.fam.waits.Update(t.Wait.Seconds())
	if ok {
		return nil
	}
	p.rejected.Add(1)
	return p.fail(why, cause)
}

// fail makes an *Error that names the backend.
func (p *Pool) fail(r reason.Reason, cause error) *Error {
	return &Error{Reason: r, Err: &backendError{op: "connection to backend", b: p.b, err: cause}}
}

// retire closes the idle connections, and from now on every other when it is released.
func (p *Pool) retire() {
	p.retired.Store(true)
	p.hc.CloseIdleConnections()
}

// Stats returns the pool's figures. They are read one after another, so they may
// disagree by what happened meanwhile.
func (p *Pool) Stats() PoolStats {
	inUse, waiting := p.gate.load()
	return PoolStats{
		Tag: p.tag, Idle: p.hc.IdleConnsCount(), InUse: inUse, Waiting: waiting, Max: p.b.conf.pool.MaxConns,
		Dials: p.dials.Load(), DialFailures: p.dialFailures.Load(), Rejected: p.rejected.Load(), Stale: p.stale.Load(),
	}
}
