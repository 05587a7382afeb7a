package listen

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"tickgate/config"
)

// mustOpen opens l until the end of the test.
func mustOpen(t *testing.T, l *config.Listener) []net.Listener {
	t.Helper()
	if l.Backlog == 0 {
		l.Backlog = 128
	}
	lns, err := Open(l)
	if err != nil {
		t.Fatalf("Open: %s", err)
	}
	t.Cleanup(func() { closeAll(t, lns) })
	return lns
}

func closeAll(t *testing.T, lns []net.Listener) {
	t.Helper()
	for _, ln := range lns {
		if err := ln.Close(); err != nil {
			t.Errorf("Close: %s", err)
		}
	}
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatalf("dial: %s", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// shortTempDir is short enough for the path of a Unix socket, unlike t.TempDir.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "l")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestAcceptors(t *testing.T) {
	f := func(acceptors, want int) {
		t.Helper()
		lns := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: acceptors})
		if !canShare {
			want = 1
		}
		if len(lns) != want {
			t.Errorf("acceptors: %d opens %d sockets, want %d", acceptors, len(lns), want)
		}
		for _, ln := range lns {
			if got, want := ln.Addr().String(), lns[0].Addr().String(); got != want {
				t.Errorf("one socket listens on %s, another on %s", got, want)
			}
		}
	}
	f(0, runtime.GOMAXPROCS(0))
	f(1, 1)
	f(3, 3)
}

func TestResolve(t *testing.T) {
	f := func(listen, network, addr string) {
		t.Helper()
		gotNetwork, gotAddr, err := resolve(listen)
		if err != nil {
			t.Errorf("resolve(%q): %s", listen, err)
			return
		}
		if gotNetwork != network || gotAddr.String() != addr {
			t.Errorf("resolve(%q) = %s %s, want %s %s", listen, gotNetwork, gotAddr, network, addr)
		}
	}
	f(":443", "tcp", ":443")
	f("*:443", "tcp", ":443")
	f("0.0.0.0:443", "tcp4", "0.0.0.0:443")
	f("127.0.0.1:80", "tcp4", "127.0.0.1:80")
	f("[::]:443", "tcp6", "[::]:443")
	f("[::1]:443", "tcp6", "[::1]:443")
	f("[fe80::1%lo]:443", "tcp6", "[fe80::1%lo]:443")
}

// Which addresses reach which listener; machines without IPv6 have no v6 half.
// reachedBy tells whether a listener's port can be reached over IPv4 and over IPv6.
func reachedBy(t *testing.T, ln net.Listener) (by [2]bool) {
	t.Helper()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for i, host := range [...]string{"127.0.0.1", "::1"} {
		if conn, err := net.Dial("tcp", net.JoinHostPort(host, port)); err == nil {
			by[i] = true
			_ = conn.Close()
		}
	}
	return by
}

func TestFamilies(t *testing.T) {
	hasV6 := false
	if ln, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		hasV6 = true
		_ = ln.Close()
	}
	f := func(listen string, v4, v6 bool) {
		t.Helper()
		if !hasV6 && !v4 {
			return
		}
		want := [2]bool{v4, v6 && hasV6}
		var got [2]bool
		for range 5 { // someone else may have the same port on the other family
			got = reachedBy(t, mustOpen(t, &config.Listener{Listen: listen, Acceptors: 1})[0])
			if got == want {
				return
			}
		}
		t.Errorf("IPv4 and IPv6 reach a listener on %s: %t, want %t", listen, got, want)
	}
	f(":0", true, true)
	f("*:0", true, true)
	f("0.0.0.0:0", true, false)
	f("[::]:0", false, true)
	f("127.0.0.1:0", true, false)
	f("[::1]:0", false, true)
}

func TestOpenFails(t *testing.T) {
	taken := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 2})[0].Addr().String()
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Close() }()
	dir := shortTempDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s.sock")
	mustOpen(t, &config.Listener{Listen: "unix:" + sock})

	f := func(l config.Listener, want error, text string) {
		t.Helper()
		l.Backlog = 16
		lns, err := Open(&l)
		if err == nil {
			closeAll(t, lns)
			t.Errorf("%s: no error", l.Listen)
			return
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%s: error %v is not %v", l.Listen, err, want)
		}
		if !strings.HasPrefix(err.Error(), "listen on "+l.Listen+": "+text) {
			t.Errorf("%s: error %q, want %q", l.Listen, err, text)
		}
	}
	const inUse = "address already in use (is another process, or a second listener with the same address, running?)"
	f(config.Listener{Listen: taken, Acceptors: 2}, syscall.EADDRINUSE, inUse)
	f(config.Listener{Listen: taken, Acceptors: 1}, syscall.EADDRINUSE, inUse)
	f(config.Listener{Listen: foreign.Addr().String()}, syscall.EADDRINUSE, inUse)
	f(config.Listener{Listen: ":" + strings.TrimPrefix(taken, "127.0.0.1:")}, syscall.EADDRINUSE, inUse)
	f(config.Listener{Listen: "192.0.2.1:0"}, syscall.EADDRNOTAVAIL, "cannot assign requested address (no interface of this machine has this address)")
	f(config.Listener{Listen: "127.0.0.1"}, nil, "address 127.0.0.1: missing port")
	f(config.Listener{Listen: "127.0.0.1:70000"}, nil, "address 70000: invalid port")
	f(config.Listener{Listen: "unix:" + sock}, syscall.EADDRINUSE, inUse)
	f(config.Listener{Listen: "unix:" + file}, errNotSocket, `"`+file+`": the path exists`)
	f(config.Listener{Listen: "unix:" + dir + "/absent/s.sock"}, syscall.ENOENT, "no such file or directory (does the socket's directory exist?)")
	f(config.Listener{Listen: "unix:" + dir + "/x", SocketMode: "0999"}, nil, `socket_mode: not an octal mode: "0999"`)
	f(config.Listener{Listen: "unix:" + dir + "/x", SocketMode: "01777"}, nil, `socket_mode: not an octal mode: "01777"`)
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		t.Errorf("a file in the place of the socket was touched: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	dir := shortTempDir(t)
	f := func(mode string, want fs.FileMode) {
		t.Helper()
		path := filepath.Join(dir, "m"+mode+".sock")
		lns := mustOpen(t, &config.Listener{Listen: "unix:" + path, SocketMode: mode, Acceptors: 4})
		if len(lns) != 1 {
			t.Errorf("%d sockets, want 1", len(lns))
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("socket_mode %q: %#o, want %#o", mode, got, want)
		}
		conn := dial(t, lns[0].Addr())
		if _, err := conn.Write([]byte("!")); err != nil {
			t.Errorf("write: %s", err)
		}
		closeAll(t, lns)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close the file is still there: %v", err)
		}
	}
	f("", 0o660)
	f("0600", 0o600)
	f("0666", 0o666) // more than the usual umask leaves
	f("777", 0o777)
}

// A killed process leaves its socket file; the next one takes the path over.
func TestUnixStale(t *testing.T) {
	path := filepath.Join(shortTempDir(t), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no stale file: %s", err)
	}
	dial(t, mustOpen(t, &config.Listener{Listen: "unix:" + path})[0].Addr())
}

// Closing leaves alone what a successor has put in the place of the file.
func TestUnixSuccessor(t *testing.T) {
	path := filepath.Join(shortTempDir(t), "s.sock")
	old := mustOpen(t, &config.Listener{Listen: "unix:" + path})
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	successor := mustOpen(t, &config.Listener{Listen: "unix:" + path})
	closeAll(t, old)
	dial(t, successor[0].Addr())
}

// Join takes the path of a Unix socket over without a gap; what the old socket has queued is
// still served, and its Close leaves the file alone.
func TestUnixJoin(t *testing.T) {
	dir := shortTempDir(t)
	path := filepath.Join(dir, "s.sock")
	l := &config.Listener{Listen: "unix:" + path, SocketMode: "0600", Backlog: 16}
	join := func() net.Listener {
		t.Helper()
		lns, err := Join(l)
		if err != nil {
			t.Fatalf("Join: %s", err)
		}
		t.Cleanup(func() { closeAll(t, lns) })
		if got := lns[0].Addr().String(); got != path {
			t.Errorf("joined on %s, want %s", got, path)
		}
		return lns[0]
	}
	first := join() // finds nobody
	before := dial(t, first.Addr())
	second := join()
	closeAll(t, []net.Listener{first})
	after := dial(t, second.Addr())
	greet := func(ln net.Listener, client net.Conn) {
		t.Helper()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("Accept: %s", err)
		}
		_, _ = conn.Write([]byte("!")) // the client says whether it came
		_ = conn.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "!" {
			t.Errorf("client got %q, %v", got, err)
		}
	}
	greet(first, before)
	greet(second, after)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	closeAll(t, []net.Listener{second})
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(l); !errors.Is(err, errNotSocket) {
		t.Errorf("Join in the place of a file: %v", err)
	}
}

func TestTemporary(t *testing.T) {
	f := func(err error, want string) {
		t.Helper()
		pause, ok := Temporary(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)})
		got := "fatal"
		if ok {
			got = pause.String()
		}
		if got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	f(syscall.EMFILE, "5ms")
	f(syscall.ENFILE, "5ms")
	f(syscall.ENOBUFS, "5ms")
	f(syscall.ENOMEM, "5ms")
	f(syscall.ECONNABORTED, "0s")
	f(syscall.EPROTO, "0s")
	f(syscall.EPERM, "0s")
	f(net.ErrClosed, "fatal")
	f(syscall.EBADF, "fatal")
	f(syscall.EINVAL, "fatal")
	f(errors.New("anything else"), "fatal")
}

func TestBackoff(t *testing.T) {
	var b Backoff
	f := func(step int, err error, want string) {
		t.Helper()
		pause, ok := b.Failed(err)
		got := "fatal"
		if ok {
			got = pause.String()
		}
		if got != want {
			t.Errorf("step %d: %v: %s, want %s", step, err, got, want)
		}
	}
	f(1, syscall.EMFILE, "5ms")
	f(2, syscall.EMFILE, "10ms")
	f(3, syscall.ECONNABORTED, "0s") // says nothing about the shortage
	f(4, syscall.ENFILE, "20ms")
	b.Accepted()
	f(5, syscall.EMFILE, "5ms")
	for range 20 {
		b.Failed(syscall.EMFILE)
	}
	f(6, syscall.EMFILE, "1s")
	f(7, net.ErrClosed, "fatal")
}
