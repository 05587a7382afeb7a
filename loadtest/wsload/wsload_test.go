package wsload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
	"tickgate/loadtest/target"
)

// started runs a server until the test ends and returns its address.
func started(t *testing.T, run func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return ln.Addr().String()
}

func backend(t *testing.T, o BackendOptions) (*Backend, string) {
	t.Helper()
	b, err := NewBackend(o)
	if err != nil {
		t.Fatal(err)
	}
	return b, started(t, b.Serve)
}

// runWith runs a client with some defaults.
func runWith(t *testing.T, o Options) *Result {
	t.Helper()
	if o.Mode == "" {
		o.Mode = Echo
	}
	if o.Messages == 0 {
		o.Messages = 2000
	}
	if o.Size == 0 {
		o.Size = 200
	}
	if o.Duration == 0 && o.Mode != Idle {
		o.Duration = 200 * time.Millisecond
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEcho(t *testing.T) {
	cert := testcert.New(t)
	certFile, keyFile := cert.Files(t)
	b, addr := backend(t, BackendOptions{})
	gateway := started(t, func(ctx context.Context, ln net.Listener) error {
		return baseline.Serve(ctx, ln, baseline.Options{Backend: addr, CertFile: certFile, KeyFile: keyFile})
	})
	f := func(name string, o Options) {
		t.Run(name, func(t *testing.T) {
			before := b.Counts()
			var stages []Stage
			o.Reached = func(s Stage) { stages = append(stages, s) }
			r := runWith(t, o)
			if !slices.Equal(stages, []Stage{Opened, TrafficBegan, TrafficEnded}) {
				t.Errorf("stages %v", stages)
			}
			after := b.Counts()
			if !r.Flawless() || r.Opened != int64(o.Tunnels) || r.Sent < 10 || r.Received != r.Sent || r.MessageTime.Count != uint64(r.Sent) || r.CPUSeconds <= 0 {
				t.Errorf("%+v", r)
			}
			if after.Received-before.Received != r.Sent || after.Broken != before.Broken {
				t.Errorf("the backend: %+v, then %+v", before, after)
			}
		})
	}
	f("one", Options{URL: "ws://" + addr, Tunnels: 1})
	f("many", Options{URL: "ws://" + addr + "/a?b=c", Tunnels: 50, Rate: 5000})
	f("text", Options{URL: "ws://" + addr, Tunnels: 7, Text: true, Size: MinSize})
	f("large", Options{URL: "ws://" + addr, Tunnels: 2, Size: 300_000, Messages: 100})
	f("source addresses", Options{URL: "ws://" + addr, Tunnels: 9, Target: target.Options{Sources: 4}})
	f("TLS", Options{URL: "wss://" + gateway, Tunnels: 5, Target: target.Options{Insecure: true}})
}

func TestIdleUntilStopped(t *testing.T) {
	b, addr := backend(t, BackendOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := Run(ctx, Options{URL: "ws://" + addr, Tunnels: 20, Mode: Idle, Progress: func(text string) {
		if text == "traffic begins" {
			for b.Open() != 20 { // the backend counts a tunnel after it has answered
				if t.Context().Err() != nil {
					return
				}
				runtime.Gosched()
			}
			cancel()
		}
	}})
	if err != nil || !r.Flawless() || r.Opened != 20 || r.Sent != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := b.Counts(); got.Broken != 0 || got.Upgraded != 20 {
		t.Errorf("the backend: %+v", got)
	}
}

func TestTicks(t *testing.T) {
	_, addr := backend(t, BackendOptions{Ticks: 2000, Size: 200, Text: true})
	r := runWith(t, Options{URL: "ws://" + addr, Tunnels: 10, Mode: Ticks})
	if !r.Flawless() || r.Sent != 0 || r.Received < 100 || r.MessageTime.P50 <= 0 || r.MessageTime.P50 > 1e6 {
		t.Errorf("%+v", r)
	}
}

// server is a scripted server: it upgrades, takes one message of the client, lets
// speak do what it likes, and waits for the client to leave.
func server(t *testing.T, speak func(conn net.Conn, echo []byte) error) string {
	t.Helper()
	return testkit.NewScript(t, testkit.Handle(func(r *bufio.Reader, conn *net.TCPConn) error {
		rw := struct {
			io.Reader
			io.Writer
		}{r, conn}
		if _, err := ws.Upgrade(rw); err != nil {
			return err
		}
		for {
			h, payload, err := clientFrame(r)
			if err != nil || h.OpCode == ws.OpClose {
				return err
			}
			if h.OpCode == ws.OpBinary {
				if err := speak(conn, payload); err != nil {
					return err
				}
				break
			}
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})).Addr()
}

// clientFrame reads a client's frame of at most 64 KiB.
func clientFrame(r io.Reader) (ws.Header, []byte, error) {
	h, err := ws.ReadHeader(r)
	if err != nil || h.Length > 64<<10 {
		return h, nil, errors.Join(err, fmt.Errorf("frame of %d bytes", h.Length))
	}
	payload := make([]byte, h.Length)
	_, err = io.ReadFull(r, payload)
	ws.Cipher(payload, h.Mask, 0)
	return h, payload, err
}

func TestEndsAreTold(t *testing.T) {
	f := func(name, wantEnd string, speak func(conn net.Conn, echo []byte) error) {
		t.Run(name, func(t *testing.T) {
			r := runWith(t, Options{URL: "ws://" + server(t, speak), Tunnels: 2, Messages: 100, Duration: time.Minute})
			if r.Ended[wantEnd] != 2 || r.Lost() != 2 || r.Flawless() || r.BusiestSecond <= 0 {
				t.Errorf("%+v, want 2 ends as %q", r, wantEnd)
			}
		})
	}
	send := func(conn net.Conn, frame []byte) error {
		_, err := conn.Write(frame)
		return err
	}
	closed := func(conn net.Conn, body []byte) error {
		if err := send(conn, appendFrame(nil, ws.OpClose, body)); err != nil {
			return err
		}
		return conn.(*net.TCPConn).CloseWrite()
	}
	f("close code", "1012", func(conn net.Conn, _ []byte) error { return closed(conn, ws.NewCloseFrameBody(1012, "bye")) })
	f("no code", "none", func(conn net.Conn, _ []byte) error { return closed(conn, nil) })
	f("FIN", "eof", func(conn net.Conn, _ []byte) error { return conn.Close() })
	f("FIN within a frame", "eof_in_frame", func(conn net.Conn, _ []byte) error {
		if err := send(conn, []byte{0x82, 10, 1}); err != nil {
			return err
		}
		return conn.(*net.TCPConn).CloseWrite()
	})
	f("RST", "reset", func(conn net.Conn, _ []byte) error {
		_ = conn.(*net.TCPConn).SetLinger(0)
		return conn.Close()
	})
	f("masked frame", "error", func(conn net.Conn, _ []byte) error { return send(conn, appendMasked(nil, ws.OpText, []byte("x"))) })
}

func TestFlawsAreTold(t *testing.T) {
	// f has a server answer the first message with others, and then close.
	f := func(name string, wrong func(*Result) int64, want int64, answers func(m message) []message) {
		t.Run(name, func(t *testing.T) {
			r := runWith(t, Options{URL: "ws://" + server(t, func(conn net.Conn, echo []byte) error {
				m, err := parse(echo)
				if err != nil {
					return err
				}
				var out []byte
				for _, answer := range answers(m) {
					out = appendFrame(out, ws.OpBinary, answer.appendTo(nil, len(echo)))
				}
				_, err = conn.Write(appendFrame(out, ws.OpClose, ws.NewCloseFrameBody(1000, "")))
				return errors.Join(err, conn.(*net.TCPConn).CloseWrite())
			}), Tunnels: 1, Messages: 5, Duration: time.Minute})
			if wrong(r) != want {
				t.Errorf("%+v, want %d", r, want)
			}
		})
	}
	f("gap", func(r *Result) int64 { return r.Gaps }, 2, func(m message) []message { return []message{m, {m.tunnel, 3, m.due}} })
	f("duplicate", func(r *Result) int64 { return r.Duplicates }, 1, func(m message) []message { return []message{m, m} })
	f("reordered", func(r *Result) int64 { return r.Reordered }, 1, func(m message) []message {
		return []message{{m.tunnel, 1, m.due}, m}
	})
	f("another tunnel's", func(r *Result) int64 { return r.Corrupt }, 1, func(m message) []message { return []message{{m.tunnel + 1, 0, m.due}} })
	f("cut off", func(r *Result) int64 { return r.CutOff }, 1, func(message) []message { return nil })
}

func TestPingsAreAnswered(t *testing.T) {
	pong := make(chan string, 1)
	addr := server(t, func(conn net.Conn, _ []byte) error {
		if _, err := conn.Write(appendFrame(nil, ws.OpPing, []byte("hello"))); err != nil {
			return err
		}
		for {
			h, payload, err := clientFrame(conn)
			if err != nil {
				return err
			}
			if h.OpCode == ws.OpPong {
				pong <- string(payload)
				return conn.Close()
			}
		}
	})
	r := runWith(t, Options{URL: "ws://" + addr, Tunnels: 1, Messages: 100, Duration: time.Minute})
	if got := <-pong; got != "hello" || r.Pings != 1 {
		t.Errorf("%q, %+v", got, r)
	}
}

func TestRefusals(t *testing.T) {
	refusing := testkit.NewScript(t, testkit.Respond("HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")...)
	r := runWith(t, Options{URL: "ws://" + refusing.Addr(), Tunnels: 3})
	if r.Opened != 0 || r.Failed != 3 || r.Refused[503] != 3 || r.RetryAfter["7"] != 3 || r.FirstError == "" || r.Flawless() {
		t.Errorf("%+v", r)
	}
	r = runWith(t, Options{URL: "ws://" + testkit.DeadAddr(t), Tunnels: 2})
	if r.Failed != 2 || len(r.Refused) != 0 || !strings.Contains(r.FirstError, "connect") {
		t.Errorf("%+v", r)
	}
	var text strings.Builder
	if _, err := r.WriteTo(&text); err != nil || !strings.Contains(text.String(), "0 opened, 2 failed") {
		t.Errorf("%q, %v", text.String(), err)
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	good := Options{URL: "ws://127.0.0.1:1", Tunnels: 1, Mode: Echo, Messages: 1, Size: MinSize}
	change := func(f func(*Options)) Options {
		o := good
		f(&o)
		return o
	}
	f(change(func(o *Options) { o.Tunnels = 0 }), ErrOptions)
	f(change(func(o *Options) { o.Mode = "talk" }), ErrOptions)
	f(change(func(o *Options) { o.Messages = 0 }), ErrOptions)
	f(change(func(o *Options) { o.Size = MinSize - 1 }), ErrOptions)
	f(change(func(o *Options) { o.URL = "http://a" }), target.ErrURL)
	if _, err := NewBackend(BackendOptions{Ticks: 1, Size: 1}); err == nil {
		t.Error("a backend takes messages of one byte")
	}
}

func TestBackend(t *testing.T) {
	_, addr := backend(t, BackendOptions{})
	text := func(s string) []byte { return appendMasked(nil, ws.OpText, []byte(s)) }
	// f sends bytes in pieces of some size and compares all that comes back until the
	// backend closes.
	f := func(name string, send, want []byte) {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 3, len(send)} {
				c := testkit.DialWS(t, "ws://"+addr, nil, nil)
				for part := range slices.Chunk(send, piece) {
					if _, err := c.Conn.Write(part); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := io.ReadAll(c.Conn); err != nil || string(got) != string(want) {
					t.Errorf("in pieces of %d: %q, %v; want %q", piece, got, err, want)
				}
			}
		})
	}
	bye := appendMasked(nil, ws.OpClose, ws.NewCloseFrameBody(1000, "done"))
	byeBack := appendFrame(nil, ws.OpClose, ws.NewCloseFrameBody(1000, ""))
	f("close", bye, byeBack)
	f("close without a code", appendMasked(nil, ws.OpClose, nil), appendFrame(nil, ws.OpClose, nil))
	f("echo", slices.Concat(text("one"), text(""), text(strings.Repeat("x", 1000)), bye),
		slices.Concat(appendFrame(nil, ws.OpText, []byte("one")), appendFrame(nil, ws.OpText, nil), appendFrame(nil, ws.OpText, []byte(strings.Repeat("x", 1000))), byeBack))
	f("ping", slices.Concat(appendMasked(nil, ws.OpPing, []byte("p")), appendMasked(nil, ws.OpPong, []byte("q")), bye), slices.Concat(appendFrame(nil, ws.OpPong, []byte("p")), byeBack))
	f("unmasked", []byte{0x81, 1, 'x'}, appendFrame(nil, ws.OpClose, ws.NewCloseFrameBody(1002, "")))

	fragments := slices.Concat(masked(ws.Header{OpCode: ws.OpText}, "a"), masked(ws.Header{Fin: true, OpCode: ws.OpContinuation}, "b"), bye)
	f("fragments", fragments, slices.Concat([]byte{0x01, 1, 'a', 0x80, 1, 'b'}, byeBack))

	if got := testkit.Exchange(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").Status; got < 400 {
		t.Errorf("a request without an upgrade: status %d", got)
	}
}

// masked is a client's frame with any header.
func masked(h ws.Header, payload string) []byte {
	h.Masked, h.Length, h.Mask = true, int64(len(payload)), [4]byte{1, 2, 3, 4}
	p := []byte(payload)
	ws.Cipher(p, h.Mask, 0)
	return append(appendHeader(nil, h), p...)
}

func BenchmarkSendingAndChecking(b *testing.B) {
	var payload, frame []byte
	var s sequence
	b.ReportAllocs()
	for i := range b.N {
		payload = message{1, uint64(i), 3}.appendTo(payload[:0], 200)
		frame = appendMasked(frame[:0], ws.OpBinary, payload)
		if m, err := parse(payload); err != nil || s.take(m.number) != (order{}) {
			b.Fatal(fmt.Errorf("message %d: %w", i, err))
		}
	}
}
