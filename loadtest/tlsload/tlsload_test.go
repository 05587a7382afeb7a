package tlsload

import (
	"bufio"
	"context"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/target"
)

// server is a TLS server. It counts how connections ended: after a close_notify and a
// FIN, or otherwise.
type server struct {
	addr               string
	inOrder, otherwise atomic.Int64
}

// serve runs a server until the test ends; first is called before a handshake, and talk
// behind it. Either may be nil.
func serve(t *testing.T, cfg *tls.Config, first func(n int64, conn net.Conn), talk func(*tls.Conn)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := int64(0); ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.one(n, conn, cfg, first, talk) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return s
}

func (s *server) one(n int64, conn net.Conn, cfg *tls.Config, first func(int64, net.Conn), talk func(*tls.Conn)) {
	defer func() { _ = conn.Close() }()
	if first != nil {
		first(n, conn)
	}
	secure := tls.Server(conn, cfg)
	if secure.Handshake() != nil {
		s.otherwise.Add(1)
		return
	}
	if talk != nil {
		talk(secure)
	}
	_, err := io.Copy(io.Discard, secure) // nil for a close_notify only
	end, _ := conn.Read(make([]byte, 1))
	if err != nil || end != 0 {
		s.otherwise.Add(1)
		return
	}
	s.inOrder.Add(1)
	_ = secure.Close()
}

// runWith is Run with options that a test need not repeat.
func runWith(ctx context.Context, t *testing.T, o Options) *Result {
	t.Helper()
	if o.Conns == 0 {
		o.Conns = 2
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKinds(t *testing.T) {
	ecdsa, rsa, ed := testcert.New(t), testcert.SelfSigned(t, selfsigned.RSA), testcert.SelfSigned(t, selfsigned.Ed25519)
	// f compares what is agreed on in full handshakes.
	f := func(cert *testcert.Pair, o Options, want Kind) {
		t.Helper()
		s := serve(t, cert.ServerTLS(t), nil, nil)
		o.Addr, o.Roots, o.Duration = s.addr, cert.Pool(), 50*time.Millisecond
		r := runWith(t.Context(), t, o)
		if len(r.Kinds) != 1 || r.OK < 1 || r.Full != r.OK || r.Failed() != 0 || r.FirstError != "" {
			t.Fatalf("%+v", r)
		}
		got := r.Kinds[0]
		if got.Version != want.Version || got.Cipher != want.Cipher || got.Group != want.Group || got.Key != want.Key || got.Count != r.OK || got.Handshake.Count != uint64(r.OK) {
			t.Errorf("%+v, want %+v", got, want)
		}
		if r.BytesIn < 500*r.OK || r.BytesOut < 150*r.OK || r.CPUSeconds < 0 || r.Handshake.P50 <= 0 || r.Latency.P50 < r.Handshake.P50 || r.Connect.Count != uint64(r.OK) {
			t.Errorf("%+v", r)
		}
	}
	const aes = "TLS_AES_128_GCM_SHA256"
	f(ecdsa, Options{}, Kind{Version: "TLS 1.3", Cipher: aes, Group: "X25519MLKEM768", Key: "ECDSA P-256"})
	f(ecdsa, Options{Groups: []tls.CurveID{tls.CurveP256}}, Kind{Version: "TLS 1.3", Cipher: aes, Group: "P-256", Key: "ECDSA P-256"})
	f(ed, Options{Groups: []tls.CurveID{tls.X25519}}, Kind{Version: "TLS 1.3", Cipher: aes, Group: "X25519", Key: "Ed25519"})
	f(rsa, Options{MaxVersion: tls.VersionTLS12}, Kind{Version: "TLS 1.2", Cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Group: "X25519", Key: "RSA 2048"})
}

func TestResumption(t *testing.T) {
	cert := testcert.New(t)
	// f makes 100 connections of which a share should resume.
	f := func(name string, percent int, version uint16, cfg *tls.Config, check func(r *Result) bool) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := serve(t, cfg, nil, func(*tls.Conn) {})
			r := runWith(ctx, t, Options{
				Addr: s.addr, Roots: cert.Pool(), ResumePercent: percent, MaxVersion: version, Rate: 200, Duration: 500 * time.Millisecond,
			})
			if r.Due != 100 || r.OK != r.Due || r.Full+r.Resumed != r.OK || !check(r) {
				t.Errorf("%+v", r)
			}
			if s.otherwise.Load() != 0 || s.inOrder.Load() != r.Sent || r.Unclosed != 0 {
				t.Errorf("%d connections ended in order, %d otherwise; %+v", s.inOrder.Load(), s.otherwise.Load(), r)
			}
		})
	}
	all := func(r *Result) bool {
		return r.Resumed == r.Offered && r.Refused == 0 && r.Offered+r.NoSession == r.Due && r.NoSession <= 2 &&
			r.Ticketless == 0 && r.ResumedTime.Count == uint64(r.Resumed) && r.FullTime.Count == uint64(r.Full)
	}
	f("all", 100, 0, cert.ServerTLS(t), all)
	f("all of TLS 1.2", 100, tls.VersionTLS12, cert.ServerTLS(t), all)
	f("some", 50, 0, cert.ServerTLS(t), func(r *Result) bool {
		return r.Resumed == r.Offered && r.Resumed > 0 && r.Full > 2 && r.Ticketless == 0
	})
	f("none", 0, 0, cert.ServerTLS(t), func(r *Result) bool { return r.Offered == 0 && r.NoSession == 0 && r.Ticketed > 0 })

	forgetful := cert.ServerTLS(t)
	forgetful.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cfg := cert.ServerTLS(t)
		var key [32]byte
		_, _ = cryptorand.Read(key[:])
		cfg.SetSessionTicketKeys([][32]byte{key})
		return cfg, nil
	}
	f("refused", 100, 0, forgetful, func(r *Result) bool { return r.Resumed == 0 && r.Offered > 0 && r.Refused == r.Offered })

	// One that has no tickets is not waited for again and again.
	without := cert.ServerTLS(t)
	without.SessionTicketsDisabled = true
	f("no tickets", 100, tls.VersionTLS12, without, func(r *Result) bool { return r.NoSession == r.Due && r.Offered == 0 })
}

// A server of TLS 1.3 without tickets is waited for a few times only.
func TestTicketsDespaired(t *testing.T) {
	cert := testcert.New(t)
	cfg := cert.ServerTLS(t)
	cfg.SessionTicketsDisabled = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := serve(t, cfg, func(n int64, _ net.Conn) {
		if n == 5*ticketsDespaired {
			cancel()
		}
	}, nil)
	r := runWith(ctx, t, Options{Addr: s.addr, Roots: cert.Pool(), ResumePercent: 100, Conns: ticketsDespaired})
	if r.Ticketless < ticketsDespaired || r.Ticketless > 2*ticketsDespaired || r.OK <= r.Ticketless || r.Ticketed != 0 {
		t.Errorf("%+v", r)
	}
}

func TestFailures(t *testing.T) {
	cert := testcert.New(t)
	// f compares how every connection fails.
	f := func(want Failure, addr string, change func(o *Options)) {
		t.Run(want.String(), func(t *testing.T) {
			o := Options{Addr: addr, Roots: cert.Pool(), Duration: 50 * time.Millisecond}
			if change != nil {
				change(&o)
			}
			r := runWith(t.Context(), t, o)
			if r.Due < 1 || r.OK != 0 || r.Errors[want.String()] != r.Due || r.Failed() != r.Due || !strings.HasPrefix(r.FirstError, want.String()+": ") {
				t.Errorf("%+v", r)
			}
		})
	}
	secure := func(change func(*tls.Config)) string {
		cfg := cert.ServerTLS(t)
		change(cfg)
		return serve(t, cfg, nil, nil).addr
	}
	fast := func(o *Options) { o.Target.Timeout = 50 * time.Millisecond }
	f(ConnectRefused, testkit.DeadAddr(t), nil)
	f(NotTLS, testkit.NewScript(t, testkit.ReceiveBytes(1), testkit.Send("SSH-2.0-nonsense\r\n"), testkit.Hang()).Addr(), nil)
	f(Timeout, testkit.NewScript(t, testkit.Hang()).Addr(), fast)
	f(ClosedEarly, testkit.NewScript(t, testkit.ReceiveBytes(1), testkit.CloseWrite(), testkit.Hang()).Addr(), nil)
	f(Reset, testkit.NewScript(t, testkit.ReceiveBytes(1), testkit.Reset()).Addr(), nil)
	f(WrongVersion, secure(func(cfg *tls.Config) { cfg.MaxVersion = tls.VersionTLS12 }), func(o *Options) { o.MinVersion = tls.VersionTLS13 })
	f(Alert, secure(func(cfg *tls.Config) { cfg.CurvePreferences = []tls.CurveID{tls.CurveP384} }), func(o *Options) { o.Groups = []tls.CurveID{tls.X25519} })
	f(BadCertificate, secure(func(*tls.Config) {}), func(o *Options) { o.Roots = x509.NewCertPool() })
	f(BadCertificate, secure(func(*tls.Config) {}), func(o *Options) { o.ServerName = "example.com" })
	f(Alert, secure(func(cfg *tls.Config) { cfg.ClientAuth = tls.RequireAnyClientCert }), nil) // TLS 1.3: behind the handshake
}

func TestInsecure(t *testing.T) {
	s := serve(t, testcert.New(t, "elsewhere").ServerTLS(t), nil, nil)
	r := runWith(t.Context(), t, Options{Addr: s.addr, Target: target.Options{Insecure: true, Sources: 3}, Duration: 50 * time.Millisecond})
	if r.OK < 1 || r.OK != r.Due {
		t.Errorf("%+v", r)
	}
}

// answering answers each request with some bytes.
func answering(response string) func(*tls.Conn) {
	return func(conn *tls.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, response)
			_ = conn.CloseWrite()
		}
	}
}

func TestRequests(t *testing.T) {
	cert := testcert.New(t)
	// f compares what comes of a response.
	f := func(response string, want Failure, wantStatus int) {
		t.Helper()
		s := serve(t, cert.ServerTLS(t), nil, answering(response))
		r := runWith(t.Context(), t, Options{URL: "https://" + s.addr + "/a?b", Roots: cert.Pool(), Request: true, ResumePercent: 50, Duration: 50 * time.Millisecond})
		if r.Due < 1 || (want == OK) != (r.OK == r.Due) || want != OK && r.Errors[want.String()] != r.Due || r.Statuses[wantStatus] != r.Due && wantStatus != 0 {
			t.Errorf("%q: %+v, want %s", response, r, want)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", OK, 200)
	f("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", WrongStatus, 404)
	f("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", ClosedEarly, 0)
	f("nonsense\r\n\r\n", Malformed, 0)
}

// A server that stalls once is charged by the open loop for all that came due meanwhile. The
// closed loop waits with it, and has one slow handshake among hundreds.
func TestStalls(t *testing.T) {
	const stall = 2 * time.Second
	cert := testcert.New(t)
	f := func(o Options, wanted int64) *Result {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := serve(t, cert.ServerTLS(t), func(n int64, _ net.Conn) {
			if n == 20 {
				<-time.After(stall)
			}
			if wanted > 0 && n >= wanted {
				cancel()
			}
		}, nil)
		o.Addr, o.Roots, o.Conns = s.addr, cert.Pool(), 1
		return runWith(ctx, t, o)
	}
	open := f(Options{Rate: 50, Duration: stall + time.Second}, 0)
	if open.OK != open.Due || open.OK < 100 || open.Latency.P99 < 0.9*2e6 || open.Latency.P50 < 1e5 {
		t.Errorf("open loop: %+v", open)
	}
	closed := f(Options{}, 200)
	if closed.OK < 199 || closed.Latency.P99 >= 2e6 || closed.Latency.Max < 2e6 {
		t.Errorf("closed loop: %+v", closed)
	}
}

// What is due during the warm-up is in none of the figures.
func TestWarmup(t *testing.T) {
	cert := testcert.New(t)
	s := serve(t, cert.ServerTLS(t), nil, nil)
	var seen atomic.Int64
	r := runWith(t.Context(), t, Options{
		Addr: s.addr, Roots: cert.Pool(), Rate: 100, ResumePercent: 100, Conns: 1, Warmup: 600 * time.Millisecond, Duration: 1200 * time.Millisecond,
		Progress: func(p Progress) {
			if p.String() != "" {
				seen.Add(1)
			}
		},
	})
	if r.OK != 60 || r.NoSession != 0 || r.Full != 0 || s.inOrder.Load() <= r.OK || seen.Load() == 0 {
		t.Errorf("%+v, progress %d times", r, seen.Load())
	}
	sum := int64(0)
	for i, second := range r.PerSecond {
		sum += second.OK
		if second.Time != i || second.OK > 0 && second.P99 <= 0 {
			t.Errorf("second %d: %+v", i, second)
		}
	}
	hdr, err := hdrhistogram.Decode([]byte(r.HDR))
	if err != nil || hdr.TotalCount() != r.OK || sum != r.OK || len(r.Curve) == 0 {
		t.Errorf("%v: %d of %+v", err, sum, r)
	}
}

// The end of the context cuts off what is under way.
func TestAbort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	silent := testkit.NewScript(t, testkit.ReceiveBytes(1), testkit.Handle(func(*bufio.Reader, *net.TCPConn) error { cancel(); return nil }), testkit.Hang())
	r := runWith(ctx, t, Options{Addr: silent.Addr(), Conns: 3, Target: target.Options{Timeout: time.Hour}})
	if r.OK != 0 || r.Due != 0 {
		t.Errorf("%+v", r)
	}
}

func TestBadOptions(t *testing.T) {
	f := func(change func(*Options), want error) {
		t.Helper()
		o := Options{Addr: "127.0.0.1:1", Conns: 1}
		change(&o)
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	f(func(o *Options) { o.Addr = "" }, ErrOptions)
	f(func(o *Options) { o.Addr = "nonsense" }, ErrOptions)
	f(func(o *Options) { o.URL = "https://a" }, ErrOptions)
	f(func(o *Options) { o.Addr, o.URL = "", "http://a" }, target.ErrURL)
	f(func(o *Options) { o.Conns = 0 }, ErrOptions)
	f(func(o *Options) { o.Rate = -1 }, ErrOptions)
	f(func(o *Options) { o.Warmup, o.Duration = time.Second, time.Second }, ErrOptions)
	f(func(o *Options) { o.ResumePercent = 101 }, ErrOptions)
	f(func(o *Options) { o.ReturnAfter, o.ReturnWithin = 2, 1 }, ErrOptions)
	f(func(o *Options) { o.MinVersion, o.MaxVersion = tls.VersionTLS13, tls.VersionTLS12 }, ErrOptions)
	f(func(o *Options) { o.Request = true }, ErrOptions)
	f(func(o *Options) { o.Addr, o.URL, o.Request, o.ALPN = "", "https://a", true, []string{"h2"} }, ErrOptions)
}

func TestParse(t *testing.T) {
	if ids, err := ParseGroups("x25519mlkem768, P-256,,secp384r1"); err != nil || len(ids) != 3 || ids[0] != tls.X25519MLKEM768 || ids[2] != tls.CurveP384 {
		t.Errorf("%v, %v", ids, err)
	}
	if _, err := ParseGroups("x448"); !errors.Is(err, ErrOptions) {
		t.Errorf("x448: %v", err)
	}
	f := func(text string, low, high uint16) {
		t.Helper()
		if gotLow, gotHigh, err := ParseVersions(text); gotLow != low || gotHigh != high || (err != nil) != (text != "" && low == 0) {
			t.Errorf("%q: %x, %x, %v; want %x, %x", text, gotLow, gotHigh, err, low, high)
		}
	}
	f("", 0, 0)
	f("1.3", tls.VersionTLS13, tls.VersionTLS13)
	f("1.2 - 1.3", tls.VersionTLS12, tls.VersionTLS13)
	f("1.4", 0, 0)
	f("1.2-", 0, 0)
	returns := func(text string, least, most time.Duration, good bool) {
		t.Helper()
		if gotLeast, gotMost, err := ParseReturn(text); gotLeast != least || gotMost != most || (err == nil) != good || err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %v, %v, %v", text, gotLeast, gotMost, err)
		}
	}
	returns("", 0, 0, true)
	returns("10s", 10*time.Second, 10*time.Second, true)
	returns("0s - 18s", 0, 18*time.Second, true)
	returns("soon", 0, 0, false)
	returns("1s-", 0, 0, false)
	if got := ParseALPN("h2, http/1.1"); len(got) != 2 || got[1] != "http/1.1" || ParseALPN("") != nil {
		t.Errorf("%q", got)
	}
}

func TestText(t *testing.T) {
	cert := testcert.New(t)
	s := serve(t, cert.ServerTLS(t), nil, answering("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))
	f := func(o Options, wants ...string) {
		t.Helper()
		o.URL, o.Roots, o.Duration = "https://"+s.addr, cert.Pool(), 100*time.Millisecond
		var text strings.Builder
		if _, err := runWith(t.Context(), t, o).WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%q, want %q in it", text.String(), want)
			}
		}
	}
	f(Options{ResumePercent: 100, Request: true}, "wrong_status: ", "404: ")
	for f := range failures {
		if f.String() == "" {
			t.Errorf("failure %d has no name", f)
		}
	}
	if failures.String() != "failure_16" {
		t.Error(failures.String())
	}
}

// So many sessions are kept; the oldest is dropped first, and taken first.
func TestSessions(t *testing.T) {
	var s sessions
	now := time.Now()
	states := make([]*tls.ClientSessionState, mostSessions+2)
	for i := range states {
		states[i] = new(tls.ClientSessionState)
		s.put(states[i], now.Add(time.Duration(i)))
	}
	for i, want := range states[2:] {
		if got, ok := s.take(now.Add(time.Second)); !ok || got.state != want || got.came != now.Add(time.Duration(i+2)) {
			t.Fatalf("session %d is another", i)
		}
	}
	if _, ok := s.take(now.Add(time.Second)); ok {
		t.Error("one more than were put in")
	}
}

// Clients come back when they are due, and not before.
func TestReturns(t *testing.T) {
	now := time.Now()
	s := sessions{least: time.Second, most: 3 * time.Second, dice: rand.New(rand.NewPCG(1, 1))}
	for range 1000 {
		s.put(new(tls.ClientSessionState), now)
	}
	if _, ok := s.take(now.Add(time.Second - 1)); ok {
		t.Error("a session before its time")
	}
	due := 0
	for ; due < 1000; due++ {
		if _, ok := s.take(now.Add(2 * time.Second)); !ok {
			break
		}
	}
	if due < 400 || due > 600 {
		t.Errorf("%d of 1000 sessions are due in the middle of their range", due)
	}
	for ; due < 1000; due++ {
		if _, ok := s.take(now.Add(3 * time.Second)); !ok {
			t.Fatalf("%d of 1000 sessions are due at the end of their range", due)
		}
	}
}

// A run in which clients stay away has sessions of that age.
func TestReturnAfter(t *testing.T) {
	const away = 300 * time.Millisecond
	cert := testcert.New(t)
	s := serve(t, cert.ServerTLS(t), nil, nil)
	r := runWith(t.Context(), t, Options{
		Addr: s.addr, Roots: cert.Pool(), Rate: 50, ResumePercent: 100, ReturnAfter: away, ReturnWithin: 2 * away, Duration: 4 * away,
	})
	if r.OK != r.Due || r.Resumed < 1 || r.NoSession < 10 || r.SessionAge.P50 < away.Seconds()*1e6*0.99 || r.RefusedAge.Count != 0 || r.SessionAge.Count != uint64(r.Offered) {
		t.Errorf("%+v", r)
	}
}

// What found no free connection until the end of the run is given up, and counts.
func TestBacklog(t *testing.T) {
	silent := testkit.NewScript(t, testkit.Hang())
	r := runWith(t.Context(), t, Options{Addr: silent.Addr(), Rate: 100, Conns: 1, Duration: 500 * time.Millisecond, Target: target.Options{Timeout: 50 * time.Millisecond}})
	timedOut, backlog := r.Errors["timeout"]+r.Errors["connect_timeout"], r.Errors["backlog"]
	if r.Due != 50 || timedOut < 1 || backlog < 30 || timedOut+backlog != r.Due || r.Sent != timedOut {
		t.Errorf("%+v", r)
	}
}
