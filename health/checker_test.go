package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// backend is a simulated one: its dials come to an end as mode says.
type backend struct {
	mode atomic.Value // "ok", "503", "refuse", "silent"

	mu    sync.Mutex
	dials []time.Duration // since the beginning
	begin time.Time
}

func newBackend(mode string) *backend {
	b := &backend{begin: time.Now()}
	b.mode.Store(mode)
	return b
}

func (b *backend) dial(context.Context, string, string) (net.Conn, error) {
	b.mu.Lock()
	b.dials = append(b.dials, time.Since(b.begin))
	b.mu.Unlock()
	mode := b.mode.Load().(string)
	if mode == "refuse" {
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	go b.serve(theirs, mode)
	return ours, nil
}

func (b *backend) serve(c net.Conn, mode string) {
	defer func() { _ = c.Close() }()
	buf := make([]byte, 4096)
	if _, err := c.Read(buf); err != nil {
		return
	}
	switch mode {
	case "ok":
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	case "503":
		_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
	}
	_, _ = c.Read(buf) // "silent", or answered: wait until the probe closes
}

func (b *backend) dialTimes() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.dials)
}

// steady takes the chance out of a Checker: every random number is a half, so that
// intervals are exact and the first probe comes half an interval (or second) from now.
func steady(c *Checker) { c.random = func() float64 { return 0.5 } }

// journal records transitions in words, with the time since the beginning.
type journal struct {
	mu    sync.Mutex
	begin time.Time
	lines []string
}

func (j *journal) add(tr Transition) {
	word := "down"
	if tr.Up {
		word = "up"
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%s %s: %s (%s)", tr.At.Sub(j.begin), word, tr.Reason, tr.Result))
}

func (j *journal) want(t *testing.T, step string, lines ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, lines) {
		t.Fatalf("%s: transitions %q, want %q", step, j.lines, lines)
	}
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

var target = Target{Network: "tcp", Address: "192.0.2.1:80"}

func TestWatchSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := newBackend("ok")
		results := map[Result]int{}
		c := NewChecker(Dialer(be.dial), steady, OnProbe(func(_ Target, r Result) { results[r]++ }))
		j := &journal{begin: time.Now()}
		o := &Options{Interval: time.Second, Timeout: 200 * time.Millisecond, Rise: 2, Fall: 3}
		stop := c.Watch(target, o, j.add)
		// 1. Probes succeed at 0.5s, 1.5s, 2.5s: nothing changes.
		pass(3 * time.Second)
		j.want(t, "1")
		// 2. Three failures eject; their reasons may differ, the last one is told.
		be.mode.Store("refuse")
		pass(time.Second)
		be.mode.Store("503")
		pass(time.Second)
		j.want(t, "2")
		be.mode.Store("silent")
		pass(time.Second)
		lines := []string{"5.7s down: timeout in response head (timeout)"}
		j.want(t, "2", lines...)
		// 3. One success is not enough, two are.
		be.mode.Store("ok")
		pass(time.Second)
		j.want(t, "3", lines...)
		pass(time.Second)
		lines = append(lines, "7.5s up: ok (ok)")
		j.want(t, "3", lines...)
		// 4. After stop there are no more probes and no more transitions.
		be.mode.Store("refuse")
		stop()
		stop()
		pass(time.Minute)
		j.want(t, "4", lines...)
		if n := len(be.dialTimes()); n != 8 {
			t.Errorf("%d probes, want 8", n)
		}
		want := map[Result]int{OK: 5, Connect: 1, Status: 1, Timeout: 1}
		if fmt.Sprint(results) != fmt.Sprint(want) {
			t.Errorf("results %v, want %v", results, want)
		}
	})
}

func TestWatchInitiallyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := newBackend("ok")
		j := &journal{begin: time.Now()}
		stop := NewChecker(Dialer(be.dial), steady).Watch(target,
			&Options{Interval: 10 * time.Second, Rise: 2, Fall: 1, Initial: "down"}, j.add)
		defer stop()
		pass(20 * time.Second)
		j.want(t, "two successes", "10.5s up: ok (ok)")
	})
}

// A target that hangs in connect delays no other, and stop does not wait for it.
func TestWatchHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := newBackend("ok")
		cut := make(chan time.Time, 1)
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == target.Address {
				return be.dial(ctx, network, address)
			}
			<-ctx.Done()
			cut <- time.Now()
			return nil, ctx.Err()
		}
		c := NewChecker(Dialer(dial), steady)
		o := &Options{Interval: time.Second, Timeout: time.Hour, Fall: 1}
		j := &journal{begin: time.Now()}
		stopHanging := c.Watch(Target{Network: "tcp", Address: "192.0.2.2:80"}, o, j.add)
		stop := c.Watch(target, o, j.add)
		pass(10 * time.Second)
		if n := len(be.dialTimes()); n != 10 {
			t.Errorf("%d probes of the good target in 10s, want 10", n)
		}
		before := time.Now()
		stopHanging()
		stop()
		if at := <-cut; !at.Equal(before) {
			t.Errorf("the hanging probe ended %s after stop", at.Sub(before))
		}
		synctest.Wait()
		j.want(t, "a probe that was stopped says nothing")
	})
}

// Stopping in the middle of an exchange cuts it short as well.
func TestWatchStopDuringExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := newBackend("silent")
		c := NewChecker(Dialer(be.dial), steady)
		j := &journal{begin: time.Now()}
		stop := c.Watch(target, &Options{Interval: time.Second, Timeout: time.Hour, Fall: 1}, j.add)
		pass(time.Second)
		stop()
		// The bubble ends only if the probe's goroutines do.
		synctest.Wait()
		j.want(t, "a probe that was stopped says nothing")
	})
}

// onChange may stop the watch that it is called for.
func TestWatchStopInCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := newBackend("refuse")
		stops := make(chan func(), 1)
		calls := 0
		stops <- NewChecker(Dialer(be.dial), steady).Watch(target, &Options{Interval: time.Second, Fall: 1, Rise: 1},
			func(Transition) {
				calls++
				(<-stops)()
			})
		pass(time.Minute)
		if calls != 1 || len(be.dialTimes()) != 1 {
			t.Errorf("%d calls, %d probes, want one of each", calls, len(be.dialTimes()))
		}
	})
}

// Real random numbers keep every distance within a tenth of the interval, and no
// two backends in step.
func TestWatchJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 10 * time.Second
		firsts := map[time.Duration]bool{}
		for range 20 {
			be := newBackend("ok")
			stop := NewChecker(Dialer(be.dial)).Watch(target, &Options{Interval: interval}, func(Transition) {})
			pass(2 * time.Minute)
			stop()
			times := be.dialTimes()
			if times[0] >= time.Second {
				t.Errorf("first probe after %s, want less than 1s", times[0])
			}
			firsts[times[0]] = true
			for i := 1; i < len(times); i++ {
				if d := times[i] - times[i-1]; d < interval*9/10 || d > interval*11/10 {
					t.Errorf("%s between two probes, want %s give or take a tenth", d, interval)
				}
			}
		}
		if len(firsts) < 2 {
			t.Error("all backends are probed in step")
		}
	})
}

func TestWatchBug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("options that were not validated: no panic")
		}
	}()
	NewChecker().Watch(target, &Options{Status: "x"}, func(Transition) {})
}

// The same over real sockets: a server that goes away and comes back.
func TestWatchRealSockets(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	be := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	silent := serveConns(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	changes := make(chan Transition, 16)
	c := NewChecker()
	o := &Options{Interval: 10 * time.Millisecond, Timeout: 5 * time.Second, Rise: 2, Fall: 2, Path: "/healthz"}
	stopSilent := c.Watch(silent, o, func(Transition) { t.Error("a hanging probe has no result yet") })
	stop := c.Watch(be, o, func(tr Transition) { changes <- tr })
	for _, want := range []Transition{{Up: false, Reason: "status 503", Result: Status}, {Up: true, Reason: "ok"}} {
		healthy.Store(want.Up)
		got := <-changes
		if got.Up != want.Up || got.Reason != want.Reason || got.Result != want.Result {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	stop()
	stopSilent()
}
