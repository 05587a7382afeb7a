package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// resumer is a client that has its sessions resumed wherever it goes.
type resumer struct {
	t    *testing.T
	conf *tls.Config
}

func newResumer(t *testing.T, ca *testcert.CA, version uint16) *resumer {
	t.Helper()
	return &resumer{t, &tls.Config{
		RootCAs: ca.Pool(), ServerName: "localhost", MinVersion: version, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}}
}

func (r *resumer) visit(step, addr string, resumed bool) {
	r.t.Helper()
	c := testkit.DialTLS(r.t, addr, r.conf)
	expectStatus(r.t, step, c.Do(get("/")), 200) // the ticket of TLS 1.3 comes with the first answer
	if st := c.Conn.(*tls.Conn).ConnectionState(); st.DidResume != resumed {
		r.t.Errorf("%s, %s: resumed %t, want %t", step, tls.VersionName(st.Version), st.DidResume, resumed)
	}
	c.Close()
}

func writeKey(t *testing.T, name string, fill byte, n int) {
	t.Helper()
	if err := os.WriteFile(name, bytes.Repeat([]byte{fill}, n), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withTickets is a configuration with one TLS listener.
func withTickets(t *testing.T, ca *testcert.CA, addr, tickets string) string {
	t.Helper()
	return fmt.Sprintf("routes: [{static_response: {body: ok}}]\nlisteners: [{listen: %q, acceptors: 1, tls: {tickets: {%s}, certificates: [%s]}}]\n",
		addr, tickets, certificate(t, ca.Issue(t, testcert.Request{})))
}

// TestResumptionAcrossProcesses resumes sessions by a key file: at a second process, after a restart,
// and through the rotation of the file.
func TestResumptionAcrossProcesses(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	key, old := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "old")
	writeKey(t, key, 1, 48)
	writeKey(t, old, 2, 80)
	tickets := fmt.Sprintf("source: file, poll: 100ms, files: [%q, %q]", key, old)
	start := func(addr string) *testkit.Gateway { return testkit.StartGateway(t, withTickets(t, ca, addr, tickets)) }
	one, two := testkit.FreeAddr(t), testkit.FreeAddr(t)
	first, second := start(one), start(two)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		r := newResumer(t, ca, version)
		// 1. The first visit, and again.
		r.visit("1", one, false)
		r.visit("1", one, true)
		// 2. At the other process, and back.
		r.visit("2", two, true)
		r.visit("2", one, true)
		// 3. After a restart.
		first.Signal(syscall.SIGTERM)
		first.WaitExit(20 * time.Second)
		first = start(one)
		r.visit("3", one, true)
		// 4. The file is rotated: the key goes to the second place.
		before := second.Metric("tickgate_tls_ticket_key_rotations_total")
		seals, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		writeKey(t, old, seals[0], len(seals))
		writeKey(t, key, byte(version), 80)
		second.WaitUntil("the new key", func() bool { return second.Metric("tickgate_tls_ticket_key_rotations_total") > before })
		r.visit("4", two, true)
		first.WaitUntil("the new key", func() bool { return first.Metric("tickgate_tls_ticket_key_rotations_total") > 0 })
		r.visit("4", one, true)
	}
	// 5. A bad file: one line, a gauge, and all goes on.
	writeKey(t, key, 1, 5)
	second.WaitUntil("the bad file", func() bool { return second.Metric("tickgate_tls_ticket_source_up") == 0 })
	second.WaitLog("those so far stay in use")
	r := newResumer(t, ca, tls.VersionTLS13)
	r.visit("5", two, false)
	r.visit("5", two, true)
	if n := second.Metric("tickgate_tls_ticket_source_errors_total"); n == 0 {
		t.Error("5: no error was counted")
	}
	if status, body := second.Reload(withTickets(t, ca, two, tickets)); status == 200 {
		t.Errorf("5: a reload took the bad file: %s", body)
	}
	// 6. Repaired.
	writeKey(t, key, 1, 48)
	second.WaitLog("up to date again")
	// 7. A reload to keys in memory: nothing that was resumes, what comes does.
	if status, body := second.Reload(withTickets(t, ca, two, "source: memory")); status != 200 {
		t.Fatalf("7: %d %s", status, body)
	}
	r.visit("7", two, false)
	r.visit("7", two, true)
	if n := second.Metric(`tickgate_tls_tickets_presented_total{listener="` + two + `",result="unknown_key"}`); n != 1 {
		t.Errorf("7: %v tickets of an unknown key, want 1", n)
	}
	// 8. None at all.
	if status, body := second.Reload(withTickets(t, ca, two, "source: \"off\"")); status != 200 {
		t.Fatalf("8: %d %s", status, body)
	}
	r.visit("8", two, false)
	r.visit("8", two, false)
	if keys, text := second.Metric("tickgate_tls_ticket_keys"), second.AdminGet("/metrics"); keys != 0 || strings.Contains(text, "tickgate_tls_ticket_key_age_seconds{") {
		t.Errorf("8: %v ticket keys, want none, and no age of them:\n%s", keys, text)
	}
	if n := second.Metric(`tickgate_tls_handshakes_total{version="1.2",resumed="true"}`); n == 0 {
		t.Error("no resumed handshake of TLS 1.2 was counted")
	}
}

// TestTicketKeysEnd looks for goroutines that keys of gone listeners leave behind.
func TestTicketKeysEnd(t *testing.T) {
	t.Parallel()
	ca := testcert.NewCA(t)
	plain := "routes: [{static_response: {body: ok}}]\nlisteners: [{listen: \"127.0.0.1:0\", acceptors: 1}]\n"
	g := newGateway(t, withTickets(t, ca, "127.0.0.1:0", "rotate: 1h"))
	running := func() int { return len(*g.tickets.Load()) }
	first := (*g.tickets.Load())[0].Tickets
	if running() != 1 {
		t.Fatalf("%d sets of keys, want 1", running())
	}
	if err := g.Reload(parseConfig(t, withTickets(t, ca, "127.0.0.1:0", "rotate: 2h"))); err != nil {
		t.Fatal(err)
	}
	if second := (*g.tickets.Load())[0].Tickets; second == first || running() != 1 {
		t.Errorf("the same keys %t, %d sets", second == first, running())
	}
	if err := g.Reload(parseConfig(t, plain)); err != nil {
		t.Fatal(err)
	}
	if running() != 0 {
		t.Errorf("%d sets of keys without TLS, want 0", running())
	}
}
