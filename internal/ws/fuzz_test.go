package ws

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// rules makes the rules of a bit set.
func rules(bits uint8) *Rules {
	r := &Rules{Masked: bits&1 != 0, UTF8: bits&2 != 0, Deflate: bits&4 != 0}
	if bits&8 != 0 {
		r.MaxMessage = 1 + int64(bits>>4)*20
	}
	return r
}

// FuzzInspector compares with the reference, in pieces of all sorts.
func FuzzInspector(f *testing.F) {
	for seed := range uint64(40) {
		bits := uint8(rand.NewPCG(seed, 0).Uint64())
		f.Add(randomStream(rand.New(rand.NewPCG(seed, 1)), rules(bits)), bits)
	}
	f.Fuzz(func(t *testing.T, b []byte, bits uint8) { agree(t, b, rules(bits)) })
}

// TestRandomStreams does the same with streams that are right, or nearly so.
func TestRandomStreams(t *testing.T) {
	const streams = 20_000
	rnd := rand.New(rand.NewPCG(6455, 1))
	bad, messages := 0, 0
	for range streams {
		r := rules(uint8(rnd.Uint32()))
		ref := agree(t, randomStream(rnd, r), r)
		messages += len(ref.events)
		if ref.err != nil {
			bad++
		}
	}
	t.Logf("%d streams, %d bad, %d messages and control frames", streams, bad, messages)
	// The test is worth something only if it sees both.
	if bad < streams/10 || bad > streams*9/10 || messages < streams {
		t.Error("the streams are not mixed")
	}
}

// randomStream makes a stream of some frames, mostly as the rules want them.
func randomStream(rnd *rand.Rand, r *Rules) []byte {
	s := &stream{masked: r.Masked, n: byte(rnd.Uint32())}
	open := false
	for range 1 + rnd.IntN(6) {
		flags, o := byte(fin), Text+Opcode(rnd.IntN(2))
		switch {
		case rnd.IntN(4) == 0:
			o = Close + Opcode(rnd.IntN(3))
		default:
			if open {
				o = Continuation
			} else if r.Deflate && rnd.IntN(3) == 0 {
				flags |= rsv1
			}
			if open = rnd.IntN(3) == 0; open {
				flags &^= fin
			}
		}
		s.frame(flags, o, randomPayload(rnd, o))
	}
	if rnd.IntN(3) == 0 { // a byte is wrong, or all is well if nobody looks at it
		s.b[rnd.IntN(len(s.b))] ^= 1 << rnd.IntN(8)
	}
	return s.b[:len(s.b)-rnd.IntN(2)*rnd.IntN(4)%len(s.b)]
}

// randomPayload is text that may be cut within a character.
func randomPayload(rnd *rand.Rand, o Opcode) string {
	const alphabet = "abcdefghäöü€日😀"
	letters := []rune(alphabet)
	var b strings.Builder
	if o == Close && rnd.IntN(4) > 0 {
		b.WriteString("\x03\xe8")
	} else if o == Close {
		return ""
	}
	for range rnd.IntN(30) {
		letter := letters[rnd.IntN(len(letters))]
		if rnd.IntN(3) > 0 {
			letter = 'x'
		}
		b.WriteRune(letter)
	}
	text := b.String()
	switch {
	case o == Binary && rnd.IntN(20) == 0:
		return strings.Repeat(text, 1+rnd.IntN(200))
	case rnd.IntN(20) == 0:
		return text[:max(len(text)-1, 0)]
	default:
		return text
	}
}
