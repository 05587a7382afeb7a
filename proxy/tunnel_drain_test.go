//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/config"
	"tickgate/internal/admin"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// ending is how a tunnel ended for its client.
type ending struct {
	code ws.StatusCode // of the Close frame, 0 without
	at   time.Time
	err  error
}

// endPatience is for ends that come after other tunnels were opened, a grace and a window.
const endPatience = 2 * testkit.Patience

// watchEnd waits for the end of a client's tunnel, as it should come: a Close frame, which it
// answers, in frames mode, then the end of the stream.
func watchEnd(c *testkit.Client, frames bool) (e ending) {
	conn, in := c.Conn, c.Unread() // an end may come with the 101
	_ = conn.SetDeadline(time.Now().Add(endPatience))
	if frames {
		var b [4]byte
		if _, e.err = io.ReadFull(in, b[:]); e.err != nil {
			return e
		}
		e.at = time.Now()
		if b[0] != fin|closeOp || b[1] != 2 {
			e.err = fmt.Errorf("got %x, want a Close frame", b)
			return e
		}
		e.code = ws.StatusCode(b[2])<<8 | ws.StatusCode(b[3])
		if _, e.err = io.WriteString(conn, frame(fin|closeOp, string(b[2:]), true)); e.err != nil {
			return e
		}
	}
	rest, err := io.ReadAll(in)
	if e.at.IsZero() {
		e.at = time.Now()
	}
	if e.err = err; len(rest) > 0 {
		e.err = fmt.Errorf("got %q before the end", rest)
	}
	_ = conn.Close()
	return e
}

// endings watches the ends of clients' tunnels.
type endings struct {
	group sync.WaitGroup
	mu    sync.Mutex
	all   []ending
}

func (e *endings) watch(c *testkit.Client, frames bool) {
	e.group.Go(func() {
		got := watchEnd(c, frames)
		e.mu.Lock()
		e.all = append(e.all, got)
		e.mu.Unlock()
	})
}

// expect waits for all ends and compares their codes, 0 for opaque tunnels.
func (e *endings) expect(t testing.TB, what string, code ws.StatusCode) {
	t.Helper()
	e.group.Wait()
	for i, got := range e.all {
		if got.err != nil || got.code != code {
			t.Errorf("%s: tunnel %d of %d ended with code %d, %v, want %d", what, i, len(e.all), got.code, got.err, code)
		}
	}
}

// The time over which a drain spreads the ends, and the least that may be seen of it: the
// first may be seen late, when the machine is busy.
const (
	spreadWindow = 4 * time.Second
	leastSpan    = time.Second
)

// span is the time from the first end to the last.
func (e *endings) span() time.Duration {
	slices.SortFunc(e.all, func(a, b ending) int { return a.at.Compare(b.at) })
	return e.all[len(e.all)-1].at.Sub(e.all[0].at)
}

// answerCloses has backends of tunnels end as soon as they are told to.
func answerCloses(backend *testkit.Client) {
	_ = backend.Conn.SetReadDeadline(time.Now().Add(endPatience)) // instead of that of what it has read
	go func() {
		_, _ = backend.Conn.Read(make([]byte, 1))
		_ = backend.Conn.Close()
	}()
}

// phase is what the admin API says of the drain of the process.
func (g *testGateway) phase() drainStatus {
	return Admin{Gateway: g.Gateway}.DrainStatus().(drainStatus)
}

func (g *testGateway) waitPhase(phase string) {
	g.t.Helper()
	g.wait("phase "+phase, func() bool { return g.phase().Phase == phase })
}

func TestDrainTunnels(t *testing.T) {
	t.Parallel()
	const n = 24
	onWaysAtOnce(t, "", "drain: {grace: 3s, window: "+spreadWindow.String()+", timeout: 20s}", func(t *testing.T, w *way) {
		code, want := 1012, ws.StatusCode(0)
		if w.frames && w.secure {
			code = 4000
			w.change(func(cfg *config.Config) { cfg.Drain.CloseCode = code })
		}
		if w.frames {
			want = ws.StatusCode(code)
		}
		var ends endings
		for range n {
			client, backend := w.open()
			answerCloses(backend)
			ends.watch(client, w.frames)
		}
		other := w.dial()
		w.wait("accept", func() bool { return w.phase().Connections == n+1 })
		if st := w.phase(); st.Draining || st.Phase != "" || st.Tunnels != nil {
			t.Errorf("before: %+v", st)
		}
		// 1. In the grace everything goes on, but readiness fails and upgrades are refused.
		cut := w.drain()
		w.waitPhase(phaseGrace)
		resp := other.Do(upgrade())
		expectStatus(t, "upgrade", resp, 503, "reason: draining")
		if resp.Get("Retry-After") == "" {
			t.Error("the refused upgrade has no Retry-After")
		}
		if err := (Admin{Gateway: w.Gateway}).Ready(); err == nil {
			t.Error("still ready")
		}
		if st := w.phase(); st.Phase == phaseGrace && (!st.Draining || st.TimeLeft <= 0 || st.Connections < n || st.Tunnels != nil) {
			t.Errorf("in the grace: %+v", st)
		}
		// 2. The tunnels are closed.
		w.wait("beginning", func() bool { return w.phase().Tunnels != nil })
		if st := w.phase(); st.Tunnels.Total != n || st.Tunnels.Left > n || st.Phase != phaseClosing && st.Phase != phaseDone {
			t.Errorf("closing: %+v, %+v", st, st.Tunnels)
		}
		ends.expect(t, "drained", want)
		if c := <-cut; c != 0 {
			t.Errorf("%d connections were cut", c)
		}
		if d := ends.span(); d < leastSpan {
			t.Errorf("all tunnels were closed within %v, want them spread over %v", d, spreadWindow)
		}
		if st := w.phase(); st.Phase != phaseDone || st.Tunnels.Total != n || st.Tunnels.Left != 0 || st.Connections != 0 {
			t.Errorf("after: %+v, %+v", st, st.Tunnels)
		}
		w.waitTunnelEnd(reason.Draining, n)
		w.waitNoTunnels()
		w.waitNone()
		if !strings.Contains(w.logs.String(), `"tunnels":24`) {
			t.Error("the log does not say how many tunnels there were")
		}
	})
}

// TestDrainCutsTunnels has clients that do not react to the end of their tunnels.
func TestDrainCutsTunnels(t *testing.T) {
	t.Parallel()
	onWaysAtOnce(t, "", "drain: {window: 0s, timeout: 3s}", func(t *testing.T, w *way) {
		var ends endings
		for range 3 {
			client, backend := w.open()
			answerCloses(backend)
			ends.watch(client, w.frames)
		}
		deaf, _ := w.open()
		deaf2, _ := w.open()
		cut := w.drain()
		want := ws.StatusCode(0)
		if w.frames {
			want = 1012
		}
		ends.expect(t, "answering clients", want)
		if n := <-cut; n != 2 {
			t.Errorf("%d connections were cut, want 2", n)
		}
		for _, c := range []*testkit.Client{deaf, deaf2} {
			if w.frames {
				expectClose(t, "deaf client", c, 1012)
			}
			c.ExpectClosed()
		}
		w.waitNoTunnels()
		w.waitNone()
	})
}

// TestDrainLateTunnels has upgrades at their backend as the drain begins; they become tunnels
// in the grace and after it, and are closed as well.
func TestDrainLateTunnels(t *testing.T) {
	t.Parallel()
	onWays(t, "", "drain: {grace: 400ms, window: 300ms, timeout: 20s}", func(t *testing.T, w *way) {
		early, late := w.dial(), w.dial()
		early.Send(upgrade())
		backends := []*testkit.Client{w.be.asked()}
		late.Send(upgrade())
		backends = append(backends, w.be.asked())
		cut := w.drain()
		var ends endings
		join := func(client, backend *testkit.Client) {
			t.Helper()
			backend.Send(switching())
			expectStatus(t, "upgrade", client.Response("GET"), 101)
			answerCloses(backend)
			ends.watch(client, w.frames)
		}
		join(early, backends[0])
		w.wait("beginning", func() bool { return w.phase().Tunnels != nil })
		join(late, backends[1])
		want := ws.StatusCode(0)
		if w.frames {
			want = 1012
		}
		ends.expect(t, "late tunnels", want)
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		if st := w.phase(); st.Tunnels.Total != 2 || st.Tunnels.Left != 0 {
			t.Errorf("after: %+v", st.Tunnels)
		}
		w.waitTunnelEnd(reason.Draining, 2)
	})
}

// TestDrainRequestAndTunnels lets a request finish that takes longer than the tunnels.
func TestDrainRequestAndTunnels(t *testing.T) {
	t.Parallel()
	for _, mode := range tunnelModes {
		be := newTunnelBackend(t, nil)
		g := newGateway(t, toBackends("", "tunnel: {mode: "+mode+"}", be.addr())+"drain: {window: 50ms, timeout: 20s}")
		var ends endings
		client, backend := be.open(g.dial())
		answerCloses(backend)
		ends.watch(client, mode == "frames")
		c := g.dial()
		c.Send(get("/"))
		slow := be.asked()
		cut := g.drain()
		want := ws.StatusCode(0)
		if mode == "frames" {
			want = 1012
		}
		ends.expect(t, mode, want)
		g.waitNoTunnels()
		if st := g.phase(); st.Phase != phaseClosing || st.Connections != 1 {
			t.Errorf("%s: %+v, want the request to be waited for", mode, st)
		}
		slow.Send(string(testkit.OK("done")))
		expectStatus(t, mode, c.Response("GET"), 200, "done")
		c.Close()
		if n := <-cut; n != 0 {
			t.Errorf("%s: %d connections were cut", mode, n)
		}
	}
}

// TestDrainEndsWithContext cuts tunnels when the caller loses patience.
func TestDrainEndsWithContext(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames}", be.addr())+"drain: {grace: 1h, window: 1h, timeout: 1h}")
	client, backend := be.open(g.dial())
	ctx, cancel := context.WithCancel(context.Background())
	cut := make(chan int, 1)
	go func() { cut <- g.Drain(ctx) }()
	g.waitPhase(phaseGrace)
	cancel()
	if n := <-cut; n != 1 {
		t.Errorf("%d connections were cut, want 1", n)
	}
	client.Rest()
	backend.Rest()
	g.waitNoTunnels()
}

func TestStopWithTunnels(t *testing.T) {
	t.Parallel()
	onWays(t, "", "", func(t *testing.T, w *way) {
		client, backend := w.open()
		w.relayed(1)
		w.Stop()
		client.ExpectClosed()
		backend.ExpectClosed()
		w.waitTunnelEnd(reason.ShutDown, 1)
		w.waitNoTunnels()
		w.waitNone()
		w.Stop() // again
	})
}

// drainPair is a gateway with two backends, a and b, that have n tunnels each.
type drainPair struct {
	*testGateway
	frames   bool
	backends [2]*tunnelBackend
	clients  [2][]*testkit.Client
	ends     [2][]*testkit.Client // at the backends
}

const pairSize = 6

// onPairs runs f for both modes.
func onPairs(t *testing.T, f func(t *testing.T, p *drainPair)) {
	t.Helper()
	for _, mode := range tunnelModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := &drainPair{frames: mode == "frames", backends: [2]*tunnelBackend{newTunnelBackend(t, nil), newTunnelBackend(t, nil)}}
			p.testGateway = newGateway(t, p.config("", ""))
			for i := range 2 * pairSize {
				k := i % 2
				client := p.dial()
				client.Send(upgrade())
				backend := p.backends[k].asked() // round-robin
				backend.Send(switching())
				expectStatus(t, "upgrade", client.Response("GET"), 101)
				p.clients[k] = append(p.clients[k], client)
				p.ends[k] = append(p.ends[k], backend)
			}
			p.relayed(2 * pairSize)
			f(t, p)
		})
	}
}

// config has keys for server a, and for the upstream.
func (p *drainPair) config(a, upstream string) string {
	mode := "opaque"
	if p.frames {
		mode = "frames"
	}
	return fmt.Sprintf(`
upstreams: {be: {servers: [{address: %q%s}, {address: %q}]%s}}
routes: [{upstream: be, tunnel: {mode: %s}}]
drain: {window: 300ms}
`, p.backends[0].addr(), comma(a), p.backends[1].addr(), comma(upstream), mode)
}

// expectDrained waits for the ends of a's tunnels, after which those of b must live.
func (p *drainPair) expectDrained(what string) {
	p.t.Helper()
	var ends endings
	for i, c := range p.clients[0] {
		answerCloses(p.ends[0][i])
		ends.watch(c, p.frames)
	}
	want := ws.StatusCode(0)
	if p.frames {
		want = 1012
	}
	ends.expect(p.t, what, want)
	p.waitTunnelEnd(reason.Draining, pairSize)
	p.relayed(pairSize)
	p.expectAlive(what, 1)
}

// expectAlive talks through the tunnels of the k-th backend.
func (p *drainPair) expectAlive(what string, k int) {
	p.t.Helper()
	for i := range p.clients[k] {
		talk(p.t, what, p.clients[k][i], p.ends[k][i])
	}
}

// backendDrains is what the admin API says.
func (p *drainPair) backendDrains() []backendDrainStatus { return p.phase().Backends }

func (p *drainPair) drainA(drain bool, window time.Duration) {
	p.t.Helper()
	if err := (Admin{Gateway: p.Gateway}).Drain("be", p.backends[0].addr(), drain, window); err != nil {
		p.t.Fatalf("drain: %v", err)
	}
}

func TestDrainBackendByAdmin(t *testing.T) {
	t.Parallel()
	onPairs(t, func(t *testing.T, p *drainPair) {
		p.drainA(true, time.Second)
		st := p.backendDrains()
		if len(st) != 1 || st[0].Upstream != "be" || st[0].Backend != p.backends[0].addr() || st[0].Total != pairSize || st[0].Left > pairSize {
			t.Errorf("drains: %+v", st)
		}
		if p.draining.Load() {
			t.Error("the process drains")
		}
		p.expectDrained("admin API")
		if st := p.backendDrains(); len(st) != 1 || st[0].Left != 0 || st[0].Total != pairSize {
			t.Errorf("drains after: %+v", st)
		}
		// New tunnels go to the other.
		for range 3 {
			p.backends[1].open(p.dial())
		}
		for what, err := range map[string]error{
			"unknown upstream": (Admin{Gateway: p.Gateway}).Drain("nobody", p.backends[0].addr(), true, 0),
			"unknown server":   (Admin{Gateway: p.Gateway}).Drain("be", "127.0.0.1:1", true, 0),
		} {
			if !errors.Is(err, admin.ErrNotFound) {
				t.Errorf("%s: %v, want ErrNotFound", what, err)
			}
		}
	})
}

// TestDrainBackendSpread closes the tunnels of a backend over the window.
func TestDrainBackendSpread(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackends("", "tunnel: {mode: frames}", be.addr()))
	var ends endings
	for range 24 {
		client, backend := be.open(g.dial())
		answerCloses(backend)
		ends.watch(client, true)
	}
	if err := (Admin{Gateway: g.Gateway}).Drain("be", be.addr(), true, spreadWindow); err != nil {
		t.Fatal(err)
	}
	ends.expect(t, "drained", 1012)
	if d := ends.span(); d < leastSpan {
		t.Errorf("all tunnels were closed within %v, want them spread over %v", d, spreadWindow)
	}
}

// TestDrainBackendByReload drains by what a new configuration says.
func TestDrainBackendByReload(t *testing.T) {
	t.Parallel()
	f := func(what string, yaml func(p *drainPair) string) {
		t.Helper()
		onPairs(t, func(t *testing.T, p *drainPair) {
			p.reload(yaml(p))
			p.expectDrained(what)
		})
	}
	f("drain: true", func(p *drainPair) string { return p.config("drain: true", "") })
	f("server removed", func(p *drainPair) string {
		return strings.Replace(p.config("", ""), `{address: "`+p.backends[0].addr()+`"}, `, "", 1)
	})
	f("drained, and other settings", func(p *drainPair) string {
		return p.config("drain: true", "timeouts: {dial: 1s}, pool: {max_conns: 3}")
	})
}

func TestDrainRemovedUpstream(t *testing.T) {
	t.Parallel()
	onPairs(t, func(t *testing.T, p *drainPair) {
		p.reload("routes: [{static_response: {body: none}}]\ndrain: {window: 100ms}")
		var ends endings
		for k := range 2 {
			for i, c := range p.clients[k] {
				answerCloses(p.ends[k][i])
				ends.watch(c, p.frames)
			}
		}
		want := ws.StatusCode(0)
		if p.frames {
			want = 1012
		}
		ends.expect(t, "removed", want)
		p.waitTunnelEnd(reason.Draining, 2*pairSize)
		p.waitNoTunnels()
		// The next reload forgets the drains.
		p.reload("routes: [{static_response: {body: none}}]")
		if st := p.backendDrains(); len(st) != 0 {
			t.Errorf("drains: %+v, want none", st)
		}
	})
}

// TestDrainBackendTakenBack ends the drain before its tunnels were closed.
func TestDrainBackendTakenBack(t *testing.T) {
	t.Parallel()
	const never = 1000 * time.Hour
	f := func(what string, drain, undo func(p *drainPair)) {
		t.Helper()
		onPairs(t, func(t *testing.T, p *drainPair) {
			drain(p)
			if st := p.backendDrains(); len(st) != 1 || st[0].Total != pairSize || st[0].Left != pairSize {
				t.Errorf("%s: drains %+v", what, st)
			}
			if n := p.metric("tickgate_connections{", `state="relayed"`) + p.metric("tickgate_connections{", `state="draining"`); n != 2*pairSize {
				t.Errorf("%s: %v tunnels", what, n)
			}
			p.expectAlive(what+", drained", 0)
			undo(p)
			if st := p.backendDrains(); len(st) != 0 {
				t.Errorf("%s: drains %+v after it was taken back", what, st)
			}
			if list := p.api("connections"); strings.Contains(list, `"draining"`) {
				t.Errorf("%s: still draining: %s", what, list)
			}
			p.expectAlive(what+", taken back", 0)
			p.expectAlive(what+", taken back", 1)
			// It gets tunnels again, and they live too.
			before := p.backends[0].accepted
			for range 2 {
				client := p.dial()
				client.Send(upgrade())
				p.wait("upgrade at a backend", func() bool { return len(before)+len(p.backends[1].accepted) > 0 })
				k := 0
				if len(before) == 0 {
					k = 1
				}
				backend := p.backends[k].asked()
				backend.Send(switching())
				expectStatus(t, what, client.Response("GET"), 101)
				p.clients[k], p.ends[k] = append(p.clients[k], client), append(p.ends[k], backend)
			}
			if len(p.clients[0]) != pairSize+1 {
				t.Errorf("%s: %d tunnels to a, want %d", what, len(p.clients[0]), pairSize+1)
			}
			p.expectAlive(what+", afterwards", 0)
		})
	}
	long := func(p *drainPair, keys string) string {
		return strings.Replace(p.config(keys, ""), "window: 300ms", "window: 1000h", 1)
	}
	f("admin API", func(p *drainPair) { p.drainA(true, never) }, func(p *drainPair) { p.drainA(false, never) })
	f("configuration", func(p *drainPair) { p.reload(long(p, "drain: true")) }, func(p *drainPair) { p.reload(long(p, "")) })
	f("configuration, then admin API", func(p *drainPair) { p.reload(long(p, "drain: true")) }, func(p *drainPair) { p.drainA(false, 0) })
	f("removed, then back", func(p *drainPair) {
		p.reload(strings.Replace(long(p, ""), `{address: "`+p.backends[0].addr()+`"}, `, "", 1))
	}, func(p *drainPair) { p.reload(long(p, "")) })
	f("configured window", func(p *drainPair) {
		p.reload(long(p, ""))
		p.drainA(true, admin.ConfiguredWindow)
	}, func(p *drainPair) { p.drainA(false, admin.ConfiguredWindow) })
}

// TestChangedBackendKeepsTunnels reloads to other settings of the same servers.
func TestChangedBackendKeepsTunnels(t *testing.T) {
	t.Parallel()
	onPairs(t, func(t *testing.T, p *drainPair) {
		for _, keys := range []string{"timeouts: {dial: 1s}", "pool: {max_conns: 7}", "balance: least_conn", "tls: {insecure_skip_verify: true}", "host: other"} {
			p.reload(strings.Replace(p.config("weight: 3", keys), "window: 300ms", "window: 0s", 1))
			if st := p.backendDrains(); len(st) != 0 {
				t.Errorf("%s: drains %+v, want none", keys, st)
			}
			p.expectAlive(keys, 0)
			p.expectAlive(keys, 1)
		}
		p.relayed(2 * pairSize)
	})
}

// TestDrainBackendInFlight has an upgrade at the backend as that is drained.
func TestDrainBackendInFlight(t *testing.T) {
	t.Parallel()
	f := func(what, mode string, others int, drain func(g *testGateway, be *tunnelBackend)) {
		t.Helper()
		be := newTunnelBackend(t, nil)
		g := newGateway(t, toBackends("", "tunnel: {mode: "+mode+"}", be.addr())+"drain: {window: 100ms}")
		var ends endings
		for range others {
			client, backend := be.open(g.dial())
			answerCloses(backend)
			ends.watch(client, mode == "frames")
		}
		client := g.dial()
		client.Send(upgrade())
		backend := be.asked()
		drain(g, be)
		backend.Send(switching())
		expectStatus(t, what, client.Response("GET"), 101)
		answerCloses(backend)
		ends.watch(client, mode == "frames")
		want := ws.StatusCode(0)
		if mode == "frames" {
			want = 1012
		}
		ends.expect(t, what, want)
		g.waitTunnelEnd(reason.Draining, others+1)
	}
	for _, mode := range tunnelModes {
		for _, others := range []int{3, 0} {
			f("admin API", mode, others, func(g *testGateway, be *tunnelBackend) {
				if err := (Admin{Gateway: g.Gateway}).Drain("be", be.addr(), true, 100*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			})
			f("removed", mode, others, func(g *testGateway, _ *tunnelBackend) {
				g.reload("routes: [{static_response: {body: none}}]\ndrain: {window: 100ms}")
			})
		}
	}
}

// TestDrainChangedBackend drains a server some of whose tunnels are older than its settings:
// they are one drain, and one with another window takes its place.
func TestDrainChangedBackend(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	g := newGateway(t, toBackend(be.addr()))
	var ends endings
	open := func() {
		t.Helper()
		client, backend := be.open(g.dial())
		answerCloses(backend)
		ends.watch(client, false)
	}
	for _, pool := range []string{"pool: {max_conns: 7}", "pool: {max_conns: 8}"} {
		open()
		g.reload(toBackends(pool, "", be.addr()))
	}
	open()
	g.relayed(3)
	drain := func(window time.Duration) {
		t.Helper()
		if err := (Admin{Gateway: g.Gateway}).Drain("be", be.addr(), true, window); err != nil {
			t.Fatal(err)
		}
		if st := g.phase().Backends; len(st) != 1 || st[0].Total != 3 {
			t.Errorf("drains: %+v, want one of 3 tunnels", st)
		}
	}
	drain(1000 * time.Hour)
	if st := g.phase().Backends; st[0].Left != 3 {
		t.Errorf("%d tunnels are left, want 3", st[0].Left)
	}
	drain(100 * time.Millisecond)
	ends.expect(t, "shorter window", 0)
	g.waitTunnelEnd(reason.Draining, 3)
}
