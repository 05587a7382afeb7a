package tlsterm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

// clientTrust is what client certificates are judged by: the files of ClientAuthOptions at one time. It is never changed.
type clientTrust struct {
	pool    *x509.CertPool
	anchors map[anchorID]bool
	lists   map[issuerID]*revocations
	infos   []CRLInfo
	cas     []*x509.Certificate
	made    uint64            // a number of its own
	sum     [sha256.Size]byte // of what was in the files
}

// CRLInfo describes one revocation list for the admin API, `check` and the metrics.
type CRLInfo struct {
	File string `json:"file"`
	// Issuer is in the form of RFC 4514.
	Issuer string `json:"issuer"`
	// Number is the list's own, in decimal; "" if it has none.
	Number     string    `json:"number,omitempty"`
	ThisUpdate time.Time `json:"this_update"`
	// NextUpdate is zero if the list does not say.
	NextUpdate time.Time `json:"next_update"`
	Revoked    int       `json:"revoked"`
}

func (l *CRLInfo) overdue(now time.Time) bool {
	return !l.NextUpdate.IsZero() && now.After(l.NextUpdate)
}

// issuerID stands for an authority: its name and its key, as a name alone may have had several.
type issuerID [sha256.Size]byte

func idOfIssuer(ca *x509.Certificate) issuerID {
	h := sha256.New()
	h.Write(ca.RawSubject)
	h.Write(ca.RawSubjectPublicKeyInfo)
	return issuerID(h.Sum(nil))
}

// serialNumber is a serial number of up to 20 bytes (RFC 5280 section 4.1.2.2), or the sum of a longer one.
type serialNumber [20]byte

func serialOf(n *big.Int) (s serialNumber) {
	if n.BitLen() > 8*len(s) {
		sum := sha256.Sum256(n.Bytes())
		copy(s[:], sum[:])
		return s
	}
	n.FillBytes(s[:])
	return s
}

// issuedID stands for a certificate: authorities give no serial number twice.
type issuedID struct {
	issuer issuerID
	serial serialNumber
}

const issuedSize = len(issuerID{}) + len(serialNumber{})

func (id issuedID) append(dst []byte) []byte {
	return append(append(dst, id.issuer[:]...), id.serial[:]...)
}

func parseIssued(b []byte) (id issuedID) {
	n := copy(id.issuer[:], b)
	copy(id.serial[:], b[n:])
	return id
}

// revocations is all lists of one authority together.
type revocations struct {
	serials map[serialNumber]struct{}
	next    time.Time // the earliest next update; zero is never
	leaves  bool      // certificates of clients are in their scope
	cas     bool      // and those of authorities
}

func (r *revocations) revoked(s serialNumber) bool {
	_, ok := r.serials[s]
	return ok
}

func (r *revocations) covers(isCA bool) bool {
	if isCA {
		return r.cas
	}
	return r.leaves
}

func (r *revocations) overdue(now time.Time) bool { return !r.next.IsZero() && now.After(r.next) }

// ErrNoClientCA is returned for options that ask for certificates without an authority to trust.
var ErrNoClientCA = errors.New("is missing (want a PEM file of the authorities that issue client certificates)")

// loadTrust reads the files. If they hold what one of prev was read from, it returns that. The error joins everything that is
// wrong, each part with its file.
func loadTrust(o *ClientAuthOptions, prev []*clientTrust) (*clientTrust, error) {
	var errs []error
	t := readTrust(o, prev, os.ReadFile, func(_ string, err error) { errs = append(errs, err) })
	return t, errors.Join(errs...)
}

// Examine reads the files with read and tells what is wrong with them, by key as in the file: "crl_files[1]".
func (o *ClientAuthOptions) Examine(read func(file string) ([]byte, error), wrong func(key string, err error)) (authorities []*x509.Certificate, lists []CRLInfo) {
	if t := readTrust(o, nil, read, wrong); t != nil {
		return t.cas, t.infos
	}
	return nil, nil
}

// readTrust is loadTrust with a way to read. It returns nil if anything is wrong.
func readTrust(o *ClientAuthOptions, prev []*clientTrust, readFile func(string) ([]byte, error), wrong problems) *clientTrust {
	if o.CAFile == "" {
		wrong("ca_file", ErrNoClientCA)
		return nil
	}
	contents := make([][]byte, 0, 1+len(o.CRLFiles))
	bad := false
	failed := func(key string, err error) {
		if err != nil {
			wrong(key, err)
			bad = true
		}
	}
	read := func(key, what, file string) {
		data, err := readFile(file)
		if err != nil {
			failed(key, fmt.Errorf("read %s: %w", what, err)) // a PathError names the file
		}
		contents = append(contents, data)
	}
	read("ca_file", "client authorities", o.CAFile)
	for i, file := range o.CRLFiles {
		read(fmt.Sprintf("crl_files[%d]", i), "revocation list", file)
	}
	if bad {
		return nil
	}
	t := &clientTrust{made: numbers.Add(1), sum: trustSum(o, contents), anchors: map[anchorID]bool{}, lists: map[issuerID]*revocations{}, pool: x509.NewCertPool()}
	if i := slices.IndexFunc(prev, func(p *clientTrust) bool { return p != nil && p.sum == t.sum }); i >= 0 {
		return prev[i]
	}
	if failed("ca_file", t.addAuthorities(o.CAFile, contents[0])); bad {
		return nil // and no list can be verified
	}
	for i, file := range o.CRLFiles {
		failed(fmt.Sprintf("crl_files[%d]", i), t.addLists(file, contents[1+i]))
	}
	if bad {
		return nil
	}
	return t
}

// trustSum tells files and contents apart without keeping them.
func trustSum(o *ClientAuthOptions, contents [][]byte) [sha256.Size]byte {
	sums := []byte(o.CAFile + "\x00" + strings.Join(o.CRLFiles, "\x00") + "\x00")
	for _, data := range contents {
		sum := sha256.Sum256(data)
		sums = append(sums, sum[:]...)
	}
	return sha256.Sum256(sums)
}

func (t *clientTrust) addAuthorities(file string, data []byte) error {
	certs, _, err := decodeTrust(file, data)
	if err != nil {
		return err
	}
	if len(certs) == 0 {
		return fmt.Errorf("read client authorities %q: no certificate in PEM form in it", file)
	}
	for _, c := range certs {
		t.pool.AddCert(c)
		t.anchors[anchorOf(c)] = true
	}
	t.cas = certs
	return nil
}

// decodeTrust takes certificates and revocation lists out of a file. A key in it is most likely a mistake, and one that gives a secret away.
func decodeTrust(file string, data []byte) (certs []*x509.Certificate, lists []*x509.RevocationList, err error) {
	n := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		n++
		switch {
		case isCert(block.Type):
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				certs = append(certs, c)
			}
		case block.Type == "X509 CRL":
			var l *x509.RevocationList
			if l, err = x509.ParseRevocationList(block.Bytes); err == nil {
				lists = append(lists, l)
			}
		case isKey(block.Type):
			err = errors.New("is a private key, which does not belong here")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %q: block %d: %w", file, n, err)
		}
	}
	return certs, lists, nil
}

// addLists adds the revocation lists of one file. Certificates in it are of the authorities that signed them, and
// trusted for nothing else: they must come from an authority of ca_file.
func (t *clientTrust) addLists(file string, data []byte) error {
	helpers, lists, err := decodeTrust(file, data)
	if err != nil {
		return err
	}
	if len(lists) == 0 && !bytes.Contains(data, []byte("-----BEGIN")) {
		list, err := x509.ParseRevocationList(data)
		if err != nil {
			return fmt.Errorf("read revocation list %q: neither PEM nor DER: %w", file, err)
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return fmt.Errorf("read revocation list %q: no block X509 CRL in it", file)
	}
	signers, err := t.signers(file, helpers)
	if err != nil {
		return err
	}
	for _, list := range lists {
		if err := t.addList(file, list, signers); err != nil {
			return fmt.Errorf("revocation list %q of %q: %w", file, distinguishedName(list.RawIssuer), err)
		}
	}
	return nil
}

// signers returns who may have signed the lists of a file.
func (t *clientTrust) signers(file string, helpers []*x509.Certificate) ([]*x509.Certificate, error) {
	signers := t.cas
	between := x509.NewCertPool()
	for _, c := range helpers {
		between.AddCert(c)
	}
	for _, c := range helpers {
		if err := t.vouch(c, between, helpers); err != nil {
			return nil, fmt.Errorf("revocation list %q: the certificate of %q in it: %w", file, distinguishedName(c.RawSubject), err)
		}
		signers = append(signers[:len(signers):len(signers)], c)
	}
	return signers, nil
}

// vouch reports why c does not come from an authority of ca_file. It need not be valid now, if it and those above it were at some time: when an authority has
// expired its clients are refused for that, and its list does no harm, while a gateway that does not start for it would serve nobody.
func (t *clientTrust) vouch(c *x509.Certificate, between *x509.CertPool, helpers []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: t.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	_, now := c.Verify(opts)
	if now == nil {
		return nil
	}
	// What was ever valid at the same time was so when the first of it ended.
	for _, other := range slices.Concat(t.cas, helpers) {
		opts.CurrentTime = other.NotAfter
		if _, err := c.Verify(opts); err == nil {
			return nil
		}
	}
	return now
}

var errNotSigned = errors.New("no authority of ca_file has signed it, nor one whose certificate is beside it")

func (t *clientTrust) addList(file string, list *x509.RevocationList, signers []*x509.Certificate) error {
	scope, err := scopeOf(list)
	if err != nil {
		return err
	}
	signed := false
	for _, ca := range signers {
		// The same name may stand for several keys, of which one has signed.
		if !bytes.Equal(ca.RawSubject, list.RawIssuer) || list.CheckSignatureFrom(ca) != nil {
			continue
		}
		signed = true
		t.join(idOfIssuer(ca), list, scope)
	}
	if !signed {
		return errNotSigned
	}
	info := CRLInfo{
		File: file, Issuer: distinguishedName(list.RawIssuer), ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
		Revoked: len(list.RevokedCertificateEntries),
	}
	if list.Number != nil {
		info.Number = list.Number.String()
	}
	t.infos = append(t.infos, info)
	return nil
}

// join adds a list to those of its authority.
func (t *clientTrust) join(issuer issuerID, list *x509.RevocationList, scope listScope) {
	r := t.lists[issuer]
	if r == nil {
		r = &revocations{serials: make(map[serialNumber]struct{}, len(list.RevokedCertificateEntries)), next: list.NextUpdate}
		t.lists[issuer] = r
	}
	for i := range list.RevokedCertificateEntries {
		r.serials[serialOf(list.RevokedCertificateEntries[i].SerialNumber)] = struct{}{}
	}
	if n := list.NextUpdate; !n.IsZero() && (r.next.IsZero() || n.Before(r.next)) {
		r.next = n
	}
	r.leaves = r.leaves || !scope.OnlyCAs
	r.cas = r.cas || !scope.OnlyUsers
}

// listScope is a list's issuingDistributionPoint (RFC 5280 section 5.2.5).
type listScope struct {
	Point       asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyUsers   bool           `asn1:"optional,tag:1"`
	OnlyCAs     bool           `asn1:"optional,tag:2"`
	SomeReasons asn1.BitString `asn1:"optional,tag:3"`
	Indirect    bool           `asn1:"optional,tag:4"`
	OnlyAttrs   bool           `asn1:"optional,tag:5"`
}

var (
	oidDelta = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidScope = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// scopeOf refuses the lists that cannot be used without more of them, or without knowing a critical extension
// (RFC 5280 section 5.2).
func scopeOf(list *x509.RevocationList) (scope listScope, err error) {
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDelta):
			return scope, errors.New("is a delta list (want a complete one)")
		case e.Id.Equal(oidScope):
			if rest, err := asn1.Unmarshal(e.Value, &scope); err != nil || len(rest) > 0 {
				return scope, errors.New("its issuing distribution point is malformed")
			}
		case e.Critical:
			return scope, fmt.Errorf("has the critical extension %s, which is not known here", e.Id)
		}
	}
	switch {
	case scope.Indirect:
		return scope, errors.New("is an indirect list (want one of each authority itself)")
	case scope.OnlyAttrs:
		return scope, errors.New("is about attribute certificates only")
	case scope.SomeReasons.BitLength > 0:
		return scope, errors.New("is about some reasons of revocation only (want a complete one)")
	}
	for i := range list.RevokedCertificateEntries {
		for _, e := range list.RevokedCertificateEntries[i].Extensions {
			if e.Critical {
				return scope, fmt.Errorf("an entry of it has the critical extension %s, which is not known here", e.Id)
			}
		}
	}
	return scope, nil
}
