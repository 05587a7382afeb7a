package fault

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// readSize is what is read at once.
const readSize = 16 << 10

// direction is one of two.
type direction uint64

const (
	toTarget direction = iota
	toClient
)

// stream is one direction of a connection: a goroutine reads and decides what becomes of the
// bytes, another sends them when they are due and as fast as they may go.
type stream struct {
	c         *conn
	direction direction
	from, to  *net.TCPConn
	line      *line
	passed    *atomic.Int64 // of the proxy's counters

	// Owned by read.
	messages messages
	seen     *state     // what the following count from
	rng      *rand.Rand // of delays and answers
	flips    *rand.Rand // of flipped bits: draws of other kinds must not shift them
	count    int64      // bytes read
	offset   int64      // bytes read, from the opening on
	held     []byte     // a request's head so far, on connections that are HTTP
	dropping bool       // the rest of a request that was answered

	// Owned by write.
	sentUnder *state // what sent counts from
	sent      int64
	own       bucket
}

func newStream(c *conn, d direction, from, to *net.TCPConn) *stream {
	s := &stream{c: c, direction: d, from: from, to: to, line: newLine(int(c.p.opts.Queue))}
	s.passed = &c.p.counters.toTarget
	if d == toClient {
		s.passed = &c.p.counters.toClient
		s.messages = messages{responses: true, noBody: c.lastHEAD.Load}
	}
	if !c.http {
		s.messages.phase = opaque
	}
	s.under(c.p.now.Load())
	return s
}

// under begins to count from a fault.
func (s *stream) under(st *state) {
	s.seen, s.count = st, 0
	s.rng = chance(st.Seed, s.c.number, uint64(s.direction))
	s.flips = chance(st.Seed, s.c.number, 4+uint64(s.direction))
}

// shape is what a fault does to the stream's direction.
func (s *stream) shape(st *state) *Shape {
	if s.direction == toTarget {
		return &st.ToTarget
	}
	return &st.ToClient
}

// read reads until the sender's end, and puts what it reads on the line.
func (s *stream) read() {
	buf := make([]byte, readSize)
	for s.c.gate() {
		n, err := s.from.Read(buf)
		if n > 0 && (!s.c.gate() || !s.take(buf[:n])) {
			return
		}
		if err != nil {
			s.readEnded(err)
			return
		}
	}
}

// readEnded passes the end of one side on: FIN in order behind what was read, RST at once.
func (s *stream) readEnded(err error) {
	switch {
	case s.c.lost.Load():
	case errors.Is(err, io.EOF):
		s.push(nil, chunk{end: true})
	default:
		s.c.abort()
	}
}

// take deals with what was read; false is the end of the stream.
func (s *stream) take(b []byte) bool {
	st := s.c.p.now.Load()
	if st != s.seen {
		s.under(st)
	}
	for len(b) > 0 {
		seg := s.messages.next(b)
		part := b[:seg.n]
		b = b[seg.n:]
		if !s.segment(st, part, seg) {
			return false
		}
	}
	return true
}

// segment deals with bytes of one part.
func (s *stream) segment(st *state, b []byte, seg segment) bool {
	at := seg.offset
	if !s.c.http || s.messages.phase == opaque && seg.part == PartHead {
		at = s.offset
	}
	s.corrupt(st, b, seg.part, at)
	s.offset += int64(len(b))
	if s.direction == toClient {
		return s.response(st, b, seg)
	}
	if !s.c.http {
		return s.push(b, chunk{})
	}
	return s.request(st, b, seg)
}

// response passes bytes on to the client, unless they are truncated.
func (s *stream) response(st *state, b []byte, seg segment) bool {
	before := s.count
	s.count += int64(len(b))
	if s.c.http {
		before = seg.whole
	}
	limit := int64(st.Truncate)
	if limit == 0 || before+int64(len(b)) < limit {
		return s.push(b, chunk{})
	}
	s.c.p.counters.truncated.Add(1)
	s.push(b[:max(0, limit-before)], chunk{end: true, both: true})
	return false
}

// request holds a head until it is complete, and then passes the request on or answers it.
func (s *stream) request(st *state, b []byte, seg segment) bool {
	if seg.part == PartHead && s.messages.phase != opaque || seg.head {
		if s.held = append(s.held, b...); !seg.head {
			return true
		}
		b, s.held = s.held, nil
		s.dropping = s.answers(st)
		if s.dropping {
			return s.answer(&st.Answer)
		}
		if r := s.messages.request; r != nil {
			s.c.lastHEAD.Store(r.Method == http.MethodHead)
		}
	} else if len(s.held) > 0 { // a head that could not be read
		b, s.held = append(s.held, b...), nil
	}
	return s.dropping || s.push(b, chunk{})
}

// answers decides whether the request whose head is complete is answered by the proxy.
func (s *stream) answers(st *state) bool {
	r := s.messages.request
	return st.Answer.Status != 0 && r != nil && s.rng.IntN(100) < st.Answer.Percent
}

// answer sends a response to the client. A client that waits for 100 may never send its
// body, so its connection ends.
func (s *stream) answer(a *Answer) bool {
	s.c.p.counters.answered.Add(1)
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", a.Status, http.StatusText(a.Status))
	if a.RetryAfter > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", int((a.RetryAfter+time.Second-1)/time.Second))
	}
	ends := s.messages.request.Close || s.messages.request.Header.Get("Expect") != ""
	if ends {
		b = append(b, "Connection: close\r\n"...)
	}
	if a.Status != http.StatusNoContent && a.Status != http.StatusNotModified {
		b = append(b, "Content-Length: 0\r\n"...)
	}
	back := s.c.toClient
	back.line.add(chunk{b: append(b, "\r\n"...), due: time.Now().Add(back.delay(s.c.p.now.Load(), s.rng)), end: ends, both: ends})
	return !ends
}

// corrupt flips bits of b, whose first byte stands at an offset of a part.
func (s *stream) corrupt(st *state, b []byte, part Part, at int64) {
	c := &s.shape(st).Corrupt
	if c.PerMillion == 0 || c.byPart() && c.Part != part {
		return
	}
	for i := range b {
		offset := at + int64(i)
		if offset < int64(c.From) || c.To > 0 && offset >= int64(c.To) {
			continue
		}
		if s.flips.IntN(1e6) < c.PerMillion {
			b[i] ^= 1 << s.flips.IntN(8)
			s.c.p.counters.flipped.Add(1)
		}
	}
}

// delay returns how long bytes that were read now are under way.
func (s *stream) delay(st *state, rng *rand.Rand) time.Duration {
	shape := s.shape(st)
	d := shape.Delay
	if shape.Jitter > 0 {
		d += time.Duration(rng.Int64N(int64(shape.Jitter) + 1))
	}
	return d
}

// push puts a copy of b on the line.
func (s *stream) push(b []byte, c chunk) bool {
	c.b = slices.Clone(b)
	c.due = time.Now().Add(s.delay(s.c.p.now.Load(), s.rng))
	return s.line.push(s.c.joined.Done(), c)
}

// write sends what is on the line when it is due.
func (s *stream) write() {
	for {
		c, ok := s.line.pop(s.c.joined.Done())
		if !ok || !s.wait(time.Until(c.due), nil) || !s.c.gate() || !s.send(c.b) {
			return
		}
		switch {
		case c.both:
			_ = s.to.CloseWrite()
			s.c.close()
			return
		case c.end:
			_ = s.to.CloseWrite()
			return
		}
	}
}

// send writes at the rate that the fault of the moment allows.
func (s *stream) send(b []byte) bool {
	for len(b) > 0 {
		st := s.c.p.now.Load()
		if st != s.sentUnder {
			s.sentUnder, s.sent = st, 0
		}
		n := s.portion(st, len(b))
		limit := int64(st.Reset.After)
		cut := s.direction == toClient && limit > 0 && s.sent+int64(n) >= limit
		if cut {
			n = int(limit - s.sent)
		}
		if _, err := s.to.Write(b[:n]); err != nil {
			if !s.c.lost.Load() {
				s.c.abort()
			}
			return false
		}
		s.sent += int64(n)
		s.passed.Add(int64(n))
		if cut {
			s.c.reset()
			return false
		}
		b = b[n:]
		if !s.wait(s.pause(st, n), st.ended) || !s.c.gate() {
			return false
		}
	}
	return true
}

// portion is how many of n bytes are sent at once.
func (s *stream) portion(st *state, n int) int {
	if s.shape(st).Drip > 0 {
		return 1
	}
	for _, rate := range []int64{int64(st.Bandwidth), int64(st.ConnBandwidth)} {
		if rate > 0 {
			n = min(n, portion(rate))
		}
	}
	return n
}

// pause is how long to wait behind n bytes.
func (s *stream) pause(st *state, n int) time.Duration {
	d := s.shape(st).Drip
	now := time.Now()
	if rate := int64(st.Bandwidth); rate > 0 {
		d = max(d, s.c.p.shared[s.direction].take(now, n, rate))
	}
	if rate := int64(st.ConnBandwidth); rate > 0 {
		d = max(d, s.own.take(now, n, rate))
	}
	return d
}

// wait waits for a time span, or until ended is closed; false says that the connection has
// ended.
func (s *stream) wait(d time.Duration, ended <-chan struct{}) bool {
	if d <= 0 {
		return s.c.joined.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
	case <-s.c.joined.Done():
		return false
	}
	return true
}
