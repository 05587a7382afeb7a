package wsload

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"tickgate/loadtest/target"
)

// mostPayload bounds a frame's payload; nobody sends this tool more than it asked for.
const mostPayload = 16 << 20

// handshakeTimeout bounds the answer to an upgrade request.
const handshakeTimeout = 30 * time.Second

var (
	errFrameSize = errors.New("wsload: frame over 16 MiB")
	errMasked    = errors.New("wsload: masked frame from a server")
)

// RefusedError is an upgrade answered with another status than 101.
type RefusedError struct {
	Status int
	// RetryAfter is the field of that name, as it was sent.
	RetryAfter string
}

// Error implements error.
func (e *RefusedError) Error() string { return "upgrade refused with status " + strconv.Itoa(e.Status) }

// Conn is a client's end of a WebSocket connection. One goroutine may read and any
// number may write: a frame is one Write, and those of a net.Conn exclude each other.
type Conn struct {
	// Net is the connection beneath, as target.Target.Dial returned it.
	Net net.Conn
	// Protocol is the subprotocol that the server chose, or "".
	Protocol string

	r       *bufio.Reader
	head    [ws.MaxHeaderSize]byte
	payload []byte // of the last frame that did not fit r
}

// readBuffer is the size of a tunnel's read buffer.
const readBuffer = 2048

// Dialer opens connections. It does not change.
type Dialer struct {
	Target *target.Target
	// Header is sent with each upgrade request, Protocols are the subprotocols offered, in order.
	Header    http.Header
	Protocols []string

	// Both nil: every TLS handshake is a full one, as with the zero value.
	full, resuming *tls.Config
	resumePercent  int
}

// NewDialer returns a dialer of which so many per cent of the connections try to resume a
// TLS session of an earlier one, evenly spread.
func NewDialer(t *target.Target, resumePercent int) *Dialer {
	d := &Dialer{Target: t, resumePercent: resumePercent}
	if t.Secure && resumePercent > 0 {
		sessions := tls.NewLRUClientSessionCache(0)
		d.full, d.resuming = t.TLS(), t.TLS()
		d.full.ClientSessionCache, d.resuming.ClientSessionCache = keepOnly{sessions}, sessions
	}
	return d
}

// keepOnly keeps sessions for others and offers none: handshakes with it are full ones.
type keepOnly struct{ tls.ClientSessionCache }

// Get implements tls.ClientSessionCache.
func (keepOnly) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

// Open connects with number i of the target's sources and upgrades.
func Open(ctx context.Context, t *target.Target, i int) (*Conn, error) {
	return (&Dialer{Target: t}).Open(ctx, i)
}

// Open connects with number i of the target's sources and upgrades. The end of ctx cuts it off.
func (d *Dialer) Open(ctx context.Context, i int) (*Conn, error) {
	conn, err := d.dial(ctx, i)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, err := d.Upgrade(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, i int) (net.Conn, error) {
	if d.full == nil {
		return d.Target.Dial(ctx, i)
	}
	conn, err := d.Target.DialTCP(ctx, i)
	if err != nil {
		return nil, err
	}
	cfg := d.full
	if (i+1)*d.resumePercent/100 > i*d.resumePercent/100 {
		cfg = d.resuming
	}
	ctx, cancel := context.WithTimeout(ctx, d.Target.Timeout())
	defer cancel()
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// Upgrade performs the opening handshake (RFC 6455 section 4.1) on a connection. A
// refusal is a *RefusedError.
func Upgrade(conn net.Conn, t *target.Target) (*Conn, error) {
	return (&Dialer{Target: t}).Upgrade(conn)
}

// Upgrade performs the opening handshake (RFC 6455 section 4.1) on a connection. A
// refusal is a *RefusedError.
func (d *Dialer) Upgrade(conn net.Conn) (*Conn, error) {
	var refused *RefusedError
	dialer := ws.Dialer{
		ReadBufferSize: readBuffer, WriteBufferSize: 1024, Protocols: d.Protocols,
		OnStatusError: func(status int, _ []byte, resp io.Reader) {
			refused = &RefusedError{Status: status}
			if r, err := http.ReadResponse(bufio.NewReader(resp), nil); err == nil {
				refused.RetryAfter = r.Header.Get("Retry-After")
				_ = r.Body.Close()
			}
		},
	}
	if len(d.Header) > 0 {
		dialer.Header = ws.HandshakeHeaderHTTP(d.Header)
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	early, handshake, err := dialer.Upgrade(conn, d.Target.URL)
	switch {
	case refused != nil:
		return nil, refused
	case err != nil:
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	c := &Conn{Net: conn, Protocol: handshake.Protocol, r: bufio.NewReaderSize(conn, readBuffer)}
	if early != nil {
		sent, _ := early.Peek(early.Buffered())
		c.r.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(sent)), conn))
		ws.PutReader(early)
	}
	return c, nil
}

// Read returns the next frame. Its payload is good until the next Read.
func (c *Conn) Read() (ws.Header, []byte, error) {
	h, err := ws.ReadHeaderBuffer(c.r, c.head[:])
	switch {
	case err != nil:
		return h, nil, err
	case h.Length > mostPayload:
		return h, nil, errFrameSize
	case h.Masked:
		return h, nil, errMasked
	}
	n := int(h.Length)
	if n <= c.r.Size() {
		p, err := c.r.Peek(n)
		if err != nil {
			return h, nil, unexpected(err)
		}
		_, err = c.r.Discard(n)
		return h, p, err
	}
	if cap(c.payload) < n {
		c.payload = make([]byte, n)
	}
	_, err = io.ReadFull(c.r, c.payload[:n])
	return h, c.payload[:n], unexpected(err)
}

// unexpected makes an end within a frame stand out.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Send sends one frame, with the FIN bit set. The payload is left alone.
func (c *Conn) Send(op ws.OpCode, payload []byte) error {
	_, err := c.Net.Write(appendMasked(make([]byte, 0, ws.MaxHeaderSize+len(payload)), op, payload))
	return err
}

// appendMasked appends a client's frame.
func appendMasked(b []byte, op ws.OpCode, payload []byte) []byte {
	h := ws.Header{Fin: true, OpCode: op, Masked: true, Length: int64(len(payload)), Mask: newMask()}
	b = appendHeader(b, h)
	start := len(b)
	b = append(b, payload...)
	ws.Cipher(b[start:], h.Mask, 0)
	return b
}

// newMask returns a masking key, which need not be hard to guess here.
func newMask() [4]byte {
	v := rand.Uint32()
	return [4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
}

// appendHeader appends a frame's header.
func appendHeader(b []byte, h ws.Header) []byte {
	w := appender{b}
	if err := ws.WriteHeader(&w, h); err != nil {
		panic("BUG: wsload: " + err.Error()) // lengths below 2^63 are all it asks for
	}
	return w.b
}

// appender is an io.Writer that appends.
type appender struct{ b []byte }

// Write implements io.Writer.
func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}
