package tlsterm

import (
	"crypto/sha256"
	"crypto/x509"
	"time"
)

// provenChain is what clientAuth asks of a chain that was verified, in some 240 bytes for a leaf and one intermediate. The
// certificates themselves take some kilobytes.
type provenChain struct {
	root  anchorID
	valid validity     // of the root
	certs []provenCert // all but the root, the leaf first
}

type provenCert struct {
	id    issuedID
	isCA  bool
	valid validity
}

// anchorID is the SHA-256 of an authority's DER certificate.
type anchorID [sha256.Size]byte

func anchorOf(c *x509.Certificate) anchorID { return sha256.Sum256(c.Raw) }

// validity is the first and the last second of a certificate's life, since 1970: certificates know no smaller parts
// (RFC 5280 section 4.1.2.5).
type validity struct{ first, last int64 }

func validityOf(c *x509.Certificate) validity { return validity{c.NotBefore.Unix(), c.NotAfter.Unix()} }

// at says what is wrong at a time, if anything is.
func (v validity) at(now time.Time) (ClientCertProblem, bool) {
	switch {
	case now.After(time.Unix(v.last, 0)):
		return ClientCertExpired, false
	case now.Before(time.Unix(v.first, 0)):
		return ClientCertNotYetValid, false
	}
	return 0, true
}

// at says what is wrong with the chain at a time, if anything is; i is the index of the certificate at fault.
func (p *provenChain) at(now time.Time) (problem ClientCertProblem, i int, ok bool) {
	for i := range p.certs {
		if problem, ok := p.certs[i].valid.at(now); !ok {
			return problem, i, false
		}
	}
	if problem, ok := p.valid.at(now); !ok {
		return problem, len(p.certs), false
	}
	return 0, 0, true
}

// prove takes down a chain: the leaf first, the root last.
func prove(chain []*x509.Certificate) provenChain {
	last := len(chain) - 1
	p := provenChain{root: anchorOf(chain[last]), valid: validityOf(chain[last]), certs: make([]provenCert, last)}
	for i, c := range chain[:last] {
		p.certs[i] = provenCert{issuedID{idOfIssuer(chain[i+1]), serialOf(c.SerialNumber)}, c.IsCA, validityOf(c)}
	}
	return p
}
