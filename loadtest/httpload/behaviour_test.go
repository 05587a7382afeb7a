package httpload

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// stalling serves at once, but for one second in which nobody is answered.
func stalling(t *testing.T, from, until time.Duration) string {
	var once sync.Once
	var first time.Time
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { first = time.Now() })
		if since := time.Since(first); since >= from && since < until {
			select {
			case <-time.After(until - since):
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A server stalls for a second. The open loop charges it for all that came due meanwhile;
// in the closed loop a few requests wait, and the percentiles hide it.
func TestStall(t *testing.T) {
	const from, until, all = 2 * time.Second, 3 * time.Second, 5 * time.Second
	t.Run("open", func(t *testing.T) {
		t.Parallel()
		r := load(t, Options{URL: stalling(t, from, until), Plan: pace.Constant(200, all), Conns: 64})
		if r.OK != 1000 || r.Latency.P99 < 900e3 || r.Latency.Max < 950e3 {
			t.Errorf("p99 %v us of %d, want at least 900 ms: %+v", r.Latency.P99, r.OK, r)
		}
		if r.SendLag.Count < 400 || r.SendLag.Count > 980 {
			t.Errorf("%d of 1000 requests found a free connection", r.SendLag.Count)
		}
	})
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		mix := []Request{{Think: 2 * time.Millisecond}}
		r := load(t, Options{URL: stalling(t, from, until), Mix: mix, Conns: 1, Duration: all})
		if r.OK < 150 || r.Latency.Max < 900e3 || r.Latency.P99 > 600e3 {
			t.Errorf("p99 %v us of %d, max %v: %+v", r.Latency.P99, r.OK, r.Latency.Max, r)
		}
	})
}

// Chance keeps the weights, and each kind has its own result.
func TestMix(t *testing.T) {
	backend := testkit.NewRecorder(t, func(r *testkit.Request) []byte {
		if strings.HasPrefix(r.Target, "/cancels") {
			return []byte(refusal)
		}
		return []byte(whole)
	})
	mix := []Request{
		{Name: "quotes", Weight: 7, Path: "/quotes"},
		{Name: "orders", Weight: 2, Path: "/orders", Method: "POST", Body: []byte("abc"), Header: []Field{{"X-A", "b"}, {"Host", "c"}}},
		{Weight: 1, Path: "/cancels", Method: "DELETE", Expect: 503},
	}
	r := load(t, Options{URL: "http://" + backend.Addr(), Mix: mix, Plan: pace.Constant(2000, time.Second), Conns: 16, Seed: 5})
	if r.OK != 2000 || r.Statuses[503] == 0 || len(r.ByName) != 3 {
		t.Fatalf("%+v", r)
	}
	sent := make(map[string]int64)
	for _, req := range backend.Requests() {
		sent[req.Method+" "+req.Target]++
		if req.Method == "POST" && (string(req.Body) != "abc" || req.Get("X-A") != "b" || req.Get("Host") != "c") {
			t.Fatalf("%+v", req)
		}
	}
	f := func(name, line string, want int64) {
		t.Helper()
		k := r.ByName[name]
		if k.Count != sent[line] || k.OK != k.Count || int64(k.Latency.Count) != k.OK || k.Count < want*8/10 || k.Count > want*12/10 {
			t.Errorf("%s: %+v, sent %d; want about %d", name, k, sent[line], want)
		}
	}
	f("quotes", "GET /quotes", 1400)
	f("orders", "POST /orders", 400)
	f("DELETE /cancels", "DELETE /cancels", 200)
	var seconds int64
	for _, s := range r.PerSecond {
		seconds += s.OK
	}
	if seconds != r.OK {
		t.Errorf("%d ok in seconds, %d in all", seconds, r.OK)
	}
}

// What is due in the warm-up does not count, wherever it ends.
func TestWarmup(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	r := load(t, Options{URL: "http://" + backend.Addr(), Plan: pace.Constant(100, 400*time.Millisecond), Warmup: 200 * time.Millisecond, Conns: 2})
	if r.Due != 20 || r.OK != 20 || r.Latency.Count != 20 || r.ByName["GET /"].Count != 20 || r.Seconds > 0.21 {
		t.Errorf("%+v", r)
	}
	if got := len(backend.Requests()); got != 40 {
		t.Errorf("%d requests came, want 40", got)
	}
}

// A second request never goes out before the response to the first is whole.
func TestNoPipelining(t *testing.T) {
	var early atomic.Int64
	s := testkit.NewScript(t, testkit.Handle(func(r *bufio.Reader, conn *net.TCPConn) error {
		for {
			if _, err := testkit.ReadRequest(r); err != nil {
				return err // the client has closed
			}
			for _, part := range []string{whole[:20], whole[20:40], whole[40:]} {
				if r.Buffered() > 0 {
					early.Add(1)
				}
				if _, err := io.WriteString(conn, part); err != nil {
					return err
				}
			}
		}
	}))
	for _, plan := range []*pace.Plan{nil, pace.Constant(3000, 300*time.Millisecond)} {
		r := load(t, Options{URL: "http://" + s.Addr(), Plan: plan, Conns: 3, Duration: 300 * time.Millisecond})
		if r.OK < 10 || r.Failed() != 0 || early.Load() != 0 {
			t.Errorf("%d came early: %+v", early.Load(), r)
		}
	}
}

// A request that finds its kept connection closed goes again if it may, over a new one.
func TestStale(t *testing.T) {
	one := func(run func(*testing.T, Options) *Result, method string, wantAgain bool) {
		t.Helper()
		s := testkit.NewScript(t, append(testkit.Respond(whole), testkit.Receive(), testkit.Close())...)
		r := run(t, Options{URL: "http://" + s.Addr(), Mix: []Request{{Method: method}}, Plan: pace.Constant(50, 200*time.Millisecond), Conns: 1})
		// The second request of each connection is read and not answered.
		if wantAgain && (r.OK != 10 || r.Reconnects != 9 || r.Sent != 19 || r.Opened != 10) {
			t.Errorf("%s: %+v", method, r)
		}
		if !wantAgain && (r.OK != 5 || r.Reconnects != 0 || r.Errors["closed_early"] != 5 || r.Sent != 10) {
			t.Errorf("%s: %+v", method, r)
		}
	}
	f := func(method string, wantAgain bool) {
		t.Helper()
		one(load, method, wantAgain)
		one(without, method, wantAgain)
	}
	f("GET", true)
	f("PUT", true)
	f("POST", false)
	f("PATCH", false)
}

func TestPerConn(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	r := load(t, Options{URL: "http://" + backend.Addr(), Plan: pace.Constant(200, 150*time.Millisecond), Conns: 1, PerConn: 3})
	if r.OK != 30 || r.Opened != 10 {
		t.Errorf("%+v", r)
	}
	for _, c := range backend.Conns() {
		if len(c.Requests) != 3 {
			t.Errorf("%d requests on a connection, want 3", len(c.Requests))
		}
	}
}

// Connections come from the addresses that were asked for.
func TestSources(t *testing.T) {
	backend := testkit.NewScript(t, testkit.Handle(func(r *bufio.Reader, conn *net.TCPConn) error {
		if _, err := testkit.ReadRequest(r); err != nil {
			return err // the client has closed
		}
		body := conn.RemoteAddr().(*net.TCPAddr).IP.String()
		_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nX-From: %s\r\nContent-Length: 0\r\n\r\n", body)
		seen.Store(body, true)
		return err
	}))
	r := load(t, Options{URL: "http://" + backend.Addr(), Target: target.Options{Sources: 3}, Plan: pace.Constant(200, 50*time.Millisecond), Conns: 4})
	if r.OK != 10 {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		if _, ok := seen.Load(want); !ok {
			t.Errorf("no connection from %s", want)
		}
	}
}

var seen sync.Map // source addresses of TestSources

// The chosen share of handshakes resumes a session; the server says the same.
func TestTLS(t *testing.T) {
	var resumed, full atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		} else {
			full.Add(1)
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000)) // several records
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the last part is about a handshake that fails
	s.StartTLS()
	defer s.Close()
	share := func(run func(*testing.T, Options) *Result, percent int) {
		t.Helper()
		resumed.Store(0)
		full.Store(0)
		r := run(t, Options{
			URL: s.URL, Target: target.Options{Insecure: true}, Conns: 1, PerConn: 1, ResumePercent: percent,
			Plan: pace.Constant(80, 500*time.Millisecond),
		})
		want := int64(40 * percent / 100)
		if percent == 100 {
			want = 39 // the first has nothing to resume
		}
		if r.OK != 40 || r.Handshakes != 40 || r.Resumed != want || resumed.Load() != want || full.Load() != 40-want || r.BytesIn < 40*100_000 {
			t.Errorf("%d %%: %d resumed, %d full, %+v", percent, resumed.Load(), full.Load(), r)
		}
	}
	for _, percent := range []int{0, 25, 100} {
		share(load, percent)
	}
	share(without, 50)
	// Kept connections, with bodies that take several writes.
	mix := []Request{{Method: "PUT", Body: make([]byte, 1<<20)}}
	r := load(t, Options{URL: s.URL, Target: target.Options{Insecure: true}, Mix: mix, Conns: 2, Plan: pace.Constant(50, 200*time.Millisecond)})
	if r.OK != 10 || r.BytesOut < 10<<20 || r.Failed() != 0 {
		t.Errorf("%+v", r)
	}
	r = load(t, Options{URL: s.URL, Conns: 1, Plan: pace.Constant(50, 100*time.Millisecond)})
	if r.Errors["tls_failed"] != 5 || !strings.Contains(r.FirstError, "certificate") {
		t.Errorf("an unknown certificate: %+v", r)
	}
}

// slice is a replay of what is in it.
type slice []struct {
	due time.Duration
	r   Request
}

func (s *slice) Next() (time.Duration, *Request, bool) {
	if len(*s) == 0 {
		return 0, nil, false
	}
	first := (*s)[0]
	*s = (*s)[1:]
	return first.due, &first.r, true
}

func TestReplay(t *testing.T) {
	backend := testkit.NewRecorder(t, func(r *testkit.Request) []byte {
		if r.Method == "HEAD" {
			return []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		}
		return []byte(whole)
	})
	const ms = time.Millisecond
	r := load(t, Options{URL: "http://" + backend.Addr(), Conns: 2, Replay: &slice{
		{0, Request{Path: "/a"}},
		{10 * ms, Request{Path: "/b", Method: "HEAD"}},
		{10 * ms, Request{Path: "/a"}},
		{20 * ms, Request{Path: "/ c"}},
		{120 * ms, Request{Path: "/a"}},
	}})
	if r.Due != 5 || r.OK != 4 || r.Errors["unsendable"] != 1 || r.ByName["GET /a"].OK != 3 || r.ByName["HEAD /b"].OK != 1 || r.Seconds != 0.12 {
		t.Errorf("%+v", r)
	}
}

// Several loops share the connections and the schedule.
func TestLoops(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	for _, plan := range []*pace.Plan{nil, pace.Constant(1000, 300*time.Millisecond)} {
		r := load(t, Options{URL: "http://" + backend.Addr(), Plan: plan, Conns: 5, Loops: 3, Duration: 300 * time.Millisecond})
		if r.OK != r.Due || r.OK < 5 || plan != nil && r.OK != 300 || plan == nil && r.Opened != 5 {
			t.Errorf("%+v", r)
		}
	}
}

// Progress comes once a second and adds up.
func TestProgress(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	var seen []Progress
	r := load(t, Options{
		URL: "http://" + backend.Addr(), Plan: pace.Constant(100, 2500*time.Millisecond), Conns: 2,
		Progress: func(p Progress) { seen = append(seen, p) },
	})
	if len(seen) < 2 || seen[1].OK <= seen[0].OK || seen[1].Due > r.Due || seen[0].Open < 1 || seen[1].Second.OK == 0 {
		t.Errorf("%+v", seen)
	}
}

func TestBottleneck(t *testing.T) {
	f := func(r Result, open, want bool) {
		t.Helper()
		if got := r.bottleneck(open); (got != "") != want {
			t.Errorf("%+v: %q", r, got)
		}
	}
	late := Result{Due: 1000, Sent: 1000}
	late.SendLag.P99 = 5001
	f(late, true, true)
	f(late, false, false)
	f(Result{Due: 1000, Sent: 1000, Busy: 0.99}, true, false)
	f(Result{Due: 1000, Sent: 900, Busy: 0.99}, true, true)
	f(Result{Due: 1000, Sent: 900, Busy: 0.9}, true, false)
	f(Result{Due: 1000, Sent: 1000, Busy: 0.99}, false, true)
	f(Result{Due: 1000, Sent: 1000, Busy: 0.9}, false, false)
}
