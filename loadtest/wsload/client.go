package wsload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("wsload: bad options")

// Mode is what the tunnels are used for.
type Mode string

// The modes of a run.
const (
	Idle  Mode = "idle"  // nothing is sent
	Echo  Mode = "echo"  // messages are sent, and each is expected back
	Ticks Mode = "ticks" // the backend pushes (Backend with Ticks)
)

const (
	// atOnce bounds the handshakes under way at a time: more would only wait in the
	// server's backlog, and be dropped there.
	atOnce = 256
	// senders is how many goroutines send. A tunnel that takes no bytes holds up the
	// others of its sender, which shows as lag; see Result.SendLag.
	senders = 4
	// lagTooLong is the 99th percentile of the lag from which on the tool, and not
	// what it measures, may be the bottleneck.
	lagTooLong = 20 * time.Millisecond
	// answersWithin is how long echoes may stay out after the last message.
	answersWithin = 5 * time.Second
	// closedWithin is how long the server may take to answer Close frames.
	closedWithin = 10 * time.Second
)

// Options configures a run.
type Options struct {
	// URL is ws:// or wss://; Target says how to get there.
	URL    string
	Target target.Options
	// Tunnels to open, Rate of them a second (0: as fast as it goes).
	Tunnels int
	Rate    float64
	Mode    Mode
	// Messages a second that are sent over all tunnels together; each echo comes on
	// top. Size of one in bytes, at least MinSize. Text makes them text messages.
	Messages float64
	Size     int
	Text     bool
	// Settle is a pause between the last opening and the first message, Linger one
	// between the last echo and the closing.
	Settle, Linger time.Duration
	// Duration of the traffic, or of the idling. 0 goes on until ctx ends or the
	// server has ended every tunnel.
	Duration time.Duration
	// Progress is called with what is going on, on changes and once a second; nil is
	// silent.
	Progress func(text string)
}

func (o Options) check() error {
	switch {
	case o.Tunnels < 1:
		return fmt.Errorf("%w: %d tunnels (want at least 1)", ErrOptions, o.Tunnels)
	case o.Mode != Idle && o.Mode != Echo && o.Mode != Ticks:
		return fmt.Errorf("%w: mode %q (want %s, %s or %s)", ErrOptions, o.Mode, Idle, Echo, Ticks)
	case o.Mode == Echo && o.Messages <= 0:
		return fmt.Errorf("%w: %v messages a second (want more than 0)", ErrOptions, o.Messages)
	case o.Mode == Echo && (o.Size < MinSize || o.Size > mostPayload):
		return fmt.Errorf("%w: messages of %d bytes (want %d to %d)", ErrOptions, o.Size, MinSize, mostPayload)
	}
	return nil
}

// Run opens the tunnels, uses them and closes them. An error means that nothing was
// tried; what went wrong on the way is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := target.New(o.URL, o.Target, "ws", "wss")
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &run{
		Options: o, target: t, clock: newClock(), refusals: make(map[int]int64), closes: make(map[string]int64),
		retryAfter: make(map[string]int64), allEnded: make(chan struct{}),
	}
	began := target.CPUTime()
	r.play(ctx)
	return r.result(target.CPUTime() - began), nil
}

// run is one run.
type run struct {
	Options
	target *target.Target
	clock  clock

	tunnels []*tunnel // set before the traffic begins
	readers sync.WaitGroup

	openTime, messageTime, lag latency.Histogram

	opened, open            atomic.Int64
	sent, received, corrupt atomic.Int64
	pings, sendFailed       atomic.Int64
	allOpened               atomic.Bool

	allOnce  sync.Once
	allEnded chan struct{} // closed once all tunnels were open and none is any more

	mu         sync.Mutex
	order      order            // guarded by mu
	failed     int64            // guarded by mu; tunnels that did not open
	refusals   map[int]int64    // guarded by mu; by status
	retryAfter map[string]int64 // guarded by mu; refusals by their Retry-After
	closes     map[string]int64 // guarded by mu; ends that the server began, by code or error
	ends       []time.Time      // guarded by mu; when those were
	unanswered int64            // guarded by mu; echoes that never came, on tunnels that stayed open
	cutOff     int64            // guarded by mu; the same, on tunnels that the server ended
	firstError string           // guarded by mu
	trafficFor time.Duration    // set by play
	trafficCPU time.Duration    // set by play
}

// tunnel is one connection.
type tunnel struct {
	*Conn
	r  *run
	id uint32

	sent     atomic.Uint64
	received atomic.Uint64
	ended    atomic.Bool // no more to be sent

	// Owned by its reader.
	seq   sequence
	order order
}

func (r *run) play(ctx context.Context) {
	stopProgress := r.reportProgress()
	defer stopProgress()
	r.openAll(ctx)
	r.Progress(fmt.Sprintf("open: %d of %d tunnels", r.open.Load(), r.Tunnels))
	if r.opened.Load() > 0 && pace.Sleep(ctx, r.Settle) {
		began, cpu := time.Now(), target.CPUTime()
		r.Progress("traffic begins")
		r.traffic(ctx)
		r.awaitAnswers(context.WithoutCancel(ctx))
		r.trafficFor, r.trafficCPU = time.Since(began), target.CPUTime()-cpu
	}
	r.Progress(fmt.Sprintf("traffic ended: %d tunnels are open", r.open.Load()))
	pace.Sleep(ctx, r.Linger)
	r.closeAll()
}

// openAll opens the tunnels by the schedule and starts their readers.
func (r *run) openAll(ctx context.Context) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		places = make(chan struct{}, atOnce)
	)
	pace.New(time.Now(), r.Rate).Each(ctx, r.Tunnels, func(i int, _ time.Time) {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if t := r.openOne(ctx, i); t != nil {
				mu.Lock()
				r.tunnels = append(r.tunnels, t)
				mu.Unlock()
			}
		})
	})
	wg.Wait()
	r.allOpened.Store(true)
	r.countDown(0)
}

func (r *run) openOne(ctx context.Context, i int) *tunnel {
	began := time.Now()
	conn, err := Open(ctx, r.target, i)
	if err != nil {
		r.openFailed(ctx, err)
		return nil
	}
	r.openTime.Add(time.Since(began))
	t := &tunnel{Conn: conn, r: r, id: uint32(i)}
	r.opened.Add(1)
	r.open.Add(1)
	r.readers.Go(t.read)
	return t
}

func (r *run) openFailed(ctx context.Context, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	r.failed++
	var refused *RefusedError
	if errors.As(err, &refused) {
		r.refusals[refused.Status]++
		r.retryAfter[refused.RetryAfter]++
	}
	if r.firstError == "" {
		r.firstError = err.Error()
	}
}

// countDown takes n from the open tunnels, and notes when none is left after all
// were opened.
func (r *run) countDown(n int64) {
	if r.open.Add(-n) == 0 && r.allOpened.Load() {
		r.allOnce.Do(func() { close(r.allEnded) })
	}
}

// traffic sends by the schedule, or lets time pass.
func (r *run) traffic(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Duration > 0 {
		timer := time.AfterFunc(r.Duration, cancel)
		defer timer.Stop()
	}
	if r.Mode != Echo {
		select {
		case <-ctx.Done():
		case <-r.allEnded:
		}
		return
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-r.allEnded:
			cancel()
		}
	}()
	var wg sync.WaitGroup
	start := time.Now()
	n := min(senders, len(r.tunnels))
	for s := range n {
		wg.Go(func() { r.send(ctx, start, s, n) })
	}
	wg.Wait()
}

// send is sender number s of n: every n-th message and every n-th tunnel are its.
func (r *run) send(ctx context.Context, start time.Time, s, n int) {
	var mine []*tunnel
	for i := s; i < len(r.tunnels); i += n {
		mine = append(mine, r.tunnels[i])
	}
	op := ws.OpBinary
	if r.Text {
		op = ws.OpText
	}
	var payload, frame []byte
	step := time.Duration(float64(s) / r.Messages * float64(time.Second))
	pace.New(start.Add(step), r.Messages/float64(n)).Each(ctx, -1, func(k int, due time.Time) {
		t := mine[k%len(mine)]
		if t.ended.Load() {
			return
		}
		r.lag.Add(time.Since(due))
		m := message{t.id, t.sent.Load(), r.clock.at(due)}
		payload = m.appendTo(payload[:0], r.Size)
		frame = appendMasked(frame[:0], op, payload)
		t.sent.Add(1)
		r.sent.Add(1)
		if _, err := t.Net.Write(frame); err != nil && !t.ended.Swap(true) {
			r.sendFailed.Add(1)
		}
	})
}

// awaitAnswers waits until every echo is there or none can come any more.
func (r *run) awaitAnswers(ctx context.Context) {
	if r.Mode != Echo {
		return
	}
	for end := time.Now().Add(answersWithin); time.Now().Before(end); {
		out := 0
		for _, t := range r.tunnels {
			if !t.ended.Load() && t.received.Load() < t.sent.Load() {
				out++
			}
		}
		if out == 0 || !pace.Sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// closeAll closes the tunnels that are still open, in order.
func (r *run) closeAll() {
	for _, t := range r.tunnels {
		if t.ended.Swap(true) {
			continue
		}
		_ = t.Net.SetDeadline(time.Now().Add(closedWithin))
		_ = t.Send(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
	}
	r.readers.Wait()
}

// read is the goroutine of a tunnel.
func (t *tunnel) read() {
	end, ours := t.frames()
	_ = t.Net.Close()
	t.ended.Store(true)
	t.r.account(t, end, ours)
	t.r.countDown(1)
}

// frames reads until the end and returns how it was: the close code, or what went
// wrong. ours says that this tool began the close.
func (t *tunnel) frames() (end string, ours bool) {
	for {
		h, payload, err := t.Read()
		if err != nil {
			return ending(err), false
		}
		switch h.OpCode {
		case ws.OpPing:
			t.r.pings.Add(1)
			_ = t.Send(ws.OpPong, payload)
		case ws.OpPong, ws.OpContinuation: // what matters stands in the first frame
		case ws.OpClose:
			code := "none"
			if len(payload) >= 2 {
				status, _ := ws.ParseCloseFrameData(payload)
				code = fmt.Sprint(uint16(status))
			}
			if t.ended.Swap(true) {
				return code, true
			}
			t.r.noteEnd()
			_ = t.Send(ws.OpClose, payload)
			t.awaitEnd()
			return code, false
		default:
			t.message(payload, h.Fin)
		}
	}
}

// awaitEnd waits for the server to close the connection, as RFC 6455 section 7.1.1
// wants a client to.
func (t *tunnel) awaitEnd() {
	_ = t.Net.SetDeadline(time.Now().Add(closedWithin))
	for {
		if _, _, err := t.Read(); err != nil {
			return
		}
	}
}

// ending names the error that ended a tunnel without a Close frame.
func ending(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "eof"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "eof_in_frame"
	case isReset(err):
		return "reset"
	case isTimeout(err):
		return "no_close_answer"
	default:
		return "error"
	}
}

// message takes one message.
func (t *tunnel) message(payload []byte, whole bool) {
	if !whole && len(payload) >= MinSize {
		payload = payload[:MinSize]
	}
	m, err := parse(payload)
	if err != nil || t.r.Mode == Echo && m.tunnel != t.id {
		t.r.corrupt.Add(1)
		return
	}
	t.r.messageTime.Add(time.Duration(t.r.clock.now() - m.due))
	t.received.Add(1)
	t.r.received.Add(1)
	o := t.seq.take(m.number)
	t.order.Gaps += o.Gaps
	t.order.Duplicates += o.Duplicates
	t.order.Reordered += o.Reordered
}

// noteEnd notes the time of an end that the server began.
func (r *run) noteEnd() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, time.Now())
}

// account adds a tunnel that has ended to the sums.
func (r *run) account(t *tunnel, end string, ours bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order.Gaps += t.order.Gaps
	r.order.Duplicates += t.order.Duplicates
	r.order.Reordered += t.order.Reordered
	missing := int64(0)
	if r.Mode == Echo {
		missing = int64(t.sent.Load()) - int64(t.seq.next)
	}
	if ours {
		r.unanswered += missing
		return
	}
	r.cutOff += missing
	r.closes[end]++
	if end == "eof" || end == "eof_in_frame" || end == "reset" || end == "error" {
		r.ends = append(r.ends, time.Now())
	}
}

// reportProgress reports once a second until it is told to stop.
func (r *run) reportProgress() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for pace.Sleep(ctx, time.Second) {
			r.mu.Lock()
			failed := r.failed
			r.mu.Unlock()
			r.Progress(fmt.Sprintf("%d open, %d failed, %d sent, %d received", r.open.Load(), failed, r.sent.Load(), r.received.Load()))
		}
	})
	return func() { cancel(); wg.Wait() }
}
