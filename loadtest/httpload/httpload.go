package httpload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
	"tickgate/proxy/reactor"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("httpload: bad options")

// Options configures a run.
type Options struct {
	// URL of the target, http:// or https://; Target says how to get there.
	URL    string
	Target target.Options
	// Mix is what is sent; nil is one GET of the URL.
	Mix []Request
	// Plan makes it the open loop: requests come due by it, whatever the server does.
	// Without it, and without Replay, it is the closed loop.
	Plan *pace.Plan
	// Replay is an open loop with a schedule of its own, in place of Plan and Mix.
	Replay Source
	// Conns is how many connections there are: kept busy in the closed loop, at most open
	// at a time in the open one. One request at a time goes over each.
	Conns int
	// Duration of the sending; 0 goes on until ctx ends or the plan or replay is over.
	// Responses to what was sent are waited for afterwards.
	Duration time.Duration
	// Warmup is the first part of Duration. What is due or sent in it does not count.
	Warmup time.Duration
	// Timeout of one request, from the time it is sent; 0 is ten seconds.
	Timeout time.Duration
	// PerConn is how many requests go over a connection before it is closed and opened anew;
	// 0 sets no bound.
	PerConn int
	// ResumePercent is the share of new TLS connections that try to resume a session. One
	// must have been left by an earlier connection, so the first are full handshakes.
	ResumePercent int
	// Loops is the number of event loops, each of which keeps a processor busy at most; 0
	// is one.
	Loops int
	// Slack is how long the loop sleeps at the least before requests that are due, so that several
	// go out at one wake: they may be that late, which is part of their latency. 0 is 100 us, less
	// is none. At 20,000 requests/s (median latency, CPU us a request, late p50 us; two processors
	// shared with the server): none 139, 38.5, 26; 100 us 134, 28.2, 35; 250 us 173, 24.0, 42;
	// 500 us 284, 23.3, 59.
	Slack time.Duration
	// Seed of the mix and the think times: the same one makes the same choices.
	Seed uint64
	// Progress is called once a second; nil is silent.
	Progress func(Progress)
}

// Progress is where a run is. The counts are of what is part of the result.
type Progress struct {
	Elapsed               time.Duration
	Due, Sent, OK, Errors int64
	Open, Waiting         int    // connections, and requests without one
	Second                Second // the latest whole one
}

// check tells what is wrong, and fills in the defaults.
func (o *Options) check() error {
	switch {
	case o.Conns < 1:
		return fmt.Errorf("%w: %d connections (want at least 1)", ErrOptions, o.Conns)
	case o.Replay != nil && (o.Plan != nil || o.Mix != nil):
		return fmt.Errorf("%w: a replay has neither a plan nor a mix", ErrOptions)
	case o.ResumePercent < 0 || o.ResumePercent > 100:
		return fmt.Errorf("%w: %d %% of resumed sessions (want 0 to 100)", ErrOptions, o.ResumePercent)
	case min(o.Duration, o.Warmup, o.Timeout) < 0 || min(o.PerConn, o.Loops) < 0:
		return fmt.Errorf("%w: a negative time or number", ErrOptions)
	case o.Plan != nil:
		if err := o.Plan.Check(); err != nil {
			return err
		}
		if d := o.Plan.Duration(); o.Duration == 0 || o.Duration > d {
			o.Duration = d
		}
	}
	if o.Duration > 0 && o.Warmup >= o.Duration {
		return fmt.Errorf("%w: a warm-up of %v in a run of %v", ErrOptions, o.Warmup, o.Duration)
	}
	if o.Slack == 0 {
		o.Slack = defaultSlack
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Mix == nil && o.Replay == nil {
		o.Mix = []Request{{}}
	}
	o.Loops = min(max(o.Loops, 1), o.Conns)
	return nil
}

// run is one run.
type run struct {
	Options
	// Static after newRun.
	target   *target.Target
	address  netip.AddrPort
	open     bool // the open loop
	mix      mix
	schedule *schedule      // of the open loop
	crew     *crew          // nil for plain TCP
	group    *reactor.Group // nil on a system without epoll
	workers  []*worker
	records  []*record  // of the workers, or the one that there is without loops
	failed   chan error // of the tool itself

	start    time.Time // static before the loops begin
	kinds    kinds
	timeline timeline
	conns    atomic.Int64 // numbers given to connections
}

// clock is the time since the start of the run.
func (r *run) clock() time.Duration { return time.Since(r.start) }

// number returns the number of the next connection.
func (r *run) number() int { return int(r.conns.Add(1)) - 1 }

// Run sends requests until Duration has passed, the plan or replay is over, or ctx ends;
// then it waits for the last responses, each as long as Timeout. The error is ErrOptions,
// target.ErrURL or ErrSources, pace.ErrPlan, or one of this machine; what the target does
// is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	r, err := newRun(ctx, o)
	if err != nil {
		return nil, err
	}
	spent, err := r.play(ctx)
	if err != nil {
		return nil, err
	}
	return r.result(spent)
}

// newRun makes everything ready.
func newRun(ctx context.Context, o Options) (*run, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := target.New(o.URL, o.Target, "http", "https")
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, target: t, open: o.Plan != nil || o.Replay != nil, failed: make(chan error, 1)}
	if r.address, err = t.Resolve(ctx); err != nil {
		return nil, err
	}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if err := r.openLoops(); !errors.Is(err, reactor.ErrUnsupported) {
		return r, err
	}
	r.group = nil
	return r, nil
}

// prepare makes the messages and the schedule.
func (r *run) prepare() error {
	for i := range r.Mix {
		m := &r.Mix[i]
		if m.Weight < 0 || m.Think < 0 {
			return fmt.Errorf("%w: weight %d, think time %v of %q", ErrOptions, m.Weight, m.Think, m.name(r.target))
		}
		msg, err := m.compile(r.target, r.kinds.index(m.name(r.target)))
		if err != nil {
			return err
		}
		r.mix.add(msg, max(m.Weight, 1))
	}
	if !r.open {
		return nil
	}
	r.schedule = &schedule{run: r, until: r.Duration, rng: rand.New(rand.NewPCG(r.Seed, 0))} //nolint:gosec // repeatable, not secret
	if r.Plan != nil {
		r.schedule.arrivals = r.Plan.Arrivals()
	}
	return nil
}

// openLoops makes the loops and spreads the connections over them.
func (r *run) openLoops() (err error) {
	r.group, err = reactor.New(reactor.Options{Loops: r.Loops, Log: func(_ string, err error) {
		select {
		case r.failed <- err:
		default:
		}
	}})
	if err != nil {
		return fmt.Errorf("event loops: %w", err)
	}
	r.group.Handle(reactor.Load, func(l *reactor.Loop) reactor.Handler {
		i := l.ID()
		w := newWorker(r, l, r.Conns*(i+1)/r.Loops-r.Conns*i/r.Loops)
		r.workers = append(r.workers, w)
		return w
	})
	for _, w := range r.workers {
		if w.alarm, err = pace.NewAlarm(); err == nil {
			err = w.reactor.Add(w.alarm.FD(), reactor.MakeToken(reactor.Load, alarmIndex, 0), reactor.EdgeBoth)
		}
		if err != nil {
			r.group.Close()
			return fmt.Errorf("alarm: %w", err)
		}
	}
	return nil
}

// play sends until it is time to end, and waits for the last responses.
func (r *run) play(ctx context.Context) (s spent, err error) {
	r.start = time.Now()
	sending, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := cancel
	var idle <-chan struct{}
	if r.group == nil {
		idle = r.startBlocking(sending)
	} else {
		idle = r.startLoops()
		defer r.closeLoops()
		stop = r.stopLoops
	}
	m := newMeter(r)
	defer m.stop()
	over := make(<-chan time.Time) // never, without a duration
	if r.Duration > 0 {
		timer := time.NewTimer(r.Duration)
		defer timer.Stop()
		over = timer.C
	}
	ended, cut := ctx.Done(), false
	for {
		select {
		case <-idle: // the plan or the replay is over, or the last response is in
			s = m.read()
			if whole := r.end() - r.Warmup; r.open && !cut && whole > 0 {
				s.wall = whole // it was read when the last response came, sooner or later
			}
			return s, nil
		case err := <-r.failed:
			return s, err
		case <-ended:
			m.freeze()
			stop()
			ended, cut = nil, true
		case <-over:
			m.freeze()
			if !r.open { // what is left of a schedule was due before, and is still sent
				stop()
			}
		}
	}
}

// end is when the sending of an open loop is over.
func (r *run) end() time.Duration {
	if r.Replay != nil {
		return r.schedule.lastDue()
	}
	return r.Duration
}

// startBlocking starts a run without loops; the channel is closed when it is over.
func (r *run) startBlocking(ctx context.Context) <-chan struct{} {
	b, idle := newBlocking(r), make(chan struct{})
	go func() {
		defer close(idle)
		b.play(ctx)
	}()
	return idle
}

// startLoops starts the loops; the channel is closed once all workers have nothing left
// to do, or their loops are closed.
func (r *run) startLoops() <-chan struct{} {
	if r.target.Secure {
		r.crew = newCrew(context.Background(), r.target, r.Conns, r.ResumePercent)
	}
	r.group.Start()
	for _, w := range r.workers {
		w.reactor.Post(w.start)
	}
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		for _, w := range r.workers {
			<-w.done
		}
	}()
	return idle
}

func (r *run) closeLoops() {
	if r.crew != nil {
		r.crew.close()
	}
	r.group.Close()
}

// stopLoops ends the sending.
func (r *run) stopLoops() {
	if r.schedule != nil {
		r.schedule.end()
	}
	for _, w := range r.workers {
		w.reactor.Post(w.stop)
	}
}

// stop ends the sending of a worker.
func (w *worker) stop() {
	w.now = w.run.clock()
	w.drain()
	w.settle()
}
