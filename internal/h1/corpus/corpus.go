// Package corpus holds hostile HTTP/1.1 messages, each with the reason for which the gateway must
// end it, and a mutator that makes more. It is used by the tests of the codec and
// of the whole gateway.
package corpus

import (
	"strings"

	"tickgate/internal/reason"
)

// Case is one message, or what a peer sends in place of one.
type Case struct {
	// Name is unique within its list.
	Name string
	// Raw is everything that is sent on a fresh connection, bodies included.
	Raw string
	// Want is the end: OK for a message that is sound.
	Want reason.Reason
}

// Every case assumes the default limits of the configuration: a request line of 8 KiB, a request head
// of 16 KiB with 100 fields, a response head of 32 KiB.
const (
	MaxLine         = 8 << 10
	MaxRequestHead  = 16 << 10
	MaxResponseHead = 32 << 10
	MaxFields       = 100
)

// get is a GET with further field lines, each with its CRLF.
func get(lines string) string {
	return "GET /path?q=1 HTTP/1.1\r\nHost: a.example\r\n" + lines + "\r\n"
}

// post is a POST with further field lines and a body.
func post(lines, body string) string {
	return "POST /path HTTP/1.1\r\nHost: a.example\r\n" + lines + "\r\n" + body
}

// chunked is a POST with a body that is sent as it is.
func chunked(body string) string {
	return post("Transfer-Encoding: chunked\r\n", body)
}

// line is a request with this request line.
func line(l string) string { return l + "\r\nHost: a.example\r\n\r\n" }

// host is a GET with this Host value.
func host(v string) string { return "GET / HTTP/1.1\r\nHost: " + v + "\r\n\r\n" }

// upgrade is a WebSocket handshake with these lines in place of the usual version and key.
func upgrade(lines string) string {
	return "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + lines + "\r\n"
}

const (
	wsVersion = "Sec-WebSocket-Version: 13\r\n"
	wsKey     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

func times(s string, n int) string { return strings.Repeat(s, n) }
