package tcpinfo

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// of asks about the descriptor of a connection or listener.
func of(t *testing.T, c syscall.Conn) (info Info, ok bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { info, ok = Of(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	return info, ok
}

// connection returns both ends of a connection over loopback.
func connection(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// eventually waits for the kernel to say what is wanted.
func eventually(t *testing.T, what string, c syscall.Conn, want func(Info) bool) Info {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		info, ok := of(t, c)
		if !ok {
			t.Fatalf("%s: nothing is known", what)
		}
		if want(info) {
			return info
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: still %+v", what, info)
		}
	}
}

// A connection whose peer reads nothing fills both queues, which drain when it reads.
func TestOf(t *testing.T) {
	if runtime.GOOS != "linux" {
		if _, ok := Of(0); ok {
			t.Error("something is known on this system")
		}
		return
	}
	client, server := connection(t)
	// 1. A new connection has nothing queued.
	info := eventually(t, "1", client, func(i Info) bool { return i.RTT > 0 })
	if info.SendQueue != 0 || info.RecvQueue != 0 || info.Retransmits != 0 || info.RTT > time.Second || info.RTTVar <= 0 ||
		info.CongestionWindow == 0 || info.SegmentSize == 0 {
		t.Errorf("1: %+v", info)
	}
	// 2. What was sent waits at the other side.
	const sent = 10_000
	if _, err := client.Write(make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "2", server, func(i Info) bool { return i.RecvQueue == sent })
	eventually(t, "2", client, func(i Info) bool { return i.SendQueue == 0 && i.Unacked == 0 })
	// 3. When the other side takes no more, it waits on this one.
	if err := client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	more, err := client.Write(make([]byte, 64<<20))
	if err == nil {
		t.Fatal("64 MiB fit into the buffers")
	}
	full := eventually(t, "3", client, func(i Info) bool { return i.SendQueue > 0 && i.NotSent > 0 })
	there := eventually(t, "3", server, func(i Info) bool { return i.RecvQueue > sent })
	if got := full.SendQueue + there.RecvQueue; got < (sent+more)/2 || full.NotSent > full.SendQueue {
		t.Errorf("3: %d bytes are in the queues of %d: %+v %+v", got, sent+more, full, there)
	}
	// 4. When it reads, all is gone.
	if _, err := io.CopyN(io.Discard, server, int64(sent+more)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "4", client, func(i Info) bool { return i.SendQueue == 0 && i.NotSent == 0 && i.DeliveryRate > 0 })
	eventually(t, "4", server, func(i Info) bool { return i.RecvQueue == 0 })
}

func TestOfOthers(t *testing.T) {
	f := func(what string, info Info, ok bool) {
		t.Helper()
		if ok || info != (Info{}) {
			t.Errorf("%s: %+v, %t; want nothing", what, info, ok)
		}
	}
	info, ok := Of(-1)
	f("no descriptor", info, ok)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	info, ok = of(t, file)
	f("a file", info, ok)
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	info, ok = of(t, ln.(*net.UnixListener))
	f("a Unix socket", info, ok)
}

func BenchmarkOf(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	_ = raw.Control(func(fd uintptr) {
		for b.Loop() {
			Of(int(fd))
		}
	})
}
