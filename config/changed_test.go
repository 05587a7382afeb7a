package config

import (
	"slices"
	"testing"
)

func TestChanged(t *testing.T) {
	// f compares what differs from the defaults of a file with one listener, upstream and route.
	f := func(yaml string, want ...string) {
		t.Helper()
		cfg, report := Parse("gate.yaml", []byte(yaml))
		if err := report.Err(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range cfg.Changed(report) {
			p := c.Place
			p.Seen = c.Value
			got = append(got, c.Key+" "+p.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(`
admin: {token: hunter2, listen: "127.0.0.1:9180"}
listeners:
- listen: "127.0.0.1:8080"
limits: {max_body: 10MB, max_headers: 100}
timeouts: {idle: 1h}
upstreams:
  be: {servers: [{address: "127.0.0.1:9000"}], retry: {attempts: 2, on: [reset, connect]}}
routes:
- {path: /, upstream: be, compression: {}, response_headers: {set: {Cookie: hunter2, X-A: b}}, access_log: false}
`,
		"admin.token gate.yaml:2:16: admin.token: got ***",
		`listeners[].listen gate.yaml:4:11: listeners[0].listen: got 127.0.0.1:8080`,
		"limits.max_body gate.yaml:5:20: limits.max_body: got 10000000B",
		"timeouts.idle gate.yaml:6:18: timeouts.idle: got 1h",
		"upstreams.*.servers[].address gate.yaml:8:28: upstreams.be.servers[0].address: got 127.0.0.1:9000",
		"upstreams.*.retry.on gate.yaml:8:69: upstreams.be.retry.on: got reset,connect",
		"routes[].path gate.yaml:10:10: routes[0].path: got /",
		"routes[].upstream gate.yaml:10:23: routes[0].upstream: got be",
		"routes[].response_headers gate.yaml:10:44: routes[0].response_headers: got {}",
		"routes[].response_headers.set gate.yaml:10:63: routes[0].response_headers.set: got Cookie,X-A",
		"routes[].compression gate.yaml:10:27: routes[0].compression: got {}",
		"routes[].access_log gate.yaml:10:108: routes[0].access_log: got false",
	)
}
