package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sampleReport = "../../loadtest/report/testdata/sample.json"

func TestReport(t *testing.T) {
	f := func(args string, wantCode int, want string) {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), strings.Fields("report "+args), &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d %q, want %d with %q", args, code, out.String(), wantCode, want)
		}
	}
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte(`{"version": 1, "titel": ""}`), 0o644); err != nil {
		t.Fatal(err)
	}
	f("", exitUsage, "FILE.json is required")
	f("-h", exitOK, "tickload report compare.json -html compare.html")
	f("-html a.html", exitUsage, "FILE.json is required")
	f("a.json b.json", exitUsage, `unexpected argument "b.json"`)
	f("a.json -pdf x", exitUsage, "not defined")
	f("no-such-file.json", exitFailed, "open report")
	f(broken, exitFailed, `broken.json: report: read JSON: json: unknown field "titel"`)
	f(sampleReport, exitOK, "0.29x (0.27–0.30)")
	f(sampleReport+" -text", exitOK, "0.29x (0.27–0.30)")
	f(sampleReport+" -markdown -", exitOK, "| 0.29 (0.27–0.30) better |")
	f(sampleReport+" -html -", exitOK, "<!DOCTYPE html>")
	f(sampleReport+" -html "+filepath.Join(t.TempDir(), "none", "a.html"), exitFailed, "no such file")
}

func TestReportFiles(t *testing.T) {
	dir := t.TempDir()
	page, markdown := filepath.Join(dir, "a.html"), filepath.Join(dir, "a.md")
	var out strings.Builder
	if code := run(t.Context(), []string{"report", sampleReport, "-html", page, "-markdown", markdown}, &out, io.Discard); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	if out.Len() > 0 {
		t.Errorf("writes %q although only files were wanted", out.String())
	}
	for name, want := range map[string]string{page: "</html>", markdown: "## Idle connections"} {
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, without %q", name, err, want)
		}
	}
}
