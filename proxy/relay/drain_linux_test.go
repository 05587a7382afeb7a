package relay

import (
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// socketpair returns two joined non-blocking sockets.
func socketpair(t testing.TB) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

// many joins n tunnels over socket pairs and returns the peers' descriptors.
func (k *kit) many(n int, p *Policy, l *Labels) (clients, backends []int) {
	k.t.Helper()
	for range n {
		a, cl := socketpair(k.t)
		b, be := socketpair(k.t)
		clients, backends = append(clients, cl), append(backends, be)
		if !k.relay.Join(Params{ID: k.ids.Add(1), Client: Leg{FD: a}, Backend: Leg{FD: b}, Policy: p, Labels: l}) {
			k.t.Fatal("Join failed")
		}
	}
	k.t.Cleanup(func() { closeAll(slices.Concat(clients, backends)) })
	return clients, backends
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// plan returns the times at which a drain will close its tunnels.
func (k *kit) plan(d *Draining) (times []time.Duration) {
	for _, lp := range k.relay.loops {
		lp.call(func() {
			for _, p := range lp.parts {
				if p.d != d {
					continue
				}
				for _, e := range p.plan {
					times = append(times, e.at-d.start)
				}
			}
		})
	}
	slices.Sort(times)
	return times
}

// TestDrainPlan: the k-th of n tunnels has its time in the k-th part of the window, over
// all loops together.
func TestDrainPlan(t *testing.T) {
	k := newKit(t, 3)
	const n = 500
	k.many(n, &Policy{}, labels)
	const window = 20 * time.Hour
	d := k.relay.Drain(DrainOptions{Window: window, Reason: reason.Draining})
	if d.Total() != n || d.Left() != n {
		t.Errorf("%d of %d, want %d", d.Left(), d.Total(), n)
	}
	times := k.plan(d)
	if len(times) != n {
		t.Fatalf("%d times, want %d", len(times), n)
	}
	atBegin := 0
	for i, at := range times {
		lo, hi := window*time.Duration(i)/n, window*time.Duration(i+1)/n
		if at < lo || at > hi {
			t.Errorf("tunnel %d at %v, want %v to %v", i, at, lo, hi)
		}
		if at-lo < window/n/100 {
			atBegin++
		}
	}
	if atBegin > n/10 {
		t.Errorf("%d times without jitter", atBegin)
	}
	d.Cancel()
	<-d.Done()
	if d.Left() != 0 || k.relay.Count() != n {
		t.Errorf("after Cancel %d are left and %d open", d.Left(), k.relay.Count())
	}
	k.relay.Each(func(i Info) bool {
		if i.Draining {
			t.Errorf("tunnel %d still drains", i.ID)
		}
		return true
	})
	d.Cancel()
}

// TestDrainEvenly measures the closes as clients see them. The plan is even; each close comes
// at its time there or later, since a busy machine may be late with it, but they do come
// during the window and not behind it.
func TestDrainEvenly(t *testing.T) {
	t.Parallel()
	k := newKit(t, 2)
	const n, window, parts = 400, 8 * time.Second, 20
	clients, backends := k.many(n, &Policy{}, labels)
	start := time.Now()
	d := k.relay.Drain(DrainOptions{Window: window, HardCap: time.Minute, Reason: reason.Draining})
	planned := make([]int, parts+1)
	lives := map[uint64]time.Duration{} // how long each must live, but those that are closed already
	for _, lp := range k.relay.loops {
		lp.call(func() {
			for _, e := range lp.parts[0].plan {
				planned[int((e.at-d.start)*parts/window)]++
				if s := lp.find(mark{i: e.i, gen: e.gen}); s != nil {
					lives[s.id] = e.at - s.born
				}
			}
		})
	}
	var mu sync.Mutex
	counts := make([]int, parts+1)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			awaitEnd(t, clients[i])
			mu.Lock()
			counts[min(int(time.Since(start)*parts/window), parts)]++
			mu.Unlock()
			_ = unix.Shutdown(clients[i], unix.SHUT_WR)
			_ = unix.Shutdown(backends[i], unix.SHUT_WR)
		})
	}
	wg.Wait()
	<-d.Done()
	if d.Left() != 0 || d.Total() != n {
		t.Errorf("%d of %d left", d.Left(), d.Total())
	}
	for part, got := range planned {
		if got > n/parts+1 {
			t.Errorf("part %d has %d of %d planned closes: %v", part, got, n, planned)
		}
	}
	early := 0
	for _, got := range counts[:parts/2] {
		early += got
	}
	if early == 0 {
		t.Errorf("none is closed in the first half of the window: %v", counts)
	}
	for id, want := range lives {
		if got := k.end(id).Lifetime; got < want {
			t.Errorf("tunnel %d lived for %v, want %v or more", id, got, want)
		}
	}
}

// awaitEnd waits until a stream has ended.
func awaitEnd(t testing.TB, fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		switch n, err := unix.Poll(fds, int(patience/time.Millisecond)); {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			t.Errorf("poll: %d, %v", n, err)
		}
		return
	}
}

// TestDrainMatches drains one backend: others live on, later ones are closed as well,
// until it is taken back in.
func TestDrainMatches(t *testing.T) {
	k := newKit(t, 2)
	bad := &Labels{Backend: "bad"}
	good := k.open(Policy{}, plain)
	gone := k.open(Policy{}, plain, func(p *Params) { p.Labels = bad })
	d := k.relay.Drain(DrainOptions{Match: func(l *Labels) bool { return l.Backend == "bad" }, Reason: reason.Draining, Sticky: true})
	ends := func(tn tunnel) {
		t.Helper()
		silent(t, tn.client)
		silent(t, tn.backend)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		k.endsWith(tn.id, reason.Draining)
	}
	ends(gone)
	<-d.Done()
	ends(k.open(Policy{}, plain, func(p *Params) { p.Labels = bad }))
	if d.Total() != 2 || d.Left() != 0 {
		t.Errorf("%d of %d left, want 0 of 2", d.Left(), d.Total())
	}
	d.Cancel()
	back := k.open(Policy{}, plain, func(p *Params) { p.Labels = bad })
	for _, tn := range []tunnel{good, back} {
		say(t, tn.client, []byte("x"))
		hear(t, tn.backend, []byte("x"))
	}
}

// TestDrainLate: a tunnel that joins during a sticky drain gets a place in what is left
// of the window.
func TestDrainLate(t *testing.T) {
	k := newKit(t, 1)
	const window = time.Hour
	d := k.relay.Drain(DrainOptions{Window: window, Reason: reason.Draining, Sticky: true})
	<-d.Done() // there was none
	const n = 200
	k.many(n, &Policy{}, labels)
	testkit.WaitUntil(t, "all joined", func() bool { return d.Total() == n })
	times := k.plan(d)
	if d.Left() != n || len(times) != n || times[0] < 0 || times[n-1] > window || times[n/2] < window/4 || times[n/2] > window*3/4 {
		t.Errorf("%d left, times %v", d.Left(), times)
	}
	d.Cancel()
}

// TestDrainHardCap cuts who does not go.
func TestDrainHardCap(t *testing.T) {
	k := newKit(t, 2)
	tn := k.open(Policy{CloseTimeout: time.Hour}, plain)
	later := k.open(Policy{CloseTimeout: time.Hour}, plain)
	ended := k.open(Policy{}, plain)
	d := k.relay.Drain(DrainOptions{Window: 100 * time.Millisecond, HardCap: 500 * time.Millisecond, Reason: reason.Draining})
	_ = ended.client.Close()
	_ = ended.backend.Close()
	silent(t, tn.client)
	<-d.Done()
	for _, x := range []tunnel{tn, later} {
		if e := k.endsWith(x.id, reason.Draining); e.Lifetime < 500*time.Millisecond {
			t.Errorf("cut after %v", e.Lifetime)
		}
		if _, err := x.client.Read(make([]byte, 1)); err == nil {
			t.Error("no end")
		}
	}
	k.end(ended.id)
	if d.Left() != 0 || d.Total() != 3 {
		t.Errorf("%d of %d left", d.Left(), d.Total())
	}
}

// TestDrainsOverlap: a tunnel may belong to two drains, and counts in both.
func TestDrainsOverlap(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, plain)
	slow := k.relay.Drain(DrainOptions{Window: time.Hour, Reason: reason.Draining})
	fast := k.relay.Drain(DrainOptions{Reason: reason.ShutDown})
	silent(t, tn.client)
	slow.Cancel()
	_ = tn.client.Close()
	_ = tn.backend.Close()
	k.endsWith(tn.id, reason.ShutDown)
	<-fast.Done()
}

// TestOpaqueDrainDelivers: what was queued arrives before the end.
func TestOpaqueDrainDelivers(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Queue: 1 << 20, CloseTimeout: 2 * time.Second}, plain)
	go func() {
		_, _ = io.Copy(tn.backend, zeros{})
		_ = tn.backend.Close()
	}()
	testkit.WaitUntil(t, "back-pressure", func() bool { return k.relay.Stats().Paused == 1 })
	d := k.relay.Drain(DrainOptions{Reason: reason.Draining})
	n, err := io.Copy(io.Discard, tn.client)
	if err != nil || n < 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	_ = tn.client.Close()
	<-d.Done()
	k.endsWith(tn.id, reason.Draining)
}
