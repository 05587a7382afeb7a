package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReferenceIsFresh(t *testing.T) {
	dir := root(t)
	var want bytes.Buffer
	if err := generate(&want, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "docs", "config.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/config.md is stale: go run ./internal/configdoc > docs/config.md")
	}
	if left := strings.Index(want.String(), "{{"); left >= 0 {
		t.Errorf("a placeholder is left: %.40q", want.String()[left:])
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	s, err := readSchema(root(t))
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for name, d := range s.structs {
		if d.doc == "" {
			t.Errorf("%s has no comment", name)
		}
		for _, f := range d.fields {
			keys++
			if f.doc == "" {
				t.Errorf("%s: key %s has no comment", name, f.key)
			} else if !strings.HasSuffix(f.doc, ".") {
				t.Errorf("%s: the comment of key %s does not end with a full stop", name, f.key)
			}
		}
	}
	if keys < 100 {
		t.Errorf("found %d keys only", keys)
	}
}

// TestEveryStructIsReached fails if a struct with yaml tags is in no section, which
// means that the generator does not understand the type of the field that holds it.
func TestEveryStructIsReached(t *testing.T) {
	s, err := readSchema(root(t))
	if err != nil {
		t.Fatal(err)
	}
	reached := []string{"config.Config"}
	for i := 0; i < len(reached); i++ {
		for _, f := range s.structs[reached[i]].fields {
			if inner, _ := element(f.typ); s.structs[inner] != nil && !slices.Contains(reached, inner) {
				reached = append(reached, inner)
			}
		}
	}
	for name := range s.structs {
		if !slices.Contains(reached, name) {
			t.Errorf("%s is part of no section", name)
		}
	}
}

// TestCommentsNameEveryVariable compares the lists of variables in the schema's
// comments with the tables that the templates know.
func TestCommentsNameEveryVariable(t *testing.T) {
	s, err := readSchema(root(t))
	if err != nil {
		t.Fatal(err)
	}
	f := func(table, where, doc string) {
		t.Helper()
		if len(s.vars[table]) == 0 {
			t.Errorf("table %s is empty", table)
		}
		for _, v := range s.vars[table] {
			if v.doc == "" || !strings.Contains(doc, "${"+v.name+"}") {
				t.Errorf("%s: ${%s} has no text or is not in the comment of %s", table, v.name, where)
			}
		}
	}
	f("requestVariables", "HeaderOps", s.structs["config.HeaderOps"].doc)
	for _, field := range s.structs["config.AccessLog"].fields {
		if field.key == "format" {
			f("logVariables", "AccessLog.Format", field.doc)
		}
	}
}

func TestAnchor(t *testing.T) {
	f := func(title, want string) {
		t.Helper()
		if got := anchor(title); got != want {
			t.Errorf("%q: got %q, want %q", title, got, want)
		}
	}
	f("admin", "admin")
	f("listeners[].tls", "listenerstls")
	f("upstreams.NAME.health_check", "upstreamsnamehealth_check")
}

// TestLinks checks that every link within the document leads to a heading.
func TestLinks(t *testing.T) {
	var out bytes.Buffer
	if err := generate(&out, root(t)); err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			headings[strings.ReplaceAll(anchor(strings.TrimSpace(strings.ReplaceAll(title, "`", ""))), " ", "-")] = true
		}
	}
	for i, part := range strings.Split(out.String(), "](#") {
		target, _, _ := strings.Cut(part, ")")
		if i > 0 && !headings[target] {
			t.Errorf("link to #%s leads nowhere", target)
		}
	}
}
