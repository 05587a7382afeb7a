// Package listen opens the sockets that clients connect to.
//
// On Linux every option of a connection is set on the listening socket, from which
// accepted ones inherit it, so that an accept costs no setsockopt but the TCP_NODELAY
// that package net insists on. Each TCP listener is as many sockets as it has acceptors,
// bound to one address with SO_REUSEPORT; the kernel spreads connections over them.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"

	"tickgate/config"
)

// Open opens l's sockets: one for each acceptor on TCP (one for each processor if
// l.Acceptors is 0; always one where the system cannot share an address), and one on a Unix
// socket. Each is a *Listener and wants its own accept loop. If one cannot be opened,
// none is.
//
// ":443" and "*:443" are every address, v4 and v6; "0.0.0.0:443" is v4 only and
// "[::]:443" v6 only, so that both can be used at once.
//
// The address must be free: although SO_REUSEPORT would let a second process of the same
// user in, which would silently take half of the connections, Open fails then. See Join.
func Open(l *config.Listener) ([]net.Listener, error) {
	return open(l, exclusive)
}

// Join is Open for an address that this process, or one that it replaces, listens on
// already: while one set of sockets takes the place of another, both accept. It asks for no
// more than SO_REUSEPORT, which the older sockets need as well and have if Open made them. The
// file of a Unix socket is replaced in one step: from then on, clients reach the new one.
func Join(l *config.Listener) ([]net.Listener, error) {
	return open(l, joining)
}

// sharing says whether others may listen on an address that is to be opened.
type sharing uint8

const (
	exclusive sharing = iota
	joining
)

func open(l *config.Listener, how sharing) ([]net.Listener, error) {
	var lns []net.Listener
	var err error
	if path, ok := strings.CutPrefix(l.Listen, "unix:"); ok {
		lns, err = openUnix(l, path, how)
	} else {
		lns, err = openTCP(l, how)
	}
	if err != nil {
		return nil, explain(l.Listen, err)
	}
	return lns, nil
}

func openTCP(l *config.Listener, how sharing) ([]net.Listener, error) {
	network, addr, err := resolve(l.Listen)
	if err != nil {
		return nil, err
	}
	// The kernel finds a free port for 0, and a check would only tell about another one.
	if how == exclusive && addr.Port != 0 {
		if err := checkFree(network, addr); err != nil {
			return nil, err
		}
	}
	var lns []net.Listener
	for range acceptors(l) {
		ln, err := openSocket(l, network, addr)
		if err != nil {
			for _, opened := range lns {
				_ = opened.Close() // the first error says what is wrong
			}
			return nil, err
		}
		lns = append(lns, ln)
		// Port 0 became a real one; the others share it.
		addr.Port = ln.Addr().(*net.TCPAddr).Port
	}
	return lns, nil
}

func openSocket(l *config.Listener, network string, addr *net.TCPAddr) (*Listener, error) {
	lc := net.ListenConfig{
		// Below 0, package net leaves keep-alive of accepted connections alone: they inherit it.
		KeepAlive: -1,
		Control: func(_, _ string, rc syscall.RawConn) error {
			return control(rc, func(fd uintptr) error { return setOptions(fd, l) })
		},
	}
	// Package net listens with MPTCP by default, whose sockets take fewer options and cost more.
	lc.SetMultipathTCP(false)
	inner, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	ln, err := newListener(inner, l.Backlog)
	if err != nil {
		_ = inner.Close() // the first error says what is wrong
		return nil, err
	}
	return ln, nil
}

// resolve turns a configured address into one to bind, and the network whose sockets
// cover just what was asked for: package net would bind "0.0.0.0" with network "tcp" to v6 as well.
func resolve(listen string) (network string, addr *net.TCPAddr, err error) {
	if port, ok := strings.CutPrefix(listen, "*:"); ok {
		listen = ":" + port
	}
	addr, err = net.ResolveTCPAddr("tcp", listen)
	switch {
	case err != nil:
		return "", nil, err
	case addr.IP == nil:
		return "tcp", addr, nil
	case addr.IP.To4() != nil:
		return "tcp4", addr, nil
	}
	return "tcp6", addr, nil
}

func acceptors(l *config.Listener) int {
	if !canShare {
		return 1
	}
	if l.Acceptors > 0 {
		return l.Acceptors
	}
	return runtime.GOMAXPROCS(0)
}

// control runs f with the descriptor of rc and returns whichever error there is.
func control(rc syscall.RawConn, f func(fd uintptr) error) error {
	var err error
	if outer := rc.Control(func(fd uintptr) { err = f(fd) }); outer != nil {
		return outer
	}
	return err
}

// hints say what to look at, by the error of the system.
var hints = []struct {
	errno syscall.Errno
	text  string
}{
	{syscall.EADDRINUSE, "is another process, or a second listener with the same address, running?"},
	{syscall.EADDRNOTAVAIL, "no interface of this machine has this address"},
	{syscall.EACCES, "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; a Unix socket needs a writable directory"},
	{syscall.EMFILE, "raise the limit on open files (ulimit -n)"},
	{syscall.ENOENT, "does the socket's directory exist?"},
}

// explain words an error in terms of the configured address.
func explain(listen string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	for _, h := range hints {
		if errno == h.errno {
			return fmt.Errorf("listen on %s: %w (%s)", listen, errno, h.text)
		}
	}
	return fmt.Errorf("listen on %s: %w", listen, err)
}
