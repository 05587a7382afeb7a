package upstream

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"tickgate/config"
	"tickgate/internal/filewatch"
)

// identity is what the TLS files of an upstream held at one time: who the gateway is towards its backends, and whom it trusts. It
// is never changed, but for the mark of its end.
type identity struct {
	read   uint64                      // of Registry.reads: what was read later has a higher one
	sums   [tlsFiles][sha256.Size]byte // of the files, in the order of tlsPaths
	config *tls.Config                 // without server name and session cache
	leaf   *x509.Certificate           // nil without a client certificate
	ended  atomic.Pointer[time.Time]   // when another took its place; nil while in use
}

// tlsFiles is how many files make an identity.
const tlsFiles = 3

// tlsPath is one of these files.
type tlsPath struct{ key, path string }

// tlsPaths returns the files of t; those that are not configured have no path.
func tlsPaths(t *config.BackendTLS) [tlsFiles]tlsPath {
	return [tlsFiles]tlsPath{{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}}
}

// tlsRead is what a reload found in the TLS files of an upstream, and their stamps from before it looked.
type tlsRead struct {
	id    *identity
	files *filewatch.Set // nil if there is no file
}

func (r *Registry) readTLS(name string, t *config.BackendTLS) (tlsRead, error) {
	var paths []string
	for _, file := range tlsPaths(t) {
		if file.path != "" {
			paths = append(paths, file.path)
		}
	}
	var files *filewatch.Set
	if len(paths) > 0 {
		files = filewatch.New(paths...) // stamps before contents: what changes in between is read again
	}
	id, err := r.readIdentity(name, t)
	return tlsRead{id, files}, err
}

// readIdentity reads the files of t; name is the upstream's, for errors, which say nothing of what the files hold. With an error, only the
// identity's number is of use.
func (r *Registry) readIdentity(name string, t *config.BackendTLS) (*identity, error) {
	id := &identity{read: r.reads.Add(1)}
	var content [tlsFiles][]byte
	for i, file := range tlsPaths(t) {
		if file.path == "" {
			continue
		}
		var err error
		if content[i], err = os.ReadFile(file.path); err != nil {
			return id, fmt.Errorf("upstreams.%s.tls.%s: %w", name, file.key, err)
		}
		id.sums[i] = sha256.Sum256(content[i])
	}
	return id, id.build(name, t, content[0], content[1], content[2])
}

// build makes the configuration out of the contents of the files.
func (id *identity) build(name string, t *config.BackendTLS, ca, cert, key []byte) error {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: t.InsecureSkipVerify,
	}
	if t.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if t.CAFile != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(ca) {
			return fmt.Errorf("upstreams.%s.tls.ca_file: no certificate in %q", name, t.CAFile)
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("upstreams.%s.tls.cert_file: %q with key_file %q: %w", name, t.CertFile, t.KeyFile, err)
		}
		id.leaf = pair.Leaf
		c.GetClientCertificate = show(&pair)
	}
	id.config = c
	return nil
}

// show shows a certificate to every backend that asks for one and can check its signature. Left to itself
// (Config.Certificates), crypto/tls shows it only to those that list its authority, and while authorities change not all list what
// they accept: the backend is left to judge, as nginx and Envoy do.
func show(pair *tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		anyAuthority := *asked
		anyAuthority.AcceptableCAs = nil
		if anyAuthority.SupportsCertificate(pair) != nil {
			return &tls.Certificate{}, nil
		}
		return pair, nil
	}
}

// validAt says whether the client certificate, if there is one, is neither expired nor for later.
func (id *identity) validAt(now time.Time) bool {
	return id.leaf == nil || !now.Before(id.leaf.NotBefore) && !now.After(id.leaf.NotAfter)
}

// clientTLS is how a backend is connected to under one identity. The sessions that its cache remembers were all made under that: one of an
// earlier identity would be resumed under it, and whoever it was verified by.
type clientTLS struct {
	id     *identity
	config *tls.Config
}

// clientTLS returns how to connect now. Except after a change of identity it costs two atomic loads.
func (b *Backend) clientTLS() *clientTLS {
	for {
		known := b.secured.Load() // before the identity, so that a later one is never replaced by an earlier
		id := b.creds.current.Load()
		if known != nil && known.id == id {
			return known
		}
		c := id.config.Clone()
		c.ServerName = b.serverName
		// Each backend has its own, as tickets of one mean nothing to another.
		if n := b.conf.tls.SessionCache; n > 0 {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(n)
		}
		next := &clientTLS{id, c}
		if b.secured.CompareAndSwap(known, next) {
			return next
		}
	}
}

// renewalWindow is the time within which the pooled connections of an identity that was replaced are used for the last time. Each has its own share
// of it, so that a busy backend does not have to do all handshakes at once.
const renewalWindow = 30 * time.Second

// graceOf is the share of a new connection; random is any 64 bits.
func graceOf(random uint64) time.Duration { return time.Duration(random % uint64(renewalWindow)) }

// superseded reports whether a pooled connection was made under an identity that was replaced long enough ago.
func (c *conn) superseded(now time.Time) bool {
	if c.id == nil {
		return false
	}
	ended := c.id.ended.Load()
	return ended != nil && now.Sub(*ended) >= c.grace
}
