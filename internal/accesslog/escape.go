package accesslog

import "unicode/utf8"

const (
	lowerHex = "0123456789abcdef"
	upperHex = "0123456789ABCDEF"
)

// plain holds the bytes that every format copies as they are: printable ASCII without the
// quote and the backslash. Every other byte, and so every line end, takes the slow path.
var plain = func() (set [256]bool) {
	for c := 0x20; c <= 0x7e; c++ {
		set[c] = c != '"' && c != '\\'
	}
	return set
}()

// plainLen returns the length of the longest plain prefix of s.
func plainLen(s []byte) int {
	for i, c := range s {
		if !plain[c] {
			return i
		}
	}
	return len(s)
}

// appendNginx appends s as nginx's default log escaping does: a quote, a backslash, and
// every byte below 0x20 or above 0x7e become \xHH; nothing at all becomes "-".
func appendNginx(dst, s []byte) []byte {
	if len(s) == 0 {
		return append(dst, '-')
	}
	for {
		n := plainLen(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return dst
		}
		c := s[n]
		dst = append(dst, '\\', 'x', upperHex[c>>4], upperHex[c&15])
		s = s[n+1:]
	}
}

// appendJSON appends s as a JSON string with its quotes (RFC 8259 section 7). Bytes that
// are not UTF-8 become U+FFFD, as with zerolog. Beyond zerolog, control characters above
// ASCII and those that change line or writing direction are escaped, as some terminals
// obey them.
func appendJSON(dst, s []byte) []byte {
	dst = append(dst, '"')
	for {
		n := plainLen(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"')
		}
		var used int
		dst, used = appendJSONRune(dst, s[n:])
		s = s[n+used:]
	}
}

// appendJSONRune appends the first character of s, which is not plain, and returns its
// length in s.
func appendJSONRune(dst, s []byte) ([]byte, int) {
	c := s[0]
	switch {
	case c == '"', c == '\\':
		return append(dst, '\\', c), 1
	case c == '\n':
		return append(dst, '\\', 'n'), 1
	case c == '\r':
		return append(dst, '\\', 'r'), 1
	case c == '\t':
		return append(dst, '\\', 't'), 1
	case c == '\b':
		return append(dst, '\\', 'b'), 1
	case c == '\f':
		return append(dst, '\\', 'f'), 1
	case c < utf8.RuneSelf:
		return appendHexRune(dst, rune(c)), 1
	}
	r, size := utf8.DecodeRune(s)
	if r == utf8.RuneError && size == 1 {
		return append(dst, `\ufffd`...), 1
	}
	if misleading(r) {
		return appendHexRune(dst, r), size
	}
	return append(dst, s[:size]...), size
}

// misleading reports whether r, beyond ASCII, is a control character, a line end, or
// turns the writing direction.
func misleading(r rune) bool {
	return r <= 0x9f || (r >= 0x2028 && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) || r == 0xfeff
}

func appendHexRune(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', lowerHex[r>>12&15], lowerHex[r>>8&15], lowerHex[r>>4&15], lowerHex[r&15])
}
