package proxy

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tickgate/internal/testkit"
)

// decode undoes a content coding.
func decode(t testing.TB, coding string, body []byte) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v after %q", coding, err, out)
	}
	return string(out)
}

var text = strings.Repeat("all work and no play makes a dull gateway\n", 100)

// response is a 200 with some fields and a body.
func response(body string, fields ...string) string {
	return "HTTP/1.1 200 OK\r\n" + strings.Join(append(fields, ""), "\r\n") + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

func TestCompressionNegotiation(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Respond(response(text, "Content-Type: text/plain"))...)
	g := newGateway(t, toBackends("", "compression: {}", be.Addr()))
	f := func(accept, want string) {
		t.Helper()
		var fields []string
		if accept != "none" {
			fields = []string{"Accept-Encoding: " + accept}
		}
		resp := g.get("/", fields...)
		if got := resp.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: coded with %q, want %q", accept, got, want)
		}
		if got := decode(t, resp.Get("Content-Encoding"), resp.Body); got != text {
			t.Errorf("Accept-Encoding %q: body %.100q of %d bytes", accept, got, len(got))
		}
		if want != "" && len(resp.Body) > len(text)/2 {
			t.Errorf("Accept-Encoding %q: %d bytes of %d", accept, len(resp.Body), len(text))
		}
		if got := resp.All("Vary"); len(got) != 1 || got[0] != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: Vary %q, want Accept-Encoding whether compressed or not", accept, got)
		}
	}
	f("none", "")
	f("", "")
	f("identity", "")
	f("gzip", "gzip")
	f("GZIP", "gzip")
	f("x-gzip", "gzip")
	f("br", "br")
	f("zstd", "zstd")
	f("deflate", "")
	f("*", "zstd")
	// Of those that are equally welcome, the first configured.
	f("gzip, br, zstd", "zstd")
	f("gzip, deflate, br", "br")
	f("gzip;q=1.0, br;q=0.8, zstd;q=0.5", "gzip")
	f("gzip;q=0.5, br;q=0.51", "br")
	f("gzip;q=0, *", "zstd")
	f("zstd;q=0, *;q=0.1", "br")
	f("gzip;q=0", "")
	f("*;q=0", "")
	f("gzip;q=0.000, br ; q=0", "")
	f("gzip;q=0.001", "gzip")
	f("br;q=0.5,gzip ;q=0.7", "gzip")
}

func TestCompressionEligibility(t *testing.T) {
	t.Parallel()
	f := func(name, req, answer string, coded, varies bool) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(answer), testkit.Close())
		g := newGateway(t, toBackends("", "compression: {min_size: 100B, types: [text/*, application/json]}", be.Addr()))
		resp := g.do(req)
		if got := resp.Get("Content-Encoding") == "gzip"; got != coded {
			t.Errorf("%s: compressed %t, want %t: %.300q", name, got, coded, resp.Raw)
		}
		if got := strings.Contains(strings.Join(resp.All("Vary"), ", "), "Accept-Encoding"); got != varies {
			t.Errorf("%s: Vary %q, want Accept-Encoding in it: %t", name, resp.All("Vary"), varies)
		}
	}
	gz := get("/", "Accept-Encoding: gzip")
	typed := "Content-Type: text/html; charset=utf-8"
	f("text", gz, response(text, typed), true, true)
	f("exact type", gz, response(text, "content-type: Application/JSON"), true, true)
	f("another type", gz, response(text, "Content-Type: image/png"), false, false)
	f("a longer type", gz, response(text, "Content-Type: application/json-seq"), false, false)
	f("no type", gz, response(text), false, false)
	f("small", gz, response("tiny", typed), false, false)
	f("as small as may be", gz, response(strings.Repeat("x", 100), typed), true, true)
	f("unknown length", gz, "HTTP/1.1 200 OK\r\n"+typed+"\r\n\r\ntiny", true, true)
	f("chunked", gz, "HTTP/1.1 200 OK\r\n"+typed+"\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntiny\r\n0\r\nX: y\r\n\r\n", true, true)
	f("an error page", gz, strings.Replace(response(text, typed), "200 OK", "404 Not Found", 1), true, true)
	f("coded already", gz, response(text, typed, "Content-Encoding: br"), false, false)
	f("no-transform", gz, response(text, typed, "Cache-Control: max-age=1, No-Transform"), false, false)
	f("no-transform in a second field", gz, response(text, typed, "Cache-Control: max-age=1", "Cache-Control: no-transform"), false, false)
	f("a part", gz, strings.Replace(response(text, typed, "Content-Range: bytes 0-4199/9999"), "200 OK", "206 Partial Content", 1), false, false)
	f("204", gz, "HTTP/1.1 204 No Content\r\n"+typed+"\r\n\r\n", false, false)
	f("HEAD", request("HEAD", "/", "Accept-Encoding: gzip"), "HTTP/1.1 200 OK\r\n"+typed+"\r\nContent-Length: 4200\r\n\r\n", false, true)
	f("not accepted", get("/"), response(text, typed), false, true)
	f("the backend's Vary", gz, response(text, typed, "Vary: Origin"), true, true)
}

func TestCompressedFields(t *testing.T) {
	t.Parallel()
	f := func(req, fields, want string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Respond(response(text, append([]string{"Content-Type: text/plain"}, strings.Split(fields, "\n")...)...))...)
		g := newGateway(t, toBackends("", "compression: {encodings: [gzip]}", be.Addr()))
		head, _, _ := strings.Cut(withoutDate(t, g.do(req).Raw), "\r\n\r\n")
		want = "HTTP/1.1 200 OK\nContent-Type: text/plain\n" + want
		if got := strings.ReplaceAll(head, "\r\n", "\n"); got != want {
			t.Errorf("%q\n got %q\nwant %q", fields, got, want)
		}
	}
	gz := get("/", "Accept-Encoding: gzip")
	f(gz, "X: y", "X: y\nTransfer-Encoding: chunked\nContent-Encoding: gzip\nVary: Accept-Encoding")
	// Another representation has other bytes: its validator is weak, and ranges are not of it.
	f(gz, "ETag: \"a\"\nAccept-Ranges: bytes", "Transfer-Encoding: chunked\nContent-Encoding: gzip\nETag: W/\"a\"\nVary: Accept-Encoding")
	f(gz, "ETag: W/\"a\"", "Transfer-Encoding: chunked\nContent-Encoding: gzip\nETag: W/\"a\"\nVary: Accept-Encoding")
	f(get("/"), "ETag: \"a\"", "ETag: \"a\"\nContent-Length: 4200\nVary: Accept-Encoding")
	// Said once.
	f(gz, "Vary: Origin, accept-encoding", "Vary: Origin, accept-encoding\nTransfer-Encoding: chunked\nContent-Encoding: gzip")
	f(gz, "Vary: *", "Vary: *\nTransfer-Encoding: chunked\nContent-Encoding: gzip")
	f(strings.Replace(gz, "HTTP/1.1", "HTTP/1.0", 1), "X: y", "X: y\nContent-Encoding: gzip\nVary: Accept-Encoding\nConnection: close")
}

// TestCompressedBodies compresses large ones, several on one connection, and for a
// client of HTTP/1.0.
func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 12_000 {
		fmt.Fprintf(&b, "line %d of a long answer\n", i)
	}
	body := b.String()
	be := testkit.NewScript(t, testkit.Respond(response(body, "Content-Type: text/plain"))...)
	f := func(level string) {
		t.Helper()
		g := newGateway(t, toBackends("", "compression: {level: "+level+"}", be.Addr()))
		c := g.dial()
		for _, coding := range []string{"gzip", "br", "zstd", "", "gzip"} {
			resp := c.Do(get("/", "Accept-Encoding: "+coding))
			if got := decode(t, coding, resp.Body); got != body || resp.Get("Content-Encoding") != coding {
				t.Errorf("%s %s: %d bytes after %q, want %d", level, coding, len(got), resp.Get("Content-Encoding"), len(body))
			}
		}
		resp := g.do("GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n")
		if got := decode(t, "gzip", resp.Body); got != body || !resp.UntilClose {
			t.Errorf("%s HTTP/1.0: %d bytes, until close %t", level, len(got), resp.UntilClose)
		}
	}
	f("fastest")
	f("default")
	f("best")
}

// TestCompressedEventStream has each event readable before the next is made.
func TestCompressedEventStream(t *testing.T) {
	t.Parallel()
	f := func(head, terminator string, frame func(event string) string) {
		t.Helper()
		first, second := make(chan struct{}), make(chan struct{})
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(head), testkit.WaitFor(first), testkit.Send(frame("data: 1\n\n")),
			testkit.WaitFor(second), testkit.Send(frame("data: 2\n\n")+terminator), testkit.Close())
		g := newGateway(t, toBackends("", "compression: {encodings: [gzip]}", be.Addr()))
		c := g.dial()
		c.Send(get("/", "Accept-Encoding: gzip"))
		c.Until("\r\n\r\n")
		close(first)
		body := &chunkReader{c: c}
		zr, err := gzip.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len("data: 1\n\n"))
		if _, err := io.ReadFull(zr, buf); err != nil || string(buf) != "data: 1\n\n" {
			t.Errorf("first event %q, %v", buf, err)
		}
		close(second)
		if rest, err := io.ReadAll(zr); err != nil || string(rest) != "data: 2\n\n" {
			t.Errorf("rest %q, %v", rest, err)
		}
	}
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
	f(head+"Transfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n", func(e string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(e), e) })
	f(head+"\r\n", "", func(e string) string { return e })
}

// chunkReader reads the data of a chunked body as it comes.
type chunkReader struct {
	c    *testkit.Client
	data []byte
	over bool
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.data) == 0 {
		if r.over {
			return 0, io.EOF
		}
		var size int
		if _, err := fmt.Sscanf(r.c.Until("\r\n"), "%x\r\n", &size); err != nil {
			return 0, err
		}
		r.data, r.over = []byte(r.c.Next(size)), size == 0
		r.c.Until("\r\n")
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// TestCompressionCut never makes a sound body of a cut one.
func TestCompressionCut(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"+text), testkit.Close())
	g := newGateway(t, toBackends("", "compression: {}", be.Addr()))
	for _, proto := range []string{"HTTP/1.1", "HTTP/1.0"} {
		c := g.dial()
		c.Send(strings.Replace(get("/", "Accept-Encoding: gzip"), "HTTP/1.1", proto, 1))
		if resp, err := c.TryResponse("GET"); err == nil && resp.Status == 200 {
			t.Errorf("%s: a cut body was passed on as a whole one: %q", proto, resp.Raw)
		}
	}
}

func TestQuality(t *testing.T) {
	f := func(accept, coding string, want int) {
		t.Helper()
		if got := quality([]byte(accept), coding); got != want {
			t.Errorf("quality(%q, %s) = %d, want %d", accept, coding, got, want)
		}
	}
	f("gzip", "gzip", 1000)
	f("gzip;q=0.5", "gzip", 500)
	f("gzip; Q=0.123", "gzip", 123)
	f("gzip;q=0.1234", "gzip", 123)
	f("gzip;q=1.000", "gzip", 1000)
	f("gzip;q=0", "gzip", 0)
	f("gzip;q=0.", "gzip", 0)
	f("*;q=0.3", "gzip", 300)
	f("*;q=0.3, gzip;q=0", "gzip", 0)
	f("br, identity", "gzip", 0)
	f(" br ,\tgzip ", "gzip", 1000)
	f(",,gzip", "gzip", 1000)
}
