package tlsterm

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"strings"
)

// Facts are what comes to light in a handshake and crypto/tls does not keep. They belong to the goroutine of the handshake.
type Facts struct {
	// KeyType is that of the certificate that was sent: "ecdsa", "ed25519" or "rsa"; "" if none was, as in a resumed session.
	KeyType string
	// ServerName is what the client asked for, as it wrote it, clipped to the length of the longest DNS name; "" before its ClientHello was read.
	ServerName string
	// Leaf is the certificate that was sent, or that would have been in place of a resumed session. Without URIs in it, it may be nil.
	Leaf *x509.Certificate
}

type factsKey struct{}

// Context is for tls.Conn.HandshakeContext, which has f filled in then.
func (f *Facts) Context() context.Context {
	return context.WithValue(context.Background(), factsKey{}, f)
}

// factsOf returns the Facts of the handshake, nil if nobody wants them.
func factsOf(hello *tls.ClientHelloInfo) *Facts {
	ctx := hello.Context()
	if ctx == nil {
		return nil // of a test
	}
	f, _ := ctx.Value(factsKey{}).(*Facts)
	return f
}

// noteName tells what the client asks for; f may be nil.
func (f *Facts) noteName(serverName string) {
	if f == nil {
		return
	}
	if len(serverName) > maxServerName {
		serverName = strings.Clone(serverName[:maxServerName]) // a ClientHello has room for 64 KiB
	}
	f.ServerName = serverName
}

// noteCertificate tells what is sent; f may be nil.
func (f *Facts) noteCertificate(cert *tls.Certificate) {
	if f == nil || cert.Leaf == nil {
		return
	}
	f.Leaf = cert.Leaf
	switch cert.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		f.KeyType = "ecdsa"
	case *rsa.PublicKey:
		f.KeyType = "rsa"
	case ed25519.PublicKey:
		f.KeyType = "ed25519"
	}
}
