package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what is found to testdata")

// open opens a source that the end of the test closes.
func open(t testing.TB, o Options) *Source {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// listing is all that a replay would send, a line each, and what was counted.
func listing(t testing.TB, o Options) string {
	t.Helper()
	s := open(t, o)
	var b strings.Builder
	for {
		due, r, ok := s.Next()
		if !ok {
			break
		}
		fmt.Fprintf(&b, "%.6f %s %s %s", due.Seconds(), r.Name, r.Method, r.Path)
		for _, f := range r.Header {
			fmt.Fprintf(&b, " | %s: %s", f.Name, f.Value)
		}
		if r.Body != nil {
			fmt.Fprintf(&b, " | %d bytes", len(r.Body))
		}
		b.WriteByte('\n')
	}
	if err := s.Close(); err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
	}
	counts := s.Counts()
	_, _ = counts.WriteTo(&b)
	return b.String()
}

// lines replays a text.
func lines(t testing.TB, o Options, text ...string) string {
	t.Helper()
	o.Files, o.Stdin = []string{Stdin}, strings.NewReader(strings.Join(text, "\n"))
	return listing(t, o)
}

// Each testdata/NAME.log becomes what testdata/NAME.want lists.
func TestLogs(t *testing.T) {
	f := func(name string, o Options) {
		t.Helper()
		o.Files = []string{filepath.Join("testdata", name+".log")}
		got := listing(t, o)
		path := filepath.Join("testdata", name+".want")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	window := 5 * time.Second
	f("combined", Options{KeepHost: true, Window: window})
	f("common", Options{Format: "common", Methods: []string{"any"}})
	f("main", Options{
		Format: `log_format main escape=default '$msec $http_host "$request" $status $request_length '
			'$request_time "$http_user_agent" "$http_x_forwarded_for"';`,
		KeepHost: true, Window: window, Methods: []string{"any"}, Bodies: BodiesZero,
	})
	f("start", Options{Format: `${time_iso8601} ${method} ${uri} ${status} ${duration}`, Window: window, FromStart: true})
	f("tickgate", Options{KeepHost: true, Window: window, Methods: []string{"any"}, Bodies: BodiesZero})
	f("json", Options{Format: "json", Fields: "time=when,uri=what", KeepHost: true, Window: window})
	f("hostile", Options{KeepHost: true, Methods: []string{"any"}})
	f("order", Options{Window: 2 * time.Second})
	f("strict", Options{Strict: true})
	f("speed", Options{Speed: 10, Bursts: []Burst{{Factor: 3, At: 100 * time.Millisecond, For: 200 * time.Millisecond}}})
}

func TestSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	line := func(second, path string) string {
		return `127.0.0.1 - - [02/Jan/2026:10:00:` + second + ` +0000] "GET ` + path + ` HTTP/1.1" 200 1 "-" "-"` + "\n"
	}
	write := func(name, text string, zipped bool) string {
		var b bytes.Buffer
		b.WriteString(text)
		if zipped {
			b.Reset()
			z := gzip.NewWriter(&b)
			_, _ = z.Write([]byte(text))
			_ = z.Close()
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := []string{
		write("access.log", line("07", "/5")+line("08", "/6"), false),
		write("access.log.1", "\n"+line("03", "/3")+"\r\n"+line("04", "/4"), false),
		write("access.log.2.gz", line("01", "/1")+line("03", "/2"), true),
		write("empty.log", "", false),
	}
	got := listing(t, Options{Files: files})
	want := "0.000000 logged 200 GET /1\n2.000000 logged 200 GET /3\n2.500000 logged 200 GET /2\n3.000000 logged 200 GET /4\n" +
		"6.000000 logged 200 GET /5\n7.000000 logged 200 GET /6\nlog         6 lines, 6 requests, 0 copies in bursts\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}

	whole, err := os.ReadFile(files[2])
	if err != nil {
		t.Fatal(err)
	}
	torn := write("torn.gz", string(whole[:len(whole)-10]), false)
	if got := listing(t, Options{Files: []string{torn}}); !strings.Contains(got, "error: read "+torn) {
		t.Errorf("a torn file gives\n%s", got)
	}
	if _, err := Open(Options{Files: []string{filepath.Join(dir, "none")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is absent: %v", err)
	}
}

func TestLongLine(t *testing.T) {
	long := `{"time":"2026-01-02T10:00:00Z","method":"GET","path":"/` + strings.Repeat("x", maxLine) + `"}`
	got := lines(t, Options{}, long, `{"time":"2026-01-02T10:00:00Z","method":"GET","path":"/a"}`)
	if !strings.HasPrefix(got, "0.000000 logged none GET /a\n") || !strings.Contains(got, "too_long 1") || len(got) > 500 {
		t.Errorf("got %s", got)
	}
}

// A reader that never gives anything does not keep Close, or a Next that waits.
func TestCloseWhileReading(t *testing.T) {
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	s := open(t, Options{Files: []string{Stdin}, Stdin: r})
	next := make(chan bool)
	go func() {
		_, _, ok := s.Next()
		next <- ok
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if <-next {
		t.Error("a request out of nothing")
	}
}

// A log that is never read to its end holds on to nothing.
func TestCloseEarly(t *testing.T) {
	line := `{"time":"2026-01-02T10:00:00Z","method":"GET","path":"/a"}` + "\n"
	s := open(t, Options{Files: []string{Stdin}, Stdin: strings.NewReader(strings.Repeat(line, 50_000))})
	if _, _, ok := s.Next(); !ok {
		t.Fatal("no request")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error, text string) {
		t.Helper()
		if o.Files == nil {
			o.Files, o.Stdin = []string{Stdin}, strings.NewReader("")
		}
		s, err := Open(o)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %v with %q", err, want, text)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	f(Options{Files: []string{}}, ErrOptions, "0 log files")
	f(Options{Speed: -1}, ErrOptions, "speed -1")
	f(Options{Window: 2 * time.Hour}, ErrOptions, "window 2h")
	f(Options{Methods: []string{"CONNECT"}}, ErrOptions, "never replayed")
	f(Options{Methods: []string{"get"}}, ErrOptions, "upper-case")
	f(Options{Bodies: "some"}, ErrOptions, `bodies "some"`)
	f(Options{Bursts: []Burst{{2, time.Second, 0}, {2, time.Second, time.Second / 2}}}, ErrBurst, "two at 500ms")
	f(Options{Bursts: []Burst{{}}}, ErrBurst, "Factor:0")
	f(Options{Fields: "when=ts"}, ErrFormat, `field "when=ts"`)
	f(Options{Format: "$time_local$request"}, ErrFormat, "no text between $request")
	f(Options{Format: "$time_local $status"}, ErrFormat, "no request")
	f(Options{Format: "${request"}, ErrFormat, "without a name")
	f(Options{Format: "$ $request"}, ErrFormat, "without a name")
	f(Options{Format: "log_format main '$request"}, ErrFormat, "not closed")
	f(Options{Format: "log_format main"}, ErrFormat, "without a format")
	f(Options{Format: "log_format a b c 'd';"}, ErrFormat, "want strings")
}

func TestParseBurst(t *testing.T) {
	if b, err := ParseBurst("2.5x8s@1m"); err != nil || b != (Burst{2.5, 8 * time.Second, time.Minute}) {
		t.Errorf("%+v, %v", b, err)
	}
	for _, s := range []string{"", "3", "3x8s", "0.5x8s@0s", "NaNx1s@0s", "3x0s@1s", "3x8s@-1s", "1001x1s@0s", "3x8@60"} {
		if b, err := ParseBurst(s); !errors.Is(err, ErrBurst) {
			t.Errorf("%q: %+v, %v", s, b, err)
		}
	}
}

// A burst multiplies the requests of its time, and no others, in the shape of the log.
func TestBursts(t *testing.T) {
	var text []string
	for i := range 40 { // ten a second
		text = append(text, fmt.Sprintf(`{"time":"2026-01-02T10:00:%02d.%d00Z","method":"GET","path":"/%d"}`, i/10, i%10, i))
	}
	f := func(burst Burst, speed float64, want ...int64) {
		t.Helper()
		s := open(t, Options{Files: []string{Stdin}, Stdin: strings.NewReader(strings.Join(text, "\n")), Bursts: []Burst{burst}, Speed: speed})
		got := Take(s, "a").Rates
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v at speed %v: %v a second, want %v", burst, speed, got, want)
		}
	}
	f(Burst{3, time.Second, time.Second}, 1, 10, 30, 10, 10)
	f(Burst{2.5, 2 * time.Second, time.Second}, 1, 10, 25, 25, 10)
	f(Burst{1.3, 3 * time.Second, 0}, 1, 13, 13, 13, 10)
	f(Burst{4, time.Second / 2, time.Second}, 1, 10, 25, 10, 10)
	f(Burst{3, time.Second, time.Second}, 2, 20, 60)
	f(Burst{1000, time.Hour, time.Hour}, 1, 10, 10, 10, 10)
}

// What the window may take is bounded: seconds are given out early, and no request is lost.
func TestFullWindow(t *testing.T) {
	w := window{span: 10, limit: 1000}
	n := 0
	for i := range 100 {
		w.add(entry{at: int64(i/10) * 1e9, coarse: true, size: 100})
		for e := w.next(false); e != nil; e = w.next(false) {
			n += len(e)
		}
		if w.size > 1000 {
			t.Fatalf("%d bytes after %d requests", w.size, i)
		}
	}
	for e := w.next(true); e != nil; e = w.next(true) {
		n += len(e)
	}
	if n != 100 || w.crowded == 0 || w.late != 0 || w.size != 0 {
		t.Errorf("%d of 100 requests, %d crowded seconds, %d late, %d bytes", n, w.crowded, w.late, w.size)
	}
}

// Late lines behind a gap in the log go out at once, each in the order of the log, and do not make
// the seconds behind them late.
func TestLateBehindGap(t *testing.T) {
	var text []string
	for _, second := range []string{"00:00:01", "00:00:02", "12:00:00", "00:00:01", "00:00:02", "00:00:01", "12:00:01"} {
		text = append(text, fmt.Sprintf(`{"time":"2026-01-02T%sZ","method":"GET","path":"/%d"}`, second, len(text)))
	}
	got := lines(t, Options{Window: time.Second}, text...)
	want := "0.000000 logged none GET /0\n1.000000 logged none GET /1\n1.000000 logged none GET /3\n1.000000 logged none GET /4\n1.000000 logged none GET /5\n" +
		"43199.000000 logged none GET /2\n43200.000000 logged none GET /6\nlog         7 lines, 7 requests, 0 copies in bursts\nalso        late 3\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestTimes(t *testing.T) {
	var c clock
	f := func(s string, want string, coarse bool) {
		t.Helper()
		at, isCoarse, ok := c.read([]byte(s))
		if got := time.Unix(0, at).UTC().Format(time.RFC3339Nano); !ok || got != want || isCoarse != coarse {
			t.Errorf("%q: %s %v %v, want %s %v", s, got, isCoarse, ok, want, coarse)
		}
	}
	f("02/Jan/2026:03:04:05 +0000", "2026-01-02T03:04:05Z", true)
	f("02/Jan/2026:03:04:06 +0000", "2026-01-02T03:04:06Z", true)
	f("02/Jan/2026:03:04:05 -0730", "2026-01-02T10:34:05Z", true)
	f("31/Dec/2025:23:59:60 +0000", "2026-01-01T00:00:00Z", true)
	f("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", true)
	f("2026-01-02T03:04:05.678+01:00", "2026-01-02T02:04:05.678Z", false)
	f("2026-01-02 03:04:05,1234567891+0100", "2026-01-02T02:04:05.123456789Z", false)
	f("1700000000", "2023-11-14T22:13:20Z", true)
	f("1700000000.123", "2023-11-14T22:13:20.123Z", false)
	f("1700000000123", "2023-11-14T22:13:20.123Z", false)
	f("1700000000123.5", "2023-11-14T22:13:20.1235Z", false)
	f("1700000000123456", "2023-11-14T22:13:20.123456Z", false)
	f("1700000000123456789", "2023-11-14T22:13:20.123456789Z", false)
	f("0", "1970-01-01T00:00:00Z", true)

	for _, s := range []string{
		"", "-", "x", "02/Jan/2026:03:04:05", "02/Foo/2026:03:04:05 +0000", "32/Jan/2026:03:04:05 +0000", "02/Jan/2026:24:04:05 +0000",
		"02/Jan/9999:03:04:05 +0000", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z", "2026-01-02T03:04:05+1", "1969-01-02T03:04:05Z",
		"1700000000.", "1700000000.x", "99999999999", "9999999999999999999", "17000000000000000000", "-1", "1e9",
	} {
		if at, _, ok := c.read([]byte(s)); ok {
			t.Errorf("%q is read as %v", s, time.Unix(0, at))
		}
	}
}

func TestDecode(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		if got := string(decode(nil, []byte(raw))); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
	f("", "")
	f("/plain", "/plain")
	f(`\x22a\x5Cb\x0d\xC3\xa9`, "\"a\\b\r\xc3\xa9")
	f(`\"\\\/\n\r\t\b\f`, "\"\\/\n\r\t\b\f")
	f(`\u00e9\u0000\ud83d\ude00`, "é\x00😀")
	f(`\ud83d\u0041`, "\ufffdA")
	f(`a\`, `a\`)
	f(`\xZZ\x1\u12\q`, `\xZZ\x1\u12\q`)
	f(`\\x22`, `\x22`)
}
