package accesslog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tickgate/config"
)

// longFlush is a flush interval that never comes in a test.
const longFlush = time.Hour

// fakeOutput is an output that tests can hold up and make fail.
type fakeOutput struct {
	entered chan struct{} // a token for each write that begins; nil to ignore
	release chan struct{} // what a write waits for; nil not to wait

	mu     sync.Mutex
	text   bytes.Buffer
	take   int   // bytes that the next write takes before err
	err    error // of the next write
	closed bool
}

func (o *fakeOutput) Write(p []byte) (int, error) {
	if o.entered != nil {
		o.entered <- struct{}{}
	}
	if o.release != nil {
		<-o.release
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.err; err != nil {
		o.err = nil
		o.text.Write(p[:o.take])
		return o.take, err
	}
	return o.text.Write(p)
}

func (o *fakeOutput) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	return nil
}

func (o *fakeOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startTest runs a logger of paths on out.
func startTest(t testing.TB, out *fakeOutput, buffer, shards int) *Logger {
	t.Helper()
	f, err := Compile("${path}")
	if err != nil {
		t.Fatal(err)
	}
	return start(config.AccessLog{Buffer: buffer, Flush: longFlush}, f, out, shards)
}

// logPath logs a request for a path.
func logPath(l *Logger, path string) { l.Log(&Record{Path: []byte(path)}) }

func TestLinesAreWritten(t *testing.T) {
	out := &fakeOutput{}
	l := startTest(t, out, 16, 1)
	logPath(l, "/1")
	logPath(l, "/2")
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "/1\n/2\n" {
		t.Errorf("after Flush: %q", got)
	}
	logPath(l, "/3")
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "/1\n/2\n/3\n" || !out.closed {
		t.Errorf("after Close: %q, closed %t", got, out.closed)
	}
	logPath(l, "/4")
	if l.Dropped() != 1 {
		t.Errorf("%d dropped after Close, want 1", l.Dropped())
	}
	if err := l.Flush(); !errors.Is(err, ErrClosed) {
		t.Errorf("Flush after Close: %v, want ErrClosed", err)
	}
}

func TestTimeAndFillWakeTheWriter(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		out := &fakeOutput{entered: make(chan struct{})}
		f, err := Compile("${path}")
		if err != nil {
			t.Fatal(err)
		}
		l := start(config.AccessLog{Buffer: 16, Flush: time.Millisecond}, f, out, 1)
		logPath(l, "/1")
		<-out.entered // the test hangs if the writer does not come by itself
		closeNow(t, l, out)
	})
	t.Run("half of the lines", func(t *testing.T) {
		out := &fakeOutput{entered: make(chan struct{})}
		l := startTest(t, out, 16, 1)
		for range 8 {
			logPath(l, "/1")
		}
		<-out.entered
		closeNow(t, l, out)
	})
	t.Run("many bytes", func(t *testing.T) {
		out := &fakeOutput{entered: make(chan struct{})}
		l := startTest(t, out, 16384, 1)
		logPath(l, strings.Repeat("x", wakeBytes))
		<-out.entered
		closeNow(t, l, out)
	})
}

// closeNow closes the log whatever else its writer still writes.
func closeNow(t *testing.T, l *Logger, out *fakeOutput) {
	t.Helper()
	done := make(chan error)
	go func() { done <- l.Close() }()
	for {
		select {
		case <-out.entered:
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}

func TestStuckOutputDropsLinesAndNeverBlocks(t *testing.T) {
	for _, shards := range []int{1, 3} {
		out := &fakeOutput{entered: make(chan struct{}, 100), release: make(chan struct{})}
		l := startTest(t, out, 16, shards)
		// 1. The writer takes what is there and is stuck with it.
		for range 6 {
			logPath(l, "/early")
		}
		l.wakeWriter()
		<-out.entered
		// 2. Of many more, as many as the buffer holds wait, and the rest is dropped.
		for range 1000 {
			logPath(l, "/late")
		}
		if got := l.Dropped(); got != 1006-16 {
			t.Errorf("%d shards: %d dropped, want %d", shards, got, 1006-16)
		}
		// 3. The output takes bytes again: nothing that waited is lost.
		close(out.release)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "\n"); n != 16 {
			t.Errorf("%d shards: %d lines written, want 16", shards, n)
		}
	}
}

func TestBytesAreBounded(t *testing.T) {
	out := &fakeOutput{entered: make(chan struct{}, 100), release: make(chan struct{})}
	l := startTest(t, out, 16384, 1)
	const length = 100 << 10
	path := strings.Repeat("x", length-1)
	for range 1000 {
		logPath(l, path)
	}
	want := uint64(16384 * lineShare / length)
	if got := 1000 - l.Dropped(); got != want {
		t.Errorf("%d long lines wait, want %d", got, want)
	}
	close(out.release)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStuckOutputDoesNotHoldUpTheOperator(t *testing.T) {
	out := &fakeOutput{entered: make(chan struct{}, 100), release: make(chan struct{})}
	l := startTest(t, out, 16, 1)
	l.stuckAfter = time.Millisecond
	logPath(l, "/1")
	l.wakeWriter()
	<-out.entered
	logPath(l, "/2")
	if err := l.Flush(); !errors.Is(err, ErrStuck) {
		t.Errorf("Flush: %v, want ErrStuck", err)
	}
	if err := l.Close(); !errors.Is(err, ErrStuck) {
		t.Errorf("Close: %v, want ErrStuck", err)
	}
	if l.Dropped() != 2 {
		t.Errorf("%d dropped, want the 2 that were not taken", l.Dropped())
	}
	close(out.release)
	<-l.done
}

func TestFailedWrite(t *testing.T) {
	errFull := errors.New("disk full")
	out := &fakeOutput{}
	l := startTest(t, out, 16, 1)
	var told []error
	l.OnError(func(err error) { told = append(told, err) })
	flush := func() {
		t.Helper()
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	// 1. The disk is full in the middle of the second of three lines.
	for _, p := range []string{"/11", "/22", "/33"} {
		logPath(l, p)
	}
	out.take, out.err = len("/11\n/2"), errFull
	flush()
	if l.Dropped() != 2 || len(told) != 1 || !errors.Is(told[0], errFull) {
		t.Errorf("%d dropped, told %v; want 2 and %v", l.Dropped(), told, errFull)
	}
	// 2. It still is: the line end that is due does not fit either.
	logPath(l, "/44")
	out.take, out.err = 0, errFull
	flush()
	if l.Dropped() != 3 {
		t.Errorf("%d dropped, want 3", l.Dropped())
	}
	// 3. There is room again: the next line stands on its own.
	logPath(l, "/55")
	flush()
	if got, want := out.String(), "/11\n/2\n/55\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReopenLosesAndSplitsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := Open(config.AccessLog{Output: path, Format: "${path}", Buffer: 1 << 16, Flush: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	const goroutines, each, rotations = 4, 3000, 10
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				logPath(l, fmt.Sprintf("/%d/%d", g, i))
			}
		})
	}
	for i := range rotations {
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Dropped() != 0 {
		t.Fatalf("%d dropped", l.Dropped())
	}
	seen := map[string]bool{}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != rotations+1 {
		t.Fatalf("%d files, want %d (%v)", len(files), rotations+1, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			t.Errorf("%s ends within a line", filepath.Base(name))
		}
		for line := range strings.Lines(string(text)) {
			seen[line] = true
		}
	}
	for g := range goroutines {
		for i := range each {
			if line := fmt.Sprintf("/%d/%d\n", g, i); !seen[line] {
				t.Fatalf("line %q is lost", line)
			}
		}
	}
}

func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "access.log")
	l, err := Open(config.AccessLog{Output: path, Format: "combined", Buffer: 16, Flush: longFlush})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Reopen: %v, want ErrNotExist", err)
	}
	// The old file stays in use.
	logPath(l, "/1")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir+".moved", "access.log")); err != nil || len(text) == 0 {
		t.Errorf("got %q, %v, want a line", text, err)
	}
}

func TestOpenFails(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []config.AccessLog{
		{Output: filepath.Join(t.TempDir(), "none", "x"), Format: "json", Buffer: 16, Flush: longFlush},
		{Output: "stdout", Format: "${x}", Buffer: 16, Flush: longFlush},
		{Output: fifo, Format: "json", Buffer: 16, Flush: longFlush}, // nobody reads it
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestLargeBuffersAreLetGo(t *testing.T) {
	s := &shard{maxLines: 1 << 20, maxBytes: 1 << 30}
	turn := func(n int) {
		t.Helper()
		if taken, _ := s.appendLocked(make([]byte, n)); !taken {
			t.Fatal("no room")
		}
		s.giveBack(s.take())
	}
	check := func(step string, large bool) {
		t.Helper()
		if got := cap(s.buf) > keepBytes && cap(s.spare) > keepBytes; got != large {
			t.Errorf("%s: %d and %d bytes are kept, want large buffers: %t", step, cap(s.buf), cap(s.spare), large)
		}
	}
	turn(4 * keepBytes)
	turn(4 * keepBytes)
	s.trim()
	check("they were used", true)
	turn(100)
	turn(2 * keepBytes)
	s.trim()
	check("one was used by half", true)
	turn(100)
	s.trim()
	check("neither was used", false)
	if s.buf != nil || s.spare != nil {
		t.Error("one is left")
	}
}

// TestPipeThatNobodyReads fills a real pipe.
func TestPipeThatNobodyReads(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(config.AccessLog{Output: fifo, Format: "json", Buffer: 64, Flush: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l.stuckAfter = time.Millisecond
	r := sample()
	r.Path = bytes.Repeat([]byte("x"), 64<<10)
	for l.Dropped() == 0 {
		l.Log(r)
	}
	if err := l.Close(); !errors.Is(err, ErrStuck) {
		t.Errorf("Close: %v, want ErrStuck", err)
	}
	// Once it is read, the writer ends.
	go func() { _, _ = reader.WriteTo(discard{}) }()
	<-l.done
	reader.Close()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestOffIsNil(t *testing.T) {
	l, err := Open(config.AccessLog{Output: "off", Format: "json"})
	if l != nil || err != nil {
		t.Fatalf("got %v, %v, want nil", l, err)
	}
	logPath(l, "/1")
	l.OnError(nil)
	if err := errors.Join(l.Flush(), l.Reopen(), l.Close()); err != nil || l.Dropped() != 0 {
		t.Errorf("a nil logger does something: %v", err)
	}
}

// headers is what a request's fields are to Record.Header.
type headers struct{ value []byte }

func (h *headers) peek([]byte) []byte { return h.value }

func TestLogDoesNotAllocate(t *testing.T) {
	for _, f := range []string{"json", "combined", "${header:X} ${cookie:c} ${time_iso8601} ${uri} ${duration}"} {
		compiled, err := Compile(f)
		if err != nil {
			t.Fatal(err)
		}
		l := start(config.AccessLog{Buffer: 16384, Flush: longFlush}, compiled, &nullOutput{}, 2)
		template := sample()
		template.UserAgent = []byte("a\"\xff\u00e9\n")
		h := &headers{[]byte("Basic YTpi")}
		run := func() {
			r := *template // on the stack, as in a handler
			r.Header = h.peek
			l.Log(&r)
		}
		for range 2000 {
			run() // lets the buffers grow
		}
		if allocs := testing.AllocsPerRun(5000, run); allocs != 0 && !raceOn {
			t.Errorf("%s: %v allocations a line, want none", f, allocs)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// nullOutput takes everything.
type nullOutput struct{ n int }

func (o *nullOutput) Write(p []byte) (int, error) { o.n += len(p); return len(p), nil }
func (o *nullOutput) Close() error                { return nil }

// BenchmarkLog is what a line costs a request, formatting included: about 480 ns as JSON of
// 560 bytes and 260 ns as "combined". Two goroutines that do nothing but log, millions of lines
// a second, leave the writer no processor to run on, so some of theirs are dropped.
func BenchmarkLog(b *testing.B) {
	for _, f := range []string{"json", "combined"} {
		for _, goroutines := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", f, goroutines), func(b *testing.B) { benchmarkLog(b, f, goroutines) })
		}
	}
}

func benchmarkLog(b *testing.B, format string, goroutines int) {
	compiled, err := Compile(format)
	if err != nil {
		b.Fatal(err)
	}
	out := &nullOutput{}
	l := start(config.AccessLog{Buffer: 1 << 14, Flush: 500 * time.Millisecond}, compiled, out, 2)
	b.ReportAllocs()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			r := sample()
			r.Time = time.Now()
			r.Header = (&headers{[]byte("Basic YTpi")}).peek
			for range b.N/goroutines + 1 {
				l.Log(r)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	if out.n == 0 {
		b.Fatal("nothing was written")
	}
	b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
}
