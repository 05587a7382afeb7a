package h1

import (
	"encoding/binary"
	"math/bits"
)

const (
	ones     = 0x0101010101010101
	highBits = 0x80 * ones
	foldBits = 0x20 * ones // ORed in, makes ASCII letters lower-case
)

// Classes of bytes, as bits in byteClass.
const (
	classToken  = 1 << iota // tchar, RFC 9110 section 5.6.2
	classTarget             // a target byte that needs no closer look
	classHost               // a reg-name byte that is accepted
	classDigit
	classHex
	classBase64 // without the padding
	classQuoted // qdtext, RFC 9110 section 5.6.4
	classPlain  // a byte of names that no backend folds: letter, digit or '-'
)

var byteClass = buildByteClass()

func buildByteClass() (t [256]uint8) {
	for c := 0; c < 256; c++ {
		digit := c >= '0' && c <= '9'
		lower := c | 0x20
		letter := lower >= 'a' && lower <= 'z'
		set := func(on bool, class uint8) {
			if on {
				t[c] |= class
			}
		}
		set(digit || letter || in(c, "!#$%&'*+-.^_`|~"), classToken)
		set(c > ' ' && c < 0x7f && !in(c, "#%?"), classTarget)
		set(digit || letter || in(c, "-._~"), classHost)
		set(digit, classDigit)
		set(digit || lower >= 'a' && lower <= 'f', classHex)
		set(digit || letter || in(c, "+/"), classBase64)
		set(digit || letter || c == '-', classPlain)
		set(c == '\t' || c >= ' ' && c != 0x7f && !in(c, `"\`), classQuoted)
	}
	return t
}

func in(c int, set string) bool {
	for i := 0; i < len(set); i++ {
		if int(set[i]) == c {
			return true
		}
	}
	return false
}

func is(c byte, class uint8) bool { return byteClass[c]&class != 0 }

// all reports whether every byte of b has the class; true for an empty b.
func all(b []byte, class uint8) bool {
	for _, c := range b {
		if byteClass[c]&class == 0 {
			return false
		}
	}
	return true
}

// isToken reports whether b is a token (RFC 9110 section 5.6.2).
func isToken(b []byte) bool { return len(b) > 0 && all(b, classToken) }

// nextControl returns the index of the first control character (0x00-0x1F, 0x7F)
// in b at or after from, or len(b). It looks at eight bytes at a time: it is the only pass
// over field values.
func nextControl(b []byte, from int) int {
	i := from
	s := b[i:]
	for ; len(s) >= 16; s = s[16:] {
		m := controlMask(binary.LittleEndian.Uint64(s))
		n := controlMask(binary.LittleEndian.Uint64(s[8:]))
		if m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		if n != 0 {
			return i + 8 + bits.TrailingZeros64(n)>>3
		}
		i += 16
	}
	if len(s) >= 8 {
		if m := controlMask(binary.LittleEndian.Uint64(s)); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == 0x7f {
			return i
		}
	}
	return i
}

// controlMask sets the high bit of the lowest byte of x that is a control character, and
// nothing below it.
func controlMask(x uint64) uint64 {
	// A byte below 0x20 borrows into its high bit; borrows run upwards only, so the
	// lowest hit is exact. The same holds for DEL, made zero by the XOR.
	d := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x | (d-ones)&^d) & highBits
}

// indexColon returns the index of the first colon in b, or -1. Names are short, so
// this is faster than the call of bytes.IndexByte.
func indexColon(b []byte) int {
	i := 0
	for s := b; len(s) >= 8; s = s[8:] {
		x := binary.LittleEndian.Uint64(s) ^ ':'*ones
		if m := (x - ones) &^ x & highBits; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for ; i < len(b); i++ {
		if b[i] == ':' {
			return i
		}
	}
	return -1
}

// equalFold compares ASCII without case. lower must be lower-case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if toLower(c) != lower[i] {
			return false
		}
	}
	return true
}

// equalFoldBytes compares two ASCII byte strings without case.
func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c != b[i] && toLower(c) != toLower(b[i]) {
			return false
		}
	}
	return true
}

func toLower(c byte) byte {
	if c-'A' < 26 {
		c |= 0x20
	}
	return c
}

// unhex returns the value of a hexadecimal digit; c must be of classHex.
func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// trimOWS cuts optional white space (SP, HTAB) off both ends.
func trimOWS(b []byte) []byte {
	for len(b) > 0 && isOWS(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isOWS(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isOWS(c byte) bool { return c == ' ' || c == '\t' }

// nextItem cuts the first member off a comma-separated list (RFC 9110 section
// 5.6.1), trimmed; it may be empty. ok is false at the end of the list.
func nextItem(list []byte) (item, rest []byte, ok bool) {
	if len(list) == 0 {
		return nil, nil, false
	}
	for i, c := range list {
		if c == ',' {
			return trimOWS(list[:i]), list[i+1:], true
		}
	}
	return trimOWS(list), nil, true
}

// span is a half-open range of offsets into a head.
type span struct{ start, end uint32 }

func makeSpan(start, end int) span { return span{uint32(start), uint32(end)} }

func (s span) of(b []byte) []byte { return b[s.start:s.end:s.end] }
