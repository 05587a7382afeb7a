package wsload

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

func TestBackoff(t *testing.T) {
	f := func(n int, retryAfter time.Duration, dice float64, want time.Duration) {
		t.Helper()
		if got := backoff(n, 100*time.Millisecond, 10*time.Second, retryAfter, dice); got != want {
			t.Errorf("attempt %d: %v, want %v", n, got, want)
		}
	}
	f(0, 0, 0, 0)
	f(0, 0, 1, 100*time.Millisecond)
	f(3, 0, 0.5, 400*time.Millisecond)
	f(7, 0, 1, 10*time.Second)
	f(31, 0, 1, 10*time.Second)
	f(1000, 0, 1, 10*time.Second)
	f(1, 2*time.Second, 0.5, 2100*time.Millisecond)
	f(0, 24*time.Hour, 0, mostRetryAfter)

	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(value string, want time.Duration) {
		t.Helper()
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	after("", 0)
	after("7", 7*time.Second)
	after("-7", 0)
	after("99999999", mostRetryAfter)
	after("Fri, 02 Jan 2026 03:05:05 GMT", time.Minute)
	after("Fri, 02 Jan 2026 03:04:00 GMT", 0)
	after("soon", 0)
}

// echoes is a scripted server: it upgrades, echoes n messages and closes with a code.
func echoes(n int, code ws.StatusCode) testkit.Step {
	return testkit.Handle(func(r *bufio.Reader, conn *net.TCPConn) error {
		rw := struct {
			io.Reader
			io.Writer
		}{r, conn}
		if _, err := ws.Upgrade(rw); err != nil {
			return err
		}
		for i := 0; i != n; i++ {
			h, payload, err := clientFrame(r)
			if err != nil || h.OpCode == ws.OpClose {
				_, _ = conn.Write(appendFrame(nil, ws.OpClose, payload))
				return errors.Join(err, conn.Close())
			}
			if _, err := conn.Write(appendFrame(nil, h.OpCode, payload)); err != nil {
				return err
			}
		}
		if _, err := conn.Write(appendFrame(nil, ws.OpClose, ws.NewCloseFrameBody(code, ""))); err != nil {
			return err
		}
		for { // until the client has answered
			if h, _, err := clientFrame(r); err != nil || h.OpCode == ws.OpClose {
				return errors.Join(err, conn.Close())
			}
		}
	})
}

// A tunnel that is closed with 1012 comes back, behind a refusal whose Retry-After it
// waits for and a connection that is closed without an answer.
func TestReconnect(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := testkit.NewScripts(t, func(conn int) []testkit.Step {
		switch conn {
		case 0:
			return []testkit.Step{echoes(3, 1012)}
		case 1:
			return testkit.Respond("HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		case 2:
			return []testkit.Step{testkit.ReceiveHead(), testkit.Close()}
		default:
			return []testkit.Step{testkit.Handle(func(*bufio.Reader, *net.TCPConn) error {
				time.AfterFunc(300*time.Millisecond, cancel)
				return nil
			}), echoes(-1, 0)}
		}
	}).Addr()
	r, err := Run(ctx, Options{
		URL: "ws://" + addr, Tunnels: 1, Mode: Echo, Messages: 100, Size: MinSize,
		Reconnect: true, BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := r.Reconnects
	if c == nil || c.Back != 1 || c.StillAway != 0 || c.Attempts != 3 || c.Refused[503] != 1 || c.RetryAfter["1"] != 1 || c.Failed != 1 || c.HDR == "" {
		t.Fatalf("%+v of %+v", c, r)
	}
	if c.Away.Max < 1e6 || c.Missed < 50 || r.Opened != 1 || r.Ended["1012"] != 1 || !r.Flawless() || r.Received < 4 || r.Received+r.CutOff != r.Sent {
		t.Errorf("%+v of %+v", c, r)
	}
	var text strings.Builder
	if _, err := r.WriteTo(&text); err != nil || !strings.Contains(text.String(), "1 back, 0 still away, 3 attempts (503: 1)") {
		t.Errorf("%q, %v", text.String(), err)
	}
}

// A server that is gone is asked again until the run is over.
func TestReconnectInVain(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var attempts atomic.Int64
	s := testkit.NewScripts(t, func(conn int) []testkit.Step {
		if conn < 2 {
			return []testkit.Step{echoes(0, 1001)}
		}
		if attempts.Add(1) == 10 {
			cancel() // which two attempts may be under way for
		}
		return testkit.Respond("HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	r, err := Run(ctx, Options{URL: "ws://" + s.Addr(), Tunnels: 2, Mode: Idle, Reconnect: true, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond})
	if err != nil || r.Reconnects.StillAway != 2 || r.Reconnects.Back != 0 || r.Reconnects.Refused[502] < 8 || r.Flawless() || r.Ended["1001"] != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// The messages of one publisher reach all others, and only them.
func TestFanOut(t *testing.T) {
	b, addr := backend(t, BackendOptions{FanOut: true})
	r := runWith(t, Options{URL: "ws://" + addr, Tunnels: 20, Mode: FanOut, Messages: 100, Duration: 300 * time.Millisecond, Text: true})
	if !r.Flawless() || r.Opened != 21 || r.Sent < 1 || r.Received != 20*r.Sent || r.Skipped != 0 || r.MessageTime.Count != uint64(r.Received) || r.MessageTime.P50 <= 0 {
		t.Errorf("%+v", r)
	}
	if got := b.Counts(); got.Received != r.Sent || got.Sent != r.Received || got.Broken != 0 {
		t.Errorf("the backend: %+v", got)
	}
}

// A subscriber that does not read is left out of what is published, without holding up the
// others. When it reads again, it finds no gap, and is told how much it has missed.
func TestFanOutSkipsSlowSubscribers(t *testing.T) {
	const size = 60_000
	b, addr := backend(t, BackendOptions{FanOut: true})
	slow, err := Open(t.Context(), mustTarget(t, "ws://"+addr), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Net.Close() }()
	r := runWith(t, Options{URL: "ws://" + addr, Tunnels: 2, Mode: FanOut, Messages: 400, Size: size, Duration: time.Second})
	if !r.Flawless() || r.Received != 2*r.Sent {
		t.Errorf("%+v", r)
	}
	skipped := b.Counts().Skipped
	if skipped < 1 {
		t.Fatalf("nothing was skipped: %+v", b.Counts())
	}
	publisher, err := Open(t.Context(), mustTarget(t, "ws://"+addr), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { // once the slow one has read what was sent to it, one of these comes through
		for pace.Sleep(ctx, 5*time.Millisecond) {
			if publisher.Send(ws.OpText, message{}.appendTo(nil, MinSize)) != nil {
				return
			}
		}
	})
	defer func() { cancel(); wg.Wait(); _ = publisher.Net.Close() }()
	_ = slow.Net.SetReadDeadline(time.Now().Add(testkit.Patience))
	for next := uint64(0); ; next++ {
		_, payload, err := slow.Read()
		if err != nil {
			t.Fatal(err)
		}
		m, err := parse(payload)
		if err != nil || m.number != next {
			t.Fatalf("message %d is %+v, %v", next, m, err)
		}
		if len(payload) == MinSize && int64(m.tunnel) >= skipped {
			break
		}
	}
}

func mustTarget(t *testing.T, url string) *target.Target {
	t.Helper()
	to, err := target.New(url, target.Options{}, "ws", "wss")
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// Header and subprotocols reach the server, and a share of the handshakes resumes.
func TestHandshakes(t *testing.T) {
	cert := testcert.New(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cert.ServerTLS(t))
	if err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Int64
	up := ws.Upgrader{
		Protocol: func(p []byte) bool { return string(p) == "v2" },
		OnHeader: func(key, value []byte) error {
			if string(key) == "X-Token" && string(value) != "secret" {
				wrong.Add(1)
			}
			return nil
		},
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := up.Upgrade(conn); err != nil {
					wrong.Add(1)
					return
				}
				_, payload, _ := clientFrame(conn) // the Close
				_, _ = conn.Write(appendFrame(nil, ws.OpClose, payload))
			}()
		}
	}()
	r := runWith(t, Options{
		URL: "wss://" + ln.Addr().String(), Target: target.Options{Insecure: true}, Tunnels: 20, Rate: 50, Mode: Idle, Duration: time.Millisecond,
		Header: http.Header{"X-Token": {"secret"}}, Protocols: []string{"v1", "v2"}, ResumePercent: 50,
	})
	if !r.Flawless() || r.Opened != 20 || r.Handshakes != 20 || r.Resumed < 1 || r.Resumed > 10 || r.Protocols["v2"] != 20 || wrong.Load() != 0 {
		t.Errorf("%+v, %d wrong", r, wrong.Load())
	}
}

// Seconds add up to the whole.
func TestSeconds(t *testing.T) {
	_, addr := backend(t, BackendOptions{})
	r := runWith(t, Options{URL: "ws://" + addr, Tunnels: 3, Messages: 500, Duration: 2200 * time.Millisecond})
	var received, sent int64
	for i, s := range r.PerSecond {
		received += s.OK
		sent += s.Sent
		if s.Time != i || s.Open != 3 || s.Errors != 0 || (s.P99 > 0) != (s.OK > 0) {
			t.Errorf("second %d: %+v", i, s)
		}
	}
	if len(r.PerSecond) < 2 || received < 1 || received > r.Received || sent > r.Sent || r.HDR == "" || len(r.Curve) == 0 || r.MessageTime.Count != uint64(r.Received) || r.CPUMicros <= 0 {
		t.Errorf("%d of %+v", received, r)
	}
}

func TestBadReconnects(t *testing.T) {
	good := Options{URL: "ws://127.0.0.1:1", Tunnels: 1, Mode: Idle}
	for i, change := range []func(*Options){
		func(o *Options) { o.BackoffMin = -1 },
		func(o *Options) { o.BackoffMin, o.BackoffMax = 2, 1 },
		func(o *Options) { o.ResumePercent = 101 },
		func(o *Options) { o.Mode = FanOut },
	} {
		o := good
		change(&o)
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOptions) {
			t.Error(fmt.Errorf("change %d: %w", i, err))
		}
	}
}
