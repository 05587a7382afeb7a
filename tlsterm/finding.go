package tlsterm

import (
	"fmt"
	"strings"
)

// CertProblem is one way in which a certificate, its chain or its key can be wrong or unwise.
type CertProblem uint8

// Problems. Those up to lastFatal keep a certificate from being used; with the others it is used as well as it goes, since
// most clients may not mind, and a gateway that does not start serves nobody.
const (
	CertUnreadable  CertProblem = iota // a file cannot be read
	CertNotFound                       // a file holds no certificate, or no private key
	CertEncrypted                      // the private key needs a passphrase
	CertMalformed                      // a block is in PEM form, but not what it says
	CertKeyMismatch                    // the private key belongs to no certificate of the file
	CertAmbiguous                      // the leaf is not first, and several could be it
	CertBadName                        // a configured name is no server name
	CertUnreachable                    // no name leads to it
	lastFatal       = CertUnreachable
)

// Problems that do not keep a certificate from being used.
const (
	CertLeafNotFirst  CertProblem = iota + lastFatal + 1 // the leaf is not the first of its file
	CertOutOfOrder                                       // the chain is not in the order in which it signs
	CertRepeated                                         // a certificate is in the file twice
	CertForeign                                          // a certificate has nothing to do with the leaf
	CertRootIncluded                                     // the root, which clients have or do not trust
	CertCompleted                                        // an intermediate is not in the file, but was found elsewhere
	CertIssuerMissing                                    // the chain ends below an issuer that is known nowhere
	CertExpired                                          // its validity, or that of an intermediate, is over
	CertNotYetValid                                      // it, or an intermediate, is valid later only
	CertExpiresSoon                                      // it, or an intermediate, has less than expiryNotice left
	CertLeafIsCA                                         // the leaf is a certificate authority
	CertIssuerNotCA                                      // an intermediate may not sign certificates
	CertWrongUsage                                       // the leaf is not for servers, or (towards backends) not for clients
	CertWeakKey                                          // RSA of less than minRSABits
	CertWeakSignature                                    // signed by means of SHA-1 or MD5
	CertNoNames                                          // the leaf holds no name, so that no client accepts it
	numCertProblems
)

var certWords = [numCertProblems]string{
	CertUnreadable:    "unreadable",
	CertNotFound:      "not_found",
	CertEncrypted:     "encrypted",
	CertMalformed:     "malformed",
	CertKeyMismatch:   "key_mismatch",
	CertAmbiguous:     "ambiguous_leaf",
	CertBadName:       "bad_name",
	CertUnreachable:   "unreachable",
	CertLeafNotFirst:  "leaf_not_first",
	CertOutOfOrder:    "out_of_order",
	CertRepeated:      "repeated",
	CertForeign:       "foreign",
	CertRootIncluded:  "root_included",
	CertCompleted:     "completed",
	CertIssuerMissing: "issuer_missing",
	CertExpired:       "expired",
	CertNotYetValid:   "not_yet_valid",
	CertExpiresSoon:   "expires_soon",
	CertLeafIsCA:      "leaf_is_ca",
	CertIssuerNotCA:   "issuer_not_ca",
	CertWrongUsage:    "wrong_usage",
	CertWeakKey:       "weak_key",
	CertWeakSignature: "weak_signature",
	CertNoNames:       "no_names",
}

// String returns the snake_case word used in logs and tests.
func (p CertProblem) String() string {
	if p >= numCertProblems {
		return "unknown"
	}
	return certWords[p]
}

// Error makes a problem a target of errors.Is.
func (p CertProblem) Error() string { return "tls: certificate: " + p.String() }

// Fatal reports whether a certificate with this problem cannot be used.
func (p CertProblem) Fatal() bool { return p <= lastFatal }

// The keys of Certificate and Options that a Finding can be about.
const (
	certFileKey      = "cert_file"
	keyFileKey       = "key_file"
	namesKey         = "names"
	intermediatesKey = "intermediates_file"
)

// Finding is one problem of one certificate. As an error it names the file and the problem, and errors.Is finds the
// CertProblem and the cause, such as fs.ErrNotExist.
type Finding struct {
	Problem CertProblem
	// Index is that of the certificate in the options; -1 if it is about none of them.
	Index int
	// Key is the option that the problem is best put right at: cert_file, key_file, names or intermediates_file.
	Key string
	// File is the one that it was found in, empty for names.
	File string
	// Text says what is wrong, without the file.
	Text string
	// Urgent is true if clients do not accept the certificate any more, or only for a day (ExpiryDay).
	Urgent bool

	cause error
}

// Error returns the file and what is wrong with it.
func (f *Finding) Error() string {
	if f.File == "" {
		return f.Text
	}
	return fmt.Sprintf("%q: %s", f.File, f.Text)
}

// Unwrap gives the problem and its cause.
func (f *Finding) Unwrap() []error {
	if f.cause == nil {
		return []error{f.Problem}
	}
	return []error{f.Problem, f.cause}
}

// inText is how many things of one kind a finding names.
const inText = 3

// list writes a few of what may be many.
func list(all []string) string {
	if len(all) <= inText {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:inText], ", "), len(all)-inText)
}
