package admin

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tickgate/internal/meter"
)

func TestConnectionFilter(t *testing.T) {
	gw := &fakeGateway{}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{})
	f := func(query string, want ConnFilter) {
		t.Helper()
		if want.Limit == 0 {
			want.Limit = 100
		}
		got := ask(t, "GET", url+"/api/v1/connections"+query)
		if got.status != 200 || gw.filter != want {
			t.Errorf("%q: got %d %+v, want %+v", query, got.status, gw.filter, want)
		}
	}
	f("", ConnFilter{})
	f("?limit=7", ConnFilter{Limit: 7})
	f("?id=18446744073709551615", ConnFilter{ID: 1<<64 - 1})
	f("?listener=:443&state=idle", ConnFilter{Listener: ":443", State: "idle"})
	f("?route=a%20b/%2A", ConnFilter{Route: "a b/*"})
	f("?peer=10.1.2.3", ConnFilter{Peer: netip.MustParsePrefix("10.1.2.3/32")})
	f("?peer=::ffff:10.1.2.3", ConnFilter{Peer: netip.MustParsePrefix("10.1.2.3/32")})
	f("?peer=10.1.2.3/8", ConnFilter{Peer: netip.MustParsePrefix("10.0.0.0/8")})
	f("?peer=2001:db8::1", ConnFilter{Peer: netip.MustParsePrefix("2001:db8::1/128")})
	f("?min_age=90s", ConnFilter{MinAge: 90 * time.Second})
	f("?max_age=1h30m&min_age=1h30m", ConnFilter{MinAge: 90 * time.Minute, MaxAge: 90 * time.Minute})
	f("?min_queued=64KiB", ConnFilter{MinQueued: 64 << 10})
	f("?min_queued=1", ConnFilter{MinQueued: 1})
	f("?sort=age", ConnFilter{Sort: ByAge})
	f("?sort=queued", ConnFilter{Sort: ByQueued})
	f("?sort=rtt&limit=10000", ConnFilter{Sort: ByRTT, Limit: 10_000})
	f("?id=&listener=&state=&route=&peer=&min_age=&max_age=&min_queued=&sort=&limit=", ConnFilter{})
	for _, s := range meter.ConnStates() {
		f("?state="+s.String(), ConnFilter{State: s.String()})
	}
}

func TestWrongConnectionFilter(t *testing.T) {
	_, url := startTest(t, "127.0.0.1:0", &fakeGateway{}, Options{})
	f := func(query, want string) {
		t.Helper()
		got := ask(t, "GET", url+"/api/v1/connections"+query)
		var e struct{ Error string }
		if err := json.Unmarshal([]byte(got.body), &e); err != nil || got.status != 400 || e.Error != want {
			t.Errorf("%q: got %d %q, want 400 %q", query, got.status, e.Error, want)
		}
	}
	f("?limit=0", `limit: "0" (want a number from 1 to 10000)`)
	f("?limit=10001", `limit: "10001" (want a number from 1 to 10000)`)
	f("?limit=x", `limit: "x" (want a number from 1 to 10000)`)
	f("?id=0", `id: "0" (want the id of a connection, a number from 1)`)
	f("?id=-1", `id: "-1" (want the id of a connection, a number from 1)`)
	f("?state=busy", `state: "busy" (want accepted, handshaking, active, idle, parked, relayed or draining)`)
	f("?state=upgraded", `state: "upgraded" (want accepted, handshaking, active, idle, parked, relayed or draining)`)
	f("?peer=host", `peer: "host" (want an address or a block such as 10.0.0.0/8)`)
	f("?peer=10.0.0.0/33", `peer: "10.0.0.0/33" (want an address or a block such as 10.0.0.0/8)`)
	f("?min_age=30", `min_age: "30" (want a duration with a unit, such as 500ms, 30s or 1h)`)
	f("?min_age=-1s", `min_age: "-1s" (want a duration with a unit, such as 500ms, 30s or 1h)`)
	f("?max_age=soon", `max_age: "soon" (want a duration with a unit, such as 500ms, 30s or 1h)`)
	f("?max_age=0s", `max_age: "0s" (want a duration above 0)`)
	f("?min_age=2h&max_age=1h", `min_age: "2h0m0s" (want at most max_age, which is 1h0m0s)`)
	f("?min_queued=much", `min_queued: "much" (want bytes, or a size such as 64KiB)`)
	f("?min_queued=-1", `min_queued: "-1" (want bytes, or a size such as 64KiB)`)
	f("?sort=size", `sort: "size" (want age, queued or rtt)`)
	f("?peers=1", `unknown parameter "peers" (want id, listener, state, route, peer, min_age, max_age, min_queued, sort or limit)`)
}

func TestOneConnection(t *testing.T) {
	gw := &fakeGateway{}
	_, url := startTest(t, "127.0.0.1:0", gw, Options{})
	const at = "/api/v1/connections/"
	for _, c := range []struct {
		method, path string
		status       int
		calls        string
	}{
		{"GET", at + "7", 200, ""},
		{"HEAD", at + "7", 200, ""},
		{"DELETE", at + "7", 202, "close(7,false)"},
		{"DELETE", at + "7?reset=true", 202, "close(7,true)"},
		{"DELETE", at + "7?reset=false", 202, "close(7,false)"},
	} {
		got := ask(t, c.method, url+c.path)
		if got.status != c.status || c.method != "HEAD" && !strings.Contains(got.body, `"id": 7`) {
			t.Errorf("%s %s: got %d %q, want %d with the connection", c.method, c.path, got.status, got.body, c.status)
		}
		if calls := gw.take(); calls != c.calls {
			t.Errorf("%s %s: calls %q, want %q", c.method, c.path, calls, c.calls)
		}
	}
	wantError(t, ask(t, "GET", url+at+"8"), 404, "no open connection 8")
	wantError(t, ask(t, "DELETE", url+at+"8"), 404, "no open connection 8")
	wantError(t, ask(t, "DELETE", url+at+"500"), 500, "cannot")
	gw.take()
	// None of these closes anything.
	wantError(t, ask(t, "GET", url+at+"x"), 400, `connection "x" (want the id of a connection, a number from 1)`)
	wantError(t, ask(t, "DELETE", url+at+"x"), 400, `connection "x" (want the id of a connection, a number from 1)`)
	wantError(t, ask(t, "DELETE", url+at+"0"), 400, `connection "0"`)
	wantError(t, ask(t, "DELETE", url+at+"7?reset=now"), 400, `reset: "now" (want true or false)`)
	wantError(t, ask(t, "DELETE", url+at+"7?rst=true"), 400, `unknown parameter "rst" (want reset)`)
	wantError(t, ask(t, "DELETE", url+at+"7?rst=1&reset=true"), 400, `unknown parameter "rst" (want reset)`)
	wantError(t, ask(t, "DELETE", url+at+"7", "Origin: https://evil.example"), 403, "another site")
	wantError(t, ask(t, "POST", url+at+"7"), 405, "method")
	if calls := gw.take(); calls != "" {
		t.Errorf("a wrong request got through: %s", calls)
	}
}

func TestIndexNamesTheFilters(t *testing.T) {
	const want = "?id= &listener= &state= &route= &peer=ADDR[/BITS] &min_age=30s &max_age=1h &min_queued=64KiB &sort=age|queued|rtt &limit="
	if got := connectionsHelp(); !strings.Contains(got, want) {
		t.Errorf("got %q, want it to hold %q", got, want)
	}
}
