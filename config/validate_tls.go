package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"tickgate/tlsterm"
)

// expiryNotice is how long before its end a certificate is warned about.
const expiryNotice = 30 * 24 * time.Hour

// listenerTLS judges the TLS of a listener: the files are read, so that a reload
// fails before anything is swapped.
func (v *validator) listenerTLS(path string, o *tlsterm.Options) {
	v.policyNames(path+".policies", o.Policies)
	o.Check(func(key string, err error) { v.fail(path+"."+key, "%s", err) })
	if o.InsecureKeyLogFile != "" {
		v.warn(path+".insecure_key_log_file", "whoever reads this file can decrypt the traffic of every client")
	}
	v.listenerTickets(path+".tickets", &o.Tickets)
	owners := map[string]int{}
	for i := range o.Certificates {
		c := &o.Certificates[i]
		at := fmt.Sprintf("%s.certificates[%d]", path, i)
		leaf := v.keyPair(at, c.CertFile, c.KeyFile)
		if leaf != nil && len(c.Names) == 0 && len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
			v.warn(at+".cert_file", "the certificate holds no names, so clients will not accept it")
		}
		for j := range c.Names {
			name := fmt.Sprintf("%s.names[%d]", at, j)
			v.serverName(name, &c.Names[j], leaf)
			if first, again := owners[c.Names[j]]; again {
				v.warn(name, "has no effect: %q is answered with certificates[%d]", c.Names[j], first)
				continue
			}
			owners[c.Names[j]] = i
		}
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
	base := strings.TrimPrefix(*name, "*.")
	if !isHostname(base) {
		v.wrong(path, *name, "a server name such as example.com or *.example.com")
		return
	}
	if leaf == nil {
		return
	}
	probe := *name
	if base != probe {
		probe = "any." + base
	}
	if leaf.VerifyHostname(probe) != nil {
		v.warn(path, "the certificate does not hold %q (it holds %s), so clients will not accept it", *name, clip(strings.Join(leaf.DNSNames, ", ")))
	}
}

// keyPair reads a certificate and its key and returns the leaf, or nil after
// reporting why that does not work.
func (v *validator) keyPair(path, certFile, keyFile string) *x509.Certificate {
	if certFile == "" || keyFile == "" || v.isBroken(path+".cert_file") || v.isBroken(path+".key_file") {
		return nil
	}
	certPEM, certOK := v.pemFile(path+".cert_file", certFile)
	keyPEM, keyOK := v.pemFile(path+".key_file", keyFile)
	if !certOK || !keyOK {
		return nil
	}
	leaf, err := firstCertificate(certPEM)
	if err != nil {
		v.fail(path+".cert_file", "%q: %s", certFile, err)
		return nil
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		v.fail(path+".key_file", "%q does not go with certificate %q: %s", keyFile, certFile, strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	v.validity(path+".cert_file", leaf)
	return leaf
}

// firstCertificate returns the leaf: the first certificate of a PEM file.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("holds no certificate in PEM form")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
		data = rest
	}
}

// validity warns about a certificate that is not valid, or not for much longer.
func (v *validator) validity(path string, leaf *x509.Certificate) {
	now := v.machine.now()
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		v.warn(path, "the certificate expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	case left < expiryNotice:
		v.warn(path, "the certificate expires on %s, in %d days", leaf.NotAfter.UTC().Format(time.DateOnly), int(left.Hours())/24)
	case leaf.NotBefore.After(now):
		v.warn(path, "the certificate is valid only from %s", leaf.NotBefore.UTC().Format(time.DateOnly))
	}
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
	case o.CertFile != "":
		v.keyPair(path, o.CertFile, o.KeyFile)
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
