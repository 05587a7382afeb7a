package relay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recv and send skip the scheduler's entry and exit: they never block, whatever mode
// the descriptor is in.
func recv(fd int32, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func send(fd int32, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sendFIN ends the sending direction.
func sendFIN(fd int32) error { return unix.Shutdown(int(fd), unix.SHUT_WR) }

// closeFD closes a socket; with reset, what is unsent is dropped and the peer gets a
// RST instead of a FIN.
func closeFD(fd int32, reset bool) {
	if reset {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(int(fd))
}
