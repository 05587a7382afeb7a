// Package testcert makes certificates for tests: self-signed ones, and small
// authorities that issue leaves with an intermediate, of any key type and validity.
package testcert

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
)

// Pair is a certificate chain with its private key, both as PEM.
type Pair struct {
	CertPEM, KeyPEM []byte
	// root is what a client has to trust to accept the chain.
	root *x509.Certificate
}

// New returns a self-signed ECDSA certificate for names, valid for a day. Without
// names it is for localhost, 127.0.0.1 and ::1.
func New(tb testing.TB, names ...string) *Pair {
	tb.Helper()
	return SelfSigned(tb, selfsigned.ECDSA, names...)
}

// SelfSigned is New with a choice of key.
func SelfSigned(tb testing.TB, kt selfsigned.KeyType, names ...string) *Pair {
	tb.Helper()
	if len(names) == 0 {
		names = []string{"localhost", "127.0.0.1", "::1"}
	}
	certPEM, keyPEM, err := selfsigned.Generate(names, 24*time.Hour, kt)
	if err != nil {
		tb.Fatalf("generate certificate: %s", err)
	}
	p := &Pair{CertPEM: certPEM, KeyPEM: keyPEM}
	p.root = p.Leaf(tb)
	return p
}

// TLS returns the pair as crypto/tls wants it.
func (p *Pair) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	cert, err := tls.X509KeyPair(p.CertPEM, p.KeyPEM)
	if err != nil {
		tb.Fatalf("load generated pair: %s", err)
	}
	return cert
}

// Leaf returns the first certificate of the chain.
func (p *Pair) Leaf(tb testing.TB) *x509.Certificate {
	tb.Helper()
	return p.TLS(tb).Leaf
}

// Pool returns the roots with which a client accepts the pair.
func (p *Pair) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.root)
	return pool
}

// ClientTLS returns a client's configuration that trusts the pair and nothing
// else, and asks for serverName.
func (p *Pair) ClientTLS(serverName string) *tls.Config {
	return &tls.Config{RootCAs: p.Pool(), ServerName: serverName}
}

// ServerTLS returns a server's configuration with the pair as its only certificate.
func (p *Pair) ServerTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	return &tls.Config{Certificates: []tls.Certificate{p.TLS(tb)}}
}

// Files writes the pair to files in a directory that goes away with the test, and
// returns their paths.
func (p *Pair) Files(tb testing.TB) (certFile, keyFile string) {
	tb.Helper()
	dir := tb.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	p.Write(tb, certFile, keyFile)
	return certFile, keyFile
}

// Write writes the pair to two given files, as a renewal would.
func (p *Pair) Write(tb testing.TB, certFile, keyFile string) {
	tb.Helper()
	if err := os.WriteFile(certFile, p.CertPEM, 0o600); err != nil {
		tb.Fatalf("write certificate: %s", err)
	}
	if err := os.WriteFile(keyFile, p.KeyPEM, 0o600); err != nil {
		tb.Fatalf("write key: %s", err)
	}
}

// CA is a root with one intermediate that issues leaves.
type CA struct {
	// RootPEM is what clients put into their ca_file.
	RootPEM []byte
	// InterPEM is the intermediate that issues the leaves.
	InterPEM []byte

	root, inter       *x509.Certificate
	rootKey, interKey crypto.Signer
}

// Request says which leaf is wanted. The zero value is an ECDSA leaf for
// localhost, valid from an hour ago for a day.
type Request struct {
	Names               []string
	KeyType             selfsigned.KeyType
	NotBefore, NotAfter time.Time
	// Alter, if it is set, changes the certificate before it is signed.
	Alter func(tmpl *x509.Certificate)
}

// NewCA makes a root and an intermediate.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	rootKey, rootTmpl := authority(tb, "tickgate test root")
	rootDER := sign(tb, rootTmpl, rootTmpl, rootKey, rootKey)
	root := parse(tb, rootDER)
	interKey, interTmpl := authority(tb, "tickgate test intermediate")
	inter := parse(tb, sign(tb, interTmpl, root, interKey, rootKey))
	return &CA{
		RootPEM: selfsigned.EncodeCert(rootDER), InterPEM: selfsigned.EncodeCert(inter.Raw),
		root: root, inter: inter, rootKey: rootKey, interKey: interKey,
	}
}

// Issue makes a leaf; its chain holds the intermediate.
func (ca *CA) Issue(tb testing.TB, r Request) *Pair {
	tb.Helper()
	if len(r.Names) == 0 {
		r.Names = []string{"localhost", "127.0.0.1", "::1"}
	}
	if r.NotBefore.IsZero() {
		r.NotBefore = time.Now().Add(-time.Hour)
	}
	if r.NotAfter.IsZero() {
		r.NotAfter = r.NotBefore.Add(24 * time.Hour)
	}
	tmpl, err := selfsigned.Template(r.Names, r.NotBefore, r.NotAfter)
	if err != nil {
		tb.Fatalf("make template: %s", err)
	}
	if r.Alter != nil {
		r.Alter(tmpl)
	}
	key := newKey(tb, r.KeyType)
	chain := selfsigned.EncodeCert(sign(tb, tmpl, ca.inter, key, ca.interKey))
	keyPEM, err := selfsigned.EncodeKey(key)
	if err != nil {
		tb.Fatalf("encode key: %s", err)
	}
	chain = append(chain, selfsigned.EncodeCert(ca.inter.Raw)...)
	return &Pair{CertPEM: chain, KeyPEM: keyPEM, root: ca.root}
}

// RevocationList makes a list of the intermediate as PEM, valid from an hour ago for a day unless edit says otherwise.
func (ca *CA) RevocationList(tb testing.TB, edit func(*x509.RevocationList), revoked ...*Pair) []byte {
	tb.Helper()
	return revocationList(tb, ca.inter, ca.interKey, edit, leaves(tb, revoked))
}

// RootRevocationList is one of the root. With inter, it revokes the intermediate.
func (ca *CA) RootRevocationList(tb testing.TB, inter bool) []byte {
	tb.Helper()
	var revoked []*x509.Certificate
	if inter {
		revoked = append(revoked, ca.inter)
	}
	return revocationList(tb, ca.root, ca.rootKey, nil, revoked)
}

func leaves(tb testing.TB, pairs []*Pair) []*x509.Certificate {
	tb.Helper()
	var list []*x509.Certificate
	for _, p := range pairs {
		list = append(list, p.Leaf(tb))
	}
	return list
}

func revocationList(tb testing.TB, issuer *x509.Certificate, key crypto.Signer, edit func(*x509.RevocationList), revoked []*x509.Certificate) []byte {
	tb.Helper()
	now := time.Now()
	tmpl := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(23 * time.Hour)}
	for _, c := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now.Add(-time.Hour)})
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, issuer, key)
	if err != nil {
		tb.Fatalf("sign revocation list: %s", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// Issuer returns the certificate that leaves are issued with, and its key, for lists and answers on their revocation.
func (ca *CA) Issuer() (*x509.Certificate, crypto.Signer) { return ca.inter, ca.interKey }

// Pool returns the roots with which a client accepts what the CA issued.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// RootFile writes the root to a file that goes away with the test.
func (ca *CA) RootFile(tb testing.TB) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.RootPEM, 0o600); err != nil {
		tb.Fatalf("write root: %s", err)
	}
	return file
}

func authority(tb testing.TB, name string) (crypto.Signer, *x509.Certificate) {
	tb.Helper()
	now := time.Now()
	// An authority is valid for long, so that leaves of any age chain to it.
	tmpl, err := selfsigned.Template([]string{name}, now.AddDate(-10, 0, 0), now.AddDate(10, 0, 0))
	if err != nil {
		tb.Fatalf("make template: %s", err)
	}
	tmpl.DNSNames, tmpl.ExtKeyUsage = nil, nil
	tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return newKey(tb, selfsigned.ECDSA), tmpl
}

func newKey(tb testing.TB, kt selfsigned.KeyType) crypto.Signer {
	tb.Helper()
	key, err := selfsigned.NewKey(kt)
	if err != nil {
		tb.Fatalf("make key: %s", err)
	}
	return key
}

func sign(tb testing.TB, tmpl, parent *x509.Certificate, key, parentKey crypto.Signer) []byte {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
	if err != nil {
		tb.Fatalf("sign %q: %s", tmpl.Subject.CommonName, err)
	}
	return der
}

func parse(tb testing.TB, der []byte) *x509.Certificate {
	tb.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parse certificate: %s", err)
	}
	return cert
}
