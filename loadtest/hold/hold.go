// Package hold opens many keep-alive connections, sends one request on each and then
// keeps them idle, so that what an idle connection costs a gateway can be read off
// its memory. A goroutine waits on each connection, so every end is noticed at once.
package hold

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("hold: bad options")

const (
	// atOnce bounds the handshakes under way at a time: more would only wait in the
	// server's backlog, and be dropped there.
	atOnce = 256
	// answerWithin bounds the wait for one response.
	answerWithin = 30 * time.Second
)

// Options configures a run.
type Options struct {
	// URL is http:// or https://; Target says how to get there.
	URL    string
	Target target.Options
	// Conns to open, Rate of them a second (0: as fast as it goes).
	Conns int
	Rate  float64
	// Silent sends no request: the connections stay as accept left them (with TLS:
	// after the handshake).
	Silent bool
	// Hold is how long the connections stay open; 0 is until ctx ends.
	Hold time.Duration
	// Again sends a second request on each connection before it is closed, which shows
	// that the gateway still knew it.
	Again bool
	// Progress is called with what is going on, on changes and once a second; nil is
	// silent.
	Progress func(text string)
	// Opened is called once every connection has been opened or has failed, and the run goes on
	// when it returns; nil is nobody.
	Opened func()
}

// Result is what a run showed.
type Result struct {
	// Opened connections were connected and, unless Silent, answered with a status
	// below 400; Failed ones were not.
	Opened int64 `json:"opened"`
	Failed int64 `json:"failed"`
	// ClosedByPeer of the opened ones ended while they were held, Unasked of those
	// with bytes that nobody asked for.
	ClosedByPeer int64 `json:"closed_by_peer"`
	Unasked      int64 `json:"unasked"`
	// AnsweredAgain counts the connections whose second request was answered.
	AnsweredAgain int64 `json:"answered_again"`
	// TLS is the protocol version of the connections, "" for plain ones.
	TLS string `json:"tls,omitempty"`
	// OpenTime counts from the connect to the end of the first response.
	OpenTime   latency.Summary `json:"open_time"`
	CPUSeconds float64         `json:"cpu_seconds"`
	FirstError string          `json:"first_error,omitempty"`
}

// Run opens, holds and closes the connections. An error means that nothing was
// tried; failures are in the result.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Conns < 1 {
		return Result{}, fmt.Errorf("%w: %d connections (want at least 1)", ErrOptions, o.Conns)
	}
	t, err := target.New(o.URL, o.Target, "http", "https")
	if err != nil {
		return Result{}, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Opened == nil {
		o.Opened = func() {}
	}
	h := &holder{Options: o, target: t, request: t.Request()}
	began := target.CPUTime()
	h.run(ctx)
	h.result.CPUSeconds = (target.CPUTime() - began).Seconds()
	h.result.OpenTime = h.openTime.Summary()
	return h.result, nil
}

// holder is one run.
type holder struct {
	Options
	target  *target.Target
	request []byte

	openTime latency.Histogram
	open     atomic.Int64
	again    atomic.Bool // the second requests are under way
	closing  atomic.Bool // ends are ours from here on
	watchers sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn // guarded by mu
	result Result     // guarded by mu until run returns
}

func (h *holder) run(ctx context.Context) {
	progress, stopProgress := context.WithCancel(context.WithoutCancel(ctx))
	var reporter sync.WaitGroup
	reporter.Go(func() {
		for pace.Sleep(progress, time.Second) {
			h.Progress(h.state())
		}
	})
	h.openAll(ctx)
	h.Progress("holding: " + h.state())
	h.Opened()
	if h.Hold > 0 {
		pace.Sleep(ctx, h.Hold)
	} else {
		<-ctx.Done()
	}
	if h.Again && !h.Silent {
		h.askAgain(context.WithoutCancel(ctx))
	}
	h.closing.Store(true)
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.watchers.Wait()
	stopProgress()
	reporter.Wait()
}

// state is the line of progress.
func (h *holder) state() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d of %d open, %d failed, %d closed by the peer", h.open.Load(), h.Conns, h.result.Failed, h.result.ClosedByPeer)
}

func (h *holder) openAll(ctx context.Context) {
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	pace.New(time.Now(), h.Rate).Each(ctx, h.Conns, func(i int, _ time.Time) {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if err := h.openOne(ctx, i); err != nil && ctx.Err() == nil {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.result.Failed++
				if h.result.FirstError == "" {
					h.result.FirstError = err.Error()
				}
			}
		})
	})
	wg.Wait()
}

func (h *holder) openOne(ctx context.Context, i int) error {
	began := time.Now()
	conn, err := h.target.Dial(ctx, i)
	if err != nil {
		return err
	}
	if !h.Silent {
		if err := h.ask(conn); err != nil {
			_ = conn.Close()
			return err
		}
	}
	h.openTime.Add(time.Since(began))
	h.open.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.result.Opened++
	h.conns = append(h.conns, conn)
	if secure, ok := conn.(*tls.Conn); ok && h.result.TLS == "" {
		h.result.TLS = tls.VersionName(secure.ConnectionState().Version)
	}
	h.watchers.Go(func() { h.watch(conn) })
	return nil
}

// ask sends the request and reads its response.
func (h *holder) ask(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(answerWithin))
	if _, err := conn.Write(h.request); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := readResponse(conn); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// readers keeps the buffers, which an idle connection does without.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// readResponse reads one whole response below 400 that leaves the connection open.
func readResponse(r io.Reader) error {
	br := readers.Get().(*bufio.Reader)
	defer readers.Put(br)
	br.Reset(r)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("response body: %w", err)
	}
	if resp.StatusCode >= 400 || resp.Close {
		return fmt.Errorf("response: status %d, close %v", resp.StatusCode, resp.Close)
	}
	return nil
}

// watch waits for what happens on an idle connection.
func (h *holder) watch(conn net.Conn) {
	defer h.open.Add(-1)
	var first [1]byte
	n, _ := conn.Read(first[:])
	switch {
	case n > 0 && h.again.Load():
		if readResponse(io.MultiReader(bytes.NewReader(first[:]), conn)) == nil {
			h.mu.Lock()
			h.result.AnsweredAgain++
			h.mu.Unlock()
		}
	case !h.closing.Load():
		h.mu.Lock()
		h.result.ClosedByPeer++
		h.result.Unasked += int64(n)
		h.mu.Unlock()
	}
	_ = conn.Close()
}

// askAgain sends the second requests, whose responses go to the watchers.
func (h *holder) askAgain(ctx context.Context) {
	h.again.Store(true)
	h.mu.Lock()
	conns := h.conns
	h.mu.Unlock()
	pace.New(time.Now(), h.Rate).Each(ctx, len(conns), func(i int, _ time.Time) {
		_ = conns[i].SetDeadline(time.Now().Add(answerWithin))
		_, _ = conns[i].Write(h.request) // a failure shows as an answer that is missing
	})
	h.watchers.Wait()
}
