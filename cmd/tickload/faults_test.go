package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tickgate/loadtest/fault"
)

// elsewhere is a scenario that starts no gateway: the load goes to a proxy.
const elsewhere = `
name: storm
backends: {a: {}}
proxies: {a: {backend: a}}
gateway: {url: "http://$${PROXY_A}"}
load: {rate: 50}
steps:
  - name: all
    faults: {a: {answer: {status: 503}}}
    for: 1500ms
    settle: 500ms
    expect: {min_error_percent: 1, statuses: [200, 503], max_error_percent: 100}
`

func TestFaults(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", elsewhere)
	unmet := file("unmet.yaml", strings.Replace(elsewhere, "max_error_percent: 100", "max_error_percent: 0", 1))
	wrong := file("wrong.yaml", strings.Replace(elsewhere, "settle:", "setle:", 1))
	gone := file("gone.yaml", strings.Replace(elsewhere, `"http://$${PROXY_A}"`, `"ftp://a"`, 1))

	f := func(args string, wantCode int, want string) string {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), append([]string{"faults"}, strings.Fields(args)...), &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d %q, want %d with %q", args, code, out.String(), wantCode, want)
		}
		return out.String()
	}
	f("-h", exitOK, "docs/examples/faults/partition.yaml")
	f("", exitUsage, "at least one scenario is required")
	f("-scale 0 "+good, exitUsage, "-scale is more than 0")
	f("-nonsense", exitUsage, "not defined")
	f(wrong, exitUsage, `wrong.yaml:11:5: error: steps[0].setle: unknown key (did you mean "settle"?)`)
	f(filepath.Join(dir, "nothing.yaml"), exitUsage, "cannot read")
	f("-check "+good+" "+unmet, exitOK, "")
	f(gone, exitFailed, "tickload faults: storm: fault: bad scenario: load")
	f(good, exitOK, "PASS all")
	f(unmet+" "+good, exitFailed, "1 of 2 scenarios failed")
	var results []fault.Result
	if err := json.Unmarshal([]byte(f("-json "+good, exitOK, `"passed": true`)), &results); err != nil || len(results) != 1 || results[0].Steps[0].Requests.Errors["wrong_status"] == 0 {
		t.Errorf("%v, %+v", err, results)
	}
}
