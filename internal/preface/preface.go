// Package preface reads the PROXY protocol: the header with which a proxy in front says whose
// connection it is that follows
// (https://www.haproxy.org/download/3.4/doc/proxy-protocol.txt, versions 1 and 2).
//
// Where a header ends is found out here, since no byte behind it may be read with it: that is the
// client's, often TLS. What stands in it is read by github.com/pires/go-proxyproto.
package preface

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"sync"

	"github.com/pires/go-proxyproto"
)

const (
	// MaxLen is the longest header that is taken, with the TLVs of version 2. The specification allows
	// 64 KiB; the largest that proxies send holds a client certificate, of some 2 KiB.
	MaxLen = 4 << 10

	signatureV1 = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"

	maxLine   = 107 // of version 1, with CR LF (section 2.1)
	fixedPart = 16  // of version 2: signature, version and command, family, length (section 2.2)

	commandProxy = 1 // the other is 0, LOCAL
	checksumLen  = 4
)

// addressLens are the lengths of a version 2 header's addresses, by family: unspecified, IPv4, IPv6, Unix.
var addressLens = [...]int{0, 12, 36, 216}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func init() {
	// nginx writes IPv4 addresses into TCP6 lines where its own two sides are of different families.
	proxyproto.V1AcceptIPv4InTCP6 = true
}

// Header is what a proxy says of a connection.
type Header struct {
	Version int // 1 or 2
	// Own says that the connection has no other client than its peer: the proxy speaks for itself (LOCAL, as
	// health checks do), or does not know for whom (UNKNOWN, UNSPEC).
	Own bool
	// Client is for whom it speaks; the zero value is a client on a Unix socket.
	Client netip.AddrPort
}

// Parse reads the header at the beginning of b, which are the first bytes of a connection. n is its
// length; 0 without an error says that b is the beginning of what may become a header. The error is
// Missing, Malformed, BadChecksum or TooLong. b is not retained.
func Parse(b []byte) (h Header, n int, err error) {
	switch {
	case begins(b, signatureV1):
		n, err = lineLen(b)
	case begins(b, signatureV2):
		n, err = frameLen(b)
	default:
		return Header{}, 0, Missing
	}
	if err != nil || n == 0 || len(b) < n {
		return Header{}, 0, err
	}
	if h, err = read(b[:n]); err != nil {
		return Header{}, 0, err
	}
	return h, n, nil
}

// Recognised reports whether b begins with a whole signature, which no TLS and no request does.
func Recognised(b []byte) bool {
	return len(b) >= len(signatureV1) && begins(b, signatureV1) || len(b) >= len(signatureV2) && begins(b, signatureV2)
}

// Resembles reports whether b, five bytes at least, begins as a header does. It tells a header where none is awaited.
func Resembles(b []byte) bool {
	return len(b) >= len("PROXY") && (begins(b, signatureV1) || begins(b, signatureV2))
}

// begins reports whether b begins with a signature, as far as b goes.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// lineLen is the length of a version 1 header, 0 while its end has not come.
func lineLen(b []byte) (int, error) {
	i := bytes.IndexByte(b[:min(len(b), maxLine)], '\n')
	if i < 0 && len(b) >= maxLine {
		return 0, TooLong
	}
	return i + 1, nil
}

// frameLen is the length of a version 2 header, 0 while that is not known.
func frameLen(b []byte) (int, error) {
	if len(b) < fixedPart {
		return 0, nil
	}
	n := fixedPart + int(binary.BigEndian.Uint16(b[fixedPart-2:]))
	if n > MaxLen {
		return 0, TooLong
	}
	return n, nil
}

// reader is what the library reads from. Its buffer holds a whole line of version 1.
type reader struct {
	bytes  bytes.Reader
	buffer *bufio.Reader
}

var readers = sync.Pool{New: func() any { return &reader{buffer: bufio.NewReaderSize(nil, 128)} }}

// read reads a whole header.
func read(b []byte) (Header, error) {
	if b[0] == signatureV2[0] {
		if own, err := checkFrame(b); own || err != nil {
			return Header{Version: 2, Own: own}, err
		}
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	r.bytes.Reset(b)
	r.buffer.Reset(&r.bytes)
	parsed, err := proxyproto.Read(r.buffer)
	r.bytes.Reset(nil)
	if err != nil {
		return Header{}, Malformed
	}
	h := Header{Version: int(parsed.Version), Own: parsed.Command.IsLocal()}
	if !h.Own {
		h.Client = clientOf(parsed.SourceAddr)
	}
	return h, nil
}

// checkFrame judges what the library leaves alone in a version 2 header: an unspecified family (own: section 2.2
// leaves the choice, and HAProxy takes the connection's own addresses, too), whether TLVs fill the rest, and their checksum.
// Of LOCAL all of it is to be ignored.
func checkFrame(b []byte) (own bool, err error) {
	family := int(b[13] >> 4)
	if b[12]&0xf != commandProxy || family >= len(addressLens) {
		return false, nil // the library's
	}
	for at := fixedPart + addressLens[family]; at < len(b); {
		value := at + 3
		if value > len(b) {
			return false, Malformed
		}
		end := value + int(binary.BigEndian.Uint16(b[at+1:]))
		if end > len(b) {
			return false, Malformed
		}
		if b[at] == byte(proxyproto.PP2_TYPE_CRC32C) && !sumMatches(b, value, end) {
			return false, BadChecksum
		}
		at = end
	}
	return b[12] == 2<<4|commandProxy && b[13] == 0, nil
}

// sumMatches compares the CRC32c at b[value:end] with that of the header, for which it counts as
// zeros (section 2.2.3).
func sumMatches(b []byte, value, end int) bool {
	if end-value != checksumLen {
		return false
	}
	sum := crc32.Update(0, castagnoli, b[:value])
	sum = crc32.Update(sum, castagnoli, make([]byte, checksumLen))
	sum = crc32.Update(sum, castagnoli, b[end:])
	return sum == binary.BigEndian.Uint32(b[value:])
}

// clientOf is the source of a header; that of another transport (a proxy that takes HTTP/3 says UDP) is a client as well.
func clientOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
