package tlsterm

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// files writes a self-signed pair and returns it as an option.
func files(t testing.TB, kt selfsigned.KeyType, names ...string) Certificate {
	t.Helper()
	certFile, keyFile := testcert.SelfSigned(t, kt, names...).Files(t)
	return Certificate{CertFile: certFile, KeyFile: keyFile}
}

func mustLoad(t testing.TB, o *Options, prev *Store) *Store {
	t.Helper()
	s, err := Load(o, prev)
	if err != nil {
		t.Fatalf("Load: %s", err)
	}
	return s
}

// shake runs a handshake over a real connection and returns both ends' errors. After a good one,
// a byte goes to the client, with which it also takes the session ticket.
func shake(t *testing.T, server *tls.Config, client func(net.Conn) net.Conn) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	done := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = conn.Close() }()
		tc := tls.Server(conn, server)
		if err := tc.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = tc.Write([]byte("!"))
		done <- err
		_, _ = io.Copy(io.Discard, conn) // until the client closes
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	conn := client(raw)
	_, clientErr = io.ReadFull(conn, make([]byte, 1))
	_ = raw.Close()
	return <-done, clientErr
}

// connect shakes hands with a client of this configuration and returns what it saw.
func connect(t *testing.T, s *Store, cfg *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	var tc *tls.Conn
	serverErr, clientErr = shake(t, s.Config(), func(conn net.Conn) net.Conn {
		tc = tls.Client(conn, cfg)
		return tc
	})
	return tc.ConnectionState(), serverErr, clientErr
}

func anyCert(serverName string) *tls.Config {
	return &tls.Config{ServerName: serverName, InsecureSkipVerify: true}
}

func TestLookup(t *testing.T) {
	certs := []Certificate{
		files(t, selfsigned.ECDSA, "example.com", "www.example.com", "192.0.2.1"),
		files(t, selfsigned.ECDSA, "*.example.com"),
		files(t, selfsigned.ECDSA, "api.example.com", "*.api.example.com"),
		files(t, selfsigned.ECDSA, "unused.example.org"),
	}
	certs[3].Names = []string{"Renamed.Example.ORG.", "*.renamed.example.org"}
	names := []string{"default", "wildcard", "api", "renamed"}
	lenient := mustLoad(t, &Options{Certificates: certs}, nil)
	strict := mustLoad(t, &Options{Certificates: certs, UnknownName: "reject"}, nil)
	which := func(s *Store, serverName string) string {
		ch := s.live.Load().lookup(serverName)
		if ch == nil {
			return "refused"
		}
		i := slices.IndexFunc(s.Certificates(), func(ci CertInfo) bool {
			return ci.Serial == ch.certs[0].Leaf.SerialNumber.Text(16)
		})
		return names[i]
	}
	f := func(serverName, want, wantStrict string) {
		t.Helper()
		if got := which(lenient, serverName); got != want {
			t.Errorf("%q gets %s, want %s", serverName, got, want)
		}
		if got := which(strict, serverName); got != wantStrict {
			t.Errorf("with unknown_name: reject, %q gets %s, want %s", serverName, got, wantStrict)
		}
	}
	// Exact before wildcard.
	f("example.com", "default", "default")
	f("www.example.com", "default", "default")
	f("api.example.com", "api", "api")
	// One label for the star, no less and no more.
	f("other.example.com", "wildcard", "wildcard")
	f("x.api.example.com", "api", "api")
	f("x.y.example.com", "default", "refused")
	f(".example.com", "default", "refused")
	// In any case.
	f("API.Example.COM", "api", "api")
	f("OTHER.example.com", "wildcard", "wildcard")
	// Configured names take the place of those in the certificate.
	f("renamed.example.org", "renamed", "renamed")
	f("a.renamed.example.org", "renamed", "renamed")
	f("unused.example.org", "default", "refused")
	// No name is not an unknown name.
	f("", "default", "default")
	f("example.net", "default", "refused")
	f("com", "default", "refused")
	f("192.0.2.1", "default", "refused")
	f(strings.Repeat("a", 253), "default", "refused")
	f(strings.Repeat("a", 300)+".example.com", "default", "refused")
}

func TestLookupAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com", "*.example.com")}}, nil)
	f := func(serverName string) {
		t.Helper()
		hello := &tls.ClientHelloInfo{ServerName: serverName}
		allocs := testing.AllocsPerRun(100, func() {
			if cert, err := s.Config().GetCertificate(hello); cert == nil || err != nil {
				t.Fatalf("%q: %v, %v", serverName, cert, err)
			}
		})
		if allocs != 0 {
			t.Errorf("%q: %v allocations, want none", serverName, allocs)
		}
	}
	f("example.com")
	f("www.example.com")
	f("WWW.EXAMPLE.COM")
	f("unknown.example.org")
	f("")
}

func TestChoiceByKeyType(t *testing.T) {
	rsa := files(t, selfsigned.RSA, "example.com")
	ec := files(t, selfsigned.ECDSA, "example.com")
	ed := files(t, selfsigned.Ed25519, "example.com")
	f := func(what string, certs []Certificate, client *tls.Config, want string) {
		t.Helper()
		s := mustLoad(t, &Options{Certificates: certs}, nil)
		state, serverErr, clientErr := connect(t, s, client)
		if serverErr != nil || clientErr != nil {
			t.Errorf("%s: server %v, client %v", what, serverErr, clientErr)
			return
		}
		if got := keyType(state.PeerCertificates[0]); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	onlyRSA := func(serverName string) *tls.Config {
		cfg := anyCert(serverName)
		cfg.MaxVersion = tls.VersionTLS12
		cfg.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		return cfg
	}
	f("ECDSA goes first", []Certificate{rsa, ed, ec}, anyCert("example.com"), "ECDSA P-256")
	f("ECDSA goes first by default", []Certificate{rsa, ec}, anyCert(""), "ECDSA P-256")
	f("ECDSA goes first for an unknown name", []Certificate{rsa, ec}, anyCert("example.org"), "ECDSA P-256")
	f("then Ed25519", []Certificate{rsa, ed}, anyCert("example.com"), "Ed25519")
	f("RSA for those who know nothing else", []Certificate{ec, ed, rsa}, onlyRSA("example.com"), "RSA 2048")
	f("and without a name", []Certificate{ec, rsa}, onlyRSA(""), "RSA 2048")
	f("one certificate is no choice", []Certificate{rsa}, anyCert("example.com"), "RSA 2048")
}

// An exact name falls back to its wildcard for the kinds of keys that it lacks, and for nothing else.
func TestExactNameFallsBackToItsWildcard(t *testing.T) {
	exact, wild, other := "exact.wild.test", "*.wild.test", "*.other.test"
	f := func(what, serverName string, want []string, certs ...Certificate) {
		t.Helper()
		s := mustLoad(t, &Options{Certificates: append(certs, files(t, selfsigned.RSA, "default.test"))}, nil)
		var got []string
		for _, cert := range s.live.Load().lookup(serverName).certs {
			got = append(got, cert.Leaf.DNSNames[0]+" "+keyType(cert.Leaf))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s has %q, want %q", what, serverName, got, want)
		}
	}
	ec, rsa, ed := files(t, selfsigned.ECDSA, exact), files(t, selfsigned.RSA, exact), files(t, selfsigned.Ed25519, exact)
	wildEC, wildRSA, wildEd := files(t, selfsigned.ECDSA, wild), files(t, selfsigned.RSA, wild), files(t, selfsigned.Ed25519, wild)
	f("a kind that it lacks", exact, []string{exact + " ECDSA P-256", wild + " RSA 2048"}, wildRSA, ec)
	f("its own go first, whatever they are", exact, []string{exact + " RSA 2048", wild + " ECDSA P-256", wild + " Ed25519"}, rsa, wildEd, wildEC)
	f("a kind that it has", exact, []string{exact + " RSA 2048"}, wildRSA, rsa)
	f("all kinds", exact, []string{exact + " ECDSA P-256", exact + " Ed25519", exact + " RSA 2048"}, wildRSA, wildEC, wildEd, ed, rsa, ec)
	f("a wildcard of other names", exact, []string{exact + " ECDSA P-256"}, files(t, selfsigned.RSA, other), ec)
	f("the wildcard itself", "any.wild.test", []string{wild + " RSA 2048"}, wildRSA, ec)

	s := mustLoad(t, &Options{Certificates: []Certificate{ec, wildRSA}}, nil)
	g := func(client *tls.Config, want string) {
		t.Helper()
		state, serverErr, clientErr := connect(t, s, client)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("server %v, client %v", serverErr, clientErr)
		}
		if got := keyType(state.PeerCertificates[0]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	g(anyCert(exact), "ECDSA P-256")
	rsaOnly := anyCert(exact)
	rsaOnly.MaxVersion, rsaOnly.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	g(rsaOnly, "RSA 2048")
}

func TestHandshake(t *testing.T) {
	pair := testcert.NewCA(t)
	issued := pair.Issue(t, testcert.Request{Names: []string{"example.com"}})
	certFile, keyFile := issued.Files(t)
	certs := []Certificate{{CertFile: certFile, KeyFile: keyFile}}
	f := func(o Options, client *tls.Config, version uint16) {
		t.Helper()
		o.Certificates = certs
		// Verified by the root alone: so the intermediate was sent.
		client.RootCAs, client.ServerName = pair.Pool(), "example.com"
		state, serverErr, clientErr := connect(t, mustLoad(t, &o, nil), client)
		if serverErr != nil || clientErr != nil {
			t.Errorf("server %v, client %v", serverErr, clientErr)
			return
		}
		if state.Version != version {
			t.Errorf("%s, want %s", tls.VersionName(state.Version), tls.VersionName(version))
		}
		if want := "http/1.1"; len(client.NextProtos) > 0 && state.NegotiatedProtocol != want {
			t.Errorf("application protocol %q, want %q", state.NegotiatedProtocol, want)
		}
		if version == tls.VersionTLS13 && state.CurveID != tls.X25519MLKEM768 {
			t.Errorf("key exchange %s, want the post-quantum one", state.CurveID)
		}
	}
	f(Options{}, &tls.Config{}, tls.VersionTLS13)
	f(Options{}, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, tls.VersionTLS13)
	f(Options{}, &tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, tls.VersionTLS12)
	f(Options{MaxVersion: "1.2"}, &tls.Config{}, tls.VersionTLS12)
	f(Options{MinVersion: "1.3"}, &tls.Config{}, tls.VersionTLS13)
}

// The client hears that the name is unknown, rather than of an internal error.
func TestUnknownNameAlert(t *testing.T) {
	s := mustLoad(t, &Options{
		Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")},
		UnknownName:  "reject",
	}, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := anyCert("other.example")
		cfg.MaxVersion = version
		_, _, clientErr := connect(t, s, cfg)
		const unrecognizedName = tls.AlertError(112) // RFC 8446 section 6
		var op *net.OpError
		if !errors.As(clientErr, &op) || op.Op != "remote error" || op.Err.Error() != unrecognizedName.Error() {
			t.Errorf("%s: client got %v, want unrecognized_name", tls.VersionName(version), clientErr)
		}
	}
}

func TestReloadKeepsTicketKeys(t *testing.T) {
	pair := testcert.New(t, "example.com")
	certFile, keyFile := pair.Files(t)
	o := func() *Options {
		return &Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}}}
	}
	resumes := func(what string, version uint16, first, second *Store, want bool) {
		t.Helper()
		cfg := anyCert("example.com")
		cfg.MaxVersion, cfg.ClientSessionCache = version, tls.NewLRUClientSessionCache(4)
		for i, s := range []*Store{first, second} {
			state, serverErr, clientErr := connect(t, s, cfg)
			if serverErr != nil || clientErr != nil {
				t.Fatalf("%s: server %v, client %v", what, serverErr, clientErr)
			}
			if wantNow := want && i == 1; state.DidResume != wantNow {
				t.Errorf("%s, %s, connection %d: resumed is %t, want %t", what, tls.VersionName(version), i+1, state.DidResume, wantNow)
			}
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s1 := mustLoad(t, o(), nil)
		resumes("one store", version, s1, s1, true)
		s2 := mustLoad(t, o(), s1)
		resumes("reloaded", version, s1, s2, true)
		testcert.New(t, "example.com").Write(t, certFile, keyFile)
		s3 := mustLoad(t, o(), s2)
		resumes("with a renewed certificate", version, s1, s3, true)
		resumes("and back", version, s3, s1, true)
		resumes("another start", version, s3, mustLoad(t, o(), nil), false)
		changed := o()
		changed.UnknownName = "reject"
		resumes("other options", version, s3, mustLoad(t, changed, s3), false)
	}
}

// A store keeps no reference to the options, which the caller may go on to change.
func TestOptionsAreCopied(t *testing.T) {
	o := &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}}
	s := mustLoad(t, o, nil)
	before := o.Certificates[0].CertFile
	o.Certificates[0].CertFile = "changed"
	if got := s.opts.Certificates[0].CertFile; got != before {
		t.Errorf("the store sees %q", got)
	}
}

func TestCertificates(t *testing.T) {
	ca := testcert.NewCA(t)
	notAfter := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	issued := ca.Issue(t, testcert.Request{Names: []string{"B.example", "a.example", "192.0.2.1"}, NotAfter: notAfter})
	certFile, keyFile := issued.Files(t)
	rsa := files(t, selfsigned.RSA, "c.example")
	rsa.Names = []string{"*.c.example", "c.example", "C.example"}
	s := mustLoad(t, &Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}, rsa}}, nil)
	infos := s.Certificates()
	if len(infos) != 2 {
		t.Fatalf("%d certificates, want 2", len(infos))
	}
	f := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	leaf := issued.Leaf(t)
	first, second := infos[0], infos[1]
	f("file", first.CertFile, certFile)
	f("names", strings.Join(first.Names, " "), "a.example b.example")
	f("default", first.Default, true)
	f("subject", first.Subject, "CN=B.example,O=tickgate")
	f("issuer", first.Issuer, "CN=tickgate test intermediate,O=tickgate")
	f("not after", first.NotAfter.Equal(notAfter), true)
	f("not before", first.NotBefore.Equal(leaf.NotBefore), true)
	f("key type", first.KeyType, "ECDSA P-256")
	f("serial", first.Serial, leaf.SerialNumber.Text(16))
	f("fingerprint", len(first.Fingerprint), 64)
	f("chain", first.ChainLength, 2)
	f("names", strings.Join(second.Names, " "), "*.c.example c.example")
	f("default", second.Default, false)
	f("key type", second.KeyType, "RSA 2048")
	f("chain", second.ChainLength, 1)
}

func TestLoadFails(t *testing.T) {
	good := files(t, selfsigned.ECDSA, "example.com")
	other := files(t, selfsigned.ECDSA, "example.org")
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	absent := filepath.Join(dir, "absent.pem")
	empty := write("empty.pem", "")
	locked := write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	garbled := write("garbled.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	leafPEM, err := os.ReadFile(good.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	badChain := write("chain.pem", string(leafPEM)+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	nameless := files(t, selfsigned.ECDSA, "192.0.2.1")

	f := func(o Options, want ...string) {
		t.Helper()
		_, err := Load(&o, nil)
		if err == nil {
			t.Errorf("%+v: no error", o)
			return
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q has no %q in it", err, part)
			}
		}
	}
	one := func(certFile, keyFile string, names ...string) Options {
		return Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile, Names: names}}}
	}
	f(Options{}, "no certificates configured")
	f(one(absent, good.KeyFile), "read the certificate", absent, "no such file")
	f(one(good.CertFile, absent), "read the private key", absent, "no such file")
	f(one(empty, good.KeyFile), "no certificate", empty, "no PEM block")
	f(one(good.CertFile, locked), "private key", locked, "is encrypted")
	f(one(good.KeyFile, good.CertFile), good.KeyFile, good.CertFile, "no certificate in it", "no private key in it", "swapped?")
	f(one(good.CertFile, other.KeyFile), good.CertFile, other.KeyFile, "does not go with certificate")
	f(one(garbled, good.KeyFile), garbled, "certificate 1 of the file")
	f(one(badChain, good.KeyFile), badChain, "certificate 2 of the file")
	f(one(good.CertFile, good.KeyFile, "*", "a..b", "a b", "x.*.y", "192.0.2.1", "2001:db8::1", strings.Repeat("a", 64)+".x"),
		good.CertFile, `"*"`, `"a..b"`, `"a b"`, `"x.*.y"`, `"192.0.2.1"`, `"2001:db8::1"`, "aaaa.x")
	f(Options{Certificates: []Certificate{good, nameless}}, nameless.CertFile, "holds no DNS name")
	f(Options{Certificates: []Certificate{good}, MinVersion: "1.3", MaxVersion: "1.2"}, "nothing is left: the lowest version is 1.3")
	f(Options{Certificates: []Certificate{good}, MinVersion: "1.1", MaxVersion: "2"}, `min_version: unknown version "1.1"`, `max_version: unknown version "2"`)
	// Everything at once.
	f(Options{Certificates: []Certificate{{CertFile: absent, KeyFile: empty}, {CertFile: empty, KeyFile: good.KeyFile}}, MinVersion: "x"},
		"min_version", absent, empty+"\": no private key", empty+"\": no certificate")
}

func TestLoadFailsWith(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Load(&o, nil); !errors.Is(err, want) {
			t.Errorf("%+v: error %v, want %v", o, err, want)
		}
	}
	f(Options{}, ErrNoCertificates)
	f(Options{Certificates: []Certificate{{CertFile: "absent", KeyFile: "absent"}}}, fs.ErrNotExist)
}

func TestNamelessDefault(t *testing.T) {
	rsa, ec := files(t, selfsigned.RSA, "192.0.2.1"), files(t, selfsigned.ECDSA, "192.0.2.1")
	s := mustLoad(t, &Options{Certificates: []Certificate{rsa}}, nil)
	if got := s.live.Load().lookup(""); got != s.live.Load().def {
		t.Error("a certificate without DNS name is not the default")
	}
	if _, err := Load(&Options{Certificates: []Certificate{rsa, ec}}, nil); err != nil {
		t.Errorf("twins without DNS name: %s", err)
	}
}

func TestKeyType(t *testing.T) {
	f := func(leaf *x509.Certificate, want string) {
		t.Helper()
		if got := keyType(leaf); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(testcert.SelfSigned(t, selfsigned.Ed25519).Leaf(t), "Ed25519")
	f(&x509.Certificate{PublicKeyAlgorithm: x509.DSA}, "DSA")
}
