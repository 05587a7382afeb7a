// Package baseline is the peer that tickgate is compared with: a gateway of
// net/http and httputil.ReverseProxy, tuned as one tunes it in earnest, and a cheap
// backend for both. It logs nothing and leaves GOGC at its default.
//
// It reads tickgate's configuration (Load) as far as net/http has the same: listeners with TLS,
// upstreams of several servers, routes by host and path, static responses, upgrades, and the
// timeouts and limits in the table "translated". Servers are taken in turn and health is ignored; a failed
// attempt is not followed by another; pool.max_conns is how many idle connections are kept,
// not how many there may be; limits and timeouts whose keys are not in the table are those of net/http, if any, so
// a file that sets one of them is refused.
package baseline

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoBackend is returned for options without a backend.
var ErrNoBackend = errors.New("baseline: no backend")

// Options configures a baseline gateway.
type Options struct {
	// Backend is the http:// URL or the host:port to forward to.
	Backend string
	// MaxIdleConns bounds the idle connections to the backend. Keep it at least
	// at the number of client connections, or connections are opened for requests.
	// 0 is 1024.
	MaxIdleConns int
	// Certificate and key as PEM files switch TLS on, with HTTP/1.1 only, as that
	// is what is compared.
	CertFile, KeyFile string
}

// bufferSize is the size of a copied piece, as in httputil without a pool.
const bufferSize = 32 << 10

// buffers is a httputil.BufferPool.
type buffers struct {
	pool sync.Pool
}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// Handler returns the reverse proxy: X-Forwarded-For, -Proto and -Host are set,
// the client's Host is kept, connections to the backend are kept alive.
func Handler(o Options) (http.Handler, error) {
	target, err := backendURL(o.Backend)
	if err != nil {
		return nil, err
	}
	b := &backends{
		addrs: []string{target.Host}, scheme: target.Scheme, path: target, host: "client", xForwarded: true,
		transport: newTransport(3*time.Second, 30*time.Second, cmp.Or(o.MaxIdleConns, 1024), 50*time.Second),
	}
	return b.proxy(), nil
}

// newTransport returns the connections to backends, with as many idle ones as may be needed at
// once. Without that net/http keeps two.
func newTransport(dial, keepAlive time.Duration, idle int, idleTimeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: dial, KeepAlive: keepAlive}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConnsPerHost: idle,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true,
		Protocols:           &protocols,
	}
}

// backends are the servers of one upstream, taken in turn whether they are well or not.
type backends struct {
	// Static after construction.
	addrs      []string // host:port
	scheme     string
	path       *url.URL // what precedes the request's path; nil for nothing
	host       string   // Host sent: "client", "backend", or what it is
	requestID  string   // field with a made id; "" for none
	xForwarded bool
	transport  *http.Transport

	next atomic.Uint32
}

func (b *backends) proxy() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:      b.rewrite,
		Transport:    b.transport,
		BufferPool:   &buffers{},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: refuse,
	}
}

// rewrite makes the request for a backend. Fields that a client sent about itself are gone already.
func (b *backends) rewrite(r *httputil.ProxyRequest) {
	addr := b.addrs[0]
	if len(b.addrs) > 1 {
		addr = b.addrs[int(b.next.Add(1))%len(b.addrs)]
	}
	if b.path != nil {
		r.SetURL(b.path)
	}
	r.Out.URL.Scheme, r.Out.URL.Host = b.scheme, addr
	switch b.host {
	case "client":
		r.Out.Host = r.In.Host
	case "backend":
		r.Out.Host = addr
	default:
		r.Out.Host = b.host
	}
	if b.xForwarded {
		r.SetXForwarded()
	}
	if b.requestID != "" {
		r.Out.Header.Set(b.requestID, fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()))
	}
}

// refuse answers for a backend that did not.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	var (
		tooLarge *http.MaxBytesError
		timeout  net.Error
	)
	switch {
	case errors.As(err, &tooLarge):
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case errors.As(err, &timeout) && timeout.Timeout():
		w.WriteHeader(http.StatusGatewayTimeout)
	default:
		w.WriteHeader(http.StatusBadGateway)
	}
}

// backendURL reads a URL or host:port.
func backendURL(backend string) (*url.URL, error) {
	if backend == "" {
		return nil, ErrNoBackend
	}
	if _, _, err := net.SplitHostPort(backend); err == nil {
		backend = "http://" + backend
	}
	u, err := url.Parse(backend)
	if err != nil {
		return nil, fmt.Errorf("baseline: backend %q: %w", backend, err)
	}
	if u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("baseline: backend %q is no http:// URL and no host:port", backend)
	}
	return u, nil
}

// Serve forwards from ln until ctx ends, then finishes the requests in flight
// within ten seconds.
func Serve(ctx context.Context, ln net.Listener, o Options) error {
	handler, err := Handler(o)
	if err != nil {
		return err
	}
	server := newServer(handler)
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return fmt.Errorf("baseline: load certificate %q: %w", o.CertFile, err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	}
	return serve(ctx, ln, server.Serve, server.Shutdown)
}

// newServer returns a server of HTTP/1.1 only, as that is what is compared.
func newServer(handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		Protocols:         &protocols,
	}
}

// serve runs a server until it fails or ctx ends, and then gives its requests ten seconds.
func serve(ctx context.Context, ln net.Listener, run func(net.Listener) error, shutdown func(context.Context) error) error {
	return serveWithin(ctx, ln, 10*time.Second, run, shutdown)
}

func serveWithin(ctx context.Context, ln net.Listener, within time.Duration, run func(net.Listener) error, shutdown func(context.Context) error) error {
	failed := make(chan error, 1)
	go func() { failed <- run(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	// A server that is stopped before its goroutine ran does not know its listener.
	_ = ln.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	err := shutdown(ctx)
	<-failed // that the listener is closed is no news
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
