package relay

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/sock"
	"tickgate/internal/testkit"
	"tickgate/proxy/reactor"
)

// TestNoAllocations sends messages back and forth and counts allocations of the whole
// process. crypto/tls makes a reader of 24 bytes for each attempt to read a record: one
// for a message at its receiver, and at the relay another that finds nothing more.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: nothing is compared")
	}
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		allowed := 0.0
		for _, over := range []bool{on.client, on.backend} {
			if over {
				allowed += 3
			}
		}
		for _, mode := range []Mode{Opaque, Frames} {
			tn := k.open(Policy{Mode: mode, CheckUTF8: true, MessageRate: 1 << 30, Ping: time.Hour, Idle: time.Hour}, on)
			to, from := text(client, string(make([]byte, 200))), text(backend, string(make([]byte, 200)))
			buf := make([]byte, 300)
			turn := func() {
				if exchange(tn.client, tn.backend, to, buf) != nil || exchange(tn.backend, tn.client, from, buf) != nil {
					t.Error("a message was lost")
				}
			}
			for range 10 {
				turn()
			}
			if n := testing.AllocsPerRun(200, turn); n > allowed && !raceEnabled {
				t.Errorf("%v: %v allocations per message and answer, want %v", mode, n, allowed)
			}
		}
	})
}

// exchange writes to one end and reads as much from the other.
func exchange(from, to net.Conn, message, buf []byte) error {
	if _, err := from.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(to, buf[:len(message)])
	return err
}

// heap returns the bytes of live objects.
func heap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestIdleMemory holds what an idle plain tunnel costs on the heap; the kernel's part is
// not in it.
func TestIdleMemory(t *testing.T) {
	f := func(p *Policy, stub int, limit int) {
		t.Helper()
		got := idleMemory(t, p, stub)
		t.Logf("%v with a stub of %d bytes: %d B", p.Mode, stub, got)
		if got > limit {
			t.Errorf("an idle tunnel (%v, stub %d) takes %d bytes, want at most %d", p.Mode, stub, got, limit)
		}
	}
	f(&Policy{}, 0, 160)
	f(&Policy{}, 64, 280)
	f(&Policy{Mode: Frames}, 0, 400)
}

// idleMemory returns the bytes per idle tunnel, after each had some traffic.
func idleMemory(t testing.TB, p *Policy, stub int) int {
	t.Helper()
	k := newKit(t, 1)
	const n = 2000
	before := heap()
	fds := make([]int, 0, 2*n)
	for id := range uint64(n) {
		a, cl := socketpair(t)
		b, be := socketpair(t)
		fds = append(fds, cl, be)
		params := Params{ID: id + 1, Client: Leg{FD: a}, Backend: Leg{FD: b}, Policy: p, Labels: labels}
		if stub > 0 {
			params.Stub = make([]byte, stub)
		}
		k.relay.Join(params)
	}
	message := text(client, "hello")
	for i := 0; i < len(fds); i += 2 {
		_, _ = unix.Write(fds[i], message)
	}
	buf := make([]byte, 100)
	for i := 1; i < len(fds); i += 2 {
		awaitEnd(t, fds[i])
		if m, _ := unix.Read(fds[i], buf); m != len(message) {
			t.Fatal("a message was lost")
		}
	}
	after := heap()
	per := (int(after) - int(before) - 16*n) / n // fds
	k.ids.Store(n)
	closeAll(fds)
	testkit.WaitUntil(t, "all tunnels ended", func() bool { return k.relay.Count() == 0 })
	return per
}

func BenchmarkIdleMemory(b *testing.B) {
	for _, mode := range []Mode{Opaque, Frames} {
		b.Run(mode.String(), func(b *testing.B) {
			per := 0
			for b.Loop() {
				per = idleMemory(b, &Policy{Mode: mode}, 0)
			}
			b.ReportMetric(float64(per), "B/tunnel")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// tcp returns a descriptor of ours and the other end's, over loopback.
func tcp(t testing.TB) (ours, theirs int) {
	a, b := testkit.TCPPair(t)
	ours, theirs = detach(t, a), detach(t, b)
	for _, fd := range []int{ours, theirs} {
		_ = unix.SetNonblock(fd, true)
	}
	return ours, theirs
}

// BenchmarkMessage compares what one 200-byte message costs through Ready with the
// bare system calls, sender and receiver included in both.
func BenchmarkMessage(b *testing.B) {
	for _, mode := range []string{"bare", "opaque", "frames"} {
		b.Run(mode, func(b *testing.B) {
			k := newKit(b, 1)
			a, cl := tcp(b)
			c, be := tcp(b)
			message := text(client, string(make([]byte, 200)))
			buf := make([]byte, 64<<10)
			lp := k.relay.loops[0]
			relayed := func() {
				n, _ := sock.Recv(uintptr(a), buf)
				_, _ = sock.Send(uintptr(c), buf[:n])
			}
			if mode != "bare" {
				p := Policy{CheckUTF8: true}
				if mode == "frames" {
					p.Mode = Frames
				}
				k.relay.Join(Params{ID: k.ids.Add(1), Client: Leg{FD: a}, Backend: Leg{FD: c}, Policy: &p, Labels: labels})
				testkit.WaitUntil(b, "the tunnel", func() bool { return tunnels(k) == 1 })
			}
			lp.call(func() { // on the loop, which therefore does not get at the events
				for i, s := range lp.all {
					relayed = func() { lp.Ready(token(i, s, client), reactor.Readable) }
				}
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				begun := threadCPU()
				defer func() { b.ReportMetric(float64((threadCPU()-begun).Nanoseconds())/float64(b.N), "cpu-ns/op") }()
				for b.Loop() {
					_, _ = sock.Send(uintptr(cl), message)
					relayed()
					if n, errno := sock.Recv(uintptr(be), buf); n != len(message) {
						b.Errorf("%d, %v", n, errno)
						return
					}
				}
			})
			closeAll([]int{cl, be})
			if mode == "bare" {
				closeAll([]int{a, c})
			}
		})
	}
}

// BenchmarkPaced is 10,000 messages of 200 bytes a second over 1,000 tunnels, and
// reports the CPU time of the loop's thread for each.
func BenchmarkPaced(b *testing.B) {
	for _, over := range []kind{plain, {"tls_client", true, false}} {
		for _, mode := range []Mode{Opaque, Frames} {
			b.Run(fmt.Sprintf("%s/%v", over.name, mode), func(b *testing.B) { paced(b, over, mode) })
		}
	}
}

func paced(b *testing.B, over kind, mode Mode) {
	k := newKit(b, 1)
	const tunnels, perTick = 1000, 10
	p := &Policy{Mode: mode, CheckUTF8: true}
	var clients []net.Conn
	var backends []int
	for range tunnels {
		leg, cl := k.leg(client, over.client)
		ours, theirs := tcp(b)
		_ = cl.SetDeadline(time.Time{})
		clients, backends = append(clients, cl), append(backends, theirs)
		k.relay.Join(Params{ID: k.ids.Add(1), Client: leg, Backend: Leg{FD: ours}, Policy: p, Labels: labels})
	}
	lp := k.relay.loops[0]
	lp.call(runtime.LockOSThread)
	message := text(client, string(make([]byte, 200)))
	buf := make([]byte, 4096)
	var cpu time.Duration // of the loop's thread
	lp.call(func() { cpu = -threadCPU() })
	before := k.group.Stats()[0]
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	sent := 0
	for b.Loop() { // one op is one tick
		for range perTick {
			n := sent * 7 % tunnels
			_, _ = clients[n].Write(message)
			_, _ = unix.Read(backends[n], buf) // what came with the last round
			sent++
		}
		<-pace.C
	}
	lp.call(func() { cpu += threadCPU() })
	after := k.group.Stats()[0]
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(sent), "cpu-ns/msg")
	b.ReportMetric(float64(after.Events-before.Events)/float64(sent), "events/msg")
	b.ReportMetric(float64(after.Wakes-before.Wakes)/float64(sent), "wakes/msg")
	for i := range clients {
		_ = clients[i].Close()
	}
	closeAll(backends)
}

// threadCPU returns the CPU time of this thread.
func threadCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSplice compares ways to move a stream from one socket to another in
// chunks, sender and receiver included: recv and send through a user buffer, and splice
// through one pipe.
func BenchmarkSplice(b *testing.B) {
	for _, size := range []int{200, 16 << 10, 64 << 10} {
		for _, way := range []string{"direct", "copy", "splice"} {
			b.Run(fmt.Sprintf("%s/%d", way, size), func(b *testing.B) {
				a, cl := tcp(b)
				c, be := tcp(b)
				defer closeAll([]int{a, cl, c, be})
				var pipe [2]int
				if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
					b.Fatal(err)
				}
				defer closeAll(pipe[:])
				buf, out, in := make([]byte, 64<<10), make([]byte, size), make([]byte, 64<<10)
				move := func() {
					n, _ := sock.Recv(uintptr(a), buf)
					if n > 0 {
						_, _ = sock.Send(uintptr(c), buf[:n])
					}
				}
				if way == "direct" { // what sender and receiver cost without anything between
					move, be = func() {}, a
				}
				if way == "splice" {
					move = func() {
						n, _ := unix.Splice(a, nil, pipe[1], nil, 64<<10, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
						for n > 0 {
							m, err := unix.Splice(pipe[0], nil, c, nil, int(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
							if err != nil {
								b.Fatal(err)
							}
							n -= m
						}
					}
				}
				b.SetBytes(int64(size))
				var u0, u1 unix.Rusage
				_ = unix.Getrusage(unix.RUSAGE_SELF, &u0)
				for b.Loop() {
					for sent, got := 0, 0; got < size; {
						if sent < size {
							n, _ := sock.Send(uintptr(cl), out[sent:])
							sent += n
						}
						move()
						n, _ := sock.Recv(uintptr(be), in)
						got += n
					}
				}
				_ = unix.Getrusage(unix.RUSAGE_SELF, &u1)
				b.ReportMetric(float64(u1.Utime.Nano()+u1.Stime.Nano()-u0.Utime.Nano()-u0.Stime.Nano())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}
