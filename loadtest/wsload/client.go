package wsload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	// FanOut: one tunnel more publishes, and the backend sends each message to all the others
	// (Backend with FanOut).
	FanOut Mode = "fan-out"
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
	// Tunnels to open, Rate of them a second (0: as fast as it goes); a fan-out has one more,
	// which publishes. Header and Protocols go with each upgrade request.
	Tunnels   int
	Rate      float64
	Mode      Mode
	Header    http.Header
	Protocols []string
	// ResumePercent of the TLS connections try to resume a session.
	ResumePercent int
	// Reconnect opens tunnels again that the server has ended, after pauses of full jitter
	// whose bound doubles from BackoffMin to BackoffMax (0: 100 ms and 10 s).
	Reconnect              bool
	BackoffMin, BackoffMax time.Duration
	// Messages a second that are sent over all tunnels together; each echo, or all
	// deliveries of a fan-out, come on top. Size of one in bytes, at least MinSize. Text makes them text messages.
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
	// Reached is called when the run comes to a stage, and the run goes on when it
	// returns; nil is nobody.
	Reached func(Stage)
}

// Stage is how far a run is.
type Stage uint8

// The stages. The traffic is skipped if no tunnel opened or ctx has ended.
const (
	Opened       Stage = iota // every tunnel has opened or failed
	TrafficBegan              // the settling is over
	TrafficEnded              // the last answer is there, or will not come
)

// check tells what is wrong, and fills in the defaults.
func (o *Options) check() error {
	if o.BackoffMin == 0 {
		o.BackoffMin = defaultBackoffMin
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = max(defaultBackoffMax, o.BackoffMin)
	}
	switch {
	case o.Tunnels < 1:
		return fmt.Errorf("%w: %d tunnels (want at least 1)", ErrOptions, o.Tunnels)
	case o.Mode != Idle && o.Mode != Echo && o.Mode != Ticks && o.Mode != FanOut:
		return fmt.Errorf("%w: mode %q (want %s, %s, %s or %s)", ErrOptions, o.Mode, Idle, Echo, Ticks, FanOut)
	case o.ResumePercent < 0 || o.ResumePercent > 100:
		return fmt.Errorf("%w: %d %% of resumed sessions (want 0 to 100)", ErrOptions, o.ResumePercent)
	case o.BackoffMin < 0 || o.BackoffMax < o.BackoffMin:
		return fmt.Errorf("%w: pauses from %v to %v", ErrOptions, o.BackoffMin, o.BackoffMax)
	case o.sends() && o.Messages <= 0:
		return fmt.Errorf("%w: %v messages a second (want more than 0)", ErrOptions, o.Messages)
	case o.sends() && (o.Size < MinSize || o.Size > mostPayload):
		return fmt.Errorf("%w: messages of %d bytes (want %d to %d)", ErrOptions, o.Size, MinSize, mostPayload)
	}
	return nil
}

// sends says whether this tool sends.
func (o *Options) sends() bool { return o.Mode == Echo || o.Mode == FanOut }

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
	if o.Reached == nil {
		o.Reached = func(Stage) {}
	}
	r := &run{
		Options: o, target: t, clock: newClock(), refusals: make(map[int]int64), closes: make(map[string]int64),
		retryAfter: make(map[string]int64), allEnded: make(chan struct{}), messageTime: newTimes(), protocols: make(map[string]int64),
		reconnects: Reconnects{Refused: make(map[int]int64), RetryAfter: make(map[string]int64)}, dialer: NewDialer(t, o.ResumePercent),
	}
	r.dialer.Header, r.dialer.Protocols = o.Header, o.Protocols
	meter := target.NewMeter()
	r.play(ctx)
	return r.result(meter.Cost().CPU), nil
}

// run is one run.
type run struct {
	Options
	target *target.Target
	dialer *Dialer
	clock  clock

	slots     []*slot         // set before the traffic begins
	publisher *slot           // the one more of a fan-out; likewise
	readers   sync.WaitGroup  // one for each slot
	staying   context.Context // ends with the closing

	openTime, lag, away latency.Histogram
	messageTime         *times

	opened, open, left      atomic.Int64 // left are the slots whose tunnel has not ended for good
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
	reconnects Reconnects       // guarded by mu
	protocols  map[string]int64 // guarded by mu; tunnels by the subprotocol chosen
	handshakes int64            // guarded by mu; of TLS
	resumed    int64            // guarded by mu
	skipped    int64            // guarded by mu; deliveries that the backend of a fan-out left out
	seconds    []Second         // guarded by mu
	trafficFor time.Duration    // set by play
	traffic    target.Cost      // set by play
}

// tunnel is one connection.
type tunnel struct {
	*Conn
	r  *run
	id uint32

	sent     atomic.Uint64
	received atomic.Uint64
	first    bool          // of its slot; does not change
	skipped  atomic.Uint32 // fan-outs that the backend left out, by its own account
	ended    atomic.Bool   // no more to be sent

	// Owned by its reader.
	seq   sequence
	order order
	lost  time.Time // when the server ended it
}

func (r *run) play(ctx context.Context) {
	leave := r.stay(ctx)
	defer leave()
	stopProgress := r.reportProgress()
	defer stopProgress()
	r.openAll(ctx)
	r.Progress(fmt.Sprintf("open: %d of %d tunnels", r.open.Load(), r.Tunnels))
	r.Reached(Opened)
	if r.opened.Load() > 0 && pace.Sleep(ctx, r.Settle) {
		r.Reached(TrafficBegan)
		began, meter, stopWatch := time.Now(), target.NewMeter(), r.watch()
		r.Progress("traffic begins")
		r.use(ctx)
		r.awaitAnswers(context.WithoutCancel(ctx))
		r.trafficFor, r.traffic = time.Since(began), meter.Cost()
		stopWatch()
		r.Reached(TrafficEnded)
	}
	r.Progress(fmt.Sprintf("traffic ended: %d tunnels are open", r.open.Load()))
	pace.Sleep(ctx, r.Linger)
	leave()
	r.closeAll()
}

// openAll opens the tunnels by the schedule and starts their readers. The publisher comes
// last, when all are there who are to hear it.
func (r *run) openAll(ctx context.Context) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		places = make(chan struct{}, atOnce)
	)
	pace.New(time.Now(), r.Rate).Each(ctx, r.Tunnels, func(i int, due time.Time) {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if s := r.openOne(ctx, i, due); s != nil {
				mu.Lock()
				r.slots = append(r.slots, s)
				mu.Unlock()
			}
		})
	})
	wg.Wait()
	if r.Mode == FanOut && ctx.Err() == nil {
		r.publisher = r.openOne(ctx, r.Tunnels, time.Now())
	}
	r.allOpened.Store(true)
	r.countDown(0)
}

// openOne opens a tunnel that was due at a time, from which its opening counts if there is
// a rate.
func (r *run) openOne(ctx context.Context, i int, due time.Time) *slot {
	if r.Rate <= 0 {
		due = time.Now()
	}
	conn, err := r.dialer.Open(ctx, i)
	if err != nil {
		r.openFailed(ctx, err)
		return nil
	}
	r.openTime.Add(time.Since(due))
	s := &slot{id: i}
	r.opened.Add(1)
	r.left.Add(1)
	t := r.seated(s, conn)
	r.readers.Go(func() { r.keep(s, t) })
	return s
}

// negotiated counts what was agreed on when a tunnel was opened.
func (r *run) negotiated(conn *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.protocols[conn.Protocol]++
	if secure, ok := conn.Net.(*tls.Conn); ok {
		r.handshakes++
		if secure.ConnectionState().DidResume {
			r.resumed++
		}
	}
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

// countDown takes n from the slots in use, and notes when none is left after all
// were opened.
func (r *run) countDown(n int64) {
	if r.left.Add(-n) == 0 && r.allOpened.Load() {
		r.allOnce.Do(func() { close(r.allEnded) })
	}
}

// use sends by the schedule, or lets time pass.
func (r *run) use(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Duration > 0 {
		timer := time.AfterFunc(r.Duration, cancel)
		defer timer.Stop()
	}
	if !r.sends() {
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
	from := r.slots
	if r.Mode == FanOut {
		if from = nil; r.publisher != nil {
			from = []*slot{r.publisher}
		}
	}
	n := min(senders, len(from))
	for s := range n {
		wg.Go(func() { r.send(ctx, from, start, s, n) })
	}
	wg.Wait()
}

// send is sender number s of n: every n-th message and every n-th slot are its.
func (r *run) send(ctx context.Context, from []*slot, start time.Time, s, n int) {
	var mine []*slot
	for i := s; i < len(from); i += n {
		mine = append(mine, from[i])
	}
	op := ws.OpBinary
	if r.Text {
		op = ws.OpText
	}
	var payload, frame []byte
	step := time.Duration(float64(s) / r.Messages * float64(time.Second))
	pace.New(start.Add(step), r.Messages/float64(n)).Each(ctx, -1, func(k int, due time.Time) {
		t := mine[k%len(mine)].current.Load()
		if t.ended.Load() {
			if r.Reconnect {
				r.count(func(c *Reconnects) { c.Missed++ })
			}
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

// awaitAnswers waits until every echo, or every delivery of a fan-out, is there or none
// can come any more.
func (r *run) awaitAnswers(ctx context.Context) {
	if !r.sends() {
		return
	}
	for end := time.Now().Add(answersWithin); time.Now().Before(end); {
		out := 0
		for _, s := range r.slots {
			if t := s.current.Load(); !t.ended.Load() && t.received.Load() < r.expected(t) {
				out++
			}
		}
		if out == 0 || !pace.Sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// expected is how many messages a tunnel should have received by now. For a fan-out on a tunnel that
// came back nobody can say: what was published meanwhile counts as missed.
func (r *run) expected(t *tunnel) uint64 {
	switch {
	case r.Mode == Echo:
		return t.sent.Load()
	case r.Mode == FanOut && t.first:
		return uint64(max(r.sent.Load()-int64(t.skipped.Load()), 0))
	default:
		return 0
	}
}

// closeAll closes the tunnels that are still open, in order.
func (r *run) closeAll() {
	for _, s := range r.slots {
		s.current.Load().close()
	}
	if r.publisher != nil {
		r.publisher.current.Load().close()
	}
	r.readers.Wait()
}

// close closes a tunnel in order, unless it has ended.
func (t *tunnel) close() {
	if t.ended.Swap(true) {
		return
	}
	_ = t.Net.SetDeadline(time.Now().Add(closedWithin))
	_ = t.Send(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
}

// read reads a tunnel to its end; ours says that this tool began that.
func (t *tunnel) read() (ours bool) {
	end, ours := t.frames()
	if t.lost.IsZero() {
		t.lost = time.Now()
	}
	_ = t.Net.Close()
	t.ended.Store(true)
	t.r.account(t, end, ours)
	return ours
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
			t.lost = time.Now()
			t.r.noteEnd(t.lost)
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
	case target.IsReset(err):
		return "reset"
	case target.IsTimeout(err):
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
	t.r.messageTime.add(time.Duration(t.r.clock.now() - m.due))
	if t.r.Mode == FanOut { // where the backend says what it has left out; see Backend
		t.skipped.Store(m.tunnel)
	}
	t.received.Add(1)
	t.r.received.Add(1)
	o := t.seq.take(m.number)
	t.order.Gaps += o.Gaps
	t.order.Duplicates += o.Duplicates
	t.order.Reordered += o.Reordered
}

// noteEnd notes the time of an end that the server began.
func (r *run) noteEnd(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, at)
}

// account adds a tunnel that has ended to the sums.
func (r *run) account(t *tunnel, end string, ours bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order.Gaps += t.order.Gaps
	r.order.Duplicates += t.order.Duplicates
	r.order.Reordered += t.order.Reordered
	r.skipped += int64(t.skipped.Load())
	missing := int64(0)
	if r.sends() && int(t.id) != r.Tunnels {
		missing = max(int64(r.expected(t))-int64(t.seq.next), 0)
	}
	if ours {
		r.unanswered += missing
		return
	}
	r.cutOff += missing
	r.closes[end]++
	if end == "eof" || end == "eof_in_frame" || end == "reset" || end == "error" {
		r.ends = append(r.ends, t.lost)
	}
}

// reportProgress reports once a second until it is told to stop.
func (r *run) reportProgress() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for pace.Sleep(ctx, time.Second) {
			r.mu.Lock()
			failed, back := r.failed, r.reconnects.Back
			r.mu.Unlock()
			text := fmt.Sprintf("%d open, %d failed, %d sent, %d received", r.open.Load(), failed, r.sent.Load(), r.received.Load())
			if r.Reconnect {
				text += fmt.Sprintf(", %d times back", back)
			}
			r.Progress(text)
		}
	})
	return func() { cancel(); wg.Wait() }
}
