package testkit

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// EchoWS is a WebSocket backend that sends every message back, answers pings and
// completes the close handshake. Half-closed clients get what is still due.
type EchoWS struct {
	ln    net.Listener
	group sync.WaitGroup

	mu      sync.Mutex
	sockets map[net.Conn]struct{} // nil once closed
	opened  int
}

// NewEchoWS starts an echo backend on a loopback port; any path is upgraded.
func NewEchoWS(t testing.TB) *EchoWS {
	t.Helper()
	e := &EchoWS{ln: listen(t), sockets: map[net.Conn]struct{}{}}
	e.group.Go(e.accept)
	t.Cleanup(e.close)
	return e
}

// Addr returns the backend's host:port.
func (e *EchoWS) Addr() string { return e.ln.Addr().String() }

// Open returns how many connections are open now, and how many ever were.
func (e *EchoWS) Open() (now, ever int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.sockets), e.opened
}

func (e *EchoWS) accept() {
	for {
		c, err := e.ln.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		open := e.sockets != nil
		if open {
			e.sockets[c] = struct{}{}
			e.opened++
		}
		e.mu.Unlock()
		if !open {
			_ = c.Close()
			return
		}
		e.group.Go(func() { e.serve(c) })
	}
}

func (e *EchoWS) serve(c net.Conn) {
	defer func() {
		e.mu.Lock()
		delete(e.sockets, c)
		e.mu.Unlock()
		_ = c.Close()
	}()
	if _, err := (ws.Upgrader{}).Upgrade(c); err != nil {
		return
	}
	for {
		message, op, err := wsutil.ReadClientData(c) // answers control frames
		if err != nil || wsutil.WriteServerMessage(c, op, message) != nil {
			return
		}
	}
}

func (e *EchoWS) close() {
	_ = e.ln.Close()
	e.mu.Lock()
	for c := range e.sockets {
		_ = c.Close()
	}
	e.sockets = nil
	e.mu.Unlock()
	e.group.Wait()
}

// WSClient is a WebSocket client for tests.
type WSClient struct {
	// Conn is the connection under the frames.
	Conn net.Conn
	// Handshake is what was agreed upon.
	Handshake ws.Handshake

	t  testing.TB
	br io.Reader
}

// DialWS opens a WebSocket to a ws:// or wss:// URL. tlsConfig may be nil for ws;
// fields are further request fields and may be nil.
func DialWS(t testing.TB, url string, tlsConfig *tls.Config, fields map[string]string) *WSClient {
	t.Helper()
	c, err := TryDialWS(t, url, tlsConfig, fields)
	if err != nil {
		t.Fatalf("open WebSocket %s: %v", url, err)
	}
	return c
}

// TryDialWS is DialWS for handshakes that may be refused; a refusal with a status
// is a ws.StatusError.
func TryDialWS(t testing.TB, url string, tlsConfig *tls.Config, fields map[string]string) (*WSClient, error) {
	t.Helper()
	header := ws.HandshakeHeaderFunc(func(w io.Writer) (int64, error) {
		var n int64
		for name, value := range fields {
			m, err := io.WriteString(w, name+": "+value+"\r\n")
			if n += int64(m); err != nil {
				return n, err
			}
		}
		return n, nil
	})
	d := ws.Dialer{Timeout: Patience, TLSConfig: tlsConfig, Header: header}
	conn, br, handshake, err := d.Dial(context.Background(), url)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &WSClient{Conn: conn, Handshake: handshake, t: t, br: bufio.NewReader(conn)}
	if br != nil { // frames that came with the 101
		c.br = br
	}
	return c, nil
}

// Send sends a message.
func (c *WSClient) Send(op ws.OpCode, message []byte) {
	c.t.Helper()
	c.sendFrame(ws.NewFrame(op, true, message))
}

// SendText sends a text message.
func (c *WSClient) SendText(message string) {
	c.t.Helper()
	c.Send(ws.OpText, []byte(message))
}

// sendFrame masks and sends a frame, leaving its payload as it was.
func (c *WSClient) sendFrame(f ws.Frame) {
	c.t.Helper()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(Patience))
	if err := ws.WriteFrame(c.Conn, ws.MaskFrame(f)); err != nil {
		c.t.Fatalf("send frame: %v", err)
	}
}

// maxFrame bounds the frames that a WSClient reads.
const maxFrame = 64 << 20

// Frame reads one frame of any kind, which must not be masked.
func (c *WSClient) Frame() ws.Frame {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(Patience))
	header, err := ws.ReadHeader(c.br)
	if err != nil {
		c.t.Fatalf("read frame: %v", err)
	}
	if header.Masked || header.Length > maxFrame {
		c.t.Fatalf("read frame: odd header %+v", header)
	}
	f := ws.Frame{Header: header, Payload: make([]byte, header.Length)}
	if _, err := io.ReadFull(c.br, f.Payload); err != nil {
		c.t.Fatalf("read frame of %d bytes: %v", header.Length, err)
	}
	return f
}

// Text reads frames up to the next text message, which must be of one frame.
func (c *WSClient) Text() string {
	c.t.Helper()
	for {
		switch f := c.Frame(); f.Header.OpCode {
		case ws.OpText:
			return string(f.Payload)
		case ws.OpClose:
			c.t.Fatalf("read text: closed with %q", f.Payload)
		}
	}
}

// Ping sends a ping and waits for its pong.
func (c *WSClient) Ping(payload string) {
	c.t.Helper()
	c.sendFrame(ws.NewPingFrame([]byte(payload)))
	for {
		if f := c.Frame(); f.Header.OpCode == ws.OpPong {
			if string(f.Payload) != payload {
				c.t.Fatalf("pong %q for ping %q", f.Payload, payload)
			}
			return
		}
	}
}

// Close makes the close handshake and returns the peer's code; the peer must then
// end the connection.
func (c *WSClient) Close(code ws.StatusCode, why string) ws.StatusCode {
	c.t.Helper()
	c.sendFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, why)))
	return c.Closed()
}

// Closed reads until the peer's close frame and the end of the connection, and
// returns the code, 0 if the frame had none.
func (c *WSClient) Closed() ws.StatusCode {
	c.t.Helper()
	for {
		f := c.Frame()
		if f.Header.OpCode != ws.OpClose {
			continue
		}
		if rest, err := io.ReadAll(c.br); err != nil && !wasClosed(err) || len(rest) > 0 {
			c.t.Fatalf("after the close frame: %q, %v", rest, err)
		}
		code, _ := ws.ParseCloseFrameData(f.Payload)
		return code
	}
}
