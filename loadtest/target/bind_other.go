//go:build !linux

package target

import (
	"errors"
	"net"
	"syscall"
)

// bindWithoutPort does nothing: the option is Linux's.
func bindWithoutPort(_, _ string, _ syscall.RawConn) error { return nil }

// Vanish needs Linux.
func Vanish(*net.TCPConn) error { return errors.ErrUnsupported }
