package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"tickgate/config"
	"tickgate/internal/demo"
	"tickgate/internal/selfsigned"
)

// runDemo runs the gateway in front of demonstration backends in this process.
func runDemo(stdout, stderr io.Writer) error {
	d, err := demo.Start(context.Background())
	if err != nil {
		return err
	}
	defer d.Close()
	dir, err := os.MkdirTemp("", "tickgate-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cert, key, err := demoCertificate(dir)
	if err != nil {
		return err
	}
	cfg, report := config.Parse("demo.yaml", d.ConfigYAML(cert, key))
	if report.Err() != nil {
		_ = report.WriteText(stderr, isTerminal(stderr))
		return fmt.Errorf("BUG: the demonstration's configuration: %w", report.Err())
	}
	p := &process{cfg: cfg}
	if err := p.start(); err != nil {
		return err
	}
	fmt.Fprint(stdout, d.Hints())
	return p.wait()
}

// demoCertificate writes a self-signed certificate for localhost to dir.
func demoCertificate(dir string) (certFile, keyFile string, err error) {
	cert, key, err := selfsigned.Generate([]string{"localhost", "127.0.0.1", "::1"}, 30*24*time.Hour, selfsigned.ECDSA)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(certFile, cert, 0o644); err != nil {
		return "", "", err
	}
	return certFile, keyFile, os.WriteFile(keyFile, key, 0o600)
}
