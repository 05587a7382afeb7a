package proxy

import (
	"strings"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

const continueLine = "HTTP/1.1 100 Continue\r\n\r\n"

// expecting is a POST of n bytes that waits for 100 Continue.
func expecting(n string) string {
	return request("POST", "/", "Expect: 100-continue", "Content-Length: "+n)
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(continueLine), testkit.ReceiveBytes(5), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	for range 2 {
		c.Send(expecting("5"))
		c.Until(continueLine)
		c.Send("hello")
		resp := c.Response("POST")
		expectStatus(t, "after 100", resp, 200, "ok")
		if resp.Get("Connection") != "" || len(resp.Interim) > 0 {
			t.Errorf("want one 100 and a connection that goes on, got %q", resp.Raw)
		}
	}
	if be.Conns() != 1 {
		t.Errorf("%d backend connections, want 1", be.Conns())
	}
}

// TestExpectRefused has the backend answer without reading the body: the client
// never sends it.
func TestExpectRefused(t *testing.T) {
	t.Parallel()
	f := func(status string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send("HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nno"))
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		c.Send(expecting("5"))
		resp := c.Response("POST")
		if got := strings.TrimPrefix(strings.SplitN(string(resp.Raw), "\r\n", 2)[0], "HTTP/1.1 "); got != status || len(resp.Interim) > 0 {
			t.Errorf("got %q with interim %v, want %s alone", got, resp.Interim, status)
		}
		// Where the next request begins is unknown: the client may send the body or not.
		if resp.Get("Connection") != "close" {
			t.Errorf("%s: Connection %q, want close", status, resp.Get("Connection"))
		}
		c.ExpectClosed()
		g.waitEnd(reason.OK, 1)
	}
	f("417 Expectation Failed")
	f("413 Content Too Large")
	f("401 Unauthorized")
	f("200 OK")
}

// TestExpectSilence has a backend that knows no expectation: the gateway lets the
// client go on after a while, once, even if the backend says 100 later.
func TestExpectSilence(t *testing.T) {
	t.Parallel()
	f := func(steps ...testkit.Step) {
		t.Helper()
		be := testkit.NewScript(t, steps...)
		g := newGateway(t, toBackend(be.Addr()))
		c := g.dial()
		c.Send(expecting("5"))
		c.Until(continueLine)
		c.Send("hello")
		resp := c.Response("POST")
		expectStatus(t, "after silence", resp, 200, "ok")
		if len(resp.Interim) > 0 {
			t.Errorf("a second 100: %v", resp.Interim)
		}
	}
	f(testkit.Receive(), testkit.Send(string(testkit.OK("ok"))))
	f(testkit.ReceiveHead(), testkit.ReceiveBytes(5), testkit.Send(continueLine+string(testkit.OK("ok"))))
}

func TestExpectOddities(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(raw string, status int, expect string) {
		t.Helper()
		be.Forget()
		resp := g.do(raw)
		expectStatus(t, raw, resp, status)
		if status != 200 {
			return
		}
		if got := be.WaitRequests(t, 1)[0].Get("Expect"); got != expect || len(resp.Interim) > 0 {
			t.Errorf("%q: the backend got Expect %q, want %q; interim %v", raw, got, expect, resp.Interim)
		}
	}
	// The client did not wait: the body is here, so nothing is left to expect.
	f(expecting("2")+"hi", 200, "")
	f(request("POST", "/", "Expect: 100-Continue", "Transfer-Encoding: chunked")+"0\r\n\r\n", 200, "")
	// HTTP/1.0 knows no expectations, and no 1xx.
	f("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", 200, "")
	f(request("POST", "/", "Expect: the-unexpected", "Content-Length: 0"), 417, "")
}

// TestExpectBodyPartlyHere sends a part of the body with the head.
func TestExpectBodyPartlyHere(t *testing.T) {
	t.Parallel()
	be := testkit.NewScript(t, testkit.ReceiveHead(), testkit.Send(continueLine), testkit.ReceiveBytes(5), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(expecting("5") + "he")
	c.Until(continueLine)
	c.Send("llo")
	expectStatus(t, "body in two parts", c.Response("POST"), 200, "ok")
}

func TestInterimResponses(t *testing.T) {
	t.Parallel()
	const early = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
	f := func(raw, sent string, want ...string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Receive(), testkit.Send(sent+string(testkit.OK("ok"))))
		g := newGateway(t, toBackend(be.Addr()))
		resp := g.do(raw)
		expectStatus(t, raw, resp, 200, "ok")
		var got []string
		for _, i := range resp.Interim {
			got = append(got, string(i.Raw))
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%q and %q: the client got interim %q, want %q", raw, sent, got, want)
		}
	}
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
	f(get("/"), early, hint)
	f(get("/"), early+"HTTP/1.1 102 Processing\r\n\r\n"+early, hint, "HTTP/1.1 102 Processing\r\n\r\n", hint)
	// A 100 that this client did not ask for is dropped (RFC 9110 section 15.2).
	f(get("/"), continueLine)
	f(get("/"), continueLine+early+continueLine, hint)
	// HTTP/1.0 has no interim responses.
	f("GET / HTTP/1.0\r\n\r\n", early)
}

// TestInterimArrivesEarly passes a 103 on before the final response is there.
func TestInterimArrivesEarly(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	be := testkit.NewScript(t, testkit.Receive(), testkit.Send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), testkit.WaitFor(next), testkit.Send(string(testkit.OK("ok"))))
	g := newGateway(t, toBackend(be.Addr()))
	c := g.dial()
	c.Send(get("/"))
	c.Until("Link: x\r\n\r\n")
	close(next)
	expectStatus(t, "final", c.Response("GET"), 200, "ok")
}
