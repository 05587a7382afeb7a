// Package h1 is the strict HTTP/1.1 wire codec of the gateway: request heads,
// response heads and chunked bodies are read here once, and by nothing else, so
// that no byte is ever read one way here and another way behind.
//
// Nothing allocates in the steady state, nothing blocks, and nothing keeps a slice of the
// caller's buffer while a head is incomplete: parsers remember offsets and where
// they stopped, so a client that dribbles costs O(bytes) in all.
//
// What is refused is what two implementations have been seen to read differently
// (RFC 9110, RFC 9112), and a little more. Where the RFCs leave a choice, this is ours:
//
//   - Lines end in CRLF. A bare LF or CR is refused everywhere, as are folded lines,
//     and control characters other than HTAB in values. Bytes 0x80-0xFF in values pass.
//   - One empty line may precede a request line, none a status line.
//   - Only HTTP/1.0 and HTTP/1.1. HTTP/1.2 and HTTP/2.0 are [reason.BadVersion].
//   - A request target may hold any printable ASCII byte but '#'. Bytes such as
//     '"', '<', '|', '{' and '\' are outside RFC 3986 but sent raw by browsers and
//     passed by nginx; no parser reads them as anything but themselves. Percent
//     encodings in the path must be whole, and may not hide a NUL; the query is not looked into.
//   - Host names hold letters, digits, '-', '.', '_' and '~' only; sub-delimiters, percent
//     encodings, IPv6 zones, an empty port and empty labels (but the last) are refused.
//   - Content-Length is given once, in digits; a second one is refused even if equal.
//     Transfer-Encoding is exactly "chunked", once, in HTTP/1.1, without Content-Length.
//   - A name that becomes Content-Length or Transfer-Encoding when every sign is read as '-'
//     (CGI, PHP and WSGI take '_', '.' or any sign for it) is refused; one that becomes a
//     forwarding field is marked [Field.Hop], so that it cannot pose as a field set by the gateway.
//   - Connection may nominate only names that are not in the list of [FieldID]s: each of
//     those is defined as end-to-end by its specification, or is removed anyway. So no client
//     can have Host, Content-Length, Authorization or X-Forwarded-For removed on the way.
//   - Trailer may not announce framing fields. In trailers those are refused, and fields that say how to
//     route, authorise or read the message are removed, in any such spelling.
//   - Chunk extensions are checked, bounded and never passed on; white space
//     around a chunk size is refused.
package h1
