package arch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// arrow says what the packages of one folder may import of ours. A pattern that
// ends in "/..." stands for the folder and all below. The first arrow that matches
// a package counts.
type arrow struct {
	from string
	to   []string
}

// arrows is the dependency direction of docs/architecture.md:
// cmd -> proxy -> {reactor, park, relay, feed, upstream} -> internal. config knows
// the leaves' option structs, and everything above may read the configuration.
var arrows = []arrow{
	{"cmd/...", []string{"..."}},
	{"tlsterm", leafMay},
	{"limiter", leafMay},
	{"health", leafMay},
	{"config/...", []string{"config/...", "tlsterm", "limiter", "health", "internal/..."}},
	{"proxy/reactor", []string{"internal/..."}},
	{"proxy/park", []string{"proxy/reactor", "config", "internal/..."}},
	{"proxy/relay", []string{"proxy/reactor", "config", "internal/..."}},
	{"proxy/feed", []string{"proxy/reactor", "config", "internal/..."}},
	{"proxy/upstream", []string{"config", "health", "internal/..."}},
	{"proxy", []string{"proxy/...", "config", "tlsterm", "limiter", "health", "internal/..."}},
	{"loadtest/...", []string{"loadtest/...", "proxy/reactor", "config", "internal/..."}},
	{"internal/metricsdoc", []string{"proxy/...", "config", "health", "internal/..."}}, // a command that asks packages for their metrics
	{"internal/...", []string{"internal/...", "config"}},
}

// leafMay is short, so that the leaves' time-dependent logic is tested alone.
var leafMay = []string{"internal/reason", "internal/unit", "internal/filewatch", "internal/ring"}

// withoutFasthttp must not depend on fasthttp by any way: the leaves, the
// configuration, and the codecs that check what fasthttp would let pass.
var withoutFasthttp = []string{"tlsterm", "limiter", "health", "config/...", "internal/h1", "internal/reason", "internal/unit", "internal/selfsigned"}

// onlyForTests may be imported by tests and by each other.
var onlyForTests = []string{"internal/testkit", "internal/testcert", "internal/arch"}

// matches says whether a folder is one of the patterns'.
func matches(dir string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, deep := strings.CutSuffix(pattern, "...")
		if !deep {
			return dir == pattern
		}
		prefix = strings.TrimSuffix(prefix, "/")
		return prefix == "" || dir == prefix || strings.HasPrefix(dir, prefix+"/")
	})
}

// wrongImports lists imports against the arrows.
func wrongImports(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		i := slices.IndexFunc(arrows, func(a arrow) bool { return matches(p.dir, []string{a.from}) })
		if i < 0 {
			complaints = append(complaints, fmt.Sprintf("%s: no import arrow for this folder in internal/arch", p.dir))
			continue
		}
		for _, imported := range p.imports() {
			dir, ours := strings.CutPrefix(imported, modulePath+"/")
			if ours && !matches(dir, arrows[i].to) {
				complaints = append(complaints, fmt.Sprintf("%s imports %s: it may import %v", p.dir, dir, arrows[i].to))
			}
			if ours && matches(dir, onlyForTests) && !matches(p.dir, onlyForTests) {
				complaints = append(complaints, fmt.Sprintf("%s imports %s, which is for tests", p.dir, dir))
			}
		}
	}
	return complaints
}

// wrongFasthttp lists packages that reach fasthttp and must not.
func wrongFasthttp(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		if !matches(p.dir, withoutFasthttp) {
			continue
		}
		for imported := range m.reach(modulePath + "/" + p.dir) {
			if strings.HasPrefix(imported, "github.com/valyala/fasthttp") {
				complaints = append(complaints, fmt.Sprintf("%s depends on %s", p.dir, imported))
			}
		}
	}
	return complaints
}

func TestImportArrows(t *testing.T) { none(t, wrongImports(parsed(t))) }

func TestWithoutFasthttp(t *testing.T) { none(t, wrongFasthttp(parsed(t))) }

func TestImportRulesCatch(t *testing.T) {
	f := func(want string, files ...string) {
		t.Helper()
		m := made(t, files...)
		one(t, append(wrongImports(m), wrongFasthttp(m)...), want)
	}
	f("health imports tlsterm", "health/a.go", `package health; import _ "tickgate/tlsterm"`)
	f("proxy/upstream imports proxy:", "proxy/upstream/a.go", `package upstream; import _ "tickgate/proxy"`)
	f("proxy/reactor imports config", "proxy/reactor/a.go", `package reactor; import _ "tickgate/config"`)
	f("config/nginxconf imports proxy", "config/nginxconf/a.go", `package nginxconf; import _ "tickgate/proxy"`)
	f("internal/unit imports cmd/tickgate", "internal/unit/a.go", `package unit; import _ "tickgate/cmd/tickgate"`)
	f("which is for tests", "proxy/a.go", `package proxy; import _ "tickgate/internal/testkit"`)
	f("no import arrow", "extra/a.go", `package extra`)
	f("config depends on github.com/valyala/fasthttp", "config/a.go", `package config; import _ "tickgate/internal/x"`,
		"internal/x/a.go", `package x; import _ "github.com/valyala/fasthttp"`)

	none(t, wrongImports(made(t, "proxy/a.go", `package proxy; import _ "tickgate/proxy/relay"`,
		"health/a_test.go", `package health; import _ "tickgate/internal/testkit"`)))
}
