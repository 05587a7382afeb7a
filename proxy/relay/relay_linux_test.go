package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// pour writes total bytes of a stream in pieces of random sizes.
func pour(t testing.TB, c net.Conn, seed byte, total int) {
	s := newStream(seed)
	all := s.next(total)
	sizes := rand.New(rand.NewPCG(uint64(seed), 1))
	for len(all) > 0 {
		n := min(len(all), 1+sizes.IntN(1<<sizes.IntN(18)))
		if _, err := c.Write(all[:n]); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		all = all[n:]
	}
}

// drink reads total bytes of a stream likewise and compares them.
func drink(t testing.TB, c net.Conn, seed byte, total int) {
	want := newStream(seed).next(total)
	sizes := rand.New(rand.NewPCG(uint64(seed), 2))
	buf := make([]byte, 1<<17)
	for at := 0; at < total; {
		n, err := c.Read(buf[:1+sizes.IntN(1<<sizes.IntN(17))])
		if err != nil {
			t.Errorf("read after %d of %d bytes: %v", at, total, err)
			return
		}
		if at+n > total || !bytes.Equal(buf[:n], want[at:at+n]) {
			t.Errorf("wrong bytes after %d", at)
			return
		}
		at += n
	}
}

func TestBytesBothWays(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		const total = 3 << 20
		tn := k.open(Policy{Queue: 16 << 10}, on)
		var wg sync.WaitGroup
		wg.Go(func() { pour(t, tn.client, 1, total) })
		wg.Go(func() { pour(t, tn.backend, 2, total) })
		wg.Go(func() { drink(t, tn.client, 2, total) })
		wg.Go(func() { drink(t, tn.backend, 1, total) })
		wg.Wait()
		_ = tn.client.CloseWrite()
		silent(t, tn.backend)
		_ = tn.backend.CloseWrite()
		silent(t, tn.client)
		e := k.endsWith(tn.id, reason.ClosedByClient)
		if e.ToClient.Bytes != total || e.ToBackend.Bytes != total {
			t.Errorf("counted %d and %d bytes, want %d", e.ToClient.Bytes, e.ToBackend.Bytes, total)
		}
	})
}

// TestBackPressure holds back both readers until the relay has stopped reading both
// sides; nothing may be lost, and the queues stay bounded.
func TestBackPressure(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		const total, queue = 24 << 20, 32 << 10
		tn := k.open(Policy{Queue: queue}, on)
		var wg sync.WaitGroup
		wg.Go(func() { pour(t, tn.client, 3, total) })
		wg.Go(func() { pour(t, tn.backend, 4, total) })
		testkit.WaitUntil(t, "both sides paused", func() bool { return k.relay.Stats().Pauses >= 2 })
		st := k.relay.Stats()
		// A read may overshoot, and records of TLS are somewhat longer than what is in them.
		if limit := 2 * (queue + 66<<10); st.Queued < queue || st.Queued > limit || st.Paused != 1 {
			t.Errorf("%d bytes queued (want %d to %d), %d tunnels paused", st.Queued, queue, limit, st.Paused)
		}
		wg.Go(func() { drink(t, tn.client, 4, total) })
		wg.Go(func() { drink(t, tn.backend, 3, total) })
		wg.Wait()
		testkit.WaitUntil(t, "nothing paused", func() bool { st := k.relay.Stats(); return st.Paused == 0 && st.Queued == 0 })
		_ = tn.client.Close()
		silent(t, tn.backend)
		_ = tn.backend.Close()
		k.endsWith(tn.id, reason.ClosedByClient)
	})
}

// TestHalfClose ends one direction, in both orders, while the other goes on; what is
// queued arrives before the end.
func TestHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		f := func(first, second func(tunnel) peer, want reason.Reason) {
			t.Helper()
			const total = 6 << 20
			tn := k.open(Policy{Queue: 8 << 10}, on)
			a, b := first(tn), second(tn)
			var wg sync.WaitGroup
			wg.Go(func() {
				pour(t, a, 5, total)
				_ = a.CloseWrite()
			})
			say(t, b, []byte("before"))
			hear(t, a, []byte("before"))
			drink(t, b, 5, total)
			silent(t, b)
			say(t, b, []byte("after the end"))
			hear(t, a, []byte("after the end"))
			_ = b.CloseWrite()
			silent(t, a)
			wg.Wait()
			k.endsWith(tn.id, want)
		}
		toClient, toBackend := func(tn tunnel) peer { return tn.client }, func(tn tunnel) peer { return tn.backend }
		f(toClient, toBackend, reason.ClosedByClient)
		f(toBackend, toClient, reason.ClosedByBackend)
	})
}

func TestReset(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		for range 2 {
			tn := k.open(Policy{}, on)
			say(t, tn.client, []byte("x"))
			hear(t, tn.backend, []byte("x"))
			cut(t, tn.client)
			reset(t, tn.backend)
			k.endsWith(tn.id, reason.ResetByClient)

			tn = k.open(Policy{}, on)
			cut(t, tn.backend)
			reset(t, tn.client)
			k.endsWith(tn.id, reason.ResetByBackend)
		}
	})
}

// TestResetAfterEnd: a side that has ended in order and then refuses bytes does not turn
// what it sent into a cut.
func TestResetAfterEnd(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, plain)
	say(t, tn.backend, []byte("last words"))
	_ = tn.backend.CloseWrite()
	hear(t, tn.client, []byte("last words"))
	silent(t, tn.client)
	cut(t, tn.backend)
	k.endsWith(tn.id, reason.ClosedByBackend)

	tn = k.open(Policy{}, plain)
	_ = tn.client.Close()
	silent(t, tn.backend)
	for range 2 { // the first is answered with a RST
		_, _ = tn.backend.Write([]byte("to nobody"))
	}
	k.endsWith(tn.id, reason.ClosedByClient)
}

// TestResetBesideEnd: a side sends its last bytes and closes, and then is sent more than
// it takes. Its bytes and its end arrive all the same.
func TestResetBesideEnd(t *testing.T) {
	for range 20 {
		k := newKit(t, 1)
		tn := k.open(Policy{}, plain)
		testkit.WaitUntil(t, "the tunnel", func() bool { return tunnels(k) == 1 })
		k.relay.loops[0].call(func() { // meanwhile the loop sees nothing
			say(t, tn.client, make([]byte, 300<<10)) // several reads, so several sends
			say(t, tn.backend, []byte("last words"))
			_ = tn.backend.Close()
		})
		hear(t, tn.client, []byte("last words"))
		silent(t, tn.client)
		k.endsWith(tn.id, reason.ClosedByBackend)
	}
}

// TestTruncatedTLS ends TCP below TLS without close_notify: the reason says so.
func TestTruncatedTLS(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, kind{client: true})
	say(t, tn.client, []byte("x"))
	hear(t, tn.backend, []byte("x"))
	_ = tn.client.(*tls.Conn).NetConn().(*net.TCPConn).CloseWrite()
	silent(t, tn.backend)
	say(t, tn.backend, []byte("y"))
	hear(t, tn.client, []byte("y"))
	_ = tn.backend.Close()
	silent(t, tn.client)
	k.endsWith(tn.id, reason.ResetByClient)
}

// TestBrokenTLS sends what is not a record.
func TestBrokenTLS(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, kind{client: true})
	say(t, tn.client.(*tls.Conn).NetConn(), []byte("GET / HTTP/1.1\r\n\r\n"))
	reset(t, tn.backend)
	k.endsWith(tn.id, reason.ResetByClient)

	// The FIN behind it makes it no end in order.
	tn = k.open(Policy{}, kind{client: true})
	k.relay.loops[0].call(func() {
		raw := tn.client.(*tls.Conn).NetConn().(*net.TCPConn)
		say(t, raw, []byte("GET / HTTP/1.1\r\n\r\n"))
		_ = raw.CloseWrite()
	})
	reset(t, tn.backend)
	k.endsWith(tn.id, reason.ResetByClient)
}

func TestEarlyBytes(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		toClient, toBackend := []byte("hello client"), newStream(7).next(300<<10)
		tn := k.open(Policy{Queue: 4 << 10}, on, func(p *Params) { p.ToClient, p.ToBackend = bytes.Clone(toClient), toBackend })
		hear(t, tn.client, toClient)
		hear(t, tn.backend, toBackend)
		say(t, tn.client, []byte("next"))
		hear(t, tn.backend, []byte("next"))
	})
}

// TestPlaintextInsideTLS: bytes that tls.Conn has already read from the socket are no
// edge of the socket.
func TestPlaintextInsideTLS(t *testing.T) {
	k := newKit(t, 1)
	// One record, of which the relay's own side reads a single byte before it joins.
	id := k.ids.Add(1)
	leg, cl := k.leg(client, true)
	other, be := k.leg(backend, false)
	say(t, cl, []byte("0123456789"))
	leg.Seat.Take(blocking{leg.FD})
	one := make([]byte, 1)
	if n, err := leg.TLS.Read(one); n != 1 || err != nil {
		t.Fatalf("read: %d, %v", n, err)
	}
	leg.Seat.Vacate()
	k.relay.Join(Params{ID: id, Client: leg, Backend: other, ToBackend: one, Policy: &Policy{}, Labels: labels})
	hear(t, be, []byte("0123456789"))
}

// blocking is a net.Conn on a descriptor.
type blocking struct{ fd int }

func (b blocking) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(b.fd, p)
		if err != unix.EAGAIN {
			return n, err
		}
	}
}
func (b blocking) Write(p []byte) (int, error)      { return unix.Write(b.fd, p) }
func (b blocking) Close() error                     { return nil }
func (b blocking) LocalAddr() net.Addr              { return nil }
func (b blocking) RemoteAddr() net.Addr             { return nil }
func (b blocking) SetDeadline(time.Time) error      { return nil }
func (b blocking) SetReadDeadline(time.Time) error  { return nil }
func (b blocking) SetWriteDeadline(time.Time) error { return nil }

func TestIdle(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		const idle = 300 * time.Millisecond
		// An early byte, since the time for another may pass before it is said.
		tn := k.open(Policy{Idle: idle, CloseTimeout: time.Minute}, on, func(p *Params) { p.ToBackend = []byte("x") })
		hear(t, tn.backend, []byte("x"))
		silent(t, tn.client)
		silent(t, tn.backend)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		if e := k.endsWith(tn.id, reason.IdleTimeout); e.Lifetime < idle {
			t.Errorf("ended after %v, want %v at least", e.Lifetime, idle)
		}
	})
}

func TestLifetime(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Lifetime: 300 * time.Millisecond, CloseTimeout: 200 * time.Millisecond}, plain)
	// Traffic does not help, and who does not answer the FIN is closed.
	for {
		if _, err := tn.client.Write([]byte("x")); err != nil {
			break
		}
		if _, err := tn.backend.Read(make([]byte, 16)); err != nil {
			break
		}
	}
	e := k.endsWith(tn.id, reason.MaxLifetime)
	if e.Lifetime < 500*time.Millisecond {
		t.Errorf("ended after %v, want lifetime and close timeout", e.Lifetime)
	}
}

func TestStall(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Queue: 4 << 10, Stall: 300 * time.Millisecond}, on)
		go func() { _, _ = io.Copy(tn.backend, zeros{}) }()
		k.endsWith(tn.id, reason.TunnelStalled)
		reset(t, tn.client)
	})
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestStallProgress: a slow side that takes something is not stalled.
func TestStallProgress(t *testing.T) {
	t.Parallel()
	k := newKit(t, 1)
	const total, stall = 24 << 20, 2 * time.Second
	tn := k.open(Policy{Queue: 4 << 10, Stall: stall}, plain)
	go pour(t, tn.backend, 9, total)
	want := newStream(9).next(total)
	began := time.Now()
	pace := time.NewTicker(30 * time.Millisecond)
	defer pace.Stop()
	for at := 0; at < total; {
		n := min(total-at, total/160)
		hear(t, tn.client, want[at:at+n])
		at += n
		<-pace.C
	}
	if d := time.Since(began); d < 2*stall {
		t.Errorf("took %v, which shows nothing", d)
	}
}

func TestClose(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{}, on)
		if k.relay.Close(tn.id+1000, reason.KilledByUser) {
			t.Error("closed what is not there")
		}
		testkit.WaitUntil(t, "the tunnel", func() bool { return k.relay.Close(tn.id, reason.KilledByUser) })
		silent(t, tn.client)
		silent(t, tn.backend)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		k.endsWith(tn.id, reason.KilledByUser)
	})
}

func TestEndedTells(t *testing.T) {
	k := newKit(t, 1)
	since := time.Unix(1700000000, 5)
	f := func(peer netip.AddrPort) {
		t.Helper()
		stub, owner := []byte("stub"), &struct{ int }{1}
		tn := k.open(Policy{}, plain, func(p *Params) { p.Peer, p.Since, p.Stub, p.Owner = peer, since, stub, owner })
		say(t, tn.client, []byte("1234"))
		hear(t, tn.backend, []byte("1234"))
		say(t, tn.backend, []byte("567"))
		hear(t, tn.client, []byte("567"))
		infos := 0
		k.relay.Each(func(i Info) bool {
			infos++
			if i.ID != tn.id || i.Peer != peer || !i.Since.Equal(since) || i.Labels != labels || i.ToBackend.Bytes != 4 || i.ToClient.Bytes != 3 || i.Draining {
				t.Errorf("info: %+v", i)
			}
			if age := time.Since(i.LastActive); age < 0 || age > patience {
				t.Errorf("last active %v ago", age)
			}
			return true
		})
		if infos != 1 {
			t.Errorf("Each saw %d tunnels", infos)
		}
		_ = tn.client.Close()
		_ = tn.backend.Close()
		e := k.end(tn.id)
		if e.Peer != peer || !e.Since.Equal(since) || e.Labels != labels || string(e.Stub) != "stub" || e.Owner != owner || e.ToBackend.Bytes != 4 || e.ToClient.Bytes != 3 {
			t.Errorf("ended: %+v", e)
		}
		if age := time.Since(e.Opened); age < 0 || age > patience {
			t.Errorf("opened %v ago", age)
		}
	}
	f(netip.MustParseAddrPort("192.0.2.1:1"))
	f(netip.MustParseAddrPort("[2001:db8::1]:65535"))
	f(netip.MustParseAddrPort("[fe80::1%eth0]:2"))
	f(netip.AddrPort{})
}

// TestEachStops: the callback may end the iteration.
func TestEachStops(t *testing.T) {
	k := newKit(t, 2)
	for range 4 {
		k.open(Policy{}, plain)
	}
	testkit.WaitUntil(t, "all tunnels", func() bool { return tunnels(k) == 4 })
	n := 0
	k.relay.Each(func(Info) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("Each went on to %d", n)
	}
}

func TestClosingLoops(t *testing.T) {
	k := newKit(t, 2)
	var all []tunnel
	for _, on := range kinds {
		all = append(all, k.open(Policy{}, on))
	}
	k.group.Close()
	for _, tn := range all {
		k.endsWith(tn.id, reason.ShutDown)
	}
	// A tunnel that comes too late is closed by Join.
	id := k.ids.Add(1)
	leg, cl := k.leg(client, false)
	other, be := k.leg(backend, false)
	if k.relay.Join(Params{ID: id, Client: leg, Backend: other, Policy: &Policy{}, Labels: labels}) {
		t.Error("joined closed loops")
	}
	k.endsWith(id, reason.ShutDown)
	silent(t, cl)
	silent(t, be)
	if k.relay.Close(id, reason.KilledByUser) {
		t.Error("closed on closed loops")
	}
	k.relay.Each(func(Info) bool { t.Error("a tunnel on closed loops"); return true })
	if d := k.relay.Drain(DrainOptions{}); d.Left() != 0 || d.Total() != 0 {
		t.Error("drained closed loops")
	}
}

// TestNotASocket: a descriptor that epoll refuses ends the tunnel and nothing else.
func TestNotASocket(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, plain, func(p *Params) {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(p.Client.FD)
		p.Client.FD = fd
	})
	k.endsWith(tn.id, reason.Internal)
	reset(t, tn.backend)
}

func TestTrim(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, kind{client: true, backend: true})
	say(t, tn.client, make([]byte, 200))
	hear(t, tn.backend, make([]byte, 200))
	if n := k.trims.Load(); n != 0 {
		t.Errorf("trimmed %d times after a small record", n)
	}
	for range 3 {
		say(t, tn.client, make([]byte, 16<<10))
		hear(t, tn.backend, make([]byte, 16<<10))
	}
	testkit.WaitUntil(t, "a trim", func() bool { return k.trims.Load() == 1 })
	say(t, tn.backend, make([]byte, 4<<10))
	hear(t, tn.client, make([]byte, 4<<10))
	testkit.WaitUntil(t, "a trim of the other side", func() bool { return k.trims.Load() == 2 })
}

func TestCut(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{}, on)
		testkit.WaitUntil(t, "the tunnel", func() bool { return k.relay.Cut(tn.id, reason.KilledByUser) })
		for name, c := range map[string]net.Conn{"client": tn.client, "backend": tn.backend} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: read gives %v, want a reset", name, err)
			}
		}
		k.endsWith(tn.id, reason.KilledByUser)
	})
}
