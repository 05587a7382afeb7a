package target

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// withoutPort has the port chosen at connect, when the destination is known:
// otherwise bind takes ports that could serve another destination too and runs out.
func withoutPort(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
}

// bindWithoutPort is that for a net.Dialer.
func bindWithoutPort(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = withoutPort(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// Vanish closes a connection so that the peer hears nothing of it, neither FIN nor
// RST, as if the machine had gone: in repair mode the kernel forgets a socket in
// silence. It takes CAP_NET_ADMIN; an error says that the connection is still open.
// Should the peer send later, the kernel answers with RST.
func Vanish(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return conn.Close()
}
