package tlsterm

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
)

// Fingerprints that others have published, with what they were made of: captures of the JA4 project (python/test/testdata)
// and the examples of its specification. Values of GREASE, which the published lists leave out, are put in here and there.
func TestJA4Published(t *testing.T) {
	const chrome = "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
	const chromeSchemes = "0403,0804,0401,0503,0805,0501,0806,0601"
	f := func(want string, h hello) {
		t.Helper()
		for _, grease := range []bool{false, true} {
			h.grease = grease
			if got := ja4Of(t, h.bytes()); got != want {
				t.Errorf("%s, GREASE %t: got %s", want, grease, got)
			}
			if got := independentJA4(h.bytes()); got != want {
				t.Errorf("%s, GREASE %t: the test's own reading gives %s", want, grease, got)
			}
		}
	}
	// Chrome: the example of the specification, and two orders of one version of Chrome.
	f("t13d1516h2_8daaf6152771_e5627efa2ab1", hello{
		suites: chrome, alpn: "h2,http/1.1", versions: "0304,0303", schemes: chromeSchemes,
		extensions: "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015",
	})
	f("t13d1516h2_8daaf6152771_e5627efa2ab1", hello{
		suites: chrome, alpn: "h2,http/1.1", versions: "0304,0303", schemes: chromeSchemes,
		extensions: "0023,ff01,0000,001b,0012,4469,002d,002b,000d,0010,0033,000a,0005,0017,000b,0015",
	})
	// The same for WebSockets, without ALPN, and with a session to resume.
	f("t13d1516h1_8daaf6152771_e5627efa2ab1", hello{
		suites: chrome, alpn: "http/1.1", versions: "0304,0303", schemes: chromeSchemes,
		extensions: "000d,0033,0000,ff01,002b,0023,002d,0005,0012,000b,0017,4469,0010,001b,000a,0015",
	})
	f("t13d151400_8daaf6152771_de4a06bb82e3", hello{
		suites: chrome, versions: "0304,0303", schemes: chromeSchemes,
		extensions: "0033,002b,001b,0000,0012,002d,000d,000a,0005,0023,0017,ff01,000b,0015",
	})
	f("t13d1516h2_8daaf6152771_9b887d9acb53", hello{
		suites: chrome, alpn: "h2", versions: "0304,0303", schemes: chromeSchemes,
		extensions: "000d,0010,0000,000b,0023,4469,ff01,0033,000a,002d,002b,0005,0017,0012,001b,0029",
	})
	// Firefox.
	f("t13d1715h2_5b57614c22b0_3d5424432f57", hello{
		suites: "1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035", alpn: "h2,http/1.1",
		versions: "0304,0303", schemes: "0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201",
		extensions: "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,0015",
	})
	// Windows, and LibreSSL with signature schemes of its own. Both speak TLS 1.2 and say so without supported_versions.
	f("t12d190800_d83cc789557e_7af1ed941c26", hello{
		suites:  "c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,002f,000a",
		schemes: "0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603", extensions: "0000,0005,000a,000b,000d,0023,0017,ff01",
	})
	f("t12d4605h2_85626a9a5f7f_aaf95bb78ec9", hello{
		suites: "c030,c02c,c028,c024,c014,c00a,009f,006b,0039,cca9,cca8,ccaa,ff85,00c4,0088,0081,009d,003d,0035,00c0,0084,c02f,c02b,c027," +
			"c023,c013,c009,009e,0067,0033,00be,0045,009c,003c,002f,00ba,0041,c011,c007,0005,0004,c012,c008,0016,000a,00ff",
		schemes: "0601,0603,efef,0501,0503,0401,0403,eeee,eded,0301,0303,0201,0203", alpn: "h2,http/1.1", extensions: "0000,000b,000a,000d,0010",
	})
	// The example of the specification without signature schemes: only its last part is published.
	noSchemes := hello{suites: chrome, versions: "0304", extensions: "0005,000a,000b,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01"}
	if got := ja4Of(t, noSchemes.bytes()); !strings.HasSuffix(got, ja4Of12("0005,000a,000b,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01")) {
		t.Errorf("without signature schemes: %s", got)
	}
	if got := ja4Of12("0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01"); got != "6d807ffa2a79" {
		t.Errorf("the example hashes to %s", got)
	}
}

func TestJA4Parts(t *testing.T) {
	f := func(what string, info tls.ClientHelloInfo, want string) {
		t.Helper()
		if got := JA4(&info); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	const none = "_000000000000_000000000000"
	f("nothing at all", tls.ClientHelloInfo{}, "ts3i000000"+none)
	for version, want := range map[uint16]string{0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x7f1c: "00", 2: "00"} {
		f("version", tls.ClientHelloInfo{SupportedVersions: []uint16{2, version, 0x0a0a}}, "t"+want+"i000000"+none)
	}
	f("only GREASE", tls.ClientHelloInfo{
		SupportedVersions: []uint16{0xfafa}, CipherSuites: []uint16{0x0a0a}, Extensions: []uint16{0xbaba, 43, 0x1a1a},
		SignatureSchemes: []tls.SignatureScheme{0x2a2a},
	}, "t00i000100_000000000000_"+ja4Of12("002b"))
	f("almost GREASE", tls.ClientHelloInfo{CipherSuites: []uint16{0x0a1a, 0x0b0b, 0xaa0a}}, "ts3i030000_"+ja4Of12("0a1a,0b0b,aa0a")+"_000000000000")
	f("only what is left out of the hash", tls.ClientHelloInfo{Extensions: []uint16{16, 0}}, "ts3d000200"+none)
	f("a suite twice", tls.ClientHelloInfo{CipherSuites: []uint16{2, 1, 2}}, "ts3i030000_"+ja4Of12("0001,0002,0002")+"_000000000000")
	f("schemes in their order", tls.ClientHelloInfo{Extensions: []uint16{13}, SignatureSchemes: []tls.SignatureScheme{3, 1, 2}},
		"ts3i000100_000000000000_"+ja4Of12("000d_0003,0001,0002"))
	f("100 suites", tls.ClientHelloInfo{CipherSuites: make([]uint16, 100)}, "ts3i990000_"+ja4Of12(strings.Repeat("0000,", 99)+"0000")+"_000000000000")

	// The examples of the specification, and one character.
	for protocol, want := range map[string]string{
		"h2": "h2", "http/1.1": "h1", "x": "xx", "": "00", "Z9": "Z9", "\xab": "ab", " ": "20", "\xab\xcd": "ad", " a": "21", "0\xab": "3b", "a ": "60",
		"01\xab\xcd": "3d", "0\xab\xcd1": "01",
	} {
		f(strconv.Quote(protocol), tls.ClientHelloInfo{SupportedProtos: []string{protocol, "zz"}}, "ts3i0000"+want+none)
	}
}

// What curl 7.88 and openssl 3.0 of Debian 12 sent, recorded; Go's own client is asked. Those of curl and of openssl with
// its defaults are in several public lists.
func TestJA4RealClients(t *testing.T) {
	want := map[string]string{
		"curl":         "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6",
		"curl-address": "t13i3111h2_e8f1e7e78f70_b26ce05bbdd6",
		"curl-http1":   "t12d2807h1_d943125447b4_a44c6288192a",
		"openssl":      "t13d311000_e8f1e7e78f70_1f22a2ca17c4",
		"openssl-old":  "t12i8407h1_bd790527ddab_3c5a66c06c35",
	}
	for name, want := range want {
		record, err := os.ReadFile(filepath.Join("testdata", "hello", name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		if got := ja4Of(t, record); got != want || independentJA4(record) != want {
			t.Errorf("%s: %s, the test's own reading gives %s, want %s", name, got, independentJA4(record), want)
		}
	}
	own := helloOf(t, &tls.Config{ServerName: "example.com", NextProtos: []string{"http/1.1"}})
	if got, want := ja4Of(t, own), independentJA4(own); got != want {
		t.Errorf("Go: %s, the test's own reading gives %s", got, want)
	}
}

// A hello of 64 KiB costs no more than its first values.
func TestJA4Bounded(t *testing.T) {
	info := tls.ClientHelloInfo{CipherSuites: make([]uint16, 32_000), Extensions: make([]uint16, 16_000), SignatureSchemes: make([]tls.SignatureScheme, 16_000)}
	for i := range info.CipherSuites {
		info.CipherSuites[i] = uint16(i)
	}
	first := info
	first.CipherSuites = info.CipherSuites[:ja4Most+2] // two of them are GREASE
	first.Extensions, first.SignatureSchemes = info.Extensions[:ja4Most], info.SignatureSchemes[:ja4Most]
	if got, want := JA4(&info), JA4(&first); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	first.CipherSuites = info.CipherSuites[:ja4Most-1]
	if JA4(&info) == JA4(&first) {
		t.Error("fewer than the bound count")
	}
}

func TestJA4Allocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	info := chromeInfo(t)
	allocs := testing.AllocsPerRun(1000, func() {
		if got := JA4(info); len(got) != ja4Length {
			t.Fatalf("got %q", got)
		}
	})
	if allocs != 1 {
		t.Errorf("%v allocations, want one, of the string", allocs)
	}
}

func BenchmarkJA4(b *testing.B) {
	f := func(name string, info *tls.ClientHelloInfo) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := JA4(info); len(got) != ja4Length {
					b.Fatalf("got %q", got)
				}
			}
		})
	}
	f("chrome", chromeInfo(b))
	hostile := &tls.ClientHelloInfo{CipherSuites: make([]uint16, 32_000), SignatureSchemes: make([]tls.SignatureScheme, 16_000)}
	for i := range hostile.CipherSuites {
		hostile.CipherSuites[i] = uint16(i * 31)
	}
	f("64KiB", hostile)
}

// FuzzJA4 has a real server read mutated hellos, and compares with a reading of the bytes that shares nothing with it.
func FuzzJA4(f *testing.F) {
	names, err := filepath.Glob("testdata/hello/*.bin")
	if err != nil || len(names) == 0 {
		f.Fatalf("no recorded hellos: %v", err)
	}
	for _, name := range names {
		record, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Add(helloOf(f, &tls.Config{ServerName: "example.com", NextProtos: []string{"http/1.1"}}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		got, ok := serverJA4(sent)
		if !ok {
			return // no hello for the server
		}
		if want := independentJA4(sent); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

var errSeen = errors.New("the hello was seen")

// serverJA4 returns the fingerprint that a server sees in what a client sends.
func serverJA4(sent []byte) (fingerprint string, ok bool) {
	server := tls.Server(&feed{in: bytes.NewReader(sent)}, &tls.Config{
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			fingerprint, ok = JA4(info), true
			return nil, errSeen
		},
	})
	_ = server.Handshake()
	return fingerprint, ok
}

func ja4Of(t *testing.T, sent []byte) string {
	t.Helper()
	fingerprint, ok := serverJA4(sent)
	if !ok {
		t.Fatalf("crypto/tls sees no ClientHello in %x", sent)
	}
	return fingerprint
}

func chromeInfo(t testing.TB) (info *tls.ClientHelloInfo) {
	t.Helper()
	h := hello{
		suites: "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035", alpn: "h2,http/1.1", versions: "0304,0303",
		schemes:    "0403,0804,0401,0503,0805,0501,0806,0601",
		extensions: "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015", grease: true,
	}
	server := tls.Server(&feed{in: bytes.NewReader(h.bytes())}, &tls.Config{
		GetConfigForClient: func(seen *tls.ClientHelloInfo) (*tls.Config, error) {
			info = seen
			return nil, errSeen
		},
	})
	if err := server.Handshake(); !errors.Is(err, errSeen) {
		t.Fatal(err)
	}
	return info
}

// helloOf is what a client of crypto/tls sends.
func helloOf(t testing.TB, client *tls.Config) []byte {
	t.Helper()
	conn := &feed{in: bytes.NewReader(nil)}
	if err := tls.Client(conn, client).Handshake(); err == nil {
		t.Fatal("a handshake with nobody succeeds")
	}
	return conn.out.Bytes()
}

// feed is a connection that gives what it has, then ends.
type feed struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (f *feed) Read(p []byte) (int, error)       { return f.in.Read(p) }
func (f *feed) Write(p []byte) (int, error)      { return f.out.Write(p) }
func (f *feed) Close() error                     { return nil }
func (f *feed) LocalAddr() net.Addr              { return nil }
func (f *feed) RemoteAddr() net.Addr             { return nil }
func (f *feed) SetDeadline(time.Time) error      { return nil }
func (f *feed) SetReadDeadline(time.Time) error  { return nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// hello is a ClientHello in the notation of published fingerprints: lists of four hexadecimal digits.
type hello struct {
	suites, extensions, schemes, versions string
	alpn                                  string
	grease                                bool
}

func values(list string) (out []uint16) {
	for _, text := range strings.Split(list, ",") {
		if v, err := strconv.ParseUint(text, 16, 16); err == nil {
			out = append(out, uint16(v))
		}
	}
	return out
}

func twoBytes(list []uint16) (out []byte) {
	for _, v := range list {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return out
}

func prefixed(size int, body []byte) []byte {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(body)))
	return append(length[4-size:], body...)
}

// bytes returns the record.
func (h hello) bytes() []byte {
	suites, extensions := values(h.suites), values(h.extensions)
	if h.grease {
		suites = slices.Insert(suites, 0, 0x3a3a)
		extensions = slices.Insert(slices.Insert(extensions, 1, 0xcaca), 0, 0x0a0a)
	}
	var list []byte
	for _, e := range extensions {
		list = binary.BigEndian.AppendUint16(list, e)
		list = append(list, prefixed(2, h.extension(e))...)
	}
	body := append([]byte{3, 3}, make([]byte, 32+1)...) // version, random, no session
	body = append(body, prefixed(2, twoBytes(suites))...)
	body = append(body, 1, 0) // no compression
	body = append(body, prefixed(2, list)...)
	message := append([]byte{1}, prefixed(3, body)...)
	return append([]byte{22, 3, 1}, prefixed(2, message)...)
}

// extension returns the content of one, so that crypto/tls accepts it.
func (h hello) extension(e uint16) []byte {
	schemes, versions := values(h.schemes), values(h.versions)
	if h.grease {
		schemes, versions = append([]uint16{0x1a1a}, schemes...), append([]uint16{0xdada}, versions...)
	}
	switch e {
	case 0x00:
		return prefixed(2, append([]byte{0}, prefixed(2, []byte("example.com"))...))
	case 0x05:
		return []byte{1, 0, 0, 0, 0}
	case 0x0a:
		return prefixed(2, []byte{0, 29})
	case 0x0b, 0x2d, 0xff01:
		return []byte{1, 0}
	case 0x0d:
		return prefixed(2, twoBytes(schemes))
	case 0x10:
		var protocols []byte
		for _, p := range strings.Split(h.alpn, ",") {
			protocols = append(protocols, prefixed(1, []byte(p))...)
		}
		return prefixed(2, protocols)
	case 0x29:
		identity := append(prefixed(2, []byte("ticket")), 0, 0, 0, 0)
		return append(prefixed(2, identity), prefixed(2, prefixed(1, make([]byte, 32)))...)
	case 0x2b:
		return prefixed(1, twoBytes(versions))
	case 0x33:
		return prefixed(2, append([]byte{0, 29}, prefixed(2, make([]byte, 32))...))
	}
	return nil // of the others any content will do
}

// independentJA4 computes a fingerprint from what a client sends, after the specification and by other means than the
// code under test. It panics on what is no ClientHello.
func independentJA4(sent []byte) string {
	var message []byte
	for len(message) < 4 || len(message) < 4+number(message[1:4]) { // over records
		length := number(sent[3:5])
		if sent[0] == 22 {
			message = append(message, sent[5:5+length]...)
		}
		sent = sent[5+length:]
	}
	r := bytes.NewReader(message[4 : 4+number(message[1:4])])
	legacy := take(r, 2)
	take(r, 32)
	take(r, number(take(r, 1)))
	suites := words(take(r, number(take(r, 2))))
	take(r, number(take(r, 1)))

	count, target, protocol := 0, "i", "00"
	var versions, extensions, schemes []string
	versions = []string{legacyVersion(legacy)}
	if r.Len() > 0 {
		r = bytes.NewReader(take(r, number(take(r, 2))))
	}
	for r.Len() > 0 {
		id := fmt.Sprintf("%x", take(r, 2))
		content := take(r, number(take(r, 2)))
		if grease(id) || count == ja4Most {
			continue
		}
		count++
		switch id {
		case "0000":
			target = "d"
			continue
		case "0010":
			protocol = firstAndLast(content[3 : 3+int(content[2])])
			continue
		case "002b":
			versions = words(content[1:])
		case "000d":
			schemes = words(content[2:])
		}
		extensions = append(extensions, id)
	}
	list := sorted(extensions)
	if list != "" && len(schemes) > 0 {
		list += "_" + strings.Join(schemes, ",")
	}
	version, ok := map[string]string{"0304": "13", "0303": "12", "0302": "11", "0301": "10", "0300": "s3"}[slices.Max(append(versions, ""))]
	if !ok {
		version = "00"
	}
	return fmt.Sprintf("t%s%s%02d%02d%s_%s_%s", version, target, min(len(suites), 99), min(count, 99), protocol, ja4Of12(sorted(suites)), ja4Of12(list))
}

// legacyVersion is what can be told of the legacy version of a hello without supported_versions.
func legacyVersion(v []byte) string {
	return fmt.Sprintf("%04x", min(max(number(v), 0x0300), 0x0304))
}

func number(b []byte) (n int) {
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n
}

func take(r *bytes.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		panic(err)
	}
	return b
}

func grease(word string) bool { return word[1] == 'a' && word[:2] == word[2:] }

// words splits into words of four digits, without GREASE, and as many as count.
func words(b []byte) (out []string) {
	for len(b) >= 2 && len(out) < ja4Most {
		if word := fmt.Sprintf("%x", b[:2]); !grease(word) {
			out = append(out, word)
		}
		b = b[2:]
	}
	return out
}

func sorted(list []string) string { return strings.Join(slices.Sorted(slices.Values(list)), ",") }

func firstAndLast(protocol []byte) string {
	plain := func(c byte) bool {
		return strings.ContainsRune("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", rune(c))
	}
	text := string(protocol)
	if !plain(text[0]) || !plain(text[len(text)-1]) {
		text = fmt.Sprintf("%x", protocol)
	}
	return text[:1] + text[len(text)-1:]
}

// ja4Of12 is the first twelve digits of a hash.
func ja4Of12(list string) string {
	if list == "" {
		return "000000000000"
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(list)))[:12]
}

func TestOnJA4(t *testing.T) {
	o := Options{
		Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}, JA4: true,
		Policies: []Policy{{Names: []string{"new.example"}, MinVersion: "1.3"}},
	}
	s := mustLoad(t, &o, nil)
	refused := ""
	var seen []string
	s.OnJA4(func(conn net.Conn, ja4 string) error {
		if conn == nil {
			t.Error("no connection is told of")
		}
		seen = append(seen, ja4)
		if ja4 == refused {
			return ErrRateLimitedJA4
		}
		return nil
	})
	client := anyCert("example.com")
	if _, serverErr, clientErr := connect(t, s, client); serverErr != nil || clientErr != nil {
		t.Fatalf("%v, %v", serverErr, clientErr)
	}
	want := ja4Of(t, helloOf(t, client))
	if !slices.Equal(seen, []string{want}) {
		t.Errorf("told of %q, want %s once", seen, want)
	}
	refused = want
	_, serverErr, clientErr := connect(t, s, client)
	if FailureReason(serverErr) != RateLimitedJA4 || clientErr == nil || clientErr.Error() != "remote error: tls: internal error" {
		t.Errorf("a refused client: %v, %v", serverErr, clientErr)
	}
	// Policies by name still hold.
	old := anyCert("new.example")
	old.MaxVersion = tls.VersionTLS12
	if _, serverErr, _ := connect(t, s, old); serverErr == nil || FailureReason(serverErr) != NoSharedVersion {
		t.Errorf("TLS 1.2 where a policy wants 1.3: %v", serverErr)
	}
	// Off, nothing is worked out.
	seen, o.JA4 = nil, false
	off := mustLoad(t, &o, s)
	off.OnJA4(func(net.Conn, string) error { return ErrRateLimitedJA4 })
	if _, serverErr, clientErr := connect(t, off, client); serverErr != nil || clientErr != nil {
		t.Errorf("off: %v, %v", serverErr, clientErr)
	}
}
