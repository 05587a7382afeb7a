package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"tickgate/tlsterm"
)

// clientAuth judges how clients prove who they are. That ca_file is missing is reported with the other TLS rules.
func (v *validator) clientAuth(path string, o *tlsterm.ClientAuthOptions) {
	if o.Mode == "off" {
		for _, key := range []string{"ca_file", "crl_files", "crl_required", "crl_expired", "depth"} {
			switch {
			case !v.isSet(path + "." + key):
			case v.isSet(path + ".mode"):
				v.warn(path+".mode", "is off, so that the keys beside it have no effect")
				return
			default: // off is a default for those who do not think of clients
				v.fail(path+".mode", "is missing beside %s (want optional or required; off asks nobody)", key)
				return
			}
		}
		return
	}
	if o.CAFile == "" || v.hasBroken(path) {
		return
	}
	if o.CRLRequired && len(o.CRLFiles) == 0 {
		v.fail(path+".crl_required", "without crl_files every client would be refused")
	}
	if o.CRLExpired != "refuse" && len(o.CRLFiles) == 0 {
		v.warn(path+".crl_expired", "has no effect without crl_files")
	}
	authorities, lists := o.Examine(v.machine.readFile, func(key string, err error) { v.fail(path+"."+key, "%s", err) })
	for _, c := range authorities {
		v.authority(path+".ca_file", c)
	}
	now := v.machine.now()
	for _, l := range lists {
		if l.NextUpdate.IsZero() || !now.After(l.NextUpdate) {
			continue
		}
		consequence := "clients that it covers are refused"
		if o.CRLExpired == "accept" {
			consequence = "certificates revoked since are let in"
		}
		v.warn(path+".crl_files", "the next update of %q was due on %s: %s", l.File, l.NextUpdate.UTC().Format(time.DateOnly), consequence)
	}
}

// authority warns about an authority that is not valid, or not for much longer: its clients are refused then.
func (v *validator) authority(path string, c *x509.Certificate) {
	now := v.machine.now()
	switch left := c.NotAfter.Sub(now); {
	case left <= 0:
		v.warn(path, "the authority %q expired on %s: its clients are refused", c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
	case left < authorityNotice:
		v.warn(path, "the authority %q expires on %s, %s", c.Subject, c.NotAfter.UTC().Format(time.DateOnly), tlsterm.InText(left))
	case c.NotBefore.After(now):
		v.warn(path, "the authority %q is valid only from %s", c.Subject, c.NotBefore.UTC().Format(time.DateOnly))
	}
}

// authorityNotice is how long before its end an authority is warned about.
const authorityNotice = 30 * 24 * time.Hour

// identities judges the patterns of a route for its clients.
func (v *validator) identities(path string, r *Route) {
	for _, one := range []struct {
		key   string
		match *tlsterm.IdentityMatch
	}{{"identity", r.Identity}, {"require_identity", r.RequireIdentity}} {
		if one.match == nil || v.isBroken(path+"."+one.key) {
			continue
		}
		v.identity(path+"."+one.key, one.match)
		if r.Scheme == "http" {
			v.warn(path+"."+one.key, "nobody has an identity on a route of scheme http")
		} else if !v.asksClients() {
			v.warn(path+"."+one.key, "nobody has an identity: no listener has tls.client_auth")
		}
	}
	if r.Identity != nil && r.RequireIdentity != nil {
		v.warn(path+".require_identity", "is asked only of the clients that identity lets onto the route")
	}
}

func (v *validator) identity(path string, m *tlsterm.IdentityMatch) {
	for _, one := range []struct {
		key      string
		patterns []string
	}{{"subject", m.Subject}, {"dns", m.DNS}, {"uri", m.URI}, {"spiffe", m.SPIFFE}, {"fingerprint", m.Fingerprint}} {
		if one.patterns != nil && len(one.patterns) == 0 {
			// Whoever generates a file and has nobody to let in does not mean everybody.
			v.fail(path+"."+one.key, "is an empty list, which no client could match (leave the key out to demand nothing of it)")
		}
	}
	_, err := m.Compile()
	if err == nil {
		return
	}
	for _, one := range joined(err) {
		var e *tlsterm.PatternError
		if errors.As(one, &e) {
			v.wrong(fmt.Sprintf("%s.%s[%d]", path, e.Key, e.Index), e.Pattern, e.Want)
		}
	}
}

// joined returns the parts of an error that errors.Join made.
func joined(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// asksClients reports whether any listener asks for certificates, or could not be read.
func (v *validator) asksClients() bool {
	if v.hasBroken("listeners") {
		return true
	}
	for i := range v.cfg.Listeners {
		o := v.cfg.Listeners[i].TLS
		if o == nil {
			continue
		}
		if o.ClientAuth.Mode != "off" {
			return true
		}
		for j := range o.Policies {
			if a := o.Policies[j].ClientAuth; a != nil && a.Mode != "off" {
				return true
			}
		}
	}
	return false
}

// clientCert judges what backends are told of identities, and what counts by them.
func (v *validator) clientCert() {
	f := &v.cfg.Forwarding
	for i, name := range f.ClientCertFields {
		v.headerName(fmt.Sprintf("forwarding.client_cert_fields[%d]", i), name, false)
	}
	if f.ClientCertFromProxies && len(f.TrustedProxies) == 0 {
		v.warn("forwarding.client_cert_from_proxies", "has no effect without trusted_proxies")
	}
	if f.ClientCertChain > 0 && f.ClientCert == "off" {
		v.warn("forwarding.client_cert_chain", "has no effect without client_cert")
	}
	if v.asksClients() {
		return
	}
	const nobody = "nobody has an identity: no listener has tls.client_auth"
	if v.cfg.Tunnels.Client == "identity" {
		v.warn("tunnels.client", nobody)
	}
	if f.ClientCert != "off" {
		v.warn("forwarding.client_cert", nobody)
	}
}

// identityKey is a text that is equal for equal patterns, "" for none.
func identityKey(m *tlsterm.IdentityMatch) string {
	if m == nil {
		return ""
	}
	return strings.Join([]string{"identity", fmt.Sprintf("%q", *m)}, " ")
}
