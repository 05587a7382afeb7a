package httpload

import (
	"testing"

	"tickgate/internal/h1"
)

// outcome is what a reader of a response came to.
type outcome struct {
	whole, failed, begun, endsWell, keep bool
	status                               int
}

// readIn reads a response in pieces of so many bytes, as far as it goes.
func readIn(text string, m h1.MethodID, size int) (o outcome) {
	var r response
	var head h1.ResponseHead
	r.reset(m)
	for b := []byte(text); len(b) > 0 && !o.whole && !o.failed; {
		piece := b[:min(size, len(b))]
		b = b[len(piece):]
		whole, err := r.feed(piece, &head)
		o.whole, o.failed = whole, err != nil
	}
	o.begun, o.endsWell, o.status = r.begun, r.ended(), r.status
	o.keep = o.whole && r.keep
	return o
}

func TestResponse(t *testing.T) {
	// f wants the same whatever the size of the pieces.
	f := func(text string, m h1.MethodID, want outcome) {
		t.Helper()
		for _, size := range []int{1, 2, 3, 7, len(text)} {
			if got := readIn(text, m, size); got != want {
				t.Errorf("%q in pieces of %d: %+v, want %+v", text, size, got, want)
			}
		}
	}
	const get, head = h1.MethodGet, h1.MethodHead
	kept := outcome{whole: true, begun: true, keep: true, status: 200}
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", get, kept)
	f("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", get, kept)
	f("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n", head, kept)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", head, kept)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\n", get, kept)
	f("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", get, kept)
	f("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", get, kept)
	f("HTTP/1.1 204 No Content\r\n\r\n", get, outcome{whole: true, begun: true, keep: true, status: 204})
	f("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", get, outcome{whole: true, begun: true, keep: true, status: 304})

	ends := outcome{whole: true, begun: true, status: 200}
	f("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", get, ends)
	f("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", get, ends)
	f("HTTP/1.1 200 OK\r\n\r\nabc", get, outcome{begun: true, endsWell: true, status: 200})
	f("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n", get, outcome{whole: true, begun: true, status: 101})

	f("", get, outcome{})
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", get, outcome{begun: true, status: 200})
	f("HTTP/1.1 200 OK\r\nContent-Le", get, outcome{begun: true})
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", get, outcome{begun: true, status: 200})

	f("220 smtp ready\r\n", get, outcome{failed: true, begun: true})
	f("HTTP/1.1 200 OK\nContent-Length: 0\n\n", get, outcome{failed: true, begun: true})
	f("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", get, outcome{failed: true, begun: true})
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", get, outcome{failed: true, begun: true, status: 200})
}

// Bytes behind a response are an error if they are there with its end.
func TestBytesBehind(t *testing.T) {
	for _, text := range []string{whole + "HTTP/1.1 200 OK\r\n", "HTTP/1.1 204 No\r\n\r\nx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx"} {
		if got := readIn(text, h1.MethodGet, len(text)); !got.failed {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// However a response is cut, it is read the same way, and nothing that comes can do more
// than fail.
func FuzzResponse(f *testing.F) {
	for _, text := range []string{whole, closing, refusal, "HTTP/1.1 100 A\r\n\r\n" + whole, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"} {
		f.Add(text, 3, false)
	}
	f.Fuzz(func(t *testing.T, text string, size int, asHead bool) {
		m := h1.MethodGet
		if asHead {
			m = h1.MethodHead
		}
		size = max(size, 1)
		got, once := readIn(text, m, size), readIn(text, m, 1)
		if got.failed && !once.failed && once.whole {
			return // bytes behind the end, which reading byte by byte does not come to
		}
		if got != once {
			t.Errorf("in pieces of %d: %+v; byte by byte: %+v", size, got, once)
		}
	})
}
