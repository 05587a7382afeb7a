package relay

import "time"

// The ladder of back-pressure: a side that does not take its bytes has them queued;
// when Policy.Queue bytes wait, the other side is not read any more; when half of that is
// left it is read again; when no byte was taken for Policy.Stall, the tunnel ends. Pauses
// are counted.
const (
	// defaultQueue stands for a Policy.Queue of 0.
	defaultQueue = 64 << 10

	// Chunks of queues have one of two sizes, as most queues are the rest of one message and
	// others as much as the policy allows.
	smallChunk = 2 << 10
	largeChunk = 16 << 10

	// keptChunks is how many chunks of each size a loop keeps for later: beyond, the
	// collector gets them back after a burst.
	keptChunks = 32
)

// chunk is a piece of a queue.
type chunk struct {
	next *chunk
	r, w int // b[r:w] waits
	b    []byte
}

// queue is bytes that wait for one side.
type queue struct {
	head, tail *chunk
	n          int
	// since is when the side last took a byte, or the queue began.
	since time.Duration
}

// queues are a tunnel's two, by the side that they are for. They exist while one is not
// empty.
type queues struct {
	q    [2]queue
	slot uint32
	used bool
}

// chunkPool keeps chunks for later.
type chunkPool struct {
	free [2]*chunk
	kept [2]int
}

func (p *chunkPool) get(need int) *chunk {
	class, size := 0, smallChunk
	if need > smallChunk {
		class, size = 1, largeChunk
	}
	c := p.free[class]
	if c == nil {
		return &chunk{b: make([]byte, size)}
	}
	p.free[class], c.next = c.next, nil
	p.kept[class]--
	return c
}

func (p *chunkPool) put(c *chunk) {
	class := 0
	if len(c.b) == largeChunk {
		class = 1
	}
	if p.kept[class] == keptChunks {
		return
	}
	c.r, c.w, c.next = 0, 0, p.free[class]
	p.free[class] = c
	p.kept[class]++
}

// push appends a copy of b.
func (q *queue) push(pool *chunkPool, b []byte) {
	q.n += len(b)
	for len(b) > 0 {
		if q.tail == nil || q.tail.w == len(q.tail.b) {
			c := pool.get(len(b))
			if q.tail == nil {
				q.head = c
			} else {
				q.tail.next = c
			}
			q.tail = c
		}
		n := copy(q.tail.b[q.tail.w:], b)
		q.tail.w += n
		b = b[n:]
	}
}

// front returns the bytes to send next.
func (q *queue) front() []byte { return q.head.b[q.head.r:q.head.w] }

// pop takes n bytes, not more than front has.
func (q *queue) pop(pool *chunkPool, n int) {
	q.n -= n
	c := q.head
	c.r += n
	if c.r < c.w {
		return
	}
	q.head = c.next
	if q.head == nil {
		q.tail = nil
	}
	pool.put(c)
}

// clear drops everything.
func (q *queue) clear(pool *chunkPool) {
	for q.head != nil {
		q.pop(pool, q.head.w-q.head.r)
	}
}
