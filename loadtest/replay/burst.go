package replay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrBurst is returned for a burst that is not one.
var ErrBurst = errors.New("replay: bad burst")

// maxFactor bounds the factor of a burst.
const maxFactor = 1000

// Burst multiplies the rate for a time.
type Burst struct {
	Factor float64 // 1 to 1000
	For    time.Duration
	At     time.Duration // of the replay, not of the log
}

// ParseBurst reads a burst such as "3x8s@60s": three times the rate for 8 s, from
// second 60 of the replay on.
func ParseBurst(s string) (Burst, error) {
	factor, rest, ok1 := strings.Cut(s, "x")
	length, at, ok2 := strings.Cut(rest, "@")
	var b Burst
	var err1, err2, err3 error
	b.Factor, err1 = strconv.ParseFloat(factor, 64)
	b.For, err2 = time.ParseDuration(length)
	b.At, err3 = time.ParseDuration(at)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || !b.valid() {
		return Burst{}, fmt.Errorf("%w: %q (want FACTORxTIME@TIME as in 3x8s@60s, the factor from 1 to %d)", ErrBurst, s, maxFactor)
	}
	return b, nil
}

// valid also refuses a factor that is not a number.
func (b Burst) valid() bool {
	return b.Factor >= 1 && b.Factor <= maxFactor && b.For > 0 && b.At >= 0
}

func (b Burst) has(due time.Duration) bool { return due >= b.At && due-b.At < b.For }

// copier says how often each request is sent, and when. It only decides.
type copier struct {
	bursts []Burst
	carry  float64 // copies that fractions have added up to, and that are still owed
}

// copies returns how many copies of a request to send, the first when it is due and the
// others each step later. next is when the request behind it is due.
func (c *copier) copies(due, next time.Duration) (n int, step time.Duration) {
	for _, b := range c.bursts {
		if !b.has(due) {
			continue
		}
		c.carry += b.Factor - 1
		extra := int(c.carry + 1e-9) // a third three times is a whole
		c.carry -= float64(extra)
		next = min(next, b.At+b.For)
		return 1 + extra, max(next-due, 0) / time.Duration(1+extra)
	}
	return 1, 0
}
