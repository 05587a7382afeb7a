package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// inner is what net.TCPListener and net.UnixListener have in common.
type inner interface {
	net.Listener
	syscall.Conn
	SetDeadline(t time.Time) error
}

// Listener is one listening socket whose Close loses no connection that the kernel has
// completed.
type Listener struct {
	// Static after construction.
	inner   inner
	raw     syscall.RawConn
	addr    net.Addr
	backlog int
	onClose func() // removes a Unix socket's file, before the queue is drained

	closeOnce sync.Once
	closeErr  error
	closing   atomic.Bool
	drained   chan struct{} // closed when queued is complete and the socket closed

	mu     sync.Mutex
	queued []net.Conn // guarded by mu; accepted by Close, for Accept to return
	file   *os.File   // guarded by mu; what AcceptFD waits with
}

// drainWait bounds one accept of a drain. The socket is readable then, so it returns
// at once unless another Accept was faster.
const drainWait = 20 * time.Millisecond

// newListener takes ln over. The backlog of package net is net.core.somaxconn and cannot be chosen,
// but listen(2) can be issued again.
func newListener(ln net.Listener, backlog int) (*Listener, error) {
	in := ln.(inner) // package net returns nothing else for TCP and Unix sockets
	raw, err := in.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := control(raw, func(fd uintptr) error { return setBacklog(fd, backlog) }); err != nil {
		return nil, err
	}
	return &Listener{
		inner:   in,
		raw:     raw,
		addr:    in.Addr(),
		backlog: backlog,
		onClose: func() {},
		drained: make(chan struct{}),
	}, nil
}

// Accept returns the next connection. After Close it first returns what was still queued
// in the kernel, then net.ErrClosed: an accept loop must go on until it gets that.
func (l *Listener) Accept() (net.Conn, error) {
	if !l.closing.Load() {
		conn, err := l.inner.Accept()
		if err == nil || !l.closing.Load() {
			return conn, err
		}
	}
	<-l.drained
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queued) == 0 {
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
	conn := l.queued[0]
	l.queued[0] = nil
	l.queued = l.queued[1:]
	return conn, nil
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.addr }

// SyscallConn gives access to the descriptor.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.raw, nil }

// Close stops accepting: it has the kernel ignore new connections, takes what the kernel
// has queued, which Accept returns from then on, and closes the socket. Otherwise the kernel
// would reset the queue, although its clients take themselves for connected and have often
// sent a request; with SO_REUSEPORT, other sockets on the address do not help, as the kernel
// moves a queue to them only with net.ipv4.tcp_migrate_req=1.
//
// A client whose handshake is still under way is reset. Retire waits for those as well.
// Close is idempotent and takes no longer than the accepts do.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() {
		l.onClose()
		l.ignoreNew()
		l.closing.Store(true)
		errDrain := l.drain()
		l.closeErr = errors.Join(errDrain, l.inner.Close(), l.closeFile())
		close(l.drained)
	})
	return l.closeErr
}

// drain accepts until the kernel's queue is empty. Its length bounds the loop where new connections
// cannot be kept away.
func (l *Listener) drain() error {
	for range l.backlog + 1 {
		readable := false
		err := control(l.raw, func(fd uintptr) (err error) {
			readable, err = isReadable(fd)
			return err
		})
		if err != nil || !readable {
			return err
		}
		if err := l.inner.SetDeadline(time.Now().Add(drainWait)); err != nil {
			return err
		}
		conn, err := l.inner.Accept()
		if err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue // an Accept under way took it, and returned it
			}
			return fmt.Errorf("drain the queue of %s: %w", l.Addr(), err)
		}
		l.mu.Lock()
		l.queued = append(l.queued, conn)
		l.mu.Unlock()
	}
	return nil
}

// closeFile ends an AcceptFD.
func (l *Listener) closeFile() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// ignoreNew has the kernel drop new SYNs from now on, where it can: their clients
// try again after a second, and find the address closed or someone else there. It is only
// an improvement, so that its failure is no error.
func (l *Listener) ignoreNew() {
	if _, ok := l.Addr().(*net.TCPAddr); ok {
		_ = control(l.raw, dropSYN)
	}
}

// Retire closes listeners without losing a connection: it has the kernel ignore new ones on
// all of them, lets the accept loops go on for settle, in which handshakes under way
// complete (a round trip of the slowest client that matters), and closes them. The first
// error of each is joined.
func Retire(lns []net.Listener, settle time.Duration) error {
	for _, ln := range lns {
		if l, ok := ln.(*Listener); ok {
			l.ignoreNew()
		}
	}
	if settle > 0 {
		time.Sleep(settle)
	}
	var errs []error
	for _, ln := range lns {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}
