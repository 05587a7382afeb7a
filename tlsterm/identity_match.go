package tlsterm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// IdentityMatch says which clients are meant, by the certificates that they proved to hold. Every key that
// is set must hold, and holds if one of its patterns does; without any key, every client with a verified certificate is meant. A client without
// one never is.
type IdentityMatch struct {
	// Subjects, as ${tls_client_subject} has them: whole, compared byte for byte. "*,O=Acme,C=GB" is those that end in these parts, "CN=feed,*" those that begin so; a star
	// stands for one or more whole parts, and anywhere else for itself.
	Subject []string `yaml:"subject"`
	// DNS names, in any case: exact, or *.suffix for any name below. A wildcard in the certificate is a name like any other: it stands for no other names.
	DNS []string `yaml:"dns"`
	// URIs: whole, or up to a final "/*", which stands for one or more further characters.
	URI []string `yaml:"uri"`
	// SPIFFE IDs: "spiffe://example.org/ns/*/sa/feed". A star stands for one segment of the path, as the last segment for one or more; as the trust
	// domain for any, and as "*.example.org" for any below.
	SPIFFE []string `yaml:"spiffe"`
	// SHA-256 fingerprints of certificates in hexadecimal, with or without colons.
	Fingerprint []string `yaml:"fingerprint"`
}

// IdentityPattern is a compiled IdentityMatch. It is never changed.
type IdentityPattern struct {
	subject     []subjectPattern
	dns         []dnsPattern
	uri         []uriPattern
	spiffe      []spiffePattern
	fingerprint map[string]struct{}
}

// Key names of IdentityMatch, as errors of a pattern say where it stands.
const (
	keySubject     = "subject"
	keyDNS         = "dns"
	keyURI         = "uri"
	keySPIFFE      = "spiffe"
	keyFingerprint = "fingerprint"
)

// PatternError is one pattern that cannot be.
type PatternError struct {
	// Key is that of IdentityMatch, Index the place in its list.
	Key   string
	Index int
	// Pattern is what was seen, Want what is wanted.
	Pattern, Want string
}

func (e *PatternError) Error() string {
	return fmt.Sprintf("%s[%d]: %q is not a pattern (want %s)", e.Key, e.Index, e.Pattern, e.Want)
}

// Compile returns the pattern. The error joins a *PatternError for each that is wrong.
func (m *IdentityMatch) Compile() (*IdentityPattern, error) {
	p := &IdentityPattern{}
	var errs []error
	p.subject = compileAll(keySubject, m.Subject, compileSubject, &errs)
	p.dns = compileAll(keyDNS, m.DNS, compileDNS, &errs)
	p.uri = compileAll(keyURI, m.URI, compileURI, &errs)
	p.spiffe = compileAll(keySPIFFE, m.SPIFFE, compileSPIFFE, &errs)
	for _, sum := range compileAll(keyFingerprint, m.Fingerprint, compileFingerprint, &errs) {
		if p.fingerprint == nil {
			p.fingerprint = map[string]struct{}{}
		}
		p.fingerprint[sum] = struct{}{}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// compileAll compiles the patterns of one key. compile returns what is wanted instead, if a pattern is wrong.
func compileAll[P any](key string, list []string, compile func(string) (P, string), errs *[]error) []P {
	var out []P
	for i, text := range list {
		p, want := compile(text)
		if want != "" {
			*errs = append(*errs, &PatternError{Key: key, Index: i, Pattern: text, Want: want})
			continue
		}
		out = append(out, p)
	}
	return out
}

// Matches reports whether the client is meant. It does not allocate. A nil id is a client without an identity.
func (p *IdentityPattern) Matches(id *Identity) bool {
	if id == nil {
		return false
	}
	if p.fingerprint != nil {
		if _, ok := p.fingerprint[id.Fingerprint]; !ok {
			return false
		}
	}
	return (p.subject == nil || anyHolds(p.subject, id.Subject)) &&
		(p.dns == nil || anyOf(p.dns, id.DNS)) &&
		(p.uri == nil || anyOf(p.uri, id.URI)) &&
		(p.spiffe == nil || anyHolds(p.spiffe, id.SPIFFE))
}

type holder interface{ holds(name string) bool }

func anyHolds[P holder](patterns []P, name string) bool {
	for i := range patterns {
		if patterns[i].holds(name) {
			return true
		}
	}
	return false
}

func anyOf[P holder](patterns []P, names []string) bool {
	for _, name := range names {
		if anyHolds(patterns, name) {
			return true
		}
	}
	return false
}

// subjectPattern is a whole name, or its parts at the end (after ",") or at the beginning (up to ",").
type subjectPattern struct {
	text       string
	head, tail bool
}

const wantSubject = `a subject such as "CN=feed,O=Acme", its last parts as "*,O=Acme" or its first ones as "CN=feed,*"`

func compileSubject(s string) (subjectPattern, string) {
	p := subjectPattern{text: s}
	if strings.HasPrefix(s, "*,") {
		p.text, p.tail = s[1:], true
	}
	if strings.HasSuffix(p.text, ",*") && separates(p.text, len(p.text)-2) {
		p.text, p.head = p.text[:len(p.text)-1], true
	}
	if strings.Trim(p.text, ",") == "" || !strings.Contains(p.text, "=") || p.head && p.tail {
		return p, wantSubject
	}
	return p, ""
}

func (p subjectPattern) holds(name string) bool {
	switch {
	case p.tail:
		// A comma that is part of a value, and so escaped, must not begin the parts.
		return len(name) > len(p.text) && strings.HasSuffix(name, p.text) && separates(name, len(name)-len(p.text))
	case p.head:
		return len(name) > len(p.text) && strings.HasPrefix(name, p.text)
	}
	return name == p.text
}

// separates reports whether the comma at s[i] parts two of a name's parts: an even number of backslashes is before it.
func separates(s string, i int) bool {
	n := 0
	for n < i && s[i-1-n] == '\\' {
		n++
	}
	return n%2 == 0
}

// dnsPattern is a name, or with below, one that all names below begin a dot before.
type dnsPattern struct {
	text  string
	below bool
}

const wantDNS = "a DNS name such as feed.example.com or *.example.com"

func compileDNS(s string) (dnsPattern, string) {
	name, below := strings.CutPrefix(strings.ToLower(strings.TrimSuffix(s, ".")), "*")
	if below && !strings.HasPrefix(name, ".") || !ValidName(strings.TrimPrefix(name, ".")) && !isAddress(name) || strings.Contains(name, "*") {
		return dnsPattern{}, wantDNS
	}
	return dnsPattern{name, below}, ""
}

// isAddress is for certificates that hold an address as DNS name, as some authorities write them.
func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

func (p dnsPattern) holds(name string) bool {
	if p.below {
		return len(name) > len(p.text) && strings.HasSuffix(name, p.text)
	}
	return name == p.text
}

// uriPattern is a URI, or with below, one that all URIs below begin with.
type uriPattern struct {
	text  string
	below bool
}

const wantURI = `a URI such as urn:dev:17 or https://example.com/feeds/*`

func compileURI(s string) (uriPattern, string) {
	text, below := s, strings.HasSuffix(s, "/*")
	if below {
		text = s[:len(s)-1]
	}
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || scheme == "" || strings.Trim(rest, "/") == "" || strings.Contains(text, "*") || printable(text) != text {
		return uriPattern{}, wantURI
	}
	return uriPattern{text, below}, ""
}

func (p uriPattern) holds(name string) bool {
	if p.below {
		return len(name) > len(p.text) && strings.HasPrefix(name, p.text)
	}
	return name == p.text
}

// spiffePattern is a SPIFFE ID in parts.
type spiffePattern struct {
	domain   dnsPattern // "." with below is any
	segments []string   // "*" is any one
	rest     bool       // further segments may follow the last, which is "*"
}

const wantSPIFFE = `a SPIFFE ID such as spiffe://example.org/feed, with stars for the trust domain (or *.example.org) or whole segments`

func compileSPIFFE(s string) (spiffePattern, string) {
	text, ok := strings.CutPrefix(s, spiffeScheme)
	domain, path, hasPath := strings.Cut(text, "/")
	if !ok || !hasPath || !validSPIFFEPath(path, true) {
		return spiffePattern{}, wantSPIFFE
	}
	p := spiffePattern{segments: strings.Split(path, "/")}
	p.rest = p.segments[len(p.segments)-1] == "*"
	suffix, below := strings.CutPrefix(domain, "*")
	p.domain = dnsPattern{suffix, below}
	if suffix == "" && below {
		return p, "" // any
	}
	if below && !strings.HasPrefix(suffix, ".") || !validTrustDomain(strings.TrimPrefix(suffix, ".")) {
		return spiffePattern{}, wantSPIFFE
	}
	return p, ""
}

func (p spiffePattern) holds(id string) bool {
	if id == "" {
		return false
	}
	domain, path, _ := strings.Cut(id[len(spiffeScheme):], "/")
	if !p.domain.holds(domain) {
		return false
	}
	last := len(p.segments) - 1
	for i, want := range p.segments {
		segment, rest, more := strings.Cut(path, "/")
		if want != "*" && want != segment {
			return false
		}
		if i == last {
			return !more || p.rest
		}
		if !more {
			return false
		}
		path = rest
	}
	return false
}

const wantFingerprint = "a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons"

func compileFingerprint(s string) (string, string) {
	digits := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != 32 {
		return "", wantFingerprint
	}
	return digits, ""
}
