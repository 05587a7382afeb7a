package tlsterm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// maxChain bounds a chain. Public ones have two to four certificates; OpenSSL verifies a hundred, and Go ten.
	maxChain = 10
	// maxBlocks bounds the certificates of one file: a bundle of all public roots has some 150.
	maxBlocks = 1000
	// minRSABits is what browsers and the CA/Browser Forum demand (Baseline Requirements 6.1.5).
	minRSABits = 2048
	// expiryNotice is how long before its end a certificate is warned about.
	expiryNotice = 30 * 24 * time.Hour
)

// chain is what is sent for one certificate, and what was found on the way to it.
type chain struct {
	certs    []*x509.Certificate // the leaf first; not the root
	findings []*Finding
}

// ends returns when the first certificate of the chain expires.
func (c *chain) ends() time.Time {
	end := c.certs[0].NotAfter
	for _, cert := range c.certs[1:] {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

// issuer is a certificate authority, and the file that it was found in.
type issuer struct {
	cert *x509.Certificate
	file string
}

// issuers are what a chain can be completed from, or seen to be complete by: authorities in other files, and the roots
// that this system trusts.
type issuers struct {
	bySubject map[string][]issuer // by RawSubject
	roots     func() *x509.CertPool
	verdicts  map[[sha256.Size]byte]bool // what trusted said, as many chains end below the same root
}

// systemRoots are read once, and only when a chain does not tell by itself that it is complete. A system without any
// (a bare container) knows none.
var systemRoots = sync.OnceValue(func() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return pool
})

func newIssuers() *issuers {
	return &issuers{bySubject: map[string][]issuer{}, roots: systemRoots, verdicts: map[[sha256.Size]byte]bool{}}
}

// add notes the authorities among the certificates of a file. Leaves are of no use.
func (s *issuers) add(file string, certs []*x509.Certificate) {
	for _, cert := range certs {
		known := s.bySubject[string(cert.RawSubject)]
		if !cert.IsCA || slices.ContainsFunc(known, func(i issuer) bool { return i.cert.Equal(cert) }) {
			continue
		}
		s.bySubject[string(cert.RawSubject)] = append(known, issuer{cert, file})
	}
}

// above finds who has signed cert, a root before others, as that is where a chain ends.
func (s *issuers) above(cert *x509.Certificate) (found issuer, ok bool) {
	for _, i := range s.bySubject[string(cert.RawIssuer)] {
		if i.cert.Equal(cert) || !signed(i.cert, cert) {
			continue
		}
		if !ok || selfSigned(i.cert) {
			found, ok = i, true
		}
		if selfSigned(i.cert) {
			break
		}
	}
	return found, ok
}

// trusted reports whether a root of this system has signed cert. It is asked about the authority alone, so that
// neither time nor use of the certificate matter.
func (s *issuers) trusted(cert *x509.Certificate) bool {
	sum := sha256.Sum256(cert.Raw)
	if verdict, ok := s.verdicts[sum]; ok {
		return verdict
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:         s.roots(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   within(cert, time.Now()),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	s.verdicts[sum] = err == nil
	return err == nil
}

// within returns the time closest to now at which cert is valid.
func within(cert *x509.Certificate, now time.Time) time.Time {
	switch {
	case now.Before(cert.NotBefore):
		return cert.NotBefore
	case now.After(cert.NotAfter):
		return cert.NotAfter
	}
	return now
}

// buildChain puts the certificates of one file in the order in which they are sent (RFC 8446 section 4.4.2, RFC 5246 section 7.4.2):
// the leaf, which is the one that the key belongs to, then each after the one that it has signed. What is missing comes
// from known; what is not needed is left out. A chain without certificates could not be built. The names of the files are for the findings.
func buildChain(certFile, keyFile string, certs []*x509.Certificate, key crypto.PublicKey, known *issuers) *chain {
	b := &chainBuilder{certFile: certFile, keyFile: keyFile, certs: certs, used: make([]bool, len(certs)), known: known}
	if leaf := b.findLeaf(key); leaf >= 0 {
		b.take(leaf)
		b.climb()
		b.alternatives()
		b.leftOver()
	}
	return &b.chain
}

// chainBuilder is the work of one buildChain.
type chainBuilder struct {
	chain
	certFile, keyFile string

	certs []*x509.Certificate // of the file
	used  []bool              // which of them are in the chain
	last  int                 // the one taken last
	known *issuers
	over  bool // the chain is out of order, and that is noted
}

func (b *chainBuilder) note(p CertProblem, format string, args ...any) {
	b.findings = append(b.findings, &Finding{Problem: p, Key: certFileKey, File: b.certFile, Text: fmt.Sprintf(format, args...)})
}

// findLeaf returns the index of the certificate that the key belongs to, -1 after noting why there is none.
func (b *chainBuilder) findLeaf(key crypto.PublicKey) int {
	var fits []int
	for i, cert := range b.certs {
		if samePublic(key, cert.PublicKey) {
			fits = append(fits, i)
		}
	}
	if len(fits) > 0 && fits[0] == 0 {
		return 0
	}
	// Renewed with the same key, or signed by two authorities: only what is no authority can be meant.
	if len(fits) > 1 {
		fits = slices.DeleteFunc(fits, func(i int) bool { return b.certs[i].IsCA || b.repeats(i) })
	}
	switch len(fits) {
	case 0:
		b.mismatch(key)
		return -1
	case 1:
		b.note(CertLeafNotFirst, "the leaf, %s, is certificate %d of the file (want it first); it is sent first", about(b.certs[fits[0]]), fits[0]+1)
		b.over = true
		return fits[0]
	}
	b.note(CertAmbiguous, "certificates %d and %d both belong to the private key (want the leaf first)", fits[0]+1, fits[1]+1)
	return -1
}

// mismatch notes that the key belongs to no certificate.
func (b *chainBuilder) mismatch(key crypto.PublicKey) {
	first := b.certs[0]
	which := fmt.Sprintf("%s, which has another key of %s", about(first), keyText(key))
	if kind := keyType(first); kind != keyText(key) {
		which = fmt.Sprintf("%s, whose key is %s", about(first), kind)
	}
	if len(b.certs) > 1 {
		which += ", nor to any other certificate there"
	}
	b.findings = append(b.findings, &Finding{
		Problem: CertKeyMismatch, Key: keyFileKey, File: b.keyFile,
		Text: fmt.Sprintf("the private key (%s) does not go with certificate %q: it does not belong to %s", keyText(key), b.certFile, which),
	})
}

// repeats reports whether an earlier certificate of the file is the same.
func (b *chainBuilder) repeats(i int) bool {
	return slices.ContainsFunc(b.certs[:i], b.certs[i].Equal)
}

func (b *chainBuilder) take(i int) {
	b.used[i], b.last = true, i
	b.chain.certs = append(b.chain.certs, b.certs[i])
}

func (b *chainBuilder) top() *x509.Certificate { return b.chain.certs[len(b.chain.certs)-1] }

// climb follows the signatures up to the root, or as far as certificates are known.
func (b *chainBuilder) climb() {
	for len(b.chain.certs) < maxChain && !selfSigned(b.top()) {
		i, root := b.aboveInFile()
		if i >= 0 && !root {
			b.orderly(i)
			b.take(i)
			continue
		}
		if root || !b.climbElsewhere() {
			return
		}
	}
}

// aboveInFile finds who has signed the topmost certificate, roots last, as they are not sent.
func (b *chainBuilder) aboveInFile() (index int, root bool) {
	index = -1
	for i, cert := range b.certs {
		if b.used[i] || slices.ContainsFunc(b.chain.certs, cert.Equal) || !signed(cert, b.top()) {
			continue
		}
		if !selfSigned(cert) {
			return i, false
		}
		index, root = i, true
	}
	return index, root
}

// orderly notes, once, that the next certificate of the chain is not behind the one taken last.
func (b *chainBuilder) orderly(i int) {
	if i < b.last && !b.over {
		b.over = true
		b.note(CertOutOfOrder, "the certificates are not in the order in which they sign (%s, which is certificate %d, has signed certificate %d); they are sent in order",
			about(b.certs[i]), i+1, b.last+1)
	}
}

// climbElsewhere adds one certificate that is not in the file. False ends the chain.
func (b *chainBuilder) climbElsewhere() bool {
	top := b.top()
	up, ok := b.known.above(top)
	switch {
	case ok && selfSigned(up.cert), b.known.trusted(top):
		return false
	case !ok:
		b.missing(top)
		return false
	case slices.ContainsFunc(b.chain.certs, up.cert.Equal):
		return false // they sign each other
	}
	b.note(CertCompleted, "lacks the intermediate %s, which was found in %q and is sent", about(up.cert), up.file)
	b.chain.certs = append(b.chain.certs, up.cert)
	return true
}

// missing notes that nobody knows who has signed the topmost certificate. Above an intermediate that may well be the root of
// a private authority, which need not be known here. Those of public ones say where their issuer is found.
func (b *chainBuilder) missing(top *x509.Certificate) {
	if len(b.chain.certs) > 1 && len(top.IssuingCertificateURL) == 0 {
		return
	}
	where := ""
	if len(top.IssuingCertificateURL) > 0 {
		where = fmt.Sprintf(", to be had from %s", list(quoted(top.IssuingCertificateURL)))
	}
	b.note(CertIssuerMissing, "lacks the issuer of %s, %q%s: clients that do not know it already will not accept the chain (if it is a root of your own, name it in intermediates_file)",
		about(top), top.Issuer.String(), where)
}

// alternatives adds what is in the file as a second way up: the same intermediate signed by another root, for
// clients that know only that one.
func (b *chainBuilder) alternatives() {
	for i, cert := range b.certs {
		if b.used[i] || selfSigned(cert) || b.repeats(i) || len(b.chain.certs) >= maxChain {
			continue
		}
		if slices.ContainsFunc(b.chain.certs, func(below *x509.Certificate) bool { return signed(cert, below) }) {
			b.used[i] = true
			b.chain.certs = append(b.chain.certs, cert)
		}
	}
}

// leftOver notes which certificates of the file are not sent.
func (b *chainBuilder) leftOver() {
	var repeated, foreign, roots []string
	for i, cert := range b.certs {
		switch {
		case b.used[i]:
		case b.repeats(i):
			repeated = append(repeated, about(cert))
		case selfSigned(cert) && slices.ContainsFunc(b.chain.certs, func(below *x509.Certificate) bool { return signed(cert, below) }):
			roots = append(roots, about(cert))
		default:
			foreign = append(foreign, about(cert))
		}
	}
	for _, left := range []struct {
		problem CertProblem
		format  string
		which   []string
	}{
		{CertRepeated, "holds %s more than once; it is sent once", repeated},
		{CertRootIncluded, "holds the root %s, which clients have already or do not trust; it is not sent", roots},
		{CertForeign, "holds %s, which has nothing to do with the leaf; it is not sent", foreign},
	} {
		if len(left.which) > 0 {
			b.note(left.problem, left.format, list(left.which))
		}
	}
}

// judge notes what is unwise about a chain that stands, whatever the time: how its certificates are used and how strong they are.
func (c *chain) judge(file string, usage x509.ExtKeyUsage) {
	note := func(p CertProblem, format string, args ...any) {
		c.findings = append(c.findings, &Finding{Problem: p, Key: certFileKey, File: file, Text: fmt.Sprintf(format, args...)})
	}
	leaf := c.certs[0]
	if leaf.IsCA {
		note(CertLeafIsCA, "%s is a certificate authority (want CA:FALSE): some clients, Firefox among them, do not accept it from a server", about(leaf))
	}
	if why := wrongUsage(leaf, usage); why != "" {
		note(CertWrongUsage, "%s %s", about(leaf), why)
	}
	for i, cert := range c.certs {
		if i > 0 && !maySign(cert) {
			note(CertIssuerNotCA, "%s has signed another certificate, but is none of an authority (want CA:TRUE and keyCertSign): clients will not accept the chain", about(cert))
		}
		if pub, ok := cert.PublicKey.(*rsa.PublicKey); ok && pub.N.BitLen() < minRSABits {
			note(CertWeakKey, "%s has an RSA key of %d bits (want %d, or ECDSA P-256): clients will not accept it", about(cert), pub.N.BitLen(), minRSABits)
		}
		if weakSignature(cert.SignatureAlgorithm) && !selfSigned(cert) {
			note(CertWeakSignature, "%s is signed with %s (want SHA-256 or better): clients will not accept it", about(cert), cert.SignatureAlgorithm)
		}
	}
}

// validity says which certificates of a chain are not valid at a time, or not for much longer.
func (c *chain) validity(file string, now time.Time) []*Finding {
	var out []*Finding
	urgent := false
	note := func(p CertProblem, format string, args ...any) {
		out = append(out, &Finding{Problem: p, Key: certFileKey, File: file, Text: fmt.Sprintf(format, args...), Urgent: urgent})
	}
	for _, cert := range c.certs {
		left := cert.NotAfter.Sub(now)
		urgent = expiryStage(left) >= ExpiryDay
		switch {
		case left <= 0:
			note(CertExpired, "%s expired on %s and is not accepted any more", about(cert), day(cert.NotAfter))
		case cert.NotBefore.After(now):
			note(CertNotYetValid, "%s is valid only from %s", about(cert), day(cert.NotBefore))
		case left < expiryNotice:
			note(CertExpiresSoon, "%s expires on %s, %s", about(cert), day(cert.NotAfter), InText(left))
		}
	}
	return out
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// wrongUsage says what a leaf's extensions do not allow, "" if it can be used. Without the extensions everything is allowed (RFC 5280
// sections 4.2.1.3 and 4.2.1.12).
func wrongUsage(leaf *x509.Certificate, usage x509.ExtKeyUsage) string {
	restricted := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0
	if restricted && !slices.Contains(leaf.ExtKeyUsage, usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		if usage == x509.ExtKeyUsageClientAuth {
			return "is not for clients (want clientAuth in its extended key usage): servers will not accept it"
		}
		return "is not for servers (want serverAuth in its extended key usage): clients will not accept it"
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return "may not sign handshakes (want digitalSignature in its key usage): its peers will not accept it"
	}
	return ""
}

func weakSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// maySign reports whether cert is that of an authority.
func maySign(cert *x509.Certificate) bool {
	return cert.IsCA && (cert.KeyUsage == 0 || cert.KeyUsage&x509.KeyUsageCertSign != 0)
}

// signed reports whether parent has signed child, whether or not it may (maySign). A signature that crypto/x509 refuses to look at, as of
// SHA-1, is taken for good where the key identifiers fit, too: clients do not accept it anyway.
func signed(parent, child *x509.Certificate) bool {
	if !bytes.Equal(parent.RawSubject, child.RawIssuer) {
		return false
	}
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	if errors.As(err, new(x509.InsecureAlgorithmError)) {
		return len(parent.SubjectKeyId) == 0 || len(child.AuthorityKeyId) == 0 || bytes.Equal(parent.SubjectKeyId, child.AuthorityKeyId)
	}
	return err == nil
}

func selfSigned(cert *x509.Certificate) bool { return signed(cert, cert) }

// samePublic compares public keys. All of the standard library can be compared.
func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// about names a certificate as people do: by common name, else by its first name, else by its whole subject.
func about(cert *x509.Certificate) string {
	switch {
	case cert.Subject.CommonName != "":
		return fmt.Sprintf("%q", cert.Subject.CommonName)
	case len(cert.DNSNames) > 0:
		return fmt.Sprintf("%q", cert.DNSNames[0])
	case len(cert.IPAddresses) > 0:
		return fmt.Sprintf("%q", cert.IPAddresses[0])
	}
	return fmt.Sprintf("%q (serial %x)", cert.Subject.String(), cert.SerialNumber)
}
