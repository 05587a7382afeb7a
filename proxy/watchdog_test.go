//go:build linux

package proxy

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/config"
	"tickgate/internal/errlog"
	"tickgate/internal/testkit"
	"tickgate/internal/watchdog"
)

// newProcess is newGateway for one that watches its process. Tests with it are not
// parallel, since they watch each other otherwise.
func newProcess(t *testing.T, yaml string) *testGateway {
	t.Helper()
	g := &testGateway{t: t, logs: &logBuffer{}}
	log, err := errlog.New(g.logs, config.ErrorLog{Format: "json", Level: "debug", Throttle: 1000})
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	cfg := parseConfig(t, yaml)
	if g.Gateway, err = New(cfg, Options{Log: log, Version: "test", Process: true}); err != nil {
		t.Fatalf("start gateway: %v", err)
	}
	g.addr = g.listener(cfg.Listeners[0].Listen)
	t.Cleanup(g.cleanup)
	return g
}

const watchful = "watchdog: {interval: 20ms, looks: 4, min_growth: 20}\n"

// patient looks are for tests that plant a leak: a leak that does not grow for the time of
// four looks has ended, and a busy machine may not let the test plant for a part of that.
const patient = "watchdog: {interval: 500ms, looks: 4, min_growth: 20}\n"

// leaks returns the lines of the log about leaks.
func (g *testGateway) leaks() (lines []string) {
	for line := range strings.Lines(g.logs.String()) {
		if strings.Contains(line, "leak suspected") {
			lines = append(lines, line)
		}
	}
	return lines
}

func (g *testGateway) suspected(kind string) int {
	g.t.Helper()
	return int(g.metric("tickgate_leak_suspected{", `kind="`+kind+`"`))
}

// growth is that of the leaks of a kind that the watchdog suspects now.
func (g *testGateway) growth(kind string) (n int) {
	for _, l := range g.watchdog.Leaks() {
		if l.Kind == kind {
			n += l.Growth
		}
	}
	return n
}

// expectLeak plants a little more again and again until the leak is noticed, and beyond: it
// is logged once, and the gauge stays up. Each time is enough for a leak, since there may be
// few of them between two looks.
func (g *testGateway) expectLeak(kind string, plant func(), words ...string) {
	g.t.Helper()
	if g.suspected(kind) != 0 {
		g.t.Fatalf("%s: a leak is suspected before there is one", kind)
	}
	pace := time.NewTicker(100 * time.Millisecond) // descriptors are limited
	defer pace.Stop()
	more := func() {
		<-pace.C
		for range 20 {
			plant()
		}
	}
	g.wait("report of a leak", func() bool {
		more()
		return len(g.leaks()) > 0
	})
	for line, want := g.leaks()[0], append(words, `"kind":"`+kind+`"`, `"level":"warn"`); len(want) > 0; want = want[1:] {
		if !strings.Contains(line, want[0]) {
			g.t.Errorf("%s: no %s in %s", kind, want[0], line)
		}
	}
	looks, last := 0, g.growth(kind)
	g.wait("more looks", func() bool {
		more()
		if n := g.growth(kind); n != last {
			looks, last = looks+1, n
		}
		return looks >= 3
	})
	if n := len(g.leaks()); n != 1 {
		g.t.Errorf("%s: logged %d times:\n%s", kind, n, strings.Join(g.leaks(), ""))
	}
	if g.suspected(kind) != 1 {
		g.t.Errorf("%s: the gauge is %d, want 1", kind, g.suspected(kind))
	}
}

// TestPlantedDescriptors leaks descriptors that are counted as clients.
func TestPlantedDescriptors(t *testing.T) {
	g := newProcess(t, static(soon+patient))
	g.dial().Do(get("/"))
	g.waitParked(1)
	var leaked []int
	g.expectLeak(watchdog.Descriptors, func() {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		leaked = append(leaked, fd)
		g.Gateway.meter.FDs.Client.Add(1)
	}, `"which":"client"`, "connection 1 from 127.0.0.1:", "parked")
	if g.suspected(watchdog.Goroutines) != 0 {
		t.Error("goroutines are suspected too")
	}
	for _, fd := range leaked {
		_ = unix.Close(fd)
		g.Gateway.meter.FDs.Client.Add(-1)
	}
	g.wait("end of the suspicion", func() bool { return g.suspected(watchdog.Descriptors) == 0 })
	if !strings.Contains(g.logs.String(), "suspected leak has ended") {
		t.Error("the end of the leak is not logged")
	}
}

// leakHere is what the watchdog must name.
func leakHere(end <-chan struct{}) { <-end }

func TestPlantedGoroutines(t *testing.T) {
	g := newProcess(t, static(soon+patient))
	end := make(chan struct{})
	g.expectLeak(watchdog.Goroutines, func() { go leakHere(end) }, "leakHere")
	if g.suspected(watchdog.Descriptors) != 0 {
		t.Error("descriptors are suspected too")
	}
	close(end)
	g.wait("end of the suspicion", func() bool { return g.suspected(watchdog.Goroutines) == 0 })
}

// TestTrafficIsNoLeak opens connections one after the other, as a leak would, which stay idle,
// hot or in the middle of a head: somebody can close each of them.
func TestTrafficIsNoLeak(t *testing.T) {
	be := testkit.NewRecorder(t, nil)
	g := newProcess(t, toBackend(be.Addr())+"workers: {park_after: 1h}\n"+watchful)
	var open []*testkit.Client
	start := time.Now()
	g.wait("many looks", func() bool {
		c := g.dial()
		g.Gateway.meter.FDs.Listener.Add(1) // the other end, which is this test's and no leak
		switch len(open) % 4 {
		case 0:
			c.Do(get("/"))
		case 1:
			c.Do(get("/"))
			c.Do(get("/"))
		case 2:
			c.Send("GET / HTTP/1.1\r\n")
		}
		open = append(open, c)
		return len(open) > 300 && time.Since(start) > 40*20*time.Millisecond
	})
	if lines := g.leaks(); len(lines) > 0 {
		t.Errorf("ordinary traffic is called a leak:\n%s", strings.Join(lines, ""))
	}
	if g.suspected(watchdog.Descriptors)+g.suspected(watchdog.Goroutines) != 0 {
		t.Error("ordinary traffic raises the gauge")
	}
}
