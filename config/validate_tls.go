package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"tickgate/tlsterm"
)

// listenerTLS judges the TLS of a listener: the files are read, so that a reload
// fails before anything is swapped.
func (v *validator) listenerTLS(path string, o *tlsterm.Options) {
	v.policyNames(path+".policies", o.Policies)
	o.Check(func(key string, err error) { v.fail(path+"."+key, "%s", err) })
	if o.InsecureKeyLogFile != "" {
		v.keyLog(path+".insecure_key_log_file", o.InsecureKeyLogFile)
	}
	v.listenerTickets(path+".tickets", &o.Tickets)
	v.clientAuth(path+".client_auth", &o.ClientAuth)
	for i := range o.Policies {
		if a := o.Policies[i].ClientAuth; a != nil {
			v.clientAuth(fmt.Sprintf("%s.policies[%d].client_auth", path, i), a)
		}
	}
	v.certificates(path, o)
}

// keyLog judges where the secrets of sessions go. The file is not opened, as a check writes nothing.
func (v *validator) keyLog(path, name string) {
	v.warn(path, "whoever reads this file can decrypt the traffic of every client")
	dir := filepath.Dir(name)
	switch at, err := os.Stat(dir); {
	case errors.Is(err, os.ErrNotExist):
		v.fail(path, "no such folder %q", dir)
	case err != nil:
		v.fail(path, "cannot look at the folder %q: %s", dir, plainCause(err))
	case !at.IsDir():
		v.fail(path, "%q is no folder", dir)
	}
	if at, err := os.Stat(name); err == nil && at.IsDir() {
		v.fail(path, "%q is a folder", name)
	}
}

// certificates judges the certificates of a listener as the running gateway does, and the names that they answer to.
func (v *validator) certificates(path string, o *tlsterm.Options) {
	chains, findings := tlsterm.Examine(o, v.machine.now())
	for _, f := range findings {
		at := path
		if f.Index >= 0 {
			at = fmt.Sprintf("%s.certificates[%d]", path, f.Index)
		}
		v.finding(at, f)
	}
	ocspCA := v.listenerOCSP(path+".ocsp", &o.OCSP)
	owners := map[string]int{} // by name and kind of key, since of two kinds each client gets the better one that it understands
	for i := range o.Certificates {
		c := &o.Certificates[i]
		var leaf *x509.Certificate
		if len(chains[i]) > 0 {
			leaf = chains[i][0]
			v.stapling(fmt.Sprintf("%s.certificates[%d]", path, i), c, chains[i], &o.OCSP, ocspCA)
		}
		for j := range c.Names {
			name := fmt.Sprintf("%s.certificates[%d].names[%d]", path, i, j)
			v.serverName(name, &c.Names[j], leaf)
			if leaf == nil {
				continue
			}
			owner := c.Names[j] + " " + leaf.PublicKeyAlgorithm.String()
			if first, again := owners[owner]; again {
				v.warn(name, "has no effect: %q is answered with certificates[%d]", c.Names[j], first)
				continue
			}
			owners[owner] = i
		}
	}
	v.policyCertificates(path, o, chains)
}

// policyCertificates warns about policies for names that no certificate answers to. chains are those of the certificates.
func (v *validator) policyCertificates(path string, o *tlsterm.Options, chains [][]*x509.Certificate) {
	names, suffixes := map[string]bool{}, map[string]bool{}
	for i := range o.Certificates {
		held := o.Certificates[i].Names
		if len(held) == 0 {
			if len(chains[i]) == 0 {
				return // its names are not known
			}
			held = chains[i][0].DNSNames
		}
		for _, name := range held {
			name = strings.ToLower(name)
			_, suffix, _ := strings.Cut(name, ".")
			names[name], suffixes[suffix] = true, true
		}
	}
	for i := range o.Policies {
		for j, name := range o.Policies[i].Names {
			first, suffix, _ := strings.Cut(name, ".")
			if names[name] || names["*."+suffix] || first == "*" && suffixes[suffix] || !tlsterm.ValidName(name) {
				continue
			}
			v.uncovered(fmt.Sprintf("%s.policies[%d].names[%d]", path, i, j), name, o.UnknownName, chains)
		}
	}
}

// uncovered warns about a policy for one of these names.
func (v *validator) uncovered(path, name, unknownName string, chains [][]*x509.Certificate) {
	switch {
	case unknownName == "reject":
		v.warn(path, "has no effect: no certificate answers to %q, so unknown_name refuses it", name)
	case len(chains) > 0 && len(chains[0]) > 0 && !holds(chains[0][0], name):
		v.warn(path, "no certificate answers to %q, so clients get the default one, certificates[0], and will not accept it", name)
	}
}

// finding reports what was found about a certificate.
func (v *validator) finding(path string, f *tlsterm.Finding) {
	switch {
	case f.Problem == tlsterm.CertBadName: // which serverName reports where it stands
	case f.Problem.Fatal():
		v.fail(path+"."+f.Key, "%s", f)
	default:
		v.warn(path+"."+f.Key, "%s", f)
	}
}

// policyNames judges the names that policies are for.
func (v *validator) policyNames(path string, policies []tlsterm.Policy) {
	owners := map[string]int{}
	for i := range policies {
		p := &policies[i]
		for j := range p.Names {
			name := fmt.Sprintf("%s[%d].names[%d]", path, i, j)
			v.serverName(name, &p.Names[j], nil)
			if first, again := owners[p.Names[j]]; again {
				v.warn(name, "has no effect: %q follows policies[%d]", p.Names[j], first)
				continue
			}
			owners[p.Names[j]] = i
		}
	}
}

// serverName judges and normalises a name that a certificate answers to.
func (v *validator) serverName(path string, name *string, leaf *x509.Certificate) {
	*name = strings.ToLower(strings.TrimSuffix(*name, "."))
	if !tlsterm.ValidName(*name) {
		v.wrong(path, *name, "a server name such as example.com or *.example.com")
		return
	}
	if leaf != nil && !holds(leaf, *name) {
		v.warn(path, "the certificate does not hold %q (it holds %s), so clients will not accept it", *name, clip(strings.Join(leaf.DNSNames, ", ")))
	}
}

// holds reports whether clients accept a certificate for a name.
func holds(leaf *x509.Certificate, name string) bool {
	if base, ok := strings.CutPrefix(name, "*."); ok {
		name = "any." + base
	}
	return leaf.VerifyHostname(name) == nil
}

// pemFile reads a file of a certificate or key. Its content is never reported.
func (v *validator) pemFile(path, name string) ([]byte, bool) {
	data, err := v.machine.readFile(name)
	if err == nil {
		return data, true
	}
	if errors.Is(err, os.ErrNotExist) {
		v.fail(path, "no such file %q", name)
	} else {
		v.fail(path, "cannot read %q: %s", name, plainCause(err))
	}
	return nil, false
}

// backendTLS judges TLS towards backends.
func (v *validator) backendTLS(path string, u *Upstream) {
	o := u.TLS
	if o.InsecureSkipVerify {
		v.warn(path+".insecure_skip_verify", "backends are not verified: anyone on the path can read and change the traffic")
	}
	if _, err := netip.ParseAddr(o.ServerName); err != nil && o.ServerName != "" && !isHostname(o.ServerName) {
		v.wrong(path+".server_name", o.ServerName, "a host name or an address")
	}
	if o.CAFile != "" && !v.isBroken(path+".ca_file") {
		if data, ok := v.pemFile(path+".ca_file", o.CAFile); ok && !x509.NewCertPool().AppendCertsFromPEM(data) {
			v.fail(path+".ca_file", "%q holds no certificate in PEM form", o.CAFile)
		}
	}
	switch {
	case o.CertFile != "" && o.KeyFile == "":
		v.fail(path+".key_file", "is missing: a client certificate needs its key")
	case o.CertFile == "" && o.KeyFile != "":
		v.fail(path+".cert_file", "is missing: a key needs its client certificate")
	case o.CertFile != "" && !v.isBroken(path+".cert_file") && !v.isBroken(path+".key_file"):
		for _, f := range tlsterm.ExamineClient(o.CertFile, o.KeyFile, v.machine.now()) {
			v.finding(path, f)
		}
	}
	if o.ServerName != "" || o.InsecureSkipVerify {
		return
	}
	for _, s := range u.Servers {
		if strings.HasPrefix(s.Address, "unix:") {
			v.fail(path+".server_name", "is missing: the Unix socket %q has no name to verify", s.Address)
			return
		}
	}
}
