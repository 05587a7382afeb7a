package testkit

import (
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Responder is a real OCSP responder, `openssl ocsp`, which a test may stop and start.
type Responder struct {
	t    testing.TB
	args []string
	dir  string
	cmd  *exec.Cmd
	// Addr is the host:port that it answers on.
	Addr string
}

// ResponderFiles are what a responder needs, all in PEM.
type ResponderFiles struct {
	// Issuer is the certificate of the authority, Signer and Key are whose answers they are.
	Issuer, Signer, Key []byte
}

// NewResponder makes one that knows no certificate, and does not start it; it is stopped when the test ends. Tests that use it have the build tag openssl,
// as `make test-openssl` installs the program.
func NewResponder(t testing.TB, files ResponderFiles) *Responder {
	t.Helper()
	r := &Responder{t: t, dir: t.TempDir(), Addr: FreeAddr(t)}
	r.write("issuer.pem", files.Issuer)
	r.write("signer.pem", files.Signer)
	r.write("signer.key", files.Key)
	r.write("index.txt", nil)
	_, port, _ := net.SplitHostPort(r.Addr)
	r.args = []string{
		"ocsp", "-port", port, "-index", "index.txt", "-CA", "issuer.pem", "-rsigner", "signer.pem", "-rkey", "signer.key",
		"-nmin", "5", "-ignore_err",
	}
	t.Cleanup(r.Stop)
	return r
}

// Know has it know a certificate from the next Start on, as a good or a revoked one.
func (r *Responder) Know(serial *big.Int, revoked bool) {
	r.t.Helper()
	status, when := "V", ""
	if revoked {
		status, when = "R", time.Now().UTC().Format("060102150405Z")
	}
	hex := strings.ToUpper(serial.Text(16))
	if len(hex)%2 == 1 {
		hex = "0" + hex
	}
	until := time.Now().UTC().AddDate(1, 0, 0).Format("060102150405Z")
	r.write("index.txt", fmt.Appendf(nil, "%s\t%s\t%s\t%s\tunknown\t/CN=test\n", status, until, when, hex))
}

func (r *Responder) write(name string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Start starts it and waits until it accepts connections. It says so itself: an empty connection, made to find out, would have it hang.
func (r *Responder) Start() {
	r.t.Helper()
	r.cmd = exec.Command("openssl", r.args...)
	r.cmd.Dir = r.dir
	var said logBuffer
	r.cmd.Stdout, r.cmd.Stderr = &said, &said
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		r.t.Fatalf("start openssl ocsp (make test-openssl installs it): %v", err)
	}
	for begun := time.Now(); !strings.Contains(said.String(), "waiting for OCSP client connections"); {
		if time.Since(begun) > 30*time.Second {
			r.Stop()
			r.t.Fatalf("openssl ocsp does not accept connections: %s", said.String())
		}
		time.Sleep(pollEvery)
	}
}

// Stop kills it.
func (r *Responder) Stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}
