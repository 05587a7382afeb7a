package fault

import (
	"sync"
	"time"
)

// chunk is what was read at once, and when it is due at the other side.
type chunk struct {
	b   []byte
	due time.Time
	// end closes the direction behind b; both closes the whole connection.
	end, both bool
}

// chunkCost is what a chunk takes beside its bytes.
const chunkCost = 64

func (c *chunk) cost() int { return len(c.b) + chunkCost }

// line is a queue of bytes under way, bounded in bytes. One goroutine pushes, and one pops.
type line struct {
	limit  int
	filled chan struct{} // has room for one signal, as has drained
	// drained tells the one that pushes of room.
	drained chan struct{}

	mu     sync.Mutex
	chunks []chunk   // guarded by mu
	size   int       // guarded by mu
	last   time.Time // guarded by mu; latest due time so far: order is kept
}

func newLine(limit int) *line {
	return &line{limit: limit, filled: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

// push waits for room; it returns false if done is closed first.
func (l *line) push(done <-chan struct{}, c chunk) bool {
	for !l.offer(c) {
		select {
		case <-l.drained:
		case <-done:
			return false
		}
	}
	return true
}

// offer appends a chunk if there is room, or nothing else under way.
func (l *line) offer(c chunk) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+c.cost() > l.limit {
		return false
	}
	l.addLocked(c)
	return true
}

// add appends a chunk whether there is room or not. Any goroutine may call it.
func (l *line) add(c chunk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(c)
}

func (l *line) addLocked(c chunk) {
	if c.due.Before(l.last) {
		c.due = l.last
	}
	l.last = c.due
	l.chunks = append(l.chunks, c)
	l.size += c.cost()
	signal(l.filled)
}

// pop waits for a chunk; it returns false if done is closed first.
func (l *line) pop(done <-chan struct{}) (chunk, bool) {
	for {
		if c, ok := l.take(); ok {
			return c, true
		}
		select {
		case <-l.filled:
		case <-done:
			return chunk{}, false
		}
	}
}

func (l *line) take() (chunk, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.chunks) == 0 {
		return chunk{}, false
	}
	c := l.chunks[0]
	l.chunks[0] = chunk{}
	l.chunks = l.chunks[1:]
	l.size -= c.cost()
	signal(l.drained)
	return c, true
}

// signal leaves a signal unless there is one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
