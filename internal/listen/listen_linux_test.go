package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/config"
)

// sockopt reads one option of a connection or a listener.
func sockopt(t *testing.T, c any, level, opt int) int {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	if err := control(rc, func(fd uintptr) (err error) {
		value, err = unix.GetsockoptInt(int(fd), level, opt)
		return err
	}); err != nil {
		t.Fatalf("getsockopt %d: %s", opt, err)
	}
	return value
}

// What is set on the listening socket is on every accepted one.
func TestInheritedOptions(t *testing.T) {
	f := func(l config.Listener, want map[string]int) {
		t.Helper()
		l.Listen, l.Acceptors = "127.0.0.1:0", 1
		ln := mustOpen(t, &l)[0]
		client := dial(t, ln.Addr())
		if _, err := client.Write([]byte("!")); err != nil { // what defer_accept waits for
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		for _, o := range []option{
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 0},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 0},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 0},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 0},
		} {
			value, ok := want[o.name]
			if !ok {
				continue
			}
			if got := sockopt(t, ln, o.level, o.opt); got != value {
				t.Errorf("%+v: %s of the listener is %d, want %d", l, o.name, got, value)
			}
			if got := sockopt(t, conn, o.level, o.opt); got != value {
				t.Errorf("%+v: %s of a connection is %d, want %d", l, o.name, got, value)
			}
		}
	}
	f(config.Listener{}, map[string]int{"SO_KEEPALIVE": 0, "TCP_USER_TIMEOUT": 0, "TCP_NODELAY": 1})
	f(config.Listener{KeepAlive: 40 * time.Second, UserTimeout: 30 * time.Second}, map[string]int{
		"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 40, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4,
		"TCP_USER_TIMEOUT": 30000, "TCP_NODELAY": 1,
	})
	f(config.Listener{KeepAlive: 300 * time.Second}, map[string]int{"TCP_KEEPIDLE": 300, "TCP_KEEPINTVL": 15})
	f(config.Listener{KeepAlive: time.Millisecond, UserTimeout: time.Microsecond, DeferAccept: time.Second}, map[string]int{
		"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_USER_TIMEOUT": 1,
	})
}

func TestListenerOptions(t *testing.T) {
	f := func(l config.Listener, level, opt, want int) {
		t.Helper()
		l.Listen = "127.0.0.1:0"
		for _, ln := range mustOpen(t, &l) {
			if got := sockopt(t, ln, level, opt); got != want {
				t.Errorf("%+v: option %d is %d, want %d", l, opt, got, want)
			}
		}
	}
	f(config.Listener{Acceptors: 1}, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	f(config.Listener{Acceptors: 2}, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	f(config.Listener{}, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 0)
	f(config.Listener{DeferAccept: time.Second}, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	f(config.Listener{}, unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP) // not MPTCP
}

// The backlog of a listening socket is tcpi_sacked of its TCP_INFO.
func TestBacklog(t *testing.T) {
	f := func(backlog int) {
		t.Helper()
		ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Backlog: backlog, Acceptors: 1})[0]
		if err := control(ln.(*Listener).raw, func(fd uintptr) error {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && int(info.Sacked) != backlog {
				t.Errorf("backlog is %d, want %d", info.Sacked, backlog)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	f(1)
	f(7)
	f(128)
}

// All acceptors get connections.
func TestReusePortSpreads(t *testing.T) {
	lns := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 2})
	const conns = 200
	arrived := make(chan int, conns)
	var wg sync.WaitGroup
	for i, ln := range lns {
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
				arrived <- i
			}
		})
	}
	count := make([]int, len(lns))
	for range conns {
		_ = dial(t, lns[0].Addr()).Close()
		count[<-arrived]++
	}
	closeAll(t, lns)
	wg.Wait()
	for i, n := range count {
		if n == 0 {
			t.Errorf("acceptor %d got none of %d connections", i, conns)
		}
	}
}

// Join shares the address with sockets that are open, which Open refuses.
func TestJoin(t *testing.T) {
	first := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1})
	l := &config.Listener{Listen: first[0].Addr().String(), Acceptors: 2, Backlog: 16}
	second, err := Join(l)
	if err != nil {
		t.Fatalf("Join: %s", err)
	}
	t.Cleanup(func() { closeAll(t, second) })
	// With the first ones closed, every connection comes to the others.
	closeAll(t, first)
	for range 20 {
		dial(t, second[0].Addr())
	}
	closeAll(t, second)
	got := 0
	for _, ln := range second {
		got += len(acceptAll(t, ln))
	}
	if got != 20 {
		t.Errorf("%d connections, want 20", got)
	}
}

// acceptAll accepts until the listener says that it is closed.
func acceptAll(t *testing.T, ln net.Listener) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return conns
		}
		if err != nil {
			t.Fatalf("Accept: %s", err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
}

// Connections that the kernel has completed when Close is called are served.
func TestCloseDrainsQueue(t *testing.T) {
	f := func(listen string, acceptors int) {
		t.Helper()
		lns := mustOpen(t, &config.Listener{Listen: listen, Acceptors: acceptors})
		const queued = 20
		clients := make([]net.Conn, queued)
		for i := range clients {
			clients[i] = dial(t, lns[0].Addr())
			if _, err := clients[i].Write([]byte("request")); err != nil {
				t.Fatal(err)
			}
		}
		closeAll(t, lns)
		served := 0
		for _, ln := range lns {
			for _, conn := range acceptAll(t, ln) {
				served++
				if _, err := conn.Write([]byte("response")); err != nil {
					t.Errorf("%s: write: %s", listen, err)
				}
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: Accept after the end: %v", listen, err)
			}
		}
		if served != queued {
			t.Errorf("%s: %d connections served, want %d", listen, served, queued)
		}
		for i, c := range clients {
			if got, err := io.ReadAll(c); err != nil || string(got) != "response" {
				t.Errorf("%s: client %d got %q, %v", listen, i, got, err)
			}
		}
	}
	f("127.0.0.1:0", 1)
	f("127.0.0.1:0", 3)
	f("unix:"+filepath.Join(shortTempDir(t), "s.sock"), 1)
}

// The keep-alive of connections taken by a drain is that of all others.
func TestDrainedOptions(t *testing.T) {
	ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1, KeepAlive: 40 * time.Second})[0]
	dial(t, ln.Addr())
	closeAll(t, []net.Listener{ln})
	for _, conn := range acceptAll(t, ln) {
		if got := sockopt(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); got != 40 {
			t.Errorf("TCP_KEEPIDLE is %d, want 40", got)
		}
	}
}

// An Accept that waits is woken by Close; Close can be called again.
func TestCloseWakesAccept(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(shortTempDir(t), "s.sock")} {
		ln := mustOpen(t, &config.Listener{Listen: listen, Acceptors: 1})[0]
		done := make(chan error)
		accepted := make(chan struct{})
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					done <- err
					return
				}
				_ = conn.Close()
				accepted <- struct{}{}
			}
		}()
		dial(t, ln.Addr())
		<-accepted // the loop runs
		for range 3 {
			closeAll(t, []net.Listener{ln})
		}
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Accept returned %v", listen, err)
		}
	}
}

// While clients connect as fast as they can, listeners come and go; no client that
// got a connection goes without its answer.
func TestRetireUnderLoad(t *testing.T) {
	lns := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 2})
	addr := lns[0].Addr().String()
	var servers sync.WaitGroup
	serve := func(lns []net.Listener) {
		for _, ln := range lns {
			servers.Go(func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Write([]byte("!"))
					_ = conn.Close()
				}
			})
		}
	}
	serve(lns)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := fetch(addr); err != nil {
					t.Errorf("client: %s", err)
					return
				}
			}
		})
	}
	for range 5 {
		next, err := Join(&config.Listener{Listen: addr, Acceptors: 2, Backlog: 128})
		if err != nil {
			t.Fatalf("Join: %s", err)
		}
		serve(next)
		if err := Retire(lns, 5*time.Millisecond); err != nil {
			t.Errorf("Retire: %s", err)
		}
		lns = next
	}
	close(stop)
	clients.Wait()
	closeAll(t, lns)
	servers.Wait()
}

// fetch connects, and reads the byte that every connection gets.
func fetch(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// The filter of a retiring socket ignores new connections and nothing else.
func TestDropSYN(t *testing.T) {
	ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1})[0].(*Listener)
	before := dial(t, ln.Addr())
	ln.ignoreNew()
	_, err := net.DialTimeout("tcp", ln.Addr().String(), 20*time.Millisecond)
	if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("a new connection: %v, want a timeout", err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := before.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("an older connection: %s", err)
	}
}

// A process that has run out of descriptors gets an error that says so, and can go on.
func TestOutOfDescriptors(t *testing.T) {
	ln := mustOpen(t, &config.Listener{Listen: "127.0.0.1:0", Acceptors: 1})[0]
	client := dial(t, ln.Addr())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// The next descriptor is the lowest free one; from it on none is allowed.
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(f.Fd())
	_ = f.Close()
	tight := limit
	tight.Cur = next
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &tight); err != nil {
		t.Fatal(err)
	}
	_, err = ln.Accept()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if pause, ok := Temporary(err); !ok || pause != firstPause {
		t.Errorf("Accept: %v: pause %s, %t", err, pause, ok)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("Accept after the shortage: %s", err)
	}
	defer func() { _ = conn.Close() }()
	if conn.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("accepted %s, want %s", conn.RemoteAddr(), client.LocalAddr())
	}
}
