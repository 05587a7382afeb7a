package tlsattack

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/target"
)

// A flood comes at its rate, has the server do its work, and hangs up.
func TestFlood(t *testing.T) {
	cfg := testcert.New(t).ServerTLS(t)
	// f returns what came of a flood of about 100 connections.
	f := func(cfg *tls.Config, o Options) *Result {
		t.Helper()
		if o.Addr == "" {
			o.Addr = secure(t, testkit.Patience, cfg)
		}
		o.Kind, o.Rate, o.Duration, o.Groups = Flood, 100, time.Second, []tls.CurveID{tls.X25519}
		o.Target.Sources = 10
		if o.Conns == 0 {
			o.Conns = 200
		}
		r := attack(t.Context(), t, o)
		if r.Begun+r.HeldBack < 20 || r.Begun+r.HeldBack > 150 {
			t.Errorf("%+v", r)
		}
		return r
	}
	if r := f(cfg, Options{}); r.Served < 5 || r.Ends["hung_up"] != r.Begun {
		t.Errorf("served: %+v", r)
	}
	other := cfg.Clone()
	other.CurvePreferences = []tls.CurveID{tls.CurveP384}
	if r := f(other, Options{}); r.Served != 0 || r.Ends["alert"] < 5 || r.Alerts["handshake failure"] != r.Ends["alert"] {
		t.Errorf("refused: %+v", r)
	}
	if r := f(nil, Options{Addr: testkit.DeadAddr(t)}); r.Ends["connect_refused"] < 5 || r.FirstError == "" {
		t.Errorf("nobody there: %+v", r)
	}
	silent := serve(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = conn.Read(make([]byte, 1))
	})
	if r := f(nil, Options{Addr: silent, Target: target.Options{Timeout: 50 * time.Millisecond}}); r.Ends["unanswered"] < 5 {
		t.Errorf("unanswered: %+v", r)
	}
	if r := f(nil, Options{Addr: silent, Conns: 5}); r.MostOpen != 5 || r.HeldBack < 5 || r.Bottleneck == "" {
		t.Errorf("held back: %+v", r)
	}
	closing := serve(t, func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 4096)) })
	if r := f(nil, Options{Addr: closing}); r.Ends["closed"]+r.Ends["reset"] < 5 || r.Lasted.Count == 0 {
		t.Errorf("closed: %+v", r)
	}
}

// A flood ends with its context.
func TestFloodAborted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := serve(t, func(conn *net.TCPConn) { cancel(); _, _ = conn.Read(make([]byte, 1)) })
	if r := attack(ctx, t, Options{Addr: addr, Kind: Flood, Rate: 10}); r.Begun < 1 {
		t.Errorf("%+v", r)
	}
}
