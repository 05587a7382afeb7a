package steady

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
)

const (
	whole   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
)

// patient is a timeout that a busy machine does not reach.
const patient = 5 * time.Second

// run sends requests to a scripted backend until the backend's third connection is
// reached, which ends the run.
func run(t *testing.T, timeout time.Duration, steps ...testkit.Step) Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := testkit.NewScripts(t, func(conn int) []testkit.Step {
		if conn == 2 {
			cancel()
		}
		return steps
	})
	result, err := Run(ctx, Options{URL: "http://" + s.Addr() + "/a", Conns: 1, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestOrderlyClosesAreNoFailures(t *testing.T) {
	// f plays the steps on two connections and compares the orderly closes.
	f := func(name string, steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			r := run(t, patient, steps...)
			if r.Failed() != 0 || r.OK < 2 || r.Closed < 2 {
				t.Errorf("%+v", r)
			}
		})
	}
	f("announced", testkit.Receive(), testkit.Send(closing), testkit.Close())
	f("after two", testkit.Receive(), testkit.Send(whole), testkit.Receive(), testkit.Send(closing), testkit.Close())
}

func TestFailuresAreCounted(t *testing.T) {
	play := func(name string, timeout time.Duration, count func(Result) int64, steps ...testkit.Step) {
		t.Run(name, func(t *testing.T) {
			r := run(t, timeout, steps...)
			if count(r) < 2 || r.Failed() < count(r) || r.FirstError == "" {
				t.Errorf("%+v", r)
			}
		})
	}
	f := func(name string, count func(Result) int64, steps ...testkit.Step) {
		play(name, patient, count, steps...)
	}
	cut := func(r Result) int64 { return r.Cut }
	unanswered := func(r Result) int64 { return r.Unanswered }
	f("silent close", unanswered, testkit.Receive(), testkit.Close())
	f("reset", unanswered, testkit.Receive(), testkit.Reset())
	play("timeout", 100*time.Millisecond, unanswered, testkit.Receive(), testkit.Hang())
	f("half a head", cut, testkit.Receive(), testkit.Send("HTTP/1.1 200"), testkit.Close())
	f("half a body", cut, testkit.Receive(), testkit.Send(whole[:len(whole)-1]), testkit.Close())
	f("503", func(r Result) int64 { return r.Refused }, testkit.Receive(), testkit.Send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"))
}

func TestClosedWhileIdleIsSeenBeforeSending(t *testing.T) {
	server, end := testkit.TCPPair(t)
	c := &client{tcp: end, conn: end}
	if c.readable() {
		t.Error("an idle connection is readable")
	}
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// The end of a loopback connection is there when its sender's call returns.
	if !c.readable() {
		t.Error("a closed connection is not readable")
	}
}

func TestRefusedConnections(t *testing.T) {
	dead := "http://" + testkit.DeadAddr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r, err := Run(ctx, Options{URL: dead, Conns: 2, UntilRefused: true})
	if err != nil || r.DialFailed == 0 || r.Drained {
		t.Errorf("never accepted: %+v %v", r, err)
	}

	c := &client{addr: dead[len("http://"):], opts: Options{Timeout: time.Second, UntilRefused: true}}
	c.Dials = 1
	c.loop(t.Context())
	if c.Failed() != 0 || !c.Drained {
		t.Errorf("after a drain: %+v", c.Result)
	}
}

func TestOverPlainAndTLS(t *testing.T) {
	t.Parallel()
	pair := testcert.New(t, "127.0.0.1")
	certFile, keyFile := pair.Files(t)
	backend := testkit.NewRecorder(t, nil)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- baseline.Serve(ctx, ln, baseline.Options{Backend: backend.Addr(), CertFile: certFile, KeyFile: keyFile})
	}()
	for _, target := range []string{"http://" + backend.Addr(), "https://" + ln.Addr().String()} {
		r, err := Run(t.Context(), Options{URL: target, Conns: 3, Duration: time.Second, Insecure: true})
		if err != nil || r.Failed() != 0 || r.OK == 0 || r.Dials != 3 {
			t.Errorf("%s: %+v %v", target, r, err)
		}
	}
	r, err := Run(t.Context(), Options{URL: "https://" + ln.Addr().String(), Conns: 1, Duration: 20 * time.Millisecond})
	if err != nil || r.OK > 0 || r.DialFailed == 0 || !strings.Contains(r.FirstError, "certificate") {
		t.Errorf("not verified: %+v %v", r, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want string) {
		t.Helper()
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	f(Options{URL: "ftp://a", Conns: 1}, "no http:// or https:// URL")
	f(Options{URL: "http://a"}, "0 connections")
}
