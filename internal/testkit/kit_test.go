package testkit

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/internal/testcert"
)

func TestRecorder(t *testing.T) {
	r := NewRecorder(t, func(req *Request) []byte { return OK(req.Method + " " + req.Target) })
	c := Dial(t, r.Addr())
	if got := string(c.Do("POST /a HTTP/1.1\r\nhOST: x\r\nContent-Length: 2\r\n\r\nhi").Body); got != "POST /a" {
		t.Errorf("answer %q", got)
	}
	c.Do("GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
	c.Send("GET /c HTTP/1.1\r\nHost : x\r\n\r\n")
	c.ExpectClosed()
	reqs := r.WaitRequests(t, 2)
	if reqs[0].Fields[0].Name != "hOST" || string(reqs[0].Body) != "hi" || reqs[1].Target != "/b" {
		t.Errorf("recorded %+v", reqs)
	}
	r.WaitIdle(t)
	if flaws := r.Flaws(); len(flaws) != 1 || flaws[0].Rule != "space-before-colon" {
		t.Errorf("flaws %v", flaws)
	}
	if conns := r.Conns(); len(conns) != 1 || !conns[0].Done || len(conns[0].Raw) < 100 {
		t.Errorf("connections %+v", conns)
	}
	r.Forget()
	if conns := r.Conns(); len(conns) != 0 {
		t.Errorf("after Forget %+v", conns)
	}
}

func TestScript(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	// f plays the steps and compares the rule that the response breaks.
	f := func(name, wantRule string, steps ...Step) {
		t.Run(name, func(t *testing.T) {
			s := NewScript(t, steps...)
			c := Dial(t, s.Addr())
			c.Send(get)
			_, err := c.TryResponse("GET")
			if got := RuleOf(err); got != wantRule {
				t.Errorf("%v, want %q", err, wantRule)
			}
			if s.Conns() != 1 {
				t.Errorf("%d connections", s.Conns())
			}
		})
	}
	f("whole", "", Respond(string(OK("hi")))...)
	f("split", "", Receive(), SendSplit(string(OK("hi")), 20, time.Millisecond))
	f("head only", "", ReceiveHead(), Send(string(OK("hi"))))
	f("by bytes", "", ReceiveBytes(len(get)), Send(string(OK("hi"))))
	f("paused", "", Receive(), Pause(time.Millisecond), Send(string(OK("hi"))))
	f("cut", "cut", Receive(), Send("HTTP/1.1 200 OK\r\n"), Close())
	f("half-closed", "cut", Receive(), Send("HTTP/1.1 200 OK\r\n"), CloseWrite(), Hang())
	f("silent", "end", Receive(), Close())
	f("reset", "io", Receive(), Reset())
}

func TestScriptKeepsAlive(t *testing.T) {
	s := NewScript(t, Respond(string(OK("hi")))...)
	c := Dial(t, s.Addr())
	for range 3 {
		c.Do("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	if s.Conns() != 1 || s.Requests() != 3 {
		t.Errorf("%d requests on %d connections", s.Requests(), s.Conns())
	}
}

func TestScriptHangsUntilTheTestEnds(t *testing.T) {
	t.Run("inner", func(t *testing.T) {
		s := NewScript(t, Receive(), WaitFor(nil))
		c := Dial(t, s.Addr())
		c.Timeout = 20 * time.Millisecond
		c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := c.TryResponse("GET"); RuleOf(err) != "io" {
			t.Errorf("%v, want a timeout", err)
		}
	})
}

func TestEchoWS(t *testing.T) {
	e := NewEchoWS(t)
	c := DialWS(t, "ws://"+e.Addr()+"/any", nil, map[string]string{"X-Any": "1"})
	for _, message := range []string{"", "hi", string(make([]byte, 70000))} {
		if c.SendText(message); c.Text() != message {
			t.Errorf("echo of %d bytes differs", len(message))
		}
	}
	c.Ping("there?")
	if now, ever := e.Open(); now != 1 || ever != 1 {
		t.Errorf("open %d, ever %d", now, ever)
	}
	if code := c.Close(ws.StatusNormalClosure, "bye"); code != ws.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
}

func TestClientHalves(t *testing.T) {
	server, client := TCPPair(t)
	a, b := NewClient(t, server), NewClient(t, client)
	a.SendEach(func() { b.Until("one") }, "one", "two")
	a.CloseWrite()
	if rest := b.Rest(); rest != "two" {
		t.Errorf("got %q", rest)
	}
	b.Send("back")
	if got := a.Next(4); got != "back" {
		t.Errorf("got %q", got)
	}
	b.Reset()
	a.ExpectClosed()
}

func TestTLSPair(t *testing.T) {
	pair := testcert.New(t, "a.test")
	server, client := TLSPair(t, pair.ServerTLS(t), pair.ClientTLS("a.test"))
	a, b := NewClient(t, server), NewClient(t, client)
	a.Send("hi")
	if got := b.Next(2); got != "hi" || client.ConnectionState().Version != tls.VersionTLS13 {
		t.Errorf("got %q", got)
	}
	b.CloseWrite()
	a.ExpectClosed()
}

func TestSumMetric(t *testing.T) {
	const exposition = "# HELP a_total\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3.5\na_totals 9\n"
	f := func(prefix string, want float64) {
		t.Helper()
		if got := SumMetric(exposition, prefix); got != want {
			t.Errorf("%s: %v, want %v", prefix, got, want)
		}
	}
	f("a_total{", 5.5)
	f(`a_total{x="1"}`, 2)
	f("b", 0)
}
