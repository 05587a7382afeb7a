//go:build linux

package proxy

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"tickgate/config"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// feeds is a gateway that asks for certificates, and a backend that is played.
type feeds struct {
	*mutual
	be *tunnelBackend
}

func newFeeds(t *testing.T, route, more string) *feeds {
	t.Helper()
	f := &feeds{be: newTunnelBackend(t, nil)}
	f.mutual = newMutual(t, toBackends("", route, f.be.addr())+more)
	return f
}

// feed is an open tunnel.
type feed struct{ client, backend *testkit.Client }

// open makes a tunnel for a client that may have no certificate.
func (f *feeds) open(pair *testcert.Pair) (out feed) {
	f.t.Helper()
	out.client, out.backend = f.be.open(f.dialAs(pair))
	return out
}

// lasts has a client that shows a certificate that lasts so long.
func (f *feeds) lasts(d time.Duration) *testcert.Pair {
	f.t.Helper()
	return f.ca.Issue(f.t, testcert.Request{Names: []string{"client.example"}, NotAfter: time.Now().Add(d)})
}

// revoked revokes and waits until the review that comes of it has begun.
func (f *feeds) revoked(pairs ...*testcert.Pair) {
	f.t.Helper()
	const line = "TLS files have changed and are in use"
	before := strings.Count(f.logs.String(), line)
	f.revoke(pairs...)
	f.wait("the new list", func() bool { return strings.Count(f.logs.String(), line) > before && len(f.reviews) == 0 })
}

// look has the ends of certificates looked at, which else happens once a minute.
func (f *feeds) look() { f.watchExpiries(new(expiryWatch), time.Now()) }

// expectCutOff reads a tunnel to its end, which has to come from the gateway.
func expectCutOff(t testing.TB, what string, fd feed, frames bool, code ws.StatusCode) {
	t.Helper()
	if frames {
		expectClose(t, what+", at the client", fd.client, code)
		expectClose(t, what+", at the backend", fd.backend, code)
		fd.client.Send(frame(fin|closeOp, closing(code), true))
	}
	fd.client.ExpectClosed()
	fd.backend.Close()
	fd.client.Close()
}

// A client whose certificate is revoked loses its tunnels, and nobody else does.
func TestRevokedTunnels(t *testing.T) {
	t.Parallel()
	for _, mode := range tunnelModes {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, secure := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s backend TLS %t", mode, tls.VersionName(version), secure), func(t *testing.T) {
					t.Parallel()
					revokedTunnels(t, mode == "frames", version, secure)
				})
			}
		}
	}
}

func revokedTunnels(t *testing.T, frames bool, version uint16, secure bool) {
	be, upstream, mode := newTunnelBackend(t, nil), "", tunnelModes[0]
	if frames {
		mode = tunnelModes[1]
	}
	if secure {
		be.conf, upstream = testcert.New(t).ServerTLS(t), "tls: {insecure_skip_verify: true}"
	}
	access := filepath.Join(t.TempDir(), "access")
	m := newMutual(t, toBackends(upstream, "name: feed, tunnel: {mode: "+mode+"}", be.addr())+"log: {access: {output: \""+access+"\", flush: 1ms}}\n")
	good, bad := m.client("good", ""), m.client("bad", "spiffe://example.org/bad")
	open := func(pair *testcert.Pair) (out feed) {
		t.Helper()
		conf := m.tls("localhost", pair)
		conf.MinVersion, conf.MaxVersion = version, version
		out.client, out.backend = be.open(testkit.DialTLS(t, m.addr, conf))
		talk(t, "at first", out.client, out.backend)
		return out
	}
	stay, end := []feed{open(good), open(nil)}, []feed{open(bad), open(bad)}
	m.relayed(4)
	m.revoke(bad)
	for _, fd := range end {
		expectCutOff(t, "revoked", fd, frames, 1008)
	}
	m.waitTunnelEnd(reason.IdentityRevoked, 2)
	m.waitConnEnd(reason.IdentityRevoked, 2)
	for _, fd := range stay {
		talk(t, "not revoked", fd.client, fd.backend)
	}
	if n := m.metric("tickgate_tunnels_closed_total{", `route="feed"`, `reason="identity_revoked"`); n != 2 {
		t.Errorf("%v tunnels of the route are counted, want 2", n)
	}
	if text := m.logs.String(); strings.Count(text, `"event":"identity_revoked","certificate":"revoked","identity":"spiffe://example.org/bad"`) != 2 {
		t.Error("the log does not tell of both tunnels")
	}
	m.wait("access log", func() bool {
		text, _ := os.ReadFile(access)
		return strings.Count(string(text), `"reason":"identity_revoked"`) == 2
	})
	for _, fd := range stay {
		fd.client.Close()
		fd.backend.Close()
	}
	m.waitNoTunnels()
}

// A tunnel ends when its client's certificate has run out.
func TestExpiredTunnels(t *testing.T) {
	t.Parallel()
	f := newFeeds(t, "tunnel: {mode: frames}", "tunnels: {expired: close}")
	pair := f.lasts(2 * time.Second)
	long, short := f.open(f.client("long", "")), f.open(pair)
	f.look()
	talk(t, "in time", short.client, short.backend)
	f.wait("the end of the certificate", func() bool { return time.Now().After(pair.Leaf(t).NotAfter.Add(time.Second)) })
	talk(t, "nobody has looked", short.client, short.backend)
	f.look()
	expectCutOff(t, "expired", short, true, 1008)
	f.waitTunnelEnd(reason.IdentityExpired, 1)
	if !strings.Contains(f.logs.String(), `"event":"identity_expired","certificate":"expired"`) {
		t.Error("the log does not tell of it")
	}
	talk(t, "not expired", long.client, long.backend)
}

// tunnels.revoked and tunnels.expired may let tunnels go on, each by itself, until a reload says otherwise.
func TestLapsedTunnelsMayStay(t *testing.T) {
	t.Parallel()
	f := newFeeds(t, "tunnel: {mode: frames}", "tunnels: {revoked: keep}") // keep is the default for expired ones
	bad, short := f.client("bad", ""), f.lasts(2*time.Second)
	revoked, expired := f.open(bad), f.open(short)
	f.revoked(bad)
	f.wait("the end of the certificate", func() bool { return time.Now().After(short.Leaf(t).NotAfter.Add(time.Second)) })
	f.reviewTunnels()
	talk(t, "revoked", revoked.client, revoked.backend)
	talk(t, "expired", expired.client, expired.backend)
	f.change(func(cfg *config.Config) { cfg.Tunnels.Expired = "close" })
	expectCutOff(t, "expired", expired, true, 1008)
	f.reviewTunnels()
	talk(t, "revoked, when only expired ones are closed", revoked.client, revoked.backend)
	f.change(func(cfg *config.Config) { cfg.Tunnels.Revoked = "close" })
	expectCutOff(t, "revoked", revoked, true, 1008)
	f.waitTunnelEnd(reason.IdentityExpired, 1)
	f.waitTunnelEnd(reason.IdentityRevoked, 1)
}

// Rules that a reload made stricter hold for tunnels as well, also where it opened other sockets; a listener that is gone judges as it last did.
func TestTunnelsUnderOtherRules(t *testing.T) {
	t.Parallel()
	f := newFeeds(t, "tunnel: {mode: frames}", "tunnels: {expired: close}")
	pair, short := f.client("feed", ""), f.lasts(2*time.Second)
	a, b, c := f.open(pair), f.open(pair), f.open(short)
	f.change(func(cfg *config.Config) {
		cfg.Listeners = slices.Clone(cfg.Listeners)
		cfg.Listeners[0].KeepAlive++ // another socket
		rules := *cfg.Listeners[0].TLS
		rules.ClientAuth.Depth-- // and another store
		cfg.Listeners[0].TLS = &rules
	})
	talk(t, "another socket", a.client, a.backend)
	f.revoke(pair)
	expectCutOff(t, "revoked", a, true, 1008)
	expectCutOff(t, "revoked", b, true, 1008)
	f.change(func(cfg *config.Config) {
		plain := cfg.Listeners[0]
		plain.Listen, plain.TLS = "127.0.0.2:0", nil
		cfg.Listeners = []config.Listener{plain}
	})
	f.wait("the end of the certificate", func() bool { return time.Now().After(short.Leaf(t).NotAfter.Add(time.Second)) })
	f.look()
	expectCutOff(t, "expired", c, true, 1008)
}

// A tunnel that is on its way while its client is revoked does not get away.
func TestRevokedWithinUpgrade(t *testing.T) {
	t.Parallel()
	f := newFeeds(t, "tunnel: {mode: frames}", "")
	pair := f.client("feed", "")
	out := feed{client: f.dialAs(pair)}
	out.client.Send(upgrade())
	out.backend = f.be.asked()
	f.revoked(pair)
	// So that the one that comes of the first look at the ends of certificates is not what finds it.
	f.wait("other reviews", func() bool { return time.Since(f.started) > crewRound+crewRound/2 && len(f.reviews) == 0 })
	out.backend.Send(switching())
	expectStatus(t, "upgrade", out.client.Response("GET"), 101)
	expectCutOff(t, "revoked", out, true, 1008)
	f.waitTunnelEnd(reason.IdentityRevoked, 1)
}

// Reviews go on while tunnels come and go and the files change under them; what is revoked at the end is gone at the end.
func TestReviewsUnderReloads(t *testing.T) {
	t.Parallel()
	be := testkit.NewEchoWS(t)
	m := newMutual(t, toBackends("", "tunnel: {mode: frames}", be.Addr()))
	good, bad := m.client("good", ""), m.client("bad", "")
	done := make(chan struct{})
	var stay []*testkit.WSClient
	for range 3 {
		stay = append(stay, testkit.DialWS(t, "wss://"+m.addr+"/", m.tls("localhost", good), nil))
	}
	go func() {
		defer close(done)
		for range 60 {
			c, err := testkit.TryDialWS(t, "wss://"+m.addr+"/", m.tls("localhost", bad), nil)
			if err == nil {
				_ = c.Conn.Close()
			}
		}
	}()
	again := parseConfig(t, m.config(toBackends("", "tunnel: {mode: frames}", be.Addr())))
	for i := range 20 {
		m.revoke(map[bool][]*testcert.Pair{true: {bad}, false: nil}[i%2 == 0]...)
		if err := m.Reload(again); err != nil {
			t.Fatal(err)
		}
		m.reviewTunnels() // beside the one that was wanted
	}
	<-done
	open := testkit.DialWS(t, "wss://"+m.addr+"/", m.tls("localhost", bad), nil)
	m.revoke(bad, m.client("another", ""))
	if code := open.Closed(); code != 1008 {
		t.Errorf("revoked: close code %d", code)
	}
	m.relayed(3)
	for _, c := range stay {
		c.SendText("still here")
		if got := c.Text(); got != "still here" {
			t.Errorf("%q comes back", got)
		}
	}
}

// Where there are no loops, tunnels are reviewed too. There is no framing, so no Close frame.
func TestTunnelsWithoutLoops(t *testing.T) {
	t.Parallel()
	f := &feeds{mutual: newMutualFiles(t, "20ms"), be: newTunnelBackend(t, nil)}
	f.testGateway = startGateway(t, f.config(toBackend(f.be.addr())+"\ntunnels: {expired: close}\n"), Options{goroutines: true})
	bad, short := f.client("bad", ""), f.lasts(3*time.Second)
	good, revoked, expired, nobody := f.open(f.client("good", "")), f.open(bad), f.open(short), f.open(nil)
	f.revoke(bad)
	expectCutOff(t, "revoked", revoked, false, 0)
	f.waitConnEnd(reason.IdentityRevoked, 1)
	f.wait("the end of the certificate", func() bool { return time.Now().After(short.Leaf(t).NotAfter.Add(time.Second)) })
	talk(t, "nobody has looked", expired.client, expired.backend)
	f.look()
	expectCutOff(t, "expired", expired, false, 0)
	f.waitConnEnd(reason.IdentityExpired, 1)
	for _, fd := range []feed{good, nobody} {
		talk(t, "the others", fd.client, fd.backend)
	}

	late := f.client("late", "")
	out := feed{client: f.dialAs(late)}
	out.client.Send(upgrade())
	out.backend = f.be.asked()
	f.revoked(late)
	out.backend.Send(switching())
	expectStatus(t, "upgrade", out.client.Response("GET"), 101)
	expectCutOff(t, "revoked within the upgrade", out, false, 0)
	f.waitConnEnd(reason.IdentityRevoked, 2)
}
