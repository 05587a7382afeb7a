package reactor

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is an epoll instance and the eventfd that ends its wait. The instance is
// itself registered in Go's poller: see the package comment.
type poller struct {
	epfd   int
	file   *os.File        // of epfd; Go's poller knows it
	raw    syscall.RawConn // of file
	look   func(epfd uintptr) (done bool)
	looks  int           // how often the wait called look
	ready  int           // what it found
	until  time.Duration // what file's deadline is set to
	wakefd int
	events [batch]unix.EpollEvent
}

type controlOp int

const (
	opAdd    controlOp = unix.EPOLL_CTL_ADD
	opModify controlOp = unix.EPOLL_CTL_MOD
	opRemove controlOp = unix.EPOLL_CTL_DEL
)

// interest is what each Mode asks of the kernel; ERR and HUP always come.
var interest = [...]uint32{
	OneShotRead: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT,
	EdgeBoth:    unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
}

func (p *poller) open() error {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// NewFile asks Go's poller only for descriptors that say they do not block.
	if err := unix.SetNonblock(epfd, true); err != nil {
		_ = unix.Close(epfd)
		return os.NewSyscallError("fcntl", err)
	}
	p.epfd, p.wakefd = epfd, -1
	p.file = os.NewFile(uintptr(epfd), "epoll")
	p.look = func(uintptr) bool {
		p.looks++
		p.ready = p.poll()
		return p.ready > 0
	}
	if err := p.join(); err != nil {
		p.close()
		return err
	}
	return nil
}

// join makes the registrations above and below the instance.
func (p *poller) join() (err error) {
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return err
	}
	// It fails if Go's poller did not take the descriptor: Read would spin then.
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if p.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	// Edge-triggered, so nobody needs to read it: each write is an event, and the
	// count of writes does not reach 2^64.
	if errno := p.ctl(opAdd, p.wakefd, unix.EPOLLIN|unix.EPOLLET, wakeToken); errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

func (p *poller) close() {
	_ = p.file.Close()
	if p.wakefd >= 0 {
		_ = unix.Close(p.wakefd)
	}
}

func (p *poller) control(op controlOp, fd int, t Token, m Mode) error {
	if errno := p.ctl(op, fd, interest[m], t); errno != 0 {
		return fmt.Errorf("epoll_ctl (operation %d) on descriptor %d: %w", op, fd, errno)
	}
	return nil
}

// ctl does not block, so it skips the scheduler's entry and exit.
func (p *poller) ctl(op controlOp, fd int, events uint32, t Token) syscall.Errno {
	e := unix.EpollEvent{Events: events, Fd: int32(uint32(t)), Pad: int32(uint32(t >> 32))}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

// wake ends the wait that is under way, or else the next.
func (p *poller) wake() {
	one := uint64(1)
	_, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.wakefd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
	if errno != 0 {
		panic("BUG: reactor: eventfd: " + errno.Error())
	}
}

// poll takes the events that are there and does not block. It returns their number.
func (p *poller) poll() int {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events)), batch, 0, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			// Someone closed a descriptor not his.
			panic("BUG: reactor: epoll_wait: " + errno.Error())
		}
	}
}

// wait blocks until there are events or the time has come, which is since start. It
// returns the number of events, and whether the goroutine slept.
func (p *poller) wait(start time.Time, until time.Duration) (ready int, slept bool) {
	if p.until != until {
		// Once a tick, so it costs nothing that counts.
		p.until = until
		if err := p.file.SetReadDeadline(start.Add(until)); err != nil {
			panic("BUG: reactor: deadline: " + err.Error())
		}
	}
	p.ready, p.looks = 0, 0
	if err := p.raw.Read(p.look); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		panic("BUG: reactor: wait: " + err.Error())
	}
	return p.ready, p.looks > 1 || p.ready == 0
}

// event returns event i of those that the last poll or wait took.
func (p *poller) event(i int) (Token, Event) {
	e := &p.events[i]
	var ev Event
	if e.Events&unix.EPOLLIN != 0 {
		ev = Readable
	}
	if e.Events&unix.EPOLLPRI != 0 {
		ev |= Urgent | Readable
	}
	if e.Events&unix.EPOLLOUT != 0 {
		ev |= Writable
	}
	if e.Events&unix.EPOLLRDHUP != 0 {
		ev |= PeerClosed
	}
	if e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		ev |= Failed
	}
	return Token(uint32(e.Fd)) | Token(uint32(e.Pad))<<32, ev
}
