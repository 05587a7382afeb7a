package testkit

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

func TestGateway(t *testing.T) {
	backend := NewRecorder(t, nil)
	addr := FreeAddr(t)
	config := func(body string) string {
		return fmt.Sprintf(`listeners: [{listen: %s}]
upstreams: {be: {servers: [{address: %s}]}}
routes:
  - {path: /, upstream: be}
  - {path_exact: /body, static_response: {body: %s}}
`, addr, backend.Addr(), body)
	}
	g := StartGateway(t, config("one"))
	if resp := Exchange(t, addr, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"); resp.Status != 200 || string(resp.Body) != "ok\n" {
		t.Errorf("%d %q", resp.Status, resp.Body)
	}
	backend.WaitRequests(t, 1)
	if flaws := backend.Flaws(); len(flaws) > 0 {
		t.Errorf("flaws %v", flaws)
	}
	const hello = "GET /body HTTP/1.1\r\nHost: a\r\n\r\n"
	if status, answer := g.Reload(config("two")); status != http.StatusOK {
		t.Errorf("reload: %d %s", status, answer)
	}
	if resp := Exchange(t, addr, hello); string(resp.Body) != "two" {
		t.Errorf("after the API's reload %q", resp.Body)
	}
	g.WriteConfig(config("three"))
	g.Signal(syscall.SIGHUP)
	g.WaitUntil("reload", func() bool { return string(Exchange(t, addr, hello).Body) == "three" })
	if n := g.Metric("tickgate_requests_total"); n < 3 {
		t.Errorf("%v requests counted", n)
	}
	if g.PSS() < 1<<20 || !g.Running() {
		t.Errorf("PSS %d, running %v", g.PSS(), g.Running())
	}
	if code := g.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestGatewayThatDoesNotStart(t *testing.T) {
	g := LaunchGateway(t, "nonsense: 1\n", GatewayOptions{})
	if code := g.WaitExit(Patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(g.Log(), "nonsense") {
		t.Errorf("log %q", g.Log())
	}
}
