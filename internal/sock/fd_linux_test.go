package sock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/testkit"
)

const testPatience = 30 * time.Second

// within waits for ch, with a limit that only a bug reaches.
func within[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(testPatience)
	defer timer.Stop()
	select {
	case v = <-ch:
	case <-timer.C:
		t.Fatalf("%s: nothing within %v", what, testPatience)
	}
	return v
}

// tcpFD returns a non-blocking descriptor of a TCP connection, and its other end.
func tcpFD(t testing.TB) (fd int, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	raw, err := in.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return fd, out.(*net.TCPConn)
}

// fdPair returns a Conn over a descriptor and the other end of the connection.
func fdPair(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	fd, peer := tcpFD(t)
	sw := NewSweeper()
	c := NewFD(fd, sw)
	t.Cleanup(func() { c.CloseDetached(); sw.Close() })
	return c, peer
}

// makeWait has c wait, so that Go's poller knows it.
func makeWait(t *testing.T, c *Conn, peer io.Writer) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, make([]byte, 4))
		done <- err
	}()
	testkit.WaitUntil(t, "wait", c.Waited)
	io.WriteString(peer, "wake")
	if err := within(t, "read", done); err != nil {
		t.Fatalf("read that waits: %v", err)
	}
}

// bothWays runs f on a descriptor that Go's poller does not know, and on one that it does.
func bothWays(t *testing.T, f func(t *testing.T, c *Conn, peer *net.TCPConn)) {
	t.Helper()
	t.Run("unknown to the poller", func(t *testing.T) {
		c, peer := fdPair(t)
		f(t, c, peer)
	})
	t.Run("known to the poller", func(t *testing.T) {
		c, peer := fdPair(t)
		makeWait(t, c, peer)
		f(t, c, peer)
	})
}

func TestFDReadWrite(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
		mustRead(t, peer, "hello")
		io.WriteString(peer, "world")
		mustRead(t, c, "world")
		if c.RemoteAddr().String() != peer.LocalAddr().String() || c.LocalAddr().String() != peer.RemoteAddr().String() {
			t.Errorf("addresses %v, %v; want %v, %v", c.LocalAddr(), c.RemoteAddr(), peer.RemoteAddr(), peer.LocalAddr())
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(peer); len(rest) > 0 || err != nil {
			t.Fatalf("after CloseWrite the peer reads %q, %v", rest, err)
		}
		io.WriteString(peer, "half open")
		mustRead(t, c, "half open")
		peer.CloseWrite()
		if n, err := c.Read(make([]byte, 8)); n != 0 || err != io.EOF {
			t.Fatalf("read at the end: %d, %v; want 0, EOF", n, err)
		}
	})
}

// TestFDNeedsNoPoller serves what is there without a word to Go's poller.
func TestFDNeedsNoPoller(t *testing.T) {
	c, peer := fdPair(t)
	c.OnWait(func() { t.Error("OnWait, without a wait") })
	for range 3 {
		io.WriteString(peer, "request")
		testkit.WaitUntil(t, "request", c.Readable)
		mustRead(t, c, "request")
		c.Hold(HoldRef)
		c.Write([]byte("response"))
		c.NoWait(true)
		if _, err := c.Read(make([]byte, 8)); !errors.Is(err, ErrWouldBlock) {
			t.Fatalf("read of nothing: %v", err)
		}
		c.NoWait(false)
		mustRead(t, peer, "response")
	}
	if c.Waited() {
		t.Error("the poller knows a connection that never waited")
	}
}

func TestFDLargeWrite(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(peer)
			got <- b
		}()
		if n, err := c.Write(want); n != len(want) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
		c.CloseWrite()
		if b := within(t, "all bytes", got); !bytes.Equal(b, want) {
			t.Fatalf("peer got %d bytes, want %d", len(b), len(want))
		}
	})
}

func TestFDRoundtrip(t *testing.T) {
	f := func(size int) {
		t.Helper()
		bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
			out := make([]byte, size)
			go func() {
				io.CopyN(io.Discard, peer, int64(size))
				io.WriteString(peer, "ok")
			}()
			buf := make([]byte, 16)
			n, wrote, err := c.Roundtrip(out, buf)
			if string(buf[:n]) != "ok" || !wrote || err != nil {
				t.Fatalf("%d bytes: %q, wrote %v, %v", size, buf[:n], wrote, err)
			}
		})
	}
	f(4)
	f(8 << 20)
}

func TestFDRoundtripStale(t *testing.T) {
	f := func(spoil func(*net.TCPConn)) {
		t.Helper()
		bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
			spoil(peer)
			testkit.WaitUntil(t, "end or bytes", func() bool { return c.poll(unix.POLLIN) != 0 })
			if n, wrote, err := c.Roundtrip([]byte("request"), make([]byte, 8)); n != 0 || wrote || !errors.Is(err, ErrStale) {
				t.Fatalf("Roundtrip: %d, wrote %v, %v; want ErrStale", n, wrote, err)
			}
		})
	}
	f(func(p *net.TCPConn) { io.WriteString(p, "x") })
	f(func(p *net.TCPConn) { p.Close() })
	f(func(p *net.TCPConn) { p.SetLinger(0); p.Close() })
}

// TestFDHold has a read send what was held, in pieces and more than the socket takes.
func TestFDHold(t *testing.T) {
	f := func(m HoldMode, writes ...string) {
		t.Helper()
		bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.Hold(m)
			for _, w := range writes {
				c.Write([]byte(w))
			}
			c.Hold(HoldOff)
			if !c.Held() || peerHas(peer) {
				t.Fatal("held bytes are gone before a read")
			}
			want := strings.Join(writes, "")
			go func() {
				io.ReadFull(peer, make([]byte, len(want)))
				io.WriteString(peer, want)
			}()
			mustRead(t, c, want)
			if c.Held() {
				t.Error("still held after it was sent")
			}
		})
	}
	f(HoldRef, "response")
	f(HoldRef, "two ", "writes")
	f(HoldCopy, "response")
	f(HoldCopy, "two ", "writes")
	f(HoldRef, strings.Repeat("x", maxHeld))
}

func TestFDFlush(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		c.Hold(HoldRef)
		c.Write([]byte("held "))
		c.Hold(HoldOff)
		c.Write([]byte("not held"))
		mustRead(t, peer, "held not held")
		c.Hold(HoldCopy)
		c.Write([]byte("flushed"))
		if err := c.Flush(); err != nil || c.Held() {
			t.Fatalf("Flush: %v, held %v", err, c.Held())
		}
		mustRead(t, peer, "flushed")
	})
}

func TestFDReadDeadline(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		start := time.Now()
		c.ArmRead(20 * time.Millisecond)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != ReadExpired {
			t.Fatalf("read: %v, cause %v", err, c.Interrupted())
		}
		if d := time.Since(start); d < 20*time.Millisecond {
			t.Fatalf("fired early, after %v", d)
		}
		// The other direction goes on; the read again after Resume.
		c.Write([]byte("x"))
		mustRead(t, peer, "x")
		io.WriteString(peer, "y")
		testkit.WaitUntil(t, "byte", c.Readable)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read after the deadline: %v", err)
		}
		c.Resume(ReadExpired)
		mustRead(t, c, "y")
	})
}

// TestTryWrite writes what the socket takes, and waits for nothing.
func TestTryWrite(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		payload := bytes.Repeat([]byte("x"), 32<<20)
		n, err := c.TryWrite(payload)
		if err != nil || n == 0 || n == len(payload) {
			t.Fatalf("%d of %d bytes, %v; want some", n, len(payload), err)
		}
		rest := make(chan error, 1)
		go func() { rest <- second(c.Write(payload[n:])) }()
		if _, err := io.CopyN(io.Discard, peer, int64(len(payload))); err != nil {
			t.Fatal(err)
		}
		if err := within(t, "the rest", rest); err != nil {
			t.Fatal(err)
		}
		c.Interrupt(Cancelled)
		if n, err := c.TryWrite([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("when interrupted: %d bytes, %v", n, err)
		}
	})
}

func TestFDWriteDeadline(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		c.ArmWrite(20 * time.Millisecond)
		_, err := c.Write(make([]byte, 32<<20)) // the peer reads nothing
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != WriteExpired {
			t.Fatalf("write: %v, cause %v", err, c.Interrupted())
		}
		io.WriteString(peer, "x")
		mustRead(t, c, "x")
	})
}

func TestFDInterrupted(t *testing.T) {
	ended := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("interrupted call: %v", err)
		}
	}
	t.Run("before", func(t *testing.T) {
		bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
			c.Interrupt(Cancelled)
			io.WriteString(peer, "x")
			testkit.WaitUntil(t, "byte", c.Readable)
			_, err := c.Read(make([]byte, 1))
			ended(t, err)
			_, err = c.Write([]byte("y"))
			ended(t, err)
			_, wrote, err := c.Roundtrip([]byte("y"), make([]byte, 1))
			ended(t, err)
			if wrote || peerHas(peer) {
				t.Error("an interrupted connection sent something")
			}
			c.Resume(Cancelled)
			mustRead(t, c, "x")
		})
	})
	t.Run("while it waits", func(t *testing.T) {
		c, peer := fdPair(t)
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		testkit.WaitUntil(t, "wait", c.Waited)
		c.Interrupt(Cancelled)
		ended(t, within(t, "interrupted read", done))
		c.Resume(Cancelled)
		io.WriteString(peer, "x")
		mustRead(t, c, "x")
	})
	// The moment of the registration is somewhere in these.
	t.Run("at any moment", func(t *testing.T) {
		for range 300 {
			fd, _ := tcpFD(t)
			sw := NewSweeper()
			c := NewFD(fd, sw)
			done := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				done <- err
			}()
			c.Interrupt(Cancelled)
			ended(t, within(t, "interrupted read", done))
			c.Close()
			sw.Close()
		}
	})
}

// TestFDInterruptBeforeRegistering interrupts after the failed try, before the poller knows
// the socket.
func TestFDInterruptBeforeRegistering(t *testing.T) {
	c, peer := fdPair(t)
	c.OnWait(func() { c.setCauseLocked(Cancelled) }) // it is called under the lock
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	if err := within(t, "interrupted read", done); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	c.Resume(Cancelled)
	io.WriteString(peer, "x")
	mustRead(t, c, "x")
}

func TestFDYield(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		c.ArmRead(time.Hour)
		c.Yield(true)
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		testkit.WaitUntil(t, "wait", c.Waited)
		c.sw.Urge(true)
		if err := within(t, "urged read", done); !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != ReadExpired {
			t.Fatalf("urged read: %v, cause %v", err, c.Interrupted())
		}
		// A read that somebody needs is left alone, and so is everything once the urge is over.
		rest := func(what string) {
			t.Helper()
			c.ArmRead(time.Hour)
			c.Resume(ReadExpired)
			awaitSweeps(t, c.sw, 3)
			if c.Interrupted() != NotInterrupted {
				t.Fatalf("%s: interrupted", what)
			}
			io.WriteString(peer, "x")
			mustRead(t, c, "x")
		}
		c.Yield(false)
		rest("does not yield")
		c.sw.Urge(false)
		c.Yield(true)
		rest("nobody urges")
	})
}

// awaitSweeps returns after n whole sweeps.
func awaitSweeps(t *testing.T, sw *Sweeper, n int) {
	t.Helper()
	for range n + 1 {
		last := sw.now.Load()
		testkit.WaitUntil(t, "sweep", func() bool { return sw.now.Load() != last })
	}
}

// TestUrgeEndsNothingElse urges a connection that stops to yield all the time: what is
// interrupted after Disarm would be a read of something that is needed, such as a body.
func TestUrgeEndsNothingElse(t *testing.T) {
	c, _ := fdPair(t)
	c.sw.Close() // the sweeps below are all there are
	c.sw.Urge(true)
	var sweeps atomic.Int64
	stop := make(chan struct{})
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	defer close(stop)
	sweeping.Go(func() {
		var hits []*Conn
		for now := int64(1); ; now++ {
			select {
			case <-stop:
				return
			default:
				hits = c.sw.sweep(now, hits[:0])
				sweeps.Add(1)
			}
		}
	})
	urged := 0
	for i := 0; i < 1000 || urged < 50; i++ {
		c.Yield(true)
		for range i % 50 { // so that the end of it falls anywhere in a sweep
			c.yields.Load()
		}
		c.Yield(false)
		before := c.Disarm()
		if before != NotInterrupted {
			urged++
		}
		for seen := sweeps.Load(); sweeps.Load() < seen+2; {
			runtime.Gosched()
		}
		if after := c.Interrupted(); after != before {
			t.Fatalf("interrupted (%v) after Disarm, which said %v", after, before)
		}
		c.Resume(before)
	}
}

// onlyUser returns the error of a socket that an epoll instance still watches.
func onlyUser(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "anon_inode:[eventpoll]" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(link))
		if err != nil {
			return err
		}
		if strings.Contains(string(info), fmt.Sprintf(" ino:%x ", st.Ino)) {
			return fmt.Errorf("an epoll instance watches the socket:\n%s", info)
		}
	}
	return nil
}

func registered(sw *Sweeper) (n int) {
	for i := range sw.shard {
		sw.shard[i].mu.Lock()
		n += len(sw.shard[i].conns)
		sw.shard[i].mu.Unlock()
	}
	return n
}

func TestFDRelease(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		c.OnClose(func() { t.Error("OnClose on Release") })
		old, waited := c.fd, c.Waited()
		if waited && onlyUser(old) == nil {
			t.Fatal("the poller does not know a connection that waited: nothing is tested")
		}
		fd, err := c.Release()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if (fd == old) == waited {
			t.Errorf("descriptor %d after %d, waited %v", fd, old, waited)
		}
		if waited {
			if _, err := unix.FcntlInt(uintptr(old), unix.F_GETFD, 0); err != unix.EBADF {
				t.Errorf("the old descriptor is still there: %v", err)
			}
		}
		if err := onlyUser(fd); err != nil {
			t.Error(err)
		}
		for _, flag := range []struct{ get, want int }{{unix.F_GETFL, unix.O_NONBLOCK}, {unix.F_GETFD, unix.FD_CLOEXEC}} {
			if got, err := unix.FcntlInt(uintptr(fd), flag.get, 0); err != nil || got&flag.want == 0 {
				t.Errorf("fcntl %d: %#x, %v; want %#x in it", flag.get, got, err, flag.want)
			}
		}
		if n := registered(c.sw); n != 0 {
			t.Errorf("the sweep still knows %d connections", n)
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close after Release: %v", err)
		}
		if _, err := c.Release(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Release: %v", err)
		}
		// The socket lives on, under the next owner, as often as it likes.
		for range 3 {
			next := NewFD(fd, c.sw)
			io.WriteString(peer, "ping")
			mustRead(t, next, "ping")
			next.Write([]byte("pong"))
			mustRead(t, peer, "pong")
			if fd, err = next.Release(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReleaseWithoutDescriptor(t *testing.T) {
	sw := NewSweeper()
	defer sw.Close()
	a, b := net.Pipe()
	defer b.Close()
	c := New(a, sw)
	defer c.Close()
	if _, err := c.Release(); !errors.Is(err, ErrNoDescriptor) {
		t.Errorf("Release of a pipe: %v, want %v", err, ErrNoDescriptor)
	}
	go b.Write([]byte("x"))
	mustRead(t, c, "x") // still open
}

// TestOnWait is called once, before the poller learns of the socket, whoever waits first.
func TestOnWait(t *testing.T) {
	for range 100 {
		fd, peer := tcpFD(t)
		sw := NewSweeper()
		c := NewFD(fd, sw)
		var calls atomic.Int32
		c.OnWait(func() {
			calls.Add(1)
			if err := onlyUser(fd); err != nil {
				t.Errorf("at OnWait: %v", err)
			}
		})
		payload := make([]byte, 4<<20)
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := c.Write(payload); err != nil {
				t.Errorf("write: %v", err)
			}
		})
		both.Go(func() {
			if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
				t.Errorf("read: %v", err)
			}
		})
		io.WriteString(peer, "a")
		testkit.WaitUntil(t, "wait", c.Waited)
		if n, err := io.CopyN(io.Discard, peer, int64(len(payload))); err != nil {
			t.Fatalf("peer got %d: %v", n, err)
		}
		io.WriteString(peer, "b")
		both.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("OnWait was called %d times", n)
		}
		c.Close()
		sw.Close()
		peer.Close()
	}
}

// onNumber opens one end of a socket pair at a descriptor number that is free, and returns
// the other end.
func onNumber(t *testing.T, fd int) (other int) {
	t.Helper()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Fatalf("descriptor %d is in use: %v", fd, err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if pair[0] != fd && pair[1] != fd {
		if err := unix.Dup3(pair[0], fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Close(pair[0])
		return pair[1]
	}
	if pair[1] == fd {
		return pair[0]
	}
	return pair[1]
}

// TestFDClosedTouchesNothing uses a connection after its end, when its number is another
// socket's.
func TestFDClosedTouchesNothing(t *testing.T) {
	ends := map[string]func(c *Conn) error{
		"Close": (*Conn).Close,
		"Reset": (*Conn).Reset,
	}
	calls := map[string]func(c *Conn) error{
		"Write":     func(c *Conn) error { c.Hold(HoldOff); c.out = nil; return second(c.Write([]byte("stray"))) },
		"Read":      func(c *Conn) error { _, err := c.Read(make([]byte, 8)); return err },
		"Roundtrip": func(c *Conn) error { _, _, err := c.Roundtrip([]byte("stray"), make([]byte, 8)); return err },
		"Flush":     func(c *Conn) error { c.Hold(HoldCopy); c.Write([]byte("stray")); return c.Flush() },
		"held and Read": func(c *Conn) error {
			c.Hold(HoldCopy)
			c.Write([]byte("stray"))
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"CloseWrite": func(c *Conn) error { c.out = nil; return c.CloseWrite() },
		"Dirty":      func(c *Conn) error { return unless(c.Dirty()) },
		"Readable":   func(c *Conn) error { return unless(!c.Readable()) },
		"Inspect":    func(c *Conn) error { return unless(!c.Inspect(func(int) {})) },
		"RemoteAddr": func(c *Conn) error { return unless(c.RemoteAddr() == net.Addr(noAddr{})) },
	}
	quiet := map[string]func(c *Conn) error{ // without an error
		"Close":     (*Conn).Close,
		"Reset":     (*Conn).Reset,
		"Interrupt": func(c *Conn) error { c.Interrupt(Cancelled); return nil },
		"Resume":    func(c *Conn) error { c.Resume(Cancelled); return nil },
		"expire":    func(c *Conn) error { c.ArmRead(1); c.ArmWrite(1); c.expire(1<<62, true); return nil },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *Conn, _ *net.TCPConn) {
				number := c.fd
				if err := end(c); err != nil {
					t.Fatal(err)
				}
				untouched(t, number, onNumber(t, number), c, calls, quiet)
			})
		})
	}
	t.Run("Release", func(t *testing.T) {
		fd, peer := tcpFD(t)
		sw := NewSweeper()
		defer sw.Close()
		c := NewFD(fd, sw)
		if got, err := c.Release(); got != fd || err != nil {
			t.Fatalf("Release: %d, %v; want %d", got, err, fd)
		}
		raw, err := peer.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var other int
		raw.Control(func(p uintptr) { other, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
		if err != nil {
			t.Fatal(err)
		}
		untouched(t, fd, other, c, calls, quiet)
	})
}

// unless is an error where a call on a closed connection is right, for want of one.
func unless(ok bool) error {
	if ok {
		return net.ErrClosed
	}
	return nil
}

// untouched makes calls on c, and demands that the socket of both descriptors, ours and
// its other end, noticed nothing.
func untouched(t *testing.T, ours, other int, c *Conn, fail, quiet map[string]func(*Conn) error) {
	t.Helper()
	defer unix.Close(ours)
	defer unix.Close(other)
	if _, err := unix.Write(other, []byte("for the new owner")); err != nil {
		t.Fatal(err)
	}
	for name, call := range fail {
		if err := call(c); err == nil {
			t.Errorf("%s after the end succeeded", name)
		}
	}
	for name, call := range quiet {
		if err := call(c); err != nil {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	buf := make([]byte, 64)
	if n, err := unix.Read(other, buf); err != syscall.EAGAIN {
		t.Errorf("the new socket's peer got %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Read(ours, buf); err != nil || string(buf[:n]) != "for the new owner" {
		t.Errorf("the new socket has %q, %v", buf[:max(n, 0)], err)
	}
	if l, err := unix.GetsockoptLinger(ours, unix.SOL_SOCKET, unix.SO_LINGER); err != nil || l.Onoff != 0 {
		t.Errorf("the new socket's linger is %+v, %v", l, err)
	}
}

// TestFDCloseStorm closes connections under calls of others, and has their numbers used
// again at once: no byte may reach the new socket.
func TestFDCloseStorm(t *testing.T) {
	sw := NewSweeper()
	defer sw.Close()
	for i := range 500 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := NewFD(pair[0], sw)
		var users sync.WaitGroup
		users.Go(func() {
			for {
				if _, err := c.Write([]byte("stray")); err != nil {
					return
				}
				runtime.Gosched()
			}
		})
		users.Go(func() {
			for {
				if _, err := c.Read(make([]byte, 8)); err != nil {
					return
				}
			}
		})
		users.Go(func() {
			for c.Inspect(func(int) {}) {
				c.Readable()
				c.Interrupt(NotInterrupted)
			}
		})
		for range i % 7 {
			runtime.Gosched()
		}
		ends := []func() error{c.Close, c.Reset}
		if err := ends[i%2](); err != nil {
			t.Errorf("end: %v", err)
		}
		next, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		users.Wait()
		for _, fd := range next {
			if n, err := unix.Read(fd, make([]byte, 8)); err != syscall.EAGAIN {
				t.Fatalf("round %d: a new socket got %d bytes, %v", i, n, err)
			}
		}
		for _, fd := range []int{pair[1], next[0], next[1]} {
			unix.Close(fd)
		}
	}
}

func TestFDCloseEndsWaits(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).Close, (*Conn).Reset} {
		c, _ := fdPair(t)
		closed := 0
		c.OnClose(func() { closed++ })
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		testkit.WaitUntil(t, "wait", c.Waited)
		for range 2 {
			if err := end(c); err != nil {
				t.Error(err)
			}
		}
		if err := within(t, "end of the read", done); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v, want net.ErrClosed", err)
		}
		if closed != 1 {
			t.Errorf("OnClose was called %d times", closed)
		}
	}
}

// TestFDReset sends RST, even if a response is not read yet.
func TestFDReset(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		c.Write([]byte("unread"))
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(peer); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer of a reset reads %v", err)
		}
	})
}

func TestFDWatch(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		g := goneFlag{make(chan struct{})}
		c.SetWatcher(g)
		c.Watch(true)
		peer.Close()
		within(t, "notice of the peer's end", g.ch)
	})
}

func TestFDInspect(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Conn, _ *net.TCPConn) {
		seen := -1
		if !c.Inspect(func(fd int) { seen = fd }) || seen != c.fd {
			t.Errorf("Inspect showed %d, want %d", seen, c.fd)
		}
		c.Close()
		if c.Inspect(func(int) { t.Error("Inspect of a closed connection") }) {
			t.Error("Inspect says that a closed connection is open")
		}
	})
}

// TestFDNoAllocs proves it on both ways: bytes that are there, and a wait.
func TestFDNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing to measure")
		return
	}
	bothWays(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		raw, err := peer.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var fd int
		raw.Control(func(p uintptr) { fd = int(p) })
		waited, in, out := c.Waited(), make([]byte, 64), []byte("response")
		if n := testing.AllocsPerRun(200, func() {
			if _, err := unix.Write(fd, out); err != nil {
				t.Fatal(err)
			}
			c.ArmRead(time.Minute)
			if n, err := c.Read(in); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			c.Disarm()
			c.ArmWrite(time.Minute)
			c.Hold(HoldRef)
			c.Write(out)
			c.NoWait(true)
			if _, err := c.Read(in); err != ErrWouldBlock {
				t.Fatal(err)
			}
			c.NoWait(false)
			if n, err := unix.Read(fd, in); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Errorf("%v allocations per exchange, want 0", n)
		}
		if c.Waited() != waited {
			t.Error("the way was not the one meant")
		}
		makeWait(t, c, peer)
		go io.Copy(peer, peer)
		if n := testing.AllocsPerRun(200, func() {
			if _, _, err := c.Roundtrip(out, in); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations per round trip, want 0", n)
		}
	})
}

// TestSeat swaps occupants; nothing works on a vacant one, and closing it is no error.
func TestSeat(t *testing.T) {
	c, peer := fdPair(t)
	s := new(Seat)
	s.Take(c)
	io.WriteString(peer, "x")
	mustRead(t, s, "x")
	s.Vacate()
	for name, err := range map[string]error{
		"read":  second(s.Read(make([]byte, 1))),
		"write": second(s.Write([]byte("y"))),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s on a vacant seat: %v", name, err)
		}
	}
	if err := errors.Join(s.Close(), s.SetDeadline(time.Time{}), s.SetReadDeadline(time.Time{}), s.SetWriteDeadline(time.Time{})); err != nil {
		t.Error(err)
	}
	if s.LocalAddr().String() != "" || s.RemoteAddr().Network() != "" {
		t.Error("a vacant seat has an address")
	}
	if peerHas(peer) {
		t.Error("a vacant seat sent something")
	}
	s.Take(c)
	io.WriteString(peer, "z")
	mustRead(t, s, "z")
}

func second(_ int, err error) error { return err }
