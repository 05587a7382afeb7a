package relay

import (
	"crypto/tls"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/proxy/reactor"
)

// openFDs counts the process's descriptors.
func openFDs(t testing.TB) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestChurn opens and ends many tunnels in all ways at once. Each must end exactly once
// (the kit counts), and no descriptor may be left.
func TestChurn(t *testing.T) {
	before := openFDs(t)
	k := newKit(t, 2)
	const workers, rounds = 8, 150
	policies := []*Policy{{}, {Queue: 4 << 10, Idle: 300 * time.Millisecond}, {Mode: Frames, CloseTimeout: 100 * time.Millisecond}, {Mode: Frames, Lifetime: 100 * time.Millisecond, CloseTimeout: 100 * time.Millisecond}}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for range rounds {
				k.churn(r, policies[r.IntN(len(policies))])
			}
		})
	}
	wg.Go(func() { // who looks on
		for range 50 {
			k.relay.Each(func(Info) bool { return true })
			k.relay.Stats()
		}
	})
	wg.Wait()
	testkit.WaitUntil(t, "all tunnels ended", func() bool { return k.relay.Count() == 0 })
	if n := openFDs(t); n > before+3*2+4 {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	st := k.relay.Stats()
	testkit.WaitUntil(t, "counters", func() bool {
		st = k.relay.Stats()
		sum := uint64(0)
		for _, n := range st.Ended {
			sum += n
		}
		return sum == workers*rounds
	})
	if st.Ended[reason.Internal] != 0 {
		t.Errorf("%d tunnels ended by a bug", st.Ended[reason.Internal])
	}
}

// churn is the life of one tunnel, with peers that do what comes to their minds.
func (k *kit) churn(r *rand.Rand, p *Policy) {
	a, cl := socketpair(k.t)
	b, be := socketpair(k.t)
	id := k.ids.Add(1)
	params := Params{ID: id, Client: Leg{FD: a}, Backend: Leg{FD: b}, Policy: p, Labels: &Labels{Route: "r"}}
	if r.IntN(2) == 0 {
		params.ToBackend = text(client, "early")
	}
	k.relay.Join(params)
	fds := []int{cl, be}
	for range r.IntN(12) {
		d := side(r.IntN(2))
		switch fd := fds[d]; r.IntN(6) {
		case 0:
			_ = unix.Shutdown(fd, unix.SHUT_WR)
		case 1:
			_, _ = unix.Write(fd, text(d, "hello"))
		case 2:
			_, _ = unix.Write(fd, make([]byte, r.IntN(1<<18)))
		case 3:
			_, _ = unix.Read(fd, make([]byte, r.IntN(1<<17)))
		case 4:
			_, _ = unix.Write(fd, closeFrame(d, 1000))
		case 5:
			if r.IntN(4) == 0 {
				k.relay.Close(id, reason.KilledByUser)
			}
		}
	}
	closeAll(fds)
}

// TestChurnTLS is the same over TLS, with peers that also leave in ways only TLS has.
func TestChurnTLS(t *testing.T) {
	k := newKit(t, 2)
	policies := []Policy{{Queue: 4 << 10, Idle: 300 * time.Millisecond}, {Mode: Frames, Idle: 300 * time.Millisecond, CloseTimeout: 100 * time.Millisecond}}
	var wg sync.WaitGroup
	for n := range 120 {
		tn := k.open(policies[n%2], kinds[1+n%3])
		wg.Go(func() { wander(t, tn, rand.New(rand.NewPCG(uint64(n), 6))) })
	}
	wg.Wait()
	testkit.WaitUntil(t, "all tunnels ended", func() bool { return k.relay.Count() == 0 })
	testkit.WaitUntil(t, "counters", func() bool { return k.relay.Stats().Open == [numModes]int{} })
	if n := k.relay.Stats().Ended[reason.Internal]; n != 0 {
		t.Errorf("%d tunnels ended by a bug", n)
	}
}

// wander does at random what peers do, and leaves.
func wander(t *testing.T, tn tunnel, r *rand.Rand) {
	peers := [...]peer{tn.client, tn.backend}
	for _, c := range peers {
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	}
	for range r.IntN(12) {
		d := side(r.IntN(2))
		switch c := peers[d]; r.IntN(7) {
		case 0:
			_ = c.CloseWrite()
		case 1:
			_, _ = c.Write(text(d, "hello"))
		case 2:
			_, _ = c.Write(frame(d, 2, true, make([]byte, r.IntN(1<<18))))
		case 3:
			_, _ = c.Read(make([]byte, r.IntN(1<<17)))
		case 4:
			_, _ = c.Write(closeFrame(d, 1000))
		case 5:
			if over, ok := c.(*tls.Conn); ok {
				_, _ = over.NetConn().Write([]byte("no record"))
			}
		case 6:
			cut(t, c)
			_ = peers[d.other()].Close()
			return
		}
	}
	_ = tn.client.Close()
	_ = tn.backend.Close()
}

// TestGenerations: events of a slot's last life do not reach the next.
func TestGenerations(t *testing.T) {
	k := newKit(t, 1)
	lp := k.relay.loops[0]
	tn := k.open(Policy{}, plain)
	var old reactor.Token
	lp.call(func() {
		for i, s := range lp.all {
			old = token(i, s, client)
		}
	})
	_ = tn.client.Close()
	_ = tn.backend.Close()
	k.end(tn.id)
	tn = k.open(Policy{}, plain)
	say(t, tn.client, []byte("x"))
	hear(t, tn.backend, []byte("x"))
	lp.call(func() {
		for i, s := range lp.all {
			if now := token(i, s, client); now == old || now.Index() != old.Index() {
				t.Errorf("token %x follows %x, want the same slot in another generation", now, old)
			}
		}
		lp.Ready(old, reactor.Readable|reactor.Failed)
		lp.Ready(old, 0)
		lp.Ready(reactor.MakeToken(reactor.Relay, 1<<31, 1), reactor.Readable) // a page that is not there
	})
	say(t, tn.client, []byte("y"))
	hear(t, tn.backend, []byte("y"))
}

// TestPanicEndsOneTunnel: a bug ends the tunnel it was met in, at the loop's next turn.
func TestPanicEndsOneTunnel(t *testing.T) {
	k := newKit(t, 1)
	lp := k.relay.loops[0]
	tn, other := k.open(Policy{}, plain), k.open(Policy{}, plain)
	testkit.WaitUntil(t, "both", func() bool { return tunnels(k) == 2 })
	lp.call(func() {
		for i, s := range lp.all {
			if s.id == tn.id {
				lp.enter(i) // and never leave, as after a panic
			}
		}
	})
	k.endsWith(tn.id, reason.Internal)
	say(t, other.client, []byte("x"))
	hear(t, other.backend, []byte("x"))
}

// TestTurn: a busy tunnel gets a bounded share of a turn, and asks for the next.
func TestTurn(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Queue: 1 << 20}, on)
		const total = 300 << 10
		testkit.WaitUntil(t, "the tunnel", func() bool { return tunnels(k) == 1 })
		for _, lp := range k.relay.loops {
			lp.call(func() {
				for i, s := range lp.all {
					say(t, tn.client, make([]byte, total))
					lp.Ready(token(i, s, client), reactor.Readable)
					if n := s.bytes[client]; n == 0 || n > turnBytes+16<<10 || s.flags&queued == 0 {
						t.Errorf("one turn moved %d bytes, flags %b", n, s.flags)
					}
				}
			})
		}
		hear(t, tn.backend, make([]byte, total))
	})
}

// tunnels counts those that have joined.
func tunnels(k *kit) (n int) {
	k.relay.Each(func(Info) bool { n++; return true })
	return n
}
