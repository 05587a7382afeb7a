package fault

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setBacklog changes how many connections may wait to be accepted.
func setBacklog(ln *net.TCPListener, n int) error {
	return control(ln, func(fd int) error { return unix.Listen(fd, n) })
}

// backlogFull says whether the kernel drops the next SYN. Of a listener, TCP_INFO tells
// the length of its queue in the place of unacknowledged segments, and the most in that of
// SACKed ones; it is full once the length is greater.
func backlogFull(ln *net.TCPListener) (full bool, err error) {
	err = control(ln, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		full = err == nil && info.Unacked > info.Sacked
		return err
	})
	return full, err
}

// control calls f with the descriptor.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// gone waits until the peer has closed or reset the connection, without reading, or until
// ctx ends. Every event of the socket has the poller ask again.
func gone(ctx context.Context, conn *net.TCPConn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.State != unix.BPF_TCP_ESTABLISHED
	})
}
