package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tickgate/loadtest/accept"
)

func TestAcceptUsage(t *testing.T) {
	f := func(args string, wantCode int, want string) {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), strings.Fields("accept "+args), &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d %q, want %d with %q", args, code, out.String(), wantCode, want)
		}
	}
	f("-h", exitOK, "exit codes:")
	f("-h", exitOK, "tickload accept -scale 0.01 -items burst,takeover -json")
	f("more", exitUsage, `unexpected argument "more"`)
	f("-scale 2", exitUsage, "scale 2 (want")
	f("-scale NaN", exitUsage, "scale NaN (want")
	f("-rate -1", exitUsage, "-1 requests a second")
	f("-port 70000", exitUsage, "port 70000")
	f("-items burst,bust", exitUsage, `no item "bust" (there are sustained, burst`)
	f("-tickgate /nonexistent/tickgate", exitFailed, "program is missing: tickgate")
}

func TestAcceptanceCodes(t *testing.T) {
	f := func(outcome accept.Outcome, want int) {
		t.Helper()
		err := acceptance(&accept.Result{Outcome: outcome})
		code := exitOK
		var own withCode
		switch {
		case errors.As(err, &own):
			code = own.code
		case err != nil:
			code = exitFailed
		}
		if code != want || err != nil && !errors.Is(err, errFlaws) {
			t.Errorf("%v: %v, exit code %d, want %d", outcome, err, code, want)
		}
	}
	f(accept.AllPassed, 0)
	f(accept.SomeFailed, 1)
	f(accept.SomeMissing, 3)
	f(accept.SomeUncertain, 4)
}

func TestAcceptanceReport(t *testing.T) {
	r := &accept.Result{Gateway: "tickgate 1", Rows: []accept.Row{{Item: "burst", Verdict: accept.Inconclusive, Why: "busy"}}}
	// f writes to a file and to the output, and looks for a text in each.
	f := func(name string, asJSON bool, wantFile, wantOut string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), name)
		var out strings.Builder
		if err := writeAcceptance(r, &out, file, asJSON); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), wantFile) || !strings.Contains(out.String(), wantOut) {
			t.Errorf("%q, %v; %q; want %q, %q", text, err, out.String(), wantFile, wantOut)
		}
	}
	f("a.md", false, "| burst |", "inconclusive       burst")
	f("a.json", true, `"verdict": "inconclusive"`, `"verdict": "inconclusive"`)
	if err := writeAcceptance(r, &strings.Builder{}, "/nonexistent/a.md", false); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

// The folder with logs is removed unless it is kept.
func TestAcceptanceFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	o := accept.Options{Scale: 1, FirstPort: 1, Tickgate: "/nonexistent/tickgate"}
	for _, keep := range []bool{false, true} {
		if _, err := acceptIn(t.Context(), o, keep, &strings.Builder{}); err == nil {
			t.Error("a missing program is no error")
		}
		left, err := filepath.Glob(filepath.Join(os.TempDir(), "tickload-accept-*"))
		if err != nil || (len(left) == 1) != keep {
			t.Errorf("kept %v: %q, %v", keep, left, err)
		}
	}
}
