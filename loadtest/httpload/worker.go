package httpload

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"tickgate/internal/h1"
	"tickgate/internal/sock"
	"tickgate/loadtest/pace"
	"tickgate/proxy/reactor"
)

const (
	// mostOpening is how many connections of a loop may be in the making: the queue of a
	// listener is not endless.
	mostOpening = 256

	// mostAtOnce is how many requests that are due a loop hands out before it looks for
	// responses again.
	mostAtOnce = 64

	// readsAtOnce is how often a loop reads one connection before the others have their turn.
	readsAtOnce = 16

	// mostWaiting is how many requests of a loop may wait for a connection.
	mostWaiting = 1 << 20

	// defaultSlack stands for an Options.Slack of 0.
	defaultSlack = 100 * time.Microsecond

	// never is a time that does not come.
	never = time.Duration(math.MaxInt64)
)

// alarmIndex is the slot in the token of the loop's alarm.
const alarmIndex = math.MaxUint32

// worker is the connections of one event loop, the loop's handler.
type worker struct {
	// Static after newWorker.
	run     *run
	reactor *reactor.Loop
	alarm   *pace.Alarm
	done    chan struct{} // closed when the worker has nothing left to do

	// Owned by the loop.
	now      time.Duration // since the start of the run, as of the event being handled
	conns    []conn
	free     list     // idle connections
	unopened []uint32 // slots without a connection
	opening  int      // connections in the making
	busy     int      // requests under way
	resting  int      // of unopened, that failed and wait for the tick (closed loop)
	waiting  queue    // requests without a connection (open loop)
	thoughts thoughts // connections that pause (closed loop)
	rng      *rand.Rand
	record   record
	head     h1.ResponseHead
	wire     wire

	// The next request of the schedule, if there is one.
	nextDue     time.Duration // never if there is none
	nextMessage *message
	alarmAt     time.Duration // what the alarm is set to

	draining bool          // nothing new is sent
	giveUpAt time.Duration // what waits then is given up
	finished bool
}

func newWorker(r *run, l *reactor.Loop, conns int) *worker {
	w := &worker{
		run: r, reactor: l, done: make(chan struct{}), conns: make([]conn, conns), free: emptyList,
		rng:     rand.New(rand.NewPCG(r.Seed, uint64(l.ID())+1)), //nolint:gosec // repeatable, not secret
		nextDue: never, alarmAt: never,
	}
	w.record.run, w.wire.w = r, w
	r.records = append(r.records, &w.record)
	for i := range conns {
		c := &w.conns[conns-1-i]
		c.index, c.fd = uint32(conns-1-i), -1
		w.unopened = append(w.unopened, c.index)
	}
	return w
}

// start begins the run on the loop.
func (w *worker) start() {
	w.now = w.run.clock()
	if w.run.open {
		w.advance()
	}
	w.settle()
}

// Ready implements reactor.Handler.
func (w *worker) Ready(t reactor.Token, ev reactor.Event) {
	w.now = w.run.clock()
	if t.Index() == alarmIndex {
		w.alarmAt = never
	} else if c := &w.conns[t.Index()]; c.gen == t.Gen() {
		w.serve(c, ev)
	}
	w.settle()
}

// Tick implements reactor.Handler. Time-outs are as exact as it comes.
func (w *worker) Tick(time.Duration) {
	w.now = w.run.clock()
	w.resting = 0
	for i := range w.conns {
		if c := &w.conns[i]; c.state >= connecting && w.now >= c.deadline {
			w.expired(c)
		}
	}
	if w.draining && w.now >= w.giveUpAt {
		w.giveUp()
	}
	w.settle()
	w.record.publish(w.now, len(w.conns)-len(w.unopened), w.waiting.len())
}

// Closing implements reactor.Handler.
func (w *worker) Closing() {
	for i := range w.conns {
		if c := &w.conns[i]; c.state != closed {
			w.close(c)
		}
	}
	if w.alarm != nil {
		w.alarm.Close()
	}
	if !w.finished {
		w.finished = true
		close(w.done)
	}
	if w.run.Warmup <= w.now {
		w.record.flush(w.record.second)
	}
}

// settle does what has become due, and what the events before it ask for.
func (w *worker) settle() {
	if w.now >= w.nextDue {
		w.issue()
	}
	if w.thoughts.next() <= w.now {
		w.resume()
	}
	w.expand()
	w.arm()
	if w.draining && !w.finished && w.busy == 0 && w.waiting.len() == 0 {
		w.finished = true
		close(w.done)
	}
}

// arm sets the alarm to what is due next.
func (w *worker) arm() {
	next := min(w.nextDue, w.thoughts.next())
	if next == w.alarmAt || next == never {
		return
	}
	w.alarmAt = next
	w.alarm.Set(max(next-w.run.clock(), w.run.Slack))
}

// issue hands out the requests that are due.
func (w *worker) issue() {
	for n := 0; w.now >= w.nextDue && n < mostAtOnce; n++ {
		w.hand(w.nextMessage, w.nextDue)
		w.advance()
		w.now = w.run.clock()
	}
}

// advance takes the next request off the schedule. Behind the last one the worker drains.
func (w *worker) advance() {
	due, m, ok := w.run.schedule.next()
	if !ok {
		w.nextDue, w.nextMessage = never, nil
		w.drain()
		return
	}
	w.nextDue, w.nextMessage = due, m
}

// hand sends a request that is due over an idle connection, or has it wait.
func (w *worker) hand(m *message, due time.Duration) {
	w.record.asked(m, due)
	if len(m.wire) == 0 {
		w.record.failed(due, w.now, Unsendable, nil)
		return
	}
	if i, ok := w.free.pop(w.conns); ok {
		if w.record.counts(due) {
			w.record.lag.Add(w.now - due)
		}
		w.begin(&w.conns[i], m, due)
		return
	}
	if w.waiting.len() >= mostWaiting {
		w.record.failed(due, w.now, Backlog, nil)
		return
	}
	w.waiting.push(waiter{m, due})
}

// available gives a connection that may send its next request, or puts it aside.
func (w *worker) available(c *conn) {
	switch {
	case w.run.open && w.waiting.len() > 0:
		next := w.waiting.pop()
		w.begin(c, next.message, next.due)
	case w.draining:
		w.close(c)
	case w.run.open:
		c.state = idle
		w.free.push(w.conns, c.index)
	default:
		w.ask(c)
	}
}

// ask sends the next request of the closed loop.
func (w *worker) ask(c *conn) {
	m := w.run.mix.pick(w.rng)
	w.record.asked(m, w.now)
	w.begin(c, m, w.now)
}

// think has a connection of the closed loop pause.
func (w *worker) think(c *conn, pause time.Duration) {
	c.state = thinking
	w.thoughts.add(thought{w.now + pause, c.index, c.gen})
}

// resume ends the pauses that are over.
func (w *worker) resume() {
	for w.thoughts.next() <= w.now {
		t := w.thoughts.take()
		if c := &w.conns[t.index]; c.gen == t.gen && c.state == thinking {
			w.available(c)
		}
	}
}

// expand opens the connections that are wanted.
func (w *worker) expand() {
	want := len(w.unopened) - w.resting
	switch {
	case w.run.open:
		want = min(want, w.waiting.len()-w.opening)
	case w.draining:
		return
	}
	for ; want > 0 && w.opening < mostOpening; want-- {
		last := len(w.unopened) - 1
		c := &w.conns[w.unopened[last]]
		w.unopened = w.unopened[:last]
		w.open(c)
	}
}

// drain ends the sending: what waits or is under way comes to its end.
func (w *worker) drain() {
	if w.draining {
		return
	}
	w.draining, w.giveUpAt = true, w.now+w.run.Timeout
	w.nextDue, w.nextMessage = never, nil
	for i := range w.conns {
		if c := &w.conns[i]; c.state == thinking {
			w.close(c)
		}
	}
}

// giveUp ends the wait for connections.
func (w *worker) giveUp() {
	for w.waiting.len() > 0 {
		w.record.failed(w.waiting.pop().due, w.now, Backlog, nil)
	}
}

// expired ends a wait for the peer.
func (w *worker) expired(c *conn) {
	if c.state == connecting {
		w.unconnected(c, ConnectTimeout, nil)
		return
	}
	w.lost(c, Timeout, nil)
}

// unconnected notes that a connection could not be made. In the open loop that is the
// failure of the request that has waited longest, as if it had asked for the connection.
func (w *worker) unconnected(c *conn, f Failure, err error) {
	m, due := c.message, c.due
	switch {
	case m != nil: // to be sent again
		c.message = nil
		w.busy--
	case w.run.open && w.waiting.len() > 0:
		due = w.waiting.pop().due
	case w.run.open || w.draining:
		w.close(c)
		return
	default:
		m, due = w.run.mix.pick(w.rng), w.now
		w.record.asked(m, due)
	}
	w.record.failed(due, w.now, f, err)
	w.close(c)
	if !w.run.open {
		w.resting++
	}
}

// lost ends a connection whose request is not answered.
func (w *worker) lost(c *conn, f Failure, err error) {
	stale := (f == Reset || f == ClosedEarly) && c.served > 0 && !c.response.begun
	m, due, fresh := c.message, c.due, c.served == 0
	if stale && m.method.Idempotent() {
		// As every client does: the server closed it while the request was on its way.
		w.record.reconnects += w.record.one(due)
		w.close(c)
		w.unopened = w.unopened[:len(w.unopened)-1]
		c.message, c.due = m, due
		w.open(c)
		return
	}
	w.busy--
	w.record.failed(due, w.now, f, err)
	w.close(c)
	if fresh && !w.run.open {
		w.resting++
	}
}

// classify tells what an error of reading or writing means.
func classify(err error) Failure {
	if errors.Is(err, sock.ErrCut) {
		return ClosedEarly
	}
	return Reset
}
