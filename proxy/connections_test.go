//go:build linux

package proxy

import (
	"cmp"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/internal/unit"
)

// list is what the admin API lists; a limit of 0 is no limit here.
func (g *testGateway) list(f admin.ConnFilter) []*connStatus {
	f.Limit = cmp.Or(f.Limit, 1000)
	return Admin{Gateway: g.Gateway}.Connections(f).([]*connStatus)
}

// crowd is a gateway with connections in every state. Their fields are IDs.
type crowd struct {
	*testGateway
	be                                          *tunnelBackend
	fresh, idle, hot, active, opaque, framed    uint64
	freshC, idleC, hotC, activeC, opaqueC, frmC *testkit.Client
	activeB, opaqueB, frmB                      *testkit.Client
}

// dialFrom connects from an address of the loopback network.
func dialFrom(t testing.TB, source, addr string) *testkit.Client {
	t.Helper()
	d := net.Dialer{Timeout: testkit.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return testkit.NewClient(t, conn)
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{be: newTunnelBackend(t, nil)}
	g, secure, conf := tlsGateway(t, `
upstreams: {be: {servers: [{address: "`+c.be.addr()+`"}]}}
routes:
  - {name: local, path: /local, static_response: {body: ok}}
  - {name: opaque, path: /opaque, upstream: be}
  - {name: framed, path: /framed, upstream: be, tunnel: {mode: frames, ping_interval: 0s}}
  - {name: slow, path: /, upstream: be}
workers: {park_after: 1h}
`)
	c.testGateway = g
	added := func(state meter.ConnState) uint64 {
		t.Helper()
		var id uint64
		g.wait("connection "+state.String(), func() bool {
			for _, st := range g.list(admin.ConnFilter{State: state.String()}) {
				id = max(id, st.ID) // the newest
			}
			return id > 0
		})
		return id
	}
	c.freshC = g.dial()
	c.fresh = added(meter.Accepted)
	c.idleC = dialFrom(t, "127.0.1.1", g.addr)
	c.idleC.Do(get("/local"))
	c.idle = added(meter.Parked)
	c.hotC = dialFrom(t, "127.0.1.2", g.addr)
	for range 3 { // close to each other, so that it keeps its worker
		c.hotC.Do(get("/local"))
	}
	c.hot = added(meter.Idle)
	c.activeC = testkit.DialTLS(t, secure, conf)
	c.activeC.Send(get("/"))
	c.activeB = c.be.asked()
	c.active = added(meter.Active)
	open := func(client *testkit.Client, path string) (_, backend *testkit.Client) {
		client.Send(strings.Replace(upgrade(), "GET / ", "GET "+path+" ", 1))
		backend = c.be.asked()
		backend.Send(switching())
		expectStatus(t, path, client.Response("GET"), 101)
		return client, backend
	}
	c.opaqueC, c.opaqueB = open(dialFrom(t, "127.0.2.1", g.addr), "/opaque")
	c.opaque = added(meter.Relayed)
	c.frmC, c.frmB = open(testkit.DialTLS(t, secure, conf), "/framed")
	g.relayed(2)
	g.wait("both tunnels", func() bool { return len(g.list(admin.ConnFilter{State: "relayed"})) == 2 })
	c.framed = added(meter.Relayed)
	return c
}

func ids(list []*connStatus) (out []uint64) {
	for _, st := range list {
		out = append(out, st.ID)
	}
	return out
}

func TestConnectionFilters(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	f := func(what string, filter admin.ConnFilter, want ...uint64) {
		t.Helper()
		if got := ids(c.list(filter)); !slices.Equal(got, want) {
			t.Errorf("%s: connections %d, want %d", what, got, want)
		}
	}
	all := []uint64{c.fresh, c.idle, c.hot, c.active, c.opaque, c.framed}
	if !slices.IsSorted(all) {
		t.Fatalf("IDs %d are not in the order of the connections", all)
	}
	f("all", admin.ConnFilter{}, all...)
	for k, state := range []meter.ConnState{meter.Accepted, meter.Parked, meter.Idle, meter.Active} {
		f(state.String(), admin.ConnFilter{State: state.String()}, all[k])
	}
	f("relayed", admin.ConnFilter{State: "relayed"}, c.opaque, c.framed)
	f("draining", admin.ConnFilter{State: "draining"})
	f("ID", admin.ConnFilter{ID: c.hot}, c.hot)
	f("unknown ID", admin.ConnFilter{ID: 12345})
	f("plain listener", admin.ConnFilter{Listener: "127.0.0.1:0"}, c.fresh, c.idle, c.hot, c.opaque)
	f("TLS listener", admin.ConnFilter{Listener: "127.0.0.2:0"}, c.active, c.framed)
	f("no listener", admin.ConnFilter{Listener: "127.0.0.3:0"})
	f("route", admin.ConnFilter{Route: "framed"}, c.framed)
	f("other route", admin.ConnFilter{Route: "opaque"}, c.opaque)
	f("unknown route", admin.ConnFilter{Route: "x"})
	f("peer", admin.ConnFilter{Peer: netip.MustParsePrefix("127.0.1.2/32")}, c.hot)
	f("peers", admin.ConnFilter{Peer: netip.MustParsePrefix("127.0.1.0/24")}, c.idle, c.hot)
	f("more peers", admin.ConnFilter{Peer: netip.MustParsePrefix("127.0.0.0/15")}, all...)
	f("no peer", admin.ConnFilter{Peer: netip.MustParsePrefix("::/0")})
	f("minimum age", admin.ConnFilter{MinAge: time.Hour})
	f("maximum age", admin.ConnFilter{MaxAge: time.Hour}, all...)
	f("limit", admin.ConnFilter{Limit: 2}, c.fresh, c.idle)
	f("several", admin.ConnFilter{Listener: "127.0.0.1:0", State: "relayed", Route: "opaque", Peer: netip.MustParsePrefix("127.0.2.0/24")}, c.opaque)
	f("several, one not met", admin.ConnFilter{Listener: "127.0.0.2:0", State: "relayed", Route: "opaque"})
	c.wait("nothing queued", func() bool { return len(c.list(admin.ConnFilter{MinQueued: 1})) == 0 })
}

// TestConnectionAge compares ages exactly.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	f := func(age, minAge, maxAge time.Duration, want bool) {
		t.Helper()
		v := connView{since: now.Add(-age)}
		if got := v.passes(&admin.ConnFilter{MinAge: minAge, MaxAge: maxAge}, now); got != want {
			t.Errorf("age %v, minimum %v, maximum %v: %t, want %t", age, minAge, maxAge, got, want)
		}
	}
	f(time.Minute, 0, 0, true)
	f(time.Minute, time.Minute, 0, true)
	f(time.Minute, time.Minute+1, 0, false)
	f(time.Minute, 0, time.Minute, true)
	f(time.Minute, 0, time.Minute-1, false)
	f(time.Minute, time.Second, time.Hour, true)
}

// TestConnectionSorts has one tunnel with bytes that its client does not take.
func TestConnectionSorts(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	big := strings.Repeat("x", 64<<20) // more than all buffers on its way
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = c.opaqueB.TrySend(big)
	}()
	c.wait("queued bytes", func() bool { return len(c.list(admin.ConnFilter{MinQueued: 64 << 10})) > 0 })
	if got := ids(c.list(admin.ConnFilter{MinQueued: 64 << 10})); !slices.Equal(got, []uint64{c.opaque}) {
		t.Errorf("queued: connections %d, want %d", got, c.opaque)
	}
	if got := c.list(admin.ConnFilter{Sort: admin.ByQueued}); len(got) != 6 || got[0].ID != c.opaque || got[0].Queued < 64<<10 {
		t.Errorf("by queued bytes: %d", ids(got))
	}
	if got := ids(c.list(admin.ConnFilter{Sort: admin.ByQueued, Limit: 1})); !slices.Equal(got, []uint64{c.opaque}) {
		t.Errorf("most queued: %d, want %d", got, c.opaque)
	}
	if got := c.list(admin.ConnFilter{MinQueued: unit.Size(1 << 40)}); len(got) != 0 {
		t.Errorf("more than there is: %d", ids(got))
	}
	byRTT := c.list(admin.ConnFilter{Sort: admin.ByRTT})
	if len(byRTT) != 6 || !slices.IsSortedFunc(byRTT, func(x, y *connStatus) int { return cmp.Compare(y.rtt(), x.rtt()) }) {
		t.Errorf("by RTT: %d", ids(byRTT))
	}
	if got := c.list(admin.ConnFilter{Sort: admin.ByRTT, Limit: 2}); len(got) != 2 {
		t.Errorf("two by RTT: %d", ids(got))
	}
	c.wait("queued bytes in the metrics", func() bool { return c.metric("tickgate_tunnel_queued_bytes") > 0 })
	c.opaqueC.Close()
	c.opaqueB.Close()
	<-sent
	c.wait("nothing queued", func() bool { return len(c.list(admin.ConnFilter{MinQueued: 1})) == 0 })
}

// TestConnectionStatus looks at each connection by its ID.
func TestConnectionStatus(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	talk(t, "opaque", c.opaqueC, c.opaqueB)
	talk(t, "framed", c.frmC, c.frmB)
	one := func(id uint64) *connStatus {
		t.Helper()
		v, err := (Admin{Gateway: c.Gateway}).Connection(id)
		if err != nil {
			t.Fatalf("connection %d: %v", id, err)
		}
		return v.(*connStatus)
	}
	for k, id := range []uint64{c.fresh, c.idle, c.hot, c.active, c.opaque, c.framed} {
		st := one(id)
		if st.ID != id || st.Age <= 0 || st.Age > testkit.Patience.Seconds() || st.RTT == nil || *st.RTT <= 0 || st.Retransmits == nil {
			t.Errorf("connection %d: %+v", k, st)
		}
		if tunnel := k >= 4; tunnel != (st.Mode != "") || tunnel != (st.ToClient != nil) || tunnel != (st.Backend != "") {
			t.Errorf("connection %d: %+v, want a tunnel's fields: %t", k, st, tunnel)
		}
	}
	if st := one(c.opaque); st.Mode != "opaque" || st.Route != "opaque" || st.Upstream != "be" || st.Backend != c.be.addr() ||
		*st.ToClient != (flow{Bytes: 11}) || *st.ToBackend != (flow{Bytes: 16}) || !strings.HasPrefix(st.Peer, "127.0.2.1:") {
		t.Errorf("opaque: %+v %+v %+v", st, st.ToClient, st.ToBackend)
	}
	if st := one(c.framed); st.Mode != "frames" || st.Route != "framed" || *st.ToClient != (flow{11, 1}) || *st.ToBackend != (flow{16, 1}) || st.Listener != "127.0.0.2:0" {
		t.Errorf("framed: %+v %+v %+v", st, st.ToClient, st.ToBackend)
	}
	if st := one(c.idle); st.State != "parked" || st.Requests != 1 {
		t.Errorf("idle: %+v", st)
	}
	for what, err := range map[string]error{
		"Connection":            second((Admin{Gateway: c.Gateway}).Connection(12345)),
		"CloseConnection":       second((Admin{Gateway: c.Gateway}).CloseConnection(12345, false)),
		"CloseConnection reset": second((Admin{Gateway: c.Gateway}).CloseConnection(12345, true)),
	} {
		if !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
}

func second(_ any, err error) error { return err }

// TestUnixConnections have no figures of TCP and no address.
func TestUnixConnections(t *testing.T) {
	t.Parallel()
	be := newTunnelBackend(t, nil)
	name := "unix:" + filepath.Join(t.TempDir(), "s")
	g := newGateway(t, toBackends("", "tunnel: {mode: frames}", be.addr())+"tunnels: {max_per_client: 1}\nlisteners: [{listen: \""+name+"\"}]")
	var last [2]*testkit.Client
	for range 3 { // nobody knows the client, so the limit on clients does not count
		last[0], last[1] = be.open(testkit.Dial(t, name))
	}
	testkit.Dial(t, name)
	g.wait("connections", func() bool { return len(g.list(admin.ConnFilter{})) == 4 })
	for _, st := range g.list(admin.ConnFilter{}) {
		if st.RTT != nil || st.Retransmits != nil || st.Listener != name {
			t.Errorf("%+v, want neither RTT nor retransmits", st)
		}
	}
	if got := g.list(admin.ConnFilter{Peer: netip.MustParsePrefix("0.0.0.0/0")}); len(got) != 0 {
		t.Errorf("%d connections have an address", len(got))
	}
	talk(t, "unix", last[0], last[1])
	id := g.list(admin.ConnFilter{State: "relayed"})[2].ID
	if _, err := (Admin{Gateway: g.Gateway}).CloseConnection(id, true); err != nil {
		t.Fatal(err)
	}
	last[0].ExpectClosed()
	last[1].ExpectClosed()
	g.waitTunnelEnd(reason.KilledByUser, 1)
}

// expectEnd reads the end of a connection: FIN, or RST with reset.
func expectEnd(t testing.TB, what string, c *testkit.Client, reset bool) {
	t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(testkit.Patience))
	n, err := c.Conn.Read(make([]byte, 1))
	if n > 0 || !reset && !errors.Is(err, io.EOF) || reset && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read %d, %v, want the end, with reset: %t", what, n, err, reset)
	}
}

// TestCloseConnections closes a connection in every state.
func TestCloseConnections(t *testing.T) {
	t.Parallel()
	for _, reset := range []bool{false, true} {
		c := newCrowd(t)
		kill := func(what string, id uint64, state meter.ConnState) {
			t.Helper()
			was, err := Admin{Gateway: c.Gateway}.CloseConnection(id, reset)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if st := was.(*connStatus); st.ID != id || st.State != state.String() {
				t.Errorf("%s: answered with %+v", what, st)
			}
		}
		gone := func(what string, id uint64) {
			t.Helper()
			c.wait("end of "+what, func() bool {
				_, err := Admin{Gateway: c.Gateway}.Connection(id)
				return errors.Is(err, admin.ErrNotFound)
			})
		}
		f := func(what string, id uint64, state meter.ConnState, client *testkit.Client) {
			t.Helper()
			kill(what, id, state)
			expectEnd(t, what, client, reset)
			gone(what, id)
		}
		f("fresh", c.fresh, meter.Accepted, c.freshC)
		f("parked", c.idle, meter.Parked, c.idleC)
		f("hot", c.hot, meter.Idle, c.hotC)
		f("active", c.active, meter.Active, c.activeC)
		c.activeB.ExpectClosed()
		f("opaque", c.opaque, meter.Relayed, withoutFIN(c, reset))
		kill("framed", c.framed, meter.Relayed)
		if reset {
			expectEnd(t, "framed", c.frmC, true)
			expectEnd(t, "framed, backend", c.frmB, true)
		} else {
			expectClose(t, "framed", c.frmC, 1001)
			expectClose(t, "framed, backend", c.frmB, 1001)
			if list := c.list(admin.ConnFilter{State: "draining"}); !slices.Equal(ids(list), []uint64{c.framed}) {
				t.Errorf("closing: %d, want %d", ids(list), c.framed)
			}
			c.frmC.Send(frame(fin|closeOp, closing(1001), true))
			c.frmC.ExpectClosed()
			c.frmB.Close()
		}
		gone("framed", c.framed)
		c.waitConnEnd(reason.KilledByUser, 6)
		c.waitTunnelEnd(reason.KilledByUser, 2)
		c.waitNoTunnels()
		c.waitNone()
	}
}

// withoutFIN returns the client of the opaque tunnel, whose backend ends its side as soon as
// it is told to.
func withoutFIN(c *crowd, reset bool) *testkit.Client {
	go func() {
		_, _ = c.opaqueB.Conn.Read(make([]byte, 1))
		_ = c.opaqueB.Conn.Close()
		if !reset {
			if tcp, ok := c.opaqueC.Conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		}
	}()
	return c.opaqueC
}
