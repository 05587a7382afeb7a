package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"

	"tickgate/loadtest/baseline"
)

const baselineSynopsis = `-c FILE | -listen ADDR -backend ADDR [-tls-cert FILE -tls-key FILE]

Runs the gateway of net/http and httputil.ReverseProxy that tickgate is compared with. With
-c it reads tickgate's configuration, refuses what it does not support, key by key, and says
what it ignores.

  tickload baseline -c tickgate.yaml
  tickload baseline -listen 127.0.0.1:8089 -backend 127.0.0.1:9000`

// runBaseline serves the net/http gateway until a signal.
func runBaseline(ctx context.Context, args []string, out, errOut io.Writer) error {
	fs := flags("baseline", baselineSynopsis, errOut)
	file := fs.String("c", "", "tickgate's configuration file, instead of the other flags")
	listen := fs.String("listen", "127.0.0.1:8089", "host:port to accept on")
	backend := fs.String("backend", "", "host:port or http:// URL to forward to (required)")
	idle := fs.Int("max-idle", 1024, "most idle connections kept to the backend; at least the load's connections")
	cert := fs.String("tls-cert", "", "PEM file with the certificate chain; switches TLS on")
	key := fs.String("tls-key", "", "PEM file with its private key")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *file != "" {
		return serveBaseline(ctx, *file, out, errOut)
	}
	if *backend == "" || (*cert == "") != (*key == "") {
		fmt.Fprintln(errOut, "-c or -backend is required, and -tls-cert and -tls-key go together")
		fs.Usage()
		return errUsage
	}
	return serving(out, "net/http gateway", *listen, func(ln net.Listener) error {
		return baseline.Serve(ctx, ln, baseline.Options{Backend: *backend, MaxIdleConns: *idle, CertFile: *cert, KeyFile: *key})
	})
}

// serveBaseline serves the net/http gateway of a configuration file.
func serveBaseline(ctx context.Context, file string, out, errOut io.Writer) error {
	g, err := baseline.Load(file)
	if err != nil {
		return err
	}
	for _, p := range g.Ignored {
		p.Message = "is ignored here"
		fmt.Fprintln(errOut, p)
	}
	return g.Serve(ctx, func(addr net.Addr) error {
		_, err := fmt.Fprintf(out, "net/http gateway on %s\n", addr)
		return err
	})
}

// runBackend serves the benchmark backend until a signal.
func runBackend(ctx context.Context, args []string, out, errOut io.Writer) error {
	fs := flags("backend", "-listen ADDR [-size BYTES] [-delay TIME] [-tls-cert FILE -tls-key FILE]", errOut)
	listen := fs.String("listen", "127.0.0.1:9000", "host:port to accept on")
	size := fs.Int("size", 1024, "bytes in each response body")
	delay := fs.Duration("delay", 0, "wait this long before each response")
	cert := fs.String("tls-cert", "", "PEM file with the certificate chain; switches TLS on")
	key := fs.String("tls-key", "", "PEM file with its private key")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *size < 0 || *size > 64<<20 {
		fmt.Fprintf(errOut, "-size is %d (want 0 to 67108864)\n", *size)
		return errUsage
	}
	if (*cert == "") != (*key == "") {
		fmt.Fprintln(errOut, "-tls-cert and -tls-key go together")
		fs.Usage()
		return errUsage
	}
	return serving(out, "backend", *listen, func(ln net.Listener) error {
		if *cert != "" {
			pair, err := tls.LoadX509KeyPair(*cert, *key)
			if err != nil {
				return fmt.Errorf("certificate: %w", err)
			}
			ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		}
		return baseline.ServeBackend(ctx, ln, *size, *delay)
	})
}

// serving listens, says so and serves.
func serving(out io.Writer, what, addr string, serve func(net.Listener) error) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if _, err := fmt.Fprintf(out, "%s on %s\n", what, ln.Addr()); err != nil {
		return err
	}
	return serve(ln)
}
