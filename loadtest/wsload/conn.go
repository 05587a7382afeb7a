package wsload

import (
	"bufio"
	"bytes"
	"context"
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

	r       *bufio.Reader
	head    [ws.MaxHeaderSize]byte
	payload []byte // of the last frame that did not fit r
}

// readBuffer is the size of a tunnel's read buffer.
const readBuffer = 2048

// Open connects with number i of the target's sources and upgrades.
func Open(ctx context.Context, t *target.Target, i int) (*Conn, error) {
	conn, err := t.Dial(ctx, i)
	if err != nil {
		return nil, err
	}
	c, err := Upgrade(conn, t)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// Upgrade performs the opening handshake (RFC 6455 section 4.1) on a connection. A
// refusal is a *RefusedError.
func Upgrade(conn net.Conn, t *target.Target) (*Conn, error) {
	var refused *RefusedError
	d := ws.Dialer{
		ReadBufferSize: readBuffer, WriteBufferSize: 1024,
		OnStatusError: func(status int, _ []byte, resp io.Reader) {
			refused = &RefusedError{Status: status}
			if r, err := http.ReadResponse(bufio.NewReader(resp), nil); err == nil {
				refused.RetryAfter = r.Header.Get("Retry-After")
				_ = r.Body.Close()
			}
		},
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	early, _, err := d.Upgrade(conn, t.URL)
	switch {
	case refused != nil:
		return nil, refused
	case err != nil:
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	c := &Conn{Net: conn, r: bufio.NewReaderSize(conn, readBuffer)}
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
