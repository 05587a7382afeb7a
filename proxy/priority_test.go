//go:build linux

package proxy

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// gatedBackend answers at once, but for paths with "slow" in them only when it is released.
type gatedBackend struct {
	*testkit.Recorder
	release func()
}

func newGated(t *testing.T) *gatedBackend {
	open := make(chan struct{})
	be := &gatedBackend{release: sync.OnceFunc(func() { close(open) })}
	be.Recorder = testkit.NewRecorder(t, func(r *testkit.Request) []byte {
		if strings.Contains(r.Target, "slow") {
			<-open
		}
		return testkit.OK(r.Target)
	})
	t.Cleanup(be.release)
	return be
}

// running is the requests served at this moment.
func (g *testGateway) running() int { return g.gate.Stats().InUse }

// waiting is the requests that wait for their turn.
func (g *testGateway) waiting() int { return g.gate.Stats().Waiting }

// expectOverloaded demands a 503 that tells when to come again.
func expectOverloaded(t *testing.T, what string, resp *testkit.Response) {
	t.Helper()
	expectStatus(t, what, resp, 503, "reason: overloaded")
	if n, err := strconv.Atoi(resp.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("%s: Retry-After %q", what, resp.Get("Retry-After"))
	}
}

// send has a connection of its own send a request, and returns it.
func (g *testGateway) send(path string) *testkit.Client {
	g.t.Helper()
	c := g.dial()
	c.Send(get(path))
	return c
}

func TestQueueTimeout(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, toBackend(be.Addr())+"workers: {max: 2, queue: 8, queue_timeout: 100ms}\n")
	busy := []*testkit.Client{g.send("/slow/1"), g.send("/slow/2")}
	g.wait("two requests", func() bool { return g.running() == 2 })
	start := time.Now()
	c := g.send("/late")
	expectOverloaded(t, "late", c.Response("GET"))
	if d := time.Since(start); d < 100*time.Millisecond {
		t.Errorf("refused after %v, want 100ms", d)
	}
	be.release()
	for _, b := range busy {
		expectStatus(t, "busy", b.Response("GET"), 200)
	}
	g.wait("free workers", func() bool { return g.running() == 0 }) // an answer is there before its worker is free
	expectStatus(t, "same connection", c.Do(get("/again")), 200, "/again")
	g.waitEnd(reason.Overloaded, 1)
	if n := len(be.Requests()); n != 3 {
		t.Errorf("the backend saw %d requests, want 3", n)
	}
}

// TestQueueFull refuses what does not fit the queue without a wait: the timeout is an hour.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, toBackend(be.Addr())+"workers: {max: 1, queue: 4, queue_timeout: 1h}\n")
	var ok []*testkit.Client
	for i := range 4 { // one is served, and three quarters of the queue are for normal requests
		ok = append(ok, g.send("/slow/"+strconv.Itoa(i)))
		g.wait("request", func() bool { return g.running()+g.waiting() == i+1 })
	}
	for i := range 3 {
		expectOverloaded(t, fmt.Sprintf("%d too many", i+1), g.send("/slow/x").Response("GET"))
	}
	be.release()
	for i, c := range ok {
		expectStatus(t, "in time", c.Response("GET"), 200, "/slow/"+strconv.Itoa(i))
	}
}

// byClass is a configuration with a route for each class.
func byClass(addr, workers string) string {
	return `
upstreams: {be: {servers: [{address: "` + addr + `"}]}}
routes:
  - {path: /critical, upstream: be, priority: critical}
  - {path: /bulk, upstream: be, priority: bulk}
  - {path: /, upstream: be}
workers: {` + workers + `}
`
}

// TestCriticalReserve fills all that bulk requests can have: a critical one passes them.
func TestCriticalReserve(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, byClass(be.Addr(), "max: 4, reserved_percent: 25, queue: 8, queue_timeout: 1h"))
	var bulk []*testkit.Client
	for i := range 3 + 4 { // half of the queue is for bulk requests
		bulk = append(bulk, g.send("/bulk/slow"))
		g.wait("bulk request", func() bool { return g.running()+g.waiting() == i+1 })
	}
	if g.running() != 3 || g.waiting() != 4 {
		t.Fatalf("%d served and %d waiting, want 3 and 4", g.running(), g.waiting())
	}
	expectOverloaded(t, "bulk", g.send("/bulk/slow").Response("GET"))
	for range 10 {
		expectStatus(t, "critical", g.get("/critical"), 200, "/critical")
	}
	// The reserve is one worker: the next critical requests wait, but before all others.
	held := g.send("/critical/slow")
	g.wait("critical request", func() bool { return g.running() == 4 })
	next := g.send("/critical/next")
	g.wait("wait of a critical request", func() bool { return g.waiting() == 5 })
	be.Forget()
	be.release()
	expectStatus(t, "held", held.Response("GET"), 200)
	expectStatus(t, "next", next.Response("GET"), 200, "/critical/next")
	for _, c := range bulk {
		expectStatus(t, "bulk", c.Response("GET"), 200)
	}
}

// TestNoReserveWithoutCritical leaves no worker idle for a class that no route has.
func TestNoReserveWithoutCritical(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, toBackend(be.Addr())+"workers: {max: 4, reserved_percent: 50}\n")
	for range 4 {
		g.send("/slow")
	}
	g.wait("four requests at once", func() bool { return g.running() == 4 })
	be.WaitRequests(t, 4)
	be.release()
}

// TestIdleGiveUpWorkers has more connections idle, with requests that follow each other, than
// there are workers: they give them up, although park_after is long, and nobody starves.
func TestIdleGiveUpWorkers(t *testing.T) {
	t.Parallel()
	onEach(t, static("workers: {max: 1, queue: 1, queue_timeout: 1h, park_after: 1h}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		limit := crewSize(g.CurrentConfig())
		var clients []*testkit.Client
		for range 2*limit + 10 {
			c := dial()
			for range 3 {
				expectStatus(t, "request", c.Do(get("/")), 200)
			}
			clients = append(clients, c)
		}
		for i, c := range clients {
			expectStatus(t, fmt.Sprintf("client %d again", i), c.Do(get("/again")), 200, "/again")
		}
		if n, _ := g.workers.size(); n > limit {
			t.Errorf("%d workers, want at most %d", n, limit)
		}
		// With the queue empty, idle connections keep their workers again.
		g.wait("calm", func() bool { return g.workers.waiting.Load() == 0 })
		last := clients[len(clients)-1]
		for range 3 {
			last.Do(get("/"))
		}
		if g.state(meter.Idle) == 0 {
			t.Error("no connection keeps a worker, though none is needed")
		}
	})
}

// TestCrowd has many connections ask at once, again and again, on very few workers: each
// request gets one answer, its own or a 503.
func TestCrowd(t *testing.T) {
	t.Parallel()
	onEach(t, static("workers: {max: 2, queue: 4, queue_timeout: 1h, park_after: 1h}\n"), func(t *testing.T, g *testGateway, dial func() *testkit.Client) {
		const clients, each = 150, 10
		var crowd sync.WaitGroup
		for k := range clients {
			c := dial()
			crowd.Go(func() {
				for i := range each {
					path := fmt.Sprintf("/%d/%d", k, i)
					_ = c.TrySend(get(path)) // if it fails, no answer comes
					resp, err := c.TryResponse("GET")
					if err != nil || resp.Status != 503 && (resp.Status != 200 || string(resp.Body) != path) {
						t.Errorf("%s: %d %q, %v", path, resp.Status, resp.Body, err)
						return
					}
				}
			})
		}
		crowd.Wait()
		if n := g.requests(reason.LocalResponse) + g.requests(reason.Overloaded); n != clients*each && !t.Failed() {
			t.Errorf("%d requests counted, want %d", n, clients*each)
		}
		if n, _ := g.workers.size(); n > crewSize(g.CurrentConfig()) {
			t.Errorf("%d workers, want at most %d", n, crewSize(g.CurrentConfig()))
		}
	})
}

// occupy leaves the gateway one worker, which waits for the backend until it is released.
func (g *testGateway) occupy() {
	g.t.Helper()
	g.workers.setLimit(1)
	g.send("/slow/busy")
	g.wait("busy worker", func() bool { n, idle := g.workers.size(); return n == 1 && idle == 0 && g.running() == 1 })
}

// TestWaitForWorkerCounts refuses requests that no worker could read within queue_timeout. A
// critical one is served: nobody could know what it was.
func TestWaitForWorkerCounts(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	be := newGated(t)
	g := newGateway(t, byClass(be.Addr(), "max: 1, queue: 1, queue_timeout: "+timeout.String()))
	g.occupy()
	bulk, normal, critical := g.send("/bulk"), g.send("/normal"), g.send("/critical")
	g.wait("queue for a worker", func() bool { return g.workers.waiting.Load() == 3 })
	since := g.now()
	g.wait("end of queue_timeout", func() bool { return g.now()-since > timeout })
	be.release()
	expectOverloaded(t, "bulk", bulk.Response("GET"))
	expectOverloaded(t, "normal", normal.Response("GET"))
	expectStatus(t, "critical", critical.Response("GET"), 200, "/critical")
	// What it waited is not held against the next request, which has a worker at once.
	g.wait("idle worker", func() bool { _, idle := g.workers.size(); return idle == 1 && g.running() == 0 })
	expectStatus(t, "next", normal.Do(get("/next")), 200, "/next")
	if n := g.late.Load(); n != 2 {
		t.Errorf("%d late requests counted, want 2", n)
	}
}

// TestStopWithQueue ends connections that wait for a worker.
func TestStopWithQueue(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, byClass(be.Addr(), "max: 1, queue: 1, queue_timeout: 1h"))
	g.occupy()
	waiting := []*testkit.Client{g.send("/one"), g.send("/two"), g.dial()}
	waiting[2].Send("GET /th")
	g.wait("queue for a worker", func() bool { return g.workers.waiting.Load() == 3 })
	g.Stop()
	for _, c := range waiting {
		c.ExpectClosed()
	}
	g.waitNone()
	if n := len(be.Requests()); n != 1 {
		t.Errorf("%d requests reached the backend, want the one before Stop", n)
	}
}

// TestReloadedLimits gives waiting connections the workers that a reload allows.
func TestReloadedLimits(t *testing.T) {
	t.Parallel()
	be := newGated(t)
	g := newGateway(t, byClass(be.Addr(), "max: 1, queue: 1, queue_timeout: 1h"))
	g.occupy()
	c := g.send("/normal")
	g.wait("queue for a worker", func() bool { return g.workers.waiting.Load() == 1 })
	g.reload(byClass(be.Addr(), "max: 10, queue: 10, queue_timeout: 1h"))
	expectStatus(t, "beside the busy worker", c.Response("GET"), 200, "/normal")
}
