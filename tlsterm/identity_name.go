package tlsterm

import (
	"encoding/asn1"
	"encoding/hex"
	"strings"
)

// attributeNames are the short names of attributes: those of RFC 4514 section 3, and those that OpenSSL writes
// besides. Others are written as numbers.
var attributeNames = map[string]string{
	"2.5.4.3":                    "CN",
	"2.5.4.4":                    "SN",
	"2.5.4.5":                    "serialNumber",
	"2.5.4.6":                    "C",
	"2.5.4.7":                    "L",
	"2.5.4.8":                    "ST",
	"2.5.4.9":                    "street",
	"2.5.4.10":                   "O",
	"2.5.4.11":                   "OU",
	"2.5.4.12":                   "title",
	"2.5.4.42":                   "GN",
	"0.9.2342.19200300.100.1.1":  "UID",
	"0.9.2342.19200300.100.1.25": "DC",
	"1.2.840.113549.1.9.1":       "emailAddress",
	"1.3.6.1.4.1.311.60.2.1.3":   "jurisdictionC",
	"2.5.4.97":                   "organizationIdentifier",
}

// distinguishedName returns a DER name as text (RFC 4514), as `openssl x509 -nameopt RFC2253` and nginx's $ssl_client_s_dn
// write it, but for the double quote. Package pkix sorts the parts by kind, which makes two names
// of one, and leaves other bytes than ASCII as they are.
func distinguishedName(der []byte) string {
	var rdns []attributeSET
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return "#" + hex.EncodeToString(der)
	}
	var b strings.Builder
	for i := len(rdns) - 1; i >= 0; i-- {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		for j := len(rdns[i]) - 1; j >= 0; j-- {
			appendAttribute(&b, &rdns[i][j])
			if j > 0 {
				b.WriteByte('+')
			}
		}
	}
	return b.String()
}

// attributeSET is one part of a name (X.501's RelativeDistinguishedName). Package asn1 knows a set by the end of its name.
type attributeSET []attribute

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

func appendAttribute(b *strings.Builder, a *attribute) {
	oid := a.Type.String()
	name, known := attributeNames[oid]
	if !known {
		name = oid
	}
	b.WriteString(name)
	b.WriteByte('=')
	var value any
	_, err := asn1.Unmarshal(a.Value.FullBytes, &value)
	text, isText := value.(string)
	if err != nil || !isText || !known {
		// RFC 4514 section 2.4: the value's DER in hexadecimal, where no text of it is known.
		b.WriteByte('#')
		b.WriteString(strings.ToUpper(hex.EncodeToString(a.Value.FullBytes)))
		return
	}
	for i := range len(text) {
		appendNameByte(b, text[i], i == 0, i == len(text)-1)
	}
}

// appendNameByte escapes as RFC 4514 section 2.4 says, and all that is not printable ASCII. The double
// quote is written as \22 and not as \", since who reads a quoted text and does not know the rule would
// take it for the end.
func appendNameByte(b *strings.Builder, c byte, first, last bool) {
	switch {
	case c < ' ' || c >= 0x7f || c == '"':
		b.Write(escaped(c))
		return
	case strings.IndexByte(`,+\<>;`, c) >= 0, c == ' ' && (first || last), c == '#' && first:
		b.WriteByte('\\')
	}
	b.WriteByte(c)
}
