package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
)

// DialFunc opens a raw connection to b.Network() and b.Address(), before TLS. ctx ends with timeouts.dial or the request.
type DialFunc func(ctx context.Context, b *Backend) (net.Conn, error)

// Errors inside an *Error.
var (
	// ErrPoolFull says that pool.max_conns connections were in use for pool.wait_timeout.
	ErrPoolFull = errors.New("upstream: every connection is in use")

	errNoTimeLeft = errors.New("upstream: no time left for the request")
)

// backendError adds the backend to a cause. Its text is made only when it is read, as
// one is made for every failed attempt.
type backendError struct {
	op  string
	b   *Backend
	err error
}

func (e *backendError) Error() string {
	if errors.Is(e.err, ErrPoolFull) {
		return fmt.Sprintf("%s %q: no free one within pool.wait_timeout=%v (pool.max_conns=%d)",
			e.op, e.b.address, e.b.conf.pool.WaitTimeout, e.b.conf.pool.MaxConns)
	}
	return fmt.Sprintf("%s %q: %v", e.op, e.b.address, e.err)
}

func (e *backendError) Unwrap() error { return e.err }

// conn is what the HostClient holds: the connection that Exchangers get, with what
// the pool must know about it. Its owner is who leased it.
type conn struct {
	net.Conn // as Wrap returned it, or a *tls.Conn over that
	raw      net.Conn
	staler   interface{ Stale() bool }
	detacher interface{ Detached() bool }
	id       *identity     // that the handshake was made under; nil without TLS
	grace    time.Duration // for which it may be used once id is no longer the present one
	used     bool
	dialTime time.Duration
	tlsTime  time.Duration
}

// Close closes the connection unless it was detached: then the socket has another
// owner, and even a TLS close_notify would break into its stream.
func (c *conn) Close() error {
	if c.detached() {
		return nil
	}
	return c.Conn.Close()
}

func (c *conn) detached() bool { return c.detacher != nil && c.detacher.Detached() }

// isStale reports whether a pooled connection was closed by its peer or has bytes
// waiting that nobody asked for. Under TLS these are bytes of any record: a session
// ticket that came after the last response costs the connection, which is rare and safe.
func (c *conn) isStale() bool { return c.staler != nil && c.staler.Stale() }

// dial is the pool's HostClient.DialTimeout; left is the time that remains for the
// request, 0 for no limit.
func (p *Pool) dial(_ string, left time.Duration) (net.Conn, error) {
	c, err := p.b.connect(left)
	if err != nil {
		p.dialFailures.Add(1)
		return nil, err
	}
	p.dials.Add(1)
	return c, nil
}

// connect opens a connection: raw, wrapped, and with TLS if the upstream has it.
func (b *Backend) connect(left time.Duration) (*conn, error) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if left > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, left, errNoTimeLeft)
	}
	defer cancel()

	start := time.Now()
	raw, err := b.connectRaw(ctx)
	if err != nil {
		return nil, b.dialError(ctx, reason.DialFailed, "dial backend", err)
	}
	if wrap := b.fam.reg.opts.Wrap; wrap != nil {
		raw = wrap(raw)
	}
	c := &conn{Conn: raw, raw: raw, dialTime: time.Since(start)}
	c.staler, _ = raw.(interface{ Stale() bool })
	if c.staler == nil {
		c.staler = newPeeker(raw)
	}
	c.detacher, _ = raw.(interface{ Detached() bool })
	if b.creds == nil {
		return c, nil
	}
	start = time.Now()
	present := b.clientTLS()
	secured, err := b.handshake(ctx, raw, present.config)
	if err != nil {
		_ = raw.Close()
		return nil, b.dialError(ctx, reason.BackendTLSFailed, "TLS handshake with backend", err)
	}
	c.Conn, c.tlsTime = secured, time.Since(start)
	c.id, c.grace = present.id, graceOf(b.fam.reg.opts.Rand())
	return c, nil
}

func (b *Backend) connectRaw(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.conf.dialTimeout)
	defer cancel()
	if dial := b.fam.reg.opts.Dial; dial != nil {
		return dial(ctx, b)
	}
	keepAlive := b.conf.pool.KeepAlive
	if keepAlive == 0 {
		keepAlive = -1 // the dialer's zero value is its default, 15s
	}
	d := net.Dialer{KeepAlive: keepAlive}
	return d.DialContext(ctx, b.network, b.address)
}

// handshake does TLS over raw. A cancelled context closes raw, so this works with
// any net.Conn, whatever its deadlines do.
func (b *Backend) handshake(ctx context.Context, raw net.Conn, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.conf.tlsTimeout)
	defer cancel()
	c := tls.Client(&sock.Seat{Conn: raw}, config) // a tunnel's socket gets another owner
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if c.ConnectionState().DidResume {
		b.resumed.Add(1)
	} else {
		b.full.Add(1)
	}
	return c, nil
}

// dialError tells a failing backend from a request that ran out of time.
func (b *Backend) dialError(ctx context.Context, r reason.Reason, op string, err error) *Error {
	if ctx.Err() != nil {
		r, err = reason.RequestTimeout, context.Cause(ctx)
	}
	return &Error{Reason: r, Err: &backendError{op: op, b: b, err: err}}
}

// peeker looks into a socket that offers no Stale of its own. Its closure is made
// once, so that a look allocates nothing.
type peeker struct {
	raw   syscall.RawConn
	look  func(fd uintptr) bool
	clean bool
}

// newPeeker returns nil (as an interface) for connections without a descriptor.
func newPeeker(c net.Conn) interface{ Stale() bool } {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	p := &peeker{raw: raw}
	p.look = func(fd uintptr) bool {
		var buf [1]byte
		_, _, errno := syscall.Recvfrom(int(fd), buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		p.clean = errno == syscall.EAGAIN || errno == syscall.EINTR
		return true
	}
	return p
}

// Stale reports whether the socket is closed or has unread bytes.
func (p *peeker) Stale() bool {
	p.clean = false
	return p.raw.Read(p.look) != nil || !p.clean
}
