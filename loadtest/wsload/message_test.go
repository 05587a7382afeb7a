package wsload

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestMessages(t *testing.T) {
	f := func(m message, size int) {
		t.Helper()
		b := m.appendTo(nil, size)
		if len(b) != size {
			t.Errorf("%d bytes, want %d", len(b), size)
		}
		if got, err := parse(b); got != m || err != nil {
			t.Errorf("%+v, %v; want %+v", got, err, m)
		}
	}
	f(message{}, MinSize)
	f(message{1, 2, 3}, 200)
	f(message{math.MaxUint32, math.MaxUint64, math.MaxInt64}, MinSize+1)
	f(message{7, 8, 9}, 100_000)

	bad := func(b []byte) {
		t.Helper()
		if _, err := parse(b); !errors.Is(err, errMessage) {
			t.Errorf("%q: %v", b, err)
		}
	}
	good := message{1, 2, 3}.appendTo(nil, 20_000)
	bad(nil)
	bad(good[:MinSize-1])
	bad(bytes.Repeat([]byte("x"), MinSize))
	bad(append(slices.Clone(good), '!'))
	for _, i := range []int{0, MinSize - 1, MinSize, 12_000, 19_999} {
		damaged := slices.Clone(good)
		damaged[i] ^= 0x80
		bad(damaged)
	}
}

func TestSequence(t *testing.T) {
	// f takes numbers in order of arrival and compares the sums.
	f := func(numbers []uint64, want order) {
		t.Helper()
		var (
			s   sequence
			got order
		)
		for _, n := range numbers {
			o := s.take(n)
			got.Gaps += o.Gaps
			got.Duplicates += o.Duplicates
			got.Reordered += o.Reordered
		}
		if got != want {
			t.Errorf("%v: %+v, want %+v", numbers, got, want)
		}
	}
	f(nil, order{})
	f([]uint64{0, 1, 2, 3}, order{})
	f([]uint64{1}, order{Gaps: 1})
	f([]uint64{0, 3, 4}, order{Gaps: 2})
	f([]uint64{0, 0, 1}, order{Duplicates: 1})
	f([]uint64{0, 2, 1, 3}, order{Reordered: 1})
	f([]uint64{0, 3, 1, 1}, order{Gaps: 1, Reordered: 1, Duplicates: 1})
	f([]uint64{mostMissing + 2, mostMissing + 1}, order{Gaps: mostMissing + 2, Duplicates: 1}) // more than is remembered
}

func TestSpread(t *testing.T) {
	start := time.Now()
	f := func(milliseconds []int, want []int, wantBusiest float64) {
		t.Helper()
		var ends []time.Time
		for _, ms := range milliseconds {
			ends = append(ends, start.Add(time.Duration(ms)*time.Millisecond))
		}
		if got, busiest := spread(ends); !slices.Equal(got, want) || busiest != wantBusiest {
			t.Errorf("%v: %v, %v; want %v, %v", milliseconds, got, busiest, want, wantBusiest)
		}
	}
	f(nil, nil, 0)
	f([]int{5}, []int{1}, 1)
	f([]int{2500, 0, 999, 1000}, []int{2, 1, 1}, 0.5)
	f([]int{0, 900, 1000, 1800, 5000}, []int{2, 2, 0, 0, 0, 1}, 0.6) // 900, 1000 and 1800 are within one
}

func TestHeader(t *testing.T) {
	// f reads back what gobwas/ws writes, and wants more bytes of every beginning.
	f := func(h ws.Header) {
		t.Helper()
		b := appendHeader(nil, h)
		got, size, err := header(b)
		if got != h || size != len(b) || err != nil {
			t.Errorf("%+v, %d, %v; want %+v, %d", got, size, err, h, len(b))
		}
		for n := range b {
			if _, _, err := header(b[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes of %x: %v", n, b, err)
			}
		}
	}
	for _, length := range []int64{0, 1, 125, 126, 65535, 65536, 1 << 40} {
		f(ws.Header{Fin: true, OpCode: ws.OpText, Length: length})
		f(ws.Header{Rsv: 5, OpCode: ws.OpContinuation, Length: length, Masked: true, Mask: [4]byte{1, 2, 3, 4}})
	}
	if _, _, err := header([]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}); !errors.Is(err, ws.ErrHeaderLengthMSB) {
		t.Errorf("length of 2^63: %v", err)
	}
}
