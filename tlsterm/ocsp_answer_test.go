package tlsterm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/testcert"
)

func TestReadOCSP(t *testing.T) {
	o, stranger := newOffice(t), newOffice(t)
	leaf, other := o.leaf().Leaf(t), o.leaf().Leaf(t)
	now := time.Now()
	f := func(name string, der []byte, want OCSPResult) {
		t.Helper()
		a, err := readOCSP(der, leaf, o.issuer, now)
		wantResult(t, name, a, err, want)
		if a != nil && (!bytes.Equal(a.der, der) || !a.valid(now) || a.valid(a.nextUpdate)) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	with := func(r reply) []byte { return o.answer(leaf, r) }
	// 1. What is taken.
	f("by the issuer", with(reply{}), OCSPGood)
	f("with the issuer's certificate", with(reply{signer: o.issuer}), OCSPGood)
	deputy, deputyKey := o.delegate(nil)
	f("by a delegate", with(reply{signer: deputy, key: deputyKey}), OCSPGood)
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		f("named by "+hash.String(), with(reply{hash: hash}), OCSPGood)
	}
	f("revoked", with(reply{status: ocsp.Revoked}), OCSPRevoked)
	f("unknown", with(reply{status: ocsp.Unknown}), OCSPUnknown)
	f("one of several", o.several(leaf, reply{serial: other.SerialNumber, status: ocsp.Revoked}, reply{}), OCSPGood)
	f("one of several, revoked", o.several(leaf, reply{serial: other.SerialNumber}, reply{status: ocsp.Revoked}), OCSPRevoked)
	f("a clock that is ahead", with(reply{from: now.Add(4 * time.Minute)}), OCSPGood)
	f("almost over", with(reply{from: now.Add(-time.Hour), to: now.Add(time.Minute)}), OCSPGood)
	f("without an end", with(reply{noTo: true}), OCSPGood)
	// 2. When.
	f("over", with(reply{from: now.Add(-time.Hour), to: now.Add(-time.Second)}), OCSPExpired)
	f("without an end, a day old", with(reply{from: now.Add(-25 * time.Hour), noTo: true}), OCSPExpired)
	f("from the future", with(reply{from: now.Add(6 * time.Minute)}), OCSPNotYetValid)
	f("ends before it begins", with(reply{from: now.Add(time.Minute), to: now}), OCSPMalformed)
	// 3. About what.
	f("another certificate", with(reply{serial: other.SerialNumber}), OCSPWrongCertificate)
	f("several others", o.several(leaf, reply{serial: other.SerialNumber}, reply{serial: deputy.SerialNumber}), OCSPWrongCertificate)
	f("another issuer's, with the same number", with(reply{issuer: stranger.issuer}), OCSPWrongCertificate)
	f("another issuer's first", o.several(leaf, reply{issuer: stranger.issuer}, reply{}), OCSPWrongCertificate)
	// 4. By whom.
	strange, strangeKey := stranger.delegate(nil)
	f("by a stranger of the same name", with(reply{key: stranger.key}), OCSPBadSignature)
	f("by a stranger who shows his certificate", with(reply{signer: stranger.issuer, key: stranger.key}), OCSPBadSignature)
	f("by a stranger's delegate", with(reply{signer: strange, key: strangeKey}), OCSPBadSignature)
	f("by another's key", with(reply{signer: deputy, key: stranger.key}), OCSPBadSignature)
	f("signed with SHA-1", with(reply{algo: x509.ECDSAWithSHA1}), OCSPBadSignature)
	for name, alter := range map[string]func(c *x509.Certificate){
		"by a web server of the issuer": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"by one who may do anything":    func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"by a delegate of the past":     func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) },
		"by a delegate of the future":   func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) },
	} {
		signer, key := o.delegate(alter)
		f(name, with(reply{signer: signer, key: key}), OCSPBadSignature)
	}
	// 5. What is no answer.
	f("try later", ocsp.TryLaterErrorResponse, OCSPResponderError)
	f("unauthorized", ocsp.UnauthorizedErrorResponse, OCSPResponderError)
	f("nothing", nil, OCSPMalformed)
	f("a page", []byte("<html>"), OCSPMalformed)
	f("success without an answer", []byte{0x30, 3, 10, 1, 0}, OCSPMalformed)
	good := with(reply{signer: deputy, key: deputyKey})
	f("cut", good[:len(good)-1], OCSPMalformed)
	f("with more behind it", append(slices.Clone(good), 0), OCSPMalformed)
	f("too large", bytes.Repeat([]byte{0x30}, maxOCSPAnswer+1), OCSPTooLarge)
}

// TestReadOCSPChanged changes every byte of an answer: what is still taken says what it said.
func TestReadOCSPChanged(t *testing.T) {
	o := newOffice(t)
	leaf := o.leaf().Leaf(t)
	signer, key := o.delegate(nil)
	for _, der := range [][]byte{o.answer(leaf, reply{}), o.answer(leaf, reply{signer: signer, key: key})} {
		basic, _, err := openOCSP(der)
		if err != nil {
			t.Fatal(err)
		}
		for i := range der {
			changed := slices.Clone(der)
			changed[i] ^= 1
			a, err := readOCSP(changed, leaf, o.issuer, time.Now())
			if err != nil {
				continue
			}
			if got, _, _ := openOCSP(changed); !bytes.Equal(got.Data.FullBytes, basic.Data.FullBytes) || a.status != OCSPGood {
				t.Errorf("byte %d: %+v", i, a)
			}
		}
	}
}

func TestMustStaple(t *testing.T) {
	o := newOffice(t)
	f := func(name string, want bool, extensions ...pkix.Extension) {
		t.Helper()
		leaf := o.Issue(t, testcert.Request{Alter: func(c *x509.Certificate) { c.ExtraExtensions = extensions }}).Leaf(t)
		if got := MustStaple(leaf); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
	feature := func(value ...byte) pkix.Extension { return pkix.Extension{Id: oidTLSFeature, Value: value} }
	f("no extension", false)
	f("status_request", true, feature(0x30, 3, 2, 1, 5))
	f("status_request_v2 and it", true, feature(0x30, 6, 2, 1, 17, 2, 1, 5))
	f("status_request_v2", false, feature(0x30, 3, 2, 1, 17))
	f("none", false, feature(0x30, 0))
	f("garbage", false, feature(0x30, 9, 2, 1, 5))
	f("another one", false, pkix.Extension{Id: []int{1, 2, 3}, Value: []byte{0x30, 3, 2, 1, 5}})
}

func parsed(t *testing.T, ders [][]byte) (list []*x509.Certificate) {
	t.Helper()
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

func TestIssuerOf(t *testing.T) {
	o, stranger := newOffice(t), newOffice(t)
	p := o.leaf()
	chain, leaf := p.TLS(t).Certificate, p.Leaf(t)
	f := func(name string, chain [][]byte, others []*x509.Certificate, want *x509.Certificate) {
		t.Helper()
		if got := issuerOf(leaf, append(parsed(t, chain[1:]), others...)); got != want && (got == nil || want == nil || !got.Equal(want)) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	f("in the chain", chain, nil, o.issuer)
	f("in the chain, not in its place", [][]byte{chain[0], stranger.issuer.Raw, chain[1]}, nil, o.issuer)
	f("not at all", chain[:1], nil, nil)
	f("another of its name", [][]byte{chain[0], stranger.issuer.Raw}, []*x509.Certificate{stranger.issuer}, nil)
	f("beside the chain", chain[:1], []*x509.Certificate{stranger.issuer, o.issuer}, o.issuer)
}

func TestOCSPWords(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range OCSPResults() {
		seen[r.String()] = true
	}
	if len(seen) != int(numOCSPResults) || seen[""] || OCSPResult(99).String() != "invalid" {
		t.Errorf("results %v", seen)
	}
	seen = map[string]bool{}
	for _, s := range StapleStates() {
		seen[s.String()] = true
	}
	if len(seen) != int(numStapleStates) || seen[""] || StapleState(99).String() != "invalid" {
		t.Errorf("states %v", seen)
	}
}

// FuzzReadOCSP checks that no answer crashes the reader, and that what is taken was signed: it holds the data of one of the seeds.
func FuzzReadOCSP(f *testing.F) {
	o := newOffice(f)
	leaf := o.leaf().Leaf(f)
	signer, key := o.delegate(nil)
	seeds := [][]byte{o.several(leaf, reply{serial: signer.SerialNumber}, reply{status: ocsp.Unknown})}
	for _, r := range []reply{{}, {signer: signer, key: key}, {status: ocsp.Revoked}, {status: ocsp.Unknown}, {noTo: true}, {hash: crypto.SHA256}} {
		seeds = append(seeds, o.answer(leaf, r))
	}
	var signed [][]byte
	for _, der := range seeds {
		basic, _, err := openOCSP(der)
		if err != nil {
			f.Fatal(err)
		}
		signed = append(signed, basic.Data.FullBytes)
		f.Add(der)
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Bytes: der}))
	}
	f.Add(ocsp.TryLaterErrorResponse)
	f.Fuzz(func(t *testing.T, data []byte) {
		der := ocspText(data)
		a, err := readOCSP(der, leaf, o.issuer, time.Now())
		if ends, known := ocspEnd(der); a != nil && (!known || ends.Before(a.nextUpdate)) {
			t.Errorf("ends at %s (%t), want %s or later", ends, known, a.nextUpdate)
		}
		if (a == nil) != (err != nil) {
			t.Fatalf("answer %v, error %v", a, err)
		}
		if err != nil {
			wantResult(t, "fuzz", a, err, ocspResult(err))
			return
		}
		basic, _, _ := openOCSP(der)
		if !slices.ContainsFunc(signed, func(s []byte) bool { return bytes.Equal(s, basic.Data.FullBytes) }) {
			t.Errorf("taken: %x", der)
		}
	})
}
