package tlsterm

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/testcert"
)

// office is an authority that answers on its certificates.
type office struct {
	t testing.TB
	*testcert.CA
	issuer *x509.Certificate
	key    crypto.Signer
}

func newOffice(t testing.TB) *office {
	t.Helper()
	o := &office{t: t, CA: testcert.NewCA(t)}
	o.issuer, o.key = o.Issuer()
	return o
}

// leaf issues a certificate that names responders.
func (o *office) leaf(responders ...string) *testcert.Pair {
	o.t.Helper()
	return o.Issue(o.t, testcert.Request{Names: []string{"a.test"}, Alter: func(c *x509.Certificate) { c.OCSPServer = responders }})
}

// mustLeaf issues one that must be stapled.
func (o *office) mustLeaf(responders ...string) *testcert.Pair {
	o.t.Helper()
	return o.Issue(o.t, testcert.Request{Names: []string{"a.test"}, Alter: func(c *x509.Certificate) {
		c.OCSPServer = responders
		c.ExtraExtensions = []pkix.Extension{{Id: oidTLSFeature, Value: []byte{0x30, 3, 2, 1, statusRequest}}}
	}})
}

// delegate issues a certificate that may sign answers.
func (o *office) delegate(alter func(c *x509.Certificate)) (*x509.Certificate, crypto.Signer) {
	o.t.Helper()
	p := o.Issue(o.t, testcert.Request{Names: []string{"responder.test"}, Alter: func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		if alter != nil {
			alter(c)
		}
	}})
	return p.Leaf(o.t), p.TLS(o.t).PrivateKey.(crypto.Signer)
}

// reply is an answer to be made. The zero value is that leaf is good from now on for an hour, signed by the issuer.
type reply struct {
	status   int
	serial   *big.Int
	from, to time.Time
	issuer   *x509.Certificate // whose certificate it is about
	signer   *x509.Certificate // its certificate goes along
	key      crypto.Signer
	hash     crypto.Hash
	algo     x509.SignatureAlgorithm
	noTo     bool
}

func (o *office) answer(leaf *x509.Certificate, r reply) []byte {
	o.t.Helper()
	if r.serial == nil {
		r.serial = leaf.SerialNumber
	}
	if r.from.IsZero() {
		r.from = time.Now().Truncate(time.Second)
	}
	if r.to.IsZero() && !r.noTo {
		r.to = r.from.Add(time.Hour)
	}
	if r.issuer == nil {
		r.issuer = o.issuer
	}
	if r.key == nil {
		r.key = o.key
	}
	named := r.signer
	if named == nil {
		named = o.issuer
	}
	der, err := ocsp.CreateResponse(r.issuer, named, ocsp.Response{
		Status: r.status, SerialNumber: r.serial, ThisUpdate: r.from, NextUpdate: r.to, RevokedAt: r.from,
		Certificate: r.signer, IssuerHash: r.hash, SignatureAlgorithm: r.algo,
	}, r.key)
	if err != nil {
		o.t.Fatal(err)
	}
	return der
}

// several makes one answer of many: on each certificate what r says of its serial number, all signed by the issuer.
func (o *office) several(leaf *x509.Certificate, list ...reply) []byte {
	o.t.Helper()
	var all []asn1.RawValue
	var basic ocspBasic
	var d ocspRawData
	for _, r := range list {
		var err error
		if basic, _, err = openOCSP(o.answer(leaf, r)); err != nil {
			o.t.Fatal(err)
		}
		if err := unmarshalAll(basic.Data.FullBytes, &d); err != nil {
			o.t.Fatal(err)
		}
		all = append(all, d.Singles...)
	}
	d.Singles = all
	data := mustMarshal(o.t, d)
	sum := sha256.Sum256(data)
	signature, err := o.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		o.t.Fatal(err)
	}
	basic.Data = asn1.RawValue{FullBytes: data}
	basic.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	var env ocspEnvelope
	env.Response.Type = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	env.Response.DER = mustMarshal(o.t, basic)
	return mustMarshal(o.t, env)
}

type ocspRawData struct {
	Responder asn1.RawValue
	Produced  time.Time `asn1:"generalized"`
	Singles   []asn1.RawValue
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// wantResult checks the result of an error, or of none.
func wantResult(t *testing.T, name string, a *ocspAnswer, err error, want OCSPResult) {
	t.Helper()
	var typed *OCSPError
	if err != nil && (!errors.As(err, &typed) || a != nil) {
		t.Errorf("%s: answer %v and error %T %v", name, a, err, err)
		return
	}
	if got := ocspOutcome(a, err); got != want {
		t.Errorf("%s: %s (%v), want %s", name, got, err, want)
	}
}
