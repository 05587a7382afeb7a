package tlsterm

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unique"
)

// Identity is who a client proved to be: what its verified certificate says of it. It is made
// once for a connection and not changed.
//
// All text in it is printable ASCII, whatever is in the certificate, so that it may stand in header
// fields and log lines: other bytes are written as a backslash and two hexadecimal digits (RFC 4514
// section 2.4).
type Identity struct {
	// Subject and Issuer are names in the form of RFC 2253 and its successor RFC 4514, the last part of the certificate's name
	// first: "CN=feed,OU=Trading,O=Acme". Either is "" where the certificate has none.
	Subject, Issuer string
	// SAN is all alternative names in one text: "DNS:a.example,URI:spiffe://example/a,IP:192.0.2.1,email:a@example".
	// A comma within a name is written \2C, so that no name can pose as two.
	SAN string
	// DNS, URI and Email are the alternative names by kind, DNS in lower case.
	DNS, URI, Email []string
	IP              []netip.Addr
	// SPIFFE is the SPIFFE ID if the certificate is an X.509-SVID of one, "" otherwise.
	SPIFFE string
	// Fingerprint is the SHA-256 of the DER certificate in lower-case hexadecimal.
	Fingerprint string
	// Serial is the serial number in lower-case hexadecimal.
	Serial   string
	NotAfter time.Time
	// DER is the certificate itself. It must not be changed.
	DER []byte
	// Chain are the certificates between it and the authority that vouches for it, in DER, who signed it first. All clients
	// of one issuer share them in memory.
	Chain []unique.Handle[string]
	// Hash tells identities apart as limits count them: by SPIFFE ID where there is one, which outlives the certificate, else by
	// issuer and subject, else by fingerprint.
	Hash uint64

	chains []provenChain // that were verified
	judged atomic.Uint64 // clientAuth.epoch of the last look at them
}

// IdentityOf returns who the client of a finished handshake is, or nil if it showed no
// certificate or none was asked for. It keeps nothing of st in memory (see TrimClient).
func IdentityOf(st *tls.ConnectionState) *Identity {
	if len(st.VerifiedChains) == 0 || len(st.PeerCertificates) == 0 {
		return nil
	}
	id := newIdentity(st.PeerCertificates[0])
	if first := st.VerifiedChains[0]; len(first) > 2 {
		for _, c := range first[1 : len(first)-1] {
			id.Chain = append(id.Chain, unique.Make(string(c.Raw)))
		}
	}
	id.chains = make([]provenChain, len(st.VerifiedChains))
	for i, chain := range st.VerifiedChains {
		id.chains[i] = prove(chain)
	}
	return id
}

func newIdentity(leaf *x509.Certificate) *Identity {
	sum := sha256.Sum256(leaf.Raw)
	id := &Identity{
		Subject: distinguishedName(leaf.RawSubject), Issuer: distinguishedName(leaf.RawIssuer),
		SPIFFE: spiffeID(leaf), Fingerprint: hex.EncodeToString(sum[:]), Serial: leaf.SerialNumber.Text(16),
		NotAfter: leaf.NotAfter,
		DER:      bytes.Clone(leaf.Raw), // which is a part of the whole message, or of the ticket, with all certificates in it
	}
	var san []byte
	note := func(kind, name string) string {
		if len(san) > 0 {
			san = append(san, ',')
		}
		name = printable(name)
		san = append(append(san, kind...), name...)
		return name
	}
	for _, name := range leaf.DNSNames {
		id.DNS = append(id.DNS, note("DNS:", strings.ToLower(name)))
	}
	for _, u := range rawURIs(leaf) {
		id.URI = append(id.URI, note("URI:", u))
	}
	for _, ip := range leaf.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			id.IP = append(id.IP, a.Unmap())
			note("IP:", a.Unmap().String())
		}
	}
	for _, mail := range leaf.EmailAddresses {
		id.Email = append(id.Email, note("email:", mail))
	}
	id.SAN = string(san)
	id.Hash = id.hash()
	return id
}

// hash is of 64 bits, of a cryptographic sum: nobody can look for a certificate that counts as another's.
func (id *Identity) hash() uint64 {
	var text string
	switch {
	case id.SPIFFE != "":
		text = "spiffe\x00" + id.SPIFFE
	case id.Subject != "":
		text = "subject\x00" + id.Issuer + "\x00" + id.Subject
	default:
		text = "fingerprint\x00" + id.Fingerprint
	}
	sum := sha256.Sum256([]byte(text))
	var h uint64
	for _, b := range sum[:8] {
		h = h<<8 | uint64(b)
	}
	return h
}

// Name is the shortest text that names the client: its SPIFFE ID, else its subject, else its fingerprint.
func (id *Identity) Name() string {
	switch {
	case id.SPIFFE != "":
		return id.SPIFFE
	case id.Subject != "":
		return id.Subject
	}
	return id.Fingerprint
}

// printable returns an alternative name as it may stand in a list: what is not printable ASCII, a blank, and what
// lists and quotes are made of is escaped.
func printable(name string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != ',' && c != '"' && c != '\\' }
	if strings.IndexFunc(name, func(r rune) bool { return r >= 0x7f || !plain(byte(r)) }) < 0 {
		return name
	}
	var b bytes.Buffer
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write(escaped(c))
		}
	}
	return b.String()
}

func escaped(c byte) []byte {
	const digits = "0123456789ABCDEF"
	return []byte{'\\', digits[c>>4], digits[c&15]}
}

// The bounds of the SPIFFE ID specification, section 2.3.
const (
	maxSPIFFE      = 2048
	maxTrustDomain = 255
)

const spiffeScheme = "spiffe://"

// spiffeID returns the SPIFFE ID of an X.509-SVID that names a workload, or "". The rules are
// those of the X.509-SVID specification, section 5.2: one URI among the alternative names and no more, no authority, no key that signs
// certificates or revocation lists, and a path. To those come digitalSignature (section 4.3) and the form of the ID itself.
func spiffeID(leaf *x509.Certificate) string {
	uris := rawURIs(leaf)
	if len(uris) != 1 || leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 ||
		leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return ""
	}
	if !validSPIFFE(uris[0]) {
		return ""
	}
	return uris[0]
}

var oidAlternativeNames = asn1.ObjectIdentifier{2, 5, 29, 17}

// tagURI is uniformResourceIdentifier in GeneralName (RFC 5280 section 4.2.1.6).
const tagURI = 6

// rawURIs returns the URIs among the alternative names as they are in the certificate. What package url makes of
// leaf.URIs is not always that: it puts schemes in lower case and leaves out an empty fragment, so that SPIFFE://a/b and spiffe://a/b#
// would pass for spiffe://a/b.
func rawURIs(leaf *x509.Certificate) (uris []string) {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidAlternativeNames) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return nil // x509 has read it before
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	return uris
}

// URIsOf returns the URIs among the alternative names of a certificate of our own, as printable as an Identity's. leaf may be nil.
func URIsOf(leaf *x509.Certificate) (uris []string) {
	if leaf == nil || len(leaf.URIs) == 0 {
		return nil
	}
	for _, u := range rawURIs(leaf) {
		uris = append(uris, printable(u))
	}
	return uris
}

// validSPIFFE reports whether id is the SPIFFE ID of a workload: spiffe://trust-domain/path (SPIFFE ID specification, section 2).
func validSPIFFE(id string) bool {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok || len(id) > maxSPIFFE {
		return false
	}
	domain, path, ok := strings.Cut(rest, "/")
	return ok && validTrustDomain(domain) && validSPIFFEPath(path, false)
}

func validTrustDomain(s string) bool {
	return s != "" && len(s) <= maxTrustDomain && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	}) < 0
}

// validSPIFFEPath judges a path without its first slash: segments that are neither empty nor dots. stars
// allows those of a pattern.
func validSPIFFEPath(path string, stars bool) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if stars && segment == "*" {
			continue
		}
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, notInSegment) {
			return false
		}
	}
	return true
}

func notInSegment(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
}
