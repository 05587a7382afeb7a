package httpload

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func closeFD(fd int32) { _ = unix.Close(int(fd)) }

// noDelay has each send go out at once.
func noDelay(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

// connectError tells how a connect ended.
func connectError(fd int32) error {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = syscall.Errno(n)
	}
	return os.NewSyscallError("connect", err)
}
