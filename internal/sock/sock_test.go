//go:build linux

package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// pair returns a Conn and the raw other end of a TCP connection.
func pair(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	sw := NewSweeper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := New(nc, sw)
	t.Cleanup(func() { c.CloseDetached(); peer.Close(); sw.Close() })
	return c, peer.(*net.TCPConn)
}

func mustRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v; want %q", buf, err, want)
	}
}

func TestReadWrite(t *testing.T) {
	c, peer := pair(t)
	if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	mustRead(t, peer, "hello")
	io.WriteString(peer, "world")
	mustRead(t, c, "world")
	peer.CloseWrite()
	if n, err := c.Read(make([]byte, 8)); n != 0 || err != io.EOF {
		t.Fatalf("read at the end: %d, %v; want 0, EOF", n, err)
	}
}

// TestLargeWrite needs the poller: the socket buffer takes only a part at once.
func TestLargeWrite(t *testing.T) {
	c, peer := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(peer)
		got <- b
	}()
	if n, err := c.Write(want); n != len(want) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	c.CloseWrite()
	if b := <-got; !bytes.Equal(b, want) {
		t.Fatalf("peer got %d bytes, want %d", len(b), len(want))
	}
}

func TestRoundtrip(t *testing.T) {
	c, peer := pair(t)
	go func() {
		buf := make([]byte, 4)
		io.ReadFull(peer, buf)
		peer.Write(bytes.ToUpper(buf))
	}()
	buf := make([]byte, 16)
	n, wrote, err := c.Roundtrip([]byte("ping"), buf)
	if string(buf[:n]) != "PING" || !wrote || err != nil {
		t.Fatalf("Roundtrip: %q, wrote %v, %v", buf[:n], wrote, err)
	}
}

// TestRoundtripLarge sends more than the socket takes before the answer is read.
func TestRoundtripLarge(t *testing.T) {
	c, peer := pair(t)
	out := make([]byte, 8<<20)
	go func() {
		io.CopyN(io.Discard, peer, int64(len(out)))
		io.WriteString(peer, "ok")
	}()
	buf := make([]byte, 16)
	n, wrote, err := c.Roundtrip(out, buf)
	if string(buf[:n]) != "ok" || !wrote || err != nil {
		t.Fatalf("Roundtrip: %q, wrote %v, %v", buf[:n], wrote, err)
	}
}

func TestRoundtripStale(t *testing.T) {
	f := func(name string, spoil func(peer *net.TCPConn)) {
		t.Helper()
		c, peer := pair(t)
		spoil(peer)
		awaitReadable(t, c)
		_, wrote, err := c.Roundtrip([]byte("request"), make([]byte, 16))
		if !errors.Is(err, ErrStale) || wrote {
			t.Errorf("%s: wrote %v, %v; want nothing written and ErrStale", name, wrote, err)
		}
	}
	f("closed", func(p *net.TCPConn) { p.Close() })
	f("half-closed", func(p *net.TCPConn) { p.CloseWrite() })
	f("unasked bytes", func(p *net.TCPConn) { io.WriteString(p, "HTTP/1.1 200 OK\r\n\r\n") })
	f("reset", func(p *net.TCPConn) { p.SetLinger(0); p.Close() })
}

// awaitReadable waits until the peer's doing has arrived.
func awaitReadable(t *testing.T, c *Conn) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if c.poll(1|0x2000) != 0 { // POLLIN, POLLRDHUP
			return
		}
	}
	t.Fatal("nothing arrived")
}

func TestDirty(t *testing.T) {
	c, peer := pair(t)
	if c.Dirty() {
		t.Fatal("a quiet connection is dirty")
	}
	io.WriteString(peer, "x")
	awaitReadable(t, c)
	if !c.Dirty() {
		t.Fatal("a connection with unasked bytes is not dirty")
	}
}

func TestHold(t *testing.T) {
	f := func(mode HoldMode, writes ...string) {
		t.Helper()
		c, peer := pair(t)
		want := ""
		c.Hold(mode)
		for _, w := range writes {
			b := []byte(w)
			if n, err := c.Write(b); n != len(w) || err != nil {
				t.Fatalf("held Write: %d, %v", n, err)
			}
			if mode == HoldCopy {
				clear(b) // the writer may use its buffer again
			}
			want += w
		}
		c.Hold(HoldOff)
		if peerHas(peer) {
			t.Fatal("a held write was sent before the next read")
		}
		go func() {
			buf := make([]byte, len(want))
			io.ReadFull(peer, buf)
			peer.Write(buf)
		}()
		mustRead(t, c, want)
	}
	f(HoldRef, "response")
	f(HoldRef, "two ", "writes")
	f(HoldCopy, "response")
	f(HoldCopy, "two ", "writes")
}

// peerHas reports whether bytes are there without waiting for any.
func peerHas(p *net.TCPConn) bool {
	p.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer p.SetReadDeadline(time.Time{})
	n, _ := p.Read(make([]byte, 1))
	return n > 0
}

// TestHoldPipelined has the next request wait in the socket before the held
// response is sent: the wait must not miss it.
func TestHoldPipelined(t *testing.T) {
	c, peer := pair(t)
	io.WriteString(peer, "next")
	awaitReadable(t, c)
	c.Hold(HoldRef)
	c.Write([]byte("response"))
	c.Hold(HoldOff)
	mustRead(t, c, "next")
	mustRead(t, peer, "response")
}

func TestFlush(t *testing.T) {
	c, peer := pair(t)
	c.Hold(HoldRef)
	c.Write([]byte("held"))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	mustRead(t, peer, "held")
	c.Hold(HoldRef)
	c.Write([]byte("first "))
	c.Hold(HoldOff)
	c.Write([]byte("second"))
	mustRead(t, peer, "first second")
}

func TestReadDeadline(t *testing.T) {
	c, _ := pair(t)
	start := time.Now()
	c.ArmRead(20 * time.Millisecond)
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != ReadExpired {
		t.Fatalf("read: %v, cause %v", err, c.Interrupted())
	}
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Fatalf("fired early, after %v", d)
	}
}

func TestDisarmed(t *testing.T) {
	c, peer := pair(t)
	c.ArmRead(time.Millisecond)
	c.ArmRead(0)
	sweeps := c.sw.now.Load()
	for c.sw.now.Load() < sweeps+int64(3*SweepInterval) {
		runtime.Gosched() // the sweep is what is waited for
	}
	io.WriteString(peer, "x")
	mustRead(t, c, "x")
}

func TestWriteDeadline(t *testing.T) {
	c, _ := pair(t)
	c.ArmWrite(20 * time.Millisecond)
	_, err := c.Write(make([]byte, 64<<20)) // the peer reads nothing
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != WriteExpired {
		t.Fatalf("write: %v, cause %v", err, c.Interrupted())
	}
}

func TestInterruptAndResume(t *testing.T) {
	c, peer := pair(t)
	done := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	c.Interrupt(Cancelled)
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || c.Interrupted() != Cancelled {
		t.Fatalf("interrupted read: %v, cause %v", err, c.Interrupted())
	}
	c.Resume(Cancelled)
	io.WriteString(peer, "x")
	mustRead(t, c, "x")
}

type goneFlag struct{ ch chan struct{} }

func (g goneFlag) PeerGone() { close(g.ch) }

func TestWatch(t *testing.T) {
	f := func(name string, unread string, leave func(p *net.TCPConn)) {
		t.Helper()
		c, peer := pair(t)
		g := goneFlag{make(chan struct{})}
		c.SetWatcher(g)
		c.Watch(true)
		io.WriteString(peer, unread)
		leave(peer)
		select {
		case <-g.ch:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nobody noticed", name)
		}
	}
	f("close", "", func(p *net.TCPConn) { p.Close() })
	f("close behind unread bytes", "next request", func(p *net.TCPConn) { p.Close() })
	f("reset", "", func(p *net.TCPConn) { p.SetLinger(0); p.Close() })
}

func TestDetach(t *testing.T) {
	c, peer := pair(t)
	var closed atomic.Int32
	c.OnClose(func() { closed.Add(1) })
	c.Detach()
	c.Close()
	io.WriteString(peer, "still open")
	mustRead(t, c, "still open")
	c.CloseDetached()
	c.CloseDetached()
	if closed.Load() != 1 {
		t.Fatalf("OnClose ran %d times", closed.Load())
	}
}

// TestPlainConn works over a net.Conn without a descriptor.
func TestPlainConn(t *testing.T) {
	sw := NewSweeper()
	defer sw.Close()
	a, b := net.Pipe()
	c := New(a, sw)
	defer c.Close()
	go func() {
		buf := make([]byte, 4)
		io.ReadFull(b, buf)
		b.Write(buf)
	}()
	buf := make([]byte, 4)
	if n, wrote, err := c.Roundtrip([]byte("ping"), buf); string(buf[:n]) != "ping" || !wrote || err != nil {
		t.Fatalf("Roundtrip: %q, %v, %v", buf[:n], wrote, err)
	}
}

func TestSweeperForgets(t *testing.T) {
	c, _ := pair(t)
	count := func() (n int) {
		for i := range c.sw.shard {
			c.sw.shard[i].mu.Lock()
			n += len(c.sw.shard[i].conns)
			c.sw.shard[i].mu.Unlock()
		}
		return n
	}
	if n := count(); n != 1 {
		t.Fatalf("%d connections registered, want 1", n)
	}
	c.Close()
	if n := count(); n != 0 {
		t.Fatalf("%d connections registered after Close", n)
	}
}

// TestNoAllocs proves what the data path relies on.
func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing to measure")
		return
	}
	c, peer := pair(t)
	go func() {
		buf := make([]byte, 64)
		for {
			n, err := peer.Read(buf)
			if err != nil {
				return
			}
			peer.Write(buf[:n])
		}
	}()
	out, in := []byte("request"), make([]byte, 64)
	if n := testing.AllocsPerRun(200, func() {
		c.ArmRead(time.Minute)
		if _, _, err := c.Roundtrip(out, in); err != nil {
			t.Fatal(err)
		}
		c.Hold(HoldCopy)
		c.Write(out)
		c.Hold(HoldOff)
		if _, err := c.Read(in); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per round trip, want 0", n)
	}
}

func BenchmarkRoundtrip(b *testing.B) {
	c, peer := pair(b)
	go io.Copy(peer, peer)
	out, in := make([]byte, 200), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if n, _, err := c.Roundtrip(out, in); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
