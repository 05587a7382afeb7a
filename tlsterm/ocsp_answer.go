package tlsterm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// OCSPResult says what came of looking for an answer on one certificate.
type OCSPResult uint8

// Results. The first three are verified answers, and only good ones are stapled.
const (
	OCSPGood             OCSPResult = iota // the certificate is not revoked
	OCSPRevoked                            // it is
	OCSPUnknown                            // the responder does not know the certificate
	OCSPTimedOut                           // no answer within ocsp.timeout
	OCSPUnreachable                        // no connection, or one that broke: refused, reset, no such host
	OCSPHTTPStatus                         // an HTTP status other than 200; redirects are not followed
	OCSPTooLarge                           // more than maxOCSPAnswer bytes
	OCSPNoIssuer                           // the issuer's certificate, with which answers are verified, is not known
	OCSPUnreadable                         // the file of ocsp_file cannot be read
	OCSPMalformed                          // bytes that are no OCSP response
	OCSPResponderError                     // an OCSP response without an answer: try later, unauthorized, internal error
	OCSPWrongCertificate                   // an answer on another certificate
	OCSPBadSignature                       // signed neither by the issuer nor by whom it has entitled to
	OCSPExpired                            // an answer from the past
	OCSPNotYetValid                        // an answer from the future
	numOCSPResults
)

var ocspResultWords = [numOCSPResults]string{
	OCSPGood:             "good",
	OCSPRevoked:          "revoked",
	OCSPUnknown:          "unknown",
	OCSPTimedOut:         "timeout",
	OCSPUnreachable:      "unreachable",
	OCSPHTTPStatus:       "http_status",
	OCSPTooLarge:         "too_large",
	OCSPNoIssuer:         "no_issuer",
	OCSPUnreadable:       "unreadable",
	OCSPMalformed:        "malformed",
	OCSPResponderError:   "responder_error",
	OCSPWrongCertificate: "wrong_certificate",
	OCSPBadSignature:     "bad_signature",
	OCSPExpired:          "expired",
	OCSPNotYetValid:      "not_yet_valid",
}

// String returns the snake_case word used in metrics, logs and tests.
func (r OCSPResult) String() string {
	if r >= numOCSPResults {
		return "invalid"
	}
	return ocspResultWords[r]
}

// OCSPResults returns every result in order, for registering metric series at 0.
func OCSPResults() []OCSPResult {
	all := make([]OCSPResult, numOCSPResults)
	for i := range all {
		all[i] = OCSPResult(i)
	}
	return all
}

// OCSPError is why there is no answer that could be stapled.
type OCSPError struct {
	Result OCSPResult
	Err    error
}

// Error returns the text of Err.
func (e *OCSPError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *OCSPError) Unwrap() error { return e.Err }

func ocspErrorf(r OCSPResult, format string, args ...any) error {
	return &OCSPError{r, fmt.Errorf(format, args...)}
}

// ocspResult returns the result that an error stands for.
func ocspResult(err error) OCSPResult {
	var e *OCSPError
	if errors.As(err, &e) {
		return e.Result
	}
	return OCSPMalformed
}

const (
	// maxOCSPAnswer bounds an answer: those with a responder's certificate have 2 to 4 KiB, and every full handshake
	// carries it.
	maxOCSPAnswer = 16 << 10
	// ocspTolerance is how far ahead of ours the clock of a responder may be.
	ocspTolerance = 5 * time.Minute
	// ocspNoNextUpdate is how long an answer counts that does not say it (RFC 6960 section 4.2.2.1 calls newer ones available at
	// any time). Firefox takes it for a day, too.
	ocspNoNextUpdate = 24 * time.Hour
	// maxOCSPSigners bounds the certificates in an answer that are tried.
	maxOCSPSigners = 4
)

// ocspAnswer is a verified answer on one certificate.
type ocspAnswer struct {
	der                    []byte
	status                 OCSPResult // OCSPGood, OCSPRevoked or OCSPUnknown
	thisUpdate, nextUpdate time.Time  // neither is zero
	revokedAt              time.Time  // of OCSPRevoked
}

// The outermost fields of a response (RFC 6960 section 4.2.1), as far as the library does not show them.
type (
	ocspEnvelope struct {
		Status   asn1.Enumerated
		Response struct {
			Type asn1.ObjectIdentifier
			DER  []byte
		} `asn1:"explicit,tag:0,optional"`
	}
	ocspBasic struct {
		Data      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	ocspData struct {
		Version   int `asn1:"optional,default:0,explicit,tag:0"`
		Responder asn1.RawValue
		Produced  time.Time `asn1:"generalized"`
		Singles   []struct {
			ID         ocspCertID
			Status     asn1.RawValue
			ThisUpdate time.Time `asn1:"generalized"`
			NextUpdate time.Time `asn1:"generalized,explicit,tag:0,optional"`
		}
	}
	ocspCertID struct {
		Hash                 pkix.AlgorithmIdentifier
		NameHash, IssuerHash []byte
		Serial               *big.Int
	}
)

// readOCSP verifies an answer on leaf. The error is an OCSPError.
//
// The library parses all of it but the certificates that come along, which are taken out first: it would try only the first,
// reject an issuer's own, and does not ask whether the signer may sign answers at all.
func readOCSP(der []byte, leaf, issuer *x509.Certificate, now time.Time) (*ocspAnswer, error) {
	if len(der) > maxOCSPAnswer {
		return nil, ocspErrorf(OCSPTooLarge, "the answer has %d bytes (want at most %d)", len(der), maxOCSPAnswer)
	}
	basic, bare, err := openOCSP(der)
	if err != nil {
		return nil, err
	}
	if err := isAbout(basic.Data.FullBytes, leaf, issuer); err != nil {
		return nil, err
	}
	resp, err := ocsp.ParseResponseForCert(bare, leaf, nil)
	if err != nil {
		return nil, ocspErrorf(OCSPMalformed, "parse the answer: %w", err)
	}
	if err := checkSigner(resp, basic.Certs, issuer, now); err != nil {
		return nil, err
	}
	return datedAnswer(der, resp, now)
}

// openOCSP returns the answer in a response, and the response without the certificates in it.
func openOCSP(der []byte) (basic ocspBasic, bare []byte, err error) {
	var env ocspEnvelope
	if err := unmarshalAll(der, &env); err != nil {
		return basic, nil, ocspErrorf(OCSPMalformed, "it is no OCSP response")
	}
	if status := ocsp.ResponseStatus(env.Status); status != ocsp.Success {
		return basic, nil, ocspErrorf(OCSPResponderError, "the responder has no answer: %s", status)
	}
	if err := unmarshalAll(env.Response.DER, &basic); err != nil {
		return basic, nil, ocspErrorf(OCSPMalformed, "it is an OCSP response of an unknown kind, or broken")
	}
	without := basic
	without.Certs = nil
	if env.Response.DER, err = asn1.Marshal(without); err == nil {
		bare, err = asn1.Marshal(env)
	}
	if err != nil {
		return basic, nil, ocspErrorf(OCSPMalformed, "it is an OCSP response of an unknown kind, or broken")
	}
	return basic, bare, nil
}

func unmarshalAll(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		return fmt.Errorf("%d bytes behind it", len(rest))
	}
	return err
}

// isAbout checks that the first answer with leaf's serial number, which is the one that the library takes, names leaf's issuer.
func isAbout(data []byte, leaf, issuer *x509.Certificate) error {
	var d ocspData
	if err := unmarshalAll(data, &d); err != nil {
		return ocspErrorf(OCSPMalformed, "it is an OCSP response of an unknown kind, or broken")
	}
	for i := range d.Singles {
		id := &d.Singles[i].ID
		if id.Serial.Cmp(leaf.SerialNumber) != 0 {
			continue
		}
		want, err := certID(leaf, issuer, id.Hash.Algorithm)
		if err != nil {
			return ocspErrorf(OCSPMalformed, "%w", err)
		}
		if !bytes.Equal(id.NameHash, want.IssuerNameHash) || !bytes.Equal(id.IssuerHash, want.IssuerKeyHash) {
			return ocspErrorf(OCSPWrongCertificate, "the answer is about a certificate of another issuer")
		}
		return nil
	}
	return ocspErrorf(OCSPWrongCertificate, "the answer is about another certificate (want serial number %x)", leaf.SerialNumber)
}

// ocspEnd is when the last answer in a response ends, which is not verified; false if there is none.
func ocspEnd(der []byte) (ends time.Time, known bool) {
	basic, _, err := openOCSP(der)
	if err != nil {
		return ends, false
	}
	var d ocspData
	if err := unmarshalAll(basic.Data.FullBytes, &d); err != nil {
		return ends, false
	}
	for i := range d.Singles {
		next := d.Singles[i].NextUpdate
		if next.IsZero() {
			next = d.Singles[i].ThisUpdate.Add(ocspNoNextUpdate)
		}
		if next.After(ends) {
			ends, known = next, true
		}
	}
	return ends, known
}

// checkSigner checks who signed an answer: the issuer, or one whom the issuer has made a certificate for just that
// (RFC 6960 section 4.2.2.2).
func checkSigner(resp *ocsp.Response, certs []asn1.RawValue, issuer *x509.Certificate, now time.Time) error {
	switch resp.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		return ocspErrorf(OCSPBadSignature, "the answer is signed with %s, which can be forged", resp.SignatureAlgorithm)
	}
	why := resp.CheckSignatureFrom(issuer)
	if why == nil {
		return nil
	}
	for _, raw := range certs[:min(len(certs), maxOCSPSigners)] {
		signer, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil || resp.CheckSignatureFrom(signer) != nil {
			continue
		}
		if why = entitled(signer, issuer, now); why == nil {
			return nil
		}
	}
	return ocspErrorf(OCSPBadSignature, "the answer is not signed by %q or in its name: %w", issuer.Subject, why)
}

// entitled checks that issuer lets signer sign answers.
func entitled(signer, issuer *x509.Certificate, now time.Time) error {
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return fmt.Errorf("the signer's certificate %q is not for signing OCSP answers", signer.Subject)
	}
	if now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return fmt.Errorf("the signer's certificate %q is valid only from %s to %s", signer.Subject, signer.NotBefore, signer.NotAfter)
	}
	if !bytes.Equal(signer.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("the signer's certificate %q has another issuer", signer.Subject)
	}
	if err := signer.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("the signer's certificate %q: %w", signer.Subject, err)
	}
	return nil
}

// datedAnswer checks when the answer is valid.
func datedAnswer(der []byte, resp *ocsp.Response, now time.Time) (*ocspAnswer, error) {
	a := &ocspAnswer{der: der, thisUpdate: resp.ThisUpdate, nextUpdate: resp.NextUpdate}
	switch resp.Status {
	case ocsp.Good:
		a.status = OCSPGood
	case ocsp.Revoked:
		a.status, a.revokedAt = OCSPRevoked, resp.RevokedAt
	default:
		a.status = OCSPUnknown
	}
	if a.nextUpdate.IsZero() {
		a.nextUpdate = a.thisUpdate.Add(ocspNoNextUpdate)
	}
	switch {
	case a.nextUpdate.Before(a.thisUpdate):
		return nil, ocspErrorf(OCSPMalformed, "the answer ends (%s) before it begins (%s)", a.nextUpdate, a.thisUpdate)
	case a.thisUpdate.After(now.Add(ocspTolerance)):
		return nil, ocspErrorf(OCSPNotYetValid, "the answer is valid only from %s", a.thisUpdate)
	case !now.Before(a.nextUpdate):
		return nil, ocspErrorf(OCSPExpired, "the answer was valid until %s", a.nextUpdate)
	}
	return a, nil
}

// valid reports whether an answer may be stapled at that time. It may be nil.
func (a *ocspAnswer) valid(now time.Time) bool { return a != nil && now.Before(a.nextUpdate) }

// oidTLSFeature is the extension by which a certificate demands to be stapled (RFC 7633); statusRequest is in it then.
var oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

const statusRequest = 5

// MustStaple reports whether a certificate demands a stapled answer (RFC 7633).
func MustStaple(leaf *x509.Certificate) bool {
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oidTLSFeature) {
			continue
		}
		var features []int
		if unmarshalAll(ext.Value, &features) == nil && slices.Contains(features, statusRequest) {
			return true
		}
	}
	return false
}

// ErrNoIssuer says that no answer can be verified, since the issuer's certificate is missing.
var ErrNoIssuer = errors.New("the certificate of the issuer is neither in the certificate file nor in ocsp.ca_file")

// CheckOCSP tells why the content of an ocsp_file would not be stapled to the first certificate of a chain, whose issuer is in the chain or in
// the file of ocsp.ca_file; nil if it would be.
func CheckOCSP(answer []byte, chain []*x509.Certificate, caPEM []byte, now time.Time) error {
	issuer := issuerOf(chain[0], slices.Concat(chain[1:], certificates(caPEM)))
	if issuer == nil {
		return ocspErrorf(OCSPNoIssuer, "%w", ErrNoIssuer)
	}
	a, err := readOCSP(ocspText(answer), chain[0], issuer, now)
	switch {
	case err != nil:
		return err
	case a.status == OCSPRevoked:
		return ocspErrorf(OCSPRevoked, "the certificate was revoked on %s", a.revokedAt)
	case a.status == OCSPUnknown:
		return ocspErrorf(OCSPUnknown, "the responder does not know the certificate")
	}
	return nil
}

// certificates returns those of a PEM file that can be parsed.
func certificates(data []byte) (list []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return list
		}
		if c, err := x509.ParseCertificate(block.Bytes); isCert(block.Type) && err == nil {
			list = append(list, c)
		}
	}
}

// issuerOf returns the certificate among others that leaf is signed with, or nil.
func issuerOf(leaf *x509.Certificate, others []*x509.Certificate) *x509.Certificate {
	for _, c := range others {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// ocspText returns the answer in a file: DER, or the first block in PEM.
func ocspText(data []byte) []byte {
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return data
		}
		if block.Type == "OCSP RESPONSE" {
			return block.Bytes
		}
	}
}

// ocspQuery returns the request for an answer on leaf. It names it by SHA-1 sums, as RFC 5019 section 2.1.1 demands: they are names, not
// signatures. There is no nonce, since answers are made ahead and cached.
func ocspQuery(leaf, issuer *x509.Certificate) ([]byte, error) {
	query, err := ocsp.CreateRequest(leaf, issuer, &ocsp.RequestOptions{Hash: crypto.SHA1})
	if err != nil {
		return nil, fmt.Errorf("make an OCSP request: %w", err)
	}
	return query, nil
}

// ocspHashes are the sums by which requests and answers name an issuer.
var ocspHashes = []struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
}{
	{asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, crypto.SHA1},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
}

// certID returns how an answer by that kind of sum names leaf.
func certID(leaf, issuer *x509.Certificate, oid asn1.ObjectIdentifier) (*ocsp.Request, error) {
	for _, h := range ocspHashes {
		if !h.oid.Equal(oid) {
			continue
		}
		query, err := ocsp.CreateRequest(leaf, issuer, &ocsp.RequestOptions{Hash: h.hash})
		if err != nil {
			return nil, err
		}
		return ocsp.ParseRequest(query)
	}
	return nil, fmt.Errorf("the answer names its certificate by sums of an unknown kind (%s)", oid)
}
