package tlsterm

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
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
}

// loadedCert is one certificate as its files and options give it. It is not changed
// once it is loaded: the stores of successive snapshots share it.
type loadedCert struct {
	cert  *tls.Certificate
	names []string // lower case, sorted, without repeats
	info  CertInfo

	from Certificate       // the options
	sum  [sha256.Size]byte // of what was in the files
}

// loadCert reads one certificate and its key. If that gives what one of prev was loaded
// from, it returns that one.
func loadCert(c *Certificate, prev []*loadedCert) (*loadedCert, error) {
	certPEM, errCert := readPEM(c.CertFile, "certificate", isCert)
	keyPEM, errKey := readPEM(c.KeyFile, "private key", isKey)
	names, errNames := cleanNames(c)
	if err := errors.Join(errCert, errKey, errNames); err != nil {
		return nil, err
	}
	sum := contentSum(certPEM, keyPEM)
	for _, lc := range prev {
		if lc.sum == sum && reflect.DeepEqual(lc.from, *c) {
			return lc, nil
		}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load certificate %q with key %q: %w", c.CertFile, c.KeyFile, err)
	}
	if err := parseChain(c.CertFile, &cert); err != nil {
		return nil, err
	}
	if len(c.Names) == 0 {
		names = normalize(cert.Leaf.DNSNames)
	}
	from := *c
	from.Names = slices.Clone(c.Names)
	return &loadedCert{cert: &cert, names: names, info: describe(c.CertFile, names, &cert), from: from, sum: sum}, nil
}

// contentSum tells contents apart without keeping them. The sums of both files are summed, so
// that no byte can move from one to the other unnoticed.
func contentSum(certPEM, keyPEM []byte) [sha256.Size]byte {
	a, b := sha256.Sum256(certPEM), sha256.Sum256(keyPEM)
	return sha256.Sum256(append(a[:], b[:]...))
}

// unreachable finds a certificate without a name that is neither the default nor its
// twin of another key type. Either may be nil, if it could not be loaded.
func unreachable(lc, first *loadedCert) error {
	if lc == nil || first == nil || len(lc.names) > 0 || len(first.names) == 0 {
		return nil
	}
	return fmt.Errorf("certificate %q holds no DNS name and has no names configured, so no client could ever get it", lc.info.CertFile)
}

func isCert(blockType string) bool { return blockType == "CERTIFICATE" }
func isKey(blockType string) bool {
	return blockType == "PRIVATE KEY" || strings.HasSuffix(blockType, " PRIVATE KEY")
}

// readPEM reads a file that must hold a block of the wanted kind; crypto/tls would
// name neither the file nor the most common mistakes.
func readPEM(file, what string, want func(blockType string) bool) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err) // a PathError names the file
	}
	var seen []string
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if !want(block.Type) {
			seen = append(seen, block.Type)
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["Proc-Type"] == "4,ENCRYPTED" {
			return nil, fmt.Errorf("read %s %q: it is encrypted (want it without a passphrase)", what, file)
		}
		return data, nil
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("read %s %q: no PEM block in it", what, file)
	}
	return nil, fmt.Errorf("read %s %q: no %s in it, only %q (are cert_file and key_file swapped?)", what, file, what, seen)
}

// parseChain makes sure that what is sent after the leaf are certificates, too.
func parseChain(file string, cert *tls.Certificate) error {
	for i, der := range cert.Certificate[1:] {
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("load certificate %q: block %d of its chain: %w", file, i+2, err)
		}
	}
	return nil
}

func cleanNames(c *Certificate) ([]string, error) {
	names := normalize(c.Names)
	var errs []error
	for _, name := range names {
		if !validName(name) {
			errs = append(errs, fmt.Errorf("certificate %q: names: not a server name: %q (want a DNS name or *.suffix)", c.CertFile, name))
		}
	}
	return names, errors.Join(errs...)
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

func validName(name string) bool {
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

func describe(file string, names []string, cert *tls.Certificate) CertInfo {
	leaf := cert.Leaf
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
		ChainLength: len(cert.Certificate),
	}
}

func keyType(leaf *x509.Certificate) string {
	switch pub := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + pub.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", pub.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return leaf.PublicKeyAlgorithm.String()
}

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
