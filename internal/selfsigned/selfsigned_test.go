package selfsigned

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"
)

func TestGenerate(t *testing.T) {
	f := func(kt KeyType, algorithm x509.PublicKeyAlgorithm, names ...string) {
		t.Helper()
		certPEM, keyPEM, err := Generate(names, time.Hour, kt)
		if err != nil {
			t.Errorf("Generate(%q): %s", names, err)
			return
		}
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Errorf("load what was generated for %q: %s", names, err)
			return
		}
		if got := pair.Leaf.PublicKeyAlgorithm; got != algorithm {
			t.Errorf("key is %s, want %s", got, algorithm)
		}
		roots := x509.NewCertPool()
		roots.AddCert(pair.Leaf)
		for _, name := range names {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
				t.Errorf("verify for %q: %s", name, err)
			}
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "other.example", Roots: roots}); err == nil {
			t.Errorf("a certificate for %q is good for other.example", names)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{CurrentTime: time.Now().Add(2 * time.Hour), Roots: roots}); err == nil {
			t.Error("valid after its time")
		}
	}
	f(ECDSA, x509.ECDSA, "localhost", "127.0.0.1", "::1")
	f(RSA, x509.RSA, "example.com")
	f(Ed25519, x509.Ed25519, "www.example.com", "192.0.2.1")
}

func TestGenerateFails(t *testing.T) {
	if _, _, err := Generate(nil, time.Hour, ECDSA); !errors.Is(err, ErrNoNames) {
		t.Errorf("no names: %v, want %v", err, ErrNoNames)
	}
	if _, _, err := Generate([]string{"localhost"}, time.Hour, 99); err == nil {
		t.Error("unknown key type: no error")
	}
}
