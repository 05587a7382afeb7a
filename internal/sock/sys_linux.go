package sock

import (
	"net"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const rawSupported = true

// Recv receives what a socket has, at most len(p) bytes; 0 is the end. Like Send it never blocks, whatever
// mode the descriptor is in, so it skips the scheduler's entry and exit.
func Recv(fd uintptr, p []byte) (int, syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// Send sends as much of p as a socket takes. A peer that is gone is EPIPE, and no signal.
func Send(fd uintptr, p []byte) (int, syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// peerGone reports whether the peer closed, half-closed or reset, whether or not
// bytes of its are still unread; it needs mu. A half-close counts, as in nginx: nothing tells
// it from a close.
func (c *Conn) peerGone() bool {
	return poll(c.withFDLocked, unix.POLLRDHUP)&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// Readable reports whether there are bytes to read right now.
func (c *Conn) Readable() bool {
	return c.poll(unix.POLLIN|unix.POLLRDHUP)&(unix.POLLIN|unix.POLLRDHUP) == unix.POLLIN
}

// Writable reports whether the socket would take bytes right now.
func (c *Conn) Writable() bool { return c.poll(unix.POLLOUT)&unix.POLLOUT != 0 }

func (c *Conn) poll(events int16) int16 { return poll(c.withFD, events) }

func poll(with func(func(fd uintptr)) error, events int16) (revents int16) {
	_ = with(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			revents = p[0].Revents
		}
	})
	return revents
}

// duplicate returns a second descriptor of the socket.
func duplicate(p *polled) (fd int, err error) {
	outer := p.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if outer != nil {
		return -1, outer
	}
	return fd, os.NewSyscallError("dup", err)
}

func closeFD(fd int) error { return unix.Close(fd) }

func (c *Conn) shutdownWrite() error {
	var err error
	if outer := c.withFD(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); outer != nil {
		return outer
	}
	return os.NewSyscallError("shutdown", err)
}

func (c *Conn) lingerZero() {
	_ = c.withFD(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// fdAddr asks the kernel for an address of the socket.
func (c *Conn) fdAddr(remote bool) net.Addr {
	var sa unix.Sockaddr
	_ = c.withFD(func(fd uintptr) {
		if remote {
			sa, _ = unix.Getpeername(int(fd))
			return
		}
		sa, _ = unix.Getsockname(int(fd))
	})
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port, Zone: zoneName(sa.ZoneId)}
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return noAddr{}
}

// zoneName names an interface; its number will do where it has no name.
func zoneName(id uint32) string {
	if id == 0 {
		return ""
	}
	if ifi, err := net.InterfaceByIndex(int(id)); err == nil {
		return ifi.Name
	}
	return strconv.Itoa(int(id))
}
