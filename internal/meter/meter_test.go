package meter

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/internal/reason"
)

// page returns the whole metrics page.
func page(t *testing.T, m *Meter) string {
	t.Helper()
	var buf bytes.Buffer
	if err := m.WritePrometheus(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// wantLine checks that a page holds a line.
func wantLine(t *testing.T, page, line string) {
	t.Helper()
	if !strings.Contains("\n"+page, "\n"+line+"\n") {
		t.Errorf("no line %q", line)
	}
}

// wantNo checks that a page does not hold a text.
func wantNo(t *testing.T, page, text string) {
	t.Helper()
	if i := strings.Index(page, text); i >= 0 {
		line, _, _ := strings.Cut(page[i:], "\n")
		t.Errorf("unwanted line %q", line)
	}
}

func TestSeriesAreThereFromTheStart(t *testing.T) {
	m := New("1.2.3")
	m.Route("api")
	m.Listener(":80")
	got := page(t, m)
	for _, class := range []string{"1xx", "2xx", "3xx", "4xx", "5xx"} {
		wantLine(t, got, fmt.Sprintf(`tickgate_requests_total{route="api",code="%s",reason="ok"} 0`, class))
		wantLine(t, got, fmt.Sprintf(`tickgate_requests_total{route="unrouted",code="%s",reason="ok"} 0`, class))
	}
	for _, r := range reason.All() {
		wantLine(t, got, fmt.Sprintf(`tickgate_request_ends_total{reason="%s"} 0`, r))
		wantLine(t, got, fmt.Sprintf(`tickgate_connection_ends_total{reason="%s"} 0`, r))
	}
	for _, line := range []string{
		`tickgate_request_duration_seconds_count{route="api"} 0`,
		`tickgate_request_duration_seconds_bucket{route="api",le="+Inf"} 0`,
		`tickgate_request_phase_seconds_bucket{phase="first_byte",le="0.0001"} 0`,
		`tickgate_connections{listener=":80",state="idle"} 0`,
		`tickgate_tls_handshakes_total{version="1.3",resumed="true"} 0`,
		`tickgate_reloads_total{result="failed"} 0`,
		`tickgate_reload_last_success 1`,
		`tickgate_process_open_fds{kind="backend"} 0`,
	} {
		wantLine(t, got, line)
	}
	if !regexp.MustCompile(`(?m)^tickgate_build_info\{version="1\.2\.3",go="go1[^"]*"\} 1$`).MatchString(got) {
		t.Error("no build info")
	}
}

func TestDone(t *testing.T) {
	m := New("test")
	r := m.Route("api")
	r.Done(200, reason.OK, &Phases{Total: 2 * time.Millisecond, FirstByte: time.Millisecond, Dial: time.Second}, 10, 100)
	r.Done(204, reason.OK, &Phases{Total: 40 * time.Microsecond, Fresh: true, Dial: 20 * time.Microsecond}, 0, 0)
	r.Done(502, reason.DialFailed, &Phases{Total: 200 * time.Second}, 5, 20)
	r.Done(0, reason.ClientGone, nil, 1, 2)
	r.Done(101, reason.OK, nil, 0, 0)
	m.Unrouted.Done(400, reason.BadHost, nil, 0, 0)

	got := page(t, m)
	for _, line := range []string{
		`tickgate_requests_total{route="api",code="2xx",reason="ok"} 2`,
		`tickgate_requests_total{route="api",code="1xx",reason="ok"} 1`,
		`tickgate_requests_total{route="api",code="5xx",reason="dial_failed"} 1`,
		`tickgate_requests_total{route="api",code="none",reason="client_gone"} 1`,
		`tickgate_requests_total{route="unrouted",code="4xx",reason="bad_host"} 1`,
		`tickgate_request_ends_total{reason="ok"} 3`,
		`tickgate_request_ends_total{reason="bad_host"} 1`,
		`tickgate_request_body_bytes_total{route="api"} 16`,
		`tickgate_response_body_bytes_total{route="api"} 122`,
		`tickgate_request_duration_seconds_bucket{route="api",le="3.3e-05"} 0`,
		`tickgate_request_duration_seconds_bucket{route="api",le="4.7e-05"} 1`,
		`tickgate_request_duration_seconds_bucket{route="api",le="0.0022"} 2`,
		`tickgate_request_duration_seconds_bucket{route="api",le="100"} 2`,
		`tickgate_request_duration_seconds_bucket{route="api",le="+Inf"} 3`,
		`tickgate_request_duration_seconds_count{route="api"} 3`,
		`tickgate_request_duration_seconds_sum{route="api"} 200.00204`,
		`tickgate_request_phase_seconds_count{phase="first_byte"} 1`,
		`tickgate_request_phase_seconds_count{phase="dial"} 1`,
		`tickgate_request_phase_seconds_count{phase="queue"} 0`,
	} {
		wantLine(t, got, line)
	}
}

func TestDoneIgnoresNonsense(t *testing.T) {
	m := New("test")
	m.Unrouted.Done(-1, reason.Reason(255), &Phases{Total: -time.Second, Queue: -1}, -5, -5)
	m.Unrouted.Done(999, reason.OK, nil, 0, 0)
	got := page(t, m)
	wantLine(t, got, `tickgate_requests_total{route="unrouted",code="none",reason="ok"} 1`)
	wantLine(t, got, `tickgate_request_body_bytes_total{route="unrouted"} 0`)
	wantLine(t, got, `tickgate_request_phase_seconds_count{phase="queue"} 0`)
	wantNo(t, got, "unknown")
}

func TestRouteLivesAcrossReloads(t *testing.T) {
	m := New("test")
	const line = `tickgate_requests_total{route="api",code="2xx",reason="ok"} `
	// 1. A snapshot has the route.
	first := m.Route("api")
	first.Done(200, reason.OK, nil, 0, 0)
	// 2. A reload keeps it: the counter goes on while both snapshots live.
	second := m.Route("api")
	second.Done(200, reason.OK, nil, 0, 0)
	wantLine(t, page(t, m), line+"2")
	// 3. The old snapshot ends.
	first.Retire()
	second.Done(200, reason.OK, nil, 0, 0)
	wantLine(t, page(t, m), line+"3")
	// 4. A reload removes the route: no series of it is left.
	second.Retire()
	wantNo(t, page(t, m), `route="api"`)
	// 5. A late request does no harm, and counts for the whole gateway.
	second.Done(200, reason.OK, nil, 0, 0)
	wantNo(t, page(t, m), `route="api"`)
	wantLine(t, page(t, m), `tickgate_request_ends_total{reason="ok"} 4`)
	// 6. A route of that name starts at 0.
	m.Route("api")
	wantLine(t, page(t, m), line+"0")
}

func TestConns(t *testing.T) {
	m := New("test")
	// 1. One connection goes through all states, one stays, one is refused.
	c := m.Listener(":443")
	c.Opened(Accepted)
	c.Moved(Accepted, Handshaking)
	c.Moved(Handshaking, Active)
	c.Moved(Active, Idle)
	c.Moved(Idle, Parked)
	c.Moved(Parked, Active)
	c.Moved(Active, Relayed)
	c.Moved(Relayed, Draining)
	c.Moved(Draining, Draining)
	c.Opened(Active)
	m.ConnRefused(reason.TooManyConns)
	got := page(t, m)
	for _, line := range []string{
		`tickgate_connections{listener=":443",state="accepted"} 0`,
		`tickgate_connections{listener=":443",state="handshaking"} 0`,
		`tickgate_connections{listener=":443",state="active"} 1`,
		`tickgate_connections{listener=":443",state="idle"} 0`,
		`tickgate_connections{listener=":443",state="parked"} 0`,
		`tickgate_connections{listener=":443",state="relayed"} 0`,
		`tickgate_connections{listener=":443",state="draining"} 1`,
		`tickgate_connections_total{listener=":443"} 2`,
		`tickgate_connection_ends_total{reason="too_many_conns"} 1`,
	} {
		wantLine(t, got, line)
	}
	// 2. The listener goes, its series stay with its connections.
	c.Retire()
	c.Closed(Draining, reason.Draining)
	wantLine(t, page(t, m), `tickgate_connections{listener=":443",state="active"} 1`)
	// 3. With the last connection the series go.
	c.Closed(Active, reason.ClientClosed)
	got = page(t, m)
	wantNo(t, got, `listener=":443"`)
	wantLine(t, got, `tickgate_connection_ends_total{reason="draining"} 1`)
}

func TestReloads(t *testing.T) {
	m := New("test")
	check := func(generation, success, ok, failed int) {
		t.Helper()
		got := page(t, m)
		wantLine(t, got, fmt.Sprintf("tickgate_snapshot_generation %d", generation))
		wantLine(t, got, fmt.Sprintf("tickgate_reload_last_success %d", success))
		wantLine(t, got, fmt.Sprintf(`tickgate_reloads_total{result="ok"} %d`, ok))
		wantLine(t, got, fmt.Sprintf(`tickgate_reloads_total{result="failed"} %d`, failed))
	}
	m.Loaded(1, time.Unix(1000, 5))
	check(1, 1, 0, 0)
	m.ReloadFailed()
	check(1, 0, 0, 1)
	m.Loaded(2, time.Unix(2000, 0))
	check(2, 1, 1, 1)
	wantLine(t, page(t, m), "tickgate_reload_last_success_timestamp_seconds 2000")
}

func TestSetsOfOthers(t *testing.T) {
	m := New("test")
	m.Set().NewCounter(`tickgate_x_total{a="1"}`).Inc()
	m.CounterFunc("tickgate_y_total", func() uint64 { return 7 })
	m.Describe(Desc{Name: "tickgate_x_total", Type: "counter", Help: `Back\slash.`})
	other := metrics.NewSet()
	other.NewCounter(`tickgate_x_total{a="2"}`)
	m.AddSet(other)
	got := page(t, m)
	// Series of one name stand together whichever set they are from.
	if want := "# HELP tickgate_x_total Back\\\\slash.\n# TYPE tickgate_x_total counter\ntickgate_x_total{a=\"1\"} 1\ntickgate_x_total{a=\"2\"} 0\n"; !strings.Contains(got, want) {
		t.Errorf("want %q", want)
	}
	wantLine(t, got, "tickgate_y_total 7")
	m.RemoveSet(other)
	wantNo(t, page(t, m), `a="2"`)
}

func TestLabel(t *testing.T) {
	for value, want := range map[string]string{
		"plain":      `n="plain"`,
		`a"b\c`:      `n="a\"b\\c"`,
		"two\nlines": `n="two\nlines"`,
		"bad\xffend": "n=\"bad\ufffdend\"",
	} {
		if got := Label("n", value); got != want {
			t.Errorf("Label(%q) = %s, want %s", value, got, want)
		}
	}
}

// TestPageIsWellFormed checks each line against the text format, and that each metric of the
// gateway is described, typed and in one block.
func TestPageIsWellFormed(t *testing.T) {
	m := New("te\"st\n")
	m.Route(`we"ird\route` + "\n")
	m.Listener("unix:/run/a b.sock")
	tn := m.Tunnel("we\"ird\\route\n")
	tn.Opened(OpaqueTunnel)
	tn.Ended(time.Second, reason.OK, Flows{})
	m.Handshake(Handshake{})
	m.Watch(sampleSource())
	label := `[A-Za-z_]+="(?:[^"\\\n]|\\[\\"n])*"`
	sample := regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{` + label + `(, ?` + label + `)*\})? [0-9+.eInf-]+$`)
	described := map[string]Desc{}
	for _, d := range Metrics {
		described[d.Name] = d
	}
	seen := map[string]bool{}
	last := ""
	for line := range strings.Lines(page(t, m)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "# ") {
			continue
		}
		match := sample.FindStringSubmatch(line)
		if match == nil {
			t.Errorf("malformed line %q", line)
			continue
		}
		name := familyOf([]byte(line), described)
		if name != last && seen[name] {
			t.Errorf("%s is in more than one block", name)
		}
		seen[name], last = true, name
		if _, ok := described[name]; strings.HasPrefix(name, "tickgate_") && !ok {
			t.Errorf("%s is not described", name)
		}
	}
	for name := range described {
		if !seen[name] {
			t.Errorf("%s is described but not written", name)
		}
	}
	if !seen["go_goroutines"] || !seen["process_resident_memory_bytes"] {
		t.Error("the figures of the process are missing")
	}
}

func TestDoneByManyGoroutines(t *testing.T) {
	m := New("test")
	r := m.Route("api")
	const goroutines, each = 8, 2000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				r.Done(200, reason.OK, &Phases{Total: time.Millisecond}, 1, 1)
				r.Done(504, reason.BackendTimeout, nil, 0, 0)
			}
		})
	}
	_ = m.WritePrometheus(io.Discard) // a scrape in between
	wg.Wait()
	got := page(t, m)
	wantLine(t, got, fmt.Sprintf(`tickgate_requests_total{route="api",code="2xx",reason="ok"} %d`, goroutines*each))
	wantLine(t, got, fmt.Sprintf(`tickgate_requests_total{route="api",code="5xx",reason="backend_timeout"} %d`, goroutines*each))
	wantLine(t, got, fmt.Sprintf(`tickgate_request_duration_seconds_count{route="api"} %d`, goroutines*each))
	wantLine(t, got, fmt.Sprintf(`tickgate_request_ends_total{reason="ok"} %d`, goroutines*each))
}

func TestDoneDoesNotAllocate(t *testing.T) {
	m := New("test")
	r := m.Route("api")
	c := m.Listener(":80")
	allocs := testing.AllocsPerRun(1000, func() {
		p := Phases{Queue: 1, Pool: 2, DNS: 3, Dial: 4, TLS: 5, FirstByte: 6, Transfer: 7, Total: 8, Fresh: true}
		r.Done(200, reason.OK, &p, 1, 2)
		r.Done(502, reason.DialFailed, &p, 1, 2)
		c.Opened(Active)
		c.Closed(Active, reason.ClientClosed)
		m.Handshake(Handshake{Version: 0x0304, Resumed: true})
	})
	if allocs != 0 && !raceOn {
		t.Errorf("%v allocations a request, want none", allocs)
	}
}

// BenchmarkDone is what the metrics cost a request: 47 ns on one processor, and 55 ns of
// processor time when two are at it, where three shared metrics.Histograms alone cost 280 to
// 550 ns.
func BenchmarkDone(b *testing.B) {
	m := New("bench")
	r := m.Route("api")
	p := &Phases{FirstByte: 300 * time.Microsecond, Transfer: 20 * time.Microsecond, Total: 350 * time.Microsecond}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			r.Done(200, reason.OK, p, 0, 1024)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r.Done(200, reason.OK, p, 0, 1024)
			}
		})
	})
	if m.collect([]*Route{r}).cells[0].ok[1] == 0 {
		b.Fatal("nothing was counted")
	}
}
