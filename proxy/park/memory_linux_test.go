package park

import (
	"crypto/tls"
	"net/netip"
	"reflect"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/sock"
	"tickgate/proxy/reactor"
)

// many is the number of connections of which the issue speaks. A process may open fewer
// descriptors, so these slots are filled without.
const many = 100_000

// fillOne parks a connection without a descriptor.
func fillOne(t testing.TB, s *shard, c Conn) reactor.Token {
	t.Helper()
	tok, ok := s.fill(&c)
	if !ok {
		t.Fatal("fill refused")
	}
	s.settle(tok)
	return tok
}

// fillMany parks n plain connections without descriptors. They expire at until.
func fillMany(t testing.TB, s *shard, n int, until time.Duration) []reactor.Token {
	t.Helper()
	peer := netip.MustParseAddrPort("[2001:db8::1]:443")
	tokens := make([]reactor.Token, n)
	for i := range tokens {
		tokens[i] = fillOne(t, s, Conn{FD: i, ID: uint64(i), Peer: peer, Phase: Idle, Until: until})
	}
	return tokens
}

// pointers reports whether a type has any.
func pointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointers(t.Elem())
	case reflect.Struct:
		for f := range t.NumField() {
			if pointers(t.Field(f).Type) {
				return true
			}
		}
		return false
	default:
		return t.Kind() < reflect.Bool || t.Kind() > reflect.Complex128
	}
}

func TestSlots(t *testing.T) {
	if pointers(reflect.TypeFor[slab]()) {
		t.Error("the slab has pointers")
	}
	if !pointers(reflect.TypeFor[secure]()) {
		t.Error("the test sees no pointers")
	}
	if size := reflect.TypeFor[slab]().Size(); size > 80*chunkSize {
		t.Errorf("a slot takes %d bytes, want at most 80", size/chunkSize)
	}
}

// sample reads a metric of the runtime after a collection.
func sample(name string) int64 {
	runtime.GC()
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// TestMemory holds many connections to the memory they may take and to what the
// garbage collector may have to look at, and to giving it back.
func TestMemory(t *testing.T) {
	const (
		objects = "/memory/classes/heap/objects:bytes"
		scanned = "/gc/scan/heap:bytes"
	)
	r := newRig(t, 1)
	s := r.shards[0]
	tokens := make([]reactor.Token, many)
	bytes, scan := sample(objects), sample(scanned)
	for i := range tokens {
		tokens[i] = fillOne(t, s, Conn{FD: i, ID: uint64(i), Phase: Idle})
	}
	bytes, scan = sample(objects)-bytes, sample(scanned)-scan
	t.Logf("%d connections: %.1f bytes each, %.2f bytes each to scan", many, float64(bytes)/many, float64(scan)/many)
	if each := bytes / many; each > 96 {
		t.Errorf("%d bytes for each connection, want at most 96", each)
	}
	if scan > 2*many {
		t.Errorf("the garbage collector scans %d bytes for %d connections, want at most 2 each", scan, many)
	}

	// All but the first leave: the chunks behind go back.
	before := sample(objects)
	for _, tok := range tokens[1:] {
		if _, _, ok := s.take(tok); !ok {
			t.Fatal("a slot is lost")
		}
	}
	s.Tick(trimInterval)
	if len(s.chunks) != 1 {
		t.Errorf("%d chunks for one connection", len(s.chunks))
	}
	if freed := before - sample(objects); freed < bytes*9/10 {
		t.Errorf("%d of %d bytes were given back", freed, bytes)
	}
	// The last one leaves, and the table grows again.
	s.take(tokens[0])
	s.Tick(2 * trimInterval)
	if len(s.chunks) != 0 || s.roomy.lowest() != -1 {
		t.Errorf("%d chunks for nothing, the first with room: %d", len(s.chunks), s.roomy.lowest())
	}
	fillMany(t, s, 3*chunkSize, 0)
	r.count(0, 3*chunkSize, 0)
}

// TestFillsFromTheFront empties a chunk in the middle and fills it again.
func TestFillsFromTheFront(t *testing.T) {
	r := newRig(t, 1)
	s := r.shards[0]
	tokens := fillMany(t, s, 200*chunkSize, 0)
	for _, tok := range tokens[chunkSize : 2*chunkSize] {
		s.take(tok)
	}
	s.take(tokens[150*chunkSize])
	s.Tick(trimInterval)
	if s.chunks[1] != nil || len(s.chunks) != 200 {
		t.Error("an empty chunk in the middle was kept, or others with it")
	}
	f := func(wantChunk uint32) {
		t.Helper()
		if tok := fillOne(t, s, Conn{Phase: Idle}); tok.Index()/chunkSize != wantChunk {
			t.Errorf("filled chunk %d, want %d", tok.Index()/chunkSize, wantChunk)
		}
	}
	for range chunkSize {
		f(1)
	}
	f(150)
	f(200)
	r.count(0, 200*chunkSize+1, 0)
}

// TestSideSlices checks that they are there while needed and no longer.
func TestSideSlices(t *testing.T) {
	r := newRig(t, 1)
	s := r.shards[0]
	seat := new(sock.Seat)
	plain := fillOne(t, s, Conn{ID: 1})
	f := func(step int, tls, rest bool) {
		t.Helper()
		s.trim()
		if ch := s.chunks[0]; (ch.tls != nil) != tls || (ch.rest != nil) != rest {
			t.Errorf("step %d: side slices %t, %t, want %t, %t", step, ch.tls != nil, ch.rest != nil, tls, rest)
		}
	}
	f(1, false, false)
	secured := fillOne(t, s, Conn{ID: 2, TLS: tls.Server(seat, nil), Seat: seat})
	f(2, true, false)
	head := fillOne(t, s, Conn{ID: 3, Rest: []byte("G")})
	f(3, true, true)
	// A slot of another kind does not inherit them.
	s.take(fillOne(t, s, Conn{ID: 4, TLS: tls.Server(seat, nil), Seat: seat, Rest: []byte("P")}))
	if c, _, _ := s.take(fillOne(t, s, Conn{ID: 5})); c.TLS != nil || c.Seat != nil || c.Rest != nil {
		t.Errorf("a plain connection came back as %+v", c)
	}
	s.take(head)
	f(4, true, false)
	s.take(secured)
	f(5, false, false)
	if c, _, ok := s.take(plain); !ok || c.TLS != nil || c.Rest != nil {
		t.Errorf("%+v, %t", c, ok)
	}
}

// TestGenerations wraps the generation around: 0 is none.
func TestGenerations(t *testing.T) {
	r := newRig(t, 1)
	s := r.shards[0]
	s.gen = maxGen - 1
	for _, want := range []uint32{maxGen, 1, 2} {
		tok := fillOne(t, s, Conn{ID: 1})
		if tok.Gen() != want {
			t.Errorf("generation %d, want %d", tok.Gen(), want)
		}
		if _, _, ok := s.take(tok); !ok {
			t.Errorf("generation %d is not found", want)
		}
	}
}

// TestAllocs is the promise that parking allocates nothing once the table has grown.
func TestAllocs(t *testing.T) {
	g, err := reactor.New(reactor.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var back Conn
	l := New(Options{Group: g, Wake: func(c Conn, _ Why) { back = c }})
	s := l.shards[0]
	fd, _ := pair(t)
	f := func(what string, round func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, round); n != 0 {
			t.Errorf("%s: %v allocations, want 0", what, n)
		}
	}
	fillOne(t, s, Conn{ID: 9}) // keeps the chunk
	now := time.Duration(0)
	seat := new(sock.Seat)
	for _, c := range []Conn{{FD: fd, ID: 1}, {FD: fd, ID: 1, Rest: []byte("G"), TLS: tls.Server(seat, nil), Seat: seat}} {
		c.Until = 1
		back = c
		f("register, evict", func() { l.Park(c); l.EvictID(1); l.Unregister(&back) })
		l.Park(c)
		l.EvictID(1)
		f("re-arm, evict", func() { l.Park(back); l.EvictID(1) })
		f("re-arm, expire", func() { now++; l.Park(back); s.Tick(now) })
		f("re-arm, event", func() { l.Park(back); tok, _ := s.find(1); s.Ready(tok, reactor.Readable) })
		f("re-arm, closed", func() { l.Park(back); tok, _ := s.find(1); s.Ready(tok, reactor.PeerClosed) })
		l.Unregister(&back)
	}
}

// cpu is the processor time that the process has used.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkGC is a collection with many parked connections and with none.
func BenchmarkGC(b *testing.B) {
	f := func(name string, n int) {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, 1)
			fillMany(b, r.shards[0], n, 0)
			runtime.GC()
			start := cpu(b)
			for b.Loop() {
				runtime.GC()
			}
			b.ReportMetric(float64(cpu(b)-start)/float64(b.N)/1e3, "cpu-µs/op")
			r.count(0, n, 0)
		})
	}
	f("0", 0)
	f("100000", many)
}

// BenchmarkTick is a tick over many connections on one loop: none due; one due in each
// chunk, which has all deadlines looked at.
func BenchmarkTick(b *testing.B) {
	b.Run("none due", func(b *testing.B) {
		r := newRig(b, 1)
		s := r.shards[0]
		fillMany(b, s, many, time.Hour)
		for b.Loop() {
			s.Tick(time.Second)
		}
		r.none()
	})
	b.Run("every chunk looked at", func(b *testing.B) {
		r := newRig(b, 1)
		s := r.shards[0]
		fillMany(b, s, many, time.Hour)
		for b.Loop() {
			for _, ch := range s.chunks {
				ch.earliest = 0
			}
			s.Tick(time.Second)
		}
		r.none()
	})
}

// BenchmarkPark is parking and taking out again, among many others.
func BenchmarkPark(b *testing.B) {
	g, err := reactor.New(reactor.Options{Loops: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	var back Conn
	l := New(Options{Group: g, Wake: func(c Conn, _ Why) { back = c }})
	s := l.shards[0]
	fillMany(b, s, many, time.Hour)
	b.Run("slot only", func(b *testing.B) {
		b.ReportAllocs()
		c := Conn{ID: 1 << 40, Phase: Idle, Until: time.Hour}
		for b.Loop() {
			tok, _ := s.fill(&c)
			s.settle(tok)
			s.take(tok)
		}
	})
	b.Run("with epoll_ctl", func(b *testing.B) {
		b.ReportAllocs()
		fd, _ := pair(b)
		back = Conn{FD: fd, ID: 1 << 40, Phase: Idle, Until: time.Hour}
		s.gen = 0
		for b.Loop() {
			l.Park(back)
			s.Ready(reactor.MakeToken(reactor.Park, many, s.gen), reactor.Readable)
		}
		l.Unregister(&back)
	})
}
