package httpload

import "time"

// none is the end of a list.
const none = ^uint32(0)

// list is a list of connections by their slots, the last one put in at its head. A
// connection is in one list at most.
type list struct{ head uint32 }

var emptyList = list{none}

func (l *list) push(conns []conn, i uint32) {
	conns[i].next, conns[i].prev = l.head, none
	if l.head != none {
		conns[l.head].prev = i
	}
	l.head = i
}

// pop takes the one that was put in last.
func (l *list) pop(conns []conn) (i uint32, ok bool) {
	if i = l.head; i == none {
		return 0, false
	}
	l.remove(conns, i)
	return i, true
}

func (l *list) remove(conns []conn, i uint32) {
	c := &conns[i]
	if c.prev == none {
		l.head = c.next
	} else {
		conns[c.prev].next = c.next
	}
	if c.next != none {
		conns[c.next].prev = c.prev
	}
}

// waiter is a request that waits for a connection.
type waiter struct {
	message *message
	due     time.Duration
}

// queue is a ring of waiters that grows.
type queue struct {
	ring        []waiter // its length is a power of two
	first, size int
}

func (q *queue) len() int { return q.size }

func (q *queue) push(e waiter) {
	if q.size == len(q.ring) {
		grown := make([]waiter, max(2*len(q.ring), 64))
		n := copy(grown, q.ring[q.first:])
		copy(grown[n:], q.ring[:q.first])
		q.ring, q.first = grown, 0
	}
	q.ring[(q.first+q.size)&(len(q.ring)-1)] = e
	q.size++
}

// pop takes the oldest; there must be one.
func (q *queue) pop() waiter {
	e := q.ring[q.first]
	q.ring[q.first] = waiter{}
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.size--
	return e
}

// thought is a pause of a connection.
type thought struct {
	until      time.Duration
	index, gen uint32
}

// thoughts is a heap of pauses, the first to end at its top.
type thoughts struct{ heap []thought }

// next is when the first ends; never if there is none.
func (t *thoughts) next() time.Duration {
	if len(t.heap) == 0 {
		return never
	}
	return t.heap[0].until
}

func (t *thoughts) add(e thought) {
	t.heap = append(t.heap, e)
	i := len(t.heap) - 1
	for i > 0 && t.heap[i].until < t.heap[(i-1)/2].until {
		t.heap[i], t.heap[(i-1)/2] = t.heap[(i-1)/2], t.heap[i]
		i = (i - 1) / 2
	}
}

// take removes the top; there must be one.
func (t *thoughts) take() thought {
	top := t.heap[0]
	last := len(t.heap) - 1
	t.heap[0] = t.heap[last]
	t.heap = t.heap[:last]
	for i := 0; ; {
		least := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < last && t.heap[child].until < t.heap[least].until {
				least = child
			}
		}
		if least == i {
			return top
		}
		t.heap[i], t.heap[least] = t.heap[least], t.heap[i]
		i = least
	}
}
