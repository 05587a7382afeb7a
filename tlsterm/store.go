package tlsterm

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/filewatch"
)

// Store holds the certificates of one listener and the tls.Config that offers them. Its options never change: a reload
// that changes them builds the next one. What its files hold may (Refresh).
type Store struct {
	// Static after Load.
	opts     Options
	own      policy
	policies []policy // of opts.Policies
	config   *tls.Config
	rules    byName[*tls.Config] // of policies
	tickets  *Tickets
	stapler  *Stapler
	live     *live
	auths    []*clientAuth // of own and then of policies; nil where nobody is asked for a certificate
	keyLog   io.Writer     // nil if there is none

	content atomic.Pointer[content]

	mu     sync.Mutex // one Refresh at a time; no handshake takes it
	liveMu sync.Mutex // one change of live at a time; guards memory only

	watcher
}

// content is what the files of a store hold. It is never changed.
type content struct {
	loaded   []*loadedCert
	infos    []CertInfo
	findings []*Finding     // none of them fatal
	trusts   []*clientTrust // as Store.auths

	issuers    []*x509.Certificate // of ocsp.ca_file
	issuersSum [sha256.Size]byte   // of what was in it
}

// live is what handshakes look up. It and the ticket keys are all that a tls.Config refers to, and with it
// every connection accepted with it for as long as it is open, though it needs neither after its handshake: crypto/tls never
// lets go of a Config. So renewed certificates are swapped here, and no connection keeps the old ones.
type live struct {
	atomic.Pointer[names]
	onJA4 func(conn net.Conn, ja4 string) error // nil, or set before the first handshake
}

// names is which certificates answer to which name, and by which rules. It is never changed.
type names struct {
	certs  byName[*choice]
	def    *choice // what a client without a known name gets
	reject bool    // refuse unknown names

	rules byName[*tls.Config] // of Options.Policies; other names follow the rules of the listener
	own   *tls.Config         // those, where they ask for certificates; nil is what the connection was accepted with

	auths   byName[*clientAuth] // of Options.Policies, nil where nobody is asked
	ownAuth *clientAuth
	deep    bool // a wildcard of auths requires certificates and ownAuth does not
}

// choice is the certificates that answer to one name, the preferred key type
// first: ECDSA, Ed25519, RSA; and in the order of the options among equals. Behind them are, likewise, those
// that clients may refuse: revoked, or lacking the stapled answer that they demand. Last come those that an exact name has from its wildcard.
type choice struct {
	certs []*tls.Certificate
}

// ErrNoCertificates is returned by Load for options without a certificate.
var ErrNoCertificates = errors.New("tls: no certificates configured (want at least one of certificates)")

// Load reads all certificates and builds the store. The error joins everything that
// is wrong, each part with its file.
//
// prev is the listener's store so far, or nil. If the options are equal and all files hold
// what they did, Load returns prev itself, so that the connections accepted over any number of reloads
// refer to one tls.Config. Otherwise certificates that did not change are still shared.
//
// While the ticket options are equal, the new store goes on with the session ticket keys of prev, so that a reload costs
// clients no full handshake. Likewise it goes on with what prev knows of the revocation of certificates. Tickets issued under
// another policy than its own it refuses all the same, whoever has the keys: a ticket must not resume what the policy would refuse (policy.sum).
func Load(o *Options, prev *Store) (*Store, error) {
	s := &Store{opts: o.clone(), live: &live{}}
	// Stamps before contents: what changes in between is read again.
	s.files, s.counts = filewatch.New(o.paths()...), &fileCounts{}
	var known *content
	var prevTickets *Tickets
	var prevStapler *Stapler
	if prev != nil {
		known, prevTickets, prevStapler, s.counts = prev.content.Load(), prev.tickets, prev.stapler, prev.counts
	}
	var errs []error
	s.own, s.policies = s.opts.resolve(func(key string, err error) {
		errs = append(errs, fmt.Errorf("tls: %s: %w", key, err))
	})
	s.makeAuths()
	next, err := s.read(known)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	if s.tickets, err = loadTickets(o.Tickets, prevTickets); err != nil {
		return nil, err
	}
	s.stapler = newStapler(o.OCSP, prevStapler, s.restaple)
	if prev != nil && reflect.DeepEqual(prev.opts, s.opts) && known.same(next) {
		prevStapler.recheckFiles()
		return prev, nil
	}
	if err := s.openKeyLog(); err != nil {
		return nil, err
	}
	s.config = s.newConfig(&s.own, s.auths[0])
	for i := range s.policies {
		c := s.newConfig(&s.policies[i], s.auths[1+i])
		for _, name := range normalize(s.opts.Policies[i].Names) {
			s.rules.add(name, c)
		}
	}
	s.config.GetConfigForClient = s.live.configFor
	if s.opts.JA4 {
		s.config.GetConfigForClient = s.live.fingerprinted
	}
	s.stapler.setCerts(next.loaded, next.issuers)
	s.publish(next)
	return s, nil
}

// same reports whether both were read from the same bytes.
func (c *content) same(d *content) bool {
	return slices.Equal(c.loaded, d.loaded) && slices.Equal(c.trusts, d.trusts) && c.issuersSum == d.issuersSum
}

func (o *Options) clone() Options {
	c := *o
	c.Certificates = slices.Clone(o.Certificates)
	for i := range c.Certificates {
		c.Certificates[i].Names = slices.Clone(c.Certificates[i].Names)
	}
	c.Policies = slices.Clone(o.Policies)
	for i := range c.Policies {
		c.Policies[i].Names = slices.Clone(c.Policies[i].Names)
		c.Policies[i].ClientAuth = c.Policies[i].ClientAuth.clone()
	}
	c.ClientAuth = *c.ClientAuth.clone()
	c.Tickets.Files = slices.Clone(o.Tickets.Files)
	return c
}

// read reads the files. What has not changed since known, which may be nil, is shared with it.
func (s *Store) read(known *content) (*content, error) {
	next := &content{}
	var errs []error
	if len(s.opts.Certificates) == 0 {
		errs = append(errs, ErrNoCertificates)
	}
	var before []*loadedCert
	if known != nil {
		before = known.loaded
	}
	next.loaded, next.findings = readCerts(&s.opts, before, time.Now())
	if err := errors.Join(append(errs, fatal(next.findings), s.readTrust(known, next), s.readIssuers(next))...); err != nil {
		return nil, err
	}
	next.describe()
	return next, nil
}

// readIssuers reads ocsp.ca_file.
func (s *Store) readIssuers(next *content) (err error) {
	if s.opts.OCSP.follows() {
		next.issuers, next.issuersSum, err = readIssuers(s.opts.OCSP.CAFile)
	}
	return err
}

// Refresh reads the files again. If all are good and any has changed, handshakes use what they hold from here on;
// if any is bad, all stays as it was. Bad is also what is not valid at this time in place of what is: nobody renews a certificate
// with an expired one on purpose. A new certificate that must be stapled waits for its answer first, at most ocsp.timeout.
// It must not be called by a handshake or a loop.
func (s *Store) Refresh() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stapler.recheckFiles()
	known := s.content.Load()
	next, err := s.read(known)
	if err != nil || known.same(next) {
		return false, err
	}
	if err := spoilt(known, next, time.Now()); err != nil {
		return false, err
	}
	s.stapler.setCerts(slices.Concat(known.loaded, next.loaded), next.issuers) // those so far are still in use
	s.stapler.Prime()
	s.publish(next)
	s.stapler.setCerts(next.loaded, next.issuers)
	return true, nil
}

// spoilt finds what is not valid now and takes the place of what is.
func spoilt(known, next *content, now time.Time) error {
	var errs []error
	for _, f := range next.findings {
		if i := f.Index; f.Problem == CertExpired || f.Problem == CertNotYetValid {
			if was := &known.infos[i]; !now.Before(was.NotBefore) && now.Before(was.ChainNotAfter) {
				errs = append(errs, f)
			}
		}
	}
	return errors.Join(errs...)
}

// goLive has handshakes use what is in c. s.liveMu must be held.
func (s *Store) goLive(c *content) {
	n := s.index(c)
	s.applyTrust(c.trusts, n)
	s.live.Store(n)
}

// publish makes next what handshakes use.
func (s *Store) publish(next *content) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	s.goLive(next)
	s.content.Store(next)
}

// restaple has handshakes use the answers that the stapler has now.
func (s *Store) restaple() {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	s.goLive(s.content.Load())
}

// Config returns the configuration for tls.Server. It is shared by all connections
// and must not be changed.
func (s *Store) Config() *tls.Config { return s.config }

// Tickets returns the ticket keys, which stores of successive reloads share. Whoever uses the store starts and closes them.
func (s *Store) Tickets() *Tickets { return s.tickets }

// Stapler returns what keeps the stapled answers. Whoever uses the store starts and closes it.
func (s *Store) Stapler() *Stapler { return s.stapler }

// Certificates describes the certificates in the order of the options.
func (s *Store) Certificates() []CertInfo { return s.content.Load().infos }

// Findings are what is unwise about the certificates, as it was when their files were last read. The ones in use have
// no fatal ones.
func (s *Store) Findings() []*Finding { return s.content.Load().findings }

// newConfig builds the tls.Config of a policy. auth is nil if it asks for no certificates.
func (s *Store) newConfig(p *policy, auth *clientAuth) *tls.Config {
	seal := &sealer{tickets: s.tickets, policy: p.sum(), auth: auth}
	c := &tls.Config{
		MinVersion:       p.MinVersion,
		MaxVersion:       p.MaxVersion,
		CipherSuites:     p.CipherSuites,
		CurvePreferences: p.Groups,
		NextProtos:       p.ALPN,
		// Do not set Certificates here: crypto/tls would take them for a client without a server name, and
		// could not answer an unknown one with the alert unrecognized_name.
		GetCertificate: s.live.certificate, // not s.certificate, which would refer to the whole store
		WrapSession:    seal.wrap,
		UnwrapSession:  seal.unwrap,

		SessionTicketsDisabled: s.opts.Tickets.Source == ticketsOff,
	}
	if auth != nil {
		auth.configure(c)
	}
	if s.keyLog != nil {
		c.KeyLogWriter = s.keyLog
	}
	return c
}

// openKeyLog opens the file for session secrets. Nobody closes it: connections write to it for as long as they are
// open, and it goes with the last of them.
func (s *Store) openKeyLog() error {
	name := s.opts.InsecureKeyLogFile
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("tls: insecure_key_log_file: %w", err)
	}
	s.keyLog = f
	return nil
}

// index sorts the certificates under their names, with what is stapled to each.
func (s *Store) index(c *content) *names {
	n := &names{reject: s.opts.UnknownName == "reject", def: &choice{}}
	avoid := map[*tls.Certificate]bool{}
	for i, lc := range c.loaded {
		cert := lc.cert
		der, last := s.stapler.staple(lc)
		if der != nil {
			stapled := *cert
			stapled.OCSPStaple = der
			cert = &stapled
		}
		avoid[cert] = last
		for _, name := range lc.names {
			ch, ok := n.certs.get(name)
			if !ok {
				ch = &choice{}
				n.certs.set(name, ch)
			}
			ch.certs = append(ch.certs, cert)
		}
		if c.infos[i].Default {
			n.def.certs = append(n.def.certs, cert)
		}
	}
	n.def.sort(avoid)
	for ch := range n.certs.all() {
		ch.sort(avoid)
	}
	n.fallBack()
	return n
}

// fallBack puts behind the certificates of each exact name, which are sorted, those of the wildcard that covers it and whose kinds of key
// it lacks: else an exact name of one kind would lock out the clients that the wildcard has the other kind for.
func (n *names) fallBack() {
	for name, ch := range n.certs.exact {
		_, suffix, _ := strings.Cut(name, ".")
		wild, ok := n.certs.wildcard[suffix]
		if !ok {
			continue
		}
		own := ch.certs
		for _, cert := range wild.certs {
			if !slices.ContainsFunc(own, func(c *tls.Certificate) bool { return keyRank(c) == keyRank(cert) }) {
				ch.certs = append(ch.certs, cert)
			}
		}
	}
}

// describe fills in infos.
func (c *content) describe() {
	for i, lc := range c.loaded {
		// The default is the first certificate together with its twins of another key type.
		info := lc.info
		info.Default = i == 0 || slices.Equal(lc.names, c.loaded[0].names)
		c.infos = append(c.infos, info)
	}
}

// sort puts those to avoid last.
func (ch *choice) sort(avoid map[*tls.Certificate]bool) {
	rank := func(cert *tls.Certificate) int {
		if avoid[cert] {
			return keyRank(cert) + keyRanks
		}
		return keyRank(cert)
	}
	slices.SortStableFunc(ch.certs, func(a, b *tls.Certificate) int { return rank(a) - rank(b) })
}
