package listen

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/config"
)

// canShare says whether several sockets can share an address and its connections.
const canShare = true

// Keep-alive is configured by its idle time alone. After it, keepAliveProbes
// probes are sent, keepAliveShare of the idle time but at most maxKeepAliveStep apart.
const (
	keepAliveProbes  = 4
	keepAliveShare   = 4
	maxKeepAliveStep = 15 * time.Second
)

// option is one socket option with an integer value.
type option struct {
	name              string
	level, opt, value int
}

// setOptions sets what must be set before bind, and what connections inherit.
func setOptions(fd uintptr, l *config.Listener) error {
	for _, o := range socketOptions(l) {
		if err := unix.SetsockoptInt(int(fd), o.level, o.opt, o.value); err != nil {
			return os.NewSyscallError("setsockopt "+o.name, err)
		}
	}
	return nil
}

func socketOptions(l *config.Listener) []option {
	opts := []option{
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}
	if l.KeepAlive > 0 {
		step := min(l.KeepAlive/keepAliveShare, maxKeepAliveStep)
		opts = append(opts,
			option{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			option{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(l.KeepAlive)},
			option{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(step)},
			option{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes})
	}
	if l.UserTimeout > 0 {
		ms := int(max(1, l.UserTimeout.Milliseconds()))
		opts = append(opts, option{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms})
	}
	if l.DeferAccept > 0 {
		opts = append(opts, option{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, seconds(l.DeferAccept)})
	}
	return opts
}

// seconds rounds up, since the kernel takes whole ones and 0 is not a short time.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func setBacklog(fd uintptr, backlog int) error {
	return os.NewSyscallError("listen", unix.Listen(int(fd), backlog))
}

func limitMode(fd uintptr, mode uint32) error {
	return os.NewSyscallError("fchmod", unix.Fchmod(int(fd), mode))
}

func isReadable(fd uintptr) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, os.NewSyscallError("poll", err)
	}
}

// onlySYN is a classic BPF program over the TCP header: drop what opens a connection,
// keep everything else, the final ACK of a handshake included.
var onlySYN = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},           // flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},        // SYN and ACK
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jf: 1}, // SYN alone?
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},                          // drop
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},                 // keep whole
}

func dropSYN(fd uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(onlySYN)), Filter: &onlySYN[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER",
		unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
}

// checkFree binds addr without SO_REUSEPORT for a moment, which fails if anyone listens there. It
// does not listen, so that no client meets the socket.
func checkFree(network string, addr *net.TCPAddr) error {
	family, sa, err := sockaddr(network, addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) && network == "tcp" {
		// No IPv6 here: every address is every v4 address.
		return checkFree("tcp4", &net.TCPAddr{IP: net.IPv4zero, Port: addr.Port})
	}
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	// As package net does: without it, old connections in TIME_WAIT would be in the way.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if family == unix.AF_INET6 {
		v6only := 0
		if network == "tcp6" {
			v6only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}

func sockaddr(network string, addr *net.TCPAddr) (family int, sa unix.Sockaddr, err error) {
	if network == "tcp4" {
		return unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}, nil
	}
	sa6 := &unix.SockaddrInet6{Port: addr.Port}
	if addr.IP != nil {
		sa6.Addr = [16]byte(addr.IP.To16())
	}
	if addr.Zone != "" {
		ifi, err := net.InterfaceByName(addr.Zone)
		if err != nil {
			return 0, nil, err
		}
		sa6.ZoneId = uint32(ifi.Index)
	}
	return unix.AF_INET6, sa6, nil
}
