package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/target"
)

// sampled plays until the samples satisfy enough, and returns them.
func sampled(t *testing.T, play func(context.Context, Options) error, o Options, enough func([]Sample) bool) []Sample {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	var list []Sample
	done := false
	o.Observe = func(s Sample) {
		list = append(list, s)
		if !done && enough(list) {
			done = true
			cancel()
		}
	}
	if err := play(ctx, o); err != nil {
		t.Fatal(err)
	}
	if !done {
		t.Fatalf("%s: %d samples are not enough: %+v", o.URL, len(list), list[:min(len(list), 3)])
	}
	return list
}

// first waits for one sample.
func first(list []Sample) bool { return len(list) > 0 }

func TestKinds(t *testing.T) {
	f := func(url string, o Options, want Kind, wantStatus int) {
		t.Helper()
		o.URL, o.Rate, o.Conns = url, 100, 1
		play := Requests
		if strings.HasPrefix(url, "ws") {
			play = Tunnels
		}
		sent := func(list []Sample) bool { return list[len(list)-1].Kind != Backlog }
		list := sampled(t, play, o, sent)
		if got := list[slices.IndexFunc(list, func(s Sample) bool { return s.Kind != Backlog })]; got.Kind != want || got.Status != wantStatus || (got.Err == nil) != (want == OK) {
			t.Errorf("%s: %s, status %d, %v; want %s, %d", url, got.Kind, got.Status, got.Err, want, wantStatus)
		}
	}
	script := func(steps ...testkit.Step) string { return "://" + testkit.NewScript(t, steps...).Addr() }
	respond := func(raw string) string { return script(testkit.Respond(raw)...) }
	short := Options{Timeout: 2 * time.Second} // connecting included

	f("http"+respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Options{}, OK, 200)
	f("http"+respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Digest: "+Digest([]byte("ok"))+"\r\n\r\nok"), Options{}, OK, 200)
	f("http"+script(testkit.Receive(), testkit.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"), testkit.Close()), Options{}, ClosedEarly, 0)
	f("http"+respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Digest: "+Digest([]byte("ok"))+"\r\n\r\noK"), Options{}, Corrupt, 200)
	f("http"+respond("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), Options{}, WrongStatus, 503)
	f("http"+respond("nonsense\r\n\r\n"), Options{}, Malformed, 0)
	f("http"+script(testkit.Receive(), testkit.Reset()), Options{}, Reset, 0)
	f("http"+script(testkit.Receive(), testkit.Close()), Options{}, ClosedEarly, 0)
	f("http"+script(testkit.Hang()), short, Timeout, 0)
	f("https"+script(testkit.ReceiveBytes(1), testkit.Close()), Options{}, TLSFailed, 0)
	f("http://"+testkit.DeadAddr(t), Options{}, ConnectRefused, 0)
	f("ws"+respond("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), Options{}, WrongStatus, 503)
	f("ws"+script(testkit.Hang()), short, Timeout, 0)
	f("ws://"+testkit.DeadAddr(t), Options{}, ConnectRefused, 0)
}

// errLate is a timeout of net's kind.
type errLate struct{}

func (errLate) Error() string   { return "late" }
func (errLate) Timeout() bool   { return true }
func (errLate) Temporary() bool { return true }

func TestKindOf(t *testing.T) {
	f := func(err error, want Kind) {
		t.Helper()
		if got := kindOf(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	f(errors.Join(errConnect, net.Error(errLate{})), ConnectTimeout)
	f(errors.Join(errTLS, context.DeadlineExceeded), TLSFailed)
	f(errors.Join(errConnect, syscall.ENETUNREACH), ConnectFailed)
	f(errBacklog, Backlog)
	if len(Kinds()) != int(kinds)-1 || OK.String() != "ok" || Backlog.String() != "backlog" {
		t.Error(Kinds())
	}
}

func TestTLS(t *testing.T) {
	cert := testcert.New(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go answerTLS(t, conn, cert)
		}
	}()
	o := Options{URL: "https://" + ln.Addr().String(), Target: target.Options{Insecure: true}, Rate: 100, Conns: 1}
	if got := sampled(t, Requests, o, first)[0]; got.Kind != OK {
		t.Errorf("%s, %v", got.Kind, got.Err)
	}
}

// Whatever the responses take, requests are due by the schedule, and what found no
// connection in time is told.
func TestOpenLoop(t *testing.T) {
	silent := testkit.NewScript(t, testkit.Hang())
	list := sampled(t, Requests, Options{URL: "http://" + silent.Addr(), Rate: 100, Conns: 1, Timeout: time.Second}, func(list []Sample) bool {
		has := func(k Kind) bool { return slices.ContainsFunc(list, func(s Sample) bool { return s.Kind == k }) }
		return has(Timeout) && has(Backlog)
	})
	for _, s := range list {
		if s.Took() < 0 {
			t.Errorf("took %v", s.Took())
		}
	}
}

// A kept connection that the server closed between two requests costs none.
func TestStaleConnection(t *testing.T) {
	backend := testkit.NewScript(t, append(testkit.Respond("HTTP/1.1 204 No\r\n\r\n"), testkit.Close())...)
	list := sampled(t, Requests, Options{URL: "http://" + backend.Addr(), Rate: 500, Conns: 1}, func(list []Sample) bool { return len(list) >= 5 })
	for _, s := range list {
		if s.Kind != OK {
			t.Errorf("%s: %v", s.Kind, s.Err)
		}
	}
}

func TestTunnels(t *testing.T) {
	e := testkit.NewEchoWS(t)
	o := Options{URL: "ws://" + e.Addr(), Rate: 300, Conns: 3}
	for _, s := range sampled(t, Tunnels, o, func(list []Sample) bool { return len(list) >= 12 }) {
		if s.Kind != OK {
			t.Errorf("%s: %v", s.Kind, s.Err)
		}
	}
	if _, ever := e.Open(); ever != 3 {
		t.Errorf("%d tunnels were opened, want 3", ever)
	}
	if errClosedKind := kindOf(errClosed); errClosedKind != ClosedEarly {
		t.Error(errClosedKind)
	}
	if got := closeCode(ws.NewCloseFrameBody(1012, "")); got != 1012 {
		t.Error(got)
	}
}

func TestOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if err := Requests(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	f(Options{URL: "http://a", Conns: 1}, ErrOptions)
	f(Options{URL: "http://a", Rate: 1}, ErrOptions)
	f(Options{URL: "ftp://a", Rate: 1, Conns: 1}, target.ErrURL)
	if err := Tunnels(t.Context(), Options{URL: "http://a", Rate: 1, Conns: 1}); !errors.Is(err, target.ErrURL) {
		t.Error(err)
	}
}

// answerTLS answers one request.
func answerTLS(t *testing.T, conn net.Conn, cert *testcert.Pair) {
	secure := tls.Server(conn, cert.ServerTLS(t))
	defer func() { _ = secure.Close() }()
	if _, err := testkit.ReadRequest(bufio.NewReader(secure)); err == nil {
		_, _ = secure.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	}
}

// A fresh connection for each request, although the server would keep it.
func TestFresh(t *testing.T) {
	server := testkit.NewScript(t, testkit.Respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")...)
	list := sampled(t, Requests, Options{URL: "http://" + server.Addr(), Rate: 100, Conns: 2, Fresh: true}, func(list []Sample) bool { return len(list) >= 5 })
	if server.Conns() < 5 || list[4].Kind != OK {
		t.Errorf("%d connections for %d requests: %+v", server.Conns(), len(list), list[4])
	}
}
