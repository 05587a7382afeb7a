package fault

import (
	"strings"
	"testing"
)

// marked follows a stream that comes in pieces of a size, and writes h or b for each byte's
// part, a capital for the first byte of a message.
func marked(m messages, stream string, size int) string {
	var out strings.Builder
	for b := []byte(stream); len(b) > 0; {
		piece := b[:min(size, len(b))]
		b = b[len(piece):]
		for len(piece) > 0 {
			seg := m.next(piece)
			mark := "h"
			if seg.part == PartBody {
				mark = "b"
			}
			text := strings.Repeat(mark, seg.n)
			if seg.whole == 0 && seg.part == PartHead && m.phase != opaque {
				text = "H" + text[1:]
			}
			out.WriteString(text)
			piece = piece[seg.n:]
		}
	}
	return out.String()
}

func TestMessages(t *testing.T) {
	// f gives the stream as parts, each of which begins with the mark of what it is.
	f := func(m messages, parts ...string) {
		t.Helper()
		var stream, want strings.Builder
		for _, part := range parts {
			text := part[1:]
			stream.WriteString(text)
			if part[0] == 'H' {
				want.WriteString("H" + strings.Repeat("h", len(text)-1))
				continue
			}
			want.WriteString(strings.Repeat(part[:1], len(text)))
		}
		for _, size := range []int{1, 2, 7, 1000} {
			if got := marked(m, stream.String(), size); got != want.String() {
				t.Errorf("%q in pieces of %d:\n%s, want\n%s", stream.String(), size, got, want.String())
			}
		}
	}
	requests, responses := messages{}, messages{responses: true}
	f(requests, "HGET / HTTP/1.1\r\nHost: a\r\n\r\n", "HGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f(requests, "HPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "babc", "HGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f(requests, "HPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "b3;x\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n", "HGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f(responses, "HHTTP/1.1 100 Continue\r\n\r\n", "HHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "bok", "HHTTP/1.1 204 No\r\n\r\n", "HHTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", "HHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	f(responses, "HHTTP/1.1 200 OK\r\n\r\n", "buntil the end HTTP/1.1 200 OK\r\n\r\n")
	f(messages{responses: true, noBody: func() bool { return true }}, "HHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
}

// What is no HTTP is passed over, whatever it is.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\nxyz"), false)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), true)
	f.Fuzz(func(t *testing.T, stream []byte, responses bool) {
		m := messages{responses: responses}
		for b := stream; len(b) > 0; {
			seg := m.next(b)
			if seg.n < 1 || seg.n > len(b) || seg.offset < 0 || len(m.line) > maxHead+len(stream) {
				t.Fatalf("%+v of %d bytes", seg, len(b))
			}
			b = b[seg.n:]
		}
	})
}
