package httpload

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/testkit"
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

func TestRate(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	r := load(t, Options{URL: "http://" + backend.Addr(), Rate: 500, Conns: 4, Duration: 400 * time.Millisecond})
	if r.Due < 100 || r.Due > 201 || r.Sent != r.Due || r.OK() != r.Due || r.Errors != 0 || int64(r.OKTime.Count) != r.Due || r.OtherTime.Count != 0 {
		t.Errorf("%+v, want up to 200 requests", r)
	}
	if got := len(backend.Conns()); got > 4 {
		t.Errorf("%d connections", got)
	}
}

// A server that stalls once is charged for every request that came due meanwhile.
func TestStallsCountFromTheDueTime(t *testing.T) {
	const stall = 300 * time.Millisecond
	var once sync.Once
	backend := testkit.NewRecorder(t, func(*testkit.Request) []byte {
		once.Do(func() { <-time.After(stall) })
		return []byte(whole)
	})
	r := load(t, Options{URL: "http://" + backend.Addr(), Rate: 200, Conns: 1, Duration: 2 * stall})
	// 60 of 120 requests came due during the stall and waited half of it on average.
	if r.OK() != r.Due || r.OKTime.P99 < 250e3 || r.OKTime.P50 < 1e3 || r.OKTime.Mean < 30e3 {
		t.Errorf("%+v", r)
	}
}

func TestStatusesAndErrors(t *testing.T) {
	// f compares the share of answers that are OK, other statuses and errors.
	f := func(name string, ok, other, failed bool, steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			addr := testkit.NewScript(t, steps...).Addr()
			r := load(t, Options{URL: "http://" + addr, Rate: 100, Conns: 2, Duration: 100 * time.Millisecond, Timeout: 50 * time.Millisecond})
			if (r.OK() > 0) != ok || (r.OtherTime.Count > 0) != other || (r.Errors > 0) != failed || (r.FirstError != "") != failed {
				t.Errorf("%+v", r)
			}
			var text strings.Builder
			if _, err := r.WriteTo(&text); err != nil || !strings.Contains(text.String(), "due") {
				t.Errorf("%q, %v", text.String(), err)
			}
		})
	}
	f("refused", false, true, false, testkit.Respond(refusal)...)
	f("closed by announcement", true, false, false, append(testkit.Respond(closing), testkit.Close())...)
	f("closed between two requests", true, false, false, append(testkit.Respond(whole), testkit.Close())...)
	f("cut", false, false, true, append(testkit.Respond("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), testkit.Close())...)
	f("cut head", false, false, true, append(testkit.Respond("HTTP/1.1 200 OK\r\n"), testkit.Close())...)
	f("silent", false, false, true, testkit.Receive(), testkit.Hang())
	f("never answers", false, false, true, testkit.Receive(), testkit.Close())
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	f(Options{URL: "http://127.0.0.1:1", Conns: 1}, ErrOptions)
	f(Options{URL: "http://127.0.0.1:1", Rate: 1}, ErrOptions)
	f(Options{URL: "ftp://127.0.0.1:1", Rate: 1, Conns: 1}, target.ErrURL)
	if r := load(t, Options{URL: "http://" + testkit.DeadAddr(t), Rate: 100, Conns: 1, Duration: 50 * time.Millisecond}); r.Errors != r.Due {
		t.Errorf("%+v", r)
	}
}
