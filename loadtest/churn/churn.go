// Package churn is a day of clients in miniature: many at once connect, talk, idle,
// half-close, reset, vanish, dribble, give up in mid handshake and drop tunnels, at
// random. In the end everything is closed, so that what a gateway then still holds,
// it has leaked.
package churn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("churn: bad options")

// Options configures a run.
type Options struct {
	// URL of plain requests and TunnelURL of tunnels, which the server echoes; either
	// may be empty. Target says how to get to both.
	URL       string
	TunnelURL string
	Target    target.Options
	// Clients at once, each doing one thing after another.
	Clients int
	// Duration of the run; what is under way at its end is broken off.
	Duration time.Duration
	// Longest is the longest that a client idles; put it beyond the gateway's
	// park_after, so that connections are parked and woken.
	Longest time.Duration
	// Seed makes the choices repeatable; the timing is not.
	Seed uint64
	// Progress is called once a second; nil is silent.
	Progress func(text string)
}

// Tally counts one behaviour.
type Tally struct {
	Done int64 `json:"done"`
	// Failed ones ended otherwise than the behaviour wants: no answer, a refusal, a
	// wrong echo.
	Failed     int64  `json:"failed"`
	FirstError string `json:"first_error,omitempty"`
}

// Result is what a run showed, by the name of the behaviour.
type Result struct {
	Behaviours map[string]*Tally `json:"behaviours"`
	// LeftOut behaviours need rights or a system that is not there, and say why.
	LeftOut map[string]string `json:"left_out,omitempty"`
	Seconds float64           `json:"seconds"`
}

// Failed is the number of failures of all behaviours.
func (r Result) Failed() (n int64) {
	for _, t := range r.Behaviours {
		n += t.Failed
	}
	return n
}

// String lists the behaviours.
func (r Result) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Behaviours)) {
		t := r.Behaviours[name]
		fmt.Fprintf(&b, "%-16s %8d done %6d failed  %s\n", name, t.Done, t.Failed, t.FirstError)
	}
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(&b, "%-16s left out: %s\n", name, r.LeftOut[name])
	}
	return b.String()
}

// Run keeps the clients going. An error means that nothing was tried.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Clients < 1 || o.Duration <= 0 || o.URL == "" && o.TunnelURL == "" {
		return Result{}, fmt.Errorf("%w: %d clients for %v (want at least 1, more than 0s, and a URL)", ErrOptions, o.Clients, o.Duration)
	}
	r := &run{Options: o, result: Result{Behaviours: make(map[string]*Tally), LeftOut: make(map[string]string)}}
	var err error
	if o.URL != "" {
		if r.plain, err = target.New(o.URL, o.Target, "http", "https"); err != nil {
			return Result{}, err
		}
	}
	if o.TunnelURL != "" {
		if r.tunnel, err = target.New(o.TunnelURL, o.Target, "ws", "wss"); err != nil {
			return Result{}, err
		}
	}
	if r.Progress == nil {
		r.Progress = func(string) {}
	}
	began := time.Now()
	r.play(ctx)
	r.result.Seconds = time.Since(began).Seconds()
	return r.result, nil
}

// run is one run.
type run struct {
	Options
	plain, tunnel *target.Target // either may be nil
	behaviours    []behaviour

	mu     sync.Mutex
	result Result // guarded by mu until play returns
}

func (r *run) play(ctx context.Context) {
	r.choose(ctx)
	// Not a deadline: a dial knows of it and ends before ctx does, which would look
	// like a failure.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer time.AfterFunc(r.Duration, cancel).Stop()
	var wg sync.WaitGroup
	for i := range r.Clients {
		wg.Go(func() { r.client(ctx, i) })
	}
	wg.Go(func() {
		for pace.Sleep(ctx, time.Second) {
			r.report()
		}
	})
	wg.Wait()
}

// choose collects the behaviours that are possible here.
func (r *run) choose(ctx context.Context) {
	for _, b := range behaviours {
		switch {
		case b.tunnel && r.tunnel == nil, !b.tunnel && r.plain == nil:
			continue
		case b.tlsOnly && !r.plain.Secure, b.plainOnly && r.tunnel.Secure:
			continue
		}
		if b.vanishes {
			if err := r.tryVanish(ctx); err != nil {
				r.result.LeftOut[b.name] = err.Error()
				continue
			}
		}
		r.behaviours = append(r.behaviours, b)
		r.result.Behaviours[b.name] = &Tally{}
	}
}

// tryVanish finds out whether this process may vanish.
func (r *run) tryVanish(ctx context.Context) error {
	t := r.plain
	if t == nil {
		t = r.tunnel
	}
	conn, err := t.DialTCP(ctx, 0)
	if err != nil {
		return err
	}
	if err := target.Vanish(conn); err != nil {
		_ = conn.Close()
		return fmt.Errorf("close without a FIN: %w", err)
	}
	return nil
}

// client does one thing after another.
func (r *run) client(ctx context.Context, i int) {
	rng := rand.New(rand.NewPCG(r.Seed, uint64(i))) //nolint:gosec // repeatable, not secret
	pace.Sleep(ctx, time.Duration(rng.Int64N(int64(time.Second))))
	for ctx.Err() == nil {
		b := r.behaviours[rng.IntN(len(r.behaviours))]
		err := b.do(ctx, &actor{r: r, rng: rng, i: i})
		if ctx.Err() != nil && err != nil {
			return // broken off, not failed
		}
		r.note(b.name, err)
		if err != nil {
			pace.Sleep(ctx, 100*time.Millisecond)
		}
	}
}

func (r *run) note(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.result.Behaviours[name]
	if err == nil {
		t.Done++
		return
	}
	t.Failed++
	if t.FirstError == "" {
		t.FirstError = err.Error()
	}
}

func (r *run) report() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var done int64
	for _, t := range r.result.Behaviours {
		done += t.Done
	}
	r.Progress(fmt.Sprintf("%d done, %d failed", done, r.result.Failed()))
}
