package replay

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"tickgate/loadtest/httpload"
)

var (
	// ErrOptions is returned for options that make no replay.
	ErrOptions = errors.New("replay: bad options")
	// ErrFlaw ends a strict replay at the first line that is at fault.
	ErrFlaw = errors.New("replay: flaw in the log")
)

// Options says what to replay, and how.
type Options struct {
	// Files are merged by the times in them, so rotated ones may come in any order, and logs of
	// several servers go together. [Stdin] is the standard input.
	Files []string
	Stdin io.Reader
	// Format and Fields are as in [Compile].
	Format, Fields string

	// Speed divides the distances in time; 0 is 1.
	Speed float64
	// Bursts must not overlap.
	Bursts []Burst
	// Window is how far a line may be behind the latest one before it is late; it is
	// rounded up to seconds. 0 is none: lines of the same second only.
	Window time.Duration
	// FromStart takes the logged duration off the logged time, which is that of the end.
	FromStart bool

	// Methods are replayed, others passed over; nil is GET, HEAD and OPTIONS, and "any" alone all
	// but CONNECT, TRACE and PRI.
	Methods []string
	// Bodies is what to send with methods other than GET, HEAD and OPTIONS; "" is BodiesNone.
	Bodies Bodies
	// KeepHost sends the logged host; otherwise all requests name the target's.
	KeepHost bool
	// Strict ends the replay at the first flaw; see [Reason.Flaw].
	Strict bool
}

// Flaw is an example of a line that is at fault.
type Flaw struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
	Text   string `json:"text"` // its beginning
}

const (
	examples = 5   // flaws that are kept
	shown    = 120 // bytes of one
)

// Counts is what a replay found in the log.
type Counts struct {
	Lines int64 `json:"lines"`
	// Requests were taken from the log, and Copies added by bursts.
	Requests int64 `json:"requests"`
	Copies   int64 `json:"copies"`
	// Flawed lines and Skipped ones, by Reason.
	Flawed  map[string]int64 `json:"flawed"`
	Skipped map[string]int64 `json:"skipped"`
	// Late lines were older than the window allows; Crowded seconds were given out before
	// the window was over, since it was full.
	Late    int64 `json:"late"`
	Crowded int64 `json:"crowded"`
	// CutBodies were longer than MaxBody. DroppedFields held bytes that no field may.
	CutBodies     int64 `json:"cut_bodies"`
	DroppedFields int64 `json:"dropped_fields"`
	// Statuses are the logged ones of the requests.
	Statuses map[int]int64 `json:"statuses"`
	Examples []Flaw        `json:"examples,omitempty"`
}

// Source implements [httpload.Source]. A goroutine reads ahead, so that neither a disk nor
// gzip delays a request.
type Source struct {
	batches chan []entry
	done    chan struct{} // closed by Close
	ended   chan struct{} // closed by the reader

	// Owned by the reader until it has ended.
	o       Options
	format  *Format
	builder *builder
	window  window
	logs    []*log
	counts  Counts
	err     error

	// Owned by the caller of Next.
	batch  []entry
	ahead  *httpload.Request // the request behind the current one; nil at the end
	at     int64             // its time
	start  int64
	begun  bool
	copier copier
	copied int64
	now    *httpload.Request // sent again left times, each step later
	left   int
	step   time.Duration
	due    time.Duration // of the last request given out

	close sync.Once
	stdin io.Closer // ends a Read of the standard input; nil if it is not read
}

var _ httpload.Source = (*Source)(nil)

// log is a file and its next request.
type log struct {
	*file
	next entry
}

// batchLen is how many requests are handed on at once; a few such wait for Next.
const batchLen = 1024

// Open checks the options, opens the files and begins to read. Close must be called.
func Open(o Options) (*Source, error) {
	if o.Speed == 0 {
		o.Speed = 1
	}
	if !(o.Speed > 0 && o.Speed <= 1e6) || o.Window < 0 || o.Window > time.Hour {
		return nil, fmt.Errorf("%w: speed %v, window %v (want more than 0 and at most 1000000, and at most 1h)", ErrOptions, o.Speed, o.Window)
	}
	if len(o.Files) == 0 || len(o.Files) > maxFiles {
		return nil, fmt.Errorf("%w: %d log files (want 1 to %d)", ErrOptions, len(o.Files), maxFiles)
	}
	if err := checkBursts(o.Bursts); err != nil {
		return nil, err
	}
	s := &Source{
		o: o, batches: make(chan []entry, 4), done: make(chan struct{}), ended: make(chan struct{}),
		copier: copier{bursts: o.Bursts},
		window: window{span: int64((o.Window + time.Second - 1) / time.Second), limit: maxWindow, past: floorSecond(-1 << 62)},
		counts: Counts{Flawed: map[string]int64{}, Skipped: map[string]int64{}, Statuses: map[int]int64{}},
	}
	var err error
	if s.format, err = Compile(o.Format, o.Fields); err != nil {
		return nil, err
	}
	if s.builder, err = newBuilder(&o); err != nil {
		return nil, err
	}
	for _, name := range o.Files {
		f, err := openFile(name, o.Stdin)
		if err != nil {
			s.closeFiles()
			return nil, err
		}
		s.logs = append(s.logs, &log{file: f})
		if name == Stdin {
			s.stdin = f.in
		}
	}
	go s.read()
	return s, nil
}

// checkBursts demands bursts that do not overlap.
func checkBursts(bursts []Burst) error {
	for i, b := range bursts {
		for _, other := range bursts[:i] {
			if b.has(other.At) || other.has(b.At) {
				return fmt.Errorf("%w: two at %v", ErrBurst, max(b.At, other.At))
			}
		}
		if !b.valid() {
			return fmt.Errorf("%w: %+v", ErrBurst, b)
		}
	}
	return nil
}

// Close ends reading and closes the files. It returns what ended reading before the end of the
// log, if something did. It may be called again, and from any goroutine: a Next that waits returns.
func (s *Source) Close() error {
	s.close.Do(func() {
		close(s.done)
		if s.stdin != nil {
			_ = s.stdin.Close()
		}
	})
	<-s.ended
	if errors.Is(s.err, io.ErrClosedPipe) { // that was us
		return nil
	}
	return s.err
}

// Counts is what has been found; to be called after Close.
func (s *Source) Counts() Counts {
	c := s.counts
	c.Copies = s.copied
	c.Late, c.Crowded = s.window.late, s.window.crowded
	c.CutBodies, c.DroppedFields = s.builder.cut, s.builder.plain
	return c
}

// read is the reader's goroutine.
func (s *Source) read() {
	defer close(s.ended)
	defer close(s.batches)
	defer s.closeFiles()
	for i := len(s.logs) - 1; i >= 0 && s.err == nil; i-- {
		s.advance(i)
	}
	for len(s.logs) > 0 && s.err == nil {
		i := s.earliest()
		s.window.add(s.logs[i].next)
		s.advance(i)
		if !s.give(false) {
			return
		}
	}
	s.give(true)
}

// earliest is the log whose next request comes first.
func (s *Source) earliest() (first int) {
	for i, l := range s.logs {
		if l.next.at < s.logs[first].next.at {
			first = i
		}
	}
	return first
}

// advance reads on in a log until it has a request, and forgets the log at its end.
func (s *Source) advance(i int) {
	l := s.logs[i]
	for s.err == nil {
		line, tooLong, err := l.file.next()
		if errors.Is(err, io.EOF) {
			_ = l.in.Close()
			s.logs = append(s.logs[:i], s.logs[i+1:]...)
			return
		}
		if err != nil {
			s.err = err
			return
		}
		var r Reason
		if l.next, r = s.parse(line, tooLong); r == OK {
			return
		}
		s.note(l.file, line, r)
	}
}

// parse makes the request of a line.
func (s *Source) parse(line []byte, tooLong bool) (e entry, r Reason) {
	s.counts.Lines++
	if tooLong {
		return e, TooLong
	}
	var rec record
	if r := s.format.read(line, &rec); r != OK {
		return e, r
	}
	e, status, r := s.builder.build(&rec)
	if r == OK {
		s.counts.Requests++
		s.counts.Statuses[status]++
	}
	return e, r
}

// note counts a line that is no request.
func (s *Source) note(f *file, line []byte, r Reason) {
	if !r.Flaw() {
		s.counts.Skipped[r.String()]++
		return
	}
	s.counts.Flawed[r.String()]++
	text := string(line[:min(len(line), shown)])
	if len(s.counts.Examples) < examples {
		s.counts.Examples = append(s.counts.Examples, Flaw{f.name, f.line, r.String(), text})
	}
	if s.o.Strict {
		s.err = fmt.Errorf("%w: %s:%d: %v: %q", ErrFlaw, f.name, f.line, r, text)
	}
}

// give hands on the seconds that are complete. It returns false once Close was called.
func (s *Source) give(end bool) bool {
	for {
		entries := s.window.next(end)
		if entries == nil {
			return true
		}
		for len(entries) > 0 {
			n := min(len(entries), batchLen)
			select {
			case s.batches <- entries[:n:n]:
			case <-s.done:
				return false
			}
			entries = entries[n:]
		}
	}
}

func (s *Source) closeFiles() {
	for _, l := range s.logs {
		_ = l.in.Close()
	}
}

// Ready waits until the first request has been read, so that reading the first window takes no
// time of the run. It is for the goroutine that calls Next.
func (s *Source) Ready() {
	if !s.begun {
		s.begun = true
		s.look()
		s.start = s.at
	}
}

// Next implements [httpload.Source]. The request must not be changed. It waits if reading
// has fallen behind.
func (s *Source) Next() (due time.Duration, r *httpload.Request, ok bool) {
	if s.left > 0 {
		s.left--
		s.due += s.step
		s.copied++
		return s.due, s.now, true
	}
	s.Ready()
	if s.ahead == nil {
		return 0, nil, false
	}
	s.now = s.ahead
	due = s.after()
	s.look()
	n, step := s.copier.copies(due, s.after())
	s.left, s.step, s.due = n-1, step, due
	return due, s.now, true
}

// after is when the request ahead is due; behind the last one it is that one's time. Times never
// go back: what comes late goes out at once.
func (s *Source) after() time.Duration {
	const longest = float64(1 << 62) // slowed down very much
	return max(time.Duration(min(float64(s.at-s.start)/s.o.Speed, longest)), s.due)
}

// look takes the next request from the reader.
func (s *Source) look() {
	for len(s.batch) == 0 {
		var ok bool
		if s.batch, ok = <-s.batches; !ok {
			s.ahead = nil
			return
		}
	}
	s.ahead, s.at = s.batch[0].request, s.batch[0].at
	s.batch[0] = entry{} // the batch lives on, the request need not
	s.batch = s.batch[1:]
}
