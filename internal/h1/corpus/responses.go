package corpus

import (
	"slices"

	"tickgate/internal/reason"
)

// Responses are what a bad backend sends in answer to a plain GET, after which it closes the connection. None may be
// passed on as sound: the client gets a 502, or an aborted response if the head had gone out.
var Responses = slices.Concat(statusLines, responseFields, responseLengths, responseChunks, responseEnds)

// Poison are whole, sound responses to a GET with bytes after them that nobody asked for, after
// which the backend keeps the connection open. The response may be passed on; the connection must not be used again.
var Poison = []Case{
	{"poison: rubbish after length", ok("Content-Length: 2\r\n") + "okrubbish", reason.OK},
	{"poison: one byte after length", ok("Content-Length: 2\r\n") + "ok\n", reason.OK},
	{"poison: second response after length", ok("Content-Length: 2\r\n") + "ok" + ok("Content-Length: 4\r\n") + "evil", reason.OK},
	{"poison: rubbish after no body", ok("Content-Length: 0\r\n") + "rubbish", reason.OK},
	{"poison: body on 204", "HTTP/1.1 204 No Content\r\n\r\nrubbish", reason.OK},
	{"poison: body on 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\nrubbish", reason.OK},
	{"poison: rubbish after last chunk", ok("Transfer-Encoding: chunked\r\n") + "2\r\nok\r\n0\r\n\r\nrubbish", reason.OK},
	{"poison: second response after last chunk", ok("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n" + ok("Content-Length: 4\r\n") + "evil", reason.OK},
	{"poison: CRLF after body", ok("Content-Length: 2\r\n") + "ok\r\n", reason.OK},
}

// ok is the head of a 200 with these field lines.
func ok(lines string) string { return "HTTP/1.1 200 OK\r\n" + lines + "\r\n" }

// status is a whole response with this status line.
func status(l string) string { return l + "\r\nContent-Length: 2\r\n\r\nok" }

// okChunked is a 200 with a body that is sent as it is.
func okChunked(body string) string { return ok("Transfer-Encoding: chunked\r\n") + body }

var statusLines = []Case{
	{"status: HTTP/0.9", "hello world", reason.BadBackendHead},
	{"status: HTTP/0.9 page", "<html><body>hello</body></html>\r\n", reason.BadBackendHead},
	{"status: binary", "\x00\x01\x02\x03\xff\xfe", reason.BadBackendHead},
	{"status: TLS alert", "\x15\x03\x01\x00\x02\x02\x28", reason.BadBackendHead},
	{"status: SSH banner", "SSH-2.0-OpenSSH_9.6\r\n", reason.BadBackendHead},
	{"status: HTTP/2 settings", "\x00\x00\x00\x04\x00\x00\x00\x00\x00", reason.BadBackendHead},
	{"status: ICY", status("ICY 200 OK"), reason.BadBackendHead},
	{"status: a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", reason.BadBackendHead},
	{"status: leading CRLF", "\r\n" + status("HTTP/1.1 200 OK"), reason.BadBackendHead},
	{"status: leading space", status(" HTTP/1.1 200 OK"), reason.BadBackendHead},
	{"status: lower case", status("http/1.1 200 OK"), reason.BadBackendHead},
	{"status: version 2.0", status("HTTP/2.0 200 OK"), reason.BadBackendHead},
	{"status: version 2", status("HTTP/2 200"), reason.BadBackendHead},
	{"status: version 0.9", status("HTTP/0.9 200 OK"), reason.BadBackendHead},
	{"status: version 1.2", status("HTTP/1.2 200 OK"), reason.BadBackendHead},
	{"status: version 1.10", status("HTTP/1.10 200 OK"), reason.BadBackendHead},
	{"status: version 1", status("HTTP/1 200 OK"), reason.BadBackendHead},
	{"status: version 1.", status("HTTP/1. 200 OK"), reason.BadBackendHead},
	{"status: no code", status("HTTP/1.1"), reason.BadBackendHead},
	{"status: no code but space", status("HTTP/1.1 "), reason.BadBackendHead},
	{"status: word", status("HTTP/1.1 OK"), reason.BadBackendHead},
	{"status: two digits", status("HTTP/1.1 20 OK"), reason.BadBackendHead},
	{"status: four digits", status("HTTP/1.1 2000 OK"), reason.BadBackendHead},
	{"status: letter", status("HTTP/1.1 2x0 OK"), reason.BadBackendHead},
	{"status: negative", status("HTTP/1.1 -20 OK"), reason.BadBackendHead},
	{"status: plus", status("HTTP/1.1 +20 OK"), reason.BadBackendHead},
	{"status: 000", status("HTTP/1.1 000 OK"), reason.BadBackendHead},
	{"status: 099", status("HTTP/1.1 099 OK"), reason.BadBackendHead},
	{"status: 600", status("HTTP/1.1 600 OK"), reason.BadBackendHead},
	{"status: 999", status("HTTP/1.1 999 OK"), reason.BadBackendHead},
	{"status: two spaces", status("HTTP/1.1  200 OK"), reason.BadBackendHead},
	{"status: tab", status("HTTP/1.1\t200 OK"), reason.BadBackendHead},
	{"status: tab after code", status("HTTP/1.1 200\tOK"), reason.BadBackendHead},
	{"status: phrase joined", status("HTTP/1.1 200OK"), reason.BadBackendHead},
	{"status: NUL in phrase", status("HTTP/1.1 200 O\x00K"), reason.BadBackendHead},
	{"status: escape in phrase", status("HTTP/1.1 200 \x1b[31m"), reason.BadBackendHead},
	{"status: bare CR in phrase", status("HTTP/1.1 200 O\rK"), reason.BadBackendHead},
	{"status: bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", reason.BadBackendHead},
	{"status: CR CR LF", "HTTP/1.1 200 OK\r\r\nContent-Length: 2\r\n\r\nok", reason.BadBackendHead},
}

var responseFields = []Case{
	{"field: no colon", ok("Server\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: empty name", ok(": x\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: space before colon", ok("Content-Length : 2\r\n") + "ok", reason.BadBackendHead},
	{"field: space in name", ok("X A: 1\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: NUL in name", ok("X\x00A: 1\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: non-ASCII name", ok("X-\xff: 1\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: NUL in value", ok("X-A: \x00\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: bell in value", ok("X-A: \x07\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: escape in value", ok("X-A: \x1b]0;x\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: DEL in value", ok("X-A: \x7f\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: bare CR in value", ok("X-A: a\rSet-Cookie: x=y\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: bare LF in value", ok("X-A: a\nSet-Cookie: x=y\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: fold", ok("X-A: a\r\n b\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: fold with tab", ok("X-A: a\r\n\tb\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: folded first line", ok(" X-A: a\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: LF ends the head", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", reason.BadBackendHead},
	{"field: Content_Length", ok("Content_Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: Content.Length", ok("Content.Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: bad connection list", ok("Connection: a b\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"field: second status line", ok("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendHead},
	{"size: one field", ok("X-A: "+times("a", MaxResponseHead)+"\r\nContent-Length: 2\r\n") + "ok", reason.BackendHeadTooLarge},
	{"size: status line", status("HTTP/1.1 200 " + times("a", MaxResponseHead)), reason.BackendHeadTooLarge},
	{"size: all fields", ok(times("X-A: "+times("a", 1000)+"\r\n", 40)), reason.BackendHeadTooLarge},
	{"size: head that never ends", "HTTP/1.1 200 OK\r\n" + times("X-A: "+times("a", 900)+"\r\n", 50), reason.BackendHeadTooLarge},
	{"size: field that never ends", "HTTP/1.1 200 OK\r\nX-A: " + times("a", 2*MaxResponseHead), reason.BackendHeadTooLarge},
}

var responseLengths = []Case{
	{"length: twice", ok("Content-Length: 2\r\nContent-Length: 3\r\n") + "okk", reason.BadBackendFraming},
	{"length: twice the same", ok("Content-Length: 2\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendFraming},
	{"length: list", ok("Content-Length: 2, 2\r\n") + "ok", reason.BadBackendFraming},
	{"length: negative", ok("Content-Length: -1\r\n") + "ok", reason.BadBackendFraming},
	{"length: plus", ok("Content-Length: +2\r\n") + "ok", reason.BadBackendFraming},
	{"length: hexadecimal", ok("Content-Length: 0x2\r\n") + "ok", reason.BadBackendFraming},
	{"length: empty", ok("Content-Length:\r\n") + "ok", reason.BadBackendFraming},
	{"length: word", ok("Content-Length: two\r\n") + "ok", reason.BadBackendFraming},
	{"length: space inside", ok("Content-Length: 2 2\r\n") + "ok", reason.BadBackendFraming},
	{"length: 2^63", ok("Content-Length: 9223372036854775808\r\n") + "ok", reason.BadBackendFraming},
	{"length: 2^64+2", ok("Content-Length: 18446744073709551618\r\n") + "ok", reason.BadBackendFraming},
	{"length: with coding", ok("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"length: after coding", ok("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"length: on 204", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", reason.BadBackendFraming},
	{"length: on 100", "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n" + status("HTTP/1.1 200 OK"), reason.BadBackendFraming},
	{"length: zero on 103", "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n" + status("HTTP/1.1 200 OK"), reason.BadBackendFraming},
	{"coding: gzip", ok("Transfer-Encoding: gzip\r\n") + "ok", reason.BadBackendFraming},
	{"coding: identity", ok("Transfer-Encoding: identity\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendFraming},
	{"coding: gzip, chunked", ok("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"coding: xchunked", ok("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"coding: chunked twice", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"coding: chunked, chunked", ok("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n", reason.BadBackendFraming},
	{"coding: empty", ok("Transfer-Encoding:\r\nContent-Length: 2\r\n") + "ok", reason.BadBackendFraming},
	{"coding: vertical tab", ok("Transfer-Encoding: \x0bchunked\r\n") + "0\r\n\r\n", reason.BadBackendHead},
	{"coding: in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", reason.BadBackendFraming},
	{"coding: on 204", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", reason.BadBackendFraming},
	{"coding: on 100", "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", reason.BadBackendFraming},
}

var responseChunks = []Case{
	{"chunk: no size", okChunked("\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: word as size", okChunked("xyz\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: 0x", okChunked("0x3\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: minus", okChunked("-3\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: trailing space", okChunked("3 \r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: overflow", okChunked("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: seventeen digits", okChunked("10000000000000003\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: bare LF after size", okChunked("3\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: bare LF after data", okChunked("3\r\nabc\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: data longer than size", okChunked("3\r\nabcdef\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: second is rubbish", okChunked("3\r\nabc\r\nrubbish\r\n"), reason.BadBackendFraming},
	{"chunk: no chunks at all", okChunked("hello world"), reason.BadBackendFraming},
	{"chunk: extension with LF in quotes", okChunked("3;a=\"\n\"\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: extension too long", okChunked("3;" + times("a", 5000) + "\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"chunk: NUL after size", okChunked("3\x00\r\nabc\r\n0\r\n\r\n"), reason.BadBackendFraming},
	{"trailer: no colon", okChunked("3\r\nabc\r\n0\r\nrubbish\r\n\r\n"), reason.BadBackendFraming},
	{"trailer: length", okChunked("3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n"), reason.BadBackendFraming},
	{"trailer: fold", okChunked("3\r\nabc\r\n0\r\nX-A: 1\r\n 2\r\n\r\n"), reason.BadBackendFraming},
	{"trailer: NUL", okChunked("3\r\nabc\r\n0\r\nX-A: \x00\r\n\r\n"), reason.BadBackendFraming},
	{"trailer: bare LF", okChunked("3\r\nabc\r\n0\r\nX-A: 1\n\r\n"), reason.BadBackendFraming},
	{"trailer: too large", okChunked("0\r\n" + times("X-A: 1\r\n", 2000)), reason.BadBackendFraming},
	{"trailer: never ends", okChunked("0\r\nX-A: " + times("a", 20<<10)), reason.BadBackendFraming},
}

var responseEnds = []Case{
	{"end: nothing", "", reason.BackendReset},
	{"end: in version", "HTTP/1", reason.BackendReset},
	{"end: in status line", "HTTP/1.1 20", reason.BackendReset},
	{"end: after status line", "HTTP/1.1 200 OK\r\n", reason.BackendReset},
	{"end: in field", "HTTP/1.1 200 OK\r\nContent-Len", reason.BackendReset},
	{"end: before empty line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", reason.BackendReset},
	{"end: in empty line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r", reason.BackendReset},
	{"end: after 100", "HTTP/1.1 100 Continue\r\n\r\n", reason.BackendReset},
	{"end: after 103", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", reason.BackendReset},
	{"end: no body", ok("Content-Length: 10\r\n"), reason.BackendTruncated},
	{"end: in body", ok("Content-Length: 10\r\n") + "01234", reason.BackendTruncated},
	{"end: one byte short", ok("Content-Length: 10\r\n") + "012345678", reason.BackendTruncated},
	{"end: in huge body", ok("Content-Length: 9223372036854775807\r\n") + "0", reason.BackendTruncated},
	{"end: no chunks", okChunked(""), reason.BackendTruncated},
	{"end: in chunk size", okChunked("3"), reason.BackendTruncated},
	{"end: after chunk size", okChunked("3\r\n"), reason.BackendTruncated},
	{"end: in chunk", okChunked("3\r\nab"), reason.BackendTruncated},
	{"end: after chunk data", okChunked("3\r\nabc"), reason.BackendTruncated},
	{"end: after chunk", okChunked("3\r\nabc\r\n"), reason.BackendTruncated},
	{"end: after last chunk size", okChunked("3\r\nabc\r\n0\r\n"), reason.BackendTruncated},
	{"end: in trailer", okChunked("3\r\nabc\r\n0\r\nX-A: 1\r\n"), reason.BackendTruncated},
	{"end: in final CRLF", okChunked("3\r\nabc\r\n0\r\n\r"), reason.BackendTruncated},
	{"upgrade: unasked", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", reason.UnaskedUpgrade},
	{"upgrade: unasked h2c", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", reason.UnaskedUpgrade},
	{"upgrade: bare 101", "HTTP/1.1 101 Switching Protocols\r\n\r\n", reason.UnaskedUpgrade},
	{"upgrade: 101 after 100", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", reason.UnaskedUpgrade},
	{"upgrade: 101 in 1.0", "HTTP/1.0 101 Switching Protocols\r\n\r\n", reason.UnaskedUpgrade},
}
