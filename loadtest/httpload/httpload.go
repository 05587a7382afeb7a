// Package httpload sends HTTP requests at a fixed rate, whatever the server does
// (the open loop), and counts latency from the time a request was due: a server that
// stalls is charged for all that came due meanwhile.
package httpload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("httpload: bad options")

// Options configures a run.
type Options struct {
	// URL to GET, http:// or https://; Target says how to get there.
	URL    string
	Target target.Options
	// Rate of requests a second, over at most Conns connections with one request at a
	// time. A request that finds none free waits, and its latency grows.
	Rate  float64
	Conns int
	// Duration of the sending; 0 goes on until ctx ends.
	Duration time.Duration
	// Timeout of one request, from the time it is sent; 0 is ten seconds.
	Timeout time.Duration
}

// Result is what a run showed.
type Result struct {
	// Due requests came up, and Sent ones found a connection before the run was over.
	Due  int64 `json:"due"`
	Sent int64 `json:"sent"`
	// Statuses counts whole responses; Errors counts requests without one.
	Statuses map[int]int64 `json:"statuses"`
	Errors   int64         `json:"errors"`
	Seconds  float64       `json:"seconds"`
	// OKTime is the latency of responses below 400, OtherTime that of the rest.
	OKTime     latency.Summary `json:"ok_time"`
	OtherTime  latency.Summary `json:"other_time"`
	CPUSeconds float64         `json:"cpu_seconds"`
	FirstError string          `json:"first_error,omitempty"`
}

// OK counts the responses below 400.
func (r *Result) OK() (n int64) {
	for status, count := range r.Statuses {
		if status < 400 {
			n += count
		}
	}
	return n
}

// backlog is how many seconds of requests may wait for a connection; what comes due
// beyond is not sent and counts as an error.
const backlog = 30

// Run sends requests until Duration has passed or ctx ends, and waits for the last
// responses.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Rate <= 0 || o.Conns < 1 {
		return nil, fmt.Errorf("%w: %v requests a second on %d connections (want more than 0, and at least 1)", ErrOptions, o.Rate, o.Conns)
	}
	t, err := target.New(o.URL, o.Target, "http", "https")
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	r := &run{Options: o, target: t, request: t.Request(), result: Result{Statuses: make(map[int]int64)}}
	began, cpu := time.Now(), target.CPUTime()
	r.play(ctx)
	r.result.Seconds = time.Since(began).Seconds()
	r.result.CPUSeconds = (target.CPUTime() - cpu).Seconds()
	r.result.Sent, r.result.OKTime, r.result.OtherTime = r.sent.Load(), r.okTime.Summary(), r.otherTime.Summary()
	return &r.result, nil
}

// run is one run.
type run struct {
	Options
	target  *target.Target
	request []byte

	sent              atomic.Int64
	okTime, otherTime latency.Histogram

	mu     sync.Mutex
	result Result // guarded by mu until play returns
}

func (r *run) play(ctx context.Context) {
	due := make(chan time.Time, int(r.Rate*backlog)+1)
	var wg sync.WaitGroup
	for i := range r.Conns {
		wg.Go(func() { r.client(due, i) })
	}
	pace.New(time.Now(), r.Rate).Each(ctx, -1, func(_ int, at time.Time) {
		r.result.Due++ // the clients do not look at it
		select {
		case due <- at:
		default:
			r.failed(fmt.Errorf("no free connection for %d s", backlog))
		}
	})
	close(due)
	wg.Wait()
}

// client is connection number i, opened again whenever it has ended.
func (r *run) client(due <-chan time.Time, i int) {
	c := client{r: r, i: i, br: bufio.NewReader(nil)}
	for at := range due {
		r.sent.Add(1)
		status, err := c.do()
		took := time.Since(at)
		if err != nil {
			c.close()
			r.failed(err)
			continue
		}
		if status < 400 {
			r.okTime.Add(took)
		} else {
			r.otherTime.Add(took)
		}
		r.mu.Lock()
		r.result.Statuses[status]++
		r.mu.Unlock()
	}
	c.close()
}

func (r *run) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Errors++
	if r.result.FirstError == "" {
		r.result.FirstError = err.Error()
	}
}

// client is owned by one goroutine.
type client struct {
	r    *run
	i    int
	conn net.Conn // nil between connections
	br   *bufio.Reader
}

// do sends one request. If a kept connection turns out to have ended before a byte
// of the response, the request goes over a new one, as every client of HTTP does.
func (c *client) do() (status int, err error) {
	kept := c.conn != nil
	status, err = c.try()
	if kept && errors.Is(err, io.EOF) {
		c.close()
		status, err = c.try()
	}
	return status, err
}

func (c *client) try() (status int, err error) {
	if c.conn == nil {
		if c.conn, err = c.r.target.Dial(context.Background(), c.i); err != nil {
			c.conn = nil // not an interface that holds a nil pointer
			return 0, err
		}
		c.br.Reset(c.conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(c.r.Timeout))
	if _, err := c.conn.Write(c.r.request); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	if _, err := c.br.Peek(1); err != nil {
		return 0, fmt.Errorf("no response: %w", err)
	}
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return 0, fmt.Errorf("response: %w", noEOF(err))
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, fmt.Errorf("response body: %w", noEOF(err))
	}
	if resp.Close {
		c.close()
	}
	return resp.StatusCode, nil
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

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "requests   %d due, %d sent in %.1f s, %d errors, statuses %v\n", r.Due, r.Sent, r.Seconds, r.Errors, r.Statuses)
	fmt.Fprintf(&b, "below 400  %v\n", r.OKTime)
	if r.OtherTime.Count > 0 {
		fmt.Fprintf(&b, "the rest   %v\n", r.OtherTime)
	}
	if r.FirstError != "" {
		fmt.Fprintf(&b, "first error %s\n", r.FirstError)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}
