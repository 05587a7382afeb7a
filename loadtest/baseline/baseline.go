// Package baseline is the peer that tickgate is compared with: a gateway of
// net/http and httputil.ReverseProxy, tuned as one tunes it in earnest, and a cheap
// backend for both. It logs nothing and leaves GOGC at its default.
package baseline

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
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
	idle := o.MaxIdleConns
	if idle == 0 {
		idle = 1024
	}
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			MaxIdleConns:        idle,
			MaxIdleConnsPerHost: idle,
			IdleConnTimeout:     50 * time.Second,
			DisableCompression:  true,
		},
		BufferPool: &buffers{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}, nil
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
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		Protocols:         &protocols,
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return fmt.Errorf("baseline: load certificate %q: %w", o.CertFile, err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	}
	return serve(ctx, ln, server.Serve, server.Shutdown)
}

// serve runs a server until it fails or ctx ends.
func serve(ctx context.Context, ln net.Listener, run func(net.Listener) error, shutdown func(context.Context) error) error {
	failed := make(chan error, 1)
	go func() { failed <- run(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	// A server that is stopped before its goroutine ran does not know its listener.
	_ = ln.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := shutdown(ctx)
	<-failed // that the listener is closed is no news
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
