//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/proxy/reactor"
	"tickgate/tlsterm"
)

// nothingLeft waits until no handshake is counted any more, in any way.
func (g *testGateway) nothingLeft() {
	g.t.Helper()
	g.wait("end of all handshakes", func() bool {
		st := g.handshakes.gate.Stats()
		return st.Computing+st.Ready+st.Waiting+st.Queued == 0 && g.state(meter.Handshaking) == 0
	})
	g.waitNone()
}

// TestReloadToPlainWhileQueued takes TLS off a listener while a handshake waits for its turn: what came is no request.
func TestReloadToPlainWhileQueued(t *testing.T) {
	t.Parallel()
	const gate = "handshakes: {concurrency: 1, queue_timeout: 1h}\n"
	g, secure, conf := tlsGateway(t, gate+static(soon))
	turn := g.takeTurn()
	queued := testkit.Dial(t, secure)
	queued.Send(hello(t, conf))
	g.wait("one is queued", func() bool { return g.handshakes.gate.Stats().Queued == 1 })
	g.reload(gate + static(soon) + `
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1}
  - {listen: "127.0.0.2:0", acceptors: 1}
`)
	g.handshakes.gate.Done(turn)
	expectStatus(t, "a ClientHello to a plain listener", queued.Response("GET"), 400)
	queued.Close()
	g.nothingLeft()
	expectStatus(t, "afterwards", testkit.Exchange(t, secure, get("/")), 200)
}

// TestReloadToTLSOnTheWay gives a listener TLS while a plain connection is on its way to a worker.
func TestReloadToTLSOnTheWay(t *testing.T) {
	t.Parallel()
	g, _, _ := tlsGateway(t, static(soon))
	cert, key := testcert.New(t).Files(t)
	g.workers.setLimit(0)
	c := g.dial()
	c.Send(get("/"))
	g.wait("it waits for a worker", func() bool { return g.workers.waiting.Load() == 1 })
	g.reload(static("workers: {max: 1}") + `
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {certificates: [{cert_file: "` + cert + `", key_file: "` + key + `"}]}}]
`)
	expectStatus(t, "a request from before", c.Response("GET"), 200)
}

// largeFlight is a gateway whose first flight no client takes at once, as its certificate has 60 KB of names.
func largeFlight(t *testing.T, yaml string) (g *testGateway, secure string, client *tls.Config) {
	t.Helper()
	pair := testcert.NewCA(t).Issue(t, testcert.Request{Names: []string{"localhost"}, Alter: func(c *x509.Certificate) {
		label := strings.Repeat(strings.Repeat("x", 60)+".", 3)
		for i := range 300 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("n%d.%sexample", i, label))
		}
	}})
	cert, key := pair.Files(t)
	g = newGateway(t, yaml+`
listeners: [{listen: "127.0.0.2:0", acceptors: 1, tls: {certificates: [{cert_file: "`+cert+`", key_file: "`+key+`"}]}}]
`)
	return g, g.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
}

// takesNothing is a client that sends a ClientHello and reads nothing, with small buffers on both sides.
func takesNothing(t *testing.T, secure string, conf *tls.Config) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: testkit.Patience, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2<<10)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 200)
		})
	}}
	nc, err := d.Dial("tcp", secure)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if _, err := io.WriteString(nc, hello(t, conf)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// TestBlockedFlightGivesWay has a client whose flight finds no room give way for the next one, at the moment when it begins to wait.
func TestBlockedFlightGivesWay(t *testing.T) {
	t.Parallel()
	g, secure, conf := largeFlight(t, "handshakes: {concurrency: 1, max: 1, queue_timeout: 1h}\ntimeouts: {handshake: 1h, write: 1h}\n"+static(soon))
	turn := g.takeTurn()
	takesNothing(t, secure, conf)
	g.wait("one is queued", func() bool { return g.handshakes.gate.Stats().Queued == 1 })
	second := testkit.Dial(t, secure)
	second.Send(hello(t, conf))
	g.wait("two are queued", func() bool { return g.handshakes.gate.Stats().Queued == 2 })
	g.handshakes.gate.Done(turn)
	g.wait("the first gives way", func() bool { return g.failures(tlsterm.GaveWay) == 1 })
	g.wait("the second has its turn", func() bool { return g.handshakes.gate.Stats().Waiting == 1 })
	second.Close()
	g.nothingLeft()
}

// TestBlockedFlightTimesOut ends a handshake whose client takes nothing at timeouts.handshake, whatever timeouts.write is.
func TestBlockedFlightTimesOut(t *testing.T) {
	t.Parallel()
	g, secure, conf := largeFlight(t, "timeouts: {handshake: 300ms, write: 1h}\n"+static(soon))
	takesNothing(t, secure, conf)
	g.wait("its end", func() bool { return g.failures(tlsterm.TimedOut) == 1 })
	g.nothingLeft()
}

// TestResetInHandshake resets connections that wait for their client in the middle of a handshake: each ends at once, and nobody's
// descriptor is touched.
func TestResetInHandshake(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, "timeouts: {handshake: 1h}\n"+static(soon))
	for n := range 10 {
		nc := stallAfterHello(t, secure, conf)
		g.wait("the handshake waits", func() bool { return len(g.connections()) == 1 && g.handshakes.gate.Stats().Waiting == 1 })
		if !g.end(g.connections()[0].id, true) {
			t.Fatal("it was not found")
		}
		expectStatus(t, "the next one", testkit.DialTLS(t, secure, conf).Do(get("/", "Connection: close")), 200)
		g.waitConnEnd(reason.KilledByUser, n+1)
		ended(t, "it was reset", nc)
	}
	g.nothingLeft()
}

// bundled sends the first write, a ClientHello, at once, and the others when told to.
type bundled struct {
	net.Conn
	hello bool // is sent
	out   bytes.Buffer
}

func (b *bundled) Write(p []byte) (int, error) {
	if !b.hello {
		b.hello = true
		return b.Conn.Write(p)
	}
	return b.out.Write(p)
}

// TestHotConnectionsMakeRoomForHandshakes has a connection stay hot on the goroutine that did its handshake: new handshakes find one all
// the same.
func TestHotConnectionsMakeRoomForHandshakes(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static("workers: {park_after: 1h}"))
	g.handshakes.crew.setLimit(1)
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	b := &bundled{Conn: nc}
	c := tls.Client(b, conf)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // in records of their own, so that the second one comes within the patience for it
		_, _ = io.WriteString(c, get("/"))
	}
	if _, err := b.out.WriteTo(nc); err != nil {
		t.Fatal(err)
	}
	g.wait("it is hot", func() bool { return g.state(meter.Idle) == 1 && g.metric("tickgate_requests_total") == 2 })
	if running, _ := g.handshakes.crew.size(); running != 1 || len(g.connections()) != 1 {
		t.Fatalf("%d goroutines of handshakes, %d connections with one", running, len(g.connections()))
	}
	expectStatus(t, "another one", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
}

// TestHandshakePhases counts the wait for a goroutine to what the gate took, and no computing.
func TestHandshakePhases(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	g.handshakes.crew.setLimit(0)
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	done := make(chan error, 1)
	go func() { done <- tls.Client(nc, conf).Handshake() }()
	g.wait("it waits for a goroutine", func() bool { return g.handshakes.crew.waiting.Load() == 1 })
	g.ticks(2)
	g.handshakes.crew.setLimit(1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	const sum = "tickgate_tls_handshake_phase_seconds_sum"
	g.wait("it is counted", func() bool { return g.metric(sum) > 0 })
	if got := g.metric(sum, `phase="gate"`); got < reactor.TickInterval.Seconds() {
		t.Errorf("the gate took %vs, want at least %v", got, reactor.TickInterval)
	}
}

// TestHandshakeLogLines has a client offer far more than a line of the log holds.
func TestHandshakeLogLines(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon))
	conf = conf.Clone()
	for i := range 100 {
		conf.NextProtos = append(conf.NextProtos, fmt.Sprintf("%d%s", i, strings.Repeat("\x00", 200)))
	}
	nc, err := dialRaw(secure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if err := tls.Client(nc, conf).Handshake(); err == nil {
		t.Fatal("it was let in")
	}
	g.wait("its end", func() bool { return g.failures(tlsterm.NoSharedProtocol) == 1 })
	for line := range strings.Lines(g.logs.String()) {
		if len(line) > 2<<10 {
			t.Errorf("a line of %d bytes in the log: %.100s", len(line), line)
		}
	}
}

// TestHandshakeStorm has clients go on, stop, dribble and leave, while others give way and are ended from outside, up to the end of
// the gateway: no turn is lost and nothing is left.
func TestHandshakeStorm(t *testing.T) {
	t.Parallel()
	for _, drains := range []bool{false, true} {
		g, secure, conf := tlsGateway(t, "handshakes: {max: 4, concurrency: 2, queue: 16, queue_timeout: 1h}\ntimeouts: {handshake: 1h}\n"+
			"drain: {timeout: 1s, grace: 0s}\n"+static(soon))
		first := hello(t, conf)
		var clients, enders sync.WaitGroup
		var stop atomic.Bool
		for k := range 8 {
			clients.Go(func() {
				for i := range 20 {
					stormClient(secure, conf, first, (k+i)%4)
				}
			})
		}
		enders.Go(func() {
			for n := 0; !stop.Load(); n++ {
				for _, c := range g.connections() {
					g.end(c.id, n%2 == 0)
				}
				g.ticks(1)
			}
		})
		clients.Wait()
		stop.Store(true)
		enders.Wait()
		expectStatus(t, "after the storm", testkit.DialTLS(t, secure, conf).Do(get("/")), 200)
		for range 4 {
			stallAfterHello(t, secure, conf)
		}
		if drains {
			g.Drain(t.Context())
		} else {
			g.Stop()
		}
		g.nothingLeft()
	}
}

// stormClient is one client of a storm. It lasts for as long as the gateway wants it to, or a moment.
func stormClient(secure string, conf *tls.Config, first string, kind int) {
	nc, err := dialRaw(secure)
	if err != nil {
		return
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(100 * time.Millisecond))
	switch kind {
	case 0: // goes on
		_ = tls.Client(nc, conf).Handshake()
	case 1: // stops
		_, _ = io.WriteString(nc, first)
		_, _ = io.Copy(io.Discard, nc)
	case 2: // dribbles
		_, _ = io.WriteString(nc, first)
		for range 100 {
			if _, err := nc.Write([]byte{22}); err != nil {
				return
			}
			_, _ = nc.Read(make([]byte, 1))
		}
	case 3: // leaves
		_, _ = io.WriteString(nc, first)
	}
}
