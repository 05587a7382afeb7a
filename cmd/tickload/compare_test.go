package main

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/loadtest/compare"
	"tickgate/loadtest/report"
)

// comparison is a report with both readings of CPU time, which are apart by a share.
func comparison(apart float64) *report.Report {
	rounds := func(v float64) map[string][]float64 {
		return map[string][]float64{"tickgate": {v, v, v}, "nginx": {2 * v, math.NaN(), 2 * v}}
	}
	return &report.Report{
		Title: "one and another", Subject: "tickgate", Peers: []report.Peer{{ID: "tickgate", Name: "tickgate 1"}, {ID: "nginx", Name: "nginx 2"}},
		Sections: []report.Section{{ID: "http", Title: "Requests", Rows: []report.Row{
			{Name: "CPU per request", Unit: "µs", Judged: true, Rounds: rounds(10)},
			{Name: "CPU per request (second reading)", Unit: "µs", Rounds: rounds(10 * (1 + apart))},
		}}},
	}
}

// saved writes a report to a file.
func saved(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "saved.json")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCompareCommand(t *testing.T) {
	near, far := saved(t, comparison(0.01)), saved(t, comparison(-0.06))
	empty := saved(t, &report.Report{Subject: "a", Peers: []report.Peer{{ID: "a"}}, Notes: []string{"a was ill"}})
	// f compares the exit code and looks for a text in both outputs together.
	f := func(args string, wantCode int, want string) {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), strings.Fields(args), &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d %q, want %d with %q", args, code, out.String(), wantCode, want)
		}
	}
	f("compare -h", exitOK, "tickload compare -from bin/compare/report.json -doc docs/benchmarks.md")
	f("compare -peers apache", exitUsage, "want one of [tickgate nginx haproxy nethttp]")
	f("compare -idle many", exitUsage, `-idle is "many"`)
	f("compare -quiet -scenarios ftp", exitFailed, `scenario "ftp"`)
	f("compare -quiet -peers nethttp -idle 10,5", exitFailed, "rising from 1")
	f("compare -quiet -peers tickgate -tickgate /no/such/file", exitFailed, "no gateway to measure")
	f("compare -from none.json", exitFailed, "none.json")
	f("compare -from "+near, exitOK, "one and another")
	f("compare -json -from "+near, exitOK, `"subject": "tickgate"`)
	f("compare -check-cpu -from "+near, exitOK, "+1.0%")
	f("compare -check-cpu -from "+far, exitFailed, "up to 6.0 % apart (want at most 5 %)")
	f("compare -bar http/none<=1 -from "+near, exitUsage, `no figure "none"`)
	f("compare -from "+empty, exitFailed, "nothing was measured: a was ill")
	f("compare -doc none.md -from "+near, exitFailed, "none.md")
}

// Bars that are missed fail the run, behind the report.
func TestCompareBars(t *testing.T) {
	from := saved(t, comparison(0))
	f := func(wantCode int, want string, bars ...string) {
		t.Helper()
		args := []string{"compare", "-from", from}
		for _, b := range bars {
			args = append(args, "-bar", b)
		}
		var out strings.Builder
		if code := run(t.Context(), args, &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%q: %d %s, want %d with %q", bars, code, out.String(), wantCode, want)
		}
	}
	f(exitOK, "ok    http/CPU per request<=0.5*nginx: 0.50 (0.50–0.50) in 2 rounds", "http/CPU per request<=0.5*nginx", "http/CPU per request<=10")
	f(exitFailed, "FAIL  http/CPU per request<=9.9: 10.00", "http/CPU per request<=0.5*nginx", "http/CPU per request<=9.9")
	f(exitFailed, "1 of 1 bars were missed: http/CPU per request<=1*haproxy", "http/CPU per request<=1*haproxy")
}

func TestCompareFiles(t *testing.T) {
	from, dir := saved(t, comparison(0)), t.TempDir()
	doc := filepath.Join(dir, "doc.md")
	text := "# Doc\n\nbefore\n\n<!-- tickload compare: begin -->\nold\n<!-- tickload compare: end -->\n\n## Other\n\nafter\n"
	if err := os.WriteFile(doc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(dir, "new", "out")
	for range 2 { // again, it is the same
		var out strings.Builder
		if code := run(t.Context(), []string{"compare", "-from", from, "-out", into, "-doc", doc}, &out, &out); code != exitOK || !strings.Contains(out.String(), "the page: "+into) {
			t.Fatalf("%d %s", code, out.String())
		}
	}
	for name, want := range map[string]string{"report.json": `"sections"`, "report.md": "# one and another", "report.html": "<html"} {
		if got, err := os.ReadFile(filepath.Join(into, name)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(got), "begin -->\n\n## one and another\n")
	_, after, ok := strings.Cut(rest, "\n<!-- tickload compare: end -->\n")
	if before != "# Doc\n\nbefore\n\n<!-- tickload compare: " || !ok || after != "\n## Other\n\nafter\n" || !strings.Contains(rest, "\n### Requests\n") || strings.Contains(rest, "old") {
		t.Errorf("%s", got)
	}
	if _, err := compare.Document("no markers", comparison(0)); !errors.Is(err, compare.ErrDocument) {
		t.Errorf("%v, want ErrDocument", err)
	}
}

// Away from a terminal each turn has its line, and none if it should be quiet.
func TestTurnLine(t *testing.T) {
	var out strings.Builder
	for _, quiet := range []bool{false, true} {
		l := newTurnLine(&out, quiet)
		l.begin(compare.Progress{Text: "http, round 1 of 2, nginx", Left: time.Minute})
		l.end()
	}
	if got := out.String(); got != "http, round 1 of 2, nginx (1m0s left)\n" {
		t.Errorf("%q", got)
	}
}
