package tlsattack

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/target"
)

// serve calls f for each connection until the test ends, and closes it then.
func serve(t *testing.T, f func(conn *net.TCPConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				f(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// secure is a TLS server of which handshakes may take so long.
func secure(t *testing.T, limit time.Duration, cfg *tls.Config) (addr string) {
	t.Helper()
	return serve(t, func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Now().Add(limit))
		if tls.Server(conn, cfg).Handshake() == nil {
			t.Error("an attacker finished its handshake")
		}
	})
}

// attack is Run with options that a test need not repeat.
func attack(ctx context.Context, t *testing.T, o Options) *Result {
	t.Helper()
	if o.Conns == 0 {
		o.Conns = 3
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, n := range r.Ends {
		sum += n
	}
	if sum != r.Begun || r.MostOpen > int64(o.Conns) || r.Begun > 0 && r.MostOpen < 1 {
		t.Errorf("%d begun, %d ended, at most %d at a time", r.Begun, sum, r.MostOpen)
	}
	return r
}

// Connections that the server ends are made again.
func TestSilent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	came := 0
	addr := serve(t, func(conn *net.TCPConn) {
		mu.Lock()
		if came++; came == 10 {
			cancel()
		}
		mu.Unlock()
		_ = conn.CloseWrite()
		if n, _ := conn.Read(make([]byte, 1)); n != 0 {
			t.Error("it is not silent")
		}
	})
	r := attack(ctx, t, Options{Addr: addr, Kind: Silent, Target: target.Options{Sources: 3}})
	if r.Ends["closed"] < 5 || r.Served != 0 || r.Lasted.Count != uint64(r.Ends["closed"]) || r.Kind != "silent" {
		t.Errorf("%+v", r)
	}
}

// A server that waits ends with the run.
func TestHeld(t *testing.T) {
	addr := serve(t, func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 1)) })
	r := attack(t.Context(), t, Options{Addr: addr, Kind: Silent, Duration: 300 * time.Millisecond})
	if r.Begun != 3 || r.Ends["hung_up"] != 3 || r.MostOpen != 3 || r.Bottleneck != "" {
		t.Errorf("%+v", r)
	}
}

// A dribble comes in single bytes, and is one whole hello in the end.
func TestDribble(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := serve(t, func(conn *net.TCPConn) {
		var got bytes.Buffer
		buf := make([]byte, 4096)
		for got.Len() < 5 || got.Len() < 5+int(got.Bytes()[3])<<8+int(got.Bytes()[4]) {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			got.Write(buf[:n])
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if n, err := conn.Read(buf); n != 0 || err == nil {
			t.Errorf("%d bytes more than a hello, %v", n, err)
		}
		cancel()
	})
	r := attack(ctx, t, Options{Addr: addr, Kind: Dribble, Conns: 1, Every: 100 * time.Microsecond, Groups: []tls.CurveID{tls.X25519}})
	if r.Begun < 1 || ctx.Err() == nil {
		t.Errorf("%+v", r)
	}
}

// What stalls has the server do its share first, and does nothing until that gives up.
func TestStall(t *testing.T) {
	addr := secure(t, 100*time.Millisecond, testcert.New(t).ServerTLS(t))
	r := attack(t.Context(), t, Options{Addr: addr, Kind: Stall, Duration: time.Second})
	if r.Served < 3 || r.Ends["closed"]+r.Ends["reset"] < 3 || r.Lasted.P50 < 0.09*1e6 {
		t.Errorf("%+v", r)
	}
}

// So many mutants are sent, the same ones for the same seed, and none is left without an end.
func TestMutate(t *testing.T) {
	cfg := testcert.New(t).ServerTLS(t)
	r := attack(t.Context(), t, Options{Addr: secure(t, testkit.Patience, cfg), Kind: Mutate, Count: 100})
	if r.Begun != 100 || r.Ends["unanswered"] != 0 || r.Ends["hung_up"] != 0 || r.Served < 1 || r.Ends["alert"] < 10 || len(r.Alerts) < 2 || r.Bottleneck != "" {
		t.Errorf("%+v", r)
	}
	x25519 := []tls.CurveID{tls.X25519}
	var mu sync.Mutex
	var came [][]byte
	addr := serve(t, func(conn *net.TCPConn) {
		p, _ := io.ReadAll(conn)
		mu.Lock()
		came = append(came, p)
		mu.Unlock()
	})
	attack(t.Context(), t, Options{Addr: addr, Kind: Mutate, Count: 10, Conns: 1, Seed: 5, Groups: x25519})
	attack(t.Context(), t, Options{Addr: addr, Kind: Mutate, Count: 3, First: 7, Conns: 1, Seed: 5, Groups: x25519})
	attack(t.Context(), t, Options{Addr: addr, Kind: Mutate, Count: 1, Conns: 1, Seed: 6, Groups: x25519})
	mu.Lock()
	defer mu.Unlock()
	if len(came) != 14 || !slices.EqualFunc(came[7:10], came[10:13], bytes.Equal) || bytes.Equal(came[0], came[13]) {
		t.Errorf("%d mutants came: %.40x", len(came), came)
	}
}

// What is neither answered nor ended is named.
func TestUnanswered(t *testing.T) {
	silent := testkit.NewScript(t, testkit.Hang())
	r := attack(t.Context(), t, Options{Addr: silent.Addr(), Kind: Mutate, First: 40, Count: 1, Conns: 1, Target: target.Options{Timeout: 50 * time.Millisecond}})
	if r.Ends["unanswered"] != 1 || !slices.Equal(r.UnansweredNumbers, []int{40}) {
		t.Errorf("%+v", r)
	}
}

func TestNobodyThere(t *testing.T) {
	r := attack(t.Context(), t, Options{Addr: testkit.DeadAddr(t), Kind: Stall, Rate: 100, Duration: 200 * time.Millisecond})
	if r.Begun > 25 || r.Ends["connect_refused"] < 1 || r.Ends["connect_refused"] < r.Begun-3 || r.FirstError == "" {
		t.Errorf("%+v", r)
	}
}

func TestOdd(t *testing.T) {
	addr := serve(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_, _ = io.ReadAll(conn)
	})
	r := attack(t.Context(), t, Options{Addr: addr, Kind: Mutate, Count: 1, Conns: 1})
	var text strings.Builder
	if _, err := r.WriteTo(&text); err != nil || r.Ends["odd"] != 1 || !strings.Contains(text.String(), "odd: 1") {
		t.Errorf("%v, %+v, %s", err, r, text.String())
	}
}

func TestBadOptions(t *testing.T) {
	f := func(change func(*Options), want error) {
		t.Helper()
		o := Options{Addr: "127.0.0.1:1", Conns: 1, Rate: 1}
		change(&o)
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	f(func(o *Options) { o.Addr = "nonsense" }, ErrOptions)
	f(func(o *Options) { o.Conns = 0 }, ErrOptions)
	f(func(o *Options) { o.Rate = -1 }, ErrOptions)
	f(func(o *Options) { o.Kind, o.Rate = Flood, 0 }, ErrOptions)
	f(func(o *Options) { o.Kind = numKinds }, ErrOptions)
	f(func(o *Options) { o.Every = -1 }, ErrOptions)
	f(func(o *Options) { o.Count = -1 }, ErrOptions)
	f(func(o *Options) { o.Addr, o.Target.Sources = "8.8.8.8:1", 2 }, target.ErrSources)
}

func TestWords(t *testing.T) {
	for _, word := range Kinds() {
		if k, err := ParseKind(word); err != nil || k.String() != word {
			t.Errorf("%s: %v, %v", word, k, err)
		}
	}
	if _, err := ParseKind("ddos"); !errors.Is(err, ErrOptions) || numKinds.String() != "kind_5" || numEnds.String() != "end_10" {
		t.Error(err)
	}
	for e := range numEnds {
		if e.String() == "" {
			t.Errorf("end %d has no name", e)
		}
	}
}
