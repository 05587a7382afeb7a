package tlsterm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
)

// Every failure that depends on crypto/tls comes from a real handshake.
func TestFailureReason(t *testing.T) {
	cert := files(t, selfsigned.ECDSA, "example.com")
	store := func(o Options) *tls.Config {
		o.Certificates = []Certificate{cert}
		return mustLoad(t, &o, nil).Config()
	}
	f := func(what string, server *tls.Config, client func(net.Conn) net.Conn, want Failure) {
		t.Helper()
		err, _ := shake(t, server, client)
		if err == nil {
			t.Errorf("%s: the handshake succeeds", what)
			return
		}
		if got := FailureReason(err); got != want {
			t.Errorf("%s: %s, want %s (%v)", what, got, want, err)
		}
	}
	client := func(change func(*tls.Config)) func(net.Conn) net.Conn {
		cfg := anyCert("example.com")
		change(cfg)
		return func(conn net.Conn) net.Conn { return tls.Client(conn, cfg) }
	}
	send := func(text string) func(net.Conn) net.Conn {
		return func(conn net.Conn) net.Conn {
			_, _ = io.WriteString(conn, text) // the server may have seen enough
			return conn
		}
	}

	f("old client", store(Options{}), client(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), NoSharedVersion)
	f("1.2 client of a 1.3 server", store(Options{MinVersion: "1.3"}), client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), NoSharedVersion)
	f("1.3 client of a 1.2 server", store(Options{MaxVersion: "1.2"}), client(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), NoSharedVersion)
	f("RSA client of an ECDSA server", store(Options{}), client(func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	}), NoSharedCipher)
	p256 := store(Options{}).Clone()
	p256.CurvePreferences = []tls.CurveID{tls.CurveP256}
	f("no key exchange", p256, client(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }), NoSharedCipher)
	f("no signature scheme", store(Options{}), func(conn net.Conn) net.Conn {
		return tls.Client(&helloEditor{Conn: conn, edit: spoilSignatureSchemes}, anyCert("example.com"))
	}, NoSharedCipher)
	f("h2 only", store(Options{}), client(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), NoSharedProtocol)
	f("unknown name", store(Options{UnknownName: "reject"}), client(func(c *tls.Config) { c.ServerName = "example.org" }), UnknownName)
	f("distrusting client, 1.3", store(Options{}), client(func(c *tls.Config) { c.InsecureSkipVerify = false }), ClientRejected)
	f("distrusting client, 1.2", store(Options{}), client(func(c *tls.Config) {
		c.InsecureSkipVerify, c.MaxVersion = false, tls.VersionTLS12
	}), ClientRejected)
	f("HTTP", store(Options{}), send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), PlainText)
	f("HTTP, another method", store(Options{}), send("OPTIONS * HTTP/1.1\r\n\r\n"), PlainText)
	f("HTTP/2", store(Options{}), send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), PlainText)
	f("another protocol", store(Options{}), send("SSH-2.0-OpenSSH\r\n"), BadRecord)
	f("SSLv2", store(Options{}), send("\x80\x2e\x01\x00\x02"), BadRecord)
	f("no handshake message", store(Options{}), send("\x16\x03\x01\x00\x04\x01\x00\x00\x00"), BadRecord)
}

// helloEditor changes the first thing written: the ClientHello.
type helloEditor struct {
	net.Conn
	edit func([]byte) []byte
}

func (e *helloEditor) Write(p []byte) (int, error) {
	if e.edit == nil {
		return e.Conn.Write(p)
	}
	hello := e.edit(bytes.Clone(p))
	e.edit = nil
	if _, err := e.Conn.Write(hello); err != nil {
		return 0, err
	}
	return len(p), nil
}

// spoilSignatureSchemes replaces the schemes of a ClientHello's signature_algorithms
// (and signature_algorithms_cert) by ones that nobody knows.
func spoilSignatureSchemes(hello []byte) []byte {
	for i := 0; i+6 < len(hello); i++ {
		// Extension type, its length, and the length of the list, which is two less.
		length, list := int(hello[i+2])<<8|int(hello[i+3]), int(hello[i+4])<<8|int(hello[i+5])
		isSchemes := hello[i] == 0 && (hello[i+1] == 13 || hello[i+1] == 50)
		if !isSchemes || list != length-2 || list%2 != 0 || i+6+list > len(hello) {
			continue
		}
		for j := i + 6; j < i+6+list; j++ {
			hello[j] = 0xfa
		}
	}
	return hello
}

func TestFailureReasonOfConnection(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}}, nil)
	f := func(what string, want Failure, client func(server *tls.Conn, conn net.Conn)) {
		t.Helper()
		ours, theirs := net.Pipe()
		tc := tls.Server(ours, s.Config())
		client(tc, theirs)
		if got := FailureReason(tc.Handshake()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	f("closed at once", ClientGone, func(_ *tls.Conn, conn net.Conn) { _ = conn.Close() })
	f("closed within a record", ClientGone, func(_ *tls.Conn, conn net.Conn) {
		go func() {
			_, _ = io.WriteString(conn, "\x16\x03\x01")
			_ = conn.Close()
		}()
	})
	f("deadline", TimedOut, func(server *tls.Conn, _ net.Conn) {
		_ = server.SetDeadline(time.Unix(1, 0))
	})
	f("closed here", ClientGone, func(server *tls.Conn, _ net.Conn) { _ = server.NetConn().Close() })
}

func TestFailureReasonOfError(t *testing.T) {
	f := func(err error, want Failure) {
		t.Helper()
		if got := FailureReason(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	f(context.DeadlineExceeded, TimedOut)
	f(os.ErrDeadlineExceeded, TimedOut)
	f(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}, TimedOut)
	f(context.Canceled, ClientGone)
	f(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, ClientGone)
	f(&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, ClientGone)
	f(&net.OpError{Op: "read", Err: syscall.EIO}, Other)
	f(errors.New("anything else"), Other)
}

func TestPlainHTTP(t *testing.T) {
	conn, _ := net.Pipe()
	f := func(start string, want bool) {
		t.Helper()
		err := tls.RecordHeaderError{Conn: conn, RecordHeader: [5]byte([]byte(start))}
		if got := PlainHTTP(err); got != want {
			t.Errorf("%q: %t, want %t", start, got, want)
		}
		err.Conn = nil // something was written already
		if PlainHTTP(err) {
			t.Errorf("%q in the middle of a connection: true", start)
		}
	}
	f("GET /", true)
	f("GET h", true)
	f("POST ", true)
	f("DELET", true)
	f("CONNE", true)
	f("get /", false)
	f("SSH-2", false)
	f("\x16\x03\x01\x00\x04", false)
	if PlainHTTP(errors.New("tls: first record does not look like a TLS handshake")) || PlainHTTP(nil) {
		t.Error("an error is told by its text")
	}
}

func TestFailureWords(t *testing.T) {
	var words []string
	for _, fl := range append(Failures(), 99) {
		words = append(words, fl.String())
	}
	want := "no_shared_version no_shared_cipher no_shared_protocol unknown_name bad_client_certificate client_rejected client_gone timeout plain_http bad_record gate_full gate_timeout gave_way rate_limited rate_limited_ja4 other unknown"
	if got := strings.Join(words, " "); got != want {
		t.Errorf("failures are %q, want %q", got, want)
	}
}
