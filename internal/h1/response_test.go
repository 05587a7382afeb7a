package h1

import (
	"testing"
)

func TestResponseHead(t *testing.T) {
	f := func(raw string, status int, phrase string, m MethodID, kind BodyKind, keepAlive bool) {
		t.Helper()
		var h ResponseHead
		if n, err := h.Parse([]byte(raw), nil); n != len(raw) || err != nil {
			t.Errorf("%q: %d, %v; want %d", raw, n, err, len(raw))
			return
		}
		if h.Status != status || string(h.ReasonPhrase()) != phrase || h.BodyKind(m) != kind || h.KeepAlive != keepAlive {
			t.Errorf("%q: status %d %q, body %d, keep-alive %v; want %d %q, %d, %v",
				raw, h.Status, h.ReasonPhrase(), h.BodyKind(m), h.KeepAlive, status, phrase, kind, keepAlive)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "OK", MethodGet, LengthBody, true)
	f("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "OK", MethodGet, LengthBody, true)
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "OK", MethodHead, NoBody, true)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "OK", MethodPost, ChunkedBody, true)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "OK", MethodHead, NoBody, true)
	f("HTTP/1.1 200 OK\r\n\r\n", 200, "OK", MethodGet, UntilClose, true)
	f("HTTP/1.1 200\r\n\r\n", 200, "", MethodGet, UntilClose, true)
	f("HTTP/1.1 200 \r\nConnection: close\r\n\r\n", 200, "", MethodGet, UntilClose, false)
	f("HTTP/1.0 200 Fein, \xe4\tb\r\n\r\n", 200, "Fein, \xe4\tb", MethodGet, UntilClose, false)
	f("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n", 200, "OK", MethodGet, LengthBody, true)
	f("HTTP/1.1 204 No Content\r\n\r\n", 204, "No Content", MethodGet, NoBody, true)
	f("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "Not Modified", MethodGet, NoBody, true)
	f("HTTP/1.1 100 Continue\r\n\r\n", 100, "Continue", MethodPost, NoBody, true)
	f("HTTP/1.1 200 OK\r\n\r\n", 200, "OK", MethodConnect, NoBody, true)
	f("HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\n", 403, "No", MethodConnect, LengthBody, true)
	f("HTTP/1.1 599 x\r\nContent-Length: 1\r\n\r\n", 599, "x", MethodGet, LengthBody, true)
}

func TestResponseFlags(t *testing.T) {
	f := func(head string, strip, upgrade, webSocket, interim bool) {
		t.Helper()
		var h ResponseHead
		if n, err := h.Parse([]byte(head+"\r\n"), nil); n == 0 || err != nil {
			t.Errorf("%q: %d, %v", head, n, err)
		}
		if h.StripLength != strip || h.Upgrade != upgrade || h.WebSocket != webSocket || h.Interim() != interim {
			t.Errorf("%q: strip %v, upgrade %v, websocket %v, interim %v", head, h.StripLength, h.Upgrade, h.WebSocket, h.Interim())
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", false, false, false, false)
	f("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n", true, false, false, false)
	f("HTTP/1.1 100 Continue\r\n", false, false, false, true)
	f("HTTP/1.1 103 Early Hints\r\nLink: x\r\n", false, false, false, true)
	f("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n", false, true, true, false)
	f("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", true, true, true, false)
	f("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", false, true, false, false)
	f("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n", false, true, false, false)
	f("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n", false, false, false, false)
	f("HTTP/1.1 426 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", false, true, false, false)
}
