// Package selfsigned makes certificates in memory that sign themselves, for the
// demonstration, for first starts and for tests. Nothing verifies them unless it
// is given the certificate itself to trust.
package selfsigned

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// KeyType is the kind of a generated private key.
type KeyType uint8

const (
	// ECDSA is a key on the curve P-256, understood by every client of TLS 1.2 and 1.3.
	ECDSA KeyType = iota
	// RSA is a key of 2048 bits. Making one takes a noticeable part of a second.
	RSA
	// Ed25519 is understood by few browsers.
	Ed25519
)

// ErrNoNames is returned when a certificate is asked for without a name.
var ErrNoNames = errors.New("selfsigned: at least one name is needed")

// clockSkew is how far back a certificate begins to be valid, so that a client
// whose clock is a little slow accepts it at once.
const clockSkew = time.Hour

// Generate makes a private key and a certificate for names, which are DNS names
// (also "*.example.com") and IP addresses, valid from an hour ago until validFor
// from now. Both are returned as PEM, the key as PKCS#8.
func Generate(names []string, validFor time.Duration, kt KeyType) (certPEM, keyPEM []byte, err error) {
	now := time.Now()
	tmpl, err := Template(names, now.Add(-clockSkew), now.Add(validFor))
	if err != nil {
		return nil, nil, err
	}
	key, err := NewKey(kt)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate for %q: %w", names[0], err)
	}
	keyPEM, err = EncodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return EncodeCert(der), keyPEM, nil
}

// Template returns an unsigned server and client certificate for names with a
// random serial number of 128 bits. The first name is also the common name.
func Template(names []string, notBefore, notAfter time.Time) (*x509.Certificate, error) {
	if len(names) == 0 {
		return nil, ErrNoNames
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: names[0], Organization: []string{"tickgate"}},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			continue
		}
		tmpl.DNSNames = append(tmpl.DNSNames, name)
	}
	return tmpl, nil
}

// NewKey makes a private key.
func NewKey(kt KeyType) (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch kt {
	case ECDSA:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("selfsigned: unknown key type %d", kt)
	}
	if err != nil {
		return nil, fmt.Errorf("make private key: %w", err)
	}
	return key, nil
}

// EncodeCert wraps a DER certificate as PEM.
func EncodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// EncodeKey returns the PKCS#8 form of key as PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
