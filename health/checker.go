package health

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Target is one backend to probe.
type Target struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is host:port with an IP address, or the path of a Unix socket. A host
	// name works too but is looked up for each probe, within the probe's timeout.
	Address string
	// Host is the Host header of HTTP probes whose options set none, and the name
	// to verify if TLS has no ServerName. Default: Address.
	Host string
	// TLS returns how to talk to the backend, and is asked for each probe, as certificates are renewed. What it returns is not changed. A nil
	// TLS is plain.
	TLS func() *tls.Config
}

// Transition is a change of a backend's state.
type Transition struct {
	Up bool
	At time.Time
	// Reason is the outcome that tipped the scales, for people: "ok", "connect refused", "status 503",
	// "timeout in response head", "body does not match".
	Reason string
	// Result is the same as a type.
	Result Result
}

// Checker probes any number of backends, each on its own goroutine and schedule.
type Checker struct {
	// Static after construction.
	onProbe func(Target, Result)
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	random  func() float64 // uniform in [0, 1)
}

// Option changes a Checker under construction.
type Option func(*Checker)

// OnProbe has every finished probe reported to f, from the probing goroutines: f
// must be safe for concurrent use and quick.
func OnProbe(f func(Target, Result)) Option {
	return func(c *Checker) { c.onProbe = f }
}

// Dialer replaces the way in which probes connect.
func Dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(c *Checker) { c.dial = dial }
}

// NewChecker returns a Checker that watches nothing yet.
func NewChecker(opts ...Option) *Checker {
	// Probes send a few bytes and close, so keep-alive is of no use to them.
	d := &net.Dialer{KeepAlive: -1}
	c := &Checker{
		onProbe: func(Target, Result) {},
		dial:    d.DialContext,
		random:  rand.Float64,
	}
	for _, opt := range opts {
		opt(c)
	}
	return c
}

// Watch probes t from now on: the first time at a random moment within the next
// interval, but at most a second from now, and then at jittered intervals. It calls
// onChange at each change of the state, which begins as o.Initial says, from one
// goroutine at a time and in order.
//
// stop ends it and can be called often and from anywhere, onChange included. It does
// not wait: a probe under way is cut short and its result ignored, and only an
// onChange that has already begun can still be running after stop.
//
// o must have passed Validate.
func (c *Checker) Watch(t Target, o *Options, onChange func(Transition)) (stop func()) {
	p, err := newProbe(c, t, o)
	if err != nil {
		panic("BUG: health: options were not validated: " + err.Error())
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{
		probe:    p,
		state:    NewState(o.InitiallyUp(), o.Rise, o.Fall, time.Now()),
		interval: orDefault(o.Interval, 5*time.Second),
		random:   c.random,
		onProbe:  c.onProbe,
		onChange: onChange,
	}
	go w.run(ctx)
	return sync.OnceFunc(cancel)
}

// watch is one backend under observation. It belongs to the goroutine of run.
type watch struct {
	probe    *probe
	state    State
	interval time.Duration
	random   func() float64
	onProbe  func(Target, Result)
	onChange func(Transition)
}

func (w *watch) run(ctx context.Context) {
	timer := time.NewTimer(firstDelay(w.interval, w.random()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		out := w.probe.once(ctx)
		if ctx.Err() != nil {
			return // stopped meanwhile: the result says nothing about the backend
		}
		now := time.Now()
		w.observe(out, now)
		timer.Reset(nextDelay(w.interval, now.Sub(start), w.random()))
	}
}

func (w *watch) observe(out outcome, now time.Time) {
	w.onProbe(w.probe.target, out.result)
	if w.state.Observe(out.result == OK, now) {
		w.onChange(Transition{Up: w.state.Up(), At: now, Reason: out.reason, Result: out.result})
	}
}

const (
	// maxFirstDelay bounds how long a new backend goes unprobed.
	maxFirstDelay = time.Second
	// jitterShare is how far an interval strays to either side, so that probes of many
	// gateways and backends do not fall into step.
	jitterShare = 0.1
)

// firstDelay spreads the first probes of many backends; r is uniform in [0, 1).
func firstDelay(interval time.Duration, r float64) time.Duration {
	return time.Duration(r * float64(min(interval, maxFirstDelay)))
}

// nextDelay returns the pause after a probe that took a while, such that probes begin an
// interval, give or take its jitter, apart; one that took longer is followed at once.
func nextDelay(interval, took time.Duration, r float64) time.Duration {
	factor := 1 - jitterShare + 2*jitterShare*r
	return max(0, time.Duration(factor*float64(interval))-took)
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
