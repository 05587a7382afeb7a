package tlsterm

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// ClientAuthOptions says whether clients have to show a certificate, and which are good. The files are read again when they change; if
// they cannot be used then, what was read before stays in force.
type ClientAuthOptions struct {
	// "off" asks for none. "optional" asks for one: a client without it is let in without an identity, and one whose certificate is not good is refused. "required" refuses
	// a client without one, too. Refused is in the handshake, with an alert; nginx finishes it and answers 400.
	Mode string `yaml:"mode" default:"off" enum:"off|optional|required"`
	// PEM file of the authorities that issue client certificates. Each of its certificates is trusted by itself, also an intermediate one without its root. The
	// system's authorities are never asked. Clients are told their names, so that they can choose a certificate.
	CAFile string `yaml:"ca_file"`
	// Revocation lists, PEM or DER, of the authorities in ca_file. That of an intermediate authority which clients send with their certificate
	// needs its certificate beside it in the file, or in ca_file; there it is trusted by itself. Several of one authority are joined. Delta and indirect lists are not understood.
	CRLFiles []string `yaml:"crl_files" file:"true"`
	// Refuse a client if no list of crl_files covers its certificate, or one of the intermediates that it sent.
	CRLRequired bool `yaml:"crl_required" default:"false"`
	// What a list whose next update is overdue is worth: "refuse" refuses the clients that it covers, as nginx does; "accept" goes on with it, for authorities
	// that publish late. Either way it is logged, and exported as tickgate_tls_client_crl_next_update_timestamp_seconds.
	CRLExpired string `yaml:"crl_expired" default:"refuse" enum:"refuse|accept"`
	// Most intermediates between a client's certificate and the authority in ca_file.
	Depth int `yaml:"depth" default:"5" min:"0" max:"20"`
}

// The modes of client authentication.
const (
	clientAuthOff      = "off"
	clientAuthOptional = "optional"
	clientAuthRequired = "required"
)

// asks reports whether clients are asked for a certificate.
func (o *ClientAuthOptions) asks() bool { return o.Mode != "" && o.Mode != clientAuthOff }

// authType is what crypto/tls is told. It verifies certificates that are there; all that it does not know of
// is for clientAuth.verify.
func (o *ClientAuthOptions) authType() tls.ClientAuthType {
	switch o.Mode {
	case clientAuthOptional:
		return tls.VerifyClientCertIfGiven
	case clientAuthRequired:
		return tls.RequireAndVerifyClientCert
	}
	return tls.NoClientCert
}

// ClientCertProblem says what was wrong with a client's certificate.
type ClientCertProblem uint8

// Problems.
const (
	ClientCertMissing     ClientCertProblem = iota // there is none, and client_auth.mode is required
	ClientCertUntrusted                            // no authority in ca_file vouches for it, or its intermediates are missing
	ClientCertExpired                              // it, or one above it, has expired
	ClientCertNotYetValid                          // or is not valid yet
	ClientCertRevoked                              // a revocation list names it, or one above it
	ClientCertUncovered                            // no revocation list covers it, and crl_required is set
	ClientCertListExpired                          // the revocation list that covers it is overdue, and crl_expired is refuse
	ClientCertWrongUsage                           // it is not for clients (extended key usage)
	ClientCertTooDeep                              // more intermediates than client_auth.depth
	ClientCertUnproven                             // the client does not hold its key
	ClientCertOther                                // malformed, a name constraint, a signature algorithm that nobody should use
	numClientCertProblems
)

var clientCertProblemWords = [numClientCertProblems]string{
	ClientCertMissing:     "missing",
	ClientCertUntrusted:   "untrusted",
	ClientCertExpired:     "expired",
	ClientCertNotYetValid: "not_yet_valid",
	ClientCertRevoked:     "revoked",
	ClientCertUncovered:   "crl_missing",
	ClientCertListExpired: "crl_expired",
	ClientCertWrongUsage:  "wrong_usage",
	ClientCertTooDeep:     "too_deep",
	ClientCertUnproven:    "unproven",
	ClientCertOther:       "other",
}

// String returns the snake_case word used in metrics, logs and tests.
func (p ClientCertProblem) String() string {
	if p >= numClientCertProblems {
		return "unknown"
	}
	return clientCertProblemWords[p]
}

// ClientCertProblems returns every problem in order, for registering metric series at 0.
func ClientCertProblems() []ClientCertProblem {
	all := make([]ClientCertProblem, numClientCertProblems)
	for i := range all {
		all[i] = ClientCertProblem(i)
	}
	return all
}

// ClientCertError is why a client's certificate was refused, where crypto/tls itself found nothing wrong.
type ClientCertError struct {
	Problem ClientCertProblem
	// Subject, Issuer and Serial are those of the certificate at fault, "" if there is none. Their text is as in Identity.
	Subject, Issuer, Serial string
}

func (e *ClientCertError) Error() string {
	if e.Serial == "" {
		return "tls: client certificate: " + e.Problem.String()
	}
	return fmt.Sprintf("tls: client certificate: %s: %q (serial %s) of %q", e.Problem, e.Subject, e.Serial, e.Issuer)
}

func clientCertError(p ClientCertProblem, c *x509.Certificate) *ClientCertError {
	return &ClientCertError{
		Problem: p, Subject: distinguishedName(c.RawSubject), Issuer: distinguishedName(c.RawIssuer), Serial: c.SerialNumber.Text(16),
	}
}

// ClientCertProblemOf says what was wrong with the client's certificate if that is why a handshake failed
// (BadClientCertificate).
func ClientCertProblemOf(err error) (ClientCertProblem, bool) {
	var own *ClientCertError
	if errors.As(err, &own) {
		return own.Problem, true
	}
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		return verificationProblem(verification.Err), true
	}
	if err == nil {
		return 0, false
	}
	for _, t := range clientCertTexts {
		if strings.HasPrefix(err.Error(), t.prefix) {
			return t.problem, true
		}
	}
	return 0, false
}

// clientCertTexts are the errors about client certificates for which crypto/tls has no type (see texts).
var clientCertTexts = []struct {
	prefix  string
	problem ClientCertProblem
}{
	{"tls: client didn't provide a certificate", ClientCertMissing},
	{"tls: client certificate used with invalid signature algorithm", ClientCertUnproven},
	{"tls: invalid signature by the client certificate", ClientCertUnproven},
	{"tls: failed to parse client certificate", ClientCertOther},
	{"tls: client certificate contains an unsupported public key", ClientCertOther},
	{"tls: client sent certificate containing RSA key larger", ClientCertOther},
}

func verificationProblem(err error) ClientCertProblem {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return ClientCertUntrusted
	}
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) {
		return ClientCertOther
	}
	switch invalid.Reason {
	case x509.Expired: // also said of one that is not valid yet
		if invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore) {
			return ClientCertNotYetValid
		}
		return ClientCertExpired
	case x509.IncompatibleUsage:
		return ClientCertWrongUsage
	}
	return ClientCertOther
}

// clientAuth judges the clients of one policy. Connections refer to it for as long as they are open, by way of their tls.Config;
// what it judges by is behind a pointer, so that none of them keeps an old revocation list in memory.
type clientAuth struct {
	opts  ClientAuthOptions
	made  uint64 // a number of its own
	trust atomic.Pointer[clientTrust]
	now   func() time.Time // time.Now, but in tests
}

// numbers are given to what judges clients and what they are judged by, so that an identity can tell what it was last judged by without
// keeping that in memory.
var numbers atomic.Uint64

// epoch changes with the options and with the files.
func (a *clientAuth) epoch(t *clientTrust) uint64 { return a.made<<32 | t.made&(1<<32-1) }

// stands judges the client of an open connection again, if what it is judged by has changed since. The error names the client, even if
// a certificate above its own is at fault. One whose certificate has run out is judged as of its last second: what is to become of its connection
// must not depend on whether a file has changed meanwhile.
func (a *clientAuth) stands(id *Identity) error {
	epoch := a.epoch(a.trust.Load())
	if id.judged.Load() == epoch {
		return nil
	}
	at := a.now()
	if at.After(id.NotAfter) {
		at = id.NotAfter
	}
	var first error
	for i := range id.chains {
		p, _, ok := a.judge(&id.chains[i], at)
		if ok {
			id.judged.Store(epoch)
			return nil
		}
		if first == nil {
			first = &ClientCertError{Problem: p, Subject: id.Subject, Issuer: id.Issuer, Serial: id.Serial}
		}
	}
	return first
}

// lapsed judges a client that has been here for long: other than stands, it looks at the time whatever was found before. An overdue list
// ends nobody: it keeps out who comes, and of who is here it says what it said. Nor does a clock that was set back.
func (a *clientAuth) lapsed(id *Identity) (why ClientCertProblem, lapsed bool) {
	now := a.now()
	for i := range id.chains {
		p, _, ok := a.vouched(&id.chains[i], now)
		if ok || p == ClientCertListExpired {
			p, _, ok = id.chains[i].at(now)
			if ok || p == ClientCertNotYetValid {
				return 0, false
			}
		}
		if i == 0 || p == ClientCertExpired { // which is the least that can be wrong with any of them
			why = p
		}
	}
	return why, true
}

// configure makes conf ask for certificates as the options say. Which authorities it names and trusts is for applyTrust.
func (a *clientAuth) configure(conf *tls.Config) {
	conf.ClientAuth = a.opts.authType()
	conf.ClientCAs = x509.NewCertPool() // nobody; nil would be the system's
	conf.VerifyConnection = a.verify
}

// verify is tls.Config.VerifyConnection. It runs at the end of every handshake, resumed ones too, for
// which crypto/tls does not verify anything again but the times and the root.
func (a *clientAuth) verify(st tls.ConnectionState) error {
	if len(st.PeerCertificates) == 0 {
		if a.opts.Mode == clientAuthRequired {
			return &ClientCertError{Problem: ClientCertMissing}
		}
		return nil
	}
	if len(st.VerifiedChains) == 0 {
		return clientCertError(ClientCertUntrusted, st.PeerCertificates[0])
	}
	return a.judgeAny(st.VerifiedChains)
}

// judgeAny finds a certificate good if one of its chains is. The problem told is that of the first.
func (a *clientAuth) judgeAny(chains [][]*x509.Certificate) error {
	var first error
	for _, chain := range chains {
		proven := prove(chain)
		p, at, ok := a.judge(&proven, a.now())
		if ok {
			return nil
		}
		if first == nil {
			first = clientCertError(p, chain[at])
		}
	}
	return first
}

// judge looks at one chain that was verified at some time. If it does not stand, at is the index of the certificate at fault, the leaf's being 0.
func (a *clientAuth) judge(chain *provenChain, now time.Time) (p ClientCertProblem, at int, ok bool) {
	if p, at, ok = a.vouched(chain, now); !ok {
		return p, at, false
	}
	return chain.at(now)
}

// vouched is judge but for the times of the certificates. An overdue list is the least that can be wrong: it is what is told only if nothing else is.
func (a *clientAuth) vouched(chain *provenChain, now time.Time) (p ClientCertProblem, at int, ok bool) {
	t := a.trust.Load()
	if !t.anchors[chain.root] {
		return ClientCertUntrusted, 0, false
	}
	if len(chain.certs)-1 > a.opts.Depth {
		return ClientCertTooDeep, 0, false
	}
	if len(t.lists) == 0 && !a.opts.CRLRequired {
		return 0, 0, true
	}
	ok = true
	for i := range chain.certs {
		c := &chain.certs[i]
		switch found, stands := a.standing(t, c.id, c.isCA, now); {
		case stands:
		case found != ClientCertListExpired:
			return found, i, false
		case ok:
			p, at, ok = found, i, false
		}
	}
	return p, at, ok
}

// standing looks one certificate up in the revocation lists.
func (a *clientAuth) standing(t *clientTrust, id issuedID, isCA bool, now time.Time) (ClientCertProblem, bool) {
	list := t.lists[id.issuer]
	switch {
	case list != nil && list.revoked(id.serial):
		return ClientCertRevoked, false
	case list == nil || !list.covers(isCA):
		return ClientCertUncovered, !a.opts.CRLRequired
	case a.opts.CRLExpired != "accept" && list.overdue(now):
		return ClientCertListExpired, false
	}
	return 0, true
}

// sessionMark begins what a ticket holds about its client's certificates.
var sessionMark = []byte("client\x00")

// note returns what is to be known of the client when its session is resumed: the certificates of its chain but the root, as
// crypto/tls does not tell UnwrapSession. It is nil for a client without a certificate.
func (a *clientAuth) note(st *tls.ConnectionState) []byte {
	if a == nil {
		return nil
	}
	for _, chain := range st.VerifiedChains {
		proven := prove(chain)
		if _, _, ok := a.judge(&proven, a.now()); !ok {
			continue
		}
		out := bytes.Clone(sessionMark)
		for i := range proven.certs {
			out = proven.certs[i].id.append(out)
		}
		return out
	}
	return nil
}

// resumes reports whether a session with these notes may be resumed, as far as revocation lists know. One that may not costs
// its client a full handshake, in which it can show a newer certificate. verify is asked in any case.
func (a *clientAuth) resumes(extra [][]byte) bool {
	if a == nil {
		return true
	}
	t := a.trust.Load()
	for _, e := range extra {
		ids, ok := bytes.CutPrefix(e, sessionMark)
		if !ok {
			continue
		}
		for len(ids) >= issuedSize {
			if id := parseIssued(ids); t.lists[id.issuer] != nil && t.lists[id.issuer].revoked(id.serial) {
				return false
			}
			ids = ids[issuedSize:]
		}
	}
	return true
}
