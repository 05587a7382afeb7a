package proxy

import (
	"errors"

	"golang.org/x/sys/unix"
)

// peek looks at what waits at a socket and leaves it there. !ok: the peer has ended.
func peek(fd int, p []byte) (n int, ok bool) {
	for {
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, true
		default:
			return n, err == nil && n > 0
		}
	}
}

// take reads len(p) bytes that peek has seen: they are there, and nobody else reads.
func take(fd int, p []byte) {
	for len(p) > 0 {
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_DONTWAIT)
		if err == nil && n > 0 {
			p = p[n:]
		} else if !errors.Is(err, unix.EINTR) {
			return // reset meanwhile, which the next look finds
		}
	}
}

// awaitMore has the kernel tell of the socket only when more than n bytes wait there. False:
// it was told so before (marked) and does not keep to it, as the memory of sockets is short or the
// peer has ended.
func awaitMore(fd, n int, marked bool) bool {
	if marked {
		mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
		if err != nil || n < mark {
			return false
		}
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n+1) == nil
}

// wakeOnAny undoes awaitMore.
func wakeOnAny(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) }
