package park

import (
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/sock"
	"tickgate/proxy/reactor"
)

// TestWakes has the peer act while the connection is parked.
func TestWakes(t *testing.T) {
	f := func(name string, act func(testing.TB, *net.TCPConn), want Why) {
		t.Helper()
		for _, secure := range []bool{false, true} {
			t.Run(map[bool]string{false: "plain ", true: "tls "}[secure]+name, func(t *testing.T) {
				r := started(t, 1)
				fd, peer := pair(t)
				c := Conn{FD: fd, ID: 7, Phase: Idle}
				if secure {
					c.Seat = new(sock.Seat)
					c.TLS = tls.Server(c.Seat, &tls.Config{})
				}
				r.park(c)
				act(t, peer)
				r.expect(7, want)
				r.count(0, 0, 0)
			})
		}
	}
	f("data", func(t testing.TB, p *net.TCPConn) { say(t, p, "x") }, Ready)
	f("FIN", func(_ testing.TB, p *net.TCPConn) { _ = p.Close() }, Gone)
	f("half-close", func(_ testing.TB, p *net.TCPConn) { _ = p.CloseWrite() }, Gone)
	f("RST", reset, Gone)
}

// TestWakesAtOnce has the peer act first, so that the event comes with the registration.
func TestWakesAtOnce(t *testing.T) {
	f := func(name string, act func(testing.TB, *net.TCPConn), events int16, want Why) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r := started(t, 1)
			fd, peer := pair(t)
			act(t, peer)
			await(t, fd, events)
			r.park(Conn{FD: fd, ID: 7})
			r.expect(7, want)
		})
	}
	f("data", func(t testing.TB, p *net.TCPConn) { say(t, p, "x") }, unix.POLLIN, Ready)
	f("FIN", func(_ testing.TB, p *net.TCPConn) { _ = p.Close() }, unix.POLLRDHUP, Gone)
	f("RST", reset, unix.POLLERR, Gone)
	f("data, FIN", func(t testing.TB, p *net.TCPConn) { say(t, p, "x"); _ = p.Close() }, unix.POLLIN|unix.POLLRDHUP, Ready)
	f("data, RST", func(t testing.TB, p *net.TCPConn) { say(t, p, "x"); reset(t, p) }, unix.POLLERR, Ready)
}

// TestComesBackAsGiven parks one connection of every sort.
func TestComesBackAsGiven(t *testing.T) {
	fd, _ := pair(t)
	seat := new(sock.Seat)
	conn := tls.Server(seat, &tls.Config{})
	full := Conn{
		FD: fd, ID: 1 << 60, Peer: netip.MustParseAddrPort("192.0.2.1:65535"), Owner: 1 << 31, Phase: Head, Since: 1 << 62,
		Served: 1 << 31, Until: 1 << 61, Begun: 1 << 59, Partial: true, TLS: conn, Seat: seat, Rest: []byte("GET / HT"), Whole: 1 << 58,
	}
	f := func(name string, change func(*Conn)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			given := full
			change(&given)
			r.park(given)
			given.Parked, given.Loop = r.group.Now(), r.group.Loops()[0]

			info := Info{
				given.ID, given.FD, given.Peer, given.Owner, given.Phase, given.Since, given.Served, given.Parked, given.Until,
				given.TLS != nil, given.Partial, len(given.Rest), nil,
			}
			r.Each(func(got Info) bool {
				if got != info {
					t.Errorf("Each: %+v, want %+v", got, info)
				}
				return true
			})
			if !r.EvictID(given.ID) {
				t.Fatal("EvictID finds nothing")
			}
			got := r.next().Conn
			if !reflect.DeepEqual(got, given) {
				t.Errorf("%+v, want %+v", got, given)
			}
			if len(given.Rest) > 0 && &got.Rest[0] != &given.Rest[0] {
				t.Error("Rest was copied")
			}
			if n := len(r.shards[0].zones); n != 0 {
				t.Errorf("%d zones are kept", n)
			}
			r.Unregister(&got)
		})
	}
	f("everything", func(*Conn) {})
	f("nothing", func(c *Conn) { *c = Conn{FD: fd} })
	f("plain", func(c *Conn) { c.TLS, c.Seat = nil, nil })
	f("no rest", func(c *Conn) { c.Rest, c.Whole = nil, 0 })
	f("empty rest with room", func(c *Conn) { c.Rest = make([]byte, 0, 8) })
	f("no deadline", func(c *Conn) { c.Until = 0 })
	f("no address", func(c *Conn) { c.Peer = netip.AddrPort{} })
	f("port only", func(c *Conn) { c.Peer = netip.AddrPortFrom(netip.Addr{}, 80) })
	f("0.0.0.0", func(c *Conn) { c.Peer = netip.MustParseAddrPort("0.0.0.0:0") })
	f("IPv6", func(c *Conn) { c.Peer = netip.MustParseAddrPort("[2001:db8::1]:443") })
	f("IPv6 unspecified", func(c *Conn) { c.Peer = netip.MustParseAddrPort("[::]:443") })
	f("IPv4 mapped into IPv6", func(c *Conn) { c.Peer = netip.MustParseAddrPort("[::ffff:192.0.2.1]:443") })
	f("IPv6 with a zone", func(c *Conn) { c.Peer = netip.MustParseAddrPort("[fe80::1%eth0]:443") })
}

func TestExpirySteps(t *testing.T) {
	r := newRig(t, 1)
	s := r.shards[0]
	park := func(id uint64, until time.Duration) {
		t.Helper()
		fd, _ := pair(t)
		r.park(Conn{FD: fd, ID: id, Until: until})
	}
	tick := func(now time.Duration, ids ...uint64) {
		t.Helper()
		s.Tick(now)
		got := map[uint64]bool{}
		for range ids {
			w := r.next()
			if w.why != Expired {
				t.Errorf("connection %d handed out as %s, want expired", w.ID, w.why)
			}
			got[w.ID] = true
		}
		for _, id := range ids {
			if !got[id] {
				t.Errorf("%d did not expire at %s", id, now)
			}
		}
		r.none()
	}
	park(1, 10*time.Second)
	park(2, 20*time.Second)
	park(3, 0)
	tick(9 * time.Second)
	// The moment itself counts as passed.
	tick(10*time.Second, 1)
	tick(19 * time.Second)
	// An earlier deadline that comes later is seen.
	park(4, 15*time.Second)
	tick(19*time.Second, 4)
	// Two at once; without a deadline, never.
	park(5, 21*time.Second)
	tick(30*time.Second, 2, 5)
	tick(1000 * time.Hour)
	r.count(1, 0, 0)
}

// TestExpiryInBatches has more expire at once than a loop does in one go.
func TestExpiryInBatches(t *testing.T) {
	const conns = 3*expireBatch + 1
	r := newRig(t, 1)
	for id := range uint64(conns) {
		fillOne(t, r.shards[0], Conn{ID: id, Until: time.Nanosecond})
	}
	r.shards[0].Tick(time.Second)
	if n := len(r.wakes); n != expireBatch {
		t.Errorf("%d expire in one go, want %d", n, expireBatch)
	}
	// The next batch is posted, so that it runs before the end. Closing gives up the rest.
	r.group.Close()
	seen := map[uint64]bool{}
	for i := range conns {
		w, want := r.next(), Evicted
		if i < 2*expireBatch {
			want = Expired
		}
		if seen[w.ID] || w.why != want {
			t.Fatalf("connection %d handed out as %s, want %s, again: %t", w.ID, w.why, want, seen[w.ID])
		}
		seen[w.ID] = true
	}
	r.none()
	r.count(0, 0, 0)
}

// TestExpiryOnTheLoop is one expiry with nothing simulated.
func TestExpiryOnTheLoop(t *testing.T) {
	r := started(t, 2)
	fd, _ := pair(t)
	until := r.group.Now() + 150*time.Millisecond
	r.park(Conn{FD: fd, ID: 1, Until: until})
	r.expect(1, Expired)
	if now := r.group.Now(); now < until {
		t.Errorf("expired at %s, before %s", now, until)
	}
}

func TestEvictSteps(t *testing.T) {
	r := started(t, 2)
	park := func(id uint64, owner uint32, phase Phase) {
		t.Helper()
		fd, _ := pair(t)
		r.park(Conn{FD: fd, ID: id, Owner: owner, Phase: phase})
	}
	evict := func(match func(*Info) bool, ids ...uint64) {
		t.Helper()
		if n := r.Evict(match); n != len(ids) {
			t.Errorf("Evict = %d, want %d", n, len(ids))
		}
		left := map[uint64]bool{}
		for _, id := range ids {
			left[id] = true
		}
		for range ids {
			w := r.next()
			if w.why != Evicted || !left[w.ID] {
				t.Errorf("connection %d handed out as %s, want one of %v as evicted", w.ID, w.why, ids)
			}
			delete(left, w.ID)
		}
		r.none()
	}
	byOwner := func(owner uint32) func(*Info) bool { return func(i *Info) bool { return i.Owner == owner } }
	all := func(*Info) bool { return true }

	evict(all)
	park(1, 1, Fresh)
	park(2, 1, Idle)
	park(3, 2, Head)
	park(4, 2, Idle)
	r.count(1, 2, 1)
	evict(byOwner(3))
	evict(byOwner(1), 1, 2)
	r.count(0, 1, 1)
	if r.EvictID(1) || r.EvictID(99) {
		t.Error("EvictID finds what is not parked")
	}
	if !r.EvictID(4) {
		t.Error("EvictID does not find 4")
	}
	r.expect(4, Evicted)
	evict(all, 3)
	evict(all)
	r.count(0, 0, 0)

	park(5, 1, Fresh)
	park(6, 1, Fresh)
	seen := 0
	r.Each(func(Info) bool { seen++; return false })
	if seen != 1 {
		t.Errorf("Each went on for %d after false", seen)
	}
}

// TestCallsBack calls the lot from match and from Wake.
func TestCallsBack(t *testing.T) {
	r := started(t, 1)
	wake := r.wake
	r.wake = func(c Conn, why Why) {
		if c.ID == 0 { // 1 comes at the end
			r.count(0, 1, 0)
		}
		wake(c, why)
	}
	for id := range uint64(2) {
		fd, _ := pair(t)
		r.park(Conn{FD: fd, ID: id, Phase: Idle})
	}
	n := r.Evict(func(i *Info) bool { r.Each(func(Info) bool { return true }); return i.ID == 0 })
	if n != 1 {
		t.Errorf("Evict = %d, want 1", n)
	}
	r.expect(0, Evicted)
}

// TestParksAgain goes through one registration many times.
func TestParksAgain(t *testing.T) {
	r := started(t, 2)
	fd, peer := pair(t)
	c := Conn{FD: fd, ID: 1, Phase: Idle}
	for range 200 {
		r.park(c)
		say(t, peer, "ping")
		got := r.expect(1, Ready)
		if c.Loop != nil && got.Loop != c.Loop {
			t.Fatal("the connection changed its loop")
		}
		c = got
		hear(t, fd, "ping")
	}
	// Taken off and registered anew.
	r.Unregister(&c)
	if c.Loop != nil {
		t.Error("Unregister leaves the loop set")
	}
	r.Unregister(&c)
	r.park(c)
	_ = peer.Close()
	r.expect(1, Gone)
}

// TestSpreads checks that new connections take the loops in turn.
func TestSpreads(t *testing.T) {
	r := newRig(t, 4)
	for id := range uint64(40) {
		fd, _ := pair(t)
		r.park(Conn{FD: fd, ID: id})
	}
	for i, s := range r.shards {
		if n := s.counts()[Fresh]; n != 10 {
			t.Errorf("loop %d has %d, want 10", i, n)
		}
	}
}

// TestRefusals has the kernel refuse the registration.
func TestRefusals(t *testing.T) {
	r := started(t, 1)
	loop := r.group.Loops()[0]
	f := func(what string, c Conn) {
		t.Helper()
		c.Rest = []byte("x")
		if r.Park(c) {
			t.Errorf("%s: parked", what)
		}
		r.count(0, 0, 0)
		r.none()
	}
	closed, _ := raw(t)
	_ = unix.Close(closed)
	f("a closed descriptor", Conn{FD: closed})
	file, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f("what epoll does not take", Conn{FD: int(file.Fd())})
	fd, peer := pair(t)
	f("a loop where it is not registered", Conn{FD: fd, Loop: loop})

	// It is registered already, and this does not hurt the first registration's slot.
	r.park(Conn{FD: fd, ID: 1})
	if r.Park(Conn{FD: fd, ID: 2}) {
		t.Error("registered twice")
	}
	say(t, peer, "x")
	r.expect(1, Ready)
}

// TestSameNumberAgain closes an evicted connection and parks another one with the same
// descriptor in the same slot, before an old event comes.
func TestSameNumberAgain(t *testing.T) {
	r := newRig(t, 1)
	s := r.shards[0]
	old, _ := raw(t)
	r.park(Conn{FD: old, ID: 1})
	stale, _ := s.find(1)
	r.EvictID(1)
	r.expect(1, Evicted)
	fd, peer := pair(t)
	// The number is taken back by force, as the runtime's own sockets compete for it.
	if err := unix.Dup3(fd, old, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(old) })
	r.park(Conn{FD: old, ID: 2})
	fresh, _ := s.find(2)
	if fresh.Index() != stale.Index() || fresh.Gen() == stale.Gen() {
		t.Fatalf("tokens %x and %x: want the same slot in another generation", stale, fresh)
	}
	s.Ready(stale, reactor.Readable)
	s.Ready(reactor.MakeToken(reactor.Park, 5*chunkSize, 1), reactor.Readable) // no such chunk
	s.Ready(reactor.MakeToken(reactor.Park, 1, 0), reactor.Readable)           // a free slot
	r.none()
	r.group.Start()
	say(t, peer, "x")
	r.expect(2, Ready)
}

// TestArming stops between the steps of Park.
func TestArming(t *testing.T) {
	f := func(name string, want Why, steps func(r *rig, s *shard, tok reactor.Token)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			s := r.shards[0]
			fd, peer := pair(t)
			say(t, peer, "x")
			tok, ok := s.fill(&Conn{FD: fd, ID: 1, Until: time.Nanosecond})
			if !ok {
				t.Fatal("fill refused")
			}
			steps(r, s, tok)
			r.expect(1, want)
			s.settle(tok)
			s.Ready(tok, reactor.Readable)
			s.Tick(time.Hour)
			r.Evict(func(*Info) bool { return true })
			r.none()
			r.count(0, 0, 0)
		})
	}
	evictOne := func(r *rig, want bool) {
		t.Helper()
		if got := r.EvictID(1); got != want {
			t.Errorf("EvictID = %t, want %t", got, want)
		}
		r.none()
	}
	f("the event comes first", Ready, func(_ *rig, s *shard, tok reactor.Token) { s.Ready(tok, reactor.Readable) })
	f("expiry waits", Expired, func(r *rig, s *shard, tok reactor.Token) {
		s.Tick(time.Hour)
		r.none()
		s.settle(tok)
		s.Tick(time.Hour)
	})
	f("eviction waits", Evicted, func(r *rig, s *shard, tok reactor.Token) {
		evictOne(r, true)
		evictOne(r, false) // each once
		s.Tick(time.Hour)
		r.none()
		s.settle(tok)
		r.group.Start() // it is posted
	})
	f("eviction waits, the event comes", Evicted, func(r *rig, s *shard, tok reactor.Token) {
		evictOne(r, true)
		s.Ready(tok, reactor.Readable)
	})
	f("the loop ends", Evicted, func(r *rig, s *shard, tok reactor.Token) {
		r.group.Close()
		r.none()
		s.settle(tok)
	})
}

func TestClosing(t *testing.T) {
	r := started(t, 2)
	const conns = 20
	var last int
	for id := range uint64(conns) {
		last, _ = pair(t)
		r.park(Conn{FD: last, ID: id})
	}
	r.group.Close()
	var one Conn
	for range conns {
		w := r.next()
		if w.why != Evicted {
			t.Errorf("connection %d handed out as %s", w.ID, w.why)
		}
		one = w.Conn
	}
	r.none()
	r.count(0, 0, 0)
	if r.Park(Conn{FD: last}) || r.Park(one) {
		t.Error("parked after the loops have ended")
	}
	r.Unregister(&one)
}

func TestNewIsStrict(t *testing.T) {
	f := func(what string, call func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		call()
	}
	r := newRig(t, 1)
	f("no group", func() { New(Options{Wake: func(Conn, Why) {}}) })
	f("no Wake", func() { New(Options{Group: r.group}) })
	f("no phase", func() { r.Park(Conn{Phase: phases}) })
}

func TestWords(t *testing.T) {
	f := func(got interface{ String() string }, want string) {
		t.Helper()
		if got.String() != want {
			t.Errorf("%q, want %q", got.String(), want)
		}
	}
	f(Ready, "ready")
	f(Gone, "gone")
	f(Expired, "expired")
	f(Evicted, "evicted")
	f(Evicted+1, "unknown")
	f(Fresh, "fresh")
	f(Idle, "idle")
	f(Head, "head")
	f(Body, "body")
	f(phases, "unknown")
}
