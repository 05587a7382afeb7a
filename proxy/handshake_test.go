package proxy

import (
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// The line of a failed handshake says what the client asked for, as far as that is known, and in words of the options what was wrong.
func TestFailedHandshakeNamesTheServerName(t *testing.T) {
	t.Parallel()
	entry := certificate(t, testcert.New(t, "a.example"))
	f := func(what, options, serverName string, version uint16, wantReason, wantName, wantError string) {
		t.Helper()
		g := newGateway(t, `
routes: [{static_response: {}}]
listeners: [{listen: "127.0.0.1:0", acceptors: 1, tls: {`+options+`, certificates: [`+entry+`]}}]
`)
		c := testkit.Dial(t, g.addr)
		if err := tls.Client(c.Conn, &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MaxVersion: version}).Handshake(); err == nil {
			t.Fatalf("%s: the handshake succeeds", what)
		}
		var line string
		g.wait("a line of the failure", func() bool {
			for line = range strings.Lines(g.logs.String()) {
				if strings.Contains(line, "TLS handshake failed") {
					return true
				}
			}
			return false
		})
		var got struct {
			Reason     string
			Error      string
			ServerName *string `json:"server_name"`
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%s: %v in %q", what, err, line)
		}
		name := ""
		if got.ServerName != nil {
			name = *got.ServerName
		}
		if got.Reason != wantReason || name != wantName || (got.ServerName != nil) != (wantName != "") || !strings.Contains(got.Error, wantError) {
			t.Errorf("%s: %s, want reason %s, server name %q and error %q", what, line, wantReason, wantName, wantError)
		}
		if strings.Contains(line, "no certificates configured") {
			t.Errorf("%s: crypto/tls's words: %s", what, line)
		}
	}
	const reject, modern = "unknown_name: reject", "preset: modern"
	f("unknown", reject, "B.example", 0, "unknown_name", "B.example", "no certificate covers the server name, and unknown_name is reject")
	f("with fingerprints", reject+", ja4: true", "b.example", 0, "unknown_name", "b.example", "unknown_name is reject")
	f("under a policy", reject+", policies: [{names: [b.example], preset: modern}]", "b.example", 0, "unknown_name", "b.example", "unknown_name is reject")
	f("version", modern, "a.example", tls.VersionTLS12, "no_shared_version", "a.example", "unsupported versions")
	f("no name", modern, "", tls.VersionTLS12, "no_shared_version", "", "unsupported versions")
	f("what breaks lines", reject, "b\n\"\x1b[1m.example", 0, "unknown_name", "b\n\"\x1b[1m.example", "unknown_name is reject")
	f("too long", reject, strings.Repeat("b", 4000)+".example", 0, "unknown_name", strings.Repeat("b", 253), "unknown_name is reject")
}
