// Package sock is the socket under every HTTP connection of tickgate: a net.Conn
// that waits in the Go runtime's poller but makes its own non-blocking system
// calls, and whose deadlines cost an atomic store each, as one coarse sweep
// enforces them.
//
// Two habits of net.Conn are paid for on every proxied request, and avoided here
// (measured with 1 KiB responses on 64 keep-alive connections, two cores: 15.4 us
// of CPU per request over net.Conn, 13.0 us over this package, nginx 15.0 us, medians of one run):
//
//   - a read that follows a write almost never finds data, so net.Conn tries the
//     system call, fails with EAGAIN and only then waits. Roundtrip and a held
//     write do the sending inside the poller's wait, after it was armed, so that
//     no edge is lost and one failing call less is made;
//   - every system call tells the scheduler that it may block. These sockets are
//     non-blocking, so Conn uses raw calls.
package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrStale says that a pooled connection was closed by its peer, or holds bytes
// nobody asked for, and that nothing was written to it: another one may be taken.
var ErrStale = errors.New("sock: connection is stale")

// ErrCut stands for io.EOF on a connection under TLS (UnderTLS): the peer closed, and
// whether it said so before, with close_notify, only the layer above knows.
var ErrCut = errors.New("sock: connection ended below TLS")

// ErrWouldBlock says that there is nothing to read right now (NoWait). It is a
// temporary net.Error, which does not end a tls.Conn above.
var ErrWouldBlock error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "sock: nothing to read" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

// Cause is a set of reasons for which calls on a Conn fail with
// os.ErrDeadlineExceeded. The zero value is: none.
type Cause uint32

// The causes, and which direction each ends.
const (
	NotInterrupted Cause = 0
	ReadExpired    Cause = 1 << (iota - 1) // reads: the deadline set with ArmRead passed
	WriteExpired                           // writes: the deadline set with ArmWrite passed
	Cancelled                              // both: Interrupt was called

	endsReads  = ReadExpired | Cancelled
	endsWrites = WriteExpired | Cancelled
)

// Has reports whether one of the causes in some is in c.
func (c Cause) Has(some Cause) bool { return c&some != 0 }

// Watcher is told that the peer of a watched Conn has gone. It is called from the
// sweep, so it must not block.
type Watcher interface{ PeerGone() }

// Conn is a stream socket. One goroutine may read and one other write at a time.
type Conn struct {
	// Static after New.
	nc net.Conn // nil for a descriptor of our own
	fd int      // the descriptor of our own, which Go's poller need not know; -1 under a net.Conn
	sw *Sweeper
	rf func(fd uintptr) bool
	wf func(fd uintptr) bool

	raw atomic.Pointer[polled] // set once; for a descriptor of our own, by the first wait

	shard uint32 // of the sweeper
	slot  int    // index in that shard; guarded by its lock

	// Owned by the reading goroutine.
	rbuf  []byte
	rn    int
	rerr  error
	rstep step
	out   []byte // bytes to send before the next read waits
	hold  HoldMode
	spare []byte // backing of out in HoldCopy mode

	underTLS bool // see UnderTLS
	noWait   bool // see NoWait

	// Owned by the writing goroutine.
	wbuf    []byte
	wn      int
	werr    error
	stalled bool // the wait is bounded by stall
	trying  bool // see TryWrite

	stall time.Duration // see Stall; static after it

	// Shared.
	readBy   atomic.Int64 // sweeper nanoseconds; 0 is no deadline
	writeBy  atomic.Int64
	writeFor atomic.Int64 // what ArmWrite was given: each progress starts it anew
	watchAt  atomic.Int64 // sweeper nanoseconds from which the peer is watched; 0 is not
	cause    atomic.Uint32
	yields   atomic.Bool
	closed   atomic.Bool
	detached atomic.Bool
	watcher  Watcher // set before the first Watch, then static
	onClose  func()  // likewise
	onWait   func()  // likewise; called once, under mu

	mu      sync.Mutex // orders interruptions, their undoing, and Close; never held over a call that blocks
	spareFD int        // guarded by mu; of PrepareRelease; 0 is none
}

// HoldMode says what a Write does while a read is known to follow.
type HoldMode uint8

// The hold modes.
const (
	HoldOff  HoldMode = iota // Write sends at once
	HoldRef                  // Write keeps a reference to its bytes; the next Read sends them
	HoldCopy                 // Write keeps a copy (for writers that reuse their buffer, such as crypto/tls)
)

// maxHeld bounds the bytes that a held write keeps: larger ones are sent at once,
// since they would not fit the socket's buffer anyway.
const maxHeld = 64 << 10

// step is where a read operation stands inside the poller's callback.
type step uint8

const (
	stepRead  step = iota // receive; wait on EAGAIN
	stepCheck             // the socket must be open and empty
	stepSend              // send out
	stepShort             // the socket did not take all of out: leave the poller and write
	stepPeek              // the socket must be open and empty; do not wait
)

// New wraps nc, which must not be used directly afterwards. Sockets that offer no
// raw descriptor (net.Pipe in tests) work through nc's own methods.
func New(nc net.Conn, sw *Sweeper) *Conn {
	c := &Conn{nc: nc, fd: -1, sw: sw}
	if sc, ok := nc.(syscall.Conn); ok && rawSupported {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw.Store(&polled{RawConn: raw})
			c.rf = c.readStep
			c.wf = c.writeStep
		}
	}
	sw.add(c)
	return c
}

// Read implements net.Conn. It first sends what a held Write left.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.out) > 0 {
		return c.sendAndRead(p, stepSend)
	}
	return c.read(p, stepRead)
}

// Roundtrip sends out and waits for the first bytes of an answer. It fails with
// ErrStale, nothing sent, if the connection was closed or had bytes waiting, and
// with wrote=false as long as no byte of out was taken by the socket.
func (c *Conn) Roundtrip(out, p []byte) (n int, wrote bool, err error) {
	c.out = out
	n, err = c.sendAndRead(p, stepCheck)
	wrote = len(c.out) < len(out)
	c.out = nil
	return n, wrote, err
}

// sendAndRead sends c.out and reads, in one pass through the poller if the socket
// takes everything at once.
func (c *Conn) sendAndRead(p []byte, first step) (int, error) {
	if c.plain() {
		if err := c.Flush(); err != nil {
			return 0, err
		}
		return c.nc.Read(p)
	}
	n, err := c.read(p, first)
	if err == nil && c.rstep == stepShort {
		// Slow path: a full socket buffer. Wait for room, then for data.
		if err = c.Flush(); err != nil {
			return 0, err
		}
		return c.read(p, stepRead)
	}
	if err == nil && len(c.out) == 0 {
		c.out = nil
	}
	return n, err
}

func (c *Conn) read(p []byte, first step) (int, error) {
	if c.plain() {
		if c.noWait {
			return 0, ErrWouldBlock
		}
		return c.nc.Read(p)
	}
	c.rbuf, c.rn, c.rerr, c.rstep = p, 0, nil, first
	err := c.readRaw()
	c.rbuf = nil
	if err == nil {
		err = c.rerr
	}
	if err == nil && c.rn == 0 && c.rstep == stepRead && len(p) > 0 {
		err = io.EOF
		if c.underTLS {
			err = ErrCut
		}
	}
	return c.rn, err
}

// UnderTLS makes the end of the stream ErrCut in place of io.EOF. crypto/tls takes
// an io.EOF between two records for an end in order, so that a cut could not be told
// from a close_notify.
func (c *Conn) UnderTLS() { c.underTLS = true }

// NoWait makes reads that find nothing return ErrWouldBlock at once, or stops that.
// It is how a layer above is asked whether it still holds something.
func (c *Conn) NoWait(on bool) { c.noWait = on }

// readStep runs inside the poller: returning false waits for the next readable
// edge. The poller was armed before the first call, so an answer that arrives
// between the send and the wait is not lost.
func (c *Conn) readStep(fd uintptr) bool {
	switch c.rstep {
	case stepCheck, stepPeek:
		// Bytes before the request belong to no response: the connection is unusable.
		if _, errno := Recv(fd, c.rbuf); errno != syscall.EAGAIN {
			c.rerr = ErrStale
			return true
		}
		if c.rstep == stepPeek {
			return true
		}
		fallthrough
	case stepSend:
		n, errno := Send(fd, c.out)
		if errno == 0 || errno == syscall.EAGAIN {
			c.out = c.out[n:]
			if len(c.out) > 0 {
				c.rstep = stepShort
				return true
			}
			c.ArmWrite(0) // what follows is a wait for the peer
			checked := c.rstep == stepCheck
			c.rstep = stepRead
			if checked {
				return false // the answer cannot be here already
			}
			break // a client may have sent its next request: look before waiting
		}
		c.rerr = os.NewSyscallError("send", errno)
		return true
	}
	for {
		n, errno := Recv(fd, c.rbuf)
		switch errno {
		case 0:
			c.rn = n
			return true
		case syscall.EAGAIN:
			if c.noWait {
				c.rerr = ErrWouldBlock
				return true
			}
			return false
		case syscall.EINTR:
			continue
		}
		c.rerr = os.NewSyscallError("recv", errno)
		return true
	}
}

// Hold makes the next Write wait for the next Read, which sends its bytes on the
// way. Flush sends them without a read.
func (c *Conn) Hold(m HoldMode) { c.hold = m }

// Held reports whether a held Write is still to be sent.
func (c *Conn) Held() bool { return len(c.out) > 0 }

// Flush sends what a held Write left, and removes the deadline of writes. What a
// failure leaves can be flushed again.
func (c *Conn) Flush() error {
	c.hold = HoldOff
	if len(c.out) == 0 {
		return nil
	}
	n, err := c.write(c.out)
	if err != nil {
		c.out = c.out[n:]
		return err
	}
	c.out = nil
	c.ArmWrite(0)
	return nil
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.hold != HoldOff && len(c.out)+len(p) <= maxHeld {
		if c.hold == HoldRef && len(c.out) == 0 {
			c.out = p
			return len(p), nil
		}
		c.spare = append(append(c.spare[:0], c.out...), p...)
		c.out = c.spare
		return len(p), nil
	}
	if len(c.out) > 0 {
		limit := time.Duration(c.writeFor.Load())
		if err := c.Flush(); err != nil {
			return 0, err
		}
		c.ArmWrite(limit) // it was meant for p as well
	}
	return c.write(p)
}

// TryWrite writes what the socket takes at once, which may be less than p without an error. Nothing may be held.
func (c *Conn) TryWrite(p []byte) (int, error) {
	if c.plain() {
		return 0, nil // it cannot be tried
	}
	c.trying = true
	defer func() { c.trying = false }()
	return c.write(p)
}

func (c *Conn) write(p []byte) (int, error) {
	if c.plain() {
		return c.nc.Write(p)
	}
	c.wbuf, c.wn, c.werr = p, 0, nil
	err := c.writeRaw()
	c.wbuf = nil
	if c.stalled {
		c.stalled = false
		if c.writeFor.Load() == 0 {
			c.writeBy.Store(0)
		}
	}
	if err == nil {
		err = c.werr
	}
	return c.wn, err
}

func (c *Conn) writeStep(fd uintptr) bool {
	for c.wn < len(c.wbuf) {
		n, errno := Send(fd, c.wbuf[c.wn:])
		switch errno {
		case 0:
			c.wn += n
		case syscall.EAGAIN:
			if c.trying {
				return true
			}
			// The peer took something since the last wait.
			if d := c.writeFor.Load(); d > 0 {
				c.writeBy.Store(c.sw.after(time.Duration(d)))
			} else if c.stall > 0 && (c.stalled || c.writeBy.Load() == 0) {
				c.writeBy.Store(c.sw.after(c.stall))
				c.stalled = true
			}
			return false
		case syscall.EINTR:
		default:
			c.werr = os.NewSyscallError("send", errno)
			return true
		}
	}
	return true
}

// ArmRead sets the deadline of reads to d from now, give or take one sweep; 0
// removes it.
func (c *Conn) ArmRead(d time.Duration) { c.readBy.Store(c.sw.after(d)) }

// ArmWrite sets the longest pause of writes likewise: whenever the peer takes some,
// d begins anew. A held Write or a Roundtrip that has sent everything removes it.
func (c *Conn) ArmWrite(d time.Duration) {
	c.writeFor.Store(int64(d))
	c.writeBy.Store(c.sw.after(d))
}

// Yield says whether the read that follows is one that nobody needs: its deadline
// passes at once when the sweep is urged (Sweeper.Urge).
func (c *Conn) Yield(on bool) { c.yields.Store(on) }

// Stall bounds the waits of writes that no ArmWrite bounds, such as those that
// crypto/tls makes while it reads: a KeyUpdate has to be answered. Call it before the first
// write.
func (c *Conn) Stall(d time.Duration) { c.stall = d }

// Disarm removes both deadlines and returns what c was interrupted for so far.
// After it no deadline that was set before can fire any more.
func (c *Conn) Disarm() Cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy.Store(0)
	c.writeBy.Store(0)
	c.writeFor.Store(0)
	return c.Interrupted()
}

// SetDeadline implements net.Conn on the sweep.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn on the sweep.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readBy.Store(c.sw.at(t))
	return nil
}

// SetWriteDeadline implements net.Conn on the sweep.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeFor.Store(0)
	c.writeBy.Store(c.sw.at(t))
	return nil
}

// Interrupt makes blocked and later calls in the directions that why ends fail at
// once with os.ErrDeadlineExceeded. It never blocks.
func (c *Conn) Interrupt(why Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCauseLocked(c.Interrupted() | why)
}

// Resume undoes interruptions for the causes in what, once the calls that they ended have
// returned. Other causes stay.
func (c *Conn) Resume(what Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCauseLocked(c.Interrupted() &^ what)
}

func (c *Conn) setCauseLocked(cause Cause) {
	c.cause.Store(uint32(cause))
	var d deadliner = c.nc
	if p := c.raw.Load(); p != nil && p.file != nil {
		d = p.file
	} else if c.nc == nil {
		return // nobody waits; whoever begins to will see the cause
	}
	_ = d.SetReadDeadline(deadlineFor(cause.Has(endsReads)))
	_ = d.SetWriteDeadline(deadlineFor(cause.Has(endsWrites)))
}

// deadliner is what a wait is ended with.
type deadliner interface {
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

func deadlineFor(ended bool) time.Time {
	if ended {
		return past
	}
	return time.Time{}
}

// Interrupted tells why c was interrupted. A connection that was must not be pooled.
func (c *Conn) Interrupted() Cause { return Cause(c.cause.Load()) }

var past = time.Unix(1, 0)

// SetWatcher sets who is told when the peer goes while Watch is on.
func (c *Conn) SetWatcher(w Watcher) { c.watcher = w }

// OnClose makes f be called once, when the socket is closed.
func (c *Conn) OnClose(f func()) { c.onClose = f }

// Watch starts watching for the peer to close or reset, or stops it. The sweep
// looks only at connections that have been watched for a while (watchDelay), so
// that fast requests pay for an atomic store and nothing else.
func (c *Conn) Watch(on bool) {
	if on {
		c.watchAt.Store(c.sw.after(watchDelay))
		return
	}
	c.watchAt.Store(0)
}

// CloseWrite sends FIN and leaves the reading side open.
func (c *Conn) CloseWrite() error {
	if err := c.Flush(); err != nil {
		return err
	}
	if c.nc == nil {
		return c.shutdownWrite()
	}
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// Detach makes Close do nothing from now on: the connection has a new owner, who
// ends it with CloseDetached.
func (c *Conn) Detach() { c.detached.Store(true) }

// Detached reports whether Detach was called.
func (c *Conn) Detached() bool { return c.detached.Load() }

// Dirty reports whether the peer has closed an idle connection or sent bytes that
// nobody asked for. Roundtrip finds that out by itself, without a call more.
func (c *Conn) Dirty() bool {
	if c.plain() {
		return false
	}
	var one [1]byte
	c.rbuf, c.rerr, c.rstep = one[:], nil, stepPeek
	err := c.readRaw()
	c.rbuf = nil
	return err != nil || c.rerr != nil
}

// Close implements net.Conn; it is idempotent.
func (c *Conn) Close() error {
	if c.detached.Load() {
		return nil
	}
	return c.CloseDetached()
}

// CloseDetached closes the socket whoever owns it.
func (c *Conn) CloseDetached() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.sw.remove(c)
	if c.onClose != nil {
		c.onClose()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spareFD != 0 {
		_ = closeFD(c.spareFD)
		c.spareFD = 0
	}
	if c.nc == nil {
		return c.closeFD()
	}
	return c.nc.Close()
}

// Reset closes with RST instead of FIN, so that a peer which takes the end of the
// connection for the end of a message learns that it was cut short.
func (c *Conn) Reset() error {
	if c.nc == nil {
		c.lingerZero()
	} else if l, ok := c.nc.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	return c.CloseDetached()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr {
	if c.nc == nil {
		return c.fdAddr(false)
	}
	return c.nc.LocalAddr()
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr {
	if c.nc == nil {
		return c.fdAddr(true)
	}
	return c.nc.RemoteAddr()
}
