package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"testing"

	"tickgate/internal/h1/corpus"
)

// FuzzRequestHead checks that a head ends the same however it is cut, and that net/http reads
// what is accepted, as it came and as a proxy passes it on, in the same way.
func FuzzRequestHead(f *testing.F) {
	for _, list := range [][]corpus.Case{corpus.Requests, corpus.Sound} {
		for i, c := range list {
			if len(c.Raw) < 1000 {
				f.Add([]byte(c.Raw), uint(i))
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, cut uint) {
		var whole, parts RequestHead
		n, err := whole.Parse(raw, nil)
		at := int(cut % uint(len(raw)+1))
		m, again := parts.Parse(bytes.Clone(raw[:at]), nil)
		if m == 0 && again == nil {
			m, again = parts.Parse(raw, nil)
		}
		if m != n || again != err {
			t.Fatalf("whole: %d, %v; cut at %d: %d, %v", n, err, at, m, again)
		}
		ends(t, err)
		if n > 0 {
			holdNoLookalike(t, &whole)
			agreeOnRequest(t, &whole, whole.Raw)
			if whole.Form != AuthorityForm {
				agreeOnRequest(t, &whole, passOn(&whole))
			}
		}
	})
}

// holdNoLookalike checks that no field that is passed on is another's variable to a CGI-like backend.
func holdNoLookalike(t *testing.T, h *RequestHead) {
	t.Helper()
	sign := regexp.MustCompile("[^a-z0-9]")
	for i, f := range h.Fields {
		variable := sign.ReplaceAllString(strings.ToLower(string(h.Name(i))), "_")
		switch variable {
		case "content_length", "transfer_encoding":
			if f.ID == Unknown {
				t.Fatalf("%q is accepted", h.Name(i))
			}
		case "x_forwarded_for", "x_forwarded_proto", "x_forwarded_host", "x_forwarded_port", "x_request_id", "x_real_ip":
			if f.ID == Unknown && !f.Hop {
				t.Fatalf("%q is passed on", h.Name(i))
			}
		}
	}
}

// passOn writes the head as a proxy does.
func passOn(h *RequestHead) []byte {
	out := append(append([]byte{}, h.Method()...), ' ')
	out = append(h.AppendOriginTarget(out), " HTTP/1.1\r\nHost: "...)
	out = append(append(out, h.Host()...), "\r\n"...)
	out = h.AppendFields(out, FieldsOf(Host))
	if h.Chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(out, "\r\n"...)
}

// agreeOnRequest compares h with what net/http reads in raw.
func agreeOnRequest(t *testing.T, h *RequestHead, raw []byte) {
	t.Helper()
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", raw, err)
	}
	if req.Method != string(h.Method()) || req.Host != string(h.Host()) {
		t.Fatalf("%q: net/http reads %s for %q, want %s for %q", raw, req.Method, req.Host, h.Method(), h.Host())
	}
	if req.RequestURI != string(h.Target()) && req.RequestURI != string(h.AppendOriginTarget(nil)) {
		t.Fatalf("%q: net/http reads target %q, want %q", raw, req.RequestURI, h.Target())
	}
	chunked := len(req.TransferEncoding) == 1 && req.TransferEncoding[0] == "chunked"
	if chunked != h.Chunked || !chunked && req.ContentLength != max(h.ContentLength, 0) {
		t.Fatalf("%q: net/http reads length %d, coding %q; want %d, %v", raw, req.ContentLength, req.TransferEncoding, h.ContentLength, h.Chunked)
	}
}

// FuzzResponseHead checks the same for responses.
func FuzzResponseHead(f *testing.F) {
	for _, list := range [][]corpus.Case{corpus.Responses, corpus.Poison} {
		for i, c := range list {
			if len(c.Raw) < 1000 {
				f.Add([]byte(c.Raw), uint(i))
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, cut uint) {
		var whole, parts ResponseHead
		n, err := whole.Parse(raw, nil)
		at := int(cut % uint(len(raw)+1))
		m, again := parts.Parse(bytes.Clone(raw[:at]), nil)
		if m == 0 && again == nil {
			m, again = parts.Parse(raw, nil)
		}
		if m != n || again != err {
			t.Fatalf("whole: %d, %v; cut at %d: %d, %v", n, err, at, m, again)
		}
		ends(t, err)
		if n > 0 {
			agreeOnResponse(t, &whole)
		}
	})
}

// agreeOnResponse compares h with what net/http reads in its bytes.
func agreeOnResponse(t *testing.T, h *ResponseHead) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(h.Raw)), nil)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", h.Raw, err)
	}
	if resp.StatusCode != h.Status || resp.ProtoMinor != int(h.Minor) {
		t.Fatalf("%q: net/http reads %s %d", h.Raw, resp.Proto, resp.StatusCode)
	}
	chunked := len(resp.TransferEncoding) == 1 && resp.TransferEncoding[0] == "chunked"
	switch kind := h.BodyKind(MethodGet); {
	case kind == NoBody:
	case chunked != (kind == ChunkedBody),
		kind == LengthBody && resp.ContentLength != h.ContentLength,
		kind == UntilClose && resp.ContentLength != -1:
		t.Fatalf("%q: body %d, but net/http reads length %d, coding %q", h.Raw, kind, resp.ContentLength, resp.TransferEncoding)
	}
}

// FuzzChunked checks that a body ends the same however it is cut, and that net/http reads the same data in
// what is accepted, as it came and framed anew.
func FuzzChunked(f *testing.F) {
	for i, c := range corpus.Requests {
		if _, body, ok := strings.Cut(c.Raw, "Transfer-Encoding: chunked\r\n\r\n"); ok && len(body) < 1000 {
			f.Add(body, uint8(i))
		}
	}
	f.Add("3;a=\"b\";c\r\nabc\r\n00\r\nX-Sum: 1\r\nHost: x\r\n\r\nrest", uint8(2))
	f.Fuzz(func(t *testing.T, body string, step uint8) {
		var whole, parts Chunked
		data, n, err := decodePieces(&whole, body, len(body)+1)
		again, m, err2 := decodePieces(&parts, body, int(step)+1)
		if !bytes.Equal(data, again) || err != err2 || err == nil && n != m || whole.Done() != parts.Done() {
			t.Fatalf("whole: %q, %d, %v; in steps of %d: %q, %d, %v", data, n, err, int(step)+1, again, m, err2)
		}
		ends(t, err)
		if !whole.Done() {
			return
		}
		if !bytes.Equal(whole.Trailers(), parts.Trailers()) {
			t.Fatalf("trailers %q and %q", whole.Trailers(), parts.Trailers())
		}
		var anew []byte
		if len(data) > 0 {
			anew = append(append(AppendChunkHeader(nil, int64(len(data))), data...), "\r\n"...)
		}
		for _, framed := range []string{body[:n], string(AppendLastChunk(anew, whole.Trailers()))} {
			got, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(framed)))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%q: net/http reads %q, %v; want %q", framed, got, err, data)
			}
		}
	})
}
