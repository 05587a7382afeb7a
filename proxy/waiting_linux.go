package proxy

import "golang.org/x/sys/unix"

// readable reports whether bytes wait at a socket.
func readable(fd int) bool {
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && n > 0
}

func closeFD(fd int) error { return unix.Close(fd) }

// abortOnClose makes the close of a socket send RST and throw away what was not sent.
func abortOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
