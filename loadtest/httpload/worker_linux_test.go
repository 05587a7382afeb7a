package httpload

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
	"tickgate/proxy/reactor"
)

// bench is a worker whose loop does not run, with one connection to a peer in the test.
type bench struct {
	w    *worker
	c    *conn
	peer int
	buf  [4096]byte
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	o.URL, o.Conns = "http://127.0.0.1:1/", 1
	r, err := newRun(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pair[1])
		r.group.Close()
	})
	r.start = time.Now()
	b := &bench{w: r.workers[0], peer: pair[1]}
	b.c = &b.w.conns[0]
	b.w.unopened = nil
	b.w.opening = 1
	b.c.fd, b.c.state = int32(pair[0]), connecting
	b.w.now = r.clock()
	if r.open {
		b.w.advance()
	}
	b.w.ready(b.c)
	return b
}

// exchange answers the request that has come.
func (b *bench) exchange(t testing.TB, response string) {
	n, err := unix.Read(b.peer, b.buf[:])
	if err != nil || n < 10 {
		t.Fatalf("no request: %d, %v", n, err)
	}
	n = copy(b.buf[:], response)
	if _, err := unix.Write(b.peer, b.buf[:n]); err != nil {
		t.Fatal(err)
	}
	b.w.Ready(token(b.c), reactor.Readable)
}

// A request and its response allocate nothing.
func TestExchangesAllocateNothing(t *testing.T) {
	f := func(name string, o Options, response string, next func(*bench)) {
		b := newBench(t, o)
		once := func() {
			if next != nil {
				next(b)
			}
			b.exchange(t, response)
		}
		once()
		if n := testing.AllocsPerRun(500, once); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if ok := b.w.record.ok; ok < 500 || ok != b.w.record.sent && ok != b.w.record.sent-1 {
			t.Errorf("%s: %d of %d ok", name, ok, b.w.record.sent)
		}
	}
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
	mixed := []Request{{Path: "/a", Weight: 3}, {Path: "/b"}}
	f("closed loop", Options{}, whole, nil)
	f("closed loop, mixed", Options{Mix: mixed}, chunked, nil)
	f("open loop", Options{Mix: mixed, Plan: pace.Constant(1e6, time.Hour)}, whole, func(b *bench) {
		if b.w.busy == 0 { // it comes due within a microsecond
			b.w.alarmAt = never
			b.w.Ready(reactor.MakeToken(reactor.Load, alarmIndex, 0), reactor.Readable)
		}
	})
}

// A listener whose queue is full does not answer.
func TestConnectTimeout(t *testing.T) {
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ln) }()
	if err := unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(ln, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	// A queue of 0 takes one; what has a place in it gets no response.
	r := load(t, Options{
		URL: fmt.Sprintf("http://127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), Plan: pace.Constant(100, 100*time.Millisecond),
		Conns: 10, Target: target.Options{Timeout: 300 * time.Millisecond}, Timeout: time.Second,
	})
	if r.Errors["connect_timeout"] < 5 || r.OK != 0 || r.Failed() != r.Due {
		t.Errorf("%+v", r)
	}
}

func BenchmarkExchange(b *testing.B) {
	x := newBench(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		x.exchange(b, whole)
	}
	if x.w.record.ok < int64(b.N) {
		b.Errorf("%d ok of %d", x.w.record.ok, b.N)
	}
}
