package fault

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/internal/unit"
)

// quiet is how long a test watches that nothing happens.
const quiet = 60 * time.Millisecond

// echo sends back what it gets, until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.(*net.TCPConn).CloseWrite()
				_ = conn.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

func proxied(t *testing.T, target string, o Options) *Proxy {
	t.Helper()
	o.Listen, o.Target = "127.0.0.1:0", target
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func set(t *testing.T, p *Proxy, f Fault) {
	t.Helper()
	if err := p.Set(f); err != nil {
		t.Fatal(err)
	}
}

// ask sends a text through an echo and checks that it comes back.
func ask(t *testing.T, c *testkit.Client, text string) {
	t.Helper()
	c.Send(text)
	if got := c.Next(len(text)); got != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

// wantReset reads until the end, which must be a reset.
func wantReset(t *testing.T, c *testkit.Client) {
	t.Helper()
	_ = c.Conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := io.Copy(io.Discard, c.Conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// openReset opens a connection, which must be reset, at once or later.
func openReset(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, testkit.Patience)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	wantReset(t, testkit.NewClient(t, conn))
}

// wantSilence sees that nothing comes, neither bytes nor an end.
func wantSilence(t *testing.T, c *testkit.Client) {
	t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(quiet))
	if n, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v; want silence", n, err)
	}
}

func TestPassesEverythingOn(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	text := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	go func() {
		_ = c.TrySend(text)
		_ = c.Conn.(*net.TCPConn).CloseWrite() // the FIN goes through, and what is under way with it
	}()
	if got := c.Rest(); got != text {
		t.Errorf("got %d bytes, want %d", len(got), len(text))
	}
	testkit.WaitUntil(t, "end of the connection", func() bool { return p.Counts().Open == 0 })
	if n := p.Counts(); n.Accepted != 1 || n.ToTarget != int64(len(text)) || n.ToClient != int64(len(text)) {
		t.Errorf("%+v", n)
	}
	p.Close()
	if err := p.Set(Fault{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed proxy took a fault: %v", err)
	}
}

func TestDelayOfOpenConnections(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	const delay = 40 * time.Millisecond
	f := func(f Fault, atLeast time.Duration) {
		t.Helper()
		set(t, p, f)
		began := time.Now()
		ask(t, c, "x")
		if took := time.Since(began); took < atLeast {
			t.Errorf("%+v: %v, want at least %v", f, took, atLeast)
		}
	}
	f(Fault{ToTarget: Shape{Delay: delay}}, delay)
	f(Fault{ToClient: Shape{Delay: delay}}, delay)
	f(Fault{ToTarget: Shape{Delay: delay}, ToClient: Shape{Delay: delay}}, 2*delay)
	f(Fault{}, 0)
}

// Many pieces under way at a time, with different delays, arrive in order, and the delay
// is not paid for each.
func TestJitterKeepsOrder(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	set(t, p, Fault{ToTarget: Shape{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond}, Seed: 3})
	c := testkit.Dial(t, p.Addr())
	var want strings.Builder
	for i := range 300 {
		piece := fmt.Sprintf("piece %d\n", i)
		want.WriteString(piece)
		c.Send(piece)
	}
	if got := c.Next(want.Len()); got != want.String() {
		t.Error("the order was not kept")
	}
}

func TestLineIsBounded(t *testing.T) {
	l := newLine(1000)
	done := make(chan struct{})
	piece := chunk{b: make([]byte, 400)}
	for i, want := range []bool{true, true, false} {
		if l.offer(piece) != want {
			t.Fatalf("piece %d of 400 bytes in 1000: room is not %v", i, want)
		}
	}
	pushed := make(chan bool)
	go func() { pushed <- l.push(done, piece) }()
	if _, ok := l.pop(done); !ok || !<-pushed {
		t.Error("room was made and not taken")
	}
	close(done)
	if l.push(done, piece) {
		t.Error("pushed behind the end")
	}
	big := newLine(10)
	if !big.offer(piece) {
		t.Error("a piece over the limit must have the line to itself")
	}
}

func TestBandwidth(t *testing.T) {
	const size, rate = 40_000, 200_000
	f := func(f Fault, conns int, atLeast time.Duration) {
		t.Helper()
		p := proxied(t, echo(t), Options{})
		set(t, p, f)
		began := time.Now()
		clients := make([]*testkit.Client, conns)
		for i := range clients {
			clients[i] = testkit.Dial(t, p.Addr())
			clients[i].Send(strings.Repeat("x", size))
		}
		for _, c := range clients {
			c.Next(size)
		}
		if took := time.Since(began); took < atLeast {
			t.Errorf("%+v: %d bytes took %v, want at least %v", f, conns*size, took, atLeast)
		}
	}
	// A portion of 20 ms is under way before it is paid for.
	f(Fault{ConnBandwidth: rate}, 1, 150*time.Millisecond)
	f(Fault{Bandwidth: rate}, 2, 350*time.Millisecond)
}

func TestBucket(t *testing.T) {
	var b bucket
	now := time.Unix(100, 0)
	if d := b.take(now, 500, 1000); d != 500*time.Millisecond {
		t.Error(d)
	}
	if d := b.take(now, 500, 1000); d != time.Second {
		t.Error(d)
	}
	if d := b.take(now.Add(5*time.Second), 100, 1000); d != 100*time.Millisecond {
		t.Errorf("%v: what was not used was saved", d)
	}
	if portion(10) != 1 || portion(1000) != 20 {
		t.Error(portion(10), portion(1000))
	}
}

func TestDrip(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	const each = 5 * time.Millisecond
	set(t, p, Fault{ToClient: Shape{Drip: each}})
	c := testkit.Dial(t, p.Addr())
	began := time.Now()
	ask(t, c, "0123456789")
	if took := time.Since(began); took < 9*each {
		t.Errorf("ten bytes took %v", took)
	}
	set(t, p, Fault{ToClient: Shape{Drip: time.Hour}})
	c.Send("ab")
	if got := c.Next(1); got != "a" {
		t.Errorf("got %q", got)
	}
	set(t, p, Fault{}) // ends the pause
	if got := c.Next(1); got != "b" {
		t.Errorf("got %q", got)
	}
}

func TestResets(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	open := func() *testkit.Client {
		c := testkit.Dial(t, p.Addr())
		ask(t, c, "warm")
		return c
	}
	c, other := open(), open()
	set(t, p, Fault{Reset: Reset{Now: true}})
	wantReset(t, c)
	wantReset(t, other)
	c = open() // new ones live

	set(t, p, Fault{Reset: Reset{Every: 5 * time.Millisecond}})
	wantReset(t, c)
	openReset(t, p.Addr())

	set(t, p, Fault{})
	c = open()
	set(t, p, Fault{Reset: Reset{After: 10}})
	ask(t, c, "12345")
	c.Send("1234567")
	if got := c.Next(5); got != "12345" {
		t.Errorf("got %q", got)
	}
	wantReset(t, c)

	set(t, p, Fault{Reset: Reset{AcceptPercent: 100}})
	openReset(t, p.Addr())
	set(t, p, Fault{Reset: Reset{AcceptPercent: 50}, Seed: 1})
	was, answered := p.Counts().Reset, 0
	for range 40 {
		if answers(p.Addr()) {
			answered++
		}
	}
	if answered < 8 || answered > 32 {
		t.Errorf("%d of 40 were answered, want about a half", answered)
	}
	testkit.WaitUntil(t, "count of the others", func() bool { return p.Counts().Reset-was >= int64(40-answered) })
}

// answers says whether a new connection echoes.
func answers(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, testkit.Patience)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

func TestSilentHoleHeals(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	set(t, p, Fault{Hole: HoleSilent})
	late := testkit.Dial(t, p.Addr())
	c.Send("one")
	late.Send("two")
	wantSilence(t, c)
	wantSilence(t, late)
	set(t, p, Fault{})
	for client, want := range map[*testkit.Client]string{c: "one", late: "two"} {
		if got := client.Next(3); got != want {
			t.Errorf("got %q behind the hole, want %q", got, want)
		}
	}
}

func TestRefusal(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	set(t, p, Fault{Hole: HoleRefuse})
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want a refusal", err)
	}
	ask(t, c, "still open")
	set(t, p, Fault{})
	ask(t, testkit.Dial(t, p.Addr()), "again")
}

func TestTLSHandshakeFailures(t *testing.T) {
	f := func(how Handshake, check func(error) bool) {
		t.Helper()
		p := proxied(t, echo(t), Options{})
		set(t, p, Fault{Handshake: how})
		conn := testkit.Dial(t, p.Addr())
		secure := tls.Client(conn.Conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // there is nobody to verify
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		if how == HandshakeStall {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), quiet)
		}
		defer cancel()
		if err := secure.HandshakeContext(ctx); err == nil || !check(err) {
			t.Errorf("%s: %v", how, err)
		}
		if n := p.Counts().Handshakes; n != 1 {
			t.Errorf("%s: %d handshakes were made fail", how, n)
		}
	}
	f(HandshakeGarbage, func(err error) bool { var e tls.RecordHeaderError; return errors.As(err, &e) })
	f(HandshakeClose, func(err error) bool { return errors.Is(err, io.EOF) })
	f(HandshakeReset, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) })
	f(HandshakeAlert, func(err error) bool { return strings.Contains(err.Error(), "handshake failure") })
	f(HandshakeStall, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) })

	// What is no TLS is treated alike, and a client that goes away is no handshake.
	p := proxied(t, echo(t), Options{})
	set(t, p, Fault{Handshake: HandshakeClose})
	testkit.Dial(t, p.Addr()).Close()
	c := testkit.Dial(t, p.Addr())
	c.Send("GET / HTTP/1.1\r\n\r\n")
	c.ExpectClosed()
}

func TestHalfOpen(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	set(t, p, Fault{HalfOpen: HalfOpenStall})
	late := testkit.Dial(t, p.Addr())
	c.Send("lost")
	late.Send("lost")
	wantSilence(t, c)
	set(t, p, Fault{}) // the dead do not come back
	wantSilence(t, c)
	wantSilence(t, late)
	ask(t, testkit.Dial(t, p.Addr()), "alive")
	if n := p.Counts(); n.Lost != 2 {
		t.Errorf("%+v", n)
	}
	c.Close()
	late.Reset()
	testkit.WaitUntil(t, "end of what the clients gave up", func() bool { return p.Counts().Open <= 1 })
}

// Where it is permitted, the client hears nothing until it sends, and then RST.
func TestVanish(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	set(t, p, Fault{HalfOpen: HalfOpenVanish})
	wantSilence(t, c)
	if n := p.Counts(); n.VanishFailed > 0 {
		c.Send("lost") // it stalls instead
		wantSilence(t, c)
		return
	}
	c.Send("anybody?")
	wantReset(t, c)
}

// flipped sends zeros through an echo and returns what came back.
func flipped(t *testing.T, f Fault, size int) string {
	t.Helper()
	p := proxied(t, echo(t), Options{})
	set(t, p, f)
	c := testkit.Dial(t, p.Addr())
	c.Send(strings.Repeat("\x00", size))
	got := c.Next(size)
	if hit := size - strings.Count(got, "\x00"); int64(hit) != p.Counts().Flipped {
		t.Errorf("%d bytes are hit, %d were counted", hit, p.Counts().Flipped)
	}
	return got
}

func TestFlipsAreRepeatable(t *testing.T) {
	const size = 50_000
	f := Fault{ToClient: Shape{Corrupt: Corrupt{PerMillion: 10_000}}, Seed: 7}
	first := flipped(t, f, size)
	if hit := size - strings.Count(first, "\x00"); hit < 250 || hit > 1000 {
		t.Errorf("%d of %d bytes were hit, want about 500", hit, size)
	}
	if flipped(t, f, size) != first {
		t.Error("the same seed flipped other bits")
	}
	f.Seed = 8
	if flipped(t, f, size) == first {
		t.Error("another seed flipped the same bits")
	}
	f.ToClient.Corrupt = Corrupt{PerMillion: 1e6, From: 10, To: 20}
	if got := flipped(t, f, 100); strings.Trim(got[:10]+got[20:], "\x00") != "" || strings.Contains(got[10:20], "\x00") {
		t.Errorf("hit %q, want bytes 10 to 19", got)
	}
}

const answered = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"

func TestFlipsByPart(t *testing.T) {
	backend := testkit.NewRecorder(t, func(*testkit.Request) []byte { return []byte(answered) })
	f := func(part Part, from, to unit.Size, wantHead, wantBody string) {
		t.Helper()
		p := proxied(t, backend.Addr(), Options{})
		set(t, p, Fault{ToClient: Shape{Corrupt: Corrupt{PerMillion: 1e6, Part: part, From: from, To: to}}})
		c := testkit.Dial(t, p.Addr())
		for i := range 2 { // each message has its own offsets
			c.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			got := c.Next(len(answered))
			mark := make([]byte, len(got))
			for i := range mark {
				mark[i] = ".x"[min(1, got[i]^answered[i])]
			}
			n := len(answered) - 10
			if head, body := string(bytes.TrimRight(mark[:n], ".")), string(mark[n:]); head != wantHead || body != wantBody {
				t.Errorf("%s, response %d: hit %q and %q, want %q and %q", part, i, head, body, wantHead, wantBody)
			}
		}
	}
	f(PartHead, 9, 12, ".........xxx", "..........")
	f(PartBody, 0, 4, "", "xxxx......")
	f(PartBody, 8, 0, "", "........xx")
}

func TestTruncation(t *testing.T) {
	backend := testkit.NewRecorder(t, func(*testkit.Request) []byte { return []byte(answered) })
	p := proxied(t, backend.Addr(), Options{HTTP: true})
	c := testkit.Dial(t, p.Addr())
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	c.Do(get)
	set(t, p, Fault{Truncate: unit.Size(len(answered) - 4)})
	c.Send(get)
	if got := c.Rest(); got != answered[:len(answered)-4] {
		t.Errorf("got %q", got)
	}
	raw := proxied(t, echo(t), Options{})
	set(t, raw, Fault{Truncate: 3})
	c = testkit.Dial(t, raw.Addr())
	c.Send("12345")
	if got := c.Rest(); got != "123" || raw.Counts().Truncated != 1 {
		t.Errorf("got %q, %+v", got, raw.Counts())
	}
}

func TestAnswers(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	p := proxied(t, backend.Addr(), Options{HTTP: true})
	c := testkit.Dial(t, p.Addr())
	const get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
	f := func(raw string, wantStatus int) *testkit.Response {
		t.Helper()
		resp := c.Do(raw)
		if resp.Status != wantStatus {
			t.Errorf("%.20q: status %d, want %d", raw, resp.Status, wantStatus)
		}
		return resp
	}
	f(get, 200)
	set(t, p, Fault{Answer: Answer{Status: 503, Percent: 100, RetryAfter: 1500 * time.Millisecond}})
	if got := f(get, 503).Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After is %q", got)
	}
	// Bodies of answered requests reach nobody, and the next request is found behind them.
	f("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345", 503)
	f("POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n12345\r\n0\r\nA: b\r\n\r\n", 503)
	set(t, p, Fault{Answer: Answer{Status: 503, Percent: 0}})
	f("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200)
	set(t, p, Fault{})
	f(get, 200)
	if got := backend.Requests(); len(got) != 3 || string(got[1].Body) != "abc" {
		t.Errorf("the backend got %d requests", len(got))
	}

	set(t, p, Fault{Answer: Answer{Status: 500, Percent: 40}, Seed: 5})
	seen := map[int]int{}
	for range 100 {
		seen[c.Do(get).Status]++
	}
	if seen[500] < 20 || seen[500] > 60 || seen[200]+seen[500] != 100 {
		t.Errorf("statuses %v, want about 40 of 500", seen)
	}
	set(t, p, Fault{Answer: Answer{Status: 502, Percent: 100}})
	f("POST /d HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 502)
	c.ExpectClosed()
}

// Connections that were opened before the fault are not followed.
func TestAnswersNeedHTTP(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	p := proxied(t, backend.Addr(), Options{})
	c := testkit.Dial(t, p.Addr())
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	c.Do(get)
	set(t, p, Fault{Answer: Answer{Status: 503, Percent: 100}})
	if got := c.Do(get).Status; got != 200 {
		t.Errorf("old connection: status %d", got)
	}
	if got := testkit.Exchange(t, p.Addr(), get).Status; got != 503 {
		t.Errorf("new connection: status %d", got)
	}
	c = testkit.Dial(t, p.Addr())
	long := "GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("x", maxHead) // goes through, if late
	c.Send(long)
	testkit.WaitUntil(t, "bytes of a head that is too long", func() bool { return p.Counts().ToTarget >= int64(len(long)) })
}

// An upgrade is no request any more, in either direction.
func TestUpgradesPass(t *testing.T) {
	e := testkit.NewEchoWS(t)
	p := proxied(t, e.Addr(), Options{HTTP: true})
	c := testkit.DialWS(t, "ws://"+p.Addr(), nil, nil)
	c.SendText("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := c.Text(); !strings.HasPrefix(got, "GET /") {
		t.Errorf("got %q", got)
	}
}

func TestBounds(t *testing.T) {
	p := proxied(t, echo(t), Options{MaxConns: 1})
	ask(t, testkit.Dial(t, p.Addr()), "first")
	openReset(t, p.Addr())
	dead := proxied(t, testkit.DeadAddr(t), Options{})
	openReset(t, dead.Addr())
	if n := dead.Counts().DialFailed; n != 1 {
		t.Errorf("%d dials failed", n)
	}
}

func TestSetFails(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	f := func(fault Fault, want string) {
		t.Helper()
		if err := p.Set(fault); !errors.Is(err, ErrFault) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", fault, err, want)
		}
	}
	f(Fault{Hole: "deep"}, "hole")
	f(Fault{HalfOpen: "x"}, "half_open")
	f(Fault{Handshake: "x"}, "handshake")
	f(Fault{Answer: Answer{Status: 100}}, "answer.status")
	f(Fault{Answer: Answer{Percent: 101}}, "answer.percent")
	f(Fault{Reset: Reset{AcceptPercent: -1}}, "accept_percent")
	f(Fault{ToClient: Shape{Corrupt: Corrupt{PerMillion: 1e7}}}, "per_million")
	f(Fault{ToTarget: Shape{Corrupt: Corrupt{Part: "tail"}}}, "part")
	f(Fault{Clock: time.Hour}, "clock")
	if _, err := New(Options{Listen: "127.0.0.1:0", Target: "nowhere"}); err == nil {
		t.Error("a target without a port")
	}
	if _, err := New(Options{Listen: p.Addr(), Target: "127.0.0.1:1"}); err == nil {
		t.Error("an address twice")
	}
}
