package wsload

import (
	"bytes"
	"encoding/hex"
	"errors"
	"time"
)

// A message is ASCII, so that it may be a text message too: the tunnel's number
// (8 hexadecimal digits), its own number on that tunnel (16), the time it was due in
// nanoseconds since 1970 (16), and filling.
const (
	tunnelDigits = 8
	numberDigits = 16
	timeDigits   = 16
	// MinSize is the size of the smallest message.
	MinSize = tunnelDigits + numberDigits + timeDigits
)

// errMessage is returned for bytes that are no message of ours.
var errMessage = errors.New("wsload: not a message of this tool")

// message is what a message says.
type message struct {
	tunnel uint32
	number uint64
	due    int64 // nanoseconds since 1970
}

// filling is what messages are filled with; a damaged one is noticed.
var filling = bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog. "), 256)

// appendTo appends the message with size bytes in all, at least MinSize.
func (m message) appendTo(b []byte, size int) []byte {
	b = appendHex(b, uint64(m.tunnel), tunnelDigits)
	b = appendHex(b, m.number, numberDigits)
	b = appendHex(b, uint64(m.due), timeDigits)
	for rest := size - MinSize; rest > 0; {
		n := min(rest, len(filling))
		b = append(b, filling[:n]...)
		rest -= n
	}
	return b
}

func appendHex(b []byte, v uint64, digits int) []byte {
	const alphabet = "0123456789abcdef"
	for shift := (digits - 1) * 4; shift >= 0; shift -= 4 {
		b = append(b, alphabet[v>>shift&15])
	}
	return b
}

// parse reads a message and checks its filling.
func parse(b []byte) (message, error) {
	var raw [MinSize / 2]byte
	if len(b) < MinSize {
		return message{}, errMessage
	}
	if _, err := hex.Decode(raw[:], b[:MinSize]); err != nil {
		return message{}, errMessage
	}
	for rest := b[MinSize:]; len(rest) > 0; {
		n := min(len(rest), len(filling))
		if !bytes.Equal(rest[:n], filling[:n]) {
			return message{}, errMessage
		}
		rest = rest[n:]
	}
	v := func(b []byte) (v uint64) {
		for _, c := range b {
			v = v<<8 | uint64(c)
		}
		return v
	}
	return message{uint32(v(raw[:4])), v(raw[4:12]), int64(v(raw[12:]))}, nil
}

// clock tells the time in nanoseconds since 1970, as two processes of a machine
// share it, but does not jump when the system's clock is set.
type clock struct{ base time.Time }

func newClock() clock { return clock{time.Now()} }

func (c clock) at(t time.Time) int64 { return c.base.UnixNano() + int64(t.Sub(c.base)) }

func (c clock) now() int64 { return c.at(time.Now()) }

// sequence watches the numbers that arrive on one tunnel, beginning with 0.
type sequence struct {
	next    uint64
	missing map[uint64]struct{} // passed over and not yet here; nil while there is none
}

// order is what the numbers on a tunnel showed.
type order struct {
	// Gaps are messages that were passed over and never came, Duplicates those that
	// came twice, Reordered those that came after a later one.
	Gaps       int64 `json:"gaps"`
	Duplicates int64 `json:"duplicates"`
	Reordered  int64 `json:"reordered"`
}

// mostMissing bounds what a tunnel remembers of missing messages. One that comes
// later than that counts as a duplicate, and its gap stays.
const mostMissing = 4096

// take notes one number and returns what it changes.
func (s *sequence) take(number uint64) (o order) {
	if number == s.next {
		s.next++
		return o
	}
	if number > s.next {
		o.Gaps = int64(number - s.next)
		for n := s.next; n < number && len(s.missing) < mostMissing; n++ {
			if s.missing == nil {
				s.missing = make(map[uint64]struct{})
			}
			s.missing[n] = struct{}{}
		}
		s.next = number + 1
		return o
	}
	if _, late := s.missing[number]; late {
		delete(s.missing, number)
		return order{Gaps: -1, Reordered: 1}
	}
	return order{Duplicates: 1}
}
