package accesslog

import (
	"bytes"
	"os"
	"sync"
	"time"

	"tickgate/internal/errlog"
)

// output is a file that leaves the process's standard output and error open.
type output struct{ *os.File }

func (o output) Close() error { return errlog.CloseFile(o.File) }

// shard is one of several buffers, so that requests do not wait for each other.
type shard struct {
	// Static after construction.
	maxLines, maxBytes int

	mu sync.Mutex
	// Guarded by mu.
	buf     []byte // whole lines
	lines   int    // in buf
	writing int    // lines that the writer goroutine holds
	held    int    // and their bytes
	spare   []byte // the buffer that the writer gave back
	peak    int    // most bytes in a buffer since the last trim
	closed  bool

	_ [64]byte // keeps the next shard's mutex off this cache line
}

// appendLocked takes a line, if there is room. wake is set by the line that fills the
// shard so far that the writer should come.
func (s *shard) appendLocked(text []byte) (taken, wake bool) {
	if s.closed || s.lines+s.writing >= s.maxLines || len(s.buf)+s.held+len(text) > s.maxBytes {
		return false, false
	}
	before := len(s.buf)
	s.buf = append(s.buf, text...)
	s.lines++
	const half = 2
	wake = before < wakeBytes && len(s.buf) >= wakeBytes || s.lines == (s.maxLines+1)/half
	return true, wake
}

// take hands what waits to the writer and leaves the spare buffer in its place.
func (s *shard) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.buf
	s.buf, s.spare = s.spare[:0], nil
	s.writing, s.lines = s.lines, 0
	s.held = len(full)
	return full
}

// giveBack returns the buffer that take gave, when its lines are written.
func (s *shard) giveBack(buf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing, s.held = 0, 0
	s.spare = buf[:0]
	s.peak = max(s.peak, len(buf))
}

// trim lets go of large buffers that were hardly used since the last trim: the burst that
// they grew in is over.
func (s *shard) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := max(keepBytes, 4*s.peak)
	if cap(s.spare) > room {
		s.spare = nil
	}
	if len(s.buf) == 0 && cap(s.buf) > room {
		s.buf = nil
	}
	s.peak = 0
}

func (s *shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// waiting returns the number of lines that are not known to be written.
func (s *shard) waiting() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.lines + s.writing)
}

// write is the writer goroutine. It ends after Close.
func (l *Logger) write(every time.Duration) {
	defer close(l.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	ticks := 0
	for {
		select {
		case <-tick.C:
			l.flush()
			if ticks++; ticks%trimTicks == 0 {
				l.trim()
			}
		case <-l.wake:
			l.flush()
		case f := <-l.todo:
			f()
		case <-l.quit:
			l.flush()
			l.report(l.out.Close())
			return
		}
	}
}

// flush writes what waits in all shards.
func (l *Logger) flush() {
	for i := range l.shards {
		s := &l.shards[i]
		buf := s.take()
		if len(buf) > 0 {
			l.writeLines(buf)
		}
		s.giveBack(buf)
	}
}

func (l *Logger) trim() {
	for i := range l.shards {
		l.shards[i].trim()
	}
}

// writeLines writes whole lines to the output. Lines that an error kept from being written
// whole are dropped, and the next ones begin on a line of their own.
func (l *Logger) writeLines(buf []byte) {
	if l.torn {
		if _, err := l.out.Write([]byte{'\n'}); err != nil {
			l.fail(buf, err)
			return
		}
		l.torn = false
	}
	n, err := l.out.Write(buf)
	if err == nil {
		return
	}
	l.torn = n > 0 && buf[n-1] != '\n'
	l.fail(buf[n:], err)
}

// fail counts the lines that end in rest as dropped.
func (l *Logger) fail(rest []byte, err error) {
	l.dropped.Add(uint64(bytes.Count(rest, []byte{'\n'})))
	l.report(err)
}

func (l *Logger) report(err error) {
	if err == nil {
		return
	}
	if f := l.onError.Load(); f != nil {
		(*f)(err)
	}
}
