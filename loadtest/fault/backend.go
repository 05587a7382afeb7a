package fault

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/wsload"
)

// BackendKind is what a built-in backend speaks.
type BackendKind string

// The kinds of built-in backends.
const (
	BackendHTTP BackendKind = "http" // answers everything with 200 and a body that has a digest
	BackendEcho BackendKind = "echo" // upgrades to WebSocket and echoes
)

// authority signs the certificates of built-in backends.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// certificateFor is how long a certificate is valid on either side of its backend's time.
const certificateFor = time.Hour

func newAuthority() (*authority, error) {
	now := time.Now()
	// The certificate of the authority is good at any clock that a fault may set.
	tmpl, err := selfsigned.Template([]string{"fault authority"}, now.AddDate(-50, 0, 0), now.AddDate(50, 0, 0))
	if err != nil {
		return nil, err
	}
	tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign
	key, err := selfsigned.NewKey(selfsigned.ECDSA)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// pem is the authority's certificate, for those who should trust it.
func (a *authority) pem() []byte { return selfsigned.EncodeCert(a.cert.Raw) }

// issue signs a certificate of a backend whose clock is at a time.
func (a *authority) issue(names []string, at time.Time) (*tls.Certificate, error) {
	tmpl, err := selfsigned.Template(names, at.Add(-certificateFor), at.Add(certificateFor))
	if err != nil {
		return nil, err
	}
	key, err := selfsigned.NewKey(selfsigned.ECDSA)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// backend is a built-in one. Its clock can be moved.
type backend struct {
	name string
	addr string
	body []byte
	// offset of its clock, and the certificate of that time.
	offset atomic.Int64
	mint   func(at time.Time) (*tls.Certificate, error)

	mu     sync.Mutex
	cert   *tls.Certificate // guarded by mu
	minted time.Time        // guarded by mu; time of its own clock when cert was made

	stop   context.CancelFunc
	served sync.WaitGroup
}

// startBackend listens on a free loopback port.
func startBackend(name string, spec *BackendSpec, ca *authority) (*backend, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for backend %q: %w", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{name: name, addr: ln.Addr().String(), stop: cancel}
	b.body = []byte(strings.Repeat("0123456789abcde\n", int(spec.Size)/16+1)[:spec.Size])
	names := []string{"localhost", "127.0.0.1", name, "*.test"}
	b.mint = func(at time.Time) (*tls.Certificate, error) { return ca.issue(names, at) }
	if spec.TLS {
		// Without tickets: a resumed session would not show its certificate again.
		ln = tls.NewListener(ln, &tls.Config{GetCertificate: b.certificate, SessionTicketsDisabled: true, MinVersion: tls.VersionTLS12})
	}
	if spec.Kind == BackendEcho {
		echo, err := wsload.NewBackend(wsload.BackendOptions{})
		if err != nil {
			cancel()
			return nil, errors.Join(err, ln.Close())
		}
		b.served.Go(func() { _ = echo.Serve(ctx, ln) }) // it ends with ctx
		return b, nil
	}
	b.serveHTTP(ctx, ln)
	return b, nil
}

// closeWithin bounds the wait for responses when a backend is stopped.
const closeWithin = time.Second

// serveHTTP serves with net/http, which lets a handler say what Date it is.
func (b *backend) serveHTTP(ctx context.Context, ln net.Listener) {
	digest := probe.Digest(b.body)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Date", b.now().UTC().Format(http.TimeFormat))
			h.Set("X-Backend", b.name)
			h.Set("Content-Digest", digest)
			h.Set("Content-Type", "text/plain")
			h.Set("Content-Length", strconv.Itoa(len(b.body)))
			_, _ = w.Write(b.body)
		}),
		ReadHeaderTimeout: time.Minute, IdleTimeout: 5 * time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // handshakes that were made fail are no news
	}
	b.served.Go(func() { _ = server.Serve(ln) }) // it ends with the shutdown
	b.served.Go(func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
}

// now is the backend's time.
func (b *backend) now() time.Time { return time.Now().Add(time.Duration(b.offset.Load())) }

// setClock moves the backend's clock.
func (b *backend) setClock(offset time.Duration) { b.offset.Store(int64(offset)) }

// certificate is the one of the backend's day.
func (b *backend) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.cert != nil && now.Sub(b.minted).Abs() < certificateFor/2 {
		return b.cert, nil
	}
	cert, err := b.mint(now)
	if err != nil {
		return nil, err
	}
	b.cert, b.minted = cert, now
	return cert, nil
}

func (b *backend) close() {
	b.stop()
	b.served.Wait()
}
