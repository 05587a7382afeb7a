package testcert

import (
	"crypto"
	"crypto/x509"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
)

// Node is one certificate of a hierarchy of any shape, with its key: for chains that are as no authority makes them.
type Node struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Root makes a root with an ECDSA key, valid for ten years on either side of now.
func Root(tb testing.TB, name string) *Node {
	tb.Helper()
	return (*Node)(nil).Authority(tb, name, nil)
}

// Authority makes one below n, a root if that is nil, valid as long as a root. change, if it is not nil, may do anything to the template.
func (n *Node) Authority(tb testing.TB, name string, change func(*x509.Certificate)) *Node {
	tb.Helper()
	key, tmpl := authority(tb, name)
	return n.Sign(tb, tmpl, key, change)
}

// Leaf makes a certificate for a name below n, self-signed if that is nil, valid from an hour ago for 90 days.
func (n *Node) Leaf(tb testing.TB, name string, change func(*x509.Certificate)) *Node {
	tb.Helper()
	now := time.Now()
	tmpl, err := selfsigned.Template([]string{name}, now.Add(-time.Hour), now.AddDate(0, 0, 90))
	if err != nil {
		tb.Fatalf("make template: %s", err)
	}
	return n.Sign(tb, tmpl, newKey(tb, selfsigned.ECDSA), change)
}

// Sign makes a certificate of a template for a key, signed by n, or by itself if that is nil.
func (n *Node) Sign(tb testing.TB, tmpl *x509.Certificate, key crypto.Signer, change func(*x509.Certificate)) *Node {
	tb.Helper()
	if change != nil {
		change(tmpl)
	}
	parent, parentKey := tmpl, key
	if n != nil {
		parent, parentKey = n.Cert, n.Key
	}
	return &Node{Cert: parse(tb, sign(tb, tmpl, parent, key, parentKey)), Key: key}
}

// PEM is the certificate in PEM form.
func (n *Node) PEM() []byte { return selfsigned.EncodeCert(n.Cert.Raw) }

// KeyPEM is the private key in PEM form.
func (n *Node) KeyPEM(tb testing.TB) []byte {
	tb.Helper()
	keyPEM, err := selfsigned.EncodeKey(n.Key)
	if err != nil {
		tb.Fatalf("encode key: %s", err)
	}
	return keyPEM
}
