package errlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"tickgate/config"
)

// settingsOf returns a configuration with the given level and format.
func settingsOf(level, format string) config.ErrorLog {
	return config.ErrorLog{Level: level, Format: format, Throttle: 2}
}

// newTest returns a logger that writes to a buffer at a time that stands still.
func newTest(t *testing.T, o config.ErrorLog) (*Logger, *bytes.Buffer, *time.Time) {
	t.Helper()
	var buf bytes.Buffer
	l, err := New(&buf, o)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 15, 4, 5, 678e6, time.UTC)
	l.now = func() time.Time { return now }
	return l, &buf, &now
}

func TestJSONLine(t *testing.T) {
	l, buf, _ := newTest(t, settingsOf("info", "json"))
	l.Error().Str("backend", "10.0.0.1:80").Str("evil", "a\nb").Msg("backend is down")
	want := `{"level":"error","backend":"10.0.0.1:80","evil":"a\nb","time":"2026-01-02T15:04:05.678Z","message":"backend is down"}` + "\n"
	if got := buf.String(); got != want {
		t.Errorf("got  %s want %s", got, want)
	}
}

func TestAutoIsJSONOffATerminal(t *testing.T) {
	l, buf, _ := newTest(t, settingsOf("info", "auto"))
	l.Info().Msg("hello")
	if !json.Valid(buf.Bytes()) {
		t.Errorf("not JSON: %s", buf)
	}
}

func TestConsoleLine(t *testing.T) {
	l, buf, _ := newTest(t, settingsOf("info", "console"))
	line := func(log func()) string {
		buf.Reset()
		log()
		_, text, _ := strings.Cut(buf.String(), " ") // the time is local
		return text
	}
	for _, c := range []struct {
		got, want string
	}{
		{line(func() { l.Warn().Str("upstream", "be").Int("n", 3).Msg("backend is down") }), "WRN backend is down                  n=3 upstream=be\n"},
		{line(func() { l.Error().Err(errors.New("x y")).Msg("m") }), "ERR m                                error=\"x y\"\n"},
		{line(func() { l.Info().Str("k", "a\nERR forged\x1b[2J\u009b").Msg("m") }), "INF m                                k=\"a\\nERR forged\\x1b[2J\\u009b\"\n"},
		{line(func() { l.Info().Msg("a\nERR forged") }), "INF \"a\\nERR forged\"                 \n"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestConsoleColour(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	var buf bytes.Buffer
	for _, colour := range []bool{true, false} {
		buf.Reset()
		log := zerolog.New(newConsole(&buf, colour))
		log.Warn().Msg("m")
		if got := strings.Contains(buf.String(), "\x1b["); got != colour {
			t.Errorf("colour %t: got %q", colour, buf.String())
		}
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[string]string{
		"debug": "debug info warn error",
		"info":  "info warn error",
		"":      "info warn error",
		"warn":  "warn error",
		"error": "error",
	} {
		l, buf, _ := newTest(t, settingsOf(level, "json"))
		l.Debug().Msg("")
		l.Info().Msg("")
		l.Warn().Msg("")
		l.Error().Msg("")
		var got []string
		for line := range strings.Lines(buf.String()) {
			var e struct{ Level string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Level)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("level %q lets %v through, want %s", level, got, want)
		}
	}
	if _, err := New(io.Discard, settingsOf("loud", "json")); err == nil {
		t.Error("no error for an unknown level")
	}
}

func TestNilLoggerIsSilent(t *testing.T) {
	var l *Logger
	l.Info().Str("a", "b").Msg("m")
	l.Event(zerolog.ErrorLevel, "e").Msg("m")
	l.Printer("p").Printf("x")
	log := l.Zerolog()
	log.Error().Msg("m")
	if err := errors.Join(l.Reopen(), l.Close(), l.Reconfigure(settingsOf("info", "json"))); err != nil {
		t.Error(err)
	}
}

func TestEventIsThrottled(t *testing.T) {
	l, buf, now := newTest(t, settingsOf("info", "json")) // 2 a second
	event := func(name string) string {
		buf.Reset()
		l.Event(zerolog.WarnLevel, name).Msg("m")
		text, _, _ := strings.Cut(buf.String(), `,"time"`)
		return text
	}
	const plain = `{"level":"warn","event":"a"`
	for i, step := range []struct {
		got, want string
	}{
		{event("a"), plain},
		{event("a"), plain},
		{event("a"), ""},
		{event("a"), ""},
		{event("a"), ""},
		{event("b"), `{"level":"warn","event":"b"`},
		{func() string { *now = now.Add(time.Second); return event("a") }(), plain + `,"suppressed":3`},
		{event("a"), plain},
		{event("a"), ""},
	} {
		if step.got != step.want {
			t.Errorf("step %d: got %q, want %q", i+1, step.got, step.want)
		}
	}
	// What is still suppressed at the end is told by Close.
	buf.Reset()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if want := plain + `,"suppressed":1`; !strings.HasPrefix(buf.String(), want) || strings.Count(buf.String(), "\n") != 1 {
		t.Errorf("Close wrote %q, want one line %q", buf.String(), want)
	}
}

func TestUnwantedLevelsUseNoAllowance(t *testing.T) {
	l, buf, _ := newTest(t, settingsOf("warn", "json"))
	for range 10 {
		l.Event(zerolog.DebugLevel, "a").Msg("m")
	}
	l.Event(zerolog.WarnLevel, "a").Msg("m")
	if strings.Count(buf.String(), "\n") != 1 || strings.Contains(buf.String(), "suppressed") {
		t.Errorf("got %q, want one line", buf)
	}
}

func TestSuppressedEventsDoNotAllocate(t *testing.T) {
	l, _, _ := newTest(t, settingsOf("info", "json"))
	allocs := testing.AllocsPerRun(1000, func() {
		l.Event(zerolog.WarnLevel, "flood").Str("client", "1.2.3.4").Int("n", 1).Msg("m")
	})
	if allocs != 0 && !raceOn {
		t.Errorf("%v allocations for a suppressed line, want none", allocs)
	}
}

func TestPrinter(t *testing.T) {
	l, buf, _ := newTest(t, settingsOf("info", "json"))
	p := l.Printer("fasthttp")
	for range 5 {
		p.Printf("error when serving %q", "x\ny")
	}
	if got := strings.Count(buf.String(), `"event":"fasthttp","text":"error when serving \"x\\ny\""`); got != 2 {
		t.Errorf("%d lines, want 2: %s", got, buf)
	}
}

func TestThrottleBoundsItsEvents(t *testing.T) {
	throttle, now := NewThrottle(1), time.Unix(1, 0)
	for i := range maxEvents {
		if ok, _ := throttle.Allow(fmt.Sprint(i), now); !ok {
			t.Fatalf("event %d was suppressed", i)
		}
	}
	// From here on they share one allowance.
	for i, want := range []bool{true, false, false} {
		if ok, _ := throttle.Allow(fmt.Sprint("more", i), now); ok != want {
			t.Errorf("event %d beyond the bound: %t, want %t", i, ok, want)
		}
	}
	var got []string
	throttle.Drain(func(event string, n uint64) { got = append(got, fmt.Sprint(event, n)) })
	if len(got) != 1 || got[0] != "other2" {
		t.Errorf("suppressed %v, want other2", got)
	}
}

func TestThrottleCountsEveryLine(t *testing.T) {
	throttle, now := NewThrottle(5), time.Unix(1, 0)
	const goroutines, each = 8, 500
	var mu sync.Mutex
	allowed, suppressed := 0, uint64(0)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				if ok, n := throttle.Allow("e", now); ok {
					mu.Lock()
					allowed++
					suppressed += n
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	throttle.Drain(func(_ string, n uint64) { suppressed += n })
	if allowed != 5 || suppressed != goroutines*each-5 {
		t.Errorf("%d allowed and %d suppressed, want 5 and %d", allowed, suppressed, goroutines*each-5)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "error.log")
	o := config.ErrorLog{Output: path, Format: "auto", Level: "info", Throttle: 1}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("two")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("three")
	wantMessages(t, path+".1", "one", "two")
	wantMessages(t, path, "three")

	// A reload can change level and file.
	o.Output, o.Level = path+".new", "error"
	if err := l.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("unwanted")
	l.Error().Msg("four")
	wantMessages(t, path+".new", "four")

	// What cannot be opened changes nothing.
	bad := o
	bad.Output = filepath.Join(path, "below-a-file")
	if err := l.Reconfigure(bad); err == nil {
		t.Error("no error for an impossible file")
	}
	bad = o
	bad.Level = "loud"
	if err := l.Reconfigure(bad); err == nil {
		t.Error("no error for an unknown level")
	}
	l.Error().Msg("five")
	wantMessages(t, path+".new", "four", "five")

	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if err := l.Reopen(); !errors.Is(err, ErrClosed) {
		t.Errorf("Reopen after Close: %v, want ErrClosed", err)
	}
}

func TestOpenFails(t *testing.T) {
	for _, o := range []config.ErrorLog{
		{Output: filepath.Join(t.TempDir(), "none", "x.log"), Level: "info"},
		{Output: filepath.Join(t.TempDir(), "x.log"), Level: "loud"},
	} {
		if l, err := Open(o); err == nil {
			t.Errorf("%+v: opened %v, want an error", o, l)
		}
	}
}

func TestStandardOutputsStayOpen(t *testing.T) {
	for _, name := range []string{"stdout", "stderr"} {
		out, err := OpenOutput(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(out.Reopen(), out.Close()); err != nil {
			t.Error(err)
		}
		if _, err := out.Write(nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
	if _, err := os.Stdout.Stat(); err != nil {
		t.Errorf("standard output is gone: %v", err)
	}
}

// wantMessages checks the messages of a JSON log file.
func wantMessages(t *testing.T, path string, want ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		var e struct{ Message string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, e.Message)
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("%s holds %v, want %v", filepath.Base(path), got, want)
	}
}
