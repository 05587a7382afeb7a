package testkit

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

const host = "Host: a\r\n"

func TestParseRequestsAccepts(t *testing.T) {
	f := func(stream string, wantBodies ...string) {
		t.Helper()
		reqs, err := ParseRequests(stream)
		if err != nil {
			t.Errorf("%q: %v", stream, err)
			return
		}
		var bodies []string
		var raw strings.Builder
		for _, r := range reqs {
			bodies = append(bodies, string(r.Body))
			raw.Write(r.Raw)
		}
		if !slices.Equal(bodies, wantBodies) {
			t.Errorf("%q: bodies %q, want %q", stream, bodies, wantBodies)
		}
		if raw.String() != stream {
			t.Errorf("%q: raw bytes are %q", stream, raw.String())
		}
	}
	f("")
	f("GET / HTTP/1.1\r\n"+host+"\r\n", "")
	f("GET /a?b=c HTTP/1.0\r\n\r\n", "")
	f("OPTIONS * HTTP/1.1\r\n"+host+"\r\n", "")
	f("GET http://a:80/x HTTP/1.1\r\n"+host+"\r\n", "")
	f("GET HTTPS://a?q HTTP/1.1\r\n"+host+"\r\n", "")
	f("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "")
	f("GET / HTTP/1.1\r\n"+host+"X:\t a b \xff \r\n\r\n", "")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n"+host+"\r\n", "abc", "")
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1;y=\"q\\\"\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n", "abc0123456789")
}

func TestParseRequestsRefuses(t *testing.T) {
	f := func(stream, wantRule string) {
		t.Helper()
		if _, err := ParseRequests(stream); RuleOf(err) != wantRule {
			t.Errorf("%q: %v, want rule %q", stream, err, wantRule)
		}
	}
	f("GET / HTTP/1.1\n"+host+"\r\n", "bare-lf")
	f("GET / HTTP/1.1\r\nHost: a\n\r\n", "bare-lf")
	f("GET / HTTP/1.1\r\nHost: a\r\n\n", "bare-lf")
	f("\r\nGET / HTTP/1.1\r\n"+host+"\r\n", "request-line")
	f("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare-cr")
	f("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "bare-cr")
	f("GET  / HTTP/1.1\r\n"+host+"\r\n", "request-line")
	f("GET / HTTP/1.1 \r\n"+host+"\r\n", "request-line")
	f("GET /\r\n"+host+"\r\n", "request-line")
	f("G(T / HTTP/1.1\r\n"+host+"\r\n", "method")
	f("GET / HTTP/1.2\r\n"+host+"\r\n", "version")
	f("GET / http/1.1\r\n"+host+"\r\n", "version")
	f("GET /\x01 HTTP/1.1\r\n"+host+"\r\n", "target")
	f("GET /a#b HTTP/1.1\r\n"+host+"\r\n", "target")
	f("GET * HTTP/1.1\r\n"+host+"\r\n", "target")
	f("GET a HTTP/1.1\r\n"+host+"\r\n", "target")
	f("GET http://u@a/ HTTP/1.1\r\n"+host+"\r\n", "target")
	f("GET / HTTP/1.1\r\n\r\n", "host")
	f("GET / HTTP/1.1\r\n"+host+host+"\r\n", "host")
	f("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "host")
	f("GET / HTTP/1.1\r\nHost: a:70000\r\n\r\n", "host")
	f("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "host")
	f("GET / HTTP/1.1\r\n"+host+"X: a\r\n b\r\n\r\n", "obs-fold")
	f("GET / HTTP/1.1\r\n "+host+"\r\n", "obs-fold")
	f("GET / HTTP/1.1\r\n"+host+"X\r\n\r\n", "no-colon")
	f("GET / HTTP/1.1\r\n"+host+"X : a\r\n\r\n", "space-before-colon")
	f("GET / HTTP/1.1\r\n"+host+": a\r\n\r\n", "field-name")
	f("GET / HTTP/1.1\r\n"+host+"X(: a\r\n\r\n", "field-name")
	f("GET / HTTP/1.1\r\n"+host+"X: a\x00b\r\n\r\n", "control-character")
	f("GET / HTTP/1.1\r\n"+host+"X: a\x7fb\r\n\r\n", "control-character")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 1, 1\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: +1\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 0x1\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length:\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 99999999999999999999\r\n\r\na", "content-length")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", "length-and-coding")
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer-encoding")
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: xchunked\r\n\r\n", "transfer-encoding")
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding")
	f("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding")
	f("POST / HTTP/1.1\r\n"+host+"Connection: content-length\r\nContent-Length: 1\r\n\r\na", "connection-names-framing")

	chunked := "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n"
	f(chunked+"g\r\n", "chunk-size")
	f(chunked+"0x1\r\na\r\n0\r\n\r\n", "chunk-size")
	f(chunked+" 1\r\na\r\n0\r\n\r\n", "chunk-size")
	f(chunked+"1 \r\na\r\n0\r\n\r\n", "chunk-size")
	f(chunked+"1\na\r\n0\r\n\r\n", "bare-lf")
	f(chunked+"\r\n", "chunk-size")
	f(chunked+"1000000000000000\r\n", "chunk-size")
	f(chunked+"1;a=\"\\\"\r\na\r\n0\r\n\r\n", "chunk-extension")
	f(chunked+"1;\r\na\r\n0\r\n\r\n", "chunk-extension")
	f(chunked+"1;a b\r\na\r\n0\r\n\r\n", "chunk-extension")
	f(chunked+"1;a=\"\r\na\r\n0\r\n\r\n", "chunk-extension")
	f(chunked+"1\r\nab\r\n0\r\n\r\n", "chunk-end")
	f(chunked+"0\r\nContent-Length: 1\r\n\r\n", "trailer")

	f(chunked+"3\r\nab", "cut")
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 3\r\n\r\nab", "cut")
	f("GET / HT", "cut")
}

func TestReadResponse(t *testing.T) {
	// The result is written as STATUS|body, with the interim statuses before.
	f := func(raw, method, want string) {
		t.Helper()
		resp, err := ReadResponse(bufio.NewReader(strings.NewReader(raw)), method)
		got := RuleOf(err)
		if err == nil {
			var b strings.Builder
			for _, interim := range resp.Interim {
				b.WriteString(interim.Reason + ", ")
			}
			got = b.String() + resp.Reason + "|" + string(resp.Body)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", raw, got, want)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhirest", "GET", "OK|hi")
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", "OK|")
	f("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "GET", "Not Modified|")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "GET", "OK|hi")
	f("HTTP/1.0 200 OK\r\n\r\nto the end", "GET", "OK|to the end")
	f("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", "Early, OK|")
	f("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\ntunnel", "GET", "Switching|")

	f("HTTP/1.1 200\r\n\r\n", "GET", "status-line")
	f("HTTP/1.1 2000 OK\r\n\r\n", "GET", "status-line")
	f("HTTP/1.1 600 OK\r\n\r\n", "GET", "status-line")
	f("HTTP/2 200 OK\r\n\r\n", "GET", "version")
	f("hello\r\n", "GET", "version")
	f("HTTP/1.1 204 None\r\nContent-Length: 2\r\n\r\n", "GET", "body-of-bodiless")
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", "GET", "cut")
	f("", "GET", "end")
}
