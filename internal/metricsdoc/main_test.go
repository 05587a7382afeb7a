package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"tickgate/internal/meter"
)

func TestDocumentIsFresh(t *testing.T) {
	have, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, render(sections)) {
		t.Fatal("docs/metrics.md is stale: go run ./internal/metricsdoc >docs/metrics.md")
	}
}

func TestRender(t *testing.T) {
	got := string(render([]section{{"S", []meter.Desc{{Name: "a_total", Type: "counter", Labels: "x (p|q)", Help: "One\ntwo."}}}}))
	want := "\n## S\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n| `a_total` | counter | x (p\\|q) | One two. |\n"
	if !strings.HasSuffix(got, want) {
		t.Fatalf("got %q, want it to end with %q", got, want)
	}
}

func TestDescriptions(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sections {
		for _, d := range s.metrics {
			if seen[d.Name] {
				t.Errorf("%s is described twice", d.Name)
			}
			seen[d.Name] = true
			if !strings.HasPrefix(d.Name, "tickgate_") {
				t.Errorf("%s: want the prefix tickgate_", d.Name)
			}
			if (d.Type == "counter") != strings.HasSuffix(d.Name, "_total") {
				t.Errorf("%s is a %s: counters, and they alone, end with _total", d.Name, d.Type)
			}
			if !strings.HasSuffix(d.Help, ".") {
				t.Errorf("%s: want a sentence, got %q", d.Name, d.Help)
			}
		}
	}
}
