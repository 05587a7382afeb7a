package limiter

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
)

func TestConnsSteps(t *testing.T) {
	c := NewConns(Connections{Max: 4, MaxPerClient: 2})
	acquire := func(step int, addr string, want Verdict) {
		t.Helper()
		if got := c.Acquire(parseAddr(addr)); got != want {
			t.Fatalf("step %d: Acquire(%q) = %s, want %s", step, addr, got, want)
		}
	}
	release := func(addr string) { c.Release(parseAddr(addr)) }

	// A client gets its share and no more.
	acquire(1, "192.0.2.1", OK)
	acquire(2, "192.0.2.1", OK)
	acquire(3, "192.0.2.1", TooManyPerClient)
	// The same address mapped into IPv6 is the same client.
	acquire(4, "::ffff:192.0.2.1", TooManyPerClient)
	// The refused ones take no place.
	acquire(5, "192.0.2.2", OK)
	acquire(6, "192.0.2.3", OK)
	// All places are taken; that is said before anything about the client.
	acquire(7, "192.0.2.1", TooMany)
	acquire(8, "", TooMany)
	// One place is given back and taken by a Unix socket.
	release("192.0.2.1")
	acquire(9, "", OK)
	acquire(10, "192.0.2.1", TooMany)
	release("")
	acquire(11, "192.0.2.1", OK)
	// Raised caps apply at once, to what is open already.
	c.SetOptions(Connections{Max: 100, MaxPerClient: 3})
	acquire(12, "192.0.2.1", OK)
	acquire(13, "192.0.2.1", TooManyPerClient)
	// Lowered caps close nothing and refuse until enough is gone.
	c.SetOptions(Connections{Max: 2})
	acquire(14, "192.0.2.9", TooMany)
	release("192.0.2.1")
	release("192.0.2.1")
	release("192.0.2.1")
	acquire(15, "192.0.2.9", TooMany)
	release("192.0.2.2")
	acquire(16, "192.0.2.9", OK)
	// Without caps, clients are still counted.
	c.SetOptions(Connections{})
	acquire(17, "192.0.2.9", OK)
	c.SetOptions(Connections{MaxPerClient: 2})
	acquire(18, "192.0.2.9", TooManyPerClient)
	release("192.0.2.9")
	release("192.0.2.9")
	release("192.0.2.3")
	if c.Open() != 0 || c.Clients() != 0 {
		t.Fatalf("at the end: %d open, %d clients, want none", c.Open(), c.Clients())
	}
}

// A connection whose client is known only later counts in all from the beginning.
func TestConnsClaim(t *testing.T) {
	c := NewConns(Connections{Max: 3, MaxPerClient: 1})
	f := func(step int, got, want Verdict, open, from int) {
		t.Helper()
		if got != want || c.Open() != open || c.OpenFrom(parseAddr("192.0.2.1")) != from {
			t.Fatalf("step %d: %s, %d open, %d from the client, want %s, %d, %d",
				step, got, c.Open(), c.OpenFrom(parseAddr("192.0.2.1")), want, open, from)
		}
	}
	f(1, c.Acquire(netip.Addr{}), OK, 1, 0)
	f(2, c.Acquire(netip.Addr{}), OK, 2, 0)
	f(3, c.Claim(parseAddr("192.0.2.1")), OK, 2, 1)
	f(4, c.Claim(parseAddr("192.0.2.1")), TooManyPerClient, 2, 1)
	f(5, c.Acquire(parseAddr("192.0.2.1")), TooManyPerClient, 2, 1)
	f(6, c.Claim(netip.Addr{}), OK, 2, 1) // a client on a Unix socket
	c.Release(netip.Addr{})
	c.Release(parseAddr("192.0.2.1"))
	f(7, OK, OK, 0, 0)
}

func TestConnsSameClient(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		c := NewConns(Connections{MaxPerClient: 1})
		c.Acquire(parseAddr(a))
		if got := c.OpenFrom(parseAddr(b)) == 1; got != want {
			t.Errorf("%s and %s are one client: %t, want %t", a, b, got, want)
		}
	}
	f("192.0.2.1", "192.0.2.1", true)
	f("192.0.2.1", "192.0.2.2", false)
	f("192.0.2.1", "::ffff:192.0.2.1", true)
	f("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true)
	f("2001:db8::1", "2001:db8:0:1::1", false)
	f("2001:db8::1", "2001:db8::1%eth0", true)
	f("::1", "127.0.0.1", false)
	f("192.0.2.1", "", false)
}

func TestVerdictWords(t *testing.T) {
	f := func(v Verdict, want string) {
		t.Helper()
		if got := v.String(); got != want {
			t.Errorf("verdict %d is %q, want %q", v, got, want)
		}
	}
	f(OK, "ok")
	f(TooMany, "too_many")
	f(TooManyPerClient, "too_many_per_client")
	f(99, "unknown")
}

// A flood of distinct clients leaves no memory behind.
func TestConnsShrink(t *testing.T) {
	c := NewConns(Connections{})
	const flood = 100_000
	for i := range uint32(flood) {
		c.Acquire(v4(i))
	}
	if c.Clients() != flood {
		t.Fatalf("%d clients, want %d", c.Clients(), flood)
	}
	for i := range uint32(flood) {
		c.Release(v4(i))
	}
	for i := range c.shards {
		if sh := &c.shards[i]; sh.peak >= shrinkAbove {
			t.Errorf("shard %d keeps a map that held %d clients", i, sh.peak)
		}
	}
}

func TestConnsShardsAreEven(t *testing.T) {
	c := NewConns(Connections{})
	const clients = 64 * 256
	for i := range uint32(clients) {
		c.Acquire(v4(i))
	}
	for i := range c.shards {
		if n := len(c.shards[i].counts); n > 8*clients/connShards {
			t.Errorf("shard %d has %d of %d clients", i, n, clients)
		}
	}
}

func TestConnsBug(t *testing.T) {
	f := func(what string, acquired, released string) {
		t.Helper()
		c := NewConns(Connections{})
		c.Acquire(parseAddr(acquired))
		c.Release(parseAddr(acquired))
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		c.Release(parseAddr(released))
	}
	f("client released twice", "192.0.2.1", "192.0.2.1")
	f("another client released", "192.0.2.1", "192.0.2.2")
	f("Unix socket released twice", "", "")
}

func TestConnsConcurrent(t *testing.T) {
	const workers, rounds, places, share = 8, 2000, 5, 2
	c := NewConns(Connections{Max: places, MaxPerClient: share})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			addr := v4(uint32(w % 3))
			for range rounds {
				if c.Acquire(addr) != OK {
					continue
				}
				if n := c.Open(); n > places {
					t.Errorf("%d open, at most %d may be", n, places)
				}
				if n := c.OpenFrom(addr); n > share {
					t.Errorf("%d open from %s, at most %d may be", n, addr, share)
				}
				c.Release(addr)
			}
		})
	}
	wg.Wait()
	if c.Open() != 0 || c.Clients() != 0 {
		t.Errorf("at the end: %d open, %d clients, want none", c.Open(), c.Clients())
	}
}

func TestConnsAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	c := NewConns(Connections{Max: 1000, MaxPerClient: 10})
	addrs := []netip.Addr{parseAddr("192.0.2.1"), parseAddr("2001:db8::1"), {}, parseAddr("192.0.2.2")}
	allocs := testing.AllocsPerRun(1000, func() {
		for _, a := range addrs {
			if v := c.Acquire(a); v != OK {
				t.Fatalf("Acquire(%s) = %s", a, v)
			}
		}
		for _, a := range addrs {
			c.Release(a)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for %d connections, want none", allocs, len(addrs))
	}
}

func BenchmarkConns(b *testing.B) {
	c := NewConns(Connections{Max: 1 << 20, MaxPerClient: 1 << 20})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := uint32(0); pb.Next(); i++ {
			addr := v4(i & 0xfff)
			if c.Acquire(addr) == OK {
				c.Release(addr)
			}
		}
	})
	if c.Open() != 0 {
		b.Fatalf("%d open at the end", c.Open())
	}
}

// parseAddr takes "" for a Unix socket.
func parseAddr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func v4(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|i)
	return netip.AddrFrom4(b)
}
