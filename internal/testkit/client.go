package testkit

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Client is a raw client connection: it sends any bytes and reads strictly.
type Client struct {
	// Conn is the socket, or the TLS connection on it.
	Conn net.Conn
	// Timeout bounds each read and write; Patience unless changed.
	Timeout time.Duration

	t   testing.TB
	tcp net.Conn
	br  *bufio.Reader
}

// Dial connects to host:port, or to "unix:/path".
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	conn, err := net.DialTimeout(network, addr, Patience)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	return NewClient(t, conn)
}

// DialTLS connects and completes a TLS handshake.
func DialTLS(t testing.TB, addr string, cfg *tls.Config) *Client {
	t.Helper()
	c := Dial(t, addr)
	conn := tls.Client(c.tcp, cfg)
	_ = conn.SetDeadline(time.Now().Add(Patience))
	if err := conn.Handshake(); err != nil {
		t.Fatalf("TLS handshake with %s: %v", addr, err)
	}
	c.Conn, c.br = conn, bufio.NewReader(conn)
	return c
}

// NewClient wraps a connection, which is closed when the test ends.
func NewClient(t testing.TB, conn net.Conn) *Client {
	t.Cleanup(func() { _ = conn.Close() })
	return &Client{Conn: conn, Timeout: Patience, t: t, tcp: conn, br: bufio.NewReader(conn)}
}

// Send writes raw bytes.
func (c *Client) Send(raw string) {
	c.t.Helper()
	if err := c.TrySend(raw); err != nil {
		c.t.Fatalf("send %.60q: %v", raw, err)
	}
}

// TrySend is Send for bytes that the peer may refuse.
func (c *Client) TrySend(raw string) error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.Timeout))
	_, err := io.WriteString(c.Conn, raw)
	return err
}

// SendEach writes each part by itself, the next only after wait has returned.
func (c *Client) SendEach(wait func(), parts ...string) {
	c.t.Helper()
	for i, part := range parts {
		if i > 0 {
			wait()
		}
		c.Send(part)
	}
}

// Response reads the final response to a request of the given method.
func (c *Client) Response(method string) *Response {
	c.t.Helper()
	resp, err := c.TryResponse(method)
	if err != nil {
		c.t.Fatalf("read response: %v (%.200q)", err, resp.Raw)
	}
	return resp
}

// TryResponse is Response for responses that may be cut or absent. The response is
// never nil: what came of it is in Raw.
func (c *Client) TryResponse(method string) (*Response, error) {
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Timeout))
	return ReadResponse(c.br, method)
}

// Do sends a request and reads its response.
func (c *Client) Do(raw string) *Response {
	c.t.Helper()
	c.Send(raw)
	method, _, _ := strings.Cut(raw, " ")
	return c.Response(method)
}

// Next reads exactly n bytes, those of a body that streams or of a tunnel.
func (c *Client) Next(n int) string {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Timeout))
	buf := make([]byte, n)
	if got, err := io.ReadFull(c.br, buf); err != nil {
		c.t.Fatalf("read %d bytes: %v after %q", n, err, buf[:got])
	}
	return string(buf)
}

// Until reads up to and with the given text.
func (c *Client) Until(text string) string {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Timeout))
	var got strings.Builder
	for !strings.HasSuffix(got.String(), text) {
		b, err := c.br.ReadByte()
		if err != nil {
			c.t.Fatalf("read until %q: %v after %q", text, err, got.String())
		}
		got.WriteByte(b)
	}
	return got.String()
}

// Rest reads until the peer closes, in order or with a reset, and returns what came.
func (c *Client) Rest() string {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Timeout))
	rest, err := io.ReadAll(c.br)
	if err != nil && !wasClosed(err) {
		c.t.Fatalf("read to the end: %v after %.200q", err, rest)
	}
	return string(rest)
}

// ExpectClosed fails the test unless the peer closes without another byte.
func (c *Client) ExpectClosed() {
	c.t.Helper()
	if rest := c.Rest(); rest != "" {
		c.t.Fatalf("want the connection closed, got %.200q", rest)
	}
}

// wasClosed says whether err is the peer's close, in order or not.
func wasClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Unread is what has come and will come after what was read.
func (c *Client) Unread() io.Reader { return c.br }

// CloseWrite ends the sending half: FIN, after close_notify on TLS.
func (c *Client) CloseWrite() {
	c.t.Helper()
	var err error
	if conn, ok := c.Conn.(*tls.Conn); ok {
		err = conn.CloseWrite()
	}
	if half, ok := c.tcp.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		c.t.Fatalf("close the sending half: %v", err)
	}
}

// Reset closes the connection with a TCP reset.
func (c *Client) Reset() {
	c.t.Helper()
	tcp, ok := c.tcp.(*net.TCPConn)
	if !ok {
		c.t.Fatalf("reset: not TCP but %T", c.tcp)
	}
	if err := errors.Join(tcp.SetLinger(0), tcp.Close()); err != nil {
		c.t.Fatalf("reset: %v", err)
	}
}

// Close closes the connection in order.
func (c *Client) Close() { _ = c.Conn.Close() }

// Exchange sends raw on a connection of its own, reads the response and closes.
func Exchange(t testing.TB, addr, raw string) *Response {
	t.Helper()
	c := Dial(t, addr)
	defer c.Close()
	return c.Do(raw)
}

// TLSPair returns both ends of a TLS connection over loopback TCP, shaken hands.
func TLSPair(t testing.TB, server, client *tls.Config) (serverEnd, clientEnd *tls.Conn) {
	t.Helper()
	tcpServer, tcpClient := TCPPair(t)
	serverEnd, clientEnd = tls.Server(tcpServer, server), tls.Client(tcpClient, client)
	shaken := make(chan error, 1)
	go func() { shaken <- serverEnd.Handshake() }()
	if err := errors.Join(clientEnd.Handshake(), <-shaken); err != nil {
		t.Fatalf("TLS handshake: %v", err)
	}
	return serverEnd, clientEnd
}

// TCPPair returns both ends of a loopback TCP connection.
func TCPPair(t testing.TB) (serverEnd, clientEnd *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	defer func() { _ = ln.Close() }()
	// The kernel completes the connection before it is accepted.
	client, err := net.DialTimeout("tcp", ln.Addr().String(), Patience)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return server.(*net.TCPConn), client.(*net.TCPConn)
}
