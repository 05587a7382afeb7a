//go:build !linux

package target

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// bindWithoutPort does nothing: the option is Linux's.
func bindWithoutPort(_, _ string, _ syscall.RawConn) error { return nil }

// Vanish needs Linux.
func Vanish(*net.TCPConn) error { return errors.ErrUnsupported }

// Connect needs Linux.
func Connect(netip.AddrPort, netip.Addr, func(fd int) error) (int, error) {
	return -1, errors.ErrUnsupported
}
