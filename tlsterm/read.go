package tlsterm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

// maxPEM bounds a file of certificates or a key, as a name may lead to a device.
const maxPEM = 4 << 20

// loadedCert is one certificate as its files and options give it. It is not changed
// once it is loaded: the stores of successive snapshots share it.
type loadedCert struct {
	cert  *tls.Certificate
	names []string // lower case, sorted, without repeats
	info  CertInfo
	// issuer has signed the leaf; nil if it is not known. A root is known, but not sent.
	issuer *x509.Certificate

	from Certificate       // the options
	sum  [sha256.Size]byte // of what was in the files
}

// Examine reads and judges the certificates of a listener as Load does, without loading them into anything. A chain is the leaf and, where it is known,
// its issuer; it is empty where the certificate cannot be used. Options without a file name, and names that are none, are not commented on: who has decoded the
// options has said so.
func Examine(o *Options, now time.Time) (chains [][]*x509.Certificate, findings []*Finding) {
	certs, findings := readCerts(o, nil, now)
	for _, lc := range certs {
		var chain []*x509.Certificate
		if lc != nil {
			chain = append(chain, lc.cert.Leaf)
		}
		if lc != nil && lc.issuer != nil {
			chain = append(chain, lc.issuer)
		}
		chains = append(chains, chain)
	}
	return chains, findings
}

// ExamineClient judges the certificate that the gateway shows to a server. The chain is not completed, and may end below an issuer that only
// the server knows.
func ExamineClient(certFile, keyFile string, now time.Time) []*Finding {
	r := &reader{usage: x509.ExtKeyUsageClientAuth, now: now, known: newIssuers()}
	m := r.files(0, &Certificate{CertFile: certFile, KeyFile: keyFile})
	if m.whole() {
		r.load(m, nil)
	}
	return slices.DeleteFunc(r.findings, func(f *Finding) bool { return f.Problem == CertIssuerMissing })
}

// fatal joins the findings that keep a certificate from being used.
func fatal(findings []*Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Problem.Fatal() {
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

// readCerts reads the certificates of a listener, in the order of the options. One that cannot be used is nil, and there is a
// fatal finding about it. What gives the same as one of prev is that one.
func readCerts(o *Options, prev []*loadedCert, now time.Time) ([]*loadedCert, []*Finding) {
	r := &reader{usage: x509.ExtKeyUsageServerAuth, now: now, known: newIssuers()}
	all := make([]*material, len(o.Certificates))
	for i := range o.Certificates {
		all[i] = r.files(i, &o.Certificates[i])
		r.known.add(o.Certificates[i].CertFile, all[i].certs)
	}
	r.intermediates(o.IntermediatesFile)
	loaded := make([]*loadedCert, len(all))
	for i, m := range all {
		if m.whole() {
			loaded[i] = r.load(m, prev)
		}
	}
	for i, lc := range loaded {
		r.reachable(i, lc, loaded[0])
	}
	slices.SortStableFunc(r.findings, func(a, b *Finding) int { return a.Index - b.Index })
	return loaded, r.findings
}

// reader reads certificates and notes what it finds.
type reader struct {
	// Static.
	usage x509.ExtKeyUsage
	now   time.Time

	known    *issuers
	findings []*Finding
}

// material is what the files of one certificate hold.
type material struct {
	index int
	from  *Certificate
	names []string
	certs []*x509.Certificate
	key   *pem.Block
	sum   [sha256.Size]byte
}

// whole reports whether nothing is missing.
func (m *material) whole() bool { return len(m.certs) > 0 && m.key != nil }

func (r *reader) note(index int, p CertProblem, key, file, text string, cause error) {
	r.findings = append(r.findings, &Finding{Problem: p, Index: index, Key: key, File: file, Text: text, cause: cause})
}

// files reads what the options of one certificate name.
func (r *reader) files(index int, c *Certificate) *material {
	m := &material{index: index, from: c, names: normalize(c.Names)}
	for _, name := range m.names {
		if !ValidName(name) {
			r.note(index, CertBadName, namesKey, "", fmt.Sprintf("certificate %q: names: not a server name: %q (want a DNS name or *.suffix)", c.CertFile, name), nil)
		}
	}
	certPEM, certs := r.blocks(index, certFileKey, c.CertFile)
	keyPEM, keys := r.blocks(index, keyFileKey, c.KeyFile)
	m.certs = r.parse(index, certFileKey, c.CertFile, certs)
	if len(keys) > 0 {
		m.key = keys[0] // as crypto/tls and OpenSSL do
	}
	// Both sums are summed, so that no byte can move from one file to the other unnoticed.
	a, b := sha256.Sum256(certPEM), sha256.Sum256(keyPEM)
	m.sum = sha256.Sum256(append(a[:], b[:]...))
	return m
}

// intermediates notes the authorities of a file that is only for completing chains.
func (r *reader) intermediates(file string) {
	if file == "" {
		return
	}
	_, blocks := r.blocks(-1, intermediatesKey, file)
	r.known.add(file, r.parse(-1, intermediatesKey, file, blocks))
}

// blocks reads a PEM file that must hold certificates or, for keyFileKey, a private key; crypto/tls would name neither the file
// nor the most common mistakes.
func (r *reader) blocks(index int, key, file string) (data []byte, blocks []*pem.Block) {
	if file == "" {
		return nil, nil
	}
	what, want := "certificate", isCert
	if key == keyFileKey {
		what, want = "private key", isKey
	}
	data, err := readFile(file)
	if err != nil {
		r.note(index, CertUnreadable, key, file, fmt.Sprintf("cannot read the %s: %s", what, plain(err)), err)
		return nil, nil
	}
	var seen []string
	for rest := data; len(blocks) <= maxBlocks; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if want(block.Type) {
			blocks = append(blocks, block)
		} else {
			seen = append(seen, block.Type)
		}
	}
	switch {
	case len(blocks) > maxBlocks:
		r.note(index, CertMalformed, key, file, fmt.Sprintf("holds more than %d certificates", maxBlocks), nil)
	case len(blocks) == 0 && len(seen) == 0:
		r.note(index, CertNotFound, key, file, "no "+what+" in it: no PEM block at all", nil)
	case len(blocks) == 0:
		r.note(index, CertNotFound, key, file, fmt.Sprintf("no %s in it, only %s (are cert_file and key_file swapped?)", what, list(quoted(seen))), nil)
	case key == keyFileKey && (blocks[0].Type == "ENCRYPTED PRIVATE KEY" || blocks[0].Headers["Proc-Type"] == "4,ENCRYPTED"):
		r.note(index, CertEncrypted, key, file, "the private key is encrypted (want it without a passphrase)", nil)
	default:
		return data, blocks
	}
	return nil, nil
}

func isCert(blockType string) bool { return blockType == "CERTIFICATE" }
func isKey(blockType string) bool {
	return blockType == "PRIVATE KEY" || strings.HasSuffix(blockType, " PRIVATE KEY")
}

func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%q", w)
	}
	return out
}

// parse returns the certificates of a file, or none if any cannot be parsed.
func (r *reader) parse(index int, key, file string, blocks []*pem.Block) []*x509.Certificate {
	certs := make([]*x509.Certificate, 0, len(blocks))
	for i, block := range blocks {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			r.note(index, CertMalformed, key, file, fmt.Sprintf("certificate %d of the file: %s", i+1, strings.TrimPrefix(err.Error(), "x509: ")), err)
			return nil
		}
		certs = append(certs, cert)
	}
	return certs
}

// load makes a certificate of what its files hold, or returns the one of prev that is the same. It returns nil after a fatal finding.
func (r *reader) load(m *material, prev []*loadedCert) *loadedCert {
	old, key := r.sameFiles(m, prev), crypto.Signer(nil)
	public := crypto.PublicKey(nil)
	if old != nil {
		public = old.cert.Leaf.PublicKey // which spares the work of parsing the key
	} else {
		var err error
		if key, err = parseKey(m.key.Bytes); err != nil {
			r.note(m.index, CertMalformed, keyFileKey, m.from.KeyFile, "private key: "+err.Error(), err)
			return nil
		}
		public = key.Public()
	}
	ch := buildChain(m.from.CertFile, m.from.KeyFile, m.certs, public, r.known)
	if len(ch.certs) > 0 {
		ch.judge(m.from.CertFile, r.usage)
		ch.findings = append(ch.findings, ch.validity(m.from.CertFile, r.now)...)
	}
	for _, f := range ch.findings {
		f.Index = m.index
	}
	r.findings = append(r.findings, ch.findings...)
	if len(ch.certs) == 0 {
		return nil
	}
	issuer := r.issuer(m, ch)
	switch {
	case old == nil:
		return r.make(m, key, ch, issuer)
	case old.sends(ch) && (old.issuer == nil) == (issuer == nil):
		return old
	}
	return r.make(m, old.cert.PrivateKey, ch, issuer)
}

// sends reports whether the certificate is sent with this chain.
func (lc *loadedCert) sends(ch *chain) bool {
	return slices.EqualFunc(lc.cert.Certificate, ch.certs, func(der []byte, cert *x509.Certificate) bool { return bytes.Equal(der, cert.Raw) })
}

// sameFiles finds what was loaded from the same options and the same content.
func (r *reader) sameFiles(m *material, prev []*loadedCert) *loadedCert {
	same := func(lc *loadedCert) bool { return lc.sum == m.sum && reflect.DeepEqual(lc.from, *m.from) }
	if m.index < len(prev) && same(prev[m.index]) {
		return prev[m.index] // the common case, which need not look through thousands
	}
	if i := slices.IndexFunc(prev, same); i >= 0 {
		return prev[i]
	}
	return nil
}

// issuer returns who has signed the leaf, nil if that is not known.
func (r *reader) issuer(m *material, ch *chain) *x509.Certificate {
	leaf := ch.certs[0]
	if c := issuerOf(leaf, slices.Concat(ch.certs[1:], m.certs)); c != nil {
		return c
	}
	up, _ := r.known.above(leaf)
	return up.cert
}

func (r *reader) make(m *material, key crypto.PrivateKey, ch *chain, issuer *x509.Certificate) *loadedCert {
	cert := &tls.Certificate{PrivateKey: key, Leaf: ch.certs[0]}
	for _, c := range ch.certs {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	names := m.names
	if len(names) == 0 {
		names = normalize(cert.Leaf.DNSNames)
	}
	from := *m.from
	from.Names = slices.Clone(from.Names)
	return &loadedCert{
		cert: cert, names: names, info: describe(m.from.CertFile, names, ch), from: from, sum: m.sum,
		issuer: issuer,
	}
}

// reachable notes a certificate without a name. Clients get it only if it is the default, or its twin of another key type.
func (r *reader) reachable(index int, lc, first *loadedCert) {
	if lc == nil || len(lc.names) > 0 {
		return
	}
	if index > 0 && first != nil && len(first.names) > 0 {
		r.note(index, CertUnreachable, certFileKey, lc.info.CertFile, "holds no DNS name and has no names configured, so no client could ever get it", nil)
		return
	}
	if len(lc.cert.Leaf.IPAddresses) == 0 {
		r.note(index, CertNoNames, certFileKey, lc.info.CertFile, "the certificate holds no names, so clients will not accept it", nil)
	}
}

// readFile is os.ReadFile with a bound.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("larger than %d bytes", maxPEM)
	}
	return data, err
}

// plain returns a file error without the operation and the names, which the finding gives.
func plain(err error) string {
	var pe *os.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err.Error()
	case errors.As(err, &le):
		return le.Err.Error()
	}
	return err.Error()
}

var errKeyForm = errors.New("it is not in PKCS#8, PKCS#1 or SEC 1 form, or of a kind other than RSA, ECDSA and Ed25519")

// parseKey reads a private key in any form that OpenSSL writes.
func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeyForm, err)
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, errKeyForm
}
