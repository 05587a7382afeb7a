//go:build redis

package proxy

import (
	"crypto/tls"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// TestResumptionByRedis goes through the life of two processes that share ticket keys by a
// real redis-server, which is killed, loses its data, and comes back.
func TestResumptionByRedis(t *testing.T) {
	ca := testcert.NewCA(t)
	server := testkit.StartRedis(t)
	tickets := fmt.Sprintf("source: redis, redis_url: \"redis://%s/0\", rotate: 4s, old_keys: 30, poll: 100ms, redis_timeout: 500ms", server.Addr)
	one, two := testkit.FreeAddr(t), testkit.FreeAddr(t)
	start := func(addr string) *testkit.Gateway { return testkit.StartGateway(t, withTickets(t, ca, addr, tickets)) }
	first, second := start(one), start(two)
	each := func(visit func(r *resumer)) {
		t.Helper()
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			visit(newResumer(t, ca, version))
		}
	}
	there := func(step string) {
		t.Helper()
		each(func(r *resumer) {
			r.visit(step, one, false)
			r.visit(step, two, true)
			r.visit(step, one, true)
		})
	}
	is := func(g *testkit.Gateway, metric string, want float64) func() bool {
		return func() bool { return g.Metric(metric) == want }
	}
	// 1. At the other process.
	there("1")
	// 2. After a restart.
	r := newResumer(t, ca, tls.VersionTLS13)
	r.visit("2", one, false)
	first.Signal(syscall.SIGTERM)
	first.WaitExit(20 * time.Second)
	first = start(one)
	r.visit("2", one, true)
	// 3. Over rotations: both follow.
	rotated := second.Metric("tickgate_tls_ticket_key_rotations_total")
	second.WaitUntil("two rotations", func() bool { return second.Metric("tickgate_tls_ticket_key_rotations_total") >= rotated+2 })
	r.visit("3", two, true)
	there("3")
	// 4. Redis is killed: all goes on, and each says so once.
	server.Stop()
	for _, g := range []*testkit.Gateway{first, second} {
		g.WaitUntil("Redis is missed", is(g, "tickgate_tls_ticket_source_up", 0))
		g.WaitLog("those so far stay in use")
		if n := strings.Count(g.Log(), "those so far stay in use"); n != 1 {
			t.Errorf("4: %d lines, want 1", n)
		}
	}
	r.visit("4", one, true)
	there("4")
	// 5. One that starts without Redis serves with a key of its own.
	three := testkit.FreeAddr(t)
	third := start(three)
	if third.Metric("tickgate_tls_ticket_fallback") != 1 || third.Metric("tickgate_tls_ticket_source_up") != 0 {
		t.Error("5: no fallback")
	}
	own := newResumer(t, ca, tls.VersionTLS13)
	own.visit("5", three, false)
	own.visit("5", three, true)
	// 6. Redis is back without its data: all agree, and sessions from before go on.
	server.Start()
	for _, g := range []*testkit.Gateway{first, second, third} {
		g.WaitUntil("Redis is found", is(g, "tickgate_tls_ticket_source_up", 1))
		g.WaitUntil("no fallback", is(g, "tickgate_tls_ticket_fallback", 0))
		g.WaitLog("up to date again")
	}
	r.visit("6", two, true)
	own.visit("6", three, true)
	there("6")
	each(func(r *resumer) {
		r.visit("6", two, false)
		r.visit("6", three, true)
	})
	// 7. No log line and no page holds the URL.
	if text := third.AdminGet("/api/v1/config"); strings.Contains(text, "redis://") {
		t.Errorf("the configuration shows the URL:\n%s", text)
	}
}
