package sock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const rawSupported = true

// sysRecv and sysSend skip the scheduler's entry and exit: the sockets are
// non-blocking, so the calls return at once.
func sysRecv(fd uintptr, p []byte) (int, syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysSend(fd uintptr, p []byte) (int, syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// peerGone reports whether the peer closed, half-closed or reset, whether or not
// bytes of its are still unread. A half-close counts, as in nginx: nothing tells
// it from a close.
func (c *Conn) peerGone() bool {
	return c.poll(unix.POLLRDHUP)&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// Readable reports whether there are bytes to read right now.
func (c *Conn) Readable() bool {
	return c.poll(unix.POLLIN|unix.POLLRDHUP)&(unix.POLLIN|unix.POLLRDHUP) == unix.POLLIN
}

func (c *Conn) poll(events int16) (revents int16) {
	if c.raw == nil {
		return 0
	}
	_ = c.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			revents = p[0].Revents
		}
	})
	return revents
}
