package httpload

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

const (
	whole   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
	refusal = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
)

func load(t *testing.T, o Options) *Result {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// without does the same as load on a system without event loops.
func without(t *testing.T, o Options) *Result {
	t.Helper()
	r, err := newRun(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.group != nil {
		r.group.Close()
		r.group, r.workers, r.records = nil, nil, nil
	}
	spent, err := r.play(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.result(spent)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// The closed loop keeps each of its connections busy with one request at a time.
func TestClosedLoop(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	r := load(t, Options{URL: "http://" + backend.Addr() + "/a?b", Conns: 4, Duration: 300 * time.Millisecond})
	if r.OK < 4 || r.OK != r.Due || r.Sent != r.Due || r.Failed() != 0 || r.Statuses[200] != r.OK || int64(r.Latency.Count) != r.OK || r.Opened != 4 {
		t.Errorf("%+v", r)
	}
	if r.Latency != r.Service || r.SendLag.Count != 0 || r.ByName["GET /a?b"].OK != r.OK || r.ByName["GET /a?b"].Statuses[200] != r.OK || r.BytesIn == 0 || r.BytesOut == 0 || r.HDR == "" {
		t.Errorf("%+v", r)
	}
	if got := len(backend.Conns()); got != 4 {
		t.Errorf("%d connections, want 4", got)
	}
}

// The open loop sends what is due, on time, over as few connections as it takes.
func TestOpenLoop(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	r := load(t, Options{URL: "http://" + backend.Addr(), Plan: pace.Constant(500, 400*time.Millisecond), Conns: 4})
	if r.Due != 200 || r.Sent != 200 || r.OK != 200 || r.Failed() != 0 || int64(r.Latency.Count) != 200 || r.Seconds > 0.41 || r.OKPerSecond < 1 || r.OKPerSecond > 500.1 {
		t.Errorf("%+v, want 200 requests", r)
	}
	if got := len(backend.Conns()); got > 4 {
		t.Errorf("%d connections", got)
	}
}

func TestFailures(t *testing.T) {
	// f wants some of one failure and of nothing else; "" wants OK responses only.
	f := func(name, want string, steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			addr := testkit.NewScript(t, steps...).Addr()
			check := func(run func(*testing.T, Options) *Result, plan *pace.Plan) {
				t.Helper()
				r := run(t, Options{URL: "http://" + addr, Plan: plan, Conns: 10, Duration: 100 * time.Millisecond, Timeout: 2 * time.Second})
				if (r.OK > 0) != (want == "") || r.Failed() != r.Errors[want] || r.OK+r.Failed() != r.Due || (r.FirstError == "") != (want == "") {
					t.Errorf("%+v, want %q", r, want)
				}
				var text strings.Builder
				if _, err := r.WriteTo(&text); err != nil || !strings.Contains(text.String(), want) {
					t.Errorf("%q, %v", text.String(), err)
				}
			}
			check(load, nil)
			check(load, pace.Constant(100, 100*time.Millisecond))
			check(without, nil)
			check(without, pace.Constant(100, 100*time.Millisecond))
		})
	}
	f("refusal", "wrong_status", testkit.Respond(refusal)...)
	f("closed by announcement", "", append(testkit.Respond(closing), testkit.Close())...)
	f("closed between two requests", "", append(testkit.Respond(whole), testkit.Close())...)
	f("cut body", "closed_early", append(testkit.Respond("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), testkit.Close())...)
	f("cut head", "closed_early", append(testkit.Respond("HTTP/1.1 200 OK\r\n"), testkit.Close())...)
	f("silent", "timeout", testkit.Receive(), testkit.Hang())
	f("never answers", "closed_early", testkit.Receive(), testkit.Close())
	f("reset", "reset", append(testkit.Respond("HTTP/1.1 200 OK\r\n"), testkit.Reset())...)
	f("babble", "malformed", append(testkit.Respond("SSH-2.0-OpenSSH_9.2\r\n"), testkit.Hang())...)
	f("bytes behind", "malformed", append(testkit.Respond(whole+"more"), testkit.Hang())...)
	f("until close", "", append(testkit.Respond("HTTP/1.1 200 OK\r\n\r\nhello"), testkit.Close())...)
	f("chunked", "", testkit.Respond("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")...)
	f("keep-alive of HTTP/1.0", "", testkit.Respond("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")...)

	for _, run := range []func(*testing.T, Options) *Result{load, without} {
		r := run(t, Options{URL: "http://" + testkit.DeadAddr(t), Plan: pace.Constant(100, 50*time.Millisecond), Conns: 1})
		if r.Errors["connect_refused"] != 5 || r.Due != 5 || r.Sent != 0 {
			t.Errorf("%+v", r)
		}
		r = run(t, Options{URL: "http://" + testkit.DeadAddr(t), Duration: 50 * time.Millisecond, Conns: 2})
		if n := r.Errors["connect_refused"]; n < 2 || n != r.Due || r.Sent != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	const url = "http://127.0.0.1:1"
	f(Options{URL: url}, ErrOptions)
	f(Options{URL: url, Conns: 1, Plan: new(pace.Plan)}, pace.ErrPlan)
	f(Options{URL: url, Conns: 1, Duration: 1, Warmup: 1}, ErrOptions)
	f(Options{URL: url, Conns: 1, Loops: -1}, ErrOptions)
	f(Options{URL: url, Conns: 1, ResumePercent: 101}, ErrOptions)
	f(Options{URL: url, Conns: 1, Mix: []Request{{Path: "/ a"}}}, ErrOptions)
	f(Options{URL: url, Conns: 1, Mix: []Request{{Header: []Field{{"a", "b\r\nc"}}}}}, ErrOptions)
	f(Options{URL: url, Conns: 1, Mix: []Request{{Weight: -1}}}, ErrOptions)
	f(Options{URL: "ftp://127.0.0.1:1", Conns: 1}, target.ErrURL)
}

// A run without a duration goes on until its context ends.
func TestUntilContextEnds(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		backend.WaitRequests(t, 10)
		cancel()
	}()
	r, err := Run(ctx, Options{URL: "http://" + backend.Addr(), Conns: 2})
	if err != nil || r.OK < 10 || r.Failed() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Only a 503 that says when to come again is a refusal in order.
func TestRefused(t *testing.T) {
	// f wants every response of the server to count as refused, or none.
	f := func(response string, want bool) {
		t.Helper()
		addr := testkit.NewScript(t, testkit.Respond(response)...).Addr()
		r := load(t, Options{URL: "http://" + addr, Plan: pace.Constant(100, 50*time.Millisecond), Conns: 1})
		if r.Due != 5 || (r.Refused == 5) != want || (r.Refused == 0) == want {
			t.Errorf("%q: %d refused of %d", response, r.Refused, r.Due)
		}
	}
	f("HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", true)
	f(refusal, false)
	f("HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", false)
	f(whole, false)
}
