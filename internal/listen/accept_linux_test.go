package listen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/config"
)

// owned is a descriptor of AcceptFD until the end of the test.
func owned(t *testing.T, fd int) int {
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// peerOf is what AcceptFD says of a client: the zero value for a Unix socket.
func peerOf(client net.Conn) netip.AddrPort {
	if a, ok := client.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// say sends text on a descriptor.
func say(t *testing.T, fd int, text string) {
	t.Helper()
	if n, err := unix.Write(fd, []byte(text)); n != len(text) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v; want %q", buf, err, want)
	}
}

// checkFD demands what every descriptor of AcceptFD is.
func checkFD(t *testing.T, what string, fd int) {
	t.Helper()
	for _, f := range []struct {
		name      string
		get, want int
	}{{"non-blocking", unix.F_GETFL, unix.O_NONBLOCK}, {"closed on exec", unix.F_GETFD, unix.FD_CLOEXEC}} {
		if got, err := unix.FcntlInt(uintptr(fd), f.get, 0); err != nil || got&f.want == 0 {
			t.Errorf("%s: not %s: %#x, %v", what, f.name, got, err)
		}
	}
	if n, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%s: read of nothing: %d, %v; want EAGAIN", what, n, err)
	}
}

func TestAcceptFD(t *testing.T) {
	f := func(listen string) {
		t.Helper()
		ln := mustOpen(t, &config.Listener{Listen: listen, Acceptors: 1})[0].(*Listener)
		for range 3 {
			client := dial(t, ln.Addr())
			fd, peer, err := ln.AcceptFD()
			if err != nil {
				t.Fatalf("%s: %v", listen, err)
			}
			owned(t, fd)
			if want := peerOf(client); peer != want {
				t.Errorf("%s: peer %v, want %v", listen, peer, want)
			}
			checkFD(t, listen, fd)
			say(t, fd, "hello")
			hear(t, client, "hello")
		}
	}
	f("127.0.0.1:0")
	f("[::1]:0")
	f("unix:" + filepath.Join(shortTempDir(t), "s.sock"))
}

// TestAcceptFDMapped gives v4 clients of a socket for both families their v4 address.
func TestAcceptFDMapped(t *testing.T) {
	ln := mustOpen(t, &config.Listener{Listen: ":0", Acceptors: 1})[0].(*Listener)
	port := ln.Addr().(*net.TCPAddr).Port
	client := dial(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	fd, peer, err := ln.AcceptFD()
	if err != nil {
		t.Fatal(err)
	}
	owned(t, fd)
	if want := peerOf(client); peer != want || !peer.Addr().Is4() {
		t.Errorf("peer %v, want %v", peer, want)
	}
}

func TestAcceptFDOptions(t *testing.T) {
	l := config.Listener{Listen: "127.0.0.1:0", Acceptors: 1, KeepAlive: 40 * time.Second, UserTimeout: 30 * time.Second}
	want := map[int]int{ // by option of TCP
		unix.TCP_NODELAY: 1, unix.TCP_KEEPIDLE: 40, unix.TCP_KEEPINTVL: 10, unix.TCP_KEEPCNT: 4, unix.TCP_USER_TIMEOUT: 30000,
	}
	check := func(how string, fd int) {
		t.Helper()
		for opt, value := range want {
			if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, opt); err != nil || got != value {
				t.Errorf("%s: TCP option %d is %d, %v; want %d", how, opt, got, err, value)
			}
		}
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || got != 1 {
			t.Errorf("%s: SO_KEEPALIVE is %d, %v; want 1", how, got, err)
		}
	}
	ln := mustOpen(t, &l)[0].(*Listener)
	dial(t, ln.Addr())
	fd, _, err := ln.AcceptFD()
	if err != nil {
		t.Fatal(err)
	}
	check("accepted", owned(t, fd))
	dial(t, ln.Addr())
	closeAll(t, []net.Listener{ln})
	if fd, _, err = ln.AcceptFD(); err != nil {
		t.Fatal(err)
	}
	check("taken from the queue by Close", owned(t, fd))
}

// TestAcceptFDAfterClose returns what the kernel had completed, then says that it is over.
func TestAcceptFDAfterClose(t *testing.T) {
	f := func(listen string, used bool) {
		t.Helper()
		ln := mustOpen(t, &config.Listener{Listen: listen, Acceptors: 1})[0].(*Listener)
		if used {
			dial(t, ln.Addr())
			fd, _, err := ln.AcceptFD()
			if err != nil {
				t.Fatal(err)
			}
			owned(t, fd)
		}
		waiting := map[netip.AddrPort]net.Conn{}
		var clients []net.Conn
		for range 20 {
			c := dial(t, ln.Addr())
			waiting[peerOf(c)] = c
			clients = append(clients, c)
			if _, err := io.WriteString(c, "request"); err != nil {
				t.Fatal(err)
			}
		}
		closeAll(t, []net.Listener{ln})
		for range clients {
			fd, peer, err := ln.AcceptFD()
			if err != nil {
				t.Fatalf("%s: %v", listen, err)
			}
			if waiting[peer] == nil {
				t.Errorf("%s: unexpected peer %v", listen, peer)
			}
			for _, flag := range []struct{ get, want int }{{unix.F_GETFL, unix.O_NONBLOCK}, {unix.F_GETFD, unix.FD_CLOEXEC}} {
				if got, err := unix.FcntlInt(uintptr(fd), flag.get, 0); err != nil || got&flag.want == 0 {
					t.Errorf("%s: flags %#x, %v; want %#x in them", listen, got, err, flag.want)
				}
			}
			buf := make([]byte, 16)
			if n, err := unix.Read(fd, buf); err != nil || string(buf[:n]) != "request" {
				t.Errorf("%s: read %q, %v", listen, buf[:max(n, 0)], err)
			}
			say(t, fd, "response")
			_ = unix.Close(fd)
		}
		for _, c := range clients {
			if got, err := io.ReadAll(c); err != nil || string(got) != "response" {
				t.Errorf("%s: a client got %q, %v", listen, got, err)
			}
		}
		for range 2 {
			if fd, _, err := ln.AcceptFD(); fd != -1 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: after the end: %d, %v", listen, fd, err)
			}
		}
	}
	for _, used := range []bool{false, true} {
		f("127.0.0.1:0", used)
		f("unix:"+filepath.Join(shortTempDir(t), "s.sock"), used)
	}
}

// TestCloseWakesAcceptFD ends an AcceptFD that waits. Nothing stays open.
func TestCloseWakesAcceptFD(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(shortTempDir(t), "s.sock")} {
		ln := mustOpen(t, &config.Listener{Listen: listen, Acceptors: 1})[0].(*Listener)
		accepted, done := make(chan int), make(chan error, 1)
		go func() {
			for {
				fd, _, err := ln.AcceptFD()
				if err != nil {
					done <- err
					return
				}
				accepted <- fd
			}
		}()
		dial(t, ln.Addr())
		_ = unix.Close(<-accepted) // the loop runs
		for range 3 {
			closeAll(t, []net.Listener{ln})
		}
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: AcceptFD returned %v", listen, err)
		}
		if conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String()); err == nil {
			_ = conn.Close()
			t.Errorf("%s: still accepts after Close", listen)
		}
	}
}

// TestAcceptFDStorm closes under clients and several accept loops: whoever got a connection
// gets an answer.
func TestAcceptFDStorm(t *testing.T) {
	for range 10 {
		ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1})[0].(*Listener)
		addr := ln.Addr().String()
		var servers, clients sync.WaitGroup
		for range 3 {
			servers.Go(func() {
				for {
					fd, _, err := ln.AcceptFD()
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("AcceptFD: %v", err)
						}
						return
					}
					_, _ = unix.Write(fd, []byte("!"))
					_ = unix.Close(fd)
				}
			})
		}
		const each = 20
		first, closing := make(chan struct{}, 4*each), make(chan struct{})
		for range 4 {
			clients.Go(func() {
				for range each {
					conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
					if err != nil {
						select {
						case <-closing:
							return
						default:
							continue // what is too slow now must not end the storm
						}
					}
					if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
						t.Errorf("a client that was connected: %v", err)
					}
					_ = conn.Close()
					first <- struct{}{}
				}
			})
		}
		<-first
		close(closing)
		if err := Retire([]net.Listener{ln}, 5*time.Millisecond); err != nil {
			t.Errorf("Retire: %v", err)
		}
		servers.Wait()
		clients.Wait()
	}
}

// TestAcceptFDOutOfDescriptors fails with an error that says so, and goes on later.
func TestAcceptFDOutOfDescriptors(t *testing.T) {
	ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1})[0].(*Listener)
	dial(t, ln.Addr())
	fd, _, err := ln.AcceptFD() // has what it waits with
	if err != nil {
		t.Fatal(err)
	}
	owned(t, fd)
	client := dial(t, ln.Addr())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull) // the next descriptor is the lowest free one
	if err != nil {
		t.Fatal(err)
	}
	tight := limit
	tight.Cur = uint64(f.Fd())
	_ = f.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &tight); err != nil {
		t.Fatal(err)
	}
	fd, _, err = ln.AcceptFD()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if pause, ok := Temporary(err); fd != -1 || !ok || pause != firstPause {
		t.Errorf("AcceptFD: %d, %v: pause %s, %t", fd, err, pause, ok)
	}
	fd, peer, err := ln.AcceptFD()
	if err != nil {
		t.Fatalf("after the shortage: %v", err)
	}
	owned(t, fd)
	if peer != peerOf(client) {
		t.Errorf("accepted %v, want %v", peer, peerOf(client))
	}
}
