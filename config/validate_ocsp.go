package config

import (
	"crypto/x509"
	"errors"
	"net/url"
	"os"

	"tickgate/tlsterm"
)

// listenerOCSP judges the options of OCSP stapling, and returns what is in ca_file.
func (v *validator) listenerOCSP(path string, o *tlsterm.OCSPOptions) (caPEM []byte) {
	if v.hasBroken(path) {
		return nil
	}
	if o.Stapling == "off" {
		for _, key := range []string{"responder", "ca_file", "cache_dir", "timeout", "refresh_min", "refresh_max"} {
			if v.isSet(path + "." + key) {
				v.warn(path+"."+key, "has no effect: stapling is off")
			}
		}
		return nil
	}
	if o.Responder != "" {
		u, err := url.Parse(o.Responder)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
			v.wrong(path+".responder", o.Responder, "a URL such as http://ocsp.example.com/path")
		}
	}
	if o.RefreshMin > o.RefreshMax {
		v.fail(v.firstSet(path+".refresh_min", path+".refresh_max"), "refresh_min (%s) is above refresh_max (%s)", o.RefreshMin, o.RefreshMax)
	}
	v.cacheDir(path+".cache_dir", o.CacheDir)
	if o.CAFile == "" {
		return nil
	}
	caPEM, ok := v.pemFile(path+".ca_file", o.CAFile)
	if !ok {
		return nil
	}
	if !x509.NewCertPool().AppendCertsFromPEM(caPEM) {
		v.fail(path+".ca_file", "%q holds no certificate in PEM form", o.CAFile)
		return nil
	}
	return caPEM
}

// cacheDir judges the folder of answers. One that cannot be used is no reason to refuse a configuration: it is missed after a restart only.
func (v *validator) cacheDir(path, dir string) {
	if dir == "" {
		return
	}
	const so = "OCSP answers will not outlive a restart"
	switch at, err := os.Stat(dir); {
	case errors.Is(err, os.ErrNotExist):
		v.warn(path, "no such folder %q: %s", dir, so)
		return
	case err != nil:
		v.warn(path, "cannot look at the folder %q (%s): %s", dir, plainCause(err), so)
		return
	case !at.IsDir():
		v.warn(path, "%q is no folder: %s", dir, so)
		return
	}
	if err := v.machine.writable(dir); err != nil {
		v.warn(path, "cannot write to the folder %q (%s): %s", dir, plainCause(err), so)
	}
}

// stapling judges what can be stapled to a certificate. An answer that cannot be is no reason to refuse a configuration, since
// something else keeps it and may be about to renew it.
func (v *validator) stapling(path string, c *tlsterm.Certificate, chain []*x509.Certificate, o *tlsterm.OCSPOptions, caPEM []byte) {
	if v.hasBroken(parentPath(parentPath(path)) + ".ocsp") {
		return
	}
	leaf := chain[0]
	must := tlsterm.MustStaple(leaf)
	if o.Stapling == "off" {
		if c.OCSPFile != "" {
			v.warn(path+".ocsp_file", "has no effect: ocsp.stapling is off")
		}
		if must {
			v.warn(path+".cert_file", "the certificate demands a stapled answer (must-staple), and ocsp.stapling is off: clients that check will refuse it")
		}
		return
	}
	if c.OCSPFile != "" {
		answer, ok := v.pemFile(path+".ocsp_file", c.OCSPFile)
		if !ok {
			return
		}
		if err := tlsterm.CheckOCSP(answer, chain, caPEM, v.machine.now()); err != nil {
			v.warn(path+".ocsp_file", "%q will not be stapled: %s", c.OCSPFile, err)
		}
		return
	}
	switch asks := o.Responder != "" || len(leaf.OCSPServer) > 0; {
	case !asks && must:
		v.warn(path+".cert_file", "the certificate demands a stapled answer (must-staple) and names no OCSP responder, and neither ocsp_file nor ocsp.responder is set: clients that check will refuse it")
	case asks && errors.Is(tlsterm.CheckOCSP(nil, chain, caPEM, v.machine.now()), tlsterm.ErrNoIssuer):
		v.warn(path+".cert_file", "OCSP answers cannot be verified, so none is stapled: the certificate of the issuer, %q, is neither in the file nor in ocsp.ca_file", leaf.Issuer)
	}
}
