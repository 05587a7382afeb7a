package accesslog

import (
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/config"
	"tickgate/internal/errlog"
)

// The back-pressure of the access log, in the order in which it is met. A request never
// waits in any of these steps.
const (
	// wakeBytes in one shard wake the writer before its time.
	wakeBytes = 64 << 10
	// lineShare is the room for one line of log.access.buffer. Lines are dropped when either
	// that many lines or that many bytes wait.
	lineShare = 1 << 10
	// minBytes is the room that even a small buffer has, so that a long line fits.
	minBytes = 1 << 20
	// keepBytes is the size up to which a buffer is kept for reuse even when it is hardly used.
	keepBytes = 256 << 10
	// trimTicks is the number of flush intervals after which larger ones are looked at.
	trimTicks = 20
	// stuckAfter is how long Close, Flush and Reopen wait for an output that does not take
	// its bytes.
	stuckAfter = 2 * time.Second
)

var (
	// ErrClosed is returned by Flush and Reopen after Close.
	ErrClosed = errors.New("accesslog: log is closed")
	// ErrStuck is returned when the output takes no bytes, such as a pipe that nobody reads.
	ErrStuck = errors.New("accesslog: output is stuck")
)

// Logger writes access log lines. A nil Logger is valid and logs nothing: that is "off".
// It is safe for concurrent use.
type Logger struct {
	// Static after construction.
	name       string
	format     *Format
	shards     []shard
	scratch    sync.Pool // of *line
	stuckAfter time.Duration

	// Owned by the writer goroutine.
	out  io.WriteCloser
	torn bool // the last write ended within a line

	wake chan struct{} // capacity 1
	todo chan func()   // to be done by the writer goroutine
	quit chan struct{} // closed by Close
	done chan struct{} // closed by the writer goroutine

	once     sync.Once // of Close
	closeErr error     // guarded by once

	dropped atomic.Uint64
	onError atomic.Pointer[func(error)]
}

// line is a buffer to format one line in.
type line struct{ buf []byte }

// Open opens the access log that o describes and starts its writer. With o.Output "off"
// it returns nil, which is valid.
func Open(o config.AccessLog) (*Logger, error) {
	if o.Output == "off" || o.Output == "" {
		return nil, nil
	}
	format, err := Compile(o.Format)
	if err != nil {
		return nil, err
	}
	out, err := openOutput(o.Output)
	if err != nil {
		return nil, err
	}
	return start(o, format, out, runtime.GOMAXPROCS(0)), nil
}

func openOutput(name string) (io.WriteCloser, error) {
	f, err := errlog.OpenFile(name)
	if err != nil {
		return nil, err
	}
	return output{f}, nil
}

// start makes a logger of the given number of shards and runs its writer.
func start(o config.AccessLog, format *Format, out io.WriteCloser, shards int) *Logger {
	l := &Logger{
		name:       o.Output,
		format:     format,
		shards:     make([]shard, shards),
		stuckAfter: stuckAfter,
		out:        out,
		wake:       make(chan struct{}, 1),
		todo:       make(chan func()),
		quit:       make(chan struct{}),
		done:       make(chan struct{}),
	}
	l.scratch.New = func() any { return &line{buf: make([]byte, 0, lineShare)} }
	for i := range l.shards {
		// Shares differ by one line where the buffer does not divide evenly.
		lines := (o.Buffer + i) / shards
		l.shards[i].maxLines = lines
		l.shards[i].maxBytes = max(o.Buffer*lineShare, minBytes) / shards
	}
	go l.write(o.Flush)
	return l
}

// Log takes a line for r. It never blocks and in steady state never allocates.
func (l *Logger) Log(r *Record) {
	if l == nil {
		return
	}
	b := l.scratch.Get().(*line)
	b.buf = append(l.format.Append(b.buf[:0], r), '\n')
	l.put(b.buf)
	if cap(b.buf) <= wakeBytes {
		l.scratch.Put(b)
	}
}

// put hands a line to a shard that has room and is not busy, or drops it.
func (l *Logger) put(text []byte) {
	first := 0
	if len(l.shards) > 1 {
		first = int(rand.Uint32N(uint32(len(l.shards))))
	}
	for i := range l.shards {
		s := &l.shards[(first+i)%len(l.shards)]
		last := i == len(l.shards)-1
		// Fast path: nobody else is at this shard. The wait for the last one is short, as a
		// shard is only held while a line is copied.
		if !s.mu.TryLock() {
			if !last {
				continue
			}
			s.mu.Lock()
		}
		taken, wake := s.appendLocked(text)
		s.mu.Unlock()
		if taken {
			if wake {
				l.wakeWriter()
			}
			return
		}
	}
	l.dropped.Add(1)
}

func (l *Logger) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Dropped returns the number of lines that were lost because too many waited, the output
// failed, or the log was closed.
func (l *Logger) Dropped() uint64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

// OnError makes f be called, by the writer goroutine, with each error of the output.
func (l *Logger) OnError(f func(error)) {
	if l != nil {
		l.onError.Store(&f)
	}
}

// Flush writes the lines logged so far. It returns ErrStuck if the output does not take
// them in time.
func (l *Logger) Flush() error {
	if l == nil {
		return nil
	}
	return l.run(l.flush)
}

// Reopen writes the lines logged so far, then goes over to a newly opened file of the same
// name (SIGUSR1, after a log rotation). No line is lost or split. On error the old file
// stays in use.
func (l *Logger) Reopen() error {
	if l == nil {
		return nil
	}
	out, err := openOutput(l.name)
	if err != nil {
		return err
	}
	err = l.run(func() {
		l.flush()
		l.report(l.out.Close())
		l.out, l.torn = out, false
	})
	if err != nil {
		_ = out.Close() // never written to
	}
	return err
}

// run has the writer goroutine do f and waits for it. If the writer does not take f in
// time, f is never done.
func (l *Logger) run(f func()) error {
	finished := make(chan struct{})
	timeout := time.NewTimer(l.stuckAfter)
	defer timeout.Stop()
	select {
	case l.todo <- func() { f(); close(finished) }:
	case <-l.done:
		return ErrClosed
	case <-timeout.C:
		return ErrStuck
	}
	<-finished
	return nil
}

// Close writes what waits and closes the output. If the output is stuck it gives up with
// ErrStuck; what it did not take counts as dropped. Lines logged after Close are dropped.
// It may be called more than once.
func (l *Logger) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Logger) close() error {
	for i := range l.shards {
		l.shards[i].close()
	}
	close(l.quit)
	timeout := time.NewTimer(l.stuckAfter)
	defer timeout.Stop()
	select {
	case <-l.done:
		return nil
	case <-timeout.C:
	}
	for i := range l.shards {
		l.dropped.Add(l.shards[i].waiting())
	}
	return ErrStuck
}
