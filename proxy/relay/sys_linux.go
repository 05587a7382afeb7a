package relay

import "golang.org/x/sys/unix"

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
