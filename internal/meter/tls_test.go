package meter

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestClassifyTLS(t *testing.T) {
	for _, c := range []struct {
		err  error
		want TLSFailure
	}{
		{io.EOF, TLSClientGone},
		{fmt.Errorf("handshake: %w", io.ErrUnexpectedEOF), TLSClientGone},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, TLSClientGone},
		{os.ErrDeadlineExceeded, TLSTimeout},
		{context.DeadlineExceeded, TLSTimeout},
		{tls.RecordHeaderError{Msg: "x"}, TLSNotTLS},
		{&net.OpError{Op: "remote error", Err: errors.New("bad certificate")}, TLSAlert},
		{&net.OpError{Op: "local error", Err: errors.New("x")}, TLSRefused},
		{errors.New("no cipher suite"), TLSRefused},
	} {
		if got := ClassifyTLS(c.err); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
}

// TestClassifyRealHandshakes checks the errors that crypto/tls really returns, so that a
// change in it is noticed.
func TestClassifyRealHandshakes(t *testing.T) {
	dialTLS := func(c *tls.Config) func(net.Conn) {
		return func(conn net.Conn) {
			_ = tls.Client(conn, c).Handshake() // it is meant to fail
		}
	}
	for _, c := range []struct {
		name   string
		client func(net.Conn)
		want   TLSFailure
	}{
		{"plain HTTP", func(c net.Conn) { fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }, TLSNotTLS},
		{"gone at once", func(c net.Conn) { c.Close() }, TLSClientGone},
		{"does not trust", dialTLS(&tls.Config{ServerName: "a"}), TLSAlert},
		{"too old", dialTLS(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), TLSRefused},
	} {
		if got := ClassifyTLS(handshakeWith(t, c.client)); got != c.want {
			t.Errorf("%s is %v, want %v", c.name, got, c.want)
		}
	}
}

// handshakeWith returns the error of a server's handshake with client.
func handshakeWith(t *testing.T, client func(net.Conn)) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			client(c)
			_, _ = io.Copy(io.Discard, c) // until the server closes
			c.Close()
		}
	}()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	err = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, MinVersion: tls.VersionTLS12}).Handshake()
	conn.Close()
	<-done
	return err
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHandshakes(t *testing.T) {
	m := New("test")
	m.Handshake(tls.VersionTLS12, false)
	m.Handshake(tls.VersionTLS13, true)
	m.Handshake(tls.VersionTLS10, false)
	m.HandshakeFailed(TLSTimeout)
	m.HandshakeFailed(numTLSFailures)
	got := page(t, m)
	for _, line := range []string{
		`tickgate_tls_handshakes_total{version="1.2",resumed="false"} 1`,
		`tickgate_tls_handshakes_total{version="1.2",resumed="true"} 0`,
		`tickgate_tls_handshakes_total{version="1.3",resumed="true"} 1`,
		`tickgate_tls_handshakes_total{version="other",resumed="false"} 1`,
		`tickgate_tls_failures_total{reason="timeout"} 1`,
	} {
		wantLine(t, got, line)
	}
}
