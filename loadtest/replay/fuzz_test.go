package replay

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/loadtest/httpload"
)

// FuzzLog checks that no log, in whatever format, makes a request that is read as anything but
// one request of the parts that it has.
func FuzzLog(f *testing.F) {
	formats := []string{"auto", "json", `$msec|$request_method|$request_uri|$http_host|$request_length|$http_user_agent`, `${time_iso8601} ${request} ${referer}`}
	logs, err := filepath.Glob("testdata/*.log")
	if err != nil || len(logs) == 0 {
		f.Fatalf("no logs: %v", err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, line := range bytes.Split(text, []byte("\n")) {
			f.Add(line, uint(0))
		}
	}
	f.Add([]byte("1767348000.250|POST|/a|h|900|x\n1767348001|GET|/b\\x0d\\x0a|h|1|-"), uint(2))
	f.Add([]byte("2026-01-02T10:00:00Z GET / HTTP/1.1 \\x22r\\x22"), uint(3))
	f.Fuzz(func(t *testing.T, text []byte, format uint) {
		s, err := Open(Options{
			Files: []string{Stdin}, Stdin: bytes.NewReader(text), Format: formats[format%uint(len(formats))],
			KeepHost: true, Methods: []string{"any"}, Bodies: BodiesZero, FromStart: format&8 != 0, Window: time.Duration(format%3) * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		last := time.Duration(0)
		for {
			due, r, ok := s.Next()
			if !ok {
				break
			}
			if due < last {
				t.Errorf("due %v after %v", due, last)
			}
			last = due
			oneRequest(t, r)
		}
		_ = s.Close() // a text that begins as gzip may fail
	})
}

// oneRequest checks what net/http reads in a request as it is sent.
func oneRequest(t *testing.T, r *httpload.Request) {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", r.Method, r.Path)
	if len(r.Header) == 0 || r.Header[0].Name != "Host" {
		b.WriteString("Host: target\r\n")
	}
	for _, f := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.Body), r.Body)
	br := bufio.NewReader(&b)
	got, err := http.ReadRequest(br)
	if err != nil {
		if strings.Contains(err.Error(), "invalid URL escape") || strings.Contains(err.Error(), "parse ") {
			return // net/http is stricter about what a URL is; it saw one request line
		}
		t.Fatalf("%+v: %v", r, err)
	}
	n, err := io.Copy(io.Discard, got.Body)
	if err != nil || n != int64(len(r.Body)) || got.Method != r.Method || got.RequestURI != r.Path || got.ProtoMajor != 1 {
		t.Fatalf("%+v is read as %s %s with %d bytes, %v", r, got.Method, got.RequestURI, n, err)
	}
	for name := range got.Header {
		if name != "User-Agent" && name != "Referer" && name != "Content-Length" {
			t.Fatalf("%+v is read with a field %s", r, name)
		}
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Fatalf("%+v leaves %q", r, rest)
	}
}

// Parsing allocates a request and its text, and nothing else.
func TestAllocations(t *testing.T) {
	f := func(format, line string) {
		t.Helper()
		o := Options{Format: format, KeepHost: true}
		compiled, err := Compile(format, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := newBuilder(&o)
		if err != nil {
			t.Fatal(err)
		}
		s := &Source{format: compiled, builder: b, counts: Counts{Statuses: map[int]int64{}}}
		text := []byte(line)
		n := testing.AllocsPerRun(1000, func() {
			if _, r := s.parse(text, false); r != OK {
				t.Fatal(r)
			}
		})
		if n > 2 {
			t.Errorf("%s: %v allocations a line, want 2", format, n)
		}
	}
	f("combined", combinedLine)
	f("json", jsonLine)
}

const (
	combinedLine = `192.0.2.2 - - [02/Jan/2026:10:00:00 +0000] "GET /a?b=c%20d HTTP/2.0" 304 0 "https://example.com/" "Mozilla/5.0 (X11; \x22x\x22)"`
	jsonLine     = `{"time":"2026-01-02T10:00:00.100Z","client_addr":"127.0.0.1","method":"GET","host":"127.0.0.1:8080","path":"/quotes/ACME","query":"depth=5","proto":"HTTP/1.1","status":200,"reason":"ok","bytes_sent":87,"duration":0.000412,"route":"all","user_agent":"curl/8.0"}`
)

func BenchmarkReplay(b *testing.B) {
	f := func(name, line string) {
		b.Run(name, func(b *testing.B) {
			const n = 10_000
			text := strings.Repeat(line+"\n", n)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				s := open(b, Options{Files: []string{Stdin}, Stdin: strings.NewReader(text), Format: name, KeepHost: true})
				got := 0
				for _, _, ok := s.Next(); ok; _, _, ok = s.Next() {
					got++
				}
				if got != n {
					b.Fatalf("%d requests of %d lines", got, n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/line")
		})
	}
	f("combined", combinedLine)
	f("json", jsonLine)
}
