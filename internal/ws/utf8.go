package ws

import "encoding/binary"

// utf8State is where a stream of UTF-8 stands: the shift that leads to the next state.
//
// The automaton is Björn Höhrmann's, in the form where a byte's row is one word that
// holds the next state for each state, each as six bits: a step is one load and one
// shift. A reject is final, so it need not be looked for at each byte.
type utf8State uint64

// States are shifts: multiples of 6. utf8Accept is 0, so that a zero Inspector is ready.
const (
	utf8Accept utf8State = 6 * iota
	utf8Reject
	utf8Tail1 // one continuation byte is to come
	utf8Tail2
	utf8Tail3
	utf8AfterE0 // no overlong forms: A0..BF is to come, then one more
	utf8AfterED // no surrogates: 80..9F
	utf8AfterF0 // no overlong forms: 90..BF
	utf8AfterF4 // nothing over U+10FFFF: 80..8F
	utf8States  // the end of the list
)

// shiftMask takes the next state out of a row. It is also what the hardware's shifts
// take, so that applying it costs nothing.
const shiftMask = 63

// utf8Rows are filled once; the type says why it is no literal of 256 words.
var utf8Rows = makeUTF8Rows()

// makeUTF8Rows builds the rows from Table 3-7 of the Unicode standard, "Well-Formed UTF-8
// Byte Sequences", which RFC 3629 section 4 has as a grammar.
func makeUTF8Rows() *[256]uint64 {
	table := []struct {
		from, to  utf8State
		low, high byte
	}{
		{utf8Accept, utf8Accept, 0x00, 0x7f},
		{utf8Accept, utf8Tail1, 0xc2, 0xdf},
		{utf8Accept, utf8AfterE0, 0xe0, 0xe0},
		{utf8Accept, utf8Tail2, 0xe1, 0xec},
		{utf8Accept, utf8AfterED, 0xed, 0xed},
		{utf8Accept, utf8Tail2, 0xee, 0xef},
		{utf8Accept, utf8AfterF0, 0xf0, 0xf0},
		{utf8Accept, utf8Tail3, 0xf1, 0xf3},
		{utf8Accept, utf8AfterF4, 0xf4, 0xf4},
		{utf8Tail1, utf8Accept, 0x80, 0xbf},
		{utf8Tail2, utf8Tail1, 0x80, 0xbf},
		{utf8Tail3, utf8Tail2, 0x80, 0xbf},
		{utf8AfterE0, utf8Tail1, 0xa0, 0xbf},
		{utf8AfterED, utf8Tail1, 0x80, 0x9f},
		{utf8AfterF0, utf8Tail2, 0x90, 0xbf},
		{utf8AfterF4, utf8Tail2, 0x80, 0x8f},
	}
	rows := new([256]uint64)
	for b := range rows {
		for s := utf8Accept; s < utf8States; s += 6 {
			next := utf8Reject
			for _, t := range table {
				if t.from == s && byte(b) >= t.low && byte(b) <= t.high {
					next = t.to
				}
			}
			rows[b] |= uint64(next) << s
		}
	}
	return rows
}

// next returns the state after p, which is masked with key (0: not masked).
func (s utf8State) next(p []byte, key uint32) utf8State {
	const high = 0x8080808080808080
	wide := uint64(key)<<32 | uint64(key)
	state, rows := uint64(s), utf8Rows
	for len(p) >= 8 {
		w := binary.LittleEndian.Uint64(p) ^ wide
		p = p[8:]
		// Fast path: eight ASCII characters between two characters change nothing.
		if w&high == 0 && state == uint64(utf8Accept) {
			continue
		}
		state = rows[byte(w)] >> (state & shiftMask)
		state = rows[byte(w>>8)] >> (state & shiftMask)
		state = rows[byte(w>>16)] >> (state & shiftMask)
		state = rows[byte(w>>24)] >> (state & shiftMask)
		state = rows[byte(w>>32)] >> (state & shiftMask)
		state = rows[byte(w>>40)] >> (state & shiftMask)
		state = rows[byte(w>>48)] >> (state & shiftMask)
		state = rows[byte(w>>56)] >> (state & shiftMask) & shiftMask
		if state == uint64(utf8Reject) {
			return utf8Reject
		}
	}
	// Eight bytes are two rounds of the key, so it still begins with its lowest byte here.
	for i, b := range p {
		state = rows[b^byte(key>>(8*(i&3)))] >> (state & shiftMask) & shiftMask
	}
	return utf8State(state)
}
