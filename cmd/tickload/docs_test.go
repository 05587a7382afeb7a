package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/testkit"
)

// docs/loadtest.md has an example of each command, with no flag that does not exist.
func TestDocumentedExamples(t *testing.T) {
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/loadtest.md"))
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, match := range regexp.MustCompile(`(?m)^    bin/tickload (\S+)(.*)$`).FindAllStringSubmatch(string(text), -1) {
		name := match[1]
		if !slices.ContainsFunc(commands(), func(c command) bool { return c.name == name }) {
			continue // a command by its right name is then missing
		}
		seen = append(seen, name)
		var help strings.Builder
		if code := run(t.Context(), []string{name, "-h"}, &help, &help); code != exitOK {
			t.Errorf("%s: exit code %d", match[0], code)
			continue
		}
		for _, word := range strings.Fields(match[2]) {
			flag, _, _ := strings.Cut(word, "=")
			if len(flag) > 1 && flag[0] == '-' && !regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(flag)+`\b`).MatchString(help.String()) {
				t.Errorf("%s: there is no flag %s", match[0], flag)
			}
		}
	}
	for _, c := range commands() {
		if c.name != "version" && !slices.Contains(seen, c.name) {
			t.Errorf("no example of %s", c.name)
		}
	}
}
