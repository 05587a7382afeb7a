package tlsterm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// nodes is a hierarchy: root > top > mid > leaf, and some that have nothing to do with it.
type nodes struct {
	root, top, mid, leaf, other, stranger *testcert.Node
}

func hierarchy(t *testing.T) *nodes {
	t.Helper()
	n := &nodes{root: testcert.Root(t, "root")}
	n.top = n.root.Authority(t, "top", nil)
	n.mid = n.top.Authority(t, "mid", nil)
	n.leaf = n.mid.Leaf(t, "leaf.example", nil)
	n.other = testcert.Root(t, "other").Authority(t, "other mid", nil)
	n.stranger = n.other.Leaf(t, "stranger.example", nil)
	return n
}

func certsOf(nodes ...*testcert.Node) []*x509.Certificate {
	var out []*x509.Certificate
	for _, n := range nodes {
		out = append(out, n.Cert)
	}
	return out
}

// knowing are issuers with a system that trusts roots only.
func knowing(roots ...*testcert.Node) *issuers {
	pool := x509.NewCertPool()
	for _, n := range roots {
		pool.AddCert(n.Cert)
	}
	s := newIssuers()
	s.roots = func() *x509.CertPool { return pool }
	return s
}

// problemsOf are the words of findings, in order.
func problemsOf(findings []*Finding) string {
	var words []string
	for _, f := range findings {
		words = append(words, f.Problem.String())
	}
	return strings.Join(words, " ")
}

func namesOf(certs []*x509.Certificate) string {
	var names []string
	for _, c := range certs {
		names = append(names, c.Subject.CommonName)
	}
	return strings.Join(names, " ")
}

// Whatever is in the file, what is sent is the leaf and then each issuer, without the root.
func TestBuildChain(t *testing.T) {
	n := hierarchy(t)
	renewed := n.mid.Sign(t, n.leaf.Cert, n.leaf.Key, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(0, 1, 0) })
	cross := n.other.Sign(t, n.mid.Cert, n.mid.Key, nil) // the same intermediate, signed by another
	direct := n.root.Leaf(t, "direct.example", nil)
	public := n.top.Authority(t, "public mid", func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/top.der"} })
	publicLeaf := public.Leaf(t, "public.example", nil)
	self := (*testcert.Node)(nil).Leaf(t, "self.example", nil)

	f := func(what string, key *testcert.Node, file []*x509.Certificate, known *issuers, want, wantProblems string) {
		t.Helper()
		c := buildChain("cert.pem", "key.pem", file, key.Key.Public(), known)
		if got := namesOf(c.certs); got != want {
			t.Errorf("%s: chain %q, want %q", what, got, want)
		}
		if got := problemsOf(c.findings); got != wantProblems {
			t.Errorf("%s: found %q, want %q", what, got, wantProblems)
			for _, f := range c.findings {
				t.Log(f)
			}
		}
	}
	nothing, system := func() *issuers { return knowing() }, func() *issuers { return knowing(n.root) }
	const whole = "leaf.example mid top"
	f("as it should be", n.leaf, certsOf(n.leaf, n.mid, n.top), system(), whole, "")
	f("below a root of one's own", n.leaf, certsOf(n.leaf, n.mid, n.top), nothing(), whole, "")
	f("self-signed", self, certsOf(self), nothing(), "self.example", "")
	f("directly below a root of the system", direct, certsOf(direct), system(), "direct.example", "")
	f("directly below a root that nobody knows", direct, certsOf(direct), nothing(), "direct.example", "issuer_missing")

	f("leaf last", n.leaf, certsOf(n.top, n.mid, n.leaf), system(), whole, "leaf_not_first")
	f("leaf in the middle", n.leaf, certsOf(n.mid, n.leaf, n.top), system(), whole, "leaf_not_first")
	f("intermediates swapped", n.leaf, certsOf(n.leaf, n.top, n.mid), system(), whole, "out_of_order")
	f("one is there twice", n.leaf, certsOf(n.leaf, n.mid, n.mid, n.top, n.leaf), system(), whole, "repeated")
	f("with the root", n.leaf, certsOf(n.leaf, n.mid, n.top, n.root), nothing(), whole, "root_included")
	f("root first", n.leaf, certsOf(n.root, n.leaf, n.mid, n.top), nothing(), whole, "leaf_not_first root_included")
	f("strangers", n.leaf, certsOf(n.leaf, n.stranger, n.mid, n.other, n.top), system(), whole, "foreign")
	f("a foreign root", n.leaf, certsOf(n.leaf, n.mid, n.top, self), system(), whole, "foreign")
	f("everything at once", n.leaf, certsOf(n.root, n.top, n.leaf, n.mid, n.leaf, n.stranger), nothing(), whole, "leaf_not_first repeated root_included foreign")
	f("two ways up", n.leaf, certsOf(n.leaf, n.mid, cross, n.top), system(), whole+" mid", "")

	f("another's key", n.stranger, certsOf(n.leaf, n.mid, n.top), system(), "", "key_mismatch")
	f("renewed with the same key, the new one first", n.leaf, certsOf(renewed, n.leaf, n.mid, n.top), system(), whole, "foreign")
	f("two could be the leaf", n.leaf, certsOf(n.mid, renewed, n.leaf, n.top), system(), "", "ambiguous_leaf")
	f("the leaf twice, but not first", n.leaf, certsOf(n.mid, n.leaf, n.leaf, n.top), system(), whole, "leaf_not_first repeated")

	f("no intermediate", n.leaf, certsOf(n.leaf), system(), "leaf.example", "issuer_missing")
	f("one of two, of a private authority", n.leaf, certsOf(n.leaf, n.mid), system(), "leaf.example mid", "")
	f("one of two, of a public authority", publicLeaf, certsOf(publicLeaf, public), system(), "public.example public mid", "issuer_missing")
	elsewhere := func(also ...*testcert.Node) *issuers {
		s := system()
		s.add("other.pem", certsOf(append(also, n.leaf, n.other, n.top, n.mid)...))
		return s
	}
	f("the intermediates are in another file", n.leaf, certsOf(n.leaf), elsewhere(), whole, "completed completed")
	f("one of them is", n.leaf, certsOf(n.leaf, n.mid), elsewhere(), whole, "completed")
	f("the upper one is in the file only", n.leaf, certsOf(n.leaf, n.top), elsewhere(), whole, "completed")
	f("none are needed", direct, certsOf(direct), elsewhere(), "direct.example", "")
	f("the root is in another file", n.leaf, certsOf(n.leaf, n.mid, n.top), elsewhere(n.root), whole, "")
	withRoot := nothing()
	withRoot.add("roots.pem", certsOf(n.root))
	f("a root of one's own is named", direct, certsOf(direct), withRoot, "direct.example", "")
}

// Authorities that have signed each other end a chain, and so does its length.
func TestChainEnds(t *testing.T) {
	one, two := testcert.Root(t, "one"), testcert.Root(t, "two")
	oneByTwo := two.Sign(t, one.Cert, one.Key, nil)
	twoByOne := one.Sign(t, two.Cert, two.Key, nil)
	leaf := one.Leaf(t, "leaf.example", nil)
	known := knowing()
	known.add("other.pem", certsOf(oneByTwo, twoByOne))
	if c := buildChain("c", "k", certsOf(leaf), leaf.Key.Public(), known); namesOf(c.certs) != "leaf.example one two" {
		t.Errorf("authorities that sign each other: %s", namesOf(c.certs))
	}
	if c := buildChain("c", "k", certsOf(leaf, oneByTwo, twoByOne), leaf.Key.Public(), knowing()); namesOf(c.certs) != "leaf.example one two" {
		t.Errorf("the same in one file: %s", namesOf(c.certs))
	}
	at := testcert.Root(t, "root")
	var above []*testcert.Node
	for i := range 2 * maxChain {
		at = at.Authority(t, fmt.Sprintf("level %d", i), nil)
		above = append(above, at)
	}
	slices.Reverse(above)
	leaf = at.Leaf(t, "deep.example", nil)
	if c := buildChain("c", "k", certsOf(append([]*testcert.Node{leaf}, above...)...), leaf.Key.Public(), knowing()); len(c.certs) != maxChain {
		t.Errorf("a very long chain has %d certificates, want %d", len(c.certs), maxChain)
	}
}

// What certificates may be used for and how strong they are.
func TestJudge(t *testing.T) {
	root := testcert.Root(t, "root")
	mid := root.Authority(t, "mid", nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, by *testcert.Node, key crypto.Signer, change func(*x509.Certificate), usage x509.ExtKeyUsage, want string) {
		t.Helper()
		tmpl, err := selfsigned.Template([]string{"leaf.example"}, time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 90))
		if err != nil {
			t.Fatal(err)
		}
		leaf := by.Sign(t, tmpl, key, change)
		c := &chain{certs: certsOf(leaf)}
		if by != nil {
			c.certs = append(c.certs, by.Cert)
		}
		c.judge("cert.pem", usage)
		if got := problemsOf(c.findings); got != want {
			t.Errorf("%s: found %q, want %q", what, got, want)
		}
	}
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	uses := func(all ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = all }
	}
	f("nothing", mid, p256, nil, server, "")
	f("for any use", mid, p256, uses(), server, "")
	f("for every use", mid, p256, uses(x509.ExtKeyUsageAny), server, "")
	f("for clients", mid, p256, uses(client), server, "wrong_usage")
	f("for clients, as a client", mid, p256, uses(client), client, "")
	f("for servers, as a client", mid, p256, uses(server), client, "wrong_usage")
	f("for what nobody knows", mid, p256, func(c *x509.Certificate) {
		c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
	}, server, "wrong_usage")
	f("to encipher keys only", mid, p256, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, server, "wrong_usage")
	f("any key usage", mid, p256, func(c *x509.Certificate) { c.KeyUsage = 0 }, server, "")
	f("an authority", mid, p256, func(c *x509.Certificate) { c.IsCA = true }, server, "leaf_is_ca")
	f("1024 bits", mid, weak, nil, server, "weak_key")
	f("self-signed with SHA-1", nil, p256, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }, server, "")
	f("SHA-1", mid, p256, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }, server, "weak_signature")
	f("signed by a leaf", mid.Leaf(t, "leaf", nil), p256, nil, server, "issuer_not_ca")
	f("signed by an authority for lists only", root.Authority(t, "crl", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), p256, nil, server, "issuer_not_ca")
}

// A chain with a signature that nobody verifies any more is put together all the same.
func TestWeakSignatureIsFollowed(t *testing.T) {
	mid := testcert.Root(t, "root").Authority(t, "mid", nil)
	leaf := mid.Leaf(t, "leaf.example", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	c := buildChain("c", "k", certsOf(mid, leaf), leaf.Key.Public(), knowing())
	if namesOf(c.certs) != "leaf.example mid" {
		t.Errorf("chain %q", namesOf(c.certs))
	}
}

// The earliest end of the chain counts, that of an intermediate too.
func TestValidity(t *testing.T) {
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	f := func(leafFrom, leafTo, midFrom, midTo time.Duration, want string) {
		t.Helper()
		c := &chain{certs: []*x509.Certificate{
			{NotBefore: now.Add(leafFrom), NotAfter: now.Add(leafTo)}, {NotBefore: now.Add(midFrom), NotAfter: now.Add(midTo)},
		}}
		if got := problemsOf(c.validity("cert.pem", now)); got != want {
			t.Errorf("leaf %s to %s, intermediate %s to %s: %q, want %q", leafFrom, leafTo, midFrom, midTo, got, want)
		}
		if got, want := c.ends(), now.Add(min(leafTo, midTo)); !got.Equal(want) {
			t.Errorf("the chain ends %s, want %s", got, want)
		}
	}
	f(-day, 90*day, -day, 900*day, "")
	f(-day, 30*day, -day, 900*day, "")
	f(-day, 30*day-1, -day, 900*day, "expires_soon")
	f(-day, 90*day, -day, 8*day, "expires_soon")
	f(-day, 8*day, -day, 8*day, "expires_soon expires_soon")
	f(-9*day, 0, -day, 8*day, "expired expires_soon")
	f(-day, 90*day, -99*day, -day, "expired")
	f(1, 90*day, -99*day, 900*day, "not_yet_valid")
	f(0, 90*day, day, 900*day, "not_yet_valid")
}

// write puts nodes and a key into files that go away with the test.
func writeChain(t *testing.T, key *testcert.Node, chain ...*testcert.Node) Certificate {
	t.Helper()
	dir := t.TempDir()
	c := Certificate{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	writePEM(t, c.CertFile, chain...)
	if err := os.WriteFile(c.KeyFile, key.KeyPEM(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func writePEM(t *testing.T, file string, chain ...*testcert.Node) {
	t.Helper()
	var text []byte
	for _, n := range chain {
		text = append(text, n.PEM()...)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A client that trusts the root alone accepts a chain whose file was put right, and one that another file completes.
func TestRepairedChainIsSent(t *testing.T) {
	n := hierarchy(t)
	pool := x509.NewCertPool()
	pool.AddCert(n.root.Cert)
	sibling := n.mid.Leaf(t, "sibling.example", nil)
	intermediates := filepath.Join(t.TempDir(), "intermediates.pem")
	writePEM(t, intermediates, n.root, n.top)

	f := func(what string, o *Options, serverName, wantProblems string) {
		t.Helper()
		s := mustLoad(t, o, nil)
		if got := problemsOf(s.Findings()); got != wantProblems {
			t.Errorf("%s: found %q, want %q", what, got, wantProblems)
		}
		state, serverErr, clientErr := connect(t, s, &tls.Config{ServerName: serverName, RootCAs: pool})
		if serverErr != nil || clientErr != nil {
			t.Errorf("%s: %v, %v", what, serverErr, clientErr)
			return
		}
		if got := namesOf(state.PeerCertificates[1:]); got != "mid top" {
			t.Errorf("%s: sent above the leaf: %q", what, got)
		}
	}
	f("reversed, with the root", &Options{Certificates: []Certificate{writeChain(t, n.leaf, n.root, n.top, n.mid, n.leaf)}},
		"leaf.example", "leaf_not_first root_included")
	f("completed from another certificate", &Options{Certificates: []Certificate{
		writeChain(t, sibling, sibling, n.mid, n.top), writeChain(t, n.leaf, n.leaf),
	}}, "leaf.example", "completed completed")
	f("completed from the file of intermediates", &Options{
		Certificates: []Certificate{writeChain(t, n.leaf, n.leaf, n.mid)}, IntermediatesFile: intermediates,
	}, "leaf.example", "completed")
}

// Errors name file and problem, and can be told apart.
func TestFindings(t *testing.T) {
	n := hierarchy(t)
	good := writeChain(t, n.leaf, n.leaf, n.mid, n.top)
	f := func(o *Options, wantIndex int, wantKey, wantFile string, want error, wantText ...string) {
		t.Helper()
		_, err := Load(o, nil)
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		_, findings := Examine(o, time.Now())
		i := slices.IndexFunc(findings, func(f *Finding) bool { return errors.Is(f, want) })
		if i < 0 {
			t.Errorf("found %q, want %v", problemsOf(findings), want)
			return
		}
		got := findings[i]
		if got.Index != wantIndex || got.Key != wantKey || got.File != wantFile || !got.Problem.Fatal() {
			t.Errorf("%v: certificate %d, key %s, file %q; want %d, %s, %q", want, got.Index, got.Key, got.File, wantIndex, wantKey, wantFile)
		}
		for _, text := range append(wantText, wantFile) {
			if !strings.Contains(got.Error(), text) {
				t.Errorf("error %q has no %q in it", got, text)
			}
		}
	}
	swapped := Certificate{CertFile: good.KeyFile, KeyFile: good.CertFile}
	wrong := writeChain(t, n.stranger, n.leaf, n.mid)
	ambiguous := writeChain(t, n.leaf, n.mid, n.leaf, n.mid.Sign(t, n.leaf.Cert, n.leaf.Key, nil))
	options := func(all ...Certificate) *Options { return &Options{Certificates: all} }
	f(options(good, wrong), 1, "key_file", wrong.KeyFile, CertKeyMismatch, wrong.CertFile, `"leaf.example"`, "another key of ECDSA P-256", "any other certificate there")
	f(options(ambiguous), 0, "cert_file", ambiguous.CertFile, CertAmbiguous, "certificates 2 and 3")
	f(options(swapped), 0, "cert_file", good.KeyFile, CertNotFound, "swapped?")
	f(options(Certificate{CertFile: "absent.pem", KeyFile: good.KeyFile}), 0, "cert_file", "absent.pem", fs.ErrNotExist, "no such file")
	f(&Options{Certificates: []Certificate{good}, IntermediatesFile: "absent.pem"}, -1, "intermediates_file", "absent.pem", CertUnreadable, "no such file")
	f(&Options{Certificates: []Certificate{good}, IntermediatesFile: good.KeyFile}, -1, "intermediates_file", good.KeyFile, CertNotFound, "PRIVATE KEY")
}

func TestFindingWords(t *testing.T) {
	seen := map[string]bool{}
	for p := range numCertProblems {
		if w := p.String(); w == "" || seen[w] {
			t.Errorf("problem %d has the word %q", p, w)
		} else {
			seen[w] = true
		}
	}
	if got := numCertProblems.String(); got != "unknown" {
		t.Errorf("a problem that is none: %q", got)
	}
}

// A certificate towards a backend may end below what only the backend knows, but must be for clients.
func TestExamineClient(t *testing.T) {
	mid := testcert.Root(t, "root").Authority(t, "mid", nil)
	leaf := mid.Leaf(t, "gateway", nil)
	server := mid.Leaf(t, "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	f := func(c Certificate, want string) {
		t.Helper()
		if got := problemsOf(ExamineClient(c.CertFile, c.KeyFile, time.Now())); got != want {
			t.Errorf("found %q, want %q", got, want)
		}
	}
	f(writeChain(t, leaf, leaf), "")
	f(writeChain(t, server, server, mid), "wrong_usage")
	f(writeChain(t, leaf, server), "key_mismatch")
	f(Certificate{CertFile: "absent", KeyFile: "absent"}, "unreadable unreadable")
}

// A file of intermediates that changes makes other chains, and keeps the certificates that it does not concern.
func TestIntermediatesAreFollowed(t *testing.T) {
	n := hierarchy(t)
	file := filepath.Join(t.TempDir(), "intermediates.pem")
	writePEM(t, file, n.other)
	o := &Options{
		Certificates:      []Certificate{writeChain(t, n.leaf, n.leaf), writeChain(t, n.stranger, n.stranger, n.other)},
		IntermediatesFile: file,
	}
	s := mustLoad(t, o, nil)
	before := s.content.Load()
	writePEM(t, file, n.other, n.mid, n.top)
	changed, err := s.Refresh()
	after := s.content.Load()
	if err != nil || !changed {
		t.Fatalf("changed is %t, error %v", changed, err)
	}
	if got := after.infos[0].ChainLength; got != 3 {
		t.Errorf("the chain has %d certificates, want 3", got)
	}
	if before.loaded[1] != after.loaded[1] {
		t.Error("a certificate that did not change was made anew")
	}
	if changed, err := s.Refresh(); changed || err != nil {
		t.Errorf("without a change: changed is %t, error %v", changed, err)
	}
}

// While the process runs, an expired certificate does not take the place of a valid one; a reload that is asked for takes it.
func TestExpiredDoesNotReplace(t *testing.T) {
	root := testcert.Root(t, "root")
	leaf := root.Leaf(t, "leaf.example", nil)
	change := func(from, to int) *testcert.Node {
		return root.Sign(t, leaf.Cert, leaf.Key, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(0, 0, from), time.Now().AddDate(0, 0, to)
		})
	}
	c := writeChain(t, leaf, leaf)
	o := &Options{Certificates: []Certificate{c}}
	s := mustLoad(t, o, nil)
	for _, bad := range []struct {
		n    *testcert.Node
		want CertProblem
	}{{change(-9, -1), CertExpired}, {change(1, 9), CertNotYetValid}} {
		writePEM(t, c.CertFile, bad.n)
		if changed, err := s.Refresh(); changed || !errors.Is(err, bad.want) {
			t.Errorf("changed is %t, error %v, want %v", changed, err, bad.want)
		}
		if !bytes.Equal(s.content.Load().loaded[0].cert.Certificate[0], leaf.Cert.Raw) {
			t.Error("the valid certificate is gone")
		}
		next := mustLoad(t, o, s)
		if next == s || !errors.Is(next.Findings()[1], bad.want) {
			t.Errorf("a reload: found %q", problemsOf(next.Findings()))
		}
		if changed, err := next.Refresh(); changed || err != nil {
			t.Errorf("after the reload: changed is %t, error %v", changed, err)
		}
		writePEM(t, c.CertFile, leaf)
		if changed, err := next.Refresh(); !changed || err != nil {
			t.Errorf("back to the valid one: changed is %t, error %v", changed, err)
		}
	}
}
