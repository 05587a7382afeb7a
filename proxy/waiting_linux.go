package proxy

import (
	"errors"

	"golang.org/x/sys/unix"
)

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

// hungUp reports whether the peer has ended its side, or reset.
func hungUp(fd int) bool {
	gone := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(gone, 0)
	return err != nil || n > 0
}

// hangUp ends both directions of a socket: whoever waits for it, and wherever, is woken. The descriptor stays open.
func hangUp(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }

// sendLast sends something before a socket is closed, if it takes it at once. What came is read first: a close with
// unread bytes is a RST, which can overtake what was sent.
func sendLast(fd int, b []byte) {
	_, _ = throwAway(fd, maxRecord)
	_ = unix.Send(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// recordHeader is the length of a TLS record's header.
const recordHeader = 5

// helloComplete reports whether a whole TLS record waits at a new connection, so that the
// handshake need not wait for the rest of a ClientHello that comes in drops. If not, it
// has the kernel tell when there is enough (SO_RCVLOWAT), be it the header first.
func helloComplete(fd int) bool {
	n, want := firstRecord(fd)
	if n == 0 {
		return true // an end, which the handshake will find
	}
	if moreHelloToCome(fd, n, want) && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, want) == nil {
		return false
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) // what reads from now on wants any byte
	return true
}

// firstRecord peeks at the first record that waits at a connection: n bytes of its header were looked at, and want are needed for
// all of it, or for its header if that is not whole. want is 1 if it is no TLS: the handshake says so.
func firstRecord(fd int) (n, want int) {
	var head [recordHeader]byte
	n, _, err := unix.Recvfrom(fd, head[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil || n <= 0 {
		return 0, 0
	}
	want = recordHeader
	if n == recordHeader {
		want += int(head[3])<<8 | int(head[4])
	}
	if head[0] != recordTypeHandshake || want > maxRecord {
		want = 1
	}
	return n, want
}

// helloWhole is helloComplete that changes nothing, and takes the kernel's word.
func helloWhole(fd int) bool {
	n, want := firstRecord(fd)
	have, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return n > 0 && err == nil && have >= want && (n == recordHeader || want == 1)
}

// moreHelloToCome reports whether fewer than want bytes are there, of which peeked were
// looked at, and the kernel can be trusted to tell of more.
func moreHelloToCome(fd, peeked, want int) bool {
	have, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil || have >= want && (peeked == recordHeader || want == 1) {
		return false
	}
	if hungUp(fd) {
		return false // the handshake will find out
	}
	// If this is what it was asked for, it told with less: with many tiny segments the memory
	// of the socket is short, and the mark is not kept.
	mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	return err == nil && mark != want
}

const (
	recordTypeHandshake = 22
	maxRecord           = recordHeader + 16<<10 // RFC 8446 section 5.1
)

// throwAway reads and throws away what waits at a socket, most bytes at most. more is false at
// the end of the stream.
func throwAway(fd, most int) (n int, more bool) {
	var buf [4 << 10]byte
	for n < most {
		k, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return n, true
		case err != nil || k == 0:
			return n, false
		case k < len(buf):
			return n + k, true // that was all
		default:
			n += k
		}
	}
	return n, true
}
