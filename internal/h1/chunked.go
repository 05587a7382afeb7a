package h1

import (
	"tickgate/internal/reason"
)

const (
	// defaultMaxTrailer bounds a trailer section in bytes. With the empty line it fits
	// into 4 KiB, since net/http refuses larger ones.
	defaultMaxTrailer = 4<<10 - 4
	// maxExtension bounds the extensions of one chunk, and maxExtensions those of one body, in bytes. They carry nothing
	// that anybody needs, and have been used to make a small body cost a lot.
	maxExtension  = 256
	maxExtensions = 16 << 10
)

// Chunked decodes one body in the chunked transfer coding (RFC 9112 section 7.1). The zero
// value is ready to decode a request's; Reset makes it ready for the next.
type Chunked struct {
	// MaxTrailer is the largest trailer section in bytes, without the empty line; 0 is a little less than 4 KiB.
	MaxTrailer int
	// Response makes errors BadBackendFraming in place of BadChunk.
	Response bool

	state     chunkState
	digits    int   // of the current size
	left      int64 // of the current chunk
	extension int   // bytes of the current chunk's extensions
	allExt    int   // bytes of all extensions
	received  int   // bytes of trailer lines, those removed included
	lineStart int   // of the current trailer line, in trailer
	trailer   []byte
}

// chunkState says what the next byte belongs to.
type chunkState uint8

const (
	chunkSize     chunkState = iota // a size digit, or what ends the size
	chunkExtName                    // an extension name
	chunkExtValue                   // the first byte of an extension value
	chunkExtToken                   // a value that is a token
	chunkExtQuote                   // inside a quoted string
	chunkExtPair                    // after a backslash in it
	chunkExtAfter                   // after its closing quote
	chunkSizeLF                     // the LF of the size line
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer   // a trailer line, or the empty line
	chunkTrailerLF // its LF
	chunkDone
	chunkFailed
)

// Reset forgets the body, and keeps the settings and the memory of the trailers.
func (c *Chunked) Reset() {
	*c = Chunked{MaxTrailer: c.MaxTrailer, Response: c.Response, trailer: c.trailer[:0]}
}

// Done reports whether the body is whole, trailers included. Bytes after it belong
// to the next message.
func (c *Chunked) Done() bool { return c.state == chunkDone }

// Trailers returns the trailer fields as "Name: value\r\n" lines, without the empty line at
// the end; empty if there are none. Fields that may not be in trailers (RFC 9110 section
// 6.5.1) are left out. It is valid from Done to Reset.
func (c *Chunked) Trailers() []byte { return c.trailer }

// Decode reads src, the bytes that follow those read before. It returns the next piece of body data, which is part of
// src and may be empty, and how many bytes of src it took, data included. Call it
// again with the rest until that is empty or Done. After an error, which is BadChunk or
// BadBackendFraming, n says nothing, and every call fails until Reset.
func (c *Chunked) Decode(src []byte) (data []byte, n int, err error) {
	for n < len(src) {
		switch c.state {
		case chunkDone:
			return nil, n, nil
		case chunkData:
			size := int(min(c.left, int64(len(src)-n)))
			data = src[n : n+size : n+size]
			if c.left -= int64(size); c.left == 0 {
				c.state = chunkDataCR
			}
			return data, n + size, nil
		case chunkTrailer:
			used, ok := c.trailerText(src[n:])
			if !ok {
				return nil, n, c.fail()
			}
			n += used
		default:
			if !c.step(src[n]) {
				return nil, n, c.fail()
			}
			n++
		}
	}
	if c.state == chunkFailed {
		return nil, n, c.fail()
	}
	return nil, n, nil
}

func (c *Chunked) fail() error {
	c.state = chunkFailed
	if c.Response {
		return reason.BadBackendFraming
	}
	return reason.BadChunk
}

// step reads one byte of framing.
func (c *Chunked) step(b byte) (ok bool) {
	switch c.state {
	case chunkSize:
		return c.sizeByte(b)
	case chunkSizeLF:
		return b == '\n' && c.startData()
	case chunkDataCR:
		c.state = chunkDataLF
		return b == '\r'
	case chunkDataLF:
		c.state, c.digits, c.extension = chunkSize, 0, 0
		return b == '\n'
	case chunkTrailerLF:
		return b == '\n' && c.endTrailerLine()
	case chunkFailed:
		return false
	}
	c.extension++
	c.allExt++
	return c.extension <= maxExtension && c.allExt <= maxExtensions && c.extensionByte(b)
}

// sizeByte reads a byte of a chunk size: 1 to 16 hexadecimal digits, at most 2^63-1.
func (c *Chunked) sizeByte(b byte) (ok bool) {
	if is(b, classHex) {
		if c.digits == 16 || c.left>>59 != 0 {
			return false
		}
		c.digits++
		c.left = c.left<<4 | int64(unhex(b))
		return true
	}
	return c.digits > 0 && c.endElement(b)
}

// endElement reads what may follow a size or a whole extension.
func (c *Chunked) endElement(b byte) (ok bool) {
	switch b {
	case '\r':
		c.state = chunkSizeLF
	case ';':
		c.state, c.digits = chunkExtName, 0
	default:
		return false
	}
	return true
}

// extensionByte reads a byte of chunk-ext (RFC 9112 section 7.1.1), in which no white
// space is allowed here. digits counts the bytes of a token.
func (c *Chunked) extensionByte(b byte) (ok bool) {
	switch c.state {
	case chunkExtName, chunkExtToken:
		if is(b, classToken) {
			c.digits++
			return true
		}
		if c.digits == 0 {
			return false
		}
		if b == '=' && c.state == chunkExtName {
			c.state = chunkExtValue
			return true
		}
		return c.endElement(b)
	case chunkExtValue:
		if b == '"' {
			c.state = chunkExtQuote
			return true
		}
		c.state, c.digits = chunkExtToken, 1
		return is(b, classToken)
	case chunkExtQuote:
		switch b {
		case '"':
			c.state = chunkExtAfter
			return true
		case '\\':
			c.state = chunkExtPair
			return true
		}
		return is(b, classQuoted)
	case chunkExtPair:
		c.state = chunkExtQuote
		return is(b, classQuoted) || b == '"' || b == '\\'
	}
	return c.endElement(b) // chunkExtAfter
}

// startData ends a size line.
func (c *Chunked) startData() (ok bool) {
	c.state = chunkData
	if c.left == 0 {
		c.state = chunkTrailer
	}
	return true
}

// AppendChunkHeader appends the size line of a chunk of n > 0 bytes. The data and a CRLF follow it.
func AppendChunkHeader(dst []byte, n int64) []byte {
	const digits = "0123456789abcdef"
	var buf [18]byte
	i := len(buf) - 2
	buf[i], buf[i+1] = '\r', '\n'
	for u := uint64(n); ; u >>= 4 {
		i--
		buf[i] = digits[u&15]
		if u < 16 {
			return append(dst, buf[i:]...)
		}
	}
}

// AppendLastChunk appends the end of a chunked body with the trailer lines, which are as Trailers returns
// them and may be empty.
func AppendLastChunk(dst, trailers []byte) []byte {
	dst = append(dst, "0\r\n"...)
	dst = append(dst, trailers...)
	return append(dst, '\r', '\n')
}
