package tlsterm

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Store holds the certificates of one listener and the tls.Config that offers
// them. It is never changed after Load: a reload that finds anything changed builds the next one.
type Store struct {
	opts    Options
	config  *tls.Config
	tickets *Tickets
	loaded  []*loadedCert
	infos   []CertInfo

	*names
}

// names is which certificates answer to which name. It and the ticket keys are all that the
// tls.Config refers to, and with it every connection accepted with it for as long as it is open,
// though it needs neither after its handshake: crypto/tls never lets go of a Config.
type names struct {
	exact    map[string]*choice // by server name
	wildcard map[string]*choice // by what follows the first dot
	def      *choice            // what a client without a known name gets
	reject   bool               // refuse unknown names
}

// choice is the certificates that answer to one name, the preferred key type
// first: ECDSA, Ed25519, RSA; and in the order of the options among equals.
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
// clients no full handshake. Tickets issued under other options than its own it refuses all the same, whoever has the
// keys: a ticket must not resume what the options would refuse (policyOf).
func Load(o *Options, prev *Store) (*Store, error) {
	s := &Store{
		opts:  *o,
		names: &names{exact: make(map[string]*choice), wildcard: make(map[string]*choice), reject: o.UnknownName == "reject"},
	}
	s.opts.Certificates = slices.Clone(o.Certificates)
	for i := range s.opts.Certificates {
		c := &s.opts.Certificates[i]
		c.Names = slices.Clone(c.Names)
	}
	s.opts.Tickets.Files = slices.Clone(o.Tickets.Files)
	minVersion, maxVersion, err := versions(o)
	errs := []error{err}
	if len(o.Certificates) == 0 {
		errs = append(errs, ErrNoCertificates)
	}
	var known []*loadedCert
	if prev != nil {
		known = prev.loaded
	}
	for i := range o.Certificates {
		lc, err := loadCert(&o.Certificates[i], known)
		s.loaded = append(s.loaded, lc)
		errs = append(errs, err, unreachable(lc, s.loaded[0]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var prevTickets *Tickets
	if prev != nil {
		prevTickets = prev.tickets
	}
	if s.tickets, err = loadTickets(o.Tickets, prevTickets); err != nil {
		return nil, err
	}
	if prev != nil && reflect.DeepEqual(prev.opts, s.opts) && slices.EqualFunc(prev.loaded, s.loaded, sameContent) {
		return prev, nil
	}
	s.index()
	s.config = s.buildConfig(minVersion, maxVersion)
	return s, nil
}

func sameContent(a, b *loadedCert) bool { return a.sum == b.sum }

// Config returns the configuration for tls.Server. It is shared by all connections
// and must not be changed.
func (s *Store) Config() *tls.Config { return s.config }

// Tickets returns the ticket keys, which stores of successive reloads share. Whoever uses the store starts and closes them.
func (s *Store) Tickets() *Tickets { return s.tickets }

// Certificates describes the certificates in the order of the options.
func (s *Store) Certificates() []CertInfo { return s.infos }

func (s *Store) buildConfig(minVersion, maxVersion uint16) *tls.Config {
	seal := &sealer{tickets: s.tickets, policy: policyOf(&s.opts)}
	return &tls.Config{
		MinVersion: minVersion,
		MaxVersion: maxVersion,
		NextProtos: []string{"http/1.1"},
		// Do not set Certificates here: crypto/tls would take them for a client without a server name, and
		// could not answer an unknown one with the alert unrecognized_name.
		GetCertificate: s.names.certificate, // not s.certificate, which would refer to the whole store
		WrapSession:    seal.wrap,
		UnwrapSession:  seal.unwrap,

		SessionTicketsDisabled: s.opts.Tickets.Source == ticketsOff,
	}
}

func versions(o *Options) (minVersion, maxVersion uint16, err error) {
	minVersion, errMin := version("min_version", o.MinVersion, tls.VersionTLS12)
	maxVersion, errMax := version("max_version", o.MaxVersion, tls.VersionTLS13)
	if err := errors.Join(errMin, errMax); err != nil {
		return 0, 0, err
	}
	if minVersion > maxVersion {
		return 0, 0, fmt.Errorf("tls: min_version %s is above max_version %s", o.MinVersion, o.MaxVersion)
	}
	return minVersion, maxVersion, nil
}

func version(key, text string, def uint16) (uint16, error) {
	switch text {
	case "":
		return def, nil
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("tls: %s: unknown version %q (want 1.2 or 1.3)", key, text)
}

// index sorts the certificates under their names.
func (s *Store) index() {
	s.def = &choice{}
	for i, lc := range s.loaded {
		for _, name := range lc.names {
			if suffix, ok := strings.CutPrefix(name, "*."); ok {
				add(s.wildcard, suffix, lc)
			} else {
				add(s.exact, name, lc)
			}
		}
		// The default is the first certificate together with its twins of another key type.
		info := lc.info
		if i == 0 || slices.Equal(lc.names, s.loaded[0].names) {
			s.def.certs = append(s.def.certs, lc.cert)
			info.Default = true
		}
		s.infos = append(s.infos, info)
	}
	s.def.sort()
	for _, byName := range []map[string]*choice{s.exact, s.wildcard} {
		for _, ch := range byName {
			ch.sort()
		}
	}
}

func add(byName map[string]*choice, name string, lc *loadedCert) {
	ch := byName[name]
	if ch == nil {
		ch = &choice{}
		byName[name] = ch
	}
	ch.certs = append(ch.certs, lc.cert)
}

func (ch *choice) sort() {
	slices.SortStableFunc(ch.certs, func(a, b *tls.Certificate) int {
		return keyRank(a) - keyRank(b)
	})
}
