package relay

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"
)

// stream is a reproducible sequence of bytes.
type stream struct{ r *rand.ChaCha8 }

func newStream(seed byte) stream { return stream{rand.NewChaCha8([32]byte{seed})} }

func (s stream) next(n int) []byte {
	b := make([]byte, n)
	_, _ = s.r.Read(b)
	return b
}

// TestSlab goes through pages that fill and empty.
func TestSlab(t *testing.T) {
	if n := unsafe.Sizeof(slot{}); n != 128 {
		t.Errorf("a slot has %d bytes, want 128: pages are to fill a size class", n)
	}
	var sl slab
	r := rand.New(rand.NewPCG(1, 1))
	live := map[uint32]uint32{} // index -> generation
	peer := netip.MustParseAddrPort("[fe80::1%lo]:9")
	for _, target := range []int{1, 3000, 100, 0, 700, 0} {
		for len(live) < target {
			i, s := sl.alloc()
			if _, ok := live[i]; ok || s.gen == 0 || sl.at(i) != s {
				t.Fatalf("slot %d was given out twice, or badly", i)
			}
			sl.setExtra(i, s, extra{owner: i})
			sl.setPeer(i, s, peer)
			live[i] = s.gen
		}
		for i, gen := range live {
			s := sl.at(i)
			if s.gen != gen || sl.getExtra(i, s).owner != i || sl.getPeer(i, s) != peer {
				t.Fatalf("slot %d has changed", i)
			}
			if len(live) > target && r.IntN(2) == 0 {
				sl.release(i)
				delete(live, i)
			}
		}
		for i := range live {
			if len(live) <= target {
				break
			}
			sl.release(i)
			delete(live, i)
		}
	}
	for n, p := range sl.pages {
		if p.slots != nil || p.used != 0 {
			t.Errorf("page %d is kept", n)
		}
	}
	if len(sl.zones) != 0 {
		t.Errorf("%d zones are kept", len(sl.zones))
	}
}

// TestQueue compares a queue with a plain buffer.
func TestQueue(t *testing.T) {
	var pool chunkPool
	var q queue
	var want []byte
	r := rand.New(rand.NewPCG(2, 2))
	s := newStream(1)
	for range 2000 {
		b := s.next(r.IntN(1 << r.IntN(17)))
		q.push(&pool, b)
		want = append(want, b...)
		for q.n > 0 && r.IntN(4) > 0 {
			front := q.front()
			n := 1 + r.IntN(len(front))
			if string(front) != string(want[:len(front)]) {
				t.Fatal("wrong bytes")
			}
			q.pop(&pool, n)
			want = want[n:]
		}
		if q.n != len(want) {
			t.Fatalf("%d bytes, want %d", q.n, len(want))
		}
	}
	q.clear(&pool)
	if q.n != 0 || q.head != nil || q.tail != nil {
		t.Error("not empty after clear")
	}
	if pool.kept[0] > keptChunks || pool.kept[1] > keptChunks {
		t.Errorf("keeps %v chunks", pool.kept)
	}
}

func TestInterner(t *testing.T) {
	in := interner[Labels, int]{derive: func(l *Labels) int { return len(l.Route) }}
	a, b := &Labels{Route: "a"}, &Labels{Route: "bb"}
	na, nb := in.take(a), in.take(b)
	if in.take(a) != na || na == nb || in.entries[na].key != a || in.entries[nb].value != 2 {
		t.Error("numbers are wrong")
	}
	in.leave(na)
	in.leave(na)
	if in.entries[na].key != nil || len(in.index) != 1 {
		t.Error("a is still referenced")
	}
	if in.take(&Labels{}) != na {
		t.Error("a free number is not used again")
	}
}

func TestShorten(t *testing.T) {
	f := func(d time.Duration, percent int, dice uint16, want time.Duration) {
		t.Helper()
		if got := shorten(d, percent, dice).Round(time.Millisecond); got != want {
			t.Errorf("shorten(%v, %d, %d) = %v, want %v", d, percent, dice, got, want)
		}
	}
	f(time.Hour, 0, 65535, time.Hour)
	f(time.Hour, 10, 0, time.Hour)
	f(time.Hour, 10, 32768, time.Hour*95/100)
	f(100*time.Second, 50, 16384, 87500*time.Millisecond)
	f(100*365*24*time.Hour, 90, 65535, shorten(100*365*24*time.Hour, 90, 65535).Round(time.Millisecond))
	if got := shorten(100*365*24*time.Hour, 90, 65535); got < 10*365*24*time.Hour || got > 11*365*24*time.Hour {
		t.Errorf("a century shortened by 90 %% is %v", got)
	}
}
