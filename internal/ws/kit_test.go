package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"

	"tickgate/internal/reason"
)

// stream writes frames for one direction.
type stream struct {
	b      []byte
	masked bool
	n      byte // makes every key another one
}

// Flags of stream.frame, as in a frame's first byte.
const (
	fin  = bitFin
	rsv1 = bitRSV1
	rsv2 = 0x20
	rsv3 = 0x10
)

// frame appends one frame, right or wrong.
func (s *stream) frame(flags byte, o Opcode, payload string) *stream {
	n := len(payload)
	s.b = append(s.b, flags|byte(o), 0)
	mask := &s.b[len(s.b)-1]
	switch {
	case n < length16:
		*mask = byte(n)
	case n <= 0xffff:
		*mask = length16
		s.b = binary.BigEndian.AppendUint16(s.b, uint16(n))
	default:
		*mask = length64
		s.b = binary.BigEndian.AppendUint64(s.b, uint64(n))
	}
	if !s.masked {
		s.b = append(s.b, payload...)
		return s
	}
	s.b[len(s.b)-headerSize(n)+1] |= bitMask
	s.n++
	key := [4]byte{0x37 + s.n, 0xfa, 0x21 ^ s.n, 0x80 + s.n}
	s.b = append(s.b, key[:]...)
	for i := range n {
		s.b = append(s.b, payload[i]^key[i%4])
	}
	return s
}

// headerSize is the size of an unmasked header.
func headerSize(n int) int {
	switch {
	case n < length16:
		return 2
	case n <= 0xffff:
		return 4
	default:
		return 10
	}
}

// event is a whole message or a control frame, by its place in the stream.
type event struct {
	opcode     Opcode
	start, end int
	code       uint16
}

// verdict is what inspecting a stream comes to. It does not depend on how the stream was
// cut into pieces.
type verdict struct {
	events []event
	err    error
}

func (v verdict) equal(o verdict) bool {
	return slices.Equal(v.events, o.events) && errors.Is(v.err, o.err)
}

// whole, single and random say how many more bytes arrive.
func whole(left int) int  { return left }
func single(int) int      { return 1 }
func random(left int) int { return 1 + rand.IntN(left) }

// few is random with short pieces.
func few(left int) int { return 1 + rand.IntN(min(left, 9)) }

// inspect drives an Inspector over a stream that arrives in the pieces given, as a
// gateway would. boundary tells what AtBoundary and MidMessage must say at an offset.
func inspect(b []byte, r *Rules, arrive func(left int) int, boundary map[int]bool) (verdict, error) {
	var (
		in                         Inspector
		v                          verdict
		passed, have, messageStart int
	)
	for {
		mid, at := boundary[passed]
		if in.AtBoundary() != at || in.MidMessage() != (at && mid) {
			return v, fmt.Errorf("at %d: AtBoundary %t, MidMessage %t, want %t, %t", passed, in.AtBoundary(), in.MidMessage(), at, mid)
		}
		p := b[passed:have]
		piece, err := in.Next(p, r)
		if err != nil {
			if _, again := in.Next(b, r); !errors.Is(again, err) {
				return v, fmt.Errorf("after %w, Next returns %w", err, again)
			}
			if _, at := boundary[passed]; in.AtBoundary() != at {
				return v, fmt.Errorf("after %w at %d: AtBoundary %t", err, passed, in.AtBoundary())
			}
			v.err = err
			return v, nil
		}
		if (piece.Kind == More) != (piece.N == 0) || piece.N > len(p) {
			return v, fmt.Errorf("at %d: piece %+v of %d bytes", passed, piece, len(p))
		}
		if piece.Start {
			messageStart = passed
		}
		passed += piece.N
		switch {
		case piece.Kind == Control:
			v.events = append(v.events, event{piece.Opcode, passed - piece.N, passed, piece.Code})
		case piece.End:
			v.events = append(v.events, event{opcode: piece.Opcode, start: messageStart, end: passed})
		case piece.Kind == More && len(p) >= MaxHeld:
			return v, fmt.Errorf("at %d: %d bytes are not enough", passed, len(p))
		case piece.Kind == More && have == len(b):
			return v, nil
		case piece.Kind == More:
			have += arrive(len(b) - have)
		}
	}
}

// reference is the inspector's simple twin: it has the whole stream, gathers messages and
// parses headers with gobwas/ws.
type reference struct {
	b    []byte
	r    *Rules
	pos  int
	open bool // within a fragmented message
	// The message under way.
	first   event
	deflate bool
	payload []byte
	size    int64

	verdict
	// boundary has every offset between frames; true: within a message.
	boundary map[int]bool
	// cut says that the stream ended within a header: an inspector may already know that
	// it is wrong.
	cut bool
}

// judge runs the reference.
func judge(b []byte, r *Rules) *reference {
	ref := &reference{b: b, r: r, boundary: map[int]bool{0: false}}
	for ref.pos < len(b) && ref.err == nil && ref.frame() {
		ref.boundary[ref.pos] = ref.open
	}
	return ref
}

// frame takes one frame. It returns false if the stream ends within it.
func (ref *reference) frame() bool {
	in := bytes.NewReader(ref.b[ref.pos:])
	h, err := gobwas.ReadHeader(in)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		ref.cut = true
		return false
	case err != nil, ref.wrong(h, len(ref.b)-ref.pos-in.Len()):
		ref.err = reason.BadFrame
		return true
	}
	size := len(ref.b) - ref.pos - in.Len()
	have := ref.b[ref.pos+size:]
	if int64(len(have)) > h.Length {
		have = have[:h.Length]
	}
	whole := int64(len(have)) == h.Length
	have = bytes.Clone(have)
	if h.Masked {
		gobwas.Cipher(have, h.Mask, 0)
	}
	start := ref.pos
	if whole {
		ref.pos += size + len(have)
	}
	if h.OpCode.IsControl() {
		return whole && ref.control(h, have, start)
	}
	return ref.data(h, have, start, whole) && whole
}

// wrong applies the rules of RFC 6455 section 5.2, 5.4 and 5.5 to a header.
func (ref *reference) wrong(h gobwas.Header, size int) bool {
	first := h.OpCode == gobwas.OpText || h.OpCode == gobwas.OpBinary
	shortest := headerSize(int(min(max(h.Length, 0), 1<<30)))
	if h.Masked {
		shortest += 4
	}
	switch {
	case h.OpCode.IsReserved(), h.Masked != ref.r.Masked, h.Length < 0, size != shortest:
		return true
	case h.Rsv&3 != 0, h.Rsv1() && !(ref.r.Deflate && first):
		return true
	case h.OpCode.IsControl():
		return !h.Fin || h.Length > maxControl || h.OpCode == gobwas.OpClose && h.Length == 1
	default:
		return ref.open == first
	}
}

func (ref *reference) control(h gobwas.Header, payload []byte, start int) bool {
	e := event{opcode: Opcode(h.OpCode), start: start, end: ref.pos}
	if h.OpCode == gobwas.OpClose {
		e.code = 1005
		if len(payload) > 0 {
			code, text := gobwas.ParseCloseFrameData(payload)
			e.code = uint16(code)
			switch {
			case !slices.Contains([]uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}, e.code) &&
				(e.code < 3000 || e.code > 4999):
				ref.err = reason.BadFrame
				return true
			case !utf8.ValidString(text):
				ref.err = reason.BadText
				return true
			}
		}
	}
	ref.events = append(ref.events, e)
	return true
}

func (ref *reference) data(h gobwas.Header, payload []byte, start int, whole bool) bool {
	if h.OpCode != gobwas.OpContinuation {
		ref.first = event{opcode: Opcode(h.OpCode), start: start}
		ref.deflate, ref.payload, ref.size = h.Rsv1(), nil, 0
	}
	ref.size += h.Length
	if ref.r.MaxMessage > 0 && (ref.size > ref.r.MaxMessage || ref.size < 0) {
		ref.err = reason.MessageTooBig
		return true
	}
	ref.payload = append(ref.payload, payload...)
	last := whole && h.Fin
	if ref.r.UTF8 && ref.first.opcode == Text && !ref.deflate && !startsText(ref.payload, last) {
		ref.err = reason.BadText
		return true
	}
	if whole {
		ref.open = !h.Fin
	}
	if last {
		ref.first.end = ref.pos
		ref.events = append(ref.events, ref.first)
	}
	return true
}

// startsText reports whether b is UTF-8, or, unless it is all, the beginning of it.
func startsText(b []byte, all bool) bool {
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		if c == utf8.RuneError && n == 1 {
			return !all && !utf8.FullRune(b)
		}
		b = b[n:]
	}
	return true
}

// agree inspects a stream in pieces of all sorts and compares with the reference.
func agree(t testing.TB, b []byte, r *Rules) *reference {
	t.Helper()
	ref := judge(b, r)
	for i, arrive := range []func(int) int{whole, single, random, few, few} {
		got, err := inspect(b, r, arrive, ref.boundary)
		early := ref.cut && errors.Is(got.err, reason.BadFrame) && slices.Equal(got.events, ref.events)
		if err == nil && !early && !got.equal(ref.verdict) {
			err = fmt.Errorf("%+v, want %+v", got, ref.verdict)
		}
		if err != nil {
			t.Fatalf("cut %d of %x, %+v: %v", i, b, *r, err)
		}
	}
	return ref
}
