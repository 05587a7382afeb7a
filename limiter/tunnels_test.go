package limiter

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// held is one tunnel that a test has open.
type held struct {
	id   RouteID
	addr netip.Addr
}

// tunnelTest drives a Tunnels by short lines.
type tunnelTest struct {
	t *testing.T
	*Tunnels
	open []held
}

// acquire opens tunnels on the route from the addresses in turn and wants these verdicts;
// the address "unix" is none.
func (x *tunnelTest) acquire(step, route string, want TunnelVerdict, addrs ...string) {
	x.t.Helper()
	for _, text := range addrs {
		var addr netip.Addr
		if text != "unix" {
			addr = netip.MustParseAddr(text)
		}
		id, v := x.Acquire(route, ByAddr(addr))
		if v != want {
			x.t.Fatalf("%s: %s from %s: %s, want %s", step, route, text, v, want)
		}
		if v == TunnelOK {
			x.open = append(x.open, held{id, addr})
		}
	}
}

// release gives back the i-th of those open.
func (x *tunnelTest) release(i int) {
	h := x.open[i]
	x.open = slices.Delete(x.open, i, i+1)
	x.Release(h.id, ByAddr(h.addr))
}

func (x *tunnelTest) wantRoutes(step string, want ...RouteTunnels) {
	x.t.Helper()
	if got := x.Routes(); !slices.Equal(got, want) {
		x.t.Fatalf("%s: routes %+v, want %+v", step, got, want)
	}
}

// end releases all that is open and wants nothing to be left.
func (x *tunnelTest) end() {
	x.t.Helper()
	for len(x.open) > 0 {
		x.release(0)
	}
	x.SetCaps(TunnelCaps{}, nil)
	if n := x.Open(); n != 0 {
		x.t.Errorf("at the end %d are open", n)
	}
	if len(x.names) != 0 || len(x.routes) != 0 {
		x.t.Errorf("at the end the routes %v are left", x.names)
	}
	for i := range x.shards {
		if n := len(x.shards[i].counts); n != 0 {
			x.t.Errorf("at the end %d entries are left", n)
		}
	}
}

func TestTunnelCaps(t *testing.T) {
	f := func(what string, all, route TunnelCaps, steps func(x *tunnelTest)) {
		t.Run(what, func(t *testing.T) {
			x := &tunnelTest{t: t, Tunnels: NewTunnels()}
			x.SetCaps(all, map[string]TunnelCaps{"a": route, "b": {}})
			steps(x)
			x.end()
		})
	}
	const one, two = "192.0.2.1", "192.0.2.2"
	none := TunnelCaps{}
	f("none", none, none, func(x *tunnelTest) {
		x.acquire("any", "a", TunnelOK, one, one, two, "unix", "2001:db8::1")
		x.acquire("any", "b", TunnelOK, one, one, two, "unix", "2001:db8::1")
	})
	f("in all", TunnelCaps{Max: 2}, none, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, one)
		x.acquire("2", "b", TunnelOK, two)
		x.acquire("3", "a", TunnelTooMany, one, "unix")
		x.release(0)
		x.acquire("4", "b", TunnelOK, "unix")
		x.acquire("5", "b", TunnelTooMany, one)
	})
	f("per client", TunnelCaps{MaxPerClient: 2}, none, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, one)
		x.acquire("2", "b", TunnelOK, one)
		x.acquire("3", "b", TunnelTooManyPerClient, one, "::ffff:192.0.2.1")
		x.acquire("4", "b", TunnelOK, two, "unix", "unix", "unix")
		x.release(0)
		x.acquire("5", "b", TunnelOK, one)
	})
	f("per route", none, TunnelCaps{Max: 2}, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, one, "unix")
		x.acquire("2", "a", TunnelTooManyOnRoute, one, two, "unix")
		x.acquire("3", "b", TunnelOK, one, two, one)
		x.release(1)
		x.acquire("4", "a", TunnelOK, one)
	})
	f("per route and client", none, TunnelCaps{MaxPerClient: 2}, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, one, one)
		x.acquire("2", "a", TunnelTooManyPerClientOnRoute, one)
		x.acquire("3", "b", TunnelOK, one, one, one)
		x.acquire("4", "a", TunnelOK, two, two, "unix", "unix", "unix")
		x.release(0)
		x.acquire("5", "a", TunnelOK, one)
	})
	f("one /64 is one client", none, TunnelCaps{MaxPerClient: 1}, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, "2001:db8:0:1::1")
		x.acquire("2", "a", TunnelTooManyPerClientOnRoute, "2001:db8:0:1::1", "2001:db8:0:1:ffff::1")
		x.acquire("3", "a", TunnelOK, "2001:db8:0:2::1", "2001:db8:1:1::1")
	})
	f("the wider cap is named", TunnelCaps{Max: 1, MaxPerClient: 1}, TunnelCaps{Max: 1, MaxPerClient: 1}, func(x *tunnelTest) {
		x.acquire("1", "a", TunnelOK, one)
		x.acquire("2", "a", TunnelTooMany, one)
		x.SetCaps(TunnelCaps{MaxPerClient: 1}, map[string]TunnelCaps{"a": {Max: 1, MaxPerClient: 1}})
		x.acquire("3", "a", TunnelTooManyOnRoute, one)
		x.SetCaps(TunnelCaps{MaxPerClient: 1}, map[string]TunnelCaps{"a": {MaxPerClient: 1}})
		x.acquire("4", "a", TunnelTooManyPerClient, one)
		x.SetCaps(TunnelCaps{}, map[string]TunnelCaps{"a": {MaxPerClient: 1}})
		x.acquire("5", "a", TunnelTooManyPerClientOnRoute, one)
	})
}

func TestTunnelsReload(t *testing.T) {
	const one, two = "192.0.2.1", "192.0.2.2"
	x := &tunnelTest{t: t, Tunnels: NewTunnels()}
	x.SetCaps(TunnelCaps{}, map[string]TunnelCaps{"a": {}, "b": {}})
	x.wantRoutes("1", RouteTunnels{Name: "a"}, RouteTunnels{Name: "b"})
	x.acquire("1", "a", TunnelOK, one, one, two)
	// 2. A new cap counts what is open, and closes nothing.
	x.SetCaps(TunnelCaps{}, map[string]TunnelCaps{"a": {MaxPerClient: 2}, "b": {}})
	x.acquire("2", "a", TunnelTooManyPerClientOnRoute, one)
	x.acquire("2", "a", TunnelOK, two)
	x.SetCaps(TunnelCaps{MaxPerClient: 1}, map[string]TunnelCaps{"a": {}, "b": {}})
	x.acquire("2", "b", TunnelTooManyPerClient, one)
	x.wantRoutes("2", RouteTunnels{Name: "a", Open: 4, Opened: 4, Refused: 1}, RouteTunnels{Name: "b", Refused: 1})
	// 3. A route that is gone stays while it has tunnels, and loses its caps; one without is forgotten.
	x.SetCaps(TunnelCaps{}, map[string]TunnelCaps{"c": {}})
	x.wantRoutes("3", RouteTunnels{Name: "a", Open: 4, Opened: 4, Refused: 1}, RouteTunnels{Name: "c"})
	// 4. A request that began before the reload may still come for it.
	x.acquire("4", "a", TunnelOK, one)
	x.acquire("4", "b", TunnelOK, one)
	x.wantRoutes("4", RouteTunnels{Name: "a", Open: 5, Opened: 5, Refused: 1}, RouteTunnels{Name: "b", Open: 1, Opened: 1}, RouteTunnels{Name: "c"})
	// 5. With its last tunnel it is forgotten.
	x.release(5)
	x.wantRoutes("5", RouteTunnels{Name: "a", Open: 5, Opened: 5, Refused: 1}, RouteTunnels{Name: "c"})
	// 6. When it comes back, it goes on as it was.
	x.SetCaps(TunnelCaps{}, map[string]TunnelCaps{"a": {Max: 5}, "c": {}})
	x.acquire("6", "a", TunnelTooManyOnRoute, two)
	x.wantRoutes("6", RouteTunnels{Name: "a", Open: 5, Opened: 5, Refused: 2}, RouteTunnels{Name: "c"})
	// 7. A refusal on an unknown route leaves nothing behind.
	x.SetCaps(TunnelCaps{Max: 1}, map[string]TunnelCaps{"a": {}})
	x.acquire("7", "unknown", TunnelTooMany, one)
	x.wantRoutes("7", RouteTunnels{Name: "a", Open: 5, Opened: 5, Refused: 2})
	for v, want := range map[TunnelVerdict]uint64{
		TunnelOK: 0, TunnelTooMany: 1, TunnelTooManyPerClient: 1, TunnelTooManyOnRoute: 1, TunnelTooManyPerClientOnRoute: 1,
	} {
		if got := x.Refused(v); got != want {
			t.Errorf("%s: refused %d, want %d", v, got, want)
		}
	}
	if got := x.OpenFrom(ByAddr(netip.MustParseAddr(one))); got != 3 {
		t.Errorf("%d open from %s, want 3", got, one)
	}
	if got := x.OpenFrom(ByAddr(netip.Addr{})); got != 0 {
		t.Errorf("%d open from nobody", got)
	}
	x.end()
}

// A handle means one route for as long as a tunnel has it, also after the numbers have
// come around.
func TestTunnelsHandles(t *testing.T) {
	x := NewTunnels()
	addr := netip.MustParseAddr("192.0.2.1")
	a, _ := x.Acquire("a", ByAddr(addr))
	x.lastID = ^RouteID(0) - 1
	seen := map[RouteID]string{a: "a"}
	for i := range 8 {
		name := "r" + strconv.Itoa(i)
		id, v := x.Acquire(name, ByAddr(addr))
		if v != TunnelOK || id == allRoutes || seen[id] != "" {
			t.Fatalf("%s gets handle %d, %s, that is %q", name, id, v, seen[id])
		}
		seen[id] = name
	}
	for id := range seen {
		x.Release(id, ByAddr(addr))
	}
	if len(x.routes) != 0 || x.Open() != 0 {
		t.Errorf("%d routes and %d tunnels are left", len(x.routes), x.Open())
	}
}

func TestTunnelsBug(t *testing.T) {
	f := func(what string, do func(x *Tunnels, id RouteID)) {
		t.Helper()
		x := NewTunnels()
		id, _ := x.Acquire("a", ByAddr(netip.MustParseAddr("192.0.2.1")))
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		do(x, id)
	}
	f("unknown handle", func(x *Tunnels, _ RouteID) { x.Release(77, ByAddr(netip.Addr{})) })
	f("no handle", func(x *Tunnels, _ RouteID) { x.Release(0, ByAddr(netip.Addr{})) })
	f("other client", func(x *Tunnels, id RouteID) { x.Release(id, ByAddr(netip.MustParseAddr("192.0.2.2"))) })
	f("twice", func(x *Tunnels, id RouteID) {
		x.Release(id, ByAddr(netip.Addr{}))
		x.Release(id, ByAddr(netip.Addr{}))
	})
}

func TestTunnelVerdicts(t *testing.T) {
	f := func(v TunnelVerdict, word, key string) {
		t.Helper()
		if v.String() != word || v.Key() != key {
			t.Errorf("%q by %q, want %q by %q", v, v.Key(), word, key)
		}
	}
	f(TunnelOK, "ok", "")
	f(TunnelTooMany, "too_many", "tunnels.max")
	f(TunnelTooManyPerClient, "too_many_per_client", "tunnels.max_per_client")
	f(TunnelTooManyOnRoute, "too_many_on_route", "routes.tunnel.max")
	f(TunnelTooManyPerClientOnRoute, "too_many_per_client_on_route", "routes.tunnel.max_per_client")
	f(numTunnelVerdicts, "unknown", "")
}

func TestTunnelsConcurrent(t *testing.T) {
	const workers, rounds, most = 8, 2000, 5
	x := NewTunnels()
	x.SetCaps(TunnelCaps{Max: most}, nil)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(w)})
			for i := range rounds {
				route := "r" + strconv.Itoa(i%3)
				if i%100 == 0 {
					x.SetCaps(TunnelCaps{Max: most}, map[string]TunnelCaps{route: {Max: 2}})
				}
				id, v := x.Acquire(route, ByAddr(addr))
				if n := x.Open(); n > most {
					t.Errorf("%d open, at most %d may be", n, most)
				}
				if v == TunnelOK {
					x.Release(id, ByAddr(addr))
				}
			}
		})
	}
	wg.Wait()
	(&tunnelTest{t: t, Tunnels: x}).end()
}

// fourBytes is the i-th IPv4 client.
func fourBytes(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0a000000+uint32(i))
	return netip.AddrFrom4(b)
}

// heapInUse returns what is alive after collections.
func heapInUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// maxEntry is the most a client's entry may take; it has one over all routes and one for
// each route it has tunnels on.
const maxEntry = 50

func TestTunnelsMemory(t *testing.T) {
	if raceEnabled {
		t.Log("memory is not measured under the race detector")
		return
	}
	const clients = 100_000
	x := NewTunnels()
	before := heapInUse()
	for i := range clients {
		if _, v := x.Acquire("a", ByAddr(fourBytes(i))); v != TunnelOK {
			t.Fatal(v)
		}
	}
	id := x.names["a"]
	used := heapInUse() - before
	t.Logf("%d clients with a tunnel each take %d B each, in two entries", clients, used/clients)
	if most := 2 * maxEntry * clients; used > most {
		t.Errorf("%d clients take %d B, want at most %d", clients, used, most)
	}
	for i := range clients {
		x.Release(id, ByAddr(fourBytes(i)))
	}
	if left := heapInUse() - before; left > used/8 {
		t.Errorf("%d B are left of %d", left, used)
	}
	(&tunnelTest{t: t, Tunnels: x}).end()
}

func TestTunnelsAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	x := NewTunnels()
	x.SetCaps(TunnelCaps{MaxPerClient: 1000}, map[string]TunnelCaps{"a": {Max: 1000}})
	addr := netip.MustParseAddr("2001:db8::1")
	if _, v := x.Acquire("a", ByAddr(addr)); v != TunnelOK {
		t.Fatal(v)
	}
	allocs := testing.AllocsPerRun(100, func() {
		id, v := x.Acquire("a", ByAddr(addr))
		if v != TunnelOK {
			t.Fatal(v)
		}
		x.Release(id, ByAddr(addr))
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a client that has tunnels, want none", allocs)
	}
}

func BenchmarkTunnels(b *testing.B) {
	x := NewTunnels()
	x.SetCaps(TunnelCaps{Max: 1 << 20, MaxPerClient: 1 << 10}, map[string]TunnelCaps{"a": {Max: 1 << 20}})
	for i := range 10_000 {
		x.Acquire("a", ByAddr(fourBytes(i)))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			addr := fourBytes(i % 10_000)
			if id, v := x.Acquire("a", ByAddr(addr)); v == TunnelOK {
				x.Release(id, ByAddr(addr))
			}
		}
	})
	if n := x.Open(); n != 10_000 {
		b.Fatalf("%d open at the end", n)
	}
}
