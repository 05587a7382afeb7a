//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/tlsterm"
)

// stallAfterHello sends a ClientHello, takes the answer and says nothing more.
func stallAfterHello(t *testing.T, secure string, conf *tls.Config) net.Conn {
	t.Helper()
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, hello(t, conf)); err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Fatalf("no answer to a ClientHello: %v", err)
	}
	return nc
}

// ended waits for the end of a connection, after whatever it still brings.
func ended(t *testing.T, what string, nc net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, nc)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("%s: it is still open", what)
	}
}

func (g *testGateway) failures(f tlsterm.Failure) int { return int(g.tlsFailures[f].Load()) }

// TestHandshakesGiveWay has clients stop in the middle of their handshake, more than may be under way. Those that have waited longest
// are given up, and honest ones get in all the time.
func TestHandshakesGiveWay(t *testing.T) {
	t.Parallel()
	const most, stalled = 4, 12
	g, secure, conf := tlsGateway(t, "handshakes: {max: 4}\ntimeouts: {handshake: 1h}\n"+static(soon))
	var all []net.Conn
	for range stalled {
		all = append(all, stallAfterHello(t, secure, conf))
		expectStatus(t, "beside stalled ones", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
	}
	for _, nc := range all[:stalled-most] {
		ended(t, "one of the oldest", nc)
	}
	g.wait("all but the youngest are given up", func() bool {
		st := g.handshakes.gate.Stats()
		n := g.failures(tlsterm.GaveWay)
		return n >= stalled-most && n < stalled && st.Waiting == stalled-n && g.state(meter.Handshaking) == stalled-n
	})
	if n := g.ends(reason.TLSFailed); n != g.failures(tlsterm.GaveWay) {
		t.Errorf("%d connections ended by their handshake, %d of them gave way", n, g.failures(tlsterm.GaveWay))
	}
	for _, nc := range all {
		_ = nc.Close()
	}
	g.wait("the rest has gone", func() bool { return g.handshakes.gate.Stats().Waiting == 0 && g.state(meter.Handshaking) == 0 })
}

// TestStalledHandshakeTimesOut ends a handshake that waits for its client at timeouts.handshake, and one that someone ends before.
func TestStalledHandshakeTimesOut(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "timeouts: {handshake: 300ms}\n"+static(soon))
	nc := stallAfterHello(t, secure, conf)
	ended(t, "a client that stalls", nc)
	g.wait("its end", func() bool { return g.failures(tlsterm.TimedOut) == 1 })

	g, secure, conf = tlsGateway(t, "timeouts: {handshake: 1h}\n"+static(soon))
	for _, end := range []struct {
		what  string
		by    func(nc net.Conn)
		why   reason.Reason
		fails tlsterm.Failure
		n     int
	}{
		{"its client", func(nc net.Conn) { _ = nc.(*net.TCPConn).CloseWrite() }, reason.TLSFailed, tlsterm.ClientGone, 1},
		{"an administrator", func(net.Conn) {
			for _, c := range g.connections() {
				g.end(c.id, false)
			}
		}, reason.KilledByUser, tlsterm.ClientGone, 1},
	} {
		nc := stallAfterHello(t, secure, conf)
		g.wait("the handshake waits", func() bool { return g.handshakes.gate.Stats().Waiting == 1 })
		end.by(nc)
		ended(t, "ended by "+end.what, nc)
		g.wait("its end", func() bool { return g.ends(end.why) == 1 && g.failures(end.fails) == end.n })
	}
	if st := g.handshakes.gate.Stats(); st.Computing+st.Waiting+st.Ready != 0 {
		t.Errorf("left over: %+v", st)
	}
}

// TestHandshakeCannotPark has handshakes that the lot does not take when they would wait for their client, which has not gone.
func TestHandshakeCannotPark(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	ln := g.listeners["127.0.0.2:0"]
	before := func(f func()) {
		conf := ln.tls.Load().Clone()
		next := conf.GetConfigForClient
		conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			f()
			if next == nil {
				return nil, nil
			}
			return next(h)
		}
		ln.tls.Store(conf)
	}
	first := hello(t, conf)
	f := func(what string, why reason.Reason) {
		t.Helper()
		c := testkit.Dial(t, secure)
		c.Send(first)
		c.Rest()
		g.waitConnEnd(why, 1)
		if n := g.failures(tlsterm.ClientGone); n != 0 {
			t.Errorf("%s: %d clients counted as gone, want none", what, n)
		}
		if st := g.handshakes.gate.Stats(); st.Computing+st.Waiting+st.Ready != 0 {
			t.Errorf("%s: left over: %+v", what, st)
		}
	}
	before(func() {
		c := g.connections()[0]
		_ = c.from.Loop.Remove(c.from.FD) // so that the kernel refuses to arm it again
	})
	f("the kernel will not watch", reason.Internal)
	if !strings.Contains(g.logs.String(), "a connection cannot wait and is closed") {
		t.Errorf("nothing in the log")
	}
	before(func() {
		g.draining.Store(true)
		g.loops.Close()
	})
	f("the lot is closed", reason.ShutDown)
}

// TestHandshakesRefused fills the queue of the gate: what does not fit gets an alert, and nothing is computed for it.
func TestHandshakesRefused(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "handshakes: {concurrency: 1, queue: 1, queue_timeout: 1h}\ntimeouts: {handshake: 1h}\n"+static(soon))
	turn := g.takeTurn()
	queued := testkit.Dial(t, secure)
	queued.Send(hello(t, conf))
	g.wait("one is queued", func() bool { return g.handshakes.gate.Stats().Queued == 1 })
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	var alert *net.OpError
	if err := tls.Client(nc, conf).Handshake(); !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("one beyond the queue: %v, want an alert", err)
	}
	g.wait("it is counted", func() bool { return g.failures(tlsterm.GateFull) == 1 && g.ends(reason.TLSFailed) == 1 })
	g.handshakes.gate.Done(turn)
	g.wait("the other one has its turn", func() bool { return g.handshakes.gate.Stats().Waiting == 1 })
	queued.Close()
	g.waitNone()

	// One that waits for too long is refused when its turn comes.
	g, secure, conf = tlsGateway(t, "handshakes: {concurrency: 1, queue_timeout: 1ms}\n"+static(soon))
	turn = g.takeTurn()
	late := testkit.Dial(t, secure)
	late.Send(hello(t, conf))
	g.wait("one is queued", func() bool { return g.handshakes.gate.Stats().Queued == 1 })
	g.ticks(2)
	g.handshakes.gate.Done(turn)
	g.wait("it is refused", func() bool { return g.failures(tlsterm.GateTimeout) == 1 })
	expectStatus(t, "afterwards", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
}

// takeTurn takes a turn at the gate of handshakes for the test.
func (g *testGateway) takeTurn() *tlsterm.Pass {
	g.t.Helper()
	p := g.handshakes.gate.NewPass(func() {})
	g.handshakes.gate.Join(p)
	g.handshakes.gate.Resume(p)
	return p
}

// TestHandshakeMetrics tells handshakes apart, and what their time went to.
func TestHandshakeMetrics(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	conf = conf.Clone()
	conf.CurvePreferences = []tls.CurveID{tls.CurveP256}
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		c := testkit.DialTLS(t, secure, conf)
		expectStatus(t, "a request", c.Do(get("/")), 200)
		c.Close()
	}
	const name = "tickgate_tls_handshake_duration_seconds_count"
	g.wait("both are counted", func() bool {
		return g.metric(name, `version="1.3"`, `group="P-256"`, `key_type="ecdsa"`, `resumed="false"`) == 1 &&
			g.metric(name, `version="1.3"`, `group="P-256"`, `key_type="none"`, `resumed="true"`) == 1
	})
	for _, phase := range []string{"gate", "client", "compute"} {
		if n := g.metric("tickgate_tls_handshake_phase_seconds_count", `phase="`+phase+`"`); n != 2 {
			t.Errorf("phase %s: %v handshakes, want 2", phase, n)
		}
	}
}

// TestDrainEndsStalledHandshakes drains while clients have stopped in the middle of their ClientHello, and behind it.
func TestDrainEndsStalledHandshakes(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "drain: {grace: 0s, timeout: 1h}\ntimeouts: {handshake: 1h}\n"+static(soon))
	half := testkit.Dial(t, secure)
	half.Send(hello(t, conf)[:100])
	stalled := stallAfterHello(t, secure, conf)
	defer func() { _ = stalled.Close() }()
	g.wait("both are here", func() bool { return g.handshakes.gate.Stats().Waiting == 1 && g.conns.Open() == 2 })
	if cut := g.Drain(context.Background()); cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
	if n := g.ends(reason.Draining); n != 2 {
		t.Errorf("%d connections ended by the drain, want 2", n)
	}
}

// TestRejectedCertificate tells a client that does not like the certificate from one that sends garbage, whether its alert is encrypted
// or, as OpenSSL's of TLS 1.3 is, not.
func TestRejectedCertificate(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	distrusting := conf.Clone()
	distrusting.RootCAs = x509.NewCertPool()
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(nc, distrusting).Handshake(); err == nil {
		t.Error("the certificate is trusted")
	}
	_ = nc.Close()
	g.wait("an encrypted alert", func() bool { return g.failures(tlsterm.ClientRejected) == 1 })
	f := func(what string, record string, want tlsterm.Failure, n int) {
		t.Helper()
		nc := stallAfterHello(t, secure, conf)
		if _, err := io.WriteString(nc, record); err != nil {
			t.Fatal(err)
		}
		ended(t, what, nc)
		g.wait(what, func() bool { return g.failures(want) == n })
	}
	f("an alert in the clear", "\x15\x03\x03\x00\x02\x02\x30", tlsterm.ClientRejected, 2)
	f("garbage", "\x17\x03\x03\x00\x02\x02\x30", tlsterm.BadRecord, 1)
}
