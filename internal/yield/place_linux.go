package yield

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// place is an eventfd that Go's poller knows. It is for one goroutine at a time.
type place struct {
	// Static.
	file *os.File
	raw  syscall.RawConn
	step func(fd uintptr) bool // a method value, made once

	armed bool // owned by who waits
}

// newPlace returns nil if there is no descriptor to be had.
func newPlace() *place {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil
	}
	p := &place{file: os.NewFile(uintptr(fd), "eventfd")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil
	}
	p.step = p.look
	return p
}

// one is what is added to the counter. Nobody reads it, as each write is an edge.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// wait makes the descriptor readable while it is armed in the poller, and returns when the poller has seen it, or after limit.
func (p *place) wait(limit time.Duration) {
	if p.file.SetReadDeadline(time.Now().Add(limit)) != nil {
		return
	}
	p.armed = false
	_ = p.raw.Read(p.step)
}

// look is called with the descriptor armed, and again when the poller has seen it.
func (p *place) look(fd uintptr) (done bool) {
	if p.armed {
		return true
	}
	p.armed = true
	_, err := unix.Write(int(fd), one)
	return err != nil
}

func (p *place) close() { _ = p.file.Close() }
