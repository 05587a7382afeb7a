package httpload

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSketch(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Microsecond, 31 * time.Microsecond, 32 * time.Microsecond, 999 * time.Microsecond, time.Second, 20 * time.Minute} {
		var s sketch
		s.add(d)
		us := float64(d) / 1e3
		if got := s.p99(); got < us || got > us*1.04+1 {
			t.Errorf("%v: %v us", d, got)
		}
	}
	var s sketch
	if s.p99() != 0 {
		t.Error("an empty sketch has a quantile")
	}
	for i := range 1000 {
		s.add(time.Duration(i) * time.Millisecond)
	}
	if got := s.p99(); got < 989e3 || got > 1030e3 {
		t.Errorf("%v us, want about 990 ms", got)
	}
	s.add(1000 * time.Hour) // does not reach beyond the last bucket
}

// Loops that are behind add to the same seconds.
func TestTimeline(t *testing.T) {
	var l timeline
	one := func(ok int64) *tally { return &tally{ok: ok, errors: 1} }
	l.add(0, one(1))
	l.add(2, one(2))
	l.add(0, one(3))
	if got := l.latest(2); got.OK != 0 || got.Time != 1 {
		t.Errorf("%+v", got)
	}
	l.add(9, one(4))
	l.add(0, one(100)) // too late to be of use
	all := l.all()
	if len(all) != 10 || all[0].OK != 4 || all[0].Errors != 2 || all[2].OK != 2 || all[9].OK != 4 || all[9].Time != 9 {
		t.Errorf("%+v", all)
	}
}

func TestQueue(t *testing.T) {
	var q queue
	next, due := time.Duration(0), time.Duration(0)
	for range 1000 {
		for range 3 {
			q.push(waiter{due: due})
			due++
		}
		for range 2 {
			if got := q.pop().due; got != next {
				t.Fatalf("%d, want %d", got, next)
			}
			next++
		}
	}
	if q.len() != 1000 {
		t.Errorf("%d left, want 1000", q.len())
	}
}

func TestThoughts(t *testing.T) {
	var h thoughts
	if h.next() != never {
		t.Error("an empty heap has something next")
	}
	var want []time.Duration
	for range 500 {
		d := time.Duration(rand.IntN(100))
		want = append(want, d)
		h.add(thought{until: d})
	}
	slices.Sort(want)
	for i, d := range want {
		if h.next() != d || h.take().until != d {
			t.Fatalf("thought %d is not at %d", i, d)
		}
	}
}

func TestList(t *testing.T) {
	conns := make([]conn, 5)
	l := emptyList
	for i := range conns {
		l.push(conns, uint32(i))
	}
	l.remove(conns, 2)
	l.remove(conns, 0)
	l.remove(conns, 4)
	for _, want := range []uint32{3, 1} {
		if got, ok := l.pop(conns); !ok || got != want {
			t.Errorf("%d, %v; want %d", got, ok, want)
		}
	}
	if _, ok := l.pop(conns); ok {
		t.Error("more than was put in")
	}
}

// Names are told apart up to a number of them.
func TestKinds(t *testing.T) {
	var k kinds
	for i := range 2 * mostKinds {
		k.index(string(rune('a' + i)))
	}
	if n := len(k.list()); n != mostKinds+1 || k.index("a") != 0 || k.index("new") != mostKinds {
		t.Errorf("%d kinds", n)
	}
}
