package httpload

import (
	"math/rand/v2"
	"sort"
	"time"
)

// mix chooses among messages by weight.
type mix struct {
	messages []*message
	until    []int // until[i] is the sum of the weights up to that of message i
}

func (m *mix) add(msg *message, weight int) {
	sum := weight
	if n := len(m.until); n > 0 {
		sum += m.until[n-1]
	}
	m.messages, m.until = append(m.messages, msg), append(m.until, sum)
}

// pick returns a message by chance.
func (m *mix) pick(rng *rand.Rand) *message {
	if len(m.messages) == 1 {
		return m.messages[0]
	}
	n := rng.IntN(m.until[len(m.until)-1])
	return m.messages[sort.SearchInts(m.until, n+1)]
}

// pause returns a think time of a message.
func (m *message) pause(rng *rand.Rand) time.Duration {
	if m.think == 0 {
		return 0
	}
	return time.Duration(rng.ExpFloat64() * float64(m.think))
}
