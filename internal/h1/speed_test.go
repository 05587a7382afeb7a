package h1

import (
	"bytes"
	"strings"
	"testing"
)

const (
	wrkRequest = "GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\n\r\n"

	browserRequest = "GET /assets/app.js?v=1234 HTTP/1.1\r\n" +
		"Host: www.example.com\r\n" +
		"Connection: keep-alive\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
		"Referer: https://www.example.com/start\r\n" +
		"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
		"Cache-Control: max-age=0\r\n" +
		"Sec-Ch-Ua-Platform: \"Linux\"\r\n\r\n"

	webSocketRequest = "GET /feed HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n"

	nominatingRequest = "POST /a HTTP/1.1\r\nHost: example.com\r\nConnection: close, X-One, X-Two\r\nX-One: 1\r\nX-Two: 2\r\n" +
		"TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"

	plainResponse = "HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Tue, 21 Oct 2025 09:00:00 GMT\r\n" +
		"Content-Type: application/octet-stream\r\nContent-Length: 1024\r\nConnection: keep-alive\r\nETag: \"abcdef-400\"\r\n" +
		"Accept-Ranges: bytes\r\n\r\n"

	chunkedBody = "5\r\nhello\r\n10;a=b;c=\"d\"\r\n0123456789abcdef\r\n0\r\nGrpc-Status: 0\r\n\r\n"
)

func TestParsingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not measured: the race detector allocates")
		return
	}
	zero := func(name string, work func()) {
		t.Helper()
		if n := testing.AllocsPerRun(200, work); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	var req RequestHead
	for _, raw := range []string{wrkRequest, browserRequest, webSocketRequest, nominatingRequest} {
		buf := []byte(raw)
		line, _, _ := strings.Cut(raw, "\r\n")
		zero(line, func() { parseWhole(t, &req, buf) })
	}
	bad := []byte("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n")
	zero("refused request", func() {
		req.Reset()
		if _, err := req.Parse(bad, nil); err == nil {
			t.Error("accepted")
		}
	})
	var resp ResponseHead
	buf := []byte(plainResponse)
	zero("response", func() {
		resp.Reset()
		if n, err := resp.Parse(buf, nil); n != len(buf) || err != nil {
			t.Error(n, err)
		}
	})
	var c Chunked
	body := []byte(chunkedBody)
	zero("chunked body", func() { decodeWhole(t, &c, body) })
	dst := make([]byte, 0, 4096)
	parseWhole(t, &req, []byte(browserRequest))
	zero("emit", func() {
		dst = req.AppendFields(dst[:0], FieldsOf(Host))
		dst = AppendChunkHeader(dst, 1<<40)
		dst = AppendLastChunk(dst, c.Trailers())
	})
}

func parseWhole(tb testing.TB, h *RequestHead, buf []byte) {
	h.Reset()
	if n, err := h.Parse(buf, nil); n != len(buf) || err != nil {
		tb.Fatalf("Parse: %d, %v; want %d", n, err, len(buf))
	}
}

func decodeWhole(tb testing.TB, c *Chunked, body []byte) {
	c.Reset()
	for rest := body; !c.Done(); {
		_, n, err := c.Decode(rest)
		if err != nil || n == 0 {
			tb.Fatalf("Decode: %d, %v", n, err)
		}
		rest = rest[n:]
	}
}

func BenchmarkRequestHead(b *testing.B) {
	for _, bench := range []struct{ name, raw string }{
		{"wrk", wrkRequest}, {"browser", browserRequest}, {"websocket", webSocketRequest}, {"nominating", nominatingRequest},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var h RequestHead
			buf := []byte(bench.raw)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				parseWhole(b, &h, buf)
			}
		})
	}
}

// BenchmarkDribble gives the head byte by byte: the cost must stay linear.
func BenchmarkDribble(b *testing.B) {
	var h RequestHead
	buf := []byte(browserRequest)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		h.Reset()
		for i := 1; i <= len(buf); i++ {
			if n, err := h.Parse(buf[:i], nil); err != nil || n > 0 != (i == len(buf)) {
				b.Fatal(i, n, err)
			}
		}
	}
}

func BenchmarkResponseHead(b *testing.B) {
	var h ResponseHead
	buf := []byte(plainResponse)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		h.Reset()
		if n, err := h.Parse(buf, nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkAppendFields(b *testing.B) {
	var h RequestHead
	parseWhole(b, &h, []byte(browserRequest))
	dst := make([]byte, 0, 4096)
	for b.Loop() {
		dst = h.AppendFields(dst[:0], FieldsOf(Host))
	}
	if !bytes.HasPrefix(dst, []byte("User-Agent: ")) {
		b.Fatalf("%q", dst)
	}
}

func BenchmarkChunked(b *testing.B) {
	body := bytes.Repeat([]byte("1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n"), 16)
	body = AppendLastChunk(body, nil)
	var c Chunked
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		decodeWhole(b, &c, body)
	}
}
