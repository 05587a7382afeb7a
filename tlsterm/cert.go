package tlsterm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// CertInfo describes one loaded certificate for the admin API, `check` and the
// expiry metric.
type CertInfo struct {
	// CertFile is where it was read from.
	CertFile string `json:"cert_file"`
	// Names are the server names that it answers to, in lower case: those of the options, or else those in it.
	Names []string `json:"names"`
	// Default marks certificates that answer to no name or an unknown one.
	Default bool `json:"default"`
	// Subject and Issuer are in the form of RFC 2253.
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
	// NotBefore and NotAfter bound its validity.
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// KeyType is such as "ECDSA P-256", "RSA 2048" or "Ed25519".
	KeyType string `json:"key_type"`
	// Serial is the serial number in lower-case hexadecimal.
	Serial string `json:"serial"`
	// Fingerprint is the SHA-256 of the DER certificate in lower-case hexadecimal.
	Fingerprint string `json:"fingerprint_sha256"`
	// ChainLength counts the certificates sent, the leaf included.
	ChainLength int `json:"chain_length"`
	// ChainNotAfter is when the first of those expires: clients accept none of it any more.
	ChainNotAfter time.Time `json:"chain_not_after"`
}

// normalize returns names in lower case, sorted and without repeats or final dots.
func normalize(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.ToLower(strings.TrimSuffix(name, "."))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ValidName reports whether name, in lower case, is a server name as certificates and clients have them: a DNS name, or one
// with a star for its first label.
func ValidName(name string) bool {
	name = strings.TrimPrefix(name, "*.")
	if name == "" || len(name) > maxServerName {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false // a client sends no address as server name (RFC 6066 section 3)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	return true
}

// notInLabel allows the underscore, which is common in names that clients do send.
func notInLabel(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

func describe(file string, names []string, c *chain) CertInfo {
	leaf := c.certs[0]
	sum := sha256.Sum256(leaf.Raw)
	return CertInfo{
		CertFile:    file,
		Names:       names,
		Subject:     leaf.Subject.String(),
		Issuer:      leaf.Issuer.String(),
		NotBefore:   leaf.NotBefore,
		NotAfter:    leaf.NotAfter,
		KeyType:     keyType(leaf),
		Serial:      leaf.SerialNumber.Text(16),
		Fingerprint: hex.EncodeToString(sum[:]),
		ChainLength: len(c.certs),

		ChainNotAfter: c.ends(),
	}
}

func keyType(leaf *x509.Certificate) string {
	if text := keyText(leaf.PublicKey); text != "" {
		return text
	}
	return leaf.PublicKeyAlgorithm.String()
}

// keyText names a public key, "" if it is of no kind that a server can have.
func keyText(key crypto.PublicKey) string {
	switch pub := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + pub.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", pub.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return ""
}

// keyRanks is how many there are of keyRank.
const keyRanks = 3

// keyRank orders certificates of one name: an ECDSA signature costs a server about a
// tenth of an RSA one, and Ed25519 is understood by too few to go first.
func keyRank(cert *tls.Certificate) int {
	switch cert.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return 0
	case ed25519.PublicKey:
		return 1
	}
	return 2
}
