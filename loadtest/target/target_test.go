package target

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

func TestNew(t *testing.T) {
	f := func(url, wantAddr, wantRequest string, wantSecure bool) {
		t.Helper()
		got, err := New(url, Options{}, "http", "https", "ws", "wss")
		if err != nil {
			t.Errorf("%s: %v", url, err)
			return
		}
		if got.Addr != wantAddr || got.Secure != wantSecure || string(got.Request()) != wantRequest {
			t.Errorf("%s: %q %v %q", url, got.Addr, got.Secure, got.Request())
		}
	}
	f("http://a", "a:80", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false)
	f("https://a/b?c", "a:443", "GET /b?c HTTP/1.1\r\nHost: a\r\n\r\n", true)
	f("ws://[::1]:9/b", "[::1]:9", "GET /b HTTP/1.1\r\nHost: [::1]:9\r\n\r\n", false)
	f("wss://a:1", "a:1", "GET / HTTP/1.1\r\nHost: a:1\r\n\r\n", true)

	bad := func(url string, o Options, want error) {
		t.Helper()
		if _, err := New(url, o, "http"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", url, err, want)
		}
	}
	bad("", Options{}, ErrURL)
	bad("a:80", Options{}, ErrURL)
	bad("https://a", Options{}, ErrURL)
	bad("http://a", Options{Sources: 1}, ErrSources)
	bad("http://10.0.0.1", Options{Sources: 1}, ErrSources)
	bad("http://127.0.0.1", Options{Sources: maxSources + 1}, ErrSources)
}

func TestSources(t *testing.T) {
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	to, err := New("http://"+server.Addr().String(), Options{Sources: 2}, "http")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.2"} {
		conn, err := to.Dial(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != want {
			t.Errorf("connection %d is from %s, want %s", i, got, want)
		}
	}
	if list := sources(600); list[299].String() != "127.0.1.45" {
		t.Errorf("source 299 is %s", list[299])
	}
}

func TestTLS(t *testing.T) {
	cert := testcert.New(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cert.ServerTLS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	dial := func(url string, o Options) (net.Conn, error) {
		to, err := New(url, o, "https")
		if err != nil {
			t.Fatal(err)
		}
		return to.Dial(t.Context(), 0)
	}
	conn, err := dial("https://"+ln.Addr().String(), Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if TCP(conn).RemoteAddr().String() != ln.Addr().String() {
		t.Errorf("the TCP connection is to %s", TCP(conn).RemoteAddr())
	}
	_ = conn.Close()
	if _, err := dial("https://"+ln.Addr().String(), Options{}); err == nil {
		t.Error("a self-signed certificate is taken")
	}
	silent := testkit.NewScript(t, testkit.Hang())
	if _, err := dial("https://"+silent.Addr(), Options{Insecure: true, Timeout: 20 * time.Millisecond}); err == nil {
		t.Error("a handshake without an answer went well")
	}
}

// The peer of a connection that vanished hears nothing, until it sends.
func TestVanish(t *testing.T) {
	server, client := testkit.TCPPair(t)
	if err := Vanish(client); err != nil {
		t.Logf("not here: %v", err) // it takes CAP_NET_ADMIN
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("the connection that could not vanish is closed: %v", err)
		}
		return
	}
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if n, err := server.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%d bytes, %v; want a timeout", n, err)
	}
}
