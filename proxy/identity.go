package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"strings"

	"tickgate/config"
	"tickgate/internal/accesslog"
	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/tlsterm"
)

// tlsNote is what is kept of a client's handshake for as long as its connection is open, in its seat. A connection that has nothing of it
// has none. It is not changed once it is there, and may be that of other connections as well (sharedNotes).
type tlsNote struct {
	ja4        string
	serverName string // that it asked for; only with an identity
	identity   *tlsterm.Identity
	client     *accesslog.TLSClient // the same for logs; nil without an identity
	by         string               // the URIs of the certificate that the client was shown, as elements of XFCC
}

// noteIdentity remembers who the client of a finished handshake proved to be.
func (c *clientConn) noteIdentity() {
	st := c.tls.ConnectionState()
	if len(st.VerifiedChains) == 0 {
		return
	}
	ja4 := ""
	if before, ok := c.seat.Note.(*tlsNote); ok {
		ja4 = before.ja4
	}
	by := ourURIs(c.shake.facts.Leaf)
	c.shake.facts.Leaf = nil
	note := c.gw.notes.take(noteKeyOf(&st, c.ln.name, ja4, by), func() *tlsNote { return newNote(ja4, by, &st) })
	if note == nil {
		return
	}
	tlsterm.TrimClient(c.tls)
	c.gw.clientsVerified.Add(1)
	c.seat.Note = note
}

// newNote makes the note of a client with an identity, nil if it has none. It keeps nothing of st in memory.
func newNote(ja4, by string, st *tls.ConnectionState) *tlsNote {
	id := tlsterm.IdentityOf(st)
	if id == nil {
		return nil
	}
	return &tlsNote{ja4: strings.Clone(ja4), serverName: strings.Clone(st.ServerName), by: by, identity: id, client: &accesslog.TLSClient{
		Subject: id.Subject, Issuer: id.Issuer, SAN: id.SAN, SPIFFE: id.SPIFFE, Fingerprint: id.Fingerprint, Serial: id.Serial,
	}}
}

// ourURIs is the URIs of the certificate that a client was shown, as elements of XFCC. leaf may be nil.
func ourURIs(leaf *x509.Certificate) string {
	var out []byte
	for _, u := range tlsterm.URIsOf(leaf) {
		out = append(appendXFCCValue(append(out, "By="...), u), ';')
	}
	return string(out)
}

// identity is who the client proved to be, nil if it did not. It may be asked by anybody.
func (c *clientConn) identity() *tlsterm.Identity {
	if n := c.note.Load(); n != nil {
		return n.identity
	}
	return nil
}

// logClient is the client's identity for the access log, or nil.
func (c *clientConn) logClient() *accesslog.TLSClient {
	if n := c.note.Load(); n != nil {
		return n.client
	}
	return nil
}

// identities are a route's demands on the client's identity; nil is none.
type identities struct {
	taken    *tlsterm.IdentityPattern // for the route to match
	required *tlsterm.IdentityPattern
}

func compileIdentities(r *config.Route) (out identities, err error) {
	if r.Identity != nil {
		if out.taken, err = r.Identity.Compile(); err != nil {
			return out, err
		}
	}
	if r.RequireIdentity != nil {
		out.required, err = r.RequireIdentity.Compile()
	}
	return out, err
}

// permitted decides whether the client may have the route, by who it proved to be.
func (x *Exchange) permitted() bool {
	if x.misdirected() {
		return x.fail(reason.Misdirected)
	}
	id := x.c.identity()
	if id != nil && !x.stands(id) {
		x.keepAlive = false
		return x.fail(reason.IdentityRevoked)
	}
	if id == nil && x.owesIdentity() {
		x.keepAlive = false
		return x.fail(reason.IdentityMissing)
	}
	need := x.rt.identities.required
	if need == nil {
		return true
	}
	if id == nil {
		return x.fail(reason.IdentityMissing)
	}
	if !need.Matches(id) {
		return x.fail(reason.IdentityDenied)
	}
	return true
}

// stands reports whether the client would still be let in. One whose certificate has run out meanwhile is, but its
// connection ends with this request, so that it comes back with a new one.
func (x *Exchange) stands(id *tlsterm.Identity) bool {
	if x.read.After(id.NotAfter) {
		x.keepAlive = false
	}
	store := x.c.ln.asks.Load()
	return store == nil || store.Stands(id, x.c.facts.serverName) == nil
}

// owesIdentity reports whether the client was let in without a certificate, before a reload that requires one of it.
func (x *Exchange) owesIdentity() bool {
	store := x.c.ln.asks.Load()
	return store != nil && x.c.tls != nil && store.Requires(x.c.facts.serverName)
}

// misdirected reports whether the host's rules about client certificates are not those that the connection was made under: a
// client could else ask for a name that wants no certificate, and then for a host that does (RFC 9110 section 15.5.20). A request
// without a host, as HTTP/1.0 allows, is under the listener's rules: the routes for any host are open to it.
func (x *Exchange) misdirected() bool {
	store := x.c.ln.asks.Load()
	if store == nil || x.c.tls == nil {
		return false
	}
	return store.Misdirected(x.c.facts.serverName, x.lowerHost())
}

// clientCertMode is forwarding.client_cert.
type clientCertMode uint8

const (
	clientCertOff clientCertMode = iota
	clientCertXFCC
	clientCertRFC9440
)

func clientCertModeOf(text string) clientCertMode {
	switch text {
	case "xfcc":
		return clientCertXFCC
	case "rfc9440":
		return clientCertRFC9440
	}
	return clientCertOff
}

// The fields that tell a backend of the client's certificate.
const (
	fieldXFCC            = "X-Forwarded-Client-Cert"
	fieldClientCert      = "Client-Cert"       // RFC 9440 section 2.2
	fieldClientCertChain = "Client-Cert-Chain" // section 2.3
)

// collectClientCert names the request fields by which a backend learns who the client is, which no client may send: the usual
// ones, those of forwarding.client_cert_fields, and those that a route makes of an identity. Common fields such as
// Authorization are not among the last, since other routes have other uses for what clients send there.
func (s *Snapshot) collectClientCert() {
	f := &s.cfg.Forwarding
	names := append([]string{fieldXFCC, fieldClientCert, fieldClientCertChain}, f.ClientCertFields...)
	for _, r := range s.cfg.Routes {
		if r.RequestHeaders == nil {
			continue
		}
		for _, m := range []map[string]string{r.RequestHeaders.Set, r.RequestHeaders.Add} {
			for _, name := range sortedKeys(m) {
				if h1.LookupField([]byte(name)) == h1.Unknown && tellsIdentity(m[name]) {
					names = append(names, name)
				}
			}
		}
	}
	for _, name := range names {
		if h1.LookupField([]byte(name)) != h1.Host {
			s.clientCert.add(name)
		}
	}
}

// tellsIdentity reports whether a template holds a variable of the client's identity.
func tellsIdentity(text string) bool {
	parts, err := config.ParseTemplate(text)
	if err != nil {
		return false // reported where it is compiled
	}
	for _, p := range parts {
		if p.Kind == config.Variable && strings.HasPrefix(p.Text, "tls_client_") {
			return true
		}
	}
	return false
}

// tellsClientCert reports whether the request gets what forwarding.client_cert says of the client's certificate. A trusted
// proxy that is believed may have said it.
func (x *Exchange) tellsClientCert() bool {
	mode := x.snap.clientCertMode
	if mode == clientCertOff || x.c.identity() == nil {
		return false
	}
	name := mode.field()
	return !x.rt.reqOps.drops(h1.Unknown, name) && (!x.believesClientCert() || x.req.GetName([]byte(name)) == nil)
}

// field is the field of the leaf.
func (m clientCertMode) field() string {
	if m == clientCertRFC9440 {
		return fieldClientCert
	}
	return fieldXFCC
}

// foreignChain is what goes with a Client-Cert of somebody else only.
var foreignChain = nameSet{other: [][]byte{[]byte(fieldClientCertChain)}}

// believesClientCert reports whether the client's own word about a certificate is passed on.
func (x *Exchange) believesClientCert() bool {
	return x.snap.cfg.Forwarding.ClientCertFromProxies && x.trusted()
}

// appendClientCert appends what forwarding.client_cert says of the client's certificate.
func (x *Exchange) appendClientCert(dst []byte) []byte {
	if !x.tellsClientCert() {
		return dst
	}
	id := x.c.identity()
	dst = append(append(dst, x.snap.clientCertMode.field()...), ": "...)
	if x.snap.clientCertMode == clientCertXFCC {
		return append(x.appendXFCC(dst, id), "\r\n"...)
	}
	dst = append(base64.StdEncoding.AppendEncode(append(dst, ':'), id.DER), ":\r\n"...) // a byte sequence (RFC 8941 section 3.3.5)
	return x.appendClientCertChain(dst, id)
}

// appendClientCertChain appends Client-Cert-Chain (RFC 9440 section 2.3), a list of byte sequences. An empty list is no field.
func (x *Exchange) appendClientCertChain(dst []byte, id *tlsterm.Identity) []byte {
	if x.snap.clientCertChain == 0 || len(id.Chain) == 0 || x.rt.reqOps.drops(h1.Unknown, fieldClientCertChain) {
		return dst
	}
	size := -len(", ")
	for _, der := range id.Chain {
		size += len(", ::") + base64.StdEncoding.EncodedLen(len(der.Value()))
	}
	if size > x.snap.clientCertChain {
		x.c.gw.chainsOmitted.Add(1)
		return dst
	}
	dst = append(dst, fieldClientCertChain...)
	separator := ": :"
	for _, der := range id.Chain {
		dst = append(appendBase64(append(dst, separator...), der.Value(), false), ':')
		separator = ", :"
	}
	return append(dst, "\r\n"...)
}

// appendXFCCChain appends Chain, which has the client's own certificate first.
func (x *Exchange) appendXFCCChain(dst []byte, id *tlsterm.Identity) []byte {
	if x.snap.clientCertChain == 0 {
		return dst
	}
	size := base64.StdEncoding.EncodedLen(len(id.DER)) // and more
	for _, der := range id.Chain {
		size += base64.StdEncoding.EncodedLen(len(der.Value()))
	}
	before := len(dst)
	if size <= x.snap.clientCertChain {
		dst = append(dst, `;Chain="`...)
		start := len(dst)
		dst = appendPEM(dst, id.DER)
		for _, der := range id.Chain {
			dst = appendPEM(dst, der.Value())
		}
		size = len(dst) - start
		dst = append(dst, '"')
	}
	if size > x.snap.clientCertChain {
		x.c.gw.chainsOmitted.Add(1)
		return dst[:before]
	}
	return dst
}

// appendPEM appends a certificate as Envoy writes it: PEM, with what is special in a URL escaped.
func appendPEM[T []byte | string](dst []byte, der T) []byte {
	dst = append(dst, "-----BEGIN%20CERTIFICATE-----%0A"...)
	dst = appendBase64(dst, der, true)
	return append(dst, "-----END%20CERTIFICATE-----%0A"...)
}

const (
	pemLine = 64              // RFC 7468 section 2
	derLine = pemLine / 4 * 3 // what a line of PEM holds
)

// appendBase64 appends der in base64, plain or in the escaped lines of appendPEM. Unlike AppendEncode it takes a string.
func appendBase64[T []byte | string](dst []byte, der T, pem bool) []byte {
	var part [derLine]byte
	var text [pemLine]byte
	for len(der) > 0 {
		n := copy(part[:], der)
		der = der[n:]
		base64.StdEncoding.Encode(text[:], part[:n])
		coded := text[:base64.StdEncoding.EncodedLen(n)]
		if !pem {
			dst = append(dst, coded...)
			continue
		}
		for _, c := range coded {
			switch c {
			case '+':
				dst = append(dst, "%2B"...)
			case '/':
				dst = append(dst, "%2F"...)
			case '=':
				dst = append(dst, "%3D"...)
			default:
				dst = append(dst, c)
			}
		}
		dst = append(dst, "%0A"...)
	}
	return dst
}

// appendXFCC appends an element as Envoy writes it (HTTP connection manager, x-forwarded-client-cert).
func (x *Exchange) appendXFCC(dst []byte, id *tlsterm.Identity) []byte {
	dst = append(append(append(dst, x.c.note.Load().by...), "Hash="...), id.Fingerprint...)
	dst = x.appendXFCCChain(dst, id)
	dst = append(append(append(dst, `;Subject="`...), id.Subject...), '"') // no double quote is in it
	for _, u := range id.URI {
		dst = appendXFCCValue(append(dst, ";URI="...), u)
	}
	for _, name := range id.DNS {
		dst = appendXFCCValue(append(dst, ";DNS="...), name)
	}
	return dst
}

// appendXFCCValue quotes a value that holds what separates values. Commas and double quotes are in none.
func appendXFCCValue(dst []byte, value string) []byte {
	if !strings.ContainsAny(value, ";=") {
		return append(dst, value...)
	}
	return append(append(append(dst, '"'), value...), '"')
}

// withIdentity makes a variable of the client's identity.
func withIdentity(text func(id *tlsterm.Identity) string) func(x *Exchange, dst []byte) []byte {
	return func(x *Exchange, dst []byte) []byte {
		if id := x.c.identity(); id != nil {
			return append(dst, text(id)...)
		}
		return dst
	}
}

// verifiedValue is ${tls_client_verified}.
func verifiedValue(x *Exchange, dst []byte) []byte {
	if x.c.identity() != nil {
		return append(dst, "yes"...)
	}
	return append(dst, "no"...)
}
