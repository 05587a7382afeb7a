package park

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/proxy/reactor"
)

// stormed is one connection of TestStorm.
type stormed struct {
	fd     int
	peer   *net.TCPConn
	parked atomic.Bool // the lot has it
	rounds atomic.Int64
}

// storm parks connections again as they come back and checks that each comes back once.
type storm struct {
	t     *testing.T
	lot   *Lot
	group *reactor.Group
	conns []*stormed
	back  chan Conn
	whys  [4]atomic.Int64
	// finished counts the connections that had all their rounds.
	finished sync.WaitGroup
}

// stormRounds is how often each connection parks.
const stormRounds = 150

func (s *storm) wake(c Conn, why Why) {
	if !s.conns[c.ID].parked.CompareAndSwap(true, false) {
		s.t.Errorf("connection %d was handed out twice, as %s", c.ID, why)
	}
	if c.FD != s.conns[c.ID].fd || len(c.Rest) != 1 || c.Rest[0] != byte(c.ID) {
		s.t.Errorf("connection %d came back as %+v", c.ID, c)
	}
	s.whys[why].Add(1)
	s.back <- c
}

// work is a worker: it reads what came and parks the connection again.
func (s *storm) work() {
	var b [64]byte
	for c := range s.back {
		x := s.conns[c.ID]
		for n, err := 1, error(nil); n > 0 && err == nil; {
			n, err = unix.Read(c.FD, b[:])
		}
		if x.rounds.Add(1) == stormRounds {
			s.finished.Done()
			continue
		}
		s.park(c)
	}
}

func (s *storm) park(c Conn) {
	c.Until = 0
	switch rand.IntN(8) {
	case 0:
		c.Until = s.group.Now() + 1 // the next tick
	case 1:
		s.lot.Unregister(&c)
	}
	s.conns[c.ID].parked.Store(true)
	if !s.lot.Park(c) {
		s.t.Errorf("Park(%d) refused", c.ID)
	}
}

// TestStorm parks, wakes, expires and evicts the same connections at once.
func TestStorm(t *testing.T) {
	const conns, workers = 48, 4
	g, err := reactor.New(reactor.Options{Loops: 3, Log: func(event string, err error) { t.Errorf("%s: %v", event, err) }})
	if err != nil {
		t.Fatal(err)
	}
	s := &storm{t: t, group: g, back: make(chan Conn, conns)}
	s.lot = New(Options{Group: g, Wake: s.wake})
	g.Start()
	for range conns {
		fd, peer := pair(t)
		s.conns = append(s.conns, &stormed{fd: fd, peer: peer})
	}
	s.finished.Add(conns)
	var workersDone, othersDone sync.WaitGroup
	for range workers {
		workersDone.Go(s.work)
	}
	stop := make(chan struct{})
	evictors := []func(){
		func() { s.lot.Evict(func(i *Info) bool { return i.ID == rand.Uint64N(conns) }) },
		func() { s.lot.EvictID(rand.Uint64N(conns)) },
		func() { s.lot.Each(func(i Info) bool { return i.ID < conns }); s.lot.Count() },
		func() { _, _ = s.conns[rand.IntN(conns)].peer.Write([]byte("x")) },
	}
	for _, do := range evictors {
		othersDone.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					do()
				}
			}
		})
	}
	for id, x := range s.conns {
		s.park(Conn{FD: x.fd, ID: uint64(id), Phase: Phase(id % 3), Rest: []byte{byte(id)}})
	}
	done := make(chan struct{})
	go func() { s.finished.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * patience):
		t.Error("some connections did not come back")
	}
	close(stop)
	othersDone.Wait()
	g.Close()
	close(s.back)
	workersDone.Wait()
	if f, i, h := s.lot.Count(); f+i+h != 0 && !t.Failed() {
		t.Errorf("%d connections are left", f+i+h)
	}
	total := int64(0)
	for why := range s.whys {
		n := s.whys[why].Load()
		total += n
		t.Logf("%s: %d", Why(why), n)
	}
	if total != conns*stormRounds && !t.Failed() {
		t.Errorf("%d times handed out, want %d", total, conns*stormRounds)
	}
}
