package h1

import (
	"errors"
	"strings"
	"testing"

	"tickgate/internal/reason"
)

func TestChunkedBodies(t *testing.T) {
	f := func(body, data, trailers, rest string) {
		t.Helper()
		for _, step := range steps {
			var c Chunked
			got, n, err := decodePieces(&c, body, step)
			if err != nil || !c.Done() {
				t.Errorf("%q in steps of %d: %v, done %v", body, step, err, c.Done())
				continue
			}
			if string(got) != data || string(c.Trailers()) != trailers || body[n:] != rest {
				t.Errorf("%q in steps of %d: %q, trailers %q, rest %q; want %q, %q, %q", body, step, got, c.Trailers(), body[n:], data, trailers, rest)
			}
		}
	}
	f("0\r\n\r\n", "", "", "")
	f("3\r\nabc\r\n0\r\n\r\n", "abc", "", "")
	f("3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\nGET /", "abc0123456789", "", "GET /")
	f("3\r\n\r\n0\r\n0\r\n\r\n\r\n", "\r\n0", "", "\r\n")
	f("000000000000000b;a=\"\\\"\xff\";b;c=d\r\nhello world\r\n0;z\r\n\r\n", "hello world", "", "")
	f("0\r\nX-Sum: 1\r\ngrpc-status:0\r\n\r\nx", "", "X-Sum: 1\r\ngrpc-status:0\r\n", "x")
	f("0\r\nX-A:\tb \tc\r\n\r\n", "", "X-A:\tb \tc\r\n", "")
	f("0\r\nAuthorization: x\r\nX-A: 1\r\nSet-Cookie: y\r\n\r\n", "", "X-A: 1\r\n", "")
	f("0\r\nContent-Type: x\r\nContent-MD5: x\r\nContent-Digest: y\r\nETag: z\r\n\r\n", "", "Content-Digest: y\r\nETag: z\r\n", "")
	f("0\r\nConnection: x\r\nTE: x\r\nTrailer: x\r\nIf-Match: x\r\nX-Forwarded-For: x\r\nX-Forwarded-New: x\r\nX_Real_IP: x\r\n\r\n", "", "", "")
	f("0\r\nMax-Forwards: 1\r\nPragma: x\r\nCache-Control: x\r\nProxy-Foo: x\r\nSec-WebSocket-Key: x\r\nSet-Cookie2: x\r\n\r\n", "", "", "")
}

func TestChunkedReasons(t *testing.T) {
	c := Chunked{Response: true}
	if _, _, err := c.Decode([]byte("x")); err != reason.BadBackendFraming {
		t.Errorf("in a response: %v", err)
	}
	if _, _, err := c.Decode([]byte("0\r\n\r\n")); err != reason.BadBackendFraming {
		t.Errorf("after an error: %v", err)
	}
	c.Reset()
	if _, n, err := c.Decode([]byte("0\r\n\r\n")); n != 5 || err != nil || !c.Done() || !c.Response {
		t.Errorf("after Reset: %d, %v, done %v", n, err, c.Done())
	}
	if data, n, err := c.Decode([]byte("more")); len(data) != 0 || n != 0 || err != nil {
		t.Errorf("after the end: %q, %d, %v", data, n, err)
	}
	small := Chunked{MaxTrailer: 12}
	if _, _, err := decodePieces(&small, "0\r\nX-A: 12345\r\n\r\n", 3); err != nil {
		t.Errorf("trailer of 12 bytes: %v", err)
	}
	small.Reset()
	if _, _, err := decodePieces(&small, "0\r\nX-A: 123456\r\n\r\n", 3); !errors.Is(err, reason.BadChunk) {
		t.Errorf("trailer of 13 bytes: %v", err)
	}
}

func TestExtensionLimits(t *testing.T) {
	f := func(chunks, extension int, want error) {
		t.Helper()
		var c Chunked
		body := strings.Repeat("1;"+strings.Repeat("a", extension-1)+"\r\nx\r\n", chunks) + "0\r\n\r\n"
		if _, _, err := decodePieces(&c, body, len(body)); err != want {
			t.Errorf("%d chunks with %d bytes each: %v, want %v", chunks, extension, err, want)
		}
	}
	f(1, 255, nil)
	f(1, 257, reason.BadChunk)
	f(64, 255, nil)
	f(66, 255, reason.BadChunk)
	f(4000, 4, nil)
}

func TestChunkFraming(t *testing.T) {
	f := func(n int64, want string) {
		t.Helper()
		if got := string(AppendChunkHeader([]byte("<"), n)); got != "<"+want+"\r\n" {
			t.Errorf("AppendChunkHeader(%d) = %q, want %q", n, got, want)
		}
	}
	f(1, "1")
	f(10, "a")
	f(4096, "1000")
	f(1<<63-1, "7fffffffffffffff")
	if got := string(AppendLastChunk(nil, nil)); got != "0\r\n\r\n" {
		t.Errorf("AppendLastChunk = %q", got)
	}
	if got := string(AppendLastChunk(nil, []byte("X: 1\r\n"))); got != "0\r\nX: 1\r\n\r\n" {
		t.Errorf("AppendLastChunk with trailers = %q", got)
	}
}
