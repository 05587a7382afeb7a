package probe

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// digestField is the field with the digest of a body (RFC 9530), which is checked where a
// response has one.
const digestField = "Content-Digest"

// Digest returns the value of Content-Digest for a body.
func Digest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// maxBody bounds the bodies that are kept to be checked; longer ones are read only.
const maxBody = 1 << 20

// Requests sends GET requests at the rate until ctx ends, whatever becomes of them, and
// waits for the last responses.
func Requests(ctx context.Context, o Options) error {
	r, err := newRun(o, "http", "https")
	if err != nil {
		return err
	}
	due := make(chan time.Time, r.room()+1)
	var wg sync.WaitGroup
	for i := range r.Conns {
		wg.Go(func() { r.client(due, i) })
	}
	r.spread(ctx, []chan time.Time{due})
	wg.Wait()
	return nil
}

// client is connection number i, opened again whenever it has ended.
func (r *run) client(due <-chan time.Time, i int) {
	c := client{r: r, i: i, br: bufio.NewReader(nil)}
	defer c.close()
	for at := range due {
		if r.tooLate(at) {
			continue
		}
		status, err := c.do()
		if c.r.Fresh || err != nil && !errors.Is(err, errStatus) {
			c.close()
		}
		r.observe(at, status, err)
	}
}

// client is owned by one goroutine.
type client struct {
	r    *run
	i    int
	conn net.Conn // nil between connections
	br   *bufio.Reader
}

// errStale says that a kept connection ended before a byte of the response.
var errStale = errors.New("probe: kept connection ended")

// do sends one request. If a kept connection turns out to have ended before a byte of the
// response, the request goes over a new one, as every client of HTTP does.
func (c *client) do() (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.r.Timeout)
	defer cancel()
	kept := c.conn != nil
	status, err = c.try(ctx)
	if kept && errors.Is(err, errStale) {
		c.close()
		return c.try(ctx)
	}
	return status, err
}

func (c *client) try(ctx context.Context) (status int, err error) {
	if c.conn == nil {
		conn, err := c.r.dial(ctx, c.i)
		if err != nil {
			return 0, err
		}
		c.conn = conn
		c.br.Reset(conn)
	}
	deadline, _ := ctx.Deadline()
	_ = c.conn.SetDeadline(deadline)
	if _, err := c.conn.Write(c.r.target.Request()); err != nil {
		return 0, fmt.Errorf("send: %w: %w", errStale, err)
	}
	if _, err := c.br.Peek(1); err != nil {
		if kindOf(err) == Timeout {
			return 0, fmt.Errorf("no response: %w", err)
		}
		return 0, fmt.Errorf("no response: %w: %w", errStale, err)
	}
	return c.response()
}

// response reads a response to its end.
func (c *client) response() (status int, err error) {
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return 0, fmt.Errorf("response: %w", noEOF(err))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return 0, fmt.Errorf("response body: %w", noEOF(err))
	}
	if resp.Close {
		c.close()
	}
	digest := resp.Header.Get(digestField)
	switch {
	case digest != "" && len(body) <= maxBody && digest != Digest(body):
		return resp.StatusCode, errCorrupt
	case resp.StatusCode >= 400:
		return resp.StatusCode, fmt.Errorf("%w %d: %s", errStatus, resp.StatusCode, firstLine(body))
	}
	return resp.StatusCode, nil
}

// firstLine is what an error page begins with.
func firstLine(body []byte) string {
	line, _, _ := strings.Cut(string(body[:min(len(body), 200)]), "\n")
	return line
}

// noEOF keeps an end within a response from looking like one before it.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
