package listen

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// AcceptFD is Accept for callers that use descriptors of their own: fd is
// non-blocking and closed on exec, and neither package net nor Go's poller knows it (about 600 B
// less for each connection). peer is the zero value for Unix sockets. Its options are
// those that the listening socket has: Linux lets them be inherited.
func (l *Listener) AcceptFD() (fd int, peer netip.AddrPort, err error) {
	if !l.closing.Load() {
		fd, peer, err = l.acceptRaw()
		if err == nil || !l.closing.Load() {
			return fd, peer, err
		}
	}
	conn, err := l.Accept() // what Close found in the kernel's queue
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	return detach(conn)
}

// waitable returns a second descriptor of the socket, in a file: package net does not let
// anyone wait with the first.
func (l *Listener) waitable() (syscall.RawConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		f, err := l.inner.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return nil, err
		}
		l.file = f
	}
	return l.file.SyscallConn()
}

func (l *Listener) acceptRaw() (fd int, peer netip.AddrPort, err error) {
	raw, err := l.waitable()
	if err != nil {
		return -1, peer, err
	}
	var sa unix.Sockaddr
	outer := raw.Read(func(ln uintptr) bool {
		fd, sa, err = unix.Accept4(int(ln), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if outer != nil {
		return -1, peer, outer
	}
	if err != nil {
		return -1, peer, os.NewSyscallError("accept4", err)
	}
	return fd, addrPort(sa), nil
}

// detach takes the descriptor out of a connection of package net.
func detach(conn net.Conn) (fd int, peer netip.AddrPort, err error) {
	defer conn.Close() // the duplicate stays
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		peer = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, peer, err
	}
	err = control(raw, func(old uintptr) (err error) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("dup", err)
	})
	return fd, peer, err
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			a = a.WithZone(zoneName(sa.ZoneId))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func zoneName(id uint32) string {
	if ifi, err := net.InterfaceByIndex(int(id)); err == nil {
		return ifi.Name
	}
	return strconv.Itoa(int(id))
}
