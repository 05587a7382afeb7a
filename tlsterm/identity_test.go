package tlsterm

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"tickgate/internal/testcert"
)

// leafOf is a certificate of a test authority, changed by edit.
func leafOf(t testing.TB, edit func(c *x509.Certificate)) *x509.Certificate {
	t.Helper()
	return testcert.NewCA(t).Issue(t, testcert.Request{Names: []string{"feed"}, Alter: edit}).Leaf(t)
}

func uris(t testing.TB, list ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// rawName encodes a name in the order given, each part as type and value.
func rawName(t testing.TB, parts ...pkix.AttributeTypeAndValue) []byte {
	t.Helper()
	var seq pkix.RDNSequence
	for _, p := range parts {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{p})
	}
	der, err := asn1.Marshal(seq)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func part(oid string, value any) pkix.AttributeTypeAndValue {
	id := asn1.ObjectIdentifier{}
	for _, n := range strings.Split(oid, ".") {
		v := 0
		for _, c := range n {
			v = 10*v + int(c-'0')
		}
		id = append(id, v)
	}
	return pkix.AttributeTypeAndValue{Type: id, Value: value}
}

// The texts are those of OpenSSL 3.0 (x509 -nameopt RFC2253), but for the double quote.
func TestDistinguishedName(t *testing.T) {
	f := func(want string, parts ...pkix.AttributeTypeAndValue) {
		t.Helper()
		if got := distinguishedName(rawName(t, parts...)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	const cn, o, c = "2.5.4.3", "2.5.4.10", "2.5.4.6"
	f("")
	f("CN=feed,O=Acme,C=GB", part(c, "GB"), part(o, "Acme"), part(cn, "feed"))
	f("O=Acme,CN=feed", part(cn, "feed"), part(o, "Acme"))
	f(`O=Acme\, Inc.,CN=a\+b\<c\>d\;e\\f`, part(cn, `a+b<c>d;e\f`), part(o, "Acme, Inc."))
	f(`CN=say \22hi\22`, part(cn, `say "hi"`))
	f(`CN=\#1\ `, part(cn, "#1 "))
	f(`CN=\ x`, part(cn, " x"))
	f(`CN=Zo\C3\AB`, part(cn, "Zoë"))
	f(`CN=a\0D\0AX-Admin: 1`, part(cn, "a\r\nX-Admin: 1"))
	f(`emailAddress=a@example,UID=7,DC=example`, part("0.9.2342.19200300.100.1.25", "example"), part("0.9.2342.19200300.100.1.1", "7"), part("1.2.840.113549.1.9.1", "a@example"))
	f("1.2.3.4=#130178", part("1.2.3.4", "x"))
	f("CN=#020107", part(cn, 7))
	multi, err := asn1.Marshal(pkix.RDNSequence{{part(cn, "a"), part(o, "b")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := distinguishedName(multi); got != "O=b+CN=a" {
		t.Errorf("two attributes in one part: %q", got)
	}
	if got := distinguishedName([]byte{0x30, 1}); got != "#3001" {
		t.Errorf("a broken name: %q", got)
	}
}

func TestIdentity(t *testing.T) {
	leaf := leafOf(t, func(c *x509.Certificate) {
		c.DNSNames = []string{"Feed.Example.com"}
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}
		c.EmailAddresses = []string{"a@example.com"}
		c.URIs = uris(t, "spiffe://example.org/feed/a,DNS:admin.example.com")
	})
	id := newIdentity(leaf)
	f := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	f("subject", id.Subject, "CN=feed,O=tickgate")
	f("issuer", id.Issuer, "CN=tickgate test intermediate,O=tickgate")
	f("SAN", id.SAN, `DNS:feed.example.com,URI:spiffe://example.org/feed/a\2CDNS:admin.example.com,IP:192.0.2.1,IP:2001:db8::1,email:a@example.com`)
	f("SPIFFE", id.SPIFFE, "")
	f("serial", id.Serial, leaf.SerialNumber.Text(16))
	f("name", id.Name(), id.Subject)
	if len(id.Fingerprint) != 64 || len(id.IP) != 2 || !id.NotAfter.Equal(leaf.NotAfter) || !bytes.Equal(id.DER, leaf.Raw) {
		t.Errorf("%+v", id)
	}
	if IdentityOf(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}) != nil {
		t.Error("a certificate that was not verified is an identity")
	}
}

// Who the limits take for one client.
func TestIdentityHash(t *testing.T) {
	ca := testcert.NewCA(t)
	of := func(edit func(c *x509.Certificate)) uint64 {
		return newIdentity(ca.Issue(t, testcert.Request{Names: []string{"feed"}, Alter: edit}).Leaf(t)).Hash
	}
	spiffe := func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://example.org/feed") }
	renamed := func(c *x509.Certificate) { spiffe(c); c.Subject.CommonName = "other" }
	plain, again := of(nil), of(nil)
	if of(spiffe) != of(renamed) || plain != again {
		t.Error("a renewed certificate is another client")
	}
	if plain == of(spiffe) || plain == of(func(c *x509.Certificate) { c.Subject.CommonName = "other" }) {
		t.Error("two clients are one")
	}
	noName := func(c *x509.Certificate) { c.Subject = pkix.Name{} }
	if first, second := of(noName), of(noName); first == second {
		t.Error("two certificates without a name are one client")
	}
}

func TestSPIFFE(t *testing.T) {
	f := func(want string, edit func(c *x509.Certificate)) {
		t.Helper()
		if got := newIdentity(leafOf(t, edit)).SPIFFE; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	with := func(list ...string) func(c *x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = uris(t, list...) }
	}
	const good = "spiffe://example.org/ns/a/sa/Feed-1._x"
	f(good, with(good))
	f("", nil)
	f("", with(good, "https://example.org/")) // two URIs
	f("", with("https://example.org/x"))
	f("", func(c *x509.Certificate) { with(good)(c); c.KeyUsage |= x509.KeyUsageCRLSign })
	f("", func(c *x509.Certificate) { with(good)(c); c.KeyUsage |= x509.KeyUsageCertSign })
	f("", func(c *x509.Certificate) { with(good)(c); c.KeyUsage = x509.KeyUsageKeyEncipherment })
	f("", func(c *x509.Certificate) { with(good)(c); c.IsCA = true })

	// As it is in the certificate, and not as package url would write it.
	raw := func(id string) func(c *x509.Certificate) {
		names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(id)}})
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidAlternativeNames, Value: names}}
		}
	}
	f(good, raw(good))
	for _, id := range []string{"SPIFFE://example.org/feed", good + "#", good + "?"} {
		f("", raw(id))
		if got := newIdentity(leafOf(t, raw(id))); len(got.URI) != 1 || got.URI[0] != id || got.SAN != "URI:"+id {
			t.Errorf("%q: URIs %q, SAN %q", id, got.URI, got.SAN)
		}
	}

	valid := func(id string, want bool) {
		t.Helper()
		if got := validSPIFFE(id); got != want {
			t.Errorf("%q: %t", id, got)
		}
	}
	valid("spiffe://a/b", true)
	valid("spiffe://a", false)
	valid("spiffe://a/", false)
	valid("spiffe:///b", false)
	valid("SPIFFE://a/b", false)
	valid("spiffe://A/b", false)
	valid("spiffe://a:1/b", false)
	valid("spiffe://u@a/b", false)
	valid("spiffe://a/b?c", false)
	valid("spiffe://a/b#c", false)
	valid("spiffe://a/b//c", false)
	valid("spiffe://a/./c", false)
	valid("spiffe://a/../c", false)
	valid("spiffe://a/b%2Fc", false)
	valid("spiffe://a/*", false)
	valid("spiffe://"+strings.Repeat("a", 255)+"/b", true)
	valid("spiffe://"+strings.Repeat("a", 256)+"/b", false)
	valid("spiffe://a/"+strings.Repeat("b", 2048-11), true)
	valid("spiffe://a/"+strings.Repeat("b", 2048-10), false)
}

func TestIdentityMatch(t *testing.T) {
	id := &Identity{
		Subject: `CN=feed\,O=Evil,OU=Trading,O=Acme,C=GB`, DNS: []string{"feed.example.com", "*.wild.example.com"},
		URI: []string{"urn:dev:17", "https://example.com/feeds/a"}, SPIFFE: "spiffe://prod.example.org/ns/md/sa/feed",
		Fingerprint: strings.Repeat("0a", 32),
	}
	f := func(what string, m IdentityMatch, want bool) {
		t.Helper()
		p, err := m.Compile()
		if err != nil {
			t.Errorf("%s: %s", what, err)
			return
		}
		if got := p.Matches(id); got != want {
			t.Errorf("%s: %t, want %t", what, got, want)
		}
		if p.Matches(nil) {
			t.Errorf("%s: matches nobody", what)
		}
	}
	f("any", IdentityMatch{}, true)

	subject := func(s string, want bool) { t.Helper(); f(s, IdentityMatch{Subject: []string{s}}, want) }
	subject(id.Subject, true)
	subject("CN=feed", false)
	subject("*,O=Acme,C=GB", true)
	subject("*,C=GB", true)
	subject("*,C=G", false)
	subject("*,=GB", false)
	subject("*,O=Evil,OU=Trading,O=Acme,C=GB", false) // its comma is part of a value
	subject(`CN=feed\,O=Evil,*`, true)
	subject(`CN=feed\,O=Evil,OU=Trading,*`, true)
	subject(`CN=feed\,*`, false)
	subject(`CN=feed,*`, false)
	subject(`cn=feed\,O=Evil,*`, false)

	dns := func(s string, want bool) { t.Helper(); f(s, IdentityMatch{DNS: []string{s}}, want) }
	dns("feed.example.com", true)
	dns("FEED.example.com.", true)
	dns("*.example.com", true)
	dns("*.com", true)
	dns("example.com", false)
	dns("*.feed.example.com", false)
	dns("a.wild.example.com", false)
	dns("*.ample.com", false)

	uri := func(s string, want bool) { t.Helper(); f(s, IdentityMatch{URI: []string{s}}, want) }
	uri("urn:dev:17", true)
	uri("urn:dev:1", false)
	uri("https://example.com/feeds/*", true)
	uri("https://example.com/feeds/a/*", false)
	uri("https://example.com/*", true)
	uri("https://example.com/feed/*", false)

	spiffe := func(s string, want bool) { t.Helper(); f(s, IdentityMatch{SPIFFE: []string{s}}, want) }
	spiffe("spiffe://prod.example.org/ns/md/sa/feed", true)
	spiffe("spiffe://prod.example.org/*", true)
	spiffe("spiffe://prod.example.org/ns/*", true)
	spiffe("spiffe://prod.example.org/ns/*/sa/feed", true)
	spiffe("spiffe://prod.example.org/ns/*/sa/*", true)
	spiffe("spiffe://prod.example.org/ns/*/sa/feed/*", false)
	spiffe("spiffe://prod.example.org/ns/*/feed", false)
	spiffe("spiffe://prod.example.org/ns/md/sa", false)
	spiffe("spiffe://prod.example.org/ns/md/sa/feeds", false)
	spiffe("spiffe://*.example.org/ns/md/sa/feed", true)
	spiffe("spiffe://*/ns/md/sa/feed", true)
	spiffe("spiffe://*.prod.example.org/*", false)
	spiffe("spiffe://example.org/*", false)

	colons := strings.TrimSuffix(strings.Repeat("0A:", 32), ":")
	f("fingerprint", IdentityMatch{Fingerprint: []string{strings.Repeat("00", 32), colons}}, true)
	f("another fingerprint", IdentityMatch{Fingerprint: []string{strings.Repeat("00", 32)}}, false)
	// Of a list one pattern is enough; all keys must hold.
	f("two names", IdentityMatch{DNS: []string{"x.example", "feed.example.com"}}, true)
	f("two keys", IdentityMatch{DNS: []string{"feed.example.com"}, SPIFFE: []string{"spiffe://*/*"}}, true)
	f("one of two keys", IdentityMatch{DNS: []string{"feed.example.com"}, SPIFFE: []string{"spiffe://x/*"}}, false)
	id = &Identity{Subject: "CN=x"}
	spiffe("spiffe://*/*", false)
	dns("*.com", false)
	subject(`*,CN=x`, false)
}

func TestIdentityMatchErrors(t *testing.T) {
	f := func(m IdentityMatch, key string) {
		t.Helper()
		_, err := m.Compile()
		var e *PatternError
		if !errors.As(err, &e) || e.Key != key || e.Want == "" {
			t.Errorf("%+v: %v, want an error of %s", m, err, key)
		}
	}
	for _, s := range []string{"", "feed", "*", "*,", ",*", "*,O=x,*"} {
		f(IdentityMatch{Subject: []string{s}}, "subject")
	}
	for _, s := range []string{"", "*", "*com", "a.*.com", "a b", "*.", "https://x"} {
		f(IdentityMatch{DNS: []string{s}}, "dns")
	}
	for _, s := range []string{"", "/x", "*", "https://*/x", "urn:", "a:/*", "urn:a b", "urn:ä"} {
		f(IdentityMatch{URI: []string{s}}, "uri")
	}
	for _, s := range []string{"", "spiffe://x", "spiffe://x/", "https://x/y", "spiffe://X/y", "spiffe://x/a*", "spiffe:///x", "spiffe://a.*/x", "spiffe://*x/y", "spiffe://x/../y"} {
		f(IdentityMatch{SPIFFE: []string{s}}, "spiffe")
	}
	for _, s := range []string{"", "0a", strings.Repeat("0g", 32), strings.Repeat("0a", 33)} {
		f(IdentityMatch{Fingerprint: []string{s}}, "fingerprint")
	}
}

func TestMatchesAllocates(t *testing.T) {
	m := IdentityMatch{
		Subject: []string{"*,O=Acme"}, DNS: []string{"*.example.com"}, URI: []string{"spiffe://a/*"},
		SPIFFE: []string{"spiffe://*/x/*/y", "spiffe://a/*"}, Fingerprint: []string{strings.Repeat("0a", 32)},
	}
	p, err := m.Compile()
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{
		Subject: "CN=x,O=Acme", DNS: []string{"a.example.com"}, URI: []string{"spiffe://a/b/c"}, SPIFFE: "spiffe://a/b/c",
		Fingerprint: strings.Repeat("0a", 32),
	}
	if !p.Matches(id) {
		t.Fatal("does not match")
	}
	if allocs := testing.AllocsPerRun(100, func() { p.Matches(id) }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// Whatever is in a certificate, what is made of it is printable ASCII and no name poses as two.
func FuzzIdentity(f *testing.F) {
	seed := leafOf(f, func(c *x509.Certificate) {
		c.DNSNames, c.EmailAddresses, c.URIs = []string{"a.example"}, []string{"a@example"}, uris(f, "spiffe://a/b", "urn:x,y")
		c.Subject = pkix.Name{CommonName: "a\r\nb\"c", Organization: []string{"ü,\\"}}
	})
	f.Add(seed.Raw)
	f.Add(seed.RawSubject)
	f.Fuzz(func(t *testing.T, der []byte) {
		plain := func(s string) {
			if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f || r == '"' }); i >= 0 {
				t.Errorf("%q holds %q", s, s[i])
			}
		}
		plain(distinguishedName(der))
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id := newIdentity(leaf)
		for _, s := range []string{id.Subject, id.Issuer, id.SAN, id.SPIFFE, id.Fingerprint, id.Serial, id.Name()} {
			plain(s)
		}
		if n := len(id.DNS) + len(id.URI) + len(id.IP) + len(id.Email); id.SAN != "" && strings.Count(id.SAN, ",")+1 != n {
			t.Errorf("%d names in %q", n, id.SAN)
		}
	})
}
