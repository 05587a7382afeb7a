package proxy

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/meter"
	"tickgate/internal/sock"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

// TestClosingTLSHoldsNoWorker expires an idle TLS connection whose client takes nothing: there is no
// waiting for room for close_notify.
func TestClosingTLSHoldsNoWorker(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon+"timeouts: {write: 1h, idle: 1s}\n"))
	c := testkit.DialTLS(t, secure, conf)
	expectStatus(t, "first", c.Do(get("/")), 200)
	g.waitParked(1)
	g.lot.Each(func(i park.Info) bool {
		full(i.FD)
		return true
	})
	g.waitNone()
}

// full fills a socket's send buffer for good: what the peer's kernel still takes is filled again. It holds a descriptor of
// its own, as the gateway may close the other meanwhile, and its number become another connection's.
func full(fd int) {
	fd, err := unix.Dup(fd)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	junk := make([]byte, 64<<10)
	for last := time.Now(); time.Since(last) < 300*time.Millisecond; {
		if unix.Send(fd, junk, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil {
			last = time.Now()
		} else if len(junk) > 1 {
			junk = junk[:len(junk)/2]
		}
	}
}

// TestDrainWaitsForCutRecord drains in the middle of a TLS record, which holds a request.
func TestDrainWaitsForCutRecord(t *testing.T) {
	t.Parallel()
	g, secure, conf := tlsGateway(t, static(soon+"drain: {grace: 0s, timeout: 20s}\n"))
	c, cut := dialCut(t, secure, conf)
	expectStatus(t, "whole", c.Do(get("/whole")), 200)
	g.waitParked(1)
	cut.cut = true
	c.Send(get("/cut"))
	g.wait("a connection with half a record", func() (partial bool) {
		g.lot.Each(func(i park.Info) bool { partial = i.Partial; return true })
		return partial
	})
	drained := g.drain()
	g.wait("closing", func() bool { p := g.progress.Load(); return p != nil && *p.phase.Load() == phaseClosing })
	if n := g.conns.Open(); n != 1 {
		t.Errorf("%d connections are open, want the one with half a record", n)
	}
	if err := cut.release(); err != nil {
		t.Fatal(err)
	}
	expectStatus(t, "cut", c.Response("GET"), 200, "/cut")
	if cut := <-drained; cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
}

// TestLastWordIsBounded tells a connection to close while half a TLS record is there, which
// may be a request: it waits for the rest, but not for ever.
func TestLastWordIsBounded(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static("workers: {park_after: 1h}\n"))
	c, client := g.planted(1)
	pair := testcert.New(t)
	c.seat = new(sock.Seat)
	c.seat.Take(c.sk)
	c.tls = tls.Server(c.seat, pair.ServerTLS(t))
	c.rw = c.tls
	cut := &cutter{Conn: client.Conn}
	over := tls.Client(cut, pair.ClientTLS("localhost"))
	shaken := make(chan error, 1)
	go func() { shaken <- c.tls.Handshake() }()
	if err := over.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	c.requests++
	c.setState(meter.Idle)
	g.draining.Store(true)
	c.sk.Interrupt(sock.ReadExpired | sock.Cancelled) // its time is over and it is told to close, at once
	cut.cut = true
	_, _ = over.Write([]byte(get("/late")))
	g.wait("half a record", c.sk.Readable)
	ended := make(chan struct{})
	go func() { defer close(ended); c.run() }()
	wait1(t, "end of the connection", ended)
}

// TestLingeringIsOwned counts connections whose end is sent as somebody's: they are no leak.
func TestLingeringIsOwned(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static(""))
	const n = 20
	g.wait("connections that linger", func() bool {
		expectStatus(t, "last", g.dial().Do(get("/", "Connection: close")), 200)
		return g.state(meter.Draining) >= n
	})
	s := g.sample()
	for _, kind := range s.ByKind {
		if kind.Name == clientFDs && kind.N-s.Open > n/2 {
			t.Errorf("%d descriptors of clients, of which %d have an owner", kind.N, s.Open)
		}
	}
}

// TestLateLoop has a deadline begin while the loops are busy for longer than it.
func TestLateLoop(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static("workers: {loops: 1}\ntimeouts: {head: 400ms}\n"))
	busy := make(chan struct{})
	g.loops.Loops()[0].Post(func() { close(busy); pauseFor(700 * time.Millisecond) })
	<-busy
	pauseFor(550 * time.Millisecond)
	began := time.Now()
	g.dial().ExpectClosed()
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("timeouts.head of 400 ms was over after %v", took)
	}
}

// TestDurationFromFirstByte has the time in which a head dribbles counted and logged.
func TestDurationFromFirstByte(t *testing.T) {
	t.Parallel()
	const pause = 500 * time.Millisecond
	file := filepath.Join(t.TempDir(), "access.log")
	g := newGateway(t, fmt.Sprintf("log: {access: {output: %q, format: \"${status} ${duration} ${upstream_duration}\", flush: 1ms}}\n", file)+
		static("timeouts: {head: 2500ms}\n"))
	slow := g.dial()
	raw := get("/")
	slow.Send(raw[:10])
	pauseFor(pause)
	slow.Send(raw[10:])
	expectStatus(t, "slow head", slow.Response("GET"), 200)
	late := g.dial()
	late.Send(raw[:10])
	expectStatus(t, "late head", late.Response("GET"), 408)
	for _, line := range g.accessLines(file, 2) {
		fields := strings.Fields(line)
		took, err := strconv.ParseFloat(fields[1], 64)
		want := pause
		if fields[0] == "408" {
			want = 2500 * time.Millisecond
		}
		// The first byte is noted when it is read, which may be a while after it was sent.
		if err != nil || took < want.Seconds()/2 || fields[2] != "0.000000" && fields[2] != "-" {
			t.Errorf("%q, want a duration of about %v and none upstream", line, want)
		}
	}
}
