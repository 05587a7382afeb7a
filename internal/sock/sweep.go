package sock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// SweepInterval is how often deadlines are looked at, and so how late one may fire.
	SweepInterval = 50 * time.Millisecond
	// mostStep is how far the clock moves from one sweep to the next, however late that is.
	mostStep = SweepInterval + 10*time.Millisecond
	// watchDelay is how long a request runs before the sweep looks whether its client is still there.
	watchDelay = 100 * time.Millisecond
	// shards spreads registration over locks; each is scanned by itself.
	shards = 16
)

// Sweeper enforces the deadlines of its connections with one goroutine, instead
// of a runtime timer for each read and write.
type Sweeper struct {
	// now is the sweeper's clock: nanoseconds, from 1 so that 0 is never a time. It stands still
	// between sweeps and makes no step beyond mostStep: while the machine is so busy that
	// sweeps are late, deadlines are late with them. By the wall clock one that was set
	// shortly before a late sweep would be over before it began.
	now   atomic.Int64
	next  atomic.Uint32
	urges atomic.Int32
	stop  chan struct{}
	once  sync.Once

	shard [shards]struct {
		mu    sync.Mutex
		conns []*Conn
		_     [64]byte // keeps the locks on cache lines of their own
	}
}

// NewSweeper starts a sweeper. Close ends it.
func NewSweeper() *Sweeper {
	s := &Sweeper{stop: make(chan struct{})}
	s.now.Store(1)
	go s.run()
	return s
}

// Urge makes the reads of connections that yield (Conn.Yield) expire at the next
// sweep, as long as it is on. Several may urge: each says so once, and once that it is over.
func (s *Sweeper) Urge(on bool) {
	if on {
		s.urges.Add(1)
		return
	}
	s.urges.Add(-1)
}

// Close stops the sweep; deadlines no longer fire.
func (s *Sweeper) Close() { s.once.Do(func() { close(s.stop) }) }

func (s *Sweeper) run() {
	t := time.NewTicker(SweepInterval)
	defer t.Stop()
	var hits []*Conn
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			now := time.Now()
			hits = s.sweep(s.advance(now.Sub(last)), hits[:0])
			last = now
			clear(hits)
		}
	}
}

// advance moves the clock by what has passed since the sweep before.
func (s *Sweeper) advance(passed time.Duration) (now int64) {
	return s.now.Add(int64(min(passed, mostStep)))
}

// sweep finds the connections whose time has come and acts on them outside the
// locks.
func (s *Sweeper) sweep(now int64, hits []*Conn) []*Conn {
	urged := s.urges.Load() > 0
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		for _, c := range sh.conns {
			if urged && c.yields.Load() || due(&c.readBy, now) || due(&c.writeBy, now) || due(&c.watchAt, now) {
				hits = append(hits, c)
			}
		}
		sh.mu.Unlock()
	}
	for _, c := range hits {
		c.expire(now, urged)
	}
	return hits
}

func due(at *atomic.Int64, now int64) bool {
	t := at.Load()
	return t != 0 && t <= now
}

// expire carries out what is due. The watcher is told without the lock, as it may
// interrupt connections.
func (c *Conn) expire(now int64, urged bool) {
	if c.expireLocked(now, urged) {
		c.watcher.PeerGone()
	}
}

// expireLocked reports whether a watched peer has gone. Deadlines are taken with a
// compare-and-swap, so that one which was renewed meanwhile does not fire. That a read
// yields counts under the lock only: Disarm takes it, so that no later read is met.
func (c *Conn) expireLocked(now int64, urged bool) (gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	if urged && c.yields.Load() && !c.Interrupted().Has(ReadExpired) {
		c.setCauseLocked(c.Interrupted() | ReadExpired)
	}
	if t := c.readBy.Load(); t != 0 && t <= now && c.readBy.CompareAndSwap(t, 0) {
		c.setCauseLocked(c.Interrupted() | ReadExpired)
	}
	if t := c.writeBy.Load(); t != 0 && t <= now && c.writeBy.CompareAndSwap(t, 0) {
		c.setCauseLocked(c.Interrupted() | WriteExpired)
	}
	t := c.watchAt.Load()
	return t != 0 && t <= now && c.peerGone() && c.watchAt.CompareAndSwap(t, 0)
}

// after returns the sweeper time d from now; 0 for d <= 0. As the sweeper's clock
// stands still between sweeps, one step is added: a deadline may fire late, never early.
func (s *Sweeper) after(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return s.now.Load() + int64(d+mostStep)
}

// at converts a wall-clock deadline; the zero time is none, one that has passed
// is due at the next sweep.
func (s *Sweeper) at(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return s.now.Load() + max(0, int64(time.Until(t)+mostStep))
}

func (s *Sweeper) add(c *Conn) {
	i := s.next.Add(1) % shards
	sh := &s.shard[i]
	sh.mu.Lock()
	c.shard, c.slot = i, len(sh.conns)
	sh.conns = append(sh.conns, c)
	sh.mu.Unlock()
}

func (s *Sweeper) remove(c *Conn) {
	sh := &s.shard[c.shard]
	sh.mu.Lock()
	last := len(sh.conns) - 1
	sh.conns[c.slot] = sh.conns[last]
	sh.conns[c.slot].slot = c.slot
	sh.conns[last] = nil
	sh.conns = sh.conns[:last]
	sh.mu.Unlock()
}
