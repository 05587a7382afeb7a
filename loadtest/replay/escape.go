package replay

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// decode appends raw to dst with its escapes undone: \xHH of nginx, and those of JSON and
// Apache. A backslash before anything else stands for itself.
func decode(dst, raw []byte) []byte {
	for {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 || n+1 == len(raw) {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:n]...)
		var used int
		dst, used = decodeEscape(dst, raw[n:])
		raw = raw[n+used:]
	}
}

// simple are the escapes of one letter.
var simple = [256]byte{'"': '"', '\\': '\\', '/': '/', 'n': '\n', 'r': '\r', 't': '\t', 'b': '\b', 'f': '\f', 'v': '\v'}

// decodeEscape undoes the escape that b begins with; it has two bytes at least. It
// returns how many it took.
func decodeEscape(dst, b []byte) (out []byte, used int) {
	switch c := b[1]; {
	case simple[c] != 0:
		return append(dst, simple[c]), 2
	case c == 'x':
		if v, ok := unhex(b[2:], 2); ok {
			return append(dst, byte(v)), 4
		}
	case c == 'u':
		if v, ok := unhex(b[2:], 4); ok {
			return decodeUnicode(dst, v, b)
		}
	}
	return append(dst, '\\'), 1
}

// decodeUnicode appends \uHHHH, whose value is v, or a pair of surrogates.
func decodeUnicode(dst []byte, v rune, b []byte) (out []byte, used int) {
	if utf16.IsSurrogate(v) && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
		if low, ok := unhex(b[8:], 4); ok {
			if r := utf16.DecodeRune(v, low); r != utf8.RuneError {
				return utf8.AppendRune(dst, r), 12
			}
		}
	}
	return utf8.AppendRune(dst, v), 6
}

// unhex reads n hexadecimal digits.
func unhex(b []byte, n int) (v rune, ok bool) {
	if len(b) < n {
		return 0, false
	}
	for _, c := range b[:n] {
		switch {
		case c-'0' < 10:
			v = v<<4 | rune(c-'0')
		case c|0x20-'a' < 6:
			v = v<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}
