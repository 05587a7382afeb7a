package meter

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/reason"
)

func TestTunnelSeriesAreThereFromTheStart(t *testing.T) {
	m := New("test")
	got := page(t, m)
	for _, r := range reason.All() {
		wantLine(t, got, fmt.Sprintf(`tickgate_tunnel_ends_total{reason="%s"} 0`, r))
	}
	for _, line := range []string{
		"tickgate_tunnel_queued_bytes 0", `tickgate_tunnels_paused{cause="queue"} 0`, `tickgate_tunnels_paused{cause="rate"} 0`,
		"tickgate_tunnel_pauses_total 0", "tickgate_tunnel_pings_total 0", "tickgate_tunnel_pongs_total 0",
	} {
		wantLine(t, got, line)
	}
	m.Tunnel("feed")
	got = page(t, m)
	for _, line := range []string{
		`tickgate_tunnels{route="feed",mode="opaque"} 0`,
		`tickgate_tunnels{route="feed",mode="frames"} 0`,
		`tickgate_tunnels_opened_total{route="feed",mode="opaque"} 0`,
		`tickgate_tunnels_opened_total{route="feed",mode="frames"} 0`,
		`tickgate_tunnels_refused_total{route="feed",limit="tunnels.max"} 0`,
		`tickgate_tunnels_refused_total{route="feed",limit="tunnels.max_per_client"} 0`,
		`tickgate_tunnels_refused_total{route="feed",limit="tunnel.max"} 0`,
		`tickgate_tunnels_refused_total{route="feed",limit="tunnel.max_per_client"} 0`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="feed",le="1"} 0`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="feed",le="604800"} 0`,
		`tickgate_tunnel_lifetime_seconds_count{route="feed"} 0`,
		`tickgate_tunnel_bytes_total{route="feed",direction="to_client"} 0`,
		`tickgate_tunnel_bytes_total{route="feed",direction="to_backend"} 0`,
	} {
		wantLine(t, got, line)
	}
	for _, direction := range []string{"to_client", "to_backend"} {
		for _, kind := range []string{"text", "binary", "control"} {
			wantLine(t, got, fmt.Sprintf(`tickgate_tunnel_messages_total{route="feed",direction="%s",kind="%s"} 0`, direction, kind))
		}
	}
	wantNo(t, got, "unknown")
	wantNo(t, got, "tickgate_tunnels_closed_total{")
}

func TestTunnelCounts(t *testing.T) {
	m := New("test")
	feed, other := m.Tunnel("feed"), m.Tunnel("other")
	feed.Opened(OpaqueTunnel)
	feed.Opened(FramesTunnel)
	feed.Opened(FramesTunnel)
	feed.Refused(TunnelMax)
	feed.Ended(90*time.Second, reason.PingTimeout, Flows{ToClient: Flow{Bytes: 1000, Text: 1, Binary: 2, Control: 3}, ToBackend: Flow{Bytes: 50, Text: 4, Binary: 5, Control: 6}})
	feed.Ended(time.Second, reason.PingTimeout, Flows{})
	other.Opened(OpaqueTunnel)
	other.Ended(30*24*time.Hour, reason.Draining, Flows{ToBackend: Flow{Bytes: 7}})
	got := page(t, m)
	for _, line := range []string{
		`tickgate_tunnels_opened_total{route="feed",mode="opaque"} 1`,
		`tickgate_tunnels_opened_total{route="feed",mode="frames"} 2`,
		`tickgate_tunnels_refused_total{route="feed",limit="tunnel.max"} 1`,
		`tickgate_tunnels_closed_total{route="feed",reason="ping_timeout"} 2`,
		`tickgate_tunnels_closed_total{route="other",reason="draining"} 1`,
		`tickgate_tunnel_ends_total{reason="ping_timeout"} 2`,
		`tickgate_tunnel_ends_total{reason="draining"} 1`,
		`tickgate_tunnel_bytes_total{route="feed",direction="to_client"} 1000`,
		`tickgate_tunnel_bytes_total{route="feed",direction="to_backend"} 50`,
		`tickgate_tunnel_bytes_total{route="other",direction="to_backend"} 7`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_client",kind="text"} 1`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_client",kind="binary"} 2`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_client",kind="control"} 3`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_backend",kind="text"} 4`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_backend",kind="binary"} 5`,
		`tickgate_tunnel_messages_total{route="feed",direction="to_backend",kind="control"} 6`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="feed",le="1"} 1`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="feed",le="60"} 1`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="feed",le="300"} 2`,
		`tickgate_tunnel_lifetime_seconds_sum{route="feed"} 91`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="other",le="604800"} 0`,
		`tickgate_tunnel_lifetime_seconds_bucket{route="other",le="+Inf"} 1`,
	} {
		wantLine(t, got, line)
	}
	wantNo(t, got, `tickgate_tunnels_closed_total{route="other",reason="ping_timeout"}`)
}

func TestTunnelLivesAcrossReloads(t *testing.T) {
	m := New("test")
	const line = `tickgate_tunnels_opened_total{route="feed",mode="opaque"} `
	// 1. A tunnel is opened under one snapshot, another under the next.
	first := m.Tunnel("feed")
	first.Opened(OpaqueTunnel)
	second := m.Tunnel("feed")
	first.Retire()
	second.Opened(OpaqueTunnel)
	wantLine(t, page(t, m), line+"2")
	// 2. A reload removes the route: the series stay with its tunnels.
	second.Retire()
	first.Ended(time.Second, reason.ClosedByClient, Flows{})
	wantLine(t, page(t, m), line+"2")
	// 3. A reload brings it back: the counters go on.
	third := m.Tunnel("feed")
	third.Retire()
	wantLine(t, page(t, m), line+"2")
	// 4. With the last tunnel the series go.
	first.Ended(time.Second, reason.ClosedByClient, Flows{})
	got := page(t, m)
	wantNo(t, got, `route="feed"`)
	wantLine(t, got, `tickgate_tunnel_ends_total{reason="closed_by_client"} 2`)
	// 5. A route of that name starts at 0.
	m.Tunnel("feed")
	wantLine(t, page(t, m), line+"0")
}

// fakeRelay is a relay whose open tunnels are set by the test.
type fakeRelay struct {
	open   map[string]openTunnels
	during func() // called after the open tunnels were told
}

func (r *fakeRelay) tell(emit func(route string, mode TunnelMode, open int, flows Flows)) {
	for route, o := range r.open {
		emit(route, OpaqueTunnel, o.open[OpaqueTunnel], Flows{})
		emit(route, FramesTunnel, o.open[FramesTunnel], o.flows) // in two parts
	}
	if r.during != nil {
		r.during()
	}
}

func TestFlowsOfOpenTunnels(t *testing.T) {
	m := New("test")
	relay := &fakeRelay{open: map[string]openTunnels{}}
	m.Watch(Source{OpenTunnels: relay.tell})
	feed := m.Tunnel("feed")
	bytesAre := func(want string) {
		t.Helper()
		wantLine(t, page(t, m), `tickgate_tunnel_bytes_total{route="feed",direction="to_client"} `+want)
	}
	// 1. The counters move while tunnels are open.
	feed.Opened(FramesTunnel)
	feed.Opened(FramesTunnel)
	relay.open["feed"] = openTunnels{open: [numTunnelModes]int{0, 2}, flows: Flows{ToClient: Flow{Bytes: 70, Text: 3}}}
	bytesAre("70")
	got := page(t, m)
	wantLine(t, got, `tickgate_tunnels{route="feed",mode="opaque"} 0`)
	wantLine(t, got, `tickgate_tunnels{route="feed",mode="frames"} 2`)
	wantLine(t, got, `tickgate_tunnel_messages_total{route="feed",direction="to_client",kind="text"} 3`)
	relay.open["feed"] = openTunnels{open: [numTunnelModes]int{0, 2}, flows: Flows{ToClient: Flow{Bytes: 100}}}
	bytesAre("100")
	// 2. One ends: what it moved goes over to the ended ones, and nothing counts twice.
	feed.Ended(time.Second, reason.ClosedByClient, Flows{ToClient: Flow{Bytes: 60}})
	relay.open["feed"] = openTunnels{open: [numTunnelModes]int{0, 1}, flows: Flows{ToClient: Flow{Bytes: 40}}}
	bytesAre("100")
	// 3. The other ends between the two looks: the counter stays, and does not fall.
	relay.open = nil
	relay.during = func() {
		feed.Ended(time.Second, reason.ClosedByClient, Flows{ToClient: Flow{Bytes: 45}})
		relay.during = nil
	}
	bytesAre("100")
	// 4. Nothing is lost.
	bytesAre("105")
	// 5. A tunnel of a route that is not known here is shown.
	relay.open = map[string]openTunnels{"gone": {open: [numTunnelModes]int{1, 0}}}
	wantLine(t, page(t, m), `tickgate_tunnels{route="gone",mode="opaque"} 1`)
}

func TestFiguresOfOthers(t *testing.T) {
	m := New("test")
	m.Watch(sampleSource())
	got := page(t, m)
	for _, line := range []string{
		"tickgate_tunnel_queued_bytes 4096",
		`tickgate_tunnels_paused{cause="queue"} 3`,
		`tickgate_tunnels_paused{cause="rate"} 4`,
		"tickgate_tunnel_pauses_total 15",
		"tickgate_tunnel_pings_total 17",
		"tickgate_tunnel_pongs_total 16",
		`tickgate_loop_wakes_total{loop="0"} 1`,
		`tickgate_loop_events_total{loop="0"} 2`,
		`tickgate_loop_posts_total{loop="0"} 3`,
		`tickgate_loop_agains_total{loop="0"} 4`,
		`tickgate_loop_panics_total{loop="0"} 5`,
		`tickgate_loop_lag_max_seconds{loop="0"} 0.25`,
		`tickgate_loop_lag_seconds_bucket{loop="0",le="0.0001"} 5`,
		`tickgate_loop_lag_seconds_bucket{loop="0",le="0.001"} 11`,
		`tickgate_loop_lag_seconds_bucket{loop="0",le="+Inf"} 18`,
		`tickgate_loop_lag_seconds_sum{loop="0"} 2.5`,
		`tickgate_loop_lag_seconds_count{loop="0"} 18`,
		`tickgate_loop_wakes_total{loop="1"} 9`,
	} {
		wantLine(t, got, line)
	}
}

// sampleSource has a figure of each kind.
func sampleSource() Source {
	return Source{
		Relay: func() RelayFigures {
			return RelayFigures{Queued: 4096, Paused: 3, Delayed: 4, Pauses: 15, Pings: 17, Pongs: 16}
		},
		Loops: func() []LoopFigures {
			lag := Buckets{Bounds: []time.Duration{100 * time.Microsecond, time.Millisecond}, Counts: []uint64{5, 6, 7}, Sum: 2500 * time.Millisecond}
			return []LoopFigures{{Wakes: 1, Events: 2, Posts: 3, Agains: 4, Panics: 5, Lag: lag, MaxLag: 250 * time.Millisecond}, {Wakes: 9}}
		},
	}
}

func TestHistogram(t *testing.T) {
	h := NewHistogram(time.Second, time.Minute)
	for _, d := range []time.Duration{-1, 0, time.Second, time.Second + 1, time.Minute, time.Hour} {
		h.Add(d)
	}
	f := func(labels string, b Buckets, want string) {
		t.Helper()
		var out bytes.Buffer
		WriteHistogram(&out, "x", labels, b)
		if out.String() != want {
			t.Errorf("labels %q: got\n%s\nwant\n%s", labels, out.String(), want)
		}
	}
	f("", h.Buckets(), "x_bucket{le=\"1\"} 3\nx_bucket{le=\"60\"} 5\nx_bucket{le=\"+Inf\"} 6\nx_sum 3662.000000001\nx_count 6\n")
	f(`a="1"`, Buckets{Bounds: []time.Duration{time.Millisecond}, Counts: []uint64{2, 1}, Sum: 4 * time.Second},
		"x_bucket{a=\"1\",le=\"0.001\"} 2\nx_bucket{a=\"1\",le=\"+Inf\"} 3\nx_sum{a=\"1\"} 4\nx_count{a=\"1\"} 3\n")
	f("", Buckets{Bounds: []time.Duration{time.Second}}, "x_bucket{le=\"1\"} 0\nx_bucket{le=\"+Inf\"} 0\nx_sum 0\nx_count 0\n")
	f("", Buckets{}, "x_bucket{le=\"+Inf\"} 0\nx_sum 0\nx_count 0\n")
}

func TestTunnelsByManyGoroutines(t *testing.T) {
	m := New("test")
	relay := &fakeRelay{}
	m.Watch(Source{OpenTunnels: relay.tell})
	tn := m.Tunnel("feed")
	const goroutines, each = 8, 2000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range each {
				tn.Opened(FramesTunnel)
				tn.Ended(time.Duration(i)*time.Second, reason.ClosedByClient, Flows{ToClient: Flow{Bytes: 2}})
			}
		})
	}
	for range 4 { // scrapes in between
		wg.Go(func() { _ = m.WritePrometheus(io.Discard) })
	}
	wg.Wait()
	got := page(t, m)
	wantLine(t, got, fmt.Sprintf(`tickgate_tunnels_closed_total{route="feed",reason="closed_by_client"} %d`, goroutines*each))
	wantLine(t, got, fmt.Sprintf(`tickgate_tunnel_bytes_total{route="feed",direction="to_client"} %d`, 2*goroutines*each))
	wantLine(t, got, fmt.Sprintf(`tickgate_tunnel_lifetime_seconds_count{route="feed"} %d`, goroutines*each))
}

func TestTunnelsDoNotAllocate(t *testing.T) {
	tn := New("test").Tunnel("feed")
	allocs := testing.AllocsPerRun(1000, func() {
		tn.Opened(OpaqueTunnel)
		tn.Refused(TunnelsMax)
		tn.Ended(time.Hour, reason.ResetByClient, Flows{ToBackend: Flow{Bytes: 1}})
	})
	if allocs != 0 && !raceOn {
		t.Errorf("%v allocations a tunnel, want none", allocs)
	}
}

func TestRetiredTooOften(t *testing.T) {
	tn := New("test").Tunnel("feed")
	tn.Retire()
	defer func() {
		if text, _ := recover().(string); !strings.HasPrefix(text, "BUG: ") {
			t.Errorf("got %q, want a panic that begins with BUG:", text)
		}
	}()
	tn.Retire()
}
