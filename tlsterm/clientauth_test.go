package tlsterm

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
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

// authBench is a store that asks clients for certificates of ca, with the files of its options.
type authBench struct {
	t     *testing.T
	ca    *testcert.CA
	opts  Options
	store *Store
}

func newAuthBench(t *testing.T, mode string, edit func(b *authBench, a *ClientAuthOptions)) *authBench {
	t.Helper()
	b := &authBench{t: t, ca: testcert.NewCA(t)}
	b.opts.Certificates = []Certificate{files(t, selfsigned.ECDSA, "example.com", "*.example.com")}
	b.opts.ClientAuth = ClientAuthOptions{Mode: mode, CAFile: b.ca.RootFile(t), Depth: 5}
	if edit != nil {
		edit(b, &b.opts.ClientAuth)
	}
	b.store = mustLoad(t, &b.opts, nil)
	return b
}

// file writes a file of its own.
func (b *authBench) file(name string, data []byte) string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), name)
	b.write(path, data)
	return path
}

func (b *authBench) write(path string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *authBench) refresh(want bool) {
	b.t.Helper()
	if changed, err := b.store.Refresh(); err != nil || changed != want {
		b.t.Fatalf("Refresh: %t, %v; want %t", changed, err, want)
	}
}

// keeper is a cache that crypto/tls takes no session out of, as who attacks would have it.
type keeper struct{ tls.ClientSessionCache }

func (k keeper) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		k.ClientSessionCache.Put(key, s)
	}
}

// clientOf is a client with a certificate, or without if pair is nil. It remembers its session.
func clientOf(t *testing.T, version uint16, pair *testcert.Pair) *tls.Config {
	c := anyCert("example.com")
	c.MinVersion, c.MaxVersion = version, version
	c.ClientSessionCache = keeper{tls.NewLRUClientSessionCache(4)}
	if pair != nil {
		cert := pair.TLS(t)
		// As openssl does and crypto/tls not: a certificate is sent whatever authorities the server names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return c
}

// shakeState is shake, with the server's view of the connection.
func shakeState(t *testing.T, s *Store, client *tls.Config) (st tls.ConnectionState, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, dialErr := net.Dial("tcp", ln.Addr().String())
		if dialErr != nil {
			return
		}
		defer func() { _ = raw.Close() }()
		_, _ = io.Copy(io.Discard, tls.Client(raw, client)) // with the byte comes the ticket
	}()
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Server(raw, s.Config())
	if err = conn.Handshake(); err == nil {
		st = conn.ConnectionState()
		_, err = conn.Write([]byte("!"))
	}
	_ = conn.Close()
	<-done
	return st, err
}

// expect is one handshake: the identity's common name ("" for none), resumed or not; or else why not.
func (b *authBench) expect(step string, client *tls.Config, cn string, resumed bool) {
	b.t.Helper()
	st, err := shakeState(b.t, b.store, client)
	if err != nil {
		b.t.Errorf("%s: %s", step, err)
		return
	}
	got := ""
	if id := IdentityOf(&st); id != nil {
		got = st.PeerCertificates[0].Subject.CommonName
		if !strings.HasPrefix(id.Subject, "CN="+cn) {
			b.t.Errorf("%s: subject %q", step, id.Subject)
		}
	}
	if got != cn || st.DidResume != resumed {
		b.t.Errorf("%s: identity %q, resumed %t; want %q, %t", step, got, st.DidResume, cn, resumed)
	}
}

func (b *authBench) refused(step string, client *tls.Config, want ClientCertProblem) {
	b.t.Helper()
	_, err := shakeState(b.t, b.store, client)
	if err == nil {
		b.t.Errorf("%s: let in, want %s", step, want)
		return
	}
	if got, ok := ClientCertProblemOf(err); !ok || got != want || FailureReason(err) != BadClientCertificate {
		b.t.Errorf("%s: %s, %s (%v); want %s", step, FailureReason(err), got, err, want)
	}
}

var bothVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

func TestClientAuthModes(t *testing.T) {
	for _, version := range bothVersions {
		b := newAuthBench(t, "optional", nil)
		good := b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
		stranger := testcert.NewCA(t).Issue(t, testcert.Request{Names: []string{"feed"}})
		none := clientOf(t, version, nil)
		b.expect("optional, none", none, "", false)
		b.expect("optional, none again", none, "", true)
		client := clientOf(t, version, good)
		b.expect("optional, good", client, "feed", false)
		b.expect("optional, good again", client, "feed", true)
		b.refused("optional, stranger", clientOf(t, version, stranger), ClientCertUntrusted)
		b.refused("optional, self-signed", clientOf(t, version, testcert.New(t, "feed")), ClientCertUntrusted)

		b = newAuthBench(t, "required", nil)
		good = b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
		b.expect("required, good", clientOf(t, version, good), "feed", false)
		b.refused("required, none", clientOf(t, version, nil), ClientCertMissing)
		b.refused("required, stranger", clientOf(t, version, stranger), ClientCertUntrusted)

		b = newAuthBench(t, "off", nil)
		b.expect("off, stranger", clientOf(t, version, stranger), "", false)
	}
}

func TestClientCertProblems(t *testing.T) {
	now := time.Now()
	var list, otherList string
	b := newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) { a.Depth = 1 })
	f := func(what string, want ClientCertProblem, pair *testcert.Pair) {
		t.Helper()
		for _, version := range bothVersions {
			b.refused(what+", "+tls.VersionName(version), clientOf(t, version, pair), want)
		}
	}
	day := 24 * time.Hour
	issue := func(r testcert.Request) *testcert.Pair { return b.ca.Issue(t, r) }
	f("expired", ClientCertExpired, issue(testcert.Request{NotBefore: now.Add(-2 * day), NotAfter: now.Add(-day)}))
	f("not yet valid", ClientCertNotYetValid, issue(testcert.Request{NotBefore: now.Add(day), NotAfter: now.Add(2 * day)}))
	f("for servers", ClientCertWrongUsage, issue(testcert.Request{Alter: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }}))
	noChain := issue(testcert.Request{})
	noChain.CertPEM = noChain.CertPEM[:len(noChain.CertPEM)-len(b.ca.InterPEM)]
	f("without its intermediate", ClientCertUntrusted, noChain)

	b = newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) { a.Depth = 0 })
	f("too deep", ClientCertTooDeep, issue(testcert.Request{}))

	revoked := b.ca.Issue(t, testcert.Request{Names: []string{"gone"}})
	with := func(edit func(b *authBench, a *ClientAuthOptions)) {
		t.Helper()
		ca := b.ca
		b = newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) {
			b.ca = ca
			a.CAFile = ca.RootFile(t)
			list = b.file("inter.crl", slices.Concat(ca.InterPEM, ca.RevocationList(t, nil, revoked)))
			otherList = b.file("root.crl", ca.RootRevocationList(t, false))
			edit(b, a)
		})
	}
	good := func(what string) {
		t.Helper()
		for _, version := range bothVersions {
			b.expect(what, clientOf(t, version, issue(testcert.Request{Names: []string{"feed"}})), "feed", false)
		}
	}
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLFiles = []string{list} })
	f("revoked", ClientCertRevoked, revoked)
	good("not revoked")
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLFiles, a.CRLRequired = []string{list}, true })
	f("no list of the intermediate", ClientCertUncovered, issue(testcert.Request{}))
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLRequired = true })
	f("no list at all", ClientCertUncovered, issue(testcert.Request{}))
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLFiles, a.CRLRequired = []string{list, otherList}, true })
	f("revoked, both lists", ClientCertRevoked, revoked)
	good("both lists")
	with(func(b *authBench, a *ClientAuthOptions) {
		a.CRLFiles = []string{b.file("r.crl", b.ca.RootRevocationList(t, true))}
	})
	f("intermediate revoked", ClientCertRevoked, issue(testcert.Request{}))

	overdue := func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = now.Add(-2*day), now.Add(-day) }
	late := func(b *authBench) []string {
		return []string{b.file("late.crl", slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, overdue, revoked)))}
	}
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLFiles = late(b) })
	f("overdue list", ClientCertListExpired, issue(testcert.Request{}))
	f("revoked in an overdue list", ClientCertRevoked, revoked)
	with(func(b *authBench, a *ClientAuthOptions) { a.CRLFiles, a.CRLExpired = late(b), "accept" })
	f("revoked in an overdue list that is accepted", ClientCertRevoked, revoked)
	good("overdue list accepted")
}

// A client that shows a certificate whose key it does not have is nobody.
func TestClientWithoutKey(t *testing.T) {
	for _, version := range bothVersions {
		b := newAuthBench(t, "optional", nil)
		stolen, own := b.ca.Issue(t, testcert.Request{}).TLS(t), b.ca.Issue(t, testcert.Request{}).TLS(t)
		stolen.PrivateKey = own.PrivateKey
		client := clientOf(t, version, nil)
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stolen, nil }
		b.refused(tls.VersionName(version), client, ClientCertUnproven)
	}
}

// A session does not outlive what its certificate needs: when its authority goes, its certificate is revoked or expires, or the
// list that covers it is overdue, its client does not get in.
func TestResumedClients(t *testing.T) {
	for _, version := range bothVersions {
		name := tls.VersionName(version)
		b := newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) {
			a.CRLFiles = []string{b.file("a.crl", slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))}
		})
		crl := b.opts.ClientAuth.CRLFiles[0]
		pair := b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
		client := clientOf(t, version, pair)
		b.expect(name+": first", client, "feed", false)
		b.expect(name+": resumed", client, "feed", true)

		// 1. It is revoked: a full handshake, which fails; with another certificate it succeeds.
		b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil, pair)))
		b.refresh(true)
		b.refused(name+": revoked", client, ClientCertRevoked)
		renewed := b.ca.Issue(t, testcert.Request{Names: []string{"feed2"}, NotAfter: time.Now().Add(48 * time.Hour)}).TLS(t)
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &renewed, nil }
		b.expect(name+": renewed", client, "feed2", false)
		b.expect(name+": renewed, resumed", client, "feed2", true)

		// 2. Its authority goes.
		other := testcert.NewCA(t)
		b.write(b.opts.ClientAuth.CAFile, other.RootPEM)
		b.write(crl, slices.Concat(other.InterPEM, other.RevocationList(t, nil)))
		b.refresh(true)
		b.refused(name+": authority removed", client, ClientCertUntrusted)
		b.write(b.opts.ClientAuth.CAFile, b.ca.RootPEM)
		b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))
		b.refresh(true)
		b.expect(name+": authority back", client, "feed2", true)

		// 3. The certificate expires, for all clocks: crypto/tls declines the session; or for ours alone.
		own := b.store.live.Load().own
		in := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
		later := in(50 * time.Hour)
		b.store.auths[0].now = in(24 * time.Hour)
		b.refused(name+": list overdue", client, ClientCertListExpired)
		b.store.auths[0].opts.CRLExpired = "accept"
		b.store.auths[0].now = later
		b.refused(name+": expired for us alone", client, ClientCertExpired)
		b.store.auths[0].now = time.Now
		b.expect(name+": not expired", client, "feed2", true)
		own.Time, b.store.auths[0].now = later, later
		b.refused(name+": expired", client, ClientCertExpired)
	}
}

// What crypto/tls lets pass is judged again, as when authorities change in the middle of a handshake.
func TestVerifyAgain(t *testing.T) {
	b := newAuthBench(t, "required", nil)
	st, err := shakeState(t, b.store, clientOf(t, tls.VersionTLS13, b.ca.Issue(t, testcert.Request{})))
	if err != nil {
		t.Fatal(err)
	}
	auth := b.store.auths[0]
	if err := auth.verify(st); err != nil {
		t.Errorf("as it was: %s", err)
	}
	b.write(b.opts.ClientAuth.CAFile, testcert.NewCA(t).RootPEM)
	b.refresh(true)
	var e *ClientCertError
	if err := auth.verify(st); !errors.As(err, &e) || e.Problem != ClientCertUntrusted {
		t.Errorf("with other authorities: %v", err)
	}
	if err := auth.verify(tls.ConnectionState{}); !errors.As(err, &e) || e.Problem != ClientCertMissing {
		t.Errorf("without a certificate: %v", err)
	}
	st.VerifiedChains = nil
	if err := auth.verify(st); !errors.As(err, &e) || e.Problem != ClientCertUntrusted {
		t.Errorf("without a chain: %v", err)
	}
}

// An open connection's client is judged again when anything has changed, and only then.
func TestStands(t *testing.T) {
	b := newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) {
		a.CRLFiles = []string{b.file("a.crl", slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))}
	})
	pair := b.ca.Issue(t, testcert.Request{})
	st, err := shakeState(t, b.store, clientOf(t, tls.VersionTLS13, pair))
	if err != nil {
		t.Fatal(err)
	}
	id := IdentityOf(&st)
	f := func(step string, want ClientCertProblem, ok bool) {
		t.Helper()
		err := b.store.Stands(id, "example.com")
		var e *ClientCertError
		if (err == nil) != ok || !ok && (!errors.As(err, &e) || e.Problem != want) {
			t.Errorf("%s: %v", step, err)
		}
	}
	f("at first", 0, true)
	if allocs := testing.AllocsPerRun(100, func() { _ = b.store.Stands(id, "example.com") }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
	crl := b.opts.ClientAuth.CRLFiles[0]
	b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil, pair)))
	b.refresh(true)
	f("revoked", ClientCertRevoked, false)
	f("revoked, again", ClientCertRevoked, false)
	b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))
	b.refresh(true)
	f("not revoked", 0, true)
	// Its certificate runs out. What changes after that counts, but that it has run out does not.
	auth := b.store.auths[0]
	auth.now = func() time.Time { return id.NotAfter.Add(time.Minute) }
	f("run out", 0, true)
	b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil, b.ca.Issue(t, testcert.Request{}))))
	b.refresh(true)
	f("run out, and another is revoked", 0, true)
	b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil, pair)))
	b.refresh(true)
	f("run out and revoked", ClientCertRevoked, false)
	b.write(crl, slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))
	b.refresh(true)
	auth.now = time.Now
	strict := b.opts.clone()
	strict.ClientAuth.Depth = 0
	b.store = mustLoad(t, &strict, b.store)
	f("other options", ClientCertTooDeep, false)
	b.store = mustLoad(t, &Options{Certificates: b.opts.Certificates}, b.store)
	f("nobody is asked", 0, true)
}

// A bad file leaves what the good one held in force.
func TestBadTrustFiles(t *testing.T) {
	b := newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) {
		a.CRLFiles = []string{b.file("a.crl", slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))}
	})
	ca, crl := b.opts.ClientAuth.CAFile, b.opts.ClientAuth.CRLFiles[0]
	client := b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
	good := map[string][]byte{}
	for _, file := range []string{ca, crl} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		good[file] = data
	}
	other := testcert.NewCA(t)
	block, _ := pem.Decode(b.ca.RevocationList(t, nil))
	extended := func(id []int, value []byte, critical bool) []byte {
		return slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
		}))
	}
	f := func(what, file string, data []byte, want ...string) {
		t.Helper()
		b.write(file, data)
		changed, err := b.store.Refresh()
		if changed || err == nil {
			t.Errorf("%s: changed %t, %v", what, changed, err)
			return
		}
		for _, w := range append(want, file) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not contain %q", what, err, w)
			}
		}
		b.expect(what, clientOf(t, tls.VersionTLS13, client), "feed", false)
		if _, err := Load(&b.opts, nil); err == nil {
			t.Errorf("%s: a start succeeds", what)
		}
		b.write(file, good[file])
	}
	f("empty CA", ca, nil, "no certificate")
	f("broken CA", ca, []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), "block 1")
	f("key in CA", ca, slices.Concat(b.ca.RootPEM, client.KeyPEM), "block 2", "private key")
	f("empty CRL", crl, nil, "neither PEM nor DER")
	f("CRL of a stranger", crl, other.RevocationList(t, nil), "no authority")
	f("CRL of a stranger with its certificate", crl, slices.Concat(other.InterPEM, other.RevocationList(t, nil)), "unknown authority")
	f("CRL without its signer", crl, b.ca.RevocationList(t, nil), "no authority")
	f("certificate in place of CRL", crl, b.ca.RootPEM, "no block X509 CRL")
	f("changed CRL", crl, slices.Concat(b.ca.InterPEM, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: flipLast(block.Bytes)})), "no authority")
	f("delta CRL", crl, extended([]int{2, 5, 29, 27}, []byte{2, 1, 1}, true), "delta")
	f("indirect CRL", crl, extended([]int{2, 5, 29, 28}, []byte{0x30, 3, 0x84, 1, 0xff}, true), "indirect")
	f("attribute CRL", crl, extended([]int{2, 5, 29, 28}, []byte{0x30, 3, 0x85, 1, 0xff}, true), "attribute")
	f("CRL of some reasons", crl, extended([]int{2, 5, 29, 28}, []byte{0x30, 4, 0x83, 2, 1, 2}, true), "reasons")
	f("broken scope", crl, extended([]int{2, 5, 29, 28}, []byte{1}, true), "malformed")
	f("unknown critical extension", crl, extended([]int{1, 2, 3}, []byte{5, 0}, true), "1.2.3")

	// These are good.
	for _, data := range [][]byte{
		extended([]int{1, 2, 3}, []byte{5, 0}, false),
		extended([]int{2, 5, 29, 28}, []byte{0x30, 3, 0x81, 1, 0xff}, true), // users only
		good[crl],
	} {
		b.write(crl, data)
		b.refresh(true)
	}
	b.refresh(false)
	b.write(ca, slices.Concat(b.ca.RootPEM, b.ca.InterPEM))
	b.write(crl, block.Bytes) // DER
	b.refresh(true)
	b.expect("DER", clientOf(t, tls.VersionTLS13, client), "feed", false)
	if list := b.store.RevocationLists(); len(list) != 1 || list[0].File != crl || list[0].Issuer == "" || list[0].NextUpdate.IsZero() {
		t.Errorf("lists: %+v", list)
	}
}

// An authority that has expired takes its clients with it, and nobody else.
func TestListOfExpiredAuthority(t *testing.T) {
	b := newAuthBench(t, "required", nil)
	parent, parentKey := b.ca.Issuer()
	authority := func(until time.Time) (c *x509.Certificate, key crypto.Signer) {
		t.Helper()
		key, err := selfsigned.NewKey(selfsigned.ECDSA)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := selfsigned.Template([]string{"short"}, until.Add(-time.Hour), until)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.DNSNames, tmpl.ExtKeyUsage = nil, nil
		tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	for _, ended := range []time.Duration{time.Minute, -time.Minute} {
		c, key := authority(time.Now().Add(ended))
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		}, c, key)
		if err != nil {
			t.Fatal(err)
		}
		file := slices.Concat(selfsigned.EncodeCert(c.Raw), b.ca.InterPEM, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))
		b.opts.ClientAuth.CRLFiles = []string{b.file("a.crl", file)}
		b.store = mustLoad(t, &b.opts, nil)
		b.expect("another authority's client", clientOf(t, tls.VersionTLS13, b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})), "feed", false)
		// That it has expired vouches for nobody.
		b.opts.ClientAuth.CAFile = b.file("other.pem", testcert.NewCA(t).RootPEM)
		if _, err := Load(&b.opts, nil); err == nil {
			t.Errorf("ended %s ago: the list of a stranger is taken", ended)
		}
		b.opts.ClientAuth.CAFile = b.ca.RootFile(t)
	}
}

func flipLast(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

// A list about users only covers no authority, and the other way round.
func TestListScope(t *testing.T) {
	b := newAuthBench(t, "required", nil)
	scoped := func(tag byte) *x509.RevocationList {
		block, _ := pem.Decode(b.ca.RevocationList(t, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: oidScope, Critical: true, Value: []byte{0x30, 3, tag, 1, 0xff}}}
		}))
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	f := func(tag byte, leaf, ca bool) {
		t.Helper()
		list := scoped(tag)
		scope, err := scopeOf(list)
		if err != nil {
			t.Fatal(err)
		}
		trust := &clientTrust{lists: map[issuerID]*revocations{}}
		trust.join(issuerID{}, list, scope)
		if r := trust.lists[issuerID{}]; r.covers(false) != leaf || r.covers(true) != ca {
			t.Errorf("tag %#x: covers leaves %t, authorities %t", tag, r.covers(false), r.covers(true))
		}
	}
	f(0x81, true, false)
	f(0x82, false, true)
}

// Names have rules of their own, and sessions stay with theirs.
func TestClientAuthByName(t *testing.T) {
	for _, version := range bothVersions {
		b := newAuthBench(t, "off", func(b *authBench, a *ClientAuthOptions) {
			required := *a
			required.Mode = "required"
			optional := *a
			optional.Mode = "optional"
			a.CAFile = ""
			b.opts.Policies = []Policy{
				{Names: []string{"private.example.com"}, ClientAuth: &required},
				{Names: []string{"api.example.com"}, ClientAuth: &required},
				{Names: []string{"*.example.com"}, ClientAuth: &optional},
			}
		})
		pair := b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
		open := clientOf(t, version, nil)
		b.expect("open", open, "", false)
		b.expect("open again", open, "", true)
		named := func(base *tls.Config, name string) *tls.Config {
			c := base.Clone()
			c.ServerName = name
			c.ClientSessionCache = renamed{base.ClientSessionCache}
			return c
		}
		// The session of the open name is offered to the others.
		b.refused("private with the session of the open name", named(open, "private.example.com"), ClientCertMissing)
		b.expect("optional with the session of the open name", named(open, "x.example.com"), "", false)
		trusted := clientOf(t, version, pair)
		b.expect("open, with a certificate", trusted, "", false)
		b.expect("private", named(trusted, "private.example.com"), "feed", false)
		b.expect("private again", named(trusted, "private.example.com"), "feed", true)
		b.expect("same rules", named(trusted, "api.example.com"), "feed", true)
		b.expect("optional with a private session", named(trusted, "x.example.com"), "feed", false)

		misdirected := func(serverName, host string, want bool) {
			t.Helper()
			if got := b.store.Misdirected(serverName, []byte(host)); got != want {
				t.Errorf("%q on a connection for %q: misdirected is %t", host, serverName, got)
			}
		}
		misdirected("", "example.com", false)
		misdirected("", "private.example.com", true)
		misdirected("private.example.com", "", false) // where nobody is asked
		misdirected("Private.example.com", "api.example.com", false)
		misdirected("y.example.com", "x.example.com", false)
		misdirected("x.example.com", "api.example.com", true)
		host := []byte("a-name-of-more-than-32-bytes-for-certain.example.com")
		if allocs := testing.AllocsPerRun(100, func() { b.store.Misdirected("x.example.com", host) }); allocs > 0 {
			t.Errorf("Misdirected allocates %v", allocs)
		}
	}
}

// A host below a policy that requires certificates is under it at any depth and length, as routes see it.
func TestMisdirectedBelowWildcard(t *testing.T) {
	f := func(own string, policies map[string]string, serverName, host string, want bool) {
		t.Helper()
		b := newAuthBench(t, own, func(b *authBench, a *ClientAuthOptions) {
			for name, mode := range policies {
				auth := *a
				auth.Mode = mode
				b.opts.Policies = append(b.opts.Policies, Policy{Names: []string{name}, ClientAuth: &auth})
			}
		})
		if got := b.store.Misdirected(serverName, []byte(host)); got != want {
			t.Errorf("%s, %v: %.20q on a connection for %.20q: misdirected is %t", own, policies, host, serverName, got)
		}
	}
	const star = "*.example.com"
	long := strings.Repeat("a", 250) + ".example.com"
	required, optional := map[string]string{star: "required"}, map[string]string{star: "optional"}
	for _, own := range []string{"off", "optional"} {
		for _, host := range []string{"a.example.com", "b.a.example.com", "c.b.a.example.com", "b.a.example.com.example.com", long} {
			f(own, required, "", host, true)
			f(own, required, "other.org", host, true)
			f(own, required, "x.example.com", host, false)
		}
		f(own, required, "b.a.example.com", "b.a.example.com", true) // the handshake was under the listener's rules
		f(own, required, long, long, true)
		f(own, required, "", "example.com", false)
		f(own, required, "", "", false)
		f(own, map[string]string{star: "required", "*.a.example.com": "off"}, "", "c.b.a.example.com", false)
		f(own, map[string]string{star: "off", "*.a.example.com": "required"}, "", "c.b.a.example.com", true)
		f(own, map[string]string{star: "required", "c.b.a.example.com": "off"}, "", "c.b.a.example.com", false)
		f(own, optional, "", "b.a.example.com", false)
	}
	f("required", required, "", "b.a.example.com", false)
	f("required", map[string]string{star: "off"}, "x.example.com", "b.a.example.com", true) // the listener's rules, as ever
	f("required", map[string]string{star: "optional"}, "b.a.example.com", "b.a.example.com", false)
	f("required", map[string]string{star: "optional"}, long, long, true)
}

// renamed is a cache that has the same sessions for every server name.
type renamed struct{ tls.ClientSessionCache }

func (r renamed) Get(string) (*tls.ClientSessionState, bool) {
	return r.ClientSessionCache.Get("example.com")
}
func (r renamed) Put(_ string, s *tls.ClientSessionState) { r.ClientSessionCache.Put("example.com", s) }

// Clients are told the authorities, those of now.
func TestAcceptableAuthorities(t *testing.T) {
	b := newAuthBench(t, "optional", nil)
	f := func(step string, want []byte) {
		t.Helper()
		client := clientOf(t, tls.VersionTLS13, nil)
		var got [][]byte
		client.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			got = r.AcceptableCAs
			return new(tls.Certificate), nil
		}
		b.expect(step, client, "", false)
		block, _ := pem.Decode(want)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || string(got[0]) != string(cert.RawSubject) {
			t.Errorf("%s: %q", step, got)
		}
	}
	f("at first", b.ca.RootPEM)
	b.write(b.opts.ClientAuth.CAFile, b.ca.InterPEM)
	b.refresh(true)
	f("after a change", b.ca.InterPEM)
	b.expect("an intermediate is trusted by itself", clientOf(t, tls.VersionTLS13, b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})), "feed", false)
}

// A reload with the same options and files is the same store; with others, only what changed is read anew.
func TestLoadClientAuthAgain(t *testing.T) {
	b := newAuthBench(t, "required", nil)
	again := func(o *Options) *Store { return mustLoad(t, o, b.store) }
	if again(&b.opts) != b.store {
		t.Error("nothing changed: another store")
	}
	changed := b.opts.clone()
	changed.ClientAuth.Mode = "optional"
	s := again(&changed)
	if s == b.store || s.content.Load().trusts[0] != b.store.content.Load().trusts[0] {
		t.Error("another mode: the same store, or files that were parsed again")
	}
	b.write(b.opts.ClientAuth.CAFile, testcert.NewCA(t).RootPEM)
	if again(&b.opts) == b.store {
		t.Error("other authorities: the same store")
	}
	if _, err := Load(&Options{Certificates: b.opts.Certificates, ClientAuth: ClientAuthOptions{Mode: "required"}}, nil); !errors.Is(err, ErrNoClientCA) {
		t.Errorf("without ca_file: %v", err)
	}
}

func TestSerials(t *testing.T) {
	long := new(big.Int).Lsh(big.NewInt(1), 200)
	if serialOf(long) == serialOf(new(big.Int).Add(long, big.NewInt(1))) || serialOf(big.NewInt(1)) == serialOf(big.NewInt(256)) {
		t.Error("different serial numbers are one")
	}
	if id := (issuedID{issuerID{1, 2}, serialOf(big.NewInt(77))}); parseIssued(id.append(nil)) != id {
		t.Error("an identifier does not survive a ticket")
	}
}

func TestCertProblemWords(t *testing.T) {
	var words []string
	for _, p := range ClientCertProblems() {
		words = append(words, p.String())
	}
	got := strings.Join(append(words, numClientCertProblems.String()), " ")
	if want := "missing untrusted expired not_yet_valid revoked crl_missing crl_expired wrong_usage too_deep unproven other unknown"; got != want {
		t.Errorf("problems are %q, want %q", got, want)
	}
}
