package baseline

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tickgate/config"
)

// Gateway is a configuration that is ready to be served. It does not change.
type Gateway struct {
	// Ignored are the keys of the file that concern tickgate's own machinery only.
	Ignored []config.Problem

	cfg     *config.Config
	handler http.Handler
	tls     []*tls.Config // of each listener; nil for a plain one
}

// Load reads a file of tickgate. Keys that are not at their defaults and mean nothing here are an
// error that wraps ErrUnsupported and names each.
func Load(path string) (*Gateway, error) {
	cfg, report := config.Load(path)
	if err := errors.Join(report.ReadError, report.Err()); err != nil {
		return nil, err
	}
	without, unsupported := sort(cfg.Changed(report))
	if len(unsupported) > 0 {
		return nil, &unsupportedError{unsupported}
	}
	g := &Gateway{Ignored: without, cfg: cfg}
	var err error
	if g.handler, err = routed(cfg); err != nil {
		return nil, err
	}
	for _, l := range cfg.Listeners {
		secure, err := serverTLS(l)
		if err != nil {
			return nil, err
		}
		g.tls = append(g.tls, secure)
	}
	return g, nil
}

// Serve accepts on all listeners of the configuration until ctx ends, then finishes the requests in
// flight within drain.timeout. listening is called with each address before it is served.
func (g *Gateway) Serve(ctx context.Context, listening func(net.Addr) error) error {
	var listeners []net.Listener
	closeAll := func() {
		for _, ln := range listeners {
			_ = ln.Close()
		}
	}
	for i, l := range g.cfg.Listeners {
		ln, err := g.listen(ctx, l, g.tls[i])
		if err == nil {
			listeners = append(listeners, ln)
			err = listening(ln.Addr())
		}
		if err != nil {
			closeAll()
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(listeners))
	var wg sync.WaitGroup
	for i, ln := range listeners {
		wg.Go(func() {
			defer cancel() // one that fails ends the others
			server := g.server()
			errs[i] = serveWithin(ctx, ln, g.cfg.Drain.Timeout, server.Serve, server.Shutdown)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (g *Gateway) listen(ctx context.Context, l config.Listener, secure *tls.Config) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: keepAlive(l.KeepAlive)}
	ln, err := lc.Listen(ctx, "tcp", l.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	return ln, nil
}

// keepAlive is the interval of package net, for which 0 is its default.
func keepAlive(every time.Duration) time.Duration {
	if every == 0 {
		return -1
	}
	return every
}

func (g *Gateway) server() *http.Server {
	server := newServer(g.handler)
	server.ReadHeaderTimeout = g.cfg.Timeouts.Head
	server.IdleTimeout = g.cfg.Timeouts.Idle
	server.MaxHeaderBytes = int(g.cfg.Limits.MaxHead)
	return server
}

var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// serverTLS returns nil for a listener without TLS.
func serverTLS(l config.Listener) (*tls.Config, error) {
	if l.TLS == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tlsVersions[l.TLS.MinVersion], MaxVersion: tlsVersions[l.TLS.MaxVersion]}
	for _, pair := range l.TLS.Certificates {
		cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("baseline: load certificate %q: %w", pair.CertFile, err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

// routed returns the handler of all routes.
func routed(cfg *config.Config) (http.Handler, error) {
	proxies := make(map[string]http.Handler)
	for _, name := range slices.Sorted(maps.Keys(cfg.Upstreams)) {
		p, err := upstreamProxy(cfg, cfg.Upstreams[name])
		if err != nil {
			return nil, fmt.Errorf("baseline: upstream %q: %w", name, err)
		}
		proxies[name] = p
	}
	r := &router{}
	for _, route := range cfg.Routes {
		var h http.Handler = static(route.StaticResponse)
		if route.StaticResponse == nil {
			h = proxies[route.Upstream]
		}
		if most := cmp.Or(route.MaxBody, cfg.Limits.MaxBody); most > 0 {
			h = limited(h, int64(most))
		}
		r.add(route, h)
	}
	return r, nil
}

func upstreamProxy(cfg *config.Config, u *config.Upstream) (http.Handler, error) {
	secure, err := backendTLS(u.TLS)
	if err != nil {
		return nil, err
	}
	b := &backends{
		scheme: "http", host: u.Host, requestID: cfg.Forwarding.RequestIDHeader, xForwarded: cfg.Forwarding.XForwarded,
		transport: newTransport(u.Timeouts.Dial, keepAlive(u.Pool.KeepAlive), u.Pool.MaxConns, u.Pool.IdleTimeout),
	}
	b.transport.TLSHandshakeTimeout = u.Timeouts.TLSHandshake
	b.transport.ResponseHeaderTimeout = u.Timeouts.ResponseHeader
	b.transport.MaxResponseHeaderBytes = int64(cfg.Limits.MaxResponseHead)
	if secure != nil {
		b.scheme, b.transport.TLSClientConfig = "https", secure
	}
	for _, s := range u.Servers {
		b.addrs = append(b.addrs, s.Address)
	}
	return b.proxy(), nil
}

// backendTLS returns nil for backends without TLS.
func backendTLS(o *config.BackendTLS) (*tls.Config, error) {
	if o == nil {
		return nil, nil
	}
	c := &tls.Config{ServerName: o.ServerName, MinVersion: tlsVersions[o.MinVersion], InsecureSkipVerify: o.InsecureSkipVerify} //nolint:gosec // asked for by name
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CAs: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %q", o.CAFile)
		}
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load client certificate %q: %w", o.CertFile, err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// static answers from the configuration; nil for a route that does not.
func static(s *config.StaticResponse) http.Handler {
	if s == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", s.ContentType)
		w.WriteHeader(s.Status)
		_, _ = strings.NewReader(s.Body).WriteTo(w) // a client that is gone
	})
}

// limited refuses bodies of more than most bytes.
func limited(next http.Handler, most int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > most {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		if r.ContentLength != 0 {
			r.Body = http.MaxBytesReader(w, r.Body, most)
		}
		next.ServeHTTP(w, r)
	})
}
