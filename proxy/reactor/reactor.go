package reactor

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// TickInterval is the time between two ticks of a loop: short enough for limits
	// of whole seconds, and ten wakes a second cost an idle loop next to nothing.
	TickInterval = 100 * time.Millisecond

	// BufferSize is the size of Loop.Buffer: four records of TLS, and more than a
	// loopback or Ethernet socket commonly holds.
	BufferSize = 64 << 10

	// batch is how many events one epoll_wait takes at most. More make the turn
	// longer, and with it the wait of whoever comes last; fewer save nothing, as
	// already here the system call is far less than a thousandth of the turn.
	batch = 512

	// yieldAfter is how long a loop that always finds work keeps its processor from
	// the goroutines that it readied. Shorter would have the loop itself wait more
	// often behind all that is runnable; Go's own preemption takes 10 ms.
	yieldAfter = time.Millisecond

	// breath is after how many events of a turn the loop looks whether that time has passed: a full batch can take ten times as long.
	breath = 16

	// lookEvery is how often a loop that is about to block looks whether the processors
	// are crowded: 0.7 us in a millisecond. In between it goes by what the last look, or yield, found. (It looked
	// before every wait while they were crowded: that, and the polls of waits that could have blocked, was a fifth of the CPU time
	// of 900 handshakes a second.)
	lookEvery = time.Millisecond

	// emptyYield is what a yield takes at most that runs nothing else; 0.2 us on an idle machine.
	emptyYield = 2 * time.Microsecond

	// keptPosts is the longest command queue whose memory a loop keeps for the next.
	keptPosts = 4096
)

// What the package returns and logs; match with errors.Is.
var (
	// ErrUnsupported is New's error on systems without epoll.
	ErrUnsupported = errors.New("reactor: this system has no epoll")
	// ErrClosed is what a registration on a closed group gets.
	ErrClosed = errors.New("reactor: closed")
	// ErrPanic is what Options.Log gets, wrapped with the value and the stack, when a
	// handler or a posted function panicked.
	ErrPanic = errors.New("reactor: a handler panicked")
)

// Kind says which handler of a loop a registration belongs to.
type Kind uint8

// The kinds, one for each package that lives on the loops.
const (
	Park  Kind = iota // idle client connections
	Relay             // tunnels
	Feed              // market-data feeds
	Load              // connections of the load tool, in its own process
	numKinds
)

// Token names a registration: Kind (8 bits), generation (24), index (32). The kernel
// hands it back with each event; the loop looks at the kind only.
type Token uint64

// wakeToken is the eventfd's. Its kind is none that MakeToken takes.
const wakeToken = Token(math.MaxUint64)

// MakeToken packs a token. Of gen, the lower 24 bits are kept.
func MakeToken(k Kind, index, gen uint32) Token {
	return Token(k)<<56 | Token(gen&0xffffff)<<32 | Token(index)
}

// Kind returns the handler's kind.
func (t Token) Kind() Kind { return Kind(t >> 56) }

// Index returns the lower 32 bits, the handler's slot.
func (t Token) Index() uint32 { return uint32(t) }

// Gen returns the generation, 24 bits.
func (t Token) Gen() uint32 { return uint32(t>>32) & 0xffffff }

// Event is a set of what happened on a descriptor. It is 0 for a turn that the
// handler asked for with Again.
type Event uint32

// The bits of an Event.
const (
	Readable   Event = 1 << iota // bytes, a connection to accept, or the end of the stream
	Writable                     // room in the send buffer
	PeerClosed                   // the peer ended its direction (RDHUP); bytes may still be unread
	Urgent                       // urgent data: a short read does not mean an empty socket
	Failed                       // an error is pending (ERR), or both directions ended (HUP)
)

// Mode says what a registration waits for.
type Mode uint8

const (
	// OneShotRead waits for bytes, the peer's end or an error, level-triggered and
	// once: after the event the registration stays, silent, until Rearm. Arming it
	// while bytes wait fires at once.
	OneShotRead Mode = iota
	// EdgeBoth reports each change of readable and writable (edge-triggered), for as
	// long as the descriptor is registered. The first event comes with Add. Whoever
	// uses it reads until EAGAIN, or calls Again to go on later.
	EdgeBoth
)

// Handler is what a loop calls, always on the loop's own goroutine, so what only the
// handler touches needs no lock. It must not block: all else on this loop waits.
//
// A panic in a handler ends that call, is logged, and nothing else.
type Handler interface {
	// Ready reports an event, or with ev 0 a turn asked for with Again.
	//
	// Tokens may be stale, and to tell is the handler's. An event may be in the batch
	// that the loop already took from the kernel when the descriptor is removed or
	// closed and, perhaps, its slot and number used again. So the handler changes a
	// slot's generation when it gives up the slot, and ignores a token whose
	// generation is not the slot's. The loop takes no token out of a batch.
	Ready(t Token, ev Event)
	// Tick comes every TickInterval, late if the loop is busy; ticks that were missed
	// by whole intervals are left out. now is monotonic since New.
	Tick(now time.Duration)
	// Closing comes once, last: the loop ends, the handler gives everything up.
	Closing()
}

// Options are a group's.
type Options struct {
	// Loops is the number of epoll loops. By default (0) it is GOMAXPROCS. Fewer cost
	// less CPU a message while there is little to do (24 us with one, 29 with two, in the
	// package comment's measurement); more keep a long turn from delaying as many.
	Loops int
	// Log takes what cannot be returned to anybody: event is a constant sentence, err
	// wraps ErrPanic. It is called on a loop and may be called often; by default (nil)
	// nothing is said, and LoopStats.Panics counts all the same.
	Log func(event string, err error)
	// Courteous reports whether those who compute for long step back behind Go's poller at present (package yield). A loop without work
	// blocks there then, however many goroutines wait for processors: if it stayed, it would keep the poller from being asked. By default
	// (nil) they never do.
	Courteous func() bool
}

// Group is a fixed number of loops.
type Group struct {
	// Static after New.
	loops  []*Loop
	log    func(string, error)
	polite func() bool // may be nil
	start  time.Time

	now atomic.Int64 // nanoseconds since start

	mu      sync.Mutex
	started bool           // guarded by mu
	closed  bool           // guarded by mu
	running sync.WaitGroup // the loops; Add under mu
	done    chan struct{}  // closed when the last loop ended
}

// New opens the loops' descriptors, two for each. Close must follow, whether or not
// Start does. The error is ErrUnsupported on systems without epoll.
func New(o Options) (*Group, error) {
	n := o.Loops
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	g := &Group{log: o.Log, polite: o.Courteous, start: time.Now(), done: make(chan struct{})}
	for id := range n {
		l, err := newLoop(g, id)
		if err != nil {
			for _, l := range g.loops {
				l.poller.close()
			}
			return nil, fmt.Errorf("open loop %d: %w", id, err)
		}
		g.loops = append(g.loops, l)
	}
	return g, nil
}

// Handle sets the handler of a kind: it calls make for each loop, at once. It comes
// before Start, once for a kind.
func (g *Group) Handle(k Kind, make func(l *Loop) Handler) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k >= numKinds || g.started || g.closed {
		panic("BUG: reactor: Handle with an unknown kind or after Start")
	}
	for _, l := range g.loops {
		if l.handlers[k] != nil {
			panic("BUG: reactor: a kind has two handlers")
		}
		l.handlers[k] = make(l)
	}
}

// Start runs the loops. After Close, or a second time, it does nothing.
func (g *Group) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.closed {
		return
	}
	g.started = true
	for _, l := range g.loops {
		g.running.Go(l.run)
	}
}

// Close ends the loops and waits until they have: each runs what was posted before,
// then its handlers' Closing. It may be called often and at once, each call waits; but
// not on a loop, which would wait for itself. Without a Start it does the loops' part
// itself.
func (g *Group) Close() {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	started := g.started
	g.mu.Unlock()
	if !first {
		<-g.done
		return
	}
	for _, l := range g.loops {
		l.stop()
		if !started {
			l.run()
		}
	}
	g.running.Wait()
	close(g.done)
}

// Loops returns the loops, in the order of their IDs. The slice is the group's.
func (g *Group) Loops() []*Loop { return g.loops }

// Now is the time since New, as of the latest wake of any loop: not older than about
// TickInterval, unless every loop is late. It never goes back.
func (g *Group) Now() time.Duration { return time.Duration(g.now.Load()) }

// Clock is the time since New, by a look at the clock: Now may be as old as the longest
// turn of a loop, and a time that begins then would be over too early.
func (g *Group) Clock() time.Duration { return time.Since(g.start) }

// advance sets the coarse clock. Loops that wake at once may come in any order.
func (g *Group) advance(now time.Duration) {
	for {
		old := g.now.Load()
		if int64(now) <= old || g.now.CompareAndSwap(old, int64(now)) {
			return
		}
	}
}
