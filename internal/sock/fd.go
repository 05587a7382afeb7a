package sock

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// polled is a socket that Go's poller knows.
type polled struct {
	syscall.RawConn
	file *os.File // owns the descriptor; nil where a net.Conn does
}

// ErrNoDescriptor says that a connection has no descriptor to give away.
var ErrNoDescriptor = errors.New("sock: no descriptor to release")

// ErrHeld says that bytes are still held to be sent, which a new owner would not send.
var ErrHeld = errors.New("sock: bytes are held to be sent")

// NewFD takes over the non-blocking socket fd. Go's poller learns of it only when a
// call has to wait (a connection that was woken because bytes are there, answered, and
// put to sleep elsewhere never waits), and forgets it again with Release.
func NewFD(fd int, sw *Sweeper) *Conn {
	c := &Conn{fd: fd, sw: sw}
	c.rf = c.readStep
	c.wf = c.writeStep
	sw.add(c)
	return c
}

// plain reports whether only the methods of a net.Conn can be used.
func (c *Conn) plain() bool { return c.fd < 0 && c.raw.Load() == nil }

// readRaw runs readStep until it is done, waiting in Go's poller in between.
func (c *Conn) readRaw() error {
	p := c.raw.Load()
	if p == nil {
		done, err := c.try(c.rf, endsReads)
		if done || err != nil {
			return err
		}
		if p, err = c.register(); err != nil {
			return err
		}
	}
	return c.mapClosed(p.Read(c.rf))
}

// writeRaw does the same with writeStep.
func (c *Conn) writeRaw() error {
	p := c.raw.Load()
	if p == nil {
		done, err := c.try(c.wf, endsWrites)
		if done || err != nil {
			return err
		}
		if p, err = c.register(); err != nil {
			return err
		}
	}
	return c.mapClosed(p.Write(c.wf))
}

// mapClosed words the end of a wait by Close as package net does; package os has a word of
// its own.
func (c *Conn) mapClosed(err error) error {
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// try runs a step on a descriptor that Go's poller does not know. The lock stands in for
// the poller's: a closed descriptor's number is soon another connection's. The step
// does not block.
func (c *Conn) try(step func(fd uintptr) bool, ends Cause) (done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed.Load():
		return false, net.ErrClosed
	case c.raw.Load() != nil:
		return false, nil // registered by the other direction
	case c.Interrupted().Has(ends):
		return false, os.ErrDeadlineExceeded
	}
	return step(uintptr(c.fd)), nil
}

// register makes the descriptor known to Go's poller. Reader and writer may both come
// here. What interrupts them from now on does so through the file.
func (c *Conn) register() (*polled, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.raw.Load(); p != nil {
		return p, nil
	}
	if c.closed.Load() {
		return nil, net.ErrClosed
	}
	if c.onWait != nil {
		c.onWait()
	}
	f := os.NewFile(uintptr(c.fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &polled{RawConn: raw, file: f}
	c.raw.Store(p)
	if cause := c.Interrupted(); cause != NotInterrupted {
		c.setCauseLocked(cause)
	}
	return p, nil
}

// OnWait makes f be called before the descriptor becomes known to Go's poller, so that
// another poller can forget it.
func (c *Conn) OnWait(f func()) { c.onWait = f }

// Waited reports whether Go's poller knows the descriptor. If it does not, Release
// returns the very descriptor of NewFD.
func (c *Conn) Waited() bool { return c.raw.Load() != nil }

// Release gives the socket to a new owner, as a non-blocking descriptor that Go's
// poller does not know, and ends c without closing the socket; OnClose is not called.
// The descriptor is another one than before if the poller knew it: it is a
// duplicate, since closing is the only way to make the poller forget one. No call may be
// under way, and nothing be held.
func (c *Conn) Release() (fd int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return -1, net.ErrClosed
	}
	if len(c.out) > 0 {
		return -1, ErrHeld
	}
	fd = c.fd
	if p := c.raw.Load(); p != nil {
		if err := c.prepareLocked(p); err != nil {
			return -1, err
		}
		fd, c.spareFD = c.spareFD, 0
		if p.file != nil {
			_ = p.file.Close()
		} else {
			_ = c.nc.Close()
		}
	} else if fd < 0 {
		return -1, ErrNoDescriptor
	}
	c.closed.Store(true)
	c.sw.remove(c)
	return fd, nil
}

// PrepareRelease makes sure that Release will not fail for want of a descriptor (EMFILE),
// unless the first wait comes in between.
func (c *Conn) PrepareRelease() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.raw.Load()
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case p != nil:
		return c.prepareLocked(p)
	case c.fd < 0:
		return ErrNoDescriptor
	}
	return nil
}

func (c *Conn) prepareLocked(p *polled) (err error) {
	if c.spareFD == 0 {
		var fd int
		if fd, err = duplicate(p); err == nil {
			c.spareFD = fd
		}
	}
	return err
}

// closeFD closes a descriptor of our own.
func (c *Conn) closeFD() error {
	if p := c.raw.Load(); p != nil {
		return p.file.Close()
	}
	return closeFD(c.fd)
}

// withFD runs f on the descriptor, unless it is closed.
func (c *Conn) withFD(f func(fd uintptr)) error {
	if p := c.raw.Load(); p != nil {
		return p.Control(f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.withFDLocked(f)
}

func (c *Conn) withFDLocked(f func(fd uintptr)) error {
	if p := c.raw.Load(); p != nil {
		return p.Control(f)
	}
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case c.fd < 0:
		return ErrNoDescriptor
	}
	f(uintptr(c.fd))
	return nil
}

// Inspect runs f on the descriptor if the connection is open, and keeps it open
// meanwhile. f must only look. Any goroutine may call it.
func (c *Conn) Inspect(f func(fd int)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	return c.withFDLocked(func(fd uintptr) { f(int(fd)) }) == nil
}
