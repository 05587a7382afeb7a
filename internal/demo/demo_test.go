package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/config"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// running starts a fast demonstration, which must stop in order.
func running(t *testing.T) *Demo {
	t.Helper()
	d, err := start(t.Context(), time.Millisecond, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return d
}

func TestHTTPBackend(t *testing.T) {
	d := running(t)
	c := testkit.Dial(t, d.Quotes[0].Addr)
	// f compares the status and looks for a text in the body.
	f := func(request string, wantStatus int, wantInBody string) {
		t.Helper()
		line, rest, _ := strings.Cut(request, "\n")
		fields, body, _ := strings.Cut(rest, "\n\n")
		raw := line + " HTTP/1.1\r\nHost: a\r\n"
		for field := range strings.Lines(fields) {
			raw += strings.TrimSpace(field) + "\r\n"
		}
		resp := c.Do(raw + "\r\n" + body)
		if resp.Status != wantStatus || !strings.Contains(string(resp.Body), wantInBody) {
			t.Errorf("%s: %d %.300q, want %d with %q", line, resp.Status, resp.Body, wantStatus, wantInBody)
		}
		if got := resp.Get("X-Backend"); got != "quotes-1" {
			t.Errorf("%s: X-Backend %q", line, got)
		}
	}
	f("GET /", 200, "new WebSocket")
	f("GET /health", 200, "ok")
	f("GET /quotes", 200, `"BTC-USD"`)
	f("GET /quotes/BTC-USD", 200, `"symbol":"BTC-USD"`)
	f("GET /quotes/NONE", 404, "no symbol")
	f("GET /orders/42", 200, `"id":42`)
	f("GET /orders/x", 404, "number")
	f("POST /orders\nContent-Length: 9\n\n"+`{"a":"b"}`, 201, "accepted")
	f("POST /orders\nContent-Length: 4\n\nnull", 400, "JSON")
	f("POST /orders\nContent-Length: 1\n\n[", 400, "JSON")
	f("PATCH /echo?x=%41\nx-ODD: v\nContent-Length: 2\n\nhi", 200, "PATCH /echo?x=%41 HTTP/1.1\r\nHost: a\r\nx-ODD: v\r\nContent-Length: 2\r\n\r\nhi")
	f("POST /echo\nTransfer-Encoding: chunked\n\n2\r\nhi\r\n0\r\n\r\n", 200, "\r\n\r\nhi")
	f("GET /slow?ms=1", 200, "slept_ms")
	f("GET /slow?ms=60001", 400, "60000")
	f("GET /slow", 400, "60000")
	f("GET /status/503", 503, "503 Service Unavailable")
	f("GET /status/204", 204, "")
	f("GET /status/101", 400, "200 to 599")
	f("GET /bytes/65", 200, strings.Repeat("0", 63)+"\n0")
	f("GET /bytes/6400", 200, "98\n"+strings.Repeat("0", 61)+"99\n")
	f("GET /bytes/3?chunked=1", 200, "000")
	f("HEAD /bytes/1000", 200, "")
	f("GET /bytes/-1", 400, "16 GiB")
	f("PUT /upload\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n", 200, `"bytes":5`)
	f("POST /upload\nContent-Length: 4\n\nabcd", 200, `"bytes":4`)
	f("GET /none", 404, "")
	// A body that no handler reads must not become the next request.
	f("POST /status/200\nContent-Length: 31\n\nGET /smuggled HTTP/1.1\r\nHost: a", 200, "200 OK")
	f("GET /health", 200, "ok")
}

func TestUnreadLongBodyCostsTheConnection(t *testing.T) {
	d := running(t)
	c := testkit.Dial(t, d.Orders.Addr)
	c.Send(fmt.Sprintf("POST /status/200 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", 2*maxDrain, strings.Repeat("x", maxDrain+1)))
	if resp := c.Response("POST"); resp.Status != 200 || resp.Get("Connection") != "close" {
		t.Errorf("%d, Connection %q", resp.Status, resp.Get("Connection"))
	}
	c.Rest()
}

func TestUploadAndDownloadInBoundedMemory(t *testing.T) {
	d := running(t)
	const size = 64 << 20
	grown := heapGrowth(func() {
		c := testkit.Dial(t, d.Quotes[0].Addr)
		c.Send(fmt.Sprintf("PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		piece := strings.Repeat("x", 1<<20)
		for range size / len(piece) {
			c.Send(piece)
		}
		if got := string(c.Response("PUT").Body); !strings.Contains(got, fmt.Sprint(size)) {
			t.Errorf("upload: %s", got)
		}
		c.Send(fmt.Sprintf("GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n", size))
		c.Until("\r\n\r\n")
		for range size / len(piece) {
			c.Next(len(piece))
		}
	})
	if grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
}

// heapGrowth returns by how many bytes do made the heap take from the system.
func heapGrowth(do func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	do()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapSys) - int64(before.HeapSys)
}

func TestEvents(t *testing.T) {
	d := running(t)
	c := testkit.Dial(t, d.Quotes[1].Addr)
	c.Send("GET /events?symbol=AAPL HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.Until("\r\n\r\n"); !strings.Contains(head, "Content-Type: text/event-stream") {
		t.Errorf("head %q", head)
	}
	for _, id := range []string{"id: 1\n", "id: 2\n", "id: 3\n"} {
		c.Until(id)
		c.Until(`"symbol":"AAPL"`)
	}
	if err := d.Close(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if rest := c.Rest(); !strings.HasSuffix(rest, "0\r\n\r\n") {
		t.Errorf("the stream was cut: ...%.100q", rest)
	}
}

func TestFeed(t *testing.T) {
	d := running(t)
	c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws", nil, nil)
	c.Ping("there?")
	c.SendText(`{"op":"list"}`)
	expect(t, c, `"symbols":["BTC-USD"`)
	c.SendText(`{"op":"subscribe","symbols":["BTC-USD","NVDA"]}`)
	expect(t, c, `{"symbols":["BTC-USD","NVDA"],"type":"subscribed"}`)
	seqs := map[string]uint64{}
	for range 50 {
		var q Quote
		if err := json.Unmarshal([]byte(c.Text()), &q); err != nil {
			t.Fatal(err)
		}
		if last, ok := seqs[q.Symbol]; ok && q.Seq != last+1 {
			t.Errorf("%s: tick %d after %d", q.Symbol, q.Seq, last)
		}
		if q.Bid >= q.Ask || q.Last <= 0 || q.Time == 0 {
			t.Errorf("odd quote %+v", q)
		}
		seqs[q.Symbol] = q.Seq
	}
	if len(seqs) != 2 || seqs["BTC-USD"] == 0 || seqs["NVDA"] == 0 {
		t.Errorf("ticks of %v", seqs)
	}
	c.SendText(`{"op":"unsubscribe","symbols":["*"]}`)
	for !strings.Contains(c.Text(), `"unsubscribed"`) {
	}
	c.SendText(`{"op":"list"}`) // nothing comes between
	expect(t, c, `"type":"symbols"`)
	if code := c.Close(4001, "bye"); code != 4001 {
		t.Errorf("closed with %d", code)
	}
}

// expect reads one text message, which must contain want.
func expect(t *testing.T, c *testkit.WSClient, want string) {
	t.Helper()
	if got := c.Text(); !strings.Contains(got, want) {
		t.Fatalf("message %q, want %q", got, want)
	}
}

func TestFeedByQuery(t *testing.T) {
	d := running(t)
	c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws?symbols=AAPL,MSFT", nil, nil)
	expect(t, c, `"subscribed"`)
	expect(t, c, `"symbol":"AAPL"`)
	c = testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws?symbols=NONE", nil, nil)
	expect(t, c, `no symbol \"NONE\"`)
}

func TestFeedMistakesAreAnswered(t *testing.T) {
	d := running(t)
	c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws", nil, nil)
	f := func(message, want string) {
		t.Helper()
		c.SendText(message)
		expect(t, c, want)
	}
	f(`{`, `"type":"error"`)
	f(`{"op":"buy"}`, `no op \"buy\"`)
	f(`{"op":"subscribe","symbols":["BTC-USD","NONE"]}`, `no symbol \"NONE\"`)
	f(`{"op":"unsubscribe","symbols":["NONE"]}`, `no symbol \"NONE\"`)
}

func TestFeedProtocolErrorsClose(t *testing.T) {
	d := running(t)
	f := func(name string, want ws.StatusCode, frames ...ws.Frame) {
		t.Run(name, func(t *testing.T) {
			c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws", nil, nil)
			for _, frame := range frames {
				if err := ws.WriteFrame(c.Conn, frame); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.Conn.SetDeadline(time.Now().Add(testkit.Patience))
			if got := c.Frame(); got.Header.OpCode != ws.OpClose {
				t.Fatalf("frame %+v", got.Header)
			} else if code, _ := ws.ParseCloseFrameData(got.Payload); code != want {
				t.Errorf("closed with %d, want %d", code, want)
			}
		})
	}
	masked := func(op ws.OpCode, fin bool, payload string) ws.Frame {
		return ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload)))
	}
	f("binary", ws.StatusUnsupportedData, masked(ws.OpBinary, true, "{}"))
	f("not masked", ws.StatusProtocolError, ws.NewTextFrame([]byte("{}")))
	f("not UTF-8", ws.StatusInvalidFramePayloadData, masked(ws.OpText, true, "\xff"))
	f("too long", ws.StatusMessageTooBig, masked(ws.OpText, true, strings.Repeat("x", maxInput+1)))
	f("too long in fragments", ws.StatusMessageTooBig, masked(ws.OpText, false, strings.Repeat("x", maxInput)), masked(ws.OpContinuation, true, "x"))
	f("stray continuation", ws.StatusProtocolError, masked(ws.OpContinuation, true, "x"))
	f("close of one byte", ws.StatusProtocolError, masked(ws.OpClose, true, "x"))
	f("close with a bad code", ws.StatusProtocolError, masked(ws.OpClose, true, "\x03\xed"))
	f("close without a code", 0, masked(ws.OpClose, true, ""))
}

func TestFeedFragmentsWithPingBetween(t *testing.T) {
	d := running(t)
	c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws", nil, nil)
	for _, frame := range []ws.Frame{
		ws.NewFrame(ws.OpText, false, []byte(`{"op":`)),
		ws.NewPingFrame([]byte("mid")),
		ws.NewFrame(ws.OpContinuation, true, []byte(`"list"}`)),
	} {
		if err := ws.WriteFrame(c.Conn, ws.MaskFrame(frame)); err != nil {
			t.Fatal(err)
		}
	}
	if f := c.Frame(); f.Header.OpCode != ws.OpPong || string(f.Payload) != "mid" {
		t.Errorf("%+v", f)
	}
	expect(t, c, `"type":"symbols"`)
}

func TestFeedRefusesBadHandshakes(t *testing.T) {
	d := running(t)
	const sound = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	f := func(request string, want int) {
		t.Helper()
		if got := testkit.Exchange(t, d.MarketData.Addr, request+"\r\n").Status; got != want {
			t.Errorf("%q: %d, want %d", request, got, want)
		}
	}
	f("GET /ws HTTP/1.1\r\nHost: a\r\n"+sound, 101)
	f("GET /ws HTTP/1.1\r\nHost: a\r\n"+strings.ToLower(sound[:60])+sound[60:], 101)
	f("GET /ws HTTP/1.1\r\nHost: a\r\n", 426)
	f("GET /ws HTTP/1.1\r\nHost: a\r\n"+strings.Replace(sound, "13", "8", 1), 426)
	f("GET /ws HTTP/1.1\r\nHost: a\r\n"+strings.Replace(sound, "ZQ==", "", 1), 400)
	f("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"+sound, 405)
	f("GET /ws HTTP/1.0\r\n"+sound, 405)
	f("GET /other HTTP/1.1\r\nHost: a\r\n"+sound, 404)
}

func TestSlowConsumerIsDropped(t *testing.T) {
	server, client := testkit.TCPPair(t)
	m := newMarket()
	s := &session{market: m, conn: server, out: make(chan []byte, queueLen), ending: make(chan struct{})}
	if !m.join(s) || m.subscribe(s, []string{"*"}) != "" {
		t.Fatal("no session")
	}
	for range 10 * queueLen { // nobody writes: the queue fills up
		m.tick(time.Now())
	}
	select {
	case <-s.ending:
	default:
		t.Fatal("not dropped")
	}
	if err := s.writeLoop(); err != nil {
		t.Fatal(err)
	}
	m.leave(s)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	rest := testkit.NewClient(t, client).Rest()
	if !strings.Contains(rest, "slow consumer") {
		t.Errorf("no reason in the close frame: ...%q", rest[max(0, len(rest)-100):])
	}
}

func TestCloseEndsSessions(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d, err := start(ctx, time.Millisecond, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	c := testkit.DialWS(t, "ws://"+d.MarketData.Addr+"/ws?symbols=*", nil, nil)
	expect(t, c, "subscribed")
	cancel() // as Close, but from outside
	for {
		f := c.Frame()
		if f.Header.OpCode != ws.OpClose {
			continue
		}
		if code, why := ws.ParseCloseFrameData(f.Payload); code != ws.StatusGoingAway {
			t.Errorf("closed with %d %q", code, why)
		}
		break
	}
	if err := d.Close(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestConfigIsSound(t *testing.T) {
	d := running(t)
	pair := testcert.New(t, "localhost", "127.0.0.1")
	dir := filepath.Join(t.TempDir(), `odd "name"`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	pair.Write(t, cert, key)
	text := d.ConfigYAML(cert, key)
	c, report := config.Parse("demo.yaml", text)
	if err := report.Err(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(c.Routes) < 10 || len(c.Upstreams) != 3 || c.Listeners[1].TLS.Certificates[0].KeyFile != key {
		t.Errorf("decoded %d routes, %d upstreams, %+v", len(c.Routes), len(c.Upstreams), c.Listeners[1].TLS)
	}
}

func TestHints(t *testing.T) {
	hints := running(t).Hints()
	for _, want := range []string{PlainAddr, TLSAddr, AdminAddr, fmt.Sprintf("kill -TERM %d", os.Getpid())} {
		if !strings.Contains(hints, want) {
			t.Errorf("hints do not mention %q", want)
		}
	}
	// A shell must not read anything into the URLs.
	if m := regexp.MustCompile(`[^'=]https?://[^ ]*[?&*][^ ]*`).FindString(hints); m != "" {
		t.Errorf("not quoted: %q", m)
	}
}
