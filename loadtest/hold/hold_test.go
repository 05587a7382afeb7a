package hold

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
	"tickgate/loadtest/target"
)

const whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

// hold holds connections until held returns.
func hold(t *testing.T, o Options, held func()) Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Opened = func() {
		held()
		cancel()
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHolds(t *testing.T) {
	f := func(name string, o Options, wantRequests int) {
		t.Run(name, func(t *testing.T) {
			backend := testkit.NewRecorder(t, nil)
			o.URL, o.Conns = "http://"+backend.Addr()+"/a", 20
			r := hold(t, o, func() {
				open := 0
				for _, c := range backend.Conns() {
					if !c.Done {
						open++
					}
				}
				if open != 20 && !o.Silent { // what said nothing may not be accepted yet
					t.Errorf("%d connections are open", open)
				}
			})
			if r.Opened != 20 || r.Failed != 0 || r.ClosedByPeer != 0 || len(backend.Requests()) != wantRequests || r.OpenTime.Count != 20 {
				t.Errorf("%+v with %d requests, want %d", r, len(backend.Requests()), wantRequests)
			}
			if o.Again && r.AnsweredAgain != 20 {
				t.Errorf("%+v", r)
			}
		})
	}
	f("one request each", Options{}, 20)
	f("at a rate, from more addresses", Options{Rate: 1000, Target: target.Options{Sources: 3}}, 20)
	f("none", Options{Silent: true}, 0)
	f("a second one at the end", Options{Again: true}, 40)
}

func TestHoldsTLS(t *testing.T) {
	certFile, keyFile := testcert.New(t).Files(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	backend := testkit.NewRecorder(t, nil)
	go func() {
		ended <- baseline.Serve(ctx, ln, baseline.Options{Backend: backend.Addr(), CertFile: certFile, KeyFile: keyFile})
	}()
	r := hold(t, Options{URL: "https://" + ln.Addr().String(), Conns: 5, Again: true, Target: target.Options{Insecure: true}}, func() {})
	if r.Opened != 5 || r.TLS != "TLS 1.3" || r.AnsweredAgain != 5 {
		t.Errorf("%+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHoldsForATime(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	began := time.Now()
	r, err := Run(t.Context(), Options{URL: "http://" + backend.Addr(), Conns: 1, Hold: 20 * time.Millisecond})
	if err != nil || r.Opened != 1 || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%+v, %v after %v", r, err, time.Since(began))
	}
}

func TestClosedConnectionsAreCounted(t *testing.T) {
	f := func(name string, wantUnasked int64, step ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			script := testkit.NewScript(t, append([]testkit.Step{testkit.Receive(), testkit.Send(whole), testkit.WaitFor(gone)}, step...)...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := Run(ctx, Options{URL: "http://" + script.Addr(), Conns: 3, Progress: func(text string) {
				switch {
				case strings.HasPrefix(text, "holding: "):
					close(gone)
				case strings.HasSuffix(text, "3 closed by the peer"):
					cancel()
				}
			}})
			if err != nil || r.Opened != 3 || r.ClosedByPeer != 3 || r.Unasked != wantUnasked {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	f("FIN", 0, testkit.Close())
	f("RST", 0, testkit.Reset())
	f("bytes that nobody asked for", 3, testkit.Send("H"), testkit.Hang())
}

func TestFailuresAreTold(t *testing.T) {
	f := func(url, want string) {
		t.Helper()
		r := hold(t, Options{URL: url, Conns: 2}, func() {})
		if r.Opened != 0 || r.Failed != 2 || !strings.Contains(r.FirstError, want) {
			t.Errorf("%s: %+v, want %q", url, r, want)
		}
	}
	answering := func(raw string) string {
		return "http://" + testkit.NewScript(t, append(testkit.Respond(raw), testkit.Close())...).Addr()
	}
	f("http://"+testkit.DeadAddr(t), "connect")
	f(answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "status 503")
	f(answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), "close true")
	f(answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), "response body")
	f(answering("nonsense\r\n\r\n"), "response")
	f("https://"+testkit.NewRecorder(t, nil).Addr(), "TLS handshake")
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	f(Options{URL: "http://127.0.0.1:1"}, ErrOptions)
	f(Options{URL: "ws://127.0.0.1:1", Conns: 1}, target.ErrURL)
	f(Options{URL: "http://", Conns: 1}, target.ErrURL)
	f(Options{URL: "http://example.com", Conns: 1, Target: target.Options{Sources: 1}}, target.ErrSources)
}
