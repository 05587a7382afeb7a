package tlsload

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

const (
	// backlog is how many seconds of connections may wait for a free one, at most
	// mostBacklog in all; what comes due beyond is not made and counts as Backlog.
	backlog     = 30
	mostBacklog = 1 << 20
	// lagTooLong is the 99th percentile of Result.SendLag from which on the tool is the limit.
	lagTooLong = 20 * time.Millisecond
	// afterFailure is how long a worker of the closed loop rests behind one: a server that
	// refuses everything would only be asked the faster.
	afterFailure = 10 * time.Millisecond
)

// Run makes connections until Duration has passed or ctx ends, and waits for the last
// ones: for those that have begun, after the end of ctx not at all. An error means that
// nothing was tried.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, target: t, config: o.config(t), began: time.Now()}
	r.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", t.URL.RequestURI(), t.URL.Host)
	r.counting = r.began.Add(o.Warmup)
	r.tally = newTally(r.counting)
	r.sessions.least, r.sessions.most = o.ReturnAfter, o.ReturnWithin
	r.sessions.dice = rand.New(rand.NewPCG(o.Seed, math.MaxUint64)) // a stream that no worker has
	r.play(ctx)
	return r.result(), nil
}

// run is one run.
type run struct {
	Options
	target   *target.Target
	config   *tls.Config
	request  []byte
	began    time.Time
	counting time.Time // what is due from here on is counted

	sessions sessions
	workers  []*worker
	free     atomic.Int64 // workers without a connection
	number   atomic.Int64 // of the next connection

	ticketed, ticketless atomic.Int64 // connections that waited for a ticket

	tally *tally
	lag   latency.Histogram
	cost  target.Cost   // set by play
	took  time.Duration // set by play
}

// due is one connection to be made.
type due struct {
	at     time.Time
	prompt bool // a worker was free for it
}

func (r *run) timeout() time.Duration {
	if r.Target.Timeout > 0 {
		return r.Target.Timeout
	}
	return 10 * time.Second
}

// despaired says that this server has no tickets, as far as one can tell.
func (r *run) despaired() bool {
	return r.ticketed.Load() == 0 && r.ticketless.Load() >= ticketsDespaired
}

func (r *run) play(ctx context.Context) {
	begin := ctx // ends the beginning of connections
	if r.Duration > 0 {
		var cancel context.CancelFunc
		begin, cancel = context.WithDeadline(ctx, r.began.Add(r.Duration))
		defer cancel()
	}
	for i := range r.Conns {
		r.workers = append(r.workers, newWorker(r, i))
	}
	defer context.AfterFunc(ctx, r.abort)()
	defer r.reportProgress()()
	defer time.AfterFunc(r.Warmup, r.tally.startMeter).Stop()
	if r.Rate > 0 {
		r.open(ctx, begin)
	} else {
		r.closed(ctx, begin)
	}
	r.took = time.Since(r.counting)
	r.cost = r.tally.cost()
}

// abort closes what is under way.
func (r *run) abort() {
	for _, w := range r.workers {
		if tcp := w.current.Load(); tcp != nil {
			_ = tcp.Close()
		}
	}
}

// closed keeps each worker busy, for one connection at least.
func (r *run) closed(ctx, begin context.Context) {
	var wg sync.WaitGroup
	for _, w := range r.workers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil && (n == 0 || begin.Err() == nil); n++ {
				if !w.do(ctx, due{at: time.Now()}) {
					pace.Sleep(begin, afterFailure)
				}
			}
		})
	}
	wg.Wait()
}

// open begins connections by the schedule.
func (r *run) open(ctx, begin context.Context) {
	queue := make(chan due, min(int(r.Rate*backlog)+1, mostBacklog))
	var wg sync.WaitGroup
	r.free.Store(int64(len(r.workers)))
	for _, w := range r.workers {
		wg.Go(func() { r.serve(ctx, begin, w, queue) })
	}
	n := -1
	if r.Duration > 0 {
		n = int(math.Ceil(r.Rate * r.Duration.Seconds()))
	}
	pace.New(r.began, r.Rate).Each(ctx, n, func(_ int, at time.Time) {
		d := due{at: at, prompt: r.free.Load() > int64(len(queue))}
		select {
		case queue <- d:
		default:
			r.skip(d)
		}
	})
	close(queue)
	wg.Wait()
}

// serve is one worker of the open loop. Once the time is over, what has waited longer
// than a connection may take is given up.
func (r *run) serve(ctx, begin context.Context, w *worker, queue <-chan due) {
	for d := range queue {
		if ctx.Err() != nil || begin.Err() != nil && time.Since(d.at) > r.timeout() {
			r.skip(d)
			continue
		}
		r.free.Add(-1)
		if d.prompt && r.counts(d) {
			r.lag.Add(time.Since(d.at))
		}
		w.do(ctx, d)
		r.free.Add(1)
	}
}

// counts says whether a connection belongs to the figures.
func (r *run) counts(d due) bool { return !d.at.Before(r.counting) }

// skip notes a connection that was not made.
func (r *run) skip(d due) {
	if r.counts(d) {
		r.tally.add(d.at, &outcome{failure: Backlog, err: errBacklog, done: time.Now()})
	}
}

// do makes a connection and adds it to the figures. What the end of the run has cut off
// says nothing of the server.
func (w *worker) do(ctx context.Context, d due) (ok bool) {
	o := w.connection(ctx, int(w.r.number.Add(1)-1))
	if o.awaited {
		if o.tickets > 0 {
			w.r.ticketed.Add(1)
		} else {
			w.r.ticketless.Add(1)
		}
	}
	if w.r.counts(d) && (o.failure == OK || ctx.Err() == nil) {
		w.r.tally.add(d.at, &o)
	}
	return o.failure == OK
}

// reportProgress calls Progress once a second until the function that it returns is called.
func (r *run) reportProgress() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		last := Progress{}
		for pace.Sleep(ctx, time.Second) {
			p := r.tally.progress(time.Since(r.began), last)
			r.Progress(p)
			last = p
		}
	})
	return func() { cancel(); wg.Wait() }
}
