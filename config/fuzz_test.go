package config

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tickgate/tlsterm"
)

// FuzzParse checks that no file crashes the loader, that every problem has a
// place in the file, and that what is valid can be dumped.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/include/*.yaml", "../docs/examples/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		l := testLoader(map[string]string{"PORT": "80", "WORDS": "many words"})
		// What a file names must not be looked for on the machine that fuzzes.
		l.machine.readFile = func(string) ([]byte, error) { return nil, fs.ErrNotExist }
		l.machine.ticketFiles = func(string) ([]tlsterm.TicketFile, error) { return nil, fs.ErrNotExist }
		l.machine.glob = func(string) ([]string, error) { return nil, nil }
		cfg, report := l.parse("fuzz.yaml", src)
		if (cfg == nil) != (report.Err() != nil) {
			t.Fatalf("Config is nil: %t, but Err is %v", cfg == nil, report.Err())
		}
		lines := strings.Count(string(src), "\n") + strings.Count(string(src), "\r") + 1
		for _, p := range report.Problems {
			if p.File != "fuzz.yaml" || p.Line < 1 || p.Line > lines || p.Column < 1 || p.Text() == "" {
				t.Errorf("%d lines, and a problem at %#v", lines, p)
			}
		}
		if cfg != nil {
			if _, err := json.Marshal(cfg.Redacted()); err != nil {
				t.Error(err)
			}
		}
	})
}
