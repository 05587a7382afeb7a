package tlsterm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// ClientKind is a kind of client that Simulate plays.
type ClientKind uint8

// Clients. What they offer is that of their time, as far as crypto/tls can offer it: it puts suites and groups in an order of its own.
const (
	CurrentBrowser ClientKind = iota // TLS 1.2 and 1.3, X25519MLKEM768 first; offers h2 and http/1.1
	OlderBrowser                     // a phone of 2019: TLS 1.2 and 1.3, X25519 and P-256
	TradingClient                    // OpenSSL 1.1.1 or Java 11: TLS 1.2 and 1.3, X25519, then P-256; no ALPN
	LegacyClient                     // TLS 1.2 with RSA and P-256 only; sends no server name
	numClientKinds
)

var clientWords = [numClientKinds]string{
	CurrentBrowser: "current_browser", OlderBrowser: "older_browser", TradingClient: "trading_client", LegacyClient: "legacy_client",
}

// String returns the snake_case word used in JSON and tests.
func (k ClientKind) String() string {
	if k >= numClientKinds {
		return "unknown"
	}
	return clientWords[k]
}

// MarshalText writes the word, for JSON.
func (k ClientKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// InitialWindow is what a server may send before the client has acknowledged anything: ten segments of 1,460 bytes (RFC 6928). A
// first flight beyond it takes one more round trip.
const InitialWindow = 10 * 1460

// ClientCertificate says whether a listener wants one.
type ClientCertificate string

// Wishes for the certificate of a client.
const (
	ClientCertificateNone     ClientCertificate = "none"
	ClientCertificateOptional ClientCertificate = "optional"
	ClientCertificateRequired ClientCertificate = "required"
)

// Negotiation is what one client and the listener agree on.
type Negotiation struct {
	Client ClientKind `json:"client"`
	// Failure and Reason are set if they do not agree, and then nothing else is.
	Failure string `json:"failure,omitempty"`
	Reason  string `json:"reason,omitempty"`

	Version     string `json:"version,omitempty"`
	Group       string `json:"group,omitempty"`
	CipherSuite string `json:"cipher_suite,omitempty"`
	// KeyType and CertFile are of the certificate that the client gets.
	KeyType  string `json:"key_type,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	// Protocol is what ALPN chose; empty if it was not used.
	Protocol string `json:"alpn,omitempty"`
	// Retried is true if the client's first key share was of no use, which costs a round trip (HelloRetryRequest).
	Retried bool `json:"retried"`
	// Resumes is true if a second connection resumes the session of the first.
	Resumes bool `json:"resumes"`
	// Stapled is true if an OCSP answer comes along. One that is fetched from a responder is here only in the running gateway.
	Stapled bool `json:"stapled"`
	// ClientCertificate says whether one is asked for. Where it is required, the rest is what a client with an acceptable one gets.
	ClientCertificate ClientCertificate `json:"client_certificate,omitempty"`
	// FirstFlight is what the server sends before the client answers, in bytes; FitsWindow is true if that takes no more than InitialWindow.
	FirstFlight int  `json:"first_flight_bytes,omitempty"`
	FitsWindow  bool `json:"fits_initial_window"`
}

// MarshalJSON leaves out of a failure what was not settled.
func (n Negotiation) MarshalJSON() ([]byte, error) {
	if n.Failure != "" {
		return json.Marshal(struct {
			Client  ClientKind `json:"client"`
			Failure string     `json:"failure"`
			Reason  string     `json:"reason"`
		}{n.Client, n.Failure, n.Reason})
	}
	type plain Negotiation // without this method
	return json.Marshal(plain(n))
}

// Simulated is what becomes of clients that ask for some server names.
type Simulated struct {
	// Names all lead to the same. "*" is any name that no certificate covers.
	Names   []string      `json:"names"`
	Clients []Negotiation `json:"clients"`
}

// same reports whether the same becomes of the clients. Flights of the same certificates differ by some bytes, as ECDSA signatures do.
func (s Simulated) same(other Simulated) bool {
	return slices.EqualFunc(s.Clients, other.Clients, func(a, b Negotiation) bool {
		a.FirstFlight, b.FirstFlight = 0, 0
		return a == b
	})
}

// Unreachable reports whether every client that asks for one of the names is left without a connection, and not because
// the name is refused on purpose or the time was over. One that sends no name comes to the default certificate, whatever its name is.
func (s Simulated) Unreachable() bool {
	for i := range s.Clients {
		n := &s.Clients[i]
		switch {
		case offers[n.Client].nameless:
		case n.Failure == "", n.Failure == UnknownName.String(), n.Failure == TimedOut.String(), n.Failure == ClientGone.String():
			return false
		}
	}
	return true
}

// maxSimulated bounds the names of one listener that handshakes are made for.
const maxSimulated = 32

// AnyOtherName is the name in a Simulated that stands for all that no certificate covers.
const AnyOtherName = "*"

// otherName is asked for in its stead (RFC 6761 section 6.4).
const otherName = "no-such-name.invalid"

// Simulate shakes hands in memory with a client of every kind for each name, with the tls.Config that connections get. Names that
// lead to the same are together; leftOff counts those beyond a bound, which were not tried. ctx ends it early.
func (s *Store) Simulate(ctx context.Context) (all []Simulated, leftOff int) {
	names := s.simulatedNames()
	if len(names) > maxSimulated {
		leftOff = len(names) - maxSimulated
		names = names[:maxSimulated]
	}
	files := map[[sha256.Size]byte]string{}
	for _, lc := range s.content.Load().loaded {
		files[sha256.Sum256(lc.cert.Certificate[0])] = lc.info.CertFile
	}
	for _, name := range append(names, AnyOtherName) {
		next := Simulated{Names: []string{name}}
		for kind := range numClientKinds {
			sim := &simulation{kind: kind, server: s.config, files: files, serverName: askedFor(name)}
			next.Clients = append(next.Clients, sim.run(ctx))
		}
		if i := slices.IndexFunc(all, next.same); i >= 0 {
			all[i].Names = append(all[i].Names, name)
			continue
		}
		all = append(all, next)
	}
	return all, leftOff
}

// simulatedNames are the names of certificates and policies, sorted.
func (s *Store) simulatedNames() []string {
	names := map[string]bool{}
	for _, lc := range s.content.Load().loaded {
		for _, name := range lc.names {
			names[name] = true
		}
	}
	for i := range s.opts.Policies {
		for _, name := range normalize(s.opts.Policies[i].Names) {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// askedFor is the server name that a client sends for one of the names.
func askedFor(name string) string {
	if name == AnyOtherName {
		return otherName
	}
	if suffix, ok := strings.CutPrefix(name, "*."); ok {
		return "any." + suffix
	}
	return name
}

// clientOffers is what a kind of client offers.
type clientOffers struct {
	minVersion, maxVersion uint16
	groups                 []tls.CurveID
	suites                 []uint16 // of TLS 1.2
	schemes                []tls.SignatureScheme
	alpn                   []string
	nameless               bool // sends no server name
}

var (
	rsaSchemes = []tls.SignatureScheme{
		tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512,
	}
	webSchemes = append([]tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384}, rsaSchemes...)
	allSchemes = append([]tls.SignatureScheme{tls.ECDSAWithP521AndSHA512}, webSchemes...)

	rsaSuites = []uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
		tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	}
)

var offers = [numClientKinds]clientOffers{
	CurrentBrowser: {
		minVersion: tls.VersionTLS12, maxVersion: tls.VersionTLS13, schemes: webSchemes, alpn: []string{"h2", "http/1.1"},
		groups: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
	},
	OlderBrowser: {
		minVersion: tls.VersionTLS12, maxVersion: tls.VersionTLS13, schemes: webSchemes, alpn: []string{"h2", "http/1.1"},
		groups: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
	},
	TradingClient: {
		minVersion: tls.VersionTLS12, maxVersion: tls.VersionTLS13, schemes: allSchemes,
		groups: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	},
	LegacyClient: {
		minVersion: tls.VersionTLS12, maxVersion: tls.VersionTLS12, schemes: rsaSchemes, suites: rsaSuites, nameless: true,
		groups: []tls.CurveID{tls.CurveP256},
	},
}

// simulation is the work for one client and one name.
type simulation struct {
	kind       ClientKind
	server     *tls.Config
	files      map[[sha256.Size]byte]string // by the sum of the leaf
	serverName string

	// What was seen of the last handshake. The server's goroutine writes it, and is done when it is read.
	rules    *tls.Config // in force for the name
	unusable string      // the kind of key of the certificate that it gets, if it cannot verify that
	asked    bool        // for a certificate
}

// handshakeLimit ends a handshake that gets stuck, which only a bug could make it.
const handshakeLimit = 10 * time.Second

func (sim *simulation) run(ctx context.Context) Negotiation {
	n := Negotiation{Client: sim.kind, ClientCertificate: ClientCertificateNone}
	sessions := tls.NewLRUClientSessionCache(1)
	state, flight, err := sim.shake(ctx, sessions, false)
	if sim.asked {
		n.ClientCertificate = ClientCertificateOptional
	}
	if err != nil && sim.asked {
		// Without a certificate, it went as far as that. What else would be agreed on shows where it is only asked for.
		n.ClientCertificate = ClientCertificateRequired
		sessions = tls.NewLRUClientSessionCache(1)
		state, flight, err = sim.shake(ctx, sessions, true)
	}
	if err != nil {
		f := FailureReason(err)
		if sim.unusable != "" {
			f = NoSharedCipher
		}
		n.Failure, n.Reason, n.ClientCertificate = f.String(), sim.reason(f, err), ""
		return n
	}
	n.describe(state, sim.files)
	n.FirstFlight, n.FitsWindow = flight, flight <= InitialWindow
	if again, _, err := sim.shake(ctx, sessions, n.ClientCertificate == ClientCertificateRequired); err == nil {
		n.Resumes = again.DidResume
	}
	return n
}

// describe takes over what the client saw.
func (n *Negotiation) describe(state tls.ConnectionState, files map[[sha256.Size]byte]string) {
	n.Version, n.CipherSuite, n.Protocol = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.NegotiatedProtocol
	n.Group = groupText(state.CurveID)
	leaf := state.PeerCertificates[0]
	n.KeyType, n.CertFile = keyType(leaf), files[sha256.Sum256(leaf.Raw)]
	n.Retried, n.Stapled = state.HelloRetryRequest, len(state.OCSPResponse) > 0
}

// groupText names a group as the options do.
func groupText(id tls.CurveID) string {
	switch id {
	case tls.CurveP256:
		return "P-256"
	case tls.CurveP384:
		return "P-384"
	case tls.CurveP521:
		return "P-521"
	}
	return id.String()
}

// shake runs one handshake, with a byte behind it, with which the client also reads its session ticket. err is the server's, since it is
// the one that FailureReason knows. With excused, a client gets by without a certificate.
func (sim *simulation) shake(ctx context.Context, sessions tls.ClientSessionCache, excused bool) (state tls.ConnectionState, flight int, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	sim.rules, sim.unusable, sim.asked = sim.server, "", false
	clientEnd, serverEnd := memPipe()
	defer context.AfterFunc(ctx, func() { _ = clientEnd.Close() })()
	done := make(chan error, 1)
	go func() {
		server := tls.Server(serverEnd, sim.watched(excused))
		err := server.HandshakeContext(ctx)
		if err == nil {
			_, err = server.Write([]byte("!"))
		}
		_ = serverEnd.Close()
		done <- err
	}()
	client := tls.Client(clientEnd, sim.client(sessions))
	_, clientErr := io.ReadFull(client, make([]byte, 1))
	_ = clientEnd.Close()
	if err := <-done; err != nil || clientErr != nil {
		return state, 0, cmp.Or(err, clientErr)
	}
	return client.ConnectionState(), serverEnd.most, nil
}

// watched is the server's configuration, with an eye on what it decides, and what the client could verify if it were not played by crypto/tls.
func (sim *simulation) watched(excused bool) *tls.Config {
	c := sim.server.Clone()
	c.KeyLogWriter = nil
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		rules := sim.server
		if rules.GetConfigForClient != nil {
			own, err := rules.GetConfigForClient(hello)
			if err != nil {
				return nil, err
			}
			if own != nil {
				rules = own
			}
		}
		sim.rules = rules
		rules = rules.Clone()
		rules.GetCertificate, rules.KeyLogWriter = sim.choose(rules.GetCertificate), nil
		if excused {
			rules.ClientAuth = min(rules.ClientAuth, tls.RequestClientCert)
			rules.VerifyConnection, rules.VerifyPeerCertificate = nil, nil
		}
		return rules, nil
	}
	return c
}

var errUnusable = errors.New("the client cannot verify a certificate of this kind")

// choose lets the store choose a certificate for what a client of this kind could verify.
func (sim *simulation) choose(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		h := *hello
		h.SignatureSchemes = slices.DeleteFunc(slices.Clone(h.SignatureSchemes), func(s tls.SignatureScheme) bool {
			return !slices.Contains(offers[sim.kind].schemes, s)
		})
		cert, err := get(&h)
		if err != nil || cert == nil {
			return cert, err
		}
		// Whether the certificate is for the name is judged elsewhere.
		played := *hello
		h.ServerName, played.ServerName = "", ""
		if h.SupportsCertificate(cert) != nil && played.SupportsCertificate(cert) == nil {
			sim.unusable = keyType(cert.Leaf)
			return nil, errUnusable
		}
		return cert, nil
	}
}

// client is the configuration of the client.
func (sim *simulation) client(sessions tls.ClientSessionCache) *tls.Config {
	o := &offers[sim.kind]
	c := &tls.Config{
		MinVersion: o.minVersion, MaxVersion: o.maxVersion, CurvePreferences: o.groups, CipherSuites: o.suites, NextProtos: o.alpn,
		ClientSessionCache: sessions, ServerName: sim.serverName,
		// Whether it would trust the certificate is judged where that is loaded (Finding).
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			sim.asked = true
			return &tls.Certificate{}, nil
		},
	}
	if o.nameless {
		c.ServerName = ""
	}
	return c
}

// reason says in words why there is no agreement.
func (sim *simulation) reason(f Failure, err error) string {
	o := &offers[sim.kind]
	switch {
	case sim.unusable != "":
		return fmt.Sprintf("the certificate has a key of %s, which the client cannot verify", sim.unusable)
	case f == NoSharedVersion:
		return fmt.Sprintf("the client speaks TLS %s, the listener %s", versionRange(o.minVersion, o.maxVersion), versionRange(sim.rules.MinVersion, sim.rules.MaxVersion))
	case f == NoSharedCipher:
		return sim.nothingShared()
	case f == NoSharedProtocol:
		return fmt.Sprintf("the client offers %s, the listener %s", strings.Join(o.alpn, ", "), strings.Join(sim.rules.NextProtos, ", "))
	}
	if text := reasons[f]; text != "" {
		return text
	}
	return "the handshake fails: " + strings.TrimPrefix(err.Error(), "tls: ")
}

// reasons are sentences for the failures that need no more than that. Errors of crypto/tls hold numbers of the protocol.
var reasons = map[Failure]string{
	UnknownName:          "no certificate covers the name, and unknown_name is reject",
	BadClientCertificate: "the listener wants a certificate, and accepts none that the client has",
	ClientRejected:       "the client refuses what the listener sends",
	ClientGone:           "the handshake was ended before it was over",
	TimedOut:             "the handshake took too long",
	BadRecord:            "the client cannot be understood",
}

// nothingShared says what keeps a client that could verify the certificate from agreeing on how to encrypt.
func (sim *simulation) nothingShared() string {
	o := &offers[sim.kind]
	if shared := func(id tls.CurveID) bool { return slices.Contains(o.groups, id) }; !slices.ContainsFunc(sim.rules.CurvePreferences, shared) {
		return fmt.Sprintf("the client offers the groups %s, the listener %s", groupTexts(o.groups), groupTexts(sim.rules.CurvePreferences))
	}
	return "the client and the listener share no cipher suite that goes with the certificate"
}

func groupTexts(ids []tls.CurveID) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = groupText(id)
	}
	return strings.Join(words, ", ")
}

func versionRange(lowest, highest uint16) string {
	if lowest == highest {
		return versionText(lowest) + " only"
	}
	return versionText(lowest) + " and " + versionText(highest)
}
