package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/proxy/reactor"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// kit is a relay on its own loops, and the tunnels that ended.
type kit struct {
	t     testing.TB
	group *reactor.Group
	relay *Relay
	cert  *testcert.Pair
	ids   atomic.Uint64
	trims atomic.Int64

	mu    sync.Mutex
	ended map[uint64][]Ended
}

func newKit(t testing.TB, loops int) *kit {
	t.Helper()
	g, err := reactor.New(reactor.Options{Loops: loops, Log: func(event string, err error) { t.Errorf("%s: %v", event, err) }})
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{t: t, group: g, ended: map[uint64][]Ended{}}
	k.relay = New(Options{Group: g, Ended: k.onEnded, Trim: func(*tls.Conn) { k.trims.Add(1) }})
	g.Start()
	t.Cleanup(func() {
		g.Close()
		k.check()
	})
	return k
}

func (k *kit) onEnded(e Ended) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended[e.ID] = append(k.ended[e.ID], e)
}

// check finds tunnels that did not end exactly once, and what they left behind.
func (k *kit) check() {
	k.t.Helper()
	if got := k.relay.Count(); got != 0 {
		k.t.Errorf("%d tunnels after the end", got)
	}
	if got := len(k.ended); uint64(got) != k.ids.Load() {
		k.t.Errorf("%d tunnels ended, %d were joined", got, k.ids.Load())
	}
	for id, all := range k.ended {
		if len(all) != 1 {
			k.t.Errorf("tunnel %d ended %d times", id, len(all))
		}
	}
	st := k.relay.Stats()
	if st.Queued != 0 || st.Paused != 0 || st.Delayed != 0 || st.Open != [numModes]int{} {
		k.t.Errorf("left behind: %+v", st)
	}
	for _, lp := range k.relay.loops {
		if len(lp.policies.index) != 0 || len(lp.labels.index) != 0 {
			k.t.Error("policies or labels are still referenced")
		}
		leftovers(k.t, "queues", &lp.queues)
		leftovers(k.t, "TLS", &lp.secure)
		leftovers(k.t, "frame states", &lp.frames)
		leftovers(k.t, "held bytes", &lp.held)
	}
}

func leftovers[T any](t testing.TB, what string, a *arena[T]) {
	t.Helper()
	if n := len(a.pages)*arenaItems - len(a.free); n != 0 {
		t.Errorf("%d %s left behind", n, what)
	}
}

// end waits for the tunnel's end.
func (k *kit) end(id uint64) Ended {
	k.t.Helper()
	var e Ended
	testkit.WaitUntil(k.t, "the tunnel's end", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.ended[id]) == 0 {
			return false
		}
		e = k.ended[id][0]
		return true
	})
	return e
}

// endsWith fails unless the tunnel ends for a reason.
func (k *kit) endsWith(id uint64, want reason.Reason) Ended {
	k.t.Helper()
	e := k.end(id)
	if e.Reason != want {
		k.t.Errorf("ended with %v, want %v", e.Reason, want)
	}
	return e
}

// peer is the far end of a leg.
type peer interface {
	net.Conn
	CloseWrite() error
}

// leg returns one side of a tunnel and its peer. The relay is a TLS server to clients and
// a TLS client to backends.
func (k *kit) leg(d side, overTLS bool) (Leg, peer) {
	k.t.Helper()
	ours, theirs := testkit.TCPPair(k.t)
	_ = theirs.SetDeadline(time.Now().Add(patience))
	if !overTLS {
		return Leg{FD: detach(k.t, ours)}, theirs
	}
	if k.cert == nil {
		k.cert = testcert.New(k.t)
	}
	seat := &sock.Seat{}
	seat.Take(ours)
	a, b := tls.Server(seat, k.cert.ServerTLS(k.t)), tls.Client(theirs, k.cert.ClientTLS("localhost"))
	if d == backend {
		a, b = tls.Client(seat, k.cert.ClientTLS("localhost")), tls.Server(theirs, k.cert.ServerTLS(k.t))
	}
	shaken := make(chan error, 1)
	go func() { shaken <- a.Handshake() }()
	if err := errors.Join(b.Handshake(), <-shaken); err != nil {
		k.t.Fatalf("handshake: %v", err)
	}
	return Leg{FD: detach(k.t, ours), TLS: a, Seat: seat}, b
}

// detach takes a descriptor off the Go runtime.
func detach(t testing.TB, c *net.TCPConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(old uintptr) { fd, _ = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || fd < 0 {
		t.Fatalf("dup: %v", err)
	}
	_ = c.Close()
	return fd
}

// kind says which sides are TLS.
type kind struct {
	name            string
	client, backend bool
}

var (
	plain = kind{"plain", false, false}
	kinds = []kind{plain, {"tls_client", true, false}, {"tls_backend", false, true}, {"tls_both", true, true}}
)

// eachKind runs a test over plain and TLS sides.
func eachKind(t *testing.T, f func(t *testing.T, k *kit, on kind)) {
	for _, on := range kinds {
		t.Run(on.name, func(t *testing.T) { f(t, newKit(t, 2), on) })
	}
}

// tunnel is an open tunnel with both peers.
type tunnel struct {
	id              uint64
	client, backend peer
}

var labels = &Labels{Listener: "l", Route: "r", Upstream: "u", Backend: "b"}

// open joins a tunnel. change may set more of the parameters.
func (k *kit) open(p Policy, on kind, change ...func(*Params)) tunnel {
	k.t.Helper()
	tn := tunnel{id: k.ids.Add(1)}
	params := Params{ID: tn.id, Peer: netip.MustParseAddrPort("192.0.2.1:4321"), Since: time.Now(), Policy: &p, Labels: labels}
	params.Client, tn.client = k.leg(client, on.client)
	params.Backend, tn.backend = k.leg(backend, on.backend)
	for _, f := range change {
		f(&params)
	}
	if !k.relay.Join(params) {
		k.t.Fatal("Join failed")
	}
	return tn
}

// say writes, hear reads exactly what is wanted.
func say(t testing.TB, c net.Conn, what []byte) {
	t.Helper()
	if _, err := c.Write(what); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func hear(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read: %v after %q, want %q", err, short(got[:n]), short(want))
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", short(got), short(want))
	}
}

func short(b []byte) []byte { return b[:min(len(b), 100)] }

// silent fails unless the stream ends now, in order.
func silent(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read: %d, %v, want the end", n, err)
	}
}

// reset fails unless the connection is reset.
func reset(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}

// cut makes a peer's connection end with a RST.
func cut(t testing.TB, c net.Conn) {
	t.Helper()
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
