package tlsterm

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"slices"
)

const (
	// ja4Length is that of "t13d1516h2_8daaf6152771_e5627efa2ab1".
	ja4Length = 36

	// ja4Most is how many cipher suites, extensions and signature schemes of a hello count, each. It is more than the
	// registries of them hold, so only a hello that is meant to cost something has more: without a bound, one of
	// 64 KiB would cost ten times what its handshake does.
	ja4Most = 512

	// ja4None stands for the hash of an empty list.
	ja4None = "000000000000"
)

// JA4 returns the JA4 fingerprint of a TLS client, which is made of its ClientHello:
//
//	t13d1516h2_8daaf6152771_e5627efa2ab1
//	│││││ │ │  │            └ SHA-256 of the sorted extensions without SNI and ALPN, and the signature schemes as they stand
//	│││││ │ │  └ SHA-256 of the sorted cipher suites
//	│││││ │ └ first and last character of the first ALPN protocol, 00 without ALPN
//	│││││ └ extensions, at most 99
//	││││└ cipher suites, at most 99
//	│││└ d with SNI, i without
//	│└ highest TLS version
//	└ TLS over TCP
//
// It is that of FoxIO (JA4: TLS Client Fingerprinting, which is under the BSD licence, as opposed to the other fingerprints
// of the JA4+ family). Values of GREASE (RFC 8701) do not count.
//
// crypto/tls does not tell the legacy version of a hello. Where it matters, which is in one without the extension
// supported_versions, a version above TLS 1.3 is therefore taken for TLS 1.3, and one below TLS 1.0 for SSL 3.0. No such
// client exists, or gets through a handshake.
//
// The string is all that is allocated.
func JA4(hello *tls.ClientHelloInfo) string {
	var buf, more [ja4Most]uint16
	var text [2 * 5 * ja4Most]byte // four digits and a separator each

	suites := ja4List(buf[:0], hello.CipherSuites)
	slices.Sort(suites)
	out := append(make([]byte, 0, ja4Length), 't')
	out = append(out, ja4Version(hello)...)
	out = append(out, ja4Target(hello.Extensions))
	out = ja4Count(out, len(suites))
	suiteSum := ja4Sum(ja4Hex(text[:0], suites))

	extensions := ja4List(buf[:0], hello.Extensions)
	out = ja4Count(out, len(extensions))
	out = ja4Protocol(out, hello.SupportedProtos)
	extensions = slices.DeleteFunc(extensions, func(e uint16) bool { return e == extServerName || e == extALPN })
	slices.Sort(extensions)
	listed := ja4Hex(text[:0], extensions)
	if schemes := ja4List(more[:0], hello.SignatureSchemes); len(schemes) > 0 {
		listed = ja4Hex(append(listed, '_'), schemes)
	}
	extensionSum := ja4Sum(listed)

	out = append(append(out, '_'), suiteSum[:]...)
	out = append(append(out, '_'), extensionSum[:]...)
	return string(out)
}

// OnJA4 has f told of the fingerprint of every client, if the options ask for it, with the connection that was given to tls.Server.
// It is called in the handshake, before anything is computed for it but the fingerprint; an error refuses the client, with the
// alert internal_error. f must be set before the first handshake, and must not wait.
func (s *Store) OnJA4(f func(conn net.Conn, ja4 string) error) { s.live.onJA4 = f }

// fingerprinted is tls.Config.GetConfigForClient with the option ja4.
func (l *live) fingerprinted(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	factsOf(hello).noteName(hello.ServerName) // for a client that is refused, too
	if l.onJA4 != nil {
		if err := l.onJA4(hello.Conn, JA4(hello)); err != nil {
			return nil, err
		}
	}
	return l.configFor(hello)
}

// Extensions of a ClientHello that JA4 looks at.
const (
	extServerName        = 0  // RFC 6066
	extALPN              = 16 // RFC 7301
	extSupportedVersions = 43 // RFC 8446
)

// isGREASE reports whether v is one of the sixteen values 0x0a0a to 0xfafa that clients strew in so that servers
// get used to unknown values (RFC 8701).
func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// ja4List appends the values of a list that count, as far as dst has room.
func ja4List[T ~uint16](dst []uint16, list []T) []uint16 {
	for _, v := range list {
		if len(dst) == cap(dst) {
			break
		}
		if !isGREASE(uint16(v)) {
			dst = append(dst, uint16(v))
		}
	}
	return dst
}

func ja4Version(hello *tls.ClientHelloInfo) string {
	highest := uint16(0)
	for _, v := range hello.SupportedVersions {
		if !isGREASE(v) {
			highest = max(highest, v)
		}
	}
	switch highest {
	case tls.VersionTLS13:
		return "13"
	case tls.VersionTLS12:
		return "12"
	case tls.VersionTLS11:
		return "11"
	case tls.VersionTLS10:
		return "10"
	case 0x0300:
		return "s3"
	}
	if highest == 0 && !slices.Contains(hello.Extensions, extSupportedVersions) {
		return "s3"
	}
	return "00"
}

// ja4Target tells clients that know the server by name from those that know an address.
func ja4Target(extensions []uint16) byte {
	if slices.Contains(extensions, extServerName) {
		return 'd'
	}
	return 'i'
}

// ja4Count appends two digits.
func ja4Count(dst []byte, n int) []byte {
	n = min(n, 99)
	return append(dst, '0'+byte(n/10), '0'+byte(n%10))
}

// ja4Protocol appends the first and the last character of the first protocol, or of its hexadecimal form, if either is
// neither letter nor digit.
func ja4Protocol(dst []byte, protocols []string) []byte {
	if len(protocols) == 0 || protocols[0] == "" {
		return append(dst, "00"...)
	}
	first, last := protocols[0][0], protocols[0][len(protocols[0])-1]
	if isAlphanumeric(first) && isAlphanumeric(last) {
		return append(dst, first, last)
	}
	const digits = "0123456789abcdef"
	return append(dst, digits[first>>4], digits[last&0xf])
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// ja4Hex appends list as "002f,1301".
func ja4Hex(dst []byte, list []uint16) []byte {
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = hex.AppendEncode(dst, []byte{byte(v >> 8), byte(v)})
	}
	return dst
}

// ja4Sum is the first twelve digits of the SHA-256 of a list.
func ja4Sum(list []byte) (digits [len(ja4None)]byte) {
	if len(list) == 0 {
		copy(digits[:], ja4None)
		return digits
	}
	sum := sha256.Sum256(list)
	hex.Encode(digits[:], sum[:len(digits)/2])
	return digits
}
