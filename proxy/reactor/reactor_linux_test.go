package reactor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// seen is one call of Ready.
type seen struct {
	t  Token
	ev Event
}

// probe is a Handler made of functions; those that are nil do nothing.
type probe struct {
	ready   func(t Token, ev Event)
	tick    func(now time.Duration)
	closing func()
}

func (p *probe) Ready(t Token, ev Event) {
	if p.ready != nil {
		p.ready(t, ev)
	}
}

func (p *probe) Tick(now time.Duration) {
	if p.tick != nil {
		p.tick(now)
	}
}

func (p *probe) Closing() {
	if p.closing != nil {
		p.closing()
	}
}

// start runs one loop with p as the handler of Park.
func start(t *testing.T, p *probe) *Loop {
	t.Helper()
	return startLogged(t, p, func(event string, err error) { t.Errorf("logged: %s: %v", event, err) })
}

func startLogged(t *testing.T, p *probe, log func(string, error)) *Loop {
	t.Helper()
	g, err := New(Options{Loops: 1, Log: log})
	must(t, err)
	g.Handle(Park, func(*Loop) Handler { return p })
	t.Cleanup(g.Close)
	g.Start()
	return g.Loops()[0]
}

// pair returns two connected, non-blocking stream sockets.
func pair(t testing.TB) (here, there int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { closeAll(fds[:]) })
	return fds[0], fds[1]
}

func send(t testing.TB, fd int, s string) {
	t.Helper()
	_, err := unix.Write(fd, []byte(s))
	must(t, err)
}

// take waits for the next of c.
func take[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// onLoop runs f on the loop and waits for it.
func onLoop(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { defer close(done); f() }) {
		t.Fatal("the loop is closed")
	}
	take(t, done)
}

// settle returns when the loop has handled all events that there were before: the
// second function runs in a turn whose events were taken after the first.
func settle(t testing.TB, l *Loop) {
	t.Helper()
	onLoop(t, l, func() {})
	onLoop(t, l, func() {})
}

// recorded returns a probe that records, and what takes the record so far.
func recorded(t testing.TB) (p *probe, taken func(l *Loop) []seen) {
	var all []seen // the loop's
	return &probe{ready: func(t Token, ev Event) { all = append(all, seen{t, ev}) }}, func(l *Loop) (s []seen) {
		t.Helper()
		settle(t, l)
		onLoop(t, l, func() { s, all = all, nil })
		return s
	}
}

func equal(t *testing.T, step string, got []seen, want ...seen) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", step, got, want)
	}
}

func TestToken(t *testing.T) {
	f := func(k Kind, index, gen, wantGen uint32) {
		t.Helper()
		token := MakeToken(k, index, gen)
		if token.Kind() != k || token.Index() != index || token.Gen() != wantGen {
			t.Errorf("got %d %d %d, want %d %d %d", token.Kind(), token.Index(), token.Gen(), k, index, wantGen)
		}
		if token == wakeToken {
			t.Errorf("the token is the eventfd's")
		}
	}
	f(Park, 0, 0, 0)
	f(Relay, 1, 2, 2)
	f(Load, 1<<32-1, 1<<24-1, 1<<24-1)
	f(numKinds, 1<<32-1, 1<<32-1, 1<<24-1)
	f(Park, 7, 1<<24+3, 3)
}

func TestOneShot(t *testing.T) {
	p, taken := recorded(t)
	l := start(t, p)
	here, there := pair(t)
	one, two := MakeToken(Park, 1, 1), MakeToken(Park, 2, 7)

	must(t, l.Add(here, one, OneShotRead))
	equal(t, "added, nothing to read", taken(l))
	send(t, there, "a")
	equal(t, "a byte", taken(l), seen{one, Readable})
	send(t, there, "b")
	equal(t, "a second one, not armed", taken(l))
	must(t, l.Rearm(here, two, OneShotRead))
	equal(t, "armed with bytes there, new token", taken(l), seen{two, Readable})
	must(t, l.Remove(here))
	must(t, l.Add(here, one, OneShotRead))
	equal(t, "added with bytes there", taken(l), seen{one, Readable})
	must(t, l.Rearm(here, one, OneShotRead))
	equal(t, "level-triggered", taken(l), seen{one, Readable})
	must(t, unix.Shutdown(there, unix.SHUT_WR))
	equal(t, "the end, not armed", taken(l))
	must(t, l.Rearm(here, one, OneShotRead))
	equal(t, "the end, armed", taken(l), seen{one, Readable | PeerClosed})
}

func TestEdge(t *testing.T) {
	p, taken := recorded(t)
	l := start(t, p)
	here, there := pair(t)
	token := MakeToken(Park, 3, 1)

	must(t, l.Add(here, token, EdgeBoth))
	equal(t, "added", taken(l), seen{token, Writable})
	send(t, there, "a")
	equal(t, "a byte", taken(l), seen{token, Readable | Writable})
	equal(t, "still unread", taken(l))
	send(t, there, "b")
	equal(t, "another", taken(l), seen{token, Readable | Writable})
	must(t, l.Rearm(here, token, EdgeBoth))
	equal(t, "armed anew", taken(l), seen{token, Readable | Writable})
	must(t, unix.Shutdown(there, unix.SHUT_WR))
	equal(t, "half-closed", taken(l), seen{token, Readable | Writable | PeerClosed})
	must(t, l.Rearm(here, token, OneShotRead))
	equal(t, "armed once", taken(l), seen{token, Readable | PeerClosed})
	must(t, unix.Shutdown(there, unix.SHUT_RD))
	must(t, l.Rearm(here, token, EdgeBoth))
	equal(t, "closed", taken(l), seen{token, Readable | Writable | PeerClosed | Failed})
}

func TestEdgeWritableAgain(t *testing.T) {
	p, taken := recorded(t)
	l := start(t, p)
	here, there := pair(t)
	token := MakeToken(Park, 3, 1)
	chunk := make([]byte, 4096)

	must(t, l.Add(here, token, EdgeBoth))
	taken(l)
	for {
		if _, err := unix.Write(here, chunk); err == unix.EAGAIN {
			break
		}
	}
	equal(t, "full", taken(l))
	for {
		if _, err := unix.Read(there, chunk); err == unix.EAGAIN {
			break
		}
	}
	got := taken(l)
	if len(got) == 0 || got[len(got)-1] != (seen{token, Writable}) {
		t.Errorf("drained: got %v, want a last event Writable", got)
	}
}

func TestRemove(t *testing.T) {
	p, taken := recorded(t)
	l := start(t, p)
	here, there := pair(t)
	token := MakeToken(Park, 1, 1)

	must(t, l.Add(here, token, EdgeBoth))
	taken(l)
	must(t, l.Remove(here))
	send(t, there, "a")
	equal(t, "removed", taken(l))
	must(t, l.Add(here, token, EdgeBoth))
	equal(t, "added again", taken(l), seen{token, Readable | Writable})
}

func TestRegistrationErrors(t *testing.T) {
	l := start(t, &probe{})
	here, other := pair(t)
	token := MakeToken(Park, 1, 1)
	f := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	f(l.Add(here, token, EdgeBoth), nil)
	f(l.Add(here, token, EdgeBoth), unix.EEXIST)
	f(l.Rearm(other, token, EdgeBoth), unix.ENOENT)
	f(l.Remove(other), unix.ENOENT)
	f(l.Remove(-1), unix.EBADF)
	f(l.Remove(here), nil)
	l.group.Close()
	f(l.Add(here, token, EdgeBoth), ErrClosed)
	f(l.Rearm(here, token, EdgeBoth), ErrClosed)
	f(l.Remove(here), ErrClosed)
}

func TestMisuse(t *testing.T) {
	f := func(call func(g *Group)) {
		t.Helper()
		g, err := New(Options{Loops: 1})
		must(t, err)
		defer g.Close()
		g.Handle(Park, func(*Loop) Handler { return &probe{} })
		defer func() {
			t.Helper()
			if v, _ := recover().(string); !strings.HasPrefix(v, "BUG:") {
				t.Errorf("got panic %q, want one with BUG:", v)
			}
		}()
		call(g)
	}
	another := func(*Loop) Handler { return &probe{} }
	f(func(g *Group) { _ = g.Loops()[0].Add(0, MakeToken(Relay, 0, 0), EdgeBoth) })
	f(func(g *Group) { _ = g.Loops()[0].Add(0, wakeToken, EdgeBoth) })
	f(func(g *Group) { g.Handle(Park, another) })
	f(func(g *Group) { g.Handle(numKinds, another) })
	f(func(g *Group) { g.Start(); g.Handle(Relay, another) })
}

// A batch holds an event of a descriptor that the handler of an earlier event closes,
// and whose number it uses again. The loop delivers the event all the same, with the
// old token, and the new socket's events carry the new one.
func TestStaleToken(t *testing.T) {
	p := &probe{}
	l := start(t, p)
	var here, there [2]int
	for i := range here {
		here[i], there[i] = pair(t)
	}
	fresh, freshPeer := pair(t)
	old := []Token{MakeToken(Park, 0, 1), MakeToken(Park, 1, 1)}
	var got []seen
	p.ready = func(token Token, ev Event) {
		got = append(got, seen{token, ev})
		if len(got) > 1 {
			return
		}
		// Closes the other descriptor and puts the new socket in its place.
		other := 1 - token.Index()
		if err := unix.Dup3(fresh, here[other], unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
		if err := l.Add(here[other], MakeToken(Park, other, 2), OneShotRead); err != nil {
			t.Error(err)
		}
	}
	onLoop(t, l, func() { // while the loop is busy, so that both come in one batch
		for i := range here {
			must(t, l.Add(here[i], old[i], OneShotRead))
			send(t, there[i], "a")
		}
	})
	settle(t, l)
	send(t, freshPeer, "b")
	settle(t, l)
	onLoop(t, l, func() {
		first := got[0].t
		other := 1 - first.Index()
		equal(t, "after the number was used again", got,
			seen{first, Readable}, seen{old[other], Readable}, seen{MakeToken(Park, other, 2), Readable})
	})
}

// A descriptor that is always ready gets one turn for each of the others.
func TestFairness(t *testing.T) {
	f := func(name string, goOn func(l *Loop, fd int, token Token)) {
		t.Helper()
		p := &probe{}
		l := start(t, p)
		hog, hogPeer := pair(t)
		here, there := pair(t)
		hogToken, token := MakeToken(Park, 1, 1), MakeToken(Park, 2, 1)
		turns, servedAt := 0, make(chan int, 1)
		p.ready = func(got Token, _ Event) {
			if got == token {
				servedAt <- turns
				return
			}
			if turns++; turns == 100 {
				send(t, there, "a")
			}
			goOn(l, hog, hogToken)
		}
		must(t, l.Add(here, token, OneShotRead))
		send(t, hogPeer, "a")
		must(t, l.Add(hog, hogToken, OneShotRead))
		if at := take(t, servedAt); at < 100 || at > 101 {
			t.Errorf("%s: served after turn %d of the other, want 100 or 101", name, at)
		}
		l.group.Close()
	}
	f("again", func(l *Loop, _ int, token Token) { l.Again(token) })
	f("rearm", func(l *Loop, fd int, token Token) {
		if err := l.Rearm(fd, token, OneShotRead); err != nil {
			t.Error(err)
		}
	})
	f("post", func(l *Loop, _ int, token Token) { l.Post(func() { l.handlers[Park].Ready(token, 0) }) })
}

func TestAgainRoundRobin(t *testing.T) {
	p := &probe{}
	l := start(t, p)
	var order []uint32
	done := make(chan struct{})
	p.ready = func(token Token, ev Event) {
		if ev != 0 {
			t.Errorf("got event %b, want 0", ev)
		}
		order = append(order, token.Index())
		if len(order) < 9 {
			l.Again(token)
		} else if len(order) == 9 {
			close(done)
		}
	}
	onLoop(t, l, func() {
		for i := range uint32(3) {
			l.Again(MakeToken(Park, i, 1))
		}
	})
	take(t, done)
	settle(t, l)
	onLoop(t, l, func() {
		if want := []uint32{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1}; !slices.Equal(order, want) {
			t.Errorf("got turns %v, want %v", order, want)
		}
	})
	if s := l.group.Stats()[0]; s.Agains != 11 {
		t.Errorf("got %d agains, want 11", s.Agains)
	}
}

func TestPostOrder(t *testing.T) {
	const posters, each = 8, 20000
	l := start(t, &probe{})
	var last [posters]int // the loop's
	var wg sync.WaitGroup
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				l.Post(func() {
					if last[p] != i {
						t.Errorf("poster %d: post %d ran in place %d", p, i, last[p])
					}
					last[p]++
				})
			}
		})
	}
	wg.Wait()
	settle(t, l)
	if s := l.group.Stats()[0]; s.Posts < posters*each {
		t.Errorf("got %d posts, want %d", s.Posts, posters*each)
	}
	for p, n := range last {
		if n != each {
			t.Errorf("poster %d: %d ran, want %d", p, n, each)
		}
	}
}

// Posts to a busy loop write nothing to the eventfd, and to a sleeping one once.
func TestPostWakesOnce(t *testing.T) {
	l := start(t, &probe{})
	gate, inside := make(chan struct{}), make(chan struct{})
	l.Post(func() { close(inside); <-gate })
	take(t, inside)
	for range 1000 {
		l.Post(func() {})
	}
	close(gate)
	settle(t, l)
	// One for the first post, and at most one for each of settle's; none at all if the
	// loop was awake each time, which is EAGAIN.
	var count [8]byte
	if _, err := unix.Read(l.poller.wakefd, count[:]); err != nil && err != unix.EAGAIN {
		t.Fatal(err)
	}
	if writes := binary.NativeEndian.Uint64(count[:]); writes > 3 {
		t.Errorf("1003 posts took %d writes, want at most 3", writes)
	}
}

func TestPostFromTheLoop(t *testing.T) {
	l := start(t, &probe{})
	done := make(chan []int, 1)
	var order []int
	l.Post(func() {
		l.Post(func() { order = append(order, 2); done <- order })
		order = append(order, 1)
	})
	if got := take(t, done); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("got order %v, want [1 2]", got)
	}
}

func TestNextTick(t *testing.T) {
	f := func(at, now, want time.Duration) {
		t.Helper()
		if got := nextTick(at*time.Millisecond, now*time.Millisecond); got != want*time.Millisecond {
			t.Errorf("nextTick(%d, %d): got %v, want %d ms", at, now, got, want)
		}
	}
	f(100, 100, 200)
	f(100, 101, 200)
	f(100, 199, 200)
	f(100, 200, 300)
	f(300, 1234, 1300)
}

func TestTicks(t *testing.T) {
	const n = 5
	ticks := make(chan time.Duration, 100)
	begin := time.Now()
	l := start(t, &probe{tick: func(now time.Duration) { ticks <- now }})
	interval := time.Duration(-1)
	for range n {
		now := take(t, ticks)
		if now/TickInterval <= interval {
			t.Errorf("two ticks in interval %d", interval)
		}
		interval = now / TickInterval
		if coarse := l.group.Now(); coarse < now {
			t.Errorf("the group's clock is at %v after a tick at %v", coarse, now)
		}
	}
	if took := time.Since(begin); took < (n-1)*TickInterval {
		t.Errorf("%d ticks took %v", n, took)
	}
}

func TestTicksOfABusyLoop(t *testing.T) {
	p := &probe{}
	ticks := make(chan time.Duration, 100)
	p.tick = func(now time.Duration) { ticks <- now }
	l := start(t, p)
	p.ready = func(token Token, _ Event) { l.Again(token) }
	onLoop(t, l, func() { l.Again(MakeToken(Park, 0, 0)) })
	take(t, ticks)
	take(t, ticks)
}

func TestPanics(t *testing.T) {
	var logged atomic.Int64
	p := &probe{}
	l := startLogged(t, p, func(event string, err error) {
		logged.Add(1)
		if !errors.Is(err, ErrPanic) || !strings.Contains(err.Error(), "oops") || !strings.Contains(err.Error(), "reactor_linux_test.go") {
			t.Errorf("logged %q, %v: want ErrPanic, the value and the stack", event, err)
		}
	})
	var got []Token
	ticked := make(chan struct{}, 100)
	p.ready = func(token Token, _ Event) {
		got = append(got, token)
		panic("oops")
	}
	p.tick = func(time.Duration) {
		ticked <- struct{}{}
		panic(errors.New("oops"))
	}
	p.closing = func() { panic("oops") }
	ran := make(chan struct{})
	onLoop(t, l, func() {
		for i := range uint32(3) {
			here, there := pair(t)
			send(t, there, "a")
			must(t, l.Add(here, MakeToken(Park, i, 0), OneShotRead))
			l.Again(MakeToken(Park, i+10, 0))
		}
		l.Post(func() { panic("oops") })
		l.Post(func() { close(ran) })
	})
	take(t, ran)
	take(t, ticked)
	take(t, ticked)
	onLoop(t, l, func() {
		if len(got) != 6 {
			t.Errorf("got tokens %x, want all 6", got)
		}
	})
	l.group.Close()
	panics := l.group.Stats()[0].Panics
	if want := int64(3 + 3 + 1 + 2 + 1); int64(panics) < want || logged.Load() != int64(panics) {
		t.Errorf("counted %d panics and logged %d, want at least %d", panics, logged.Load(), want)
	}
}

func TestPanicsWithoutLog(t *testing.T) {
	l := startLogged(t, &probe{}, nil)
	l.Post(func() { panic("oops") })
	settle(t, l)
	if n := l.group.Stats()[0].Panics; n != 1 {
		t.Errorf("counted %d panics, want 1", n)
	}
}

func TestCloseRunsWhatWasPosted(t *testing.T) {
	var order []string
	p := &probe{}
	l := start(t, p)
	p.closing = func() {
		order = append(order, "closing")
		if l.Post(func() { t.Error("ran") }) {
			t.Error("posted while closing")
		}
	}
	here, there := pair(t)
	must(t, l.Add(here, MakeToken(Park, 1, 1), EdgeBoth))
	send(t, there, "a")
	gate, closed := make(chan struct{}), make(chan struct{})
	l.Post(func() { <-gate })
	for i := range 1000 {
		l.Post(func() { order = append(order, fmt.Sprint(i)) })
	}
	go func() { l.group.Close(); close(closed) }()
	for l.Post(func() { order = append(order, "more") }) { // until Close has begun
	}
	close(gate)
	take(t, closed)
	if order[0] != "0" || order[999] != "999" || order[len(order)-1] != "closing" || slices.Index(order, "closing") != len(order)-1 {
		t.Errorf("got order %v … %v, want 0 … 999 … closing", order[0], order[len(order)-1])
	}
	if l.Post(func() { t.Error("ran") }) {
		t.Error("posted after Close")
	}
}

func TestCloseOften(t *testing.T) {
	const want = 3 * int64(numKinds)
	var closings atomic.Int64
	g, err := New(Options{Loops: 3})
	must(t, err)
	for k := range numKinds {
		g.Handle(k, func(*Loop) Handler { return &probe{closing: func() { closings.Add(1) }} })
	}
	g.Start()
	g.Start()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			g.Close()
			if n := closings.Load(); n != want {
				t.Errorf("Close returned after %d closings, want %d", n, want)
			}
		})
	}
	wg.Wait()
	g.Close()
	g.Start()
	if n := closings.Load(); n != want {
		t.Errorf("got %d closings, want %d", n, want)
	}
}

func TestCloseWithoutStart(t *testing.T) {
	before := descriptors(t)
	g, err := New(Options{})
	must(t, err)
	var order []string
	g.Handle(Feed, func(*Loop) Handler { return &probe{closing: func() { order = append(order, "closing") }} })
	g.Loops()[0].Post(func() { order = append(order, "post") })
	g.Close()
	if len(order) != 1+len(g.Loops()) || order[0] != "post" {
		t.Errorf("got %v, want post and a closing for each loop", order)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestCloseLeavesNoDescriptors(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		g, err := New(Options{Loops: 2})
		must(t, err)
		g.Handle(Park, func(*Loop) Handler { return &probe{} })
		g.Start()
		g.Loops()[1].Post(func() {})
		g.Close()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestLag(t *testing.T) {
	f := func(d time.Duration, want int) {
		t.Helper()
		if got := lagBucket(d); got != want {
			t.Errorf("%v: got bucket %d, want %d", d, got, want)
		}
	}
	f(0, 0)
	f(50*time.Microsecond, 0)
	f(50*time.Microsecond+1, 1)
	f(time.Second, len(LagBounds)-1)
	f(time.Second+1, len(LagBounds))
	if !slices.IsSorted(LagBounds[:]) {
		t.Error("the bounds are not sorted")
	}

	l := start(t, &probe{})
	onLoop(t, l, func() {
		for begin := time.Now(); time.Since(begin) < 3*time.Millisecond; {
		}
	})
	settle(t, l)
	s := l.group.Stats()[0]
	if s.MaxTurn < 3*time.Millisecond || s.SumTurns < s.MaxTurn {
		t.Errorf("got longest turn %v of %v in all, want at least 3ms", s.MaxTurn, s.SumTurns)
	}
	var turns, slow uint64
	for b, n := range s.Lag {
		turns += n
		if b >= lagBucket(3*time.Millisecond) {
			slow += n
		}
	}
	if slow == 0 || turns > s.Wakes+1 {
		t.Errorf("got lag %v of %d wakes, want one of 3ms", s.Lag, s.Wakes)
	}
	settle(t, l)
	if s := l.group.Stats()[0]; s.MaxTurn >= 3*time.Millisecond && s.LastTurn < 3*time.Millisecond && s.SumTurns < 6*time.Millisecond {
		t.Errorf("the longest turn is still %v", s.MaxTurn)
	}
}

// A loop polls while goroutines wait for processors, and blocks again afterwards.
func TestCrowded(t *testing.T) {
	l := start(t, &probe{})
	until := func(want bool) {
		t.Helper()
		for begin := time.Now(); ; {
			var got bool
			onLoop(t, l, func() { got = l.crowd })
			if got == want {
				return
			}
			if time.Since(begin) > patience {
				t.Fatalf("crowded is still %v", got)
			}
		}
	}
	var over atomic.Bool
	var busy sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			for !over.Load() {
				runtime.Gosched()
			}
		})
	}
	until(true)
	here, there := pair(t)
	events := make(chan Event, 1)
	onLoop(t, l, func() { l.handlers[Park] = &probe{ready: func(_ Token, ev Event) { events <- ev }} })
	must(t, l.Add(here, MakeToken(Park, 0, 0), OneShotRead))
	send(t, there, "a")
	if ev := take(t, events); ev != Readable {
		t.Errorf("got event %b, want Readable", ev)
	}
	over.Store(true)
	busy.Wait()
	until(false)
}

// Loops that yield do not keep each other awake.
func TestIdleLoopsSleep(t *testing.T) {
	g, err := New(Options{Loops: 4})
	must(t, err)
	defer g.Close()
	ticks := make(chan struct{}, 1000)
	g.Handle(Park, func(*Loop) Handler { return &probe{tick: func(time.Duration) { ticks <- struct{}{} }} })
	g.Start()
	for range 4 * 4 {
		take(t, ticks)
	}
	for i, s := range g.Stats() {
		if s.Wakes > 100*(s.Ticks+1) {
			t.Errorf("idle loop %d woke %d times for %d ticks", i, s.Wakes, s.Ticks)
		}
	}
}

// Everything that any goroutine may call, at once, and Close in between.
func TestConcurrent(t *testing.T) {
	g, err := New(Options{Loops: 2, Log: func(event string, err error) { t.Errorf("%s: %v", event, err) }})
	must(t, err)
	var events atomic.Int64
	enough := make(chan struct{})
	g.Handle(Relay, func(l *Loop) Handler {
		return &probe{ready: func(token Token, ev Event) {
			if n := events.Add(1); n == 5000 {
				close(enough)
			}
			if ev&Readable != 0 && token.Gen()%2 == 0 {
				l.Again(token)
			}
		}}
	})
	g.Start()
	var wg sync.WaitGroup
	for w := range uint32(4) {
		here, there := pair(t)
		send(t, there, "a")
		l := g.Loops()[w%2]
		wg.Go(func() {
			var last time.Duration
			for gen := uint32(0); ; gen++ {
				token := MakeToken(Relay, w, gen)
				if l.Add(here, token, EdgeBoth) == ErrClosed || l.Rearm(here, token, OneShotRead) == ErrClosed ||
					!l.Post(func() { l.Again(token) }) || l.Remove(here) == ErrClosed {
					return
				}
				if now := g.Now(); now < last {
					t.Errorf("the clock went back from %v to %v", last, now)
				} else {
					last = now
				}
				_ = g.Stats()
			}
		})
	}
	take(t, enough)
	g.Close()
	wg.Wait()
}

// An event, a post and an Again allocate nothing.
func TestAllocations(t *testing.T) {
	p := &probe{}
	l := start(t, p)
	here, there := pair(t)
	token := MakeToken(Park, 1, 1)
	events := make(chan Event, 1)
	p.ready = func(_ Token, ev Event) { events <- ev }
	must(t, l.Add(here, token, OneShotRead))
	must(t, l.Remove(here))
	must(t, l.Add(here, token, OneShotRead))
	again := func() { l.Again(token) }
	message := []byte("a")
	f := func(name string, do func()) {
		t.Helper()
		for range 10 {
			do()
		}
		if n := testing.AllocsPerRun(1000, do); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
	f("event", func() {
		_, _ = unix.Write(there, message)
		<-events
		rawEcho(here, l.Buffer())
		_ = l.Rearm(here, token, OneShotRead)
		_, _ = unix.Read(there, message)
	})
	f("post and again", func() {
		l.Post(again)
		<-events
	})
}
