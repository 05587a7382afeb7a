package tlsterm

import (
	"crypto/tls"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"
)

func (o *ClientAuthOptions) clone() *ClientAuthOptions {
	if o == nil {
		return nil
	}
	c := *o
	c.CRLFiles = slices.Clone(o.CRLFiles)
	return &c
}

// clientAuths are the client authentications of the listener and its policies that ask for certificates.
func (o *Options) clientAuths() (list []*ClientAuthOptions) {
	if o.ClientAuth.asks() {
		list = append(list, &o.ClientAuth)
	}
	for i := range o.Policies {
		if a := o.Policies[i].ClientAuth; a != nil && a.asks() {
			list = append(list, a)
		}
	}
	return list
}

// makeAuths makes what judges clients, one for those policies that say the same.
func (s *Store) makeAuths() {
	for _, p := range append([]policy{s.own}, s.policies...) {
		var auth *clientAuth
		if p.ClientAuth.asks() {
			i := slices.IndexFunc(s.auths, func(a *clientAuth) bool { return a != nil && reflect.DeepEqual(a.opts, p.ClientAuth) })
			if i < 0 {
				auth = &clientAuth{opts: p.ClientAuth, made: numbers.Add(1), now: time.Now}
			} else {
				auth = s.auths[i]
			}
		}
		s.auths = append(s.auths, auth)
	}
}

// sameFiles reports whether b, which may be nil, judges by the same files.
func (a *clientAuth) sameFiles(b *clientAuth) bool {
	return b != nil && a.opts.CAFile == b.opts.CAFile && slices.Equal(a.opts.CRLFiles, b.opts.CRLFiles)
}

// readTrust reads the files of every client authentication into next. What has not changed since known, which may be
// nil or of other options, is shared with it.
func (s *Store) readTrust(known, next *content) error {
	var before []*clientTrust
	if known != nil {
		before = known.trusts
	}
	var errs []error
	for i, a := range s.auths {
		if a == nil {
			next.trusts = append(next.trusts, nil)
			continue
		}
		if first := slices.IndexFunc(s.auths, a.sameFiles); first < i { // an error is told once
			next.trusts = append(next.trusts, next.trusts[first])
			continue
		}
		t, err := loadTrust(&a.opts, before)
		next.trusts = append(next.trusts, t)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// applyTrust has clients judged by what was read, and puts into n the tls.Configs that name its authorities. What judges goes
// first: a handshake that began with the authorities of before and ends now is held to those of now.
func (s *Store) applyTrust(trusts []*clientTrust, n *names) {
	configs := map[*tls.Config]*tls.Config{}
	named := func(conf *tls.Config, t *clientTrust) *tls.Config {
		c := configs[conf]
		if c == nil {
			c = conf.Clone()
			c.ClientCAs = t.pool
			c.GetConfigForClient = nil
			configs[conf] = c
		}
		return c
	}
	for i, a := range s.auths {
		if a != nil {
			a.trust.Store(trusts[i])
		}
	}
	if s.auths[0] != nil {
		n.own = named(s.config, trusts[0])
	}
	n.ownAuth = s.auths[0]
	n.rules = byName[*tls.Config]{}
	for i := range s.policies {
		auth := s.auths[1+i]
		for _, name := range normalize(s.opts.Policies[i].Names) {
			conf, _ := s.rules.get(name)
			if auth != nil {
				conf = named(conf, trusts[1+i])
			}
			n.rules.add(name, conf)
			n.auths.add(name, auth)
		}
	}
	n.findDeep()
}

// AsksClients reports whether clients of any name are asked for a certificate.
func (s *Store) AsksClients() bool {
	return slices.ContainsFunc(s.auths, func(a *clientAuth) bool { return a != nil })
}

// Stands reports why a client that proved an identity when it connected, asking for serverName, would not be let in any more: its certificate was revoked,
// or its authority removed. It costs little while nothing has changed.
func (s *Store) Stands(id *Identity, serverName string) error {
	auth := s.live.Load().authOf(serverName)
	if auth == nil {
		return nil // nobody is asked any more
	}
	return auth.stands(id)
}

// Lapsed reports whether a client that proved an identity when it connected, asking for serverName, is to be let go, and what is wrong with it: what
// Stands finds, or ClientCertExpired; one whose certificate is both revoked and expired is revoked. A revocation list that is overdue ends nobody.
func (s *Store) Lapsed(id *Identity, serverName string) (ClientCertProblem, bool) {
	auth := s.live.Load().authOf(serverName)
	if auth == nil {
		return 0, false // nobody is asked any more
	}
	return auth.lapsed(id)
}

// Requires reports whether clients that ask for serverName have to show a certificate.
func (s *Store) Requires(serverName string) bool {
	return s.live.Load().authOf(serverName).requires()
}

// Misdirected reports whether clients of host are asked for a certificate by other rules than those of serverName, so that a connection
// made for this name must not serve that host, which is in lower case. It does not allocate.
func (s *Store) Misdirected(serverName string, host []byte) bool {
	n := s.live.Load()
	if string(host) == serverName && len(host) <= maxServerName && !n.deep {
		return false // else the handshake may have been under the rules of the listener all the same
	}
	auth := n.authOfHost(host)
	return auth != nil && auth != n.authOf(serverName)
}

func (n *names) authOf(serverName string) *clientAuth {
	if auth, ok := n.auths.find(serverName); ok {
		return auth
	}
	return n.ownAuth
}

// authOfHost is authOf for a host that a request asks for. The star of a policy stands for one label, that of a route's host for any number: else
// whoever asks for a host further below a policy that requires certificates would get in without one.
func (n *names) authOfHost(host []byte) *clientAuth {
	if auth, ok := n.auths.findLower(host); ok {
		return auth
	}
	if n.deep {
		if auth, _ := n.auths.above(host); auth.requires() {
			return auth
		}
	}
	return n.ownAuth
}

// requires reports whether nobody gets in without a certificate. A nil a asks for none.
func (a *clientAuth) requires() bool { return a != nil && a.opts.Mode == clientAuthRequired }

// findDeep sets deep.
func (n *names) findDeep() {
	for _, auth := range n.auths.wildcard {
		n.deep = n.deep || auth.requires() && !n.ownAuth.requires()
	}
}

// RevocationLists describes the revocation lists in use.
func (s *Store) RevocationLists() []CRLInfo {
	var list []CRLInfo
	for _, t := range s.content.Load().trusts {
		if t == nil {
			continue
		}
		for _, info := range t.infos {
			if !slices.Contains(list, info) {
				list = append(list, info)
			}
		}
	}
	return list
}

// reportOverdue tells of the revocation lists in use that are overdue and not in told yet. What is in told and no longer in use, it forgets.
func (s *Store) reportOverdue(told map[CRLInfo]bool, report func(FileReport)) {
	lists := s.RevocationLists()
	maps.DeleteFunc(told, func(l CRLInfo, _ bool) bool { return !slices.Contains(lists, l) })
	for i, l := range lists {
		if l.overdue(time.Now()) && !told[l] {
			told[l] = true
			report(FileReport{Overdue: &lists[i]})
		}
	}
}
