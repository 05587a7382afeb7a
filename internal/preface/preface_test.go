package preface

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

// frame is a version 2 header with this version and command, family and transport, and content.
func frame(command, family byte, content string) string {
	b := append([]byte(signatureV2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(content)))) + content
}

const (
	v4 = "\xc0\x00\x02\x01\xc6\x33\x64\x01\xdb\xa0\x01\xbb" // 192.0.2.1:56224 to 198.51.100.1:443
	v6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdb\xa0\x01\xbb"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x01\xdb\xa0\x01\xbb"
)

var unixAddrs = "/run/a" + strings.Repeat("\x00", 102) + "/run/b" + strings.Repeat("\x00", 102)

// tlv is a type, a length and a value.
func tlv(kind byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value)))) + value
}

// summed is a version 2 header over IPv4 with a right checksum between other TLVs.
func summed() string {
	const before = "\x01\x00\x02h2"
	b := []byte(frame(0x21, 0x11, v4+before+tlv(3, "\x00\x00\x00\x00")+tlv(4, "padding")))
	at := fixedPart + len(v4) + len(before) + 3
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, castagnoli))
	return string(b)
}

func TestParse(t *testing.T) {
	f := func(in string, want Header) {
		t.Helper()
		for _, rest := range []string{"", "\x16\x03\x01", "GET / HTTP/1.1\r\n", in} {
			h, n, err := Parse([]byte(in + rest))
			if h != want || n != len(in) || err != nil {
				t.Errorf("%.120q and %.20q: %+v, %d, %v, want %+v, %d", in, rest, h, n, err, want, len(in))
			}
		}
		for n := range in {
			if h, size, err := Parse([]byte(in[:n])); size != 0 || err != nil || h != (Header{}) {
				t.Errorf("%.120q: %+v, %d, %v, want to wait for more", in[:n], h, size, err)
			}
		}
	}
	of := func(version int, client string) Header {
		return Header{Version: version, Client: netip.MustParseAddrPort(client)}
	}
	f("PROXY TCP4 192.0.2.1 198.51.100.1 56224 443\r\n", of(1, "192.0.2.1:56224"))
	f("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", of(1, "255.255.255.255:65535"))
	f("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", of(1, "0.0.0.0:0"))
	f("PROXY TCP6 2001:db8::1 2001:db8::2 56224 443\r\n", of(1, "[2001:db8::1]:56224"))
	f("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 56224 443\r\n", of(1, "192.0.2.1:56224"))
	f("PROXY TCP6 192.0.2.1 2001:db8::2 56224 443\r\n", of(1, "192.0.2.1:56224")) // nginx
	f("PROXY UNKNOWN\r\n", Header{Version: 1, Own: true})
	f("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", Header{Version: 1, Own: true})
	f("PROXY UNKNOWN what ever\r\n", Header{Version: 1, Own: true})

	f(frame(0x21, 0x11, v4), of(2, "192.0.2.1:56224"))
	f(frame(0x21, 0x12, v4), of(2, "192.0.2.1:56224")) // over UDP
	f(frame(0x21, 0x21, v6), of(2, "[2001:db8::1]:56224"))
	f(frame(0x21, 0x21, mapped), of(2, "192.0.2.1:56224"))
	f(frame(0x21, 0x31, unixAddrs), Header{Version: 2})
	f(frame(0x21, 0x32, unixAddrs), Header{Version: 2})
	f(frame(0x21, 0x00, ""), Header{Version: 2, Own: true})
	f(frame(0x21, 0x00, tlv(4, "padding")), Header{Version: 2, Own: true})
	f(frame(0x20, 0x00, ""), Header{Version: 2, Own: true})
	f(frame(0x20, 0x11, v4), Header{Version: 2, Own: true})
	f(frame(0x20, 0x11, ""), Header{Version: 2, Own: true})
	f(frame(0x20, 0x11, v4+"\x03\x00\x04\x00\x00\x00\x00"), Header{Version: 2, Own: true}) // LOCAL: ignored
	f(frame(0x21, 0x11, v4+tlv(1, "h2")+tlv(2, "example.com")+tlv(0xea, "vpce-1")), of(2, "192.0.2.1:56224"))
	f(frame(0x21, 0x11, v4+tlv(4, strings.Repeat("\x00", MaxLen-fixedPart-len(v4)-3))), of(2, "192.0.2.1:56224"))
	f(summed(), of(2, "192.0.2.1:56224"))
}

func TestParseErrors(t *testing.T) {
	f := func(in string, want Failure) {
		t.Helper()
		if h, n, err := Parse([]byte(in)); h != (Header{}) || n != 0 || !errors.Is(err, want) {
			t.Errorf("%.120q: %+v, %d, %v, want %v", in, h, n, err, want)
		}
	}
	f("GET / HTTP/1.1\r\n", Missing)
	f("\x16\x03\x01\x02\x00", Missing)
	f("POST / HTTP/1.1\r\n", Missing)
	f("PROXYS", Missing)
	f("proxy ", Missing)
	f("\r\n\r\nGET", Missing)
	f("\r\n\r\n\x00\r\nQUIT\r", Missing)

	f("PROXY \r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 56224 443\n", Malformed)
	f("PROXY TCP4  192.0.2.1 198.51.100.1 56224 443\r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 56224 443 \r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 56224\r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 056224 443\r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", Malformed)
	f("PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n", Malformed)
	f("PROXY TCP4 192.0.2.256 198.51.100.1 56224 443\r\n", Malformed)
	f("PROXY TCP4 2001:db8::1 2001:db8::2 56224 443\r\n", Malformed)
	f("PROXY TCP6 fe80::1%eth0 2001:db8::2 56224 443\r\n", Malformed)
	f("PROXY UDP4 192.0.2.1 198.51.100.1 56224 443\r\n", Malformed)
	f("PROXY tcp4 192.0.2.1 198.51.100.1 56224 443\r\n", Malformed)

	f(frame(0x11, 0x11, v4), Malformed)                  // version 1 in the frame of 2
	f(frame(0x22, 0x11, v4), Malformed)                  // no such command
	f(frame(0x21, 0x13, v4), Malformed)                  // no such transport
	f(frame(0x21, 0x41, v4), Malformed)                  // no such family
	f(frame(0x21, 0x01, ""), Malformed)                  // a transport of no family
	f(frame(0x21, 0x11, v4[:11]), Malformed)             // too short for its family
	f(frame(0x21, 0x21, v4), Malformed)                  // too short for its family
	f(frame(0x21, 0x11, v4+"\x01"), Malformed)           // half a TLV
	f(frame(0x21, 0x11, v4+"\x01\x00\x03h2"), Malformed) // a TLV that is longer than the header
	f(frame(0x21, 0x11, v4+"\x03\x00\x04\x00\x00\x00\x00"), BadChecksum)
	f(frame(0x21, 0x11, v4+"\x03\x00\x03\x00\x00\x00"), BadChecksum)
	f(strings.Replace(summed(), "h2", "h3", 1), BadChecksum)

	f("PROXY TCP4 "+strings.Repeat("1", 96), TooLong)
	f("PROXY UNKNOWN "+strings.Repeat("x", 92)+"\r\n", TooLong)
	f(frame(0x21, 0x11, strings.Repeat("x", MaxLen))[:fixedPart], TooLong)
	f(frame(0x20, 0x00, strings.Repeat("x", 0xffff))[:fixedPart], TooLong)
}

func TestSignatures(t *testing.T) {
	f := func(in string, recognised, resembles bool) {
		t.Helper()
		if a, b := Recognised([]byte(in)), Resembles([]byte(in)); a != recognised || b != resembles {
			t.Errorf("%q: recognised %t, resembles %t, want %t, %t", in, a, b, recognised, resembles)
		}
	}
	f("", false, false)
	f("PROX", false, false)
	f("PROXY", false, true)
	f("PROXY ", true, true)
	f("PROXY TCP4", true, true)
	f("PROXYX", false, false)
	f("\r\n\r\n", false, false)
	f("\r\n\r\n\x00", false, true)
	f("\r\n\r\n\x00\r\nQUIT\n", true, true)
	f("\r\n\r\nG", false, false)
	f("GET / HTTP/1.1", false, false)
}

func TestFailureWords(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Failures() {
		if w := f.String(); w == "" || w == "unknown" || seen[w] || f.Error() != w {
			t.Errorf("failure %d has the word %q", f, w)
		}
		seen[f.String()] = true
	}
	if got := Failure(99).String(); got != "unknown" {
		t.Errorf("a failure that is none has the word %q", got)
	}
}

// FuzzParse checks that a header's end does not depend on how it comes and what follows, and
// that what is wrong has its word.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "PROXY ", "PROXY UNKNOWN\r\n", "PROXY TCP4 192.0.2.1 198.51.100.1 56224 443\r\nGET", "PROXY TCP6 ::1 ::1 1 2\r\n\x16\x03",
		signatureV2, frame(0x21, 0x11, v4), frame(0x21, 0x21, v6+tlv(2, "name")), frame(0x21, 0x31, unixAddrs), frame(0x20, 0, ""), summed(),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		if err != nil {
			var failure Failure
			if !errors.As(err, &failure) || failure > TooLong || n != 0 || h != (Header{}) {
				t.Fatalf("%+v, %d, %v", h, n, err)
			}
			return
		}
		if n == 0 {
			if len(b) >= MaxLen || h != (Header{}) {
				t.Fatalf("%d bytes are not enough", len(b))
			}
			return
		}
		if n > min(len(b), MaxLen) || h.Version != 1 && h.Version != 2 || !Recognised(b) || h.Own && h.Client.IsValid() {
			t.Fatalf("%+v, %d of %d", h, n, len(b))
		}
		if again, m, err := Parse(b[:n]); again != h || m != n || err != nil {
			t.Fatalf("without what follows: %+v, %d, %v, want %+v, %d", again, m, err, h, n)
		}
		if _, m, err := Parse(b[:n-1]); m != 0 || err != nil {
			t.Fatalf("without its last byte: %d, %v", m, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, in := range []string{"PROXY TCP4 192.0.2.1 198.51.100.1 56224 443\r\n", frame(0x21, 0x11, v4)} {
		b.Run(in[:4], func(b *testing.B) {
			b.ReportAllocs()
			raw := []byte(in)
			for b.Loop() {
				if _, n, err := Parse(raw); n != len(raw) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
