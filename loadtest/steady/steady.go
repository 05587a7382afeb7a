// Package steady keeps requests going over kept-alive connections while a gateway
// reloads or drains, and tells a request that failed from a connection that was
// closed in order: a general load generator counts both as errors, or neither.
package steady

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// Options configures a run.
type Options struct {
	// URL to GET, http:// or https://.
	URL string
	// Conns is how many connections are kept, each with one request at a time.
	Conns int
	// Duration of the run; 0 runs until ctx ends or the server is gone.
	Duration time.Duration
	// Timeout of one request; 0 is ten seconds.
	Timeout time.Duration
	// UntilRefused takes a refused connection, after the first one was accepted, as
	// the end of a drain and not as a failure.
	UntilRefused bool
	// Insecure does not verify the server's certificate.
	Insecure bool
}

// Result counts what happened.
type Result struct {
	// Requests were sent; OK of them got a whole response below 400, Refused a
	// whole one of 400 and above.
	Requests int64 `json:"requests"`
	OK       int64 `json:"ok"`
	Refused  int64 `json:"refused"`
	// Cut responses ended too early or broke HTTP.
	Cut int64 `json:"cut"`
	// Unanswered requests were sent whole and got no byte back.
	Unanswered int64 `json:"unanswered"`
	// DialFailed counts connections that could not be made.
	DialFailed int64 `json:"dial_failed"`
	// Closed counts connections that the server closed in order: with
	// "Connection: close", or while no request was on them. That is no failure.
	Closed int64 `json:"closed_in_order"`
	// Dials is how many connections were made.
	Dials int64 `json:"dials"`
	// Drained says that the server refused connections in the end.
	Drained bool `json:"drained"`
	// FirstError is the text of the first failure.
	FirstError string `json:"first_error,omitempty"`
}

// Failed is the number of requests that a user would have seen fail.
func (r Result) Failed() int64 { return r.Refused + r.Cut + r.Unanswered + r.DialFailed }

// add sums two results.
func (r *Result) add(o Result) {
	r.Requests += o.Requests
	r.OK += o.OK
	r.Refused += o.Refused
	r.Cut += o.Cut
	r.Unanswered += o.Unanswered
	r.DialFailed += o.DialFailed
	r.Closed += o.Closed
	r.Dials += o.Dials
	r.Drained = r.Drained || o.Drained
	if r.FirstError == "" {
		r.FirstError = o.FirstError
	}
}

// Run keeps requests going and returns their sum. An error means that nothing was
// sent; failures of requests are in the result.
func Run(ctx context.Context, o Options) (Result, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Result{}, fmt.Errorf("steady: %q is no http:// or https:// URL", o.URL)
	}
	if o.Conns < 1 {
		return Result{}, fmt.Errorf("steady: %d connections (want at least 1)", o.Conns)
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	stop, cancel := context.WithCancel(ctx)
	if o.Duration > 0 {
		stop, cancel = context.WithTimeout(ctx, o.Duration)
	}
	defer cancel()
	var (
		sum Result
		mu  sync.Mutex
		wg  sync.WaitGroup
	)
	for range o.Conns {
		wg.Go(func() {
			c := newClient(u, o)
			c.loop(stop)
			mu.Lock()
			defer mu.Unlock()
			sum.add(c.Result)
		})
	}
	wg.Wait()
	return sum, nil
}

// client is one connection after another, owned by one goroutine.
type client struct {
	Result

	addr    string
	tls     *tls.Config // nil for plain
	request []byte
	opts    Options

	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS on it; nil between connections
	br   *bufio.Reader
}

func newClient(u *url.URL, o Options) *client {
	c := &client{addr: u.Host, opts: o}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
		c.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: o.Insecure} //nolint:gosec // asked for by name
	}
	if u.Port() == "" {
		c.addr = net.JoinHostPort(u.Hostname(), port)
	}
	c.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.RequestURI(), u.Host)
	return c
}

// errGone says that the server refuses connections after it took some.
var errGone = errors.New("server is gone")

// loop sends one request after another until ctx ends or the server is gone. It
// sends at least one, and ends no request or handshake early.
func (c *client) loop(ctx context.Context) {
	defer c.close()
	for first := true; first || ctx.Err() == nil; first = false {
		if c.conn != nil && c.readable() { // nothing is due: this is a close
			c.Closed++
			c.close()
		}
		if c.conn == nil {
			if err := c.dial(context.WithoutCancel(ctx)); err != nil {
				if errors.Is(err, errGone) {
					return
				}
				c.fail(&c.DialFailed, err)
				continue
			}
		}
		c.exchange()
	}
}

// fail counts a failure and gives the connection up.
func (c *client) fail(count *int64, err error) {
	*count++
	if c.FirstError == "" {
		c.FirstError = err.Error()
	}
	c.close()
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.tcp, c.br = nil, nil, nil
}

// dial makes a connection.
func (c *client) dial(ctx context.Context) error {
	d := net.Dialer{Timeout: c.opts.Timeout}
	conn, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) && c.opts.UntilRefused && c.Dials > 0 {
			c.Drained = true
			return errGone
		}
		return err
	}
	c.Dials++
	c.tcp, c.conn = conn.(*net.TCPConn), conn
	if c.tls != nil {
		conn := tls.Client(c.tcp, c.tls)
		_ = conn.SetDeadline(time.Now().Add(c.opts.Timeout))
		if err := conn.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
		c.conn = conn
	}
	c.br = bufio.NewReader(c.conn)
	return nil
}

// readable says whether the idle connection has bytes (a TLS close_notify) or its
// end to read, without reading.
func (c *client) readable() bool {
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		return true
	}
	var peeked error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, peeked = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err != nil || !errors.Is(peeked, syscall.EAGAIN)
}

// exchange sends one request and reads its response to the end.
func (c *client) exchange() {
	c.Requests++
	_ = c.conn.SetDeadline(time.Now().Add(c.opts.Timeout))
	if _, err := c.conn.Write(c.request); err != nil {
		c.fail(&c.Unanswered, fmt.Errorf("send: %w", err))
		return
	}
	if _, err := c.br.Peek(1); err != nil {
		c.fail(&c.Unanswered, fmt.Errorf("no answer: %w", err))
		return
	}
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.fail(&c.Cut, fmt.Errorf("response head: %w", err))
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.fail(&c.Cut, fmt.Errorf("response body: %w", err))
		return
	}
	if resp.StatusCode >= 400 {
		c.fail(&c.Refused, fmt.Errorf("status %s", resp.Status))
		return
	}
	c.OK++
	if resp.Close {
		c.Closed++
		c.close()
	}
}
