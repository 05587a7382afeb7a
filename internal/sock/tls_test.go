//go:build linux

package sock

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"tickgate/internal/testcert"
)

func TestUnderTLSTellsACut(t *testing.T) {
	c, peer := pair(t)
	c.UnderTLS()
	io.WriteString(peer, "x")
	mustRead(t, c, "x")
	peer.CloseWrite()
	if n, err := c.Read(make([]byte, 8)); n != 0 || err != ErrCut {
		t.Fatalf("read at the end: %d, %v; want 0, ErrCut", n, err)
	}
}

func TestNoWait(t *testing.T) {
	c, peer := pair(t)
	var buf [8]byte
	c.NoWait(true)
	if n, err := c.Read(buf[:]); n != 0 || err != ErrWouldBlock {
		t.Errorf("read of nothing: %d, %v; want 0, ErrWouldBlock", n, err)
	}
	io.WriteString(peer, "abc")
	awaitReadable(t, c)
	mustRead(t, c, "abc")
	peer.Close()
	awaitEnd(t, c)

	c, peer = pair(t)
	c.NoWait(true)
	c.NoWait(false)
	io.WriteString(peer, "abc")
	mustRead(t, c, "abc")

	here, there := net.Pipe()
	defer there.Close()
	sw := NewSweeper()
	defer sw.Close()
	piped := New(here, sw)
	defer piped.Close()
	piped.NoWait(true)
	if _, err := piped.Read(buf[:]); err != ErrWouldBlock {
		t.Errorf("read without a descriptor: %v, want ErrWouldBlock", err)
	}
}

// awaitEnd reads without waiting until the peer's FIN has arrived.
func awaitEnd(t *testing.T, c *Conn) {
	t.Helper()
	for {
		_, err := c.Read(make([]byte, 1))
		if errors.Is(err, io.EOF) {
			return
		}
		if err != ErrWouldBlock {
			t.Fatalf("read: %v, want ErrWouldBlock or EOF", err)
		}
	}
}

// TestTLSAbove: what UnderTLS and NoWait rest upon in crypto/tls.
func TestTLSAbove(t *testing.T) {
	secured := func() (*Conn, *tls.Conn, *tls.Conn, *net.TCPConn) {
		c, peer := pair(t)
		cert := testcert.New(t)
		client, server := tls.Client(c, cert.ClientTLS("localhost")), tls.Server(peer, cert.ServerTLS(t))
		shaken := make(chan error, 1)
		go func() { shaken <- server.Handshake() }()
		if err := errors.Join(client.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		c.UnderTLS()
		return c, client, server, peer
	}
	var buf [8]byte

	c, client, server, _ := secured()
	c.NoWait(true)
	if n, err := client.Read(buf[:]); n != 0 || !errors.Is(err, ErrWouldBlock) {
		t.Fatalf("read of nothing: %d, %v; want 0, ErrWouldBlock", n, err)
	}
	c.NoWait(false)
	io.WriteString(server, "more") // the connection goes on
	mustRead(t, client, "more")
	server.CloseWrite()
	if _, err := client.Read(buf[:]); err != io.EOF {
		t.Errorf("read after close_notify: %v, want EOF", err)
	}

	_, client, server, peer := secured()
	io.WriteString(server, "more")
	mustRead(t, client, "more")
	peer.CloseWrite()
	if _, err := client.Read(buf[:]); !errors.Is(err, ErrCut) {
		t.Errorf("read after FIN alone: %v, want ErrCut", err)
	}
}
