package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/testkit"
)

// longestFunction is where a function stops being readable in one piece.
const longestFunction = 130

// wrongEpoll lists uses of epoll outside of the reactor.
func wrongEpoll(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		if p.dir == "proxy/reactor" {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if x, isIdent := identOf(sel, ok); isIdent && (x == "unix" || x == "syscall") && strings.HasPrefix(strings.ToUpper(sel.Sel.Name), "EPOLL") {
					complaints = append(complaints, fmt.Sprintf("%s: %s.%s belongs in proxy/reactor", m.fset.Position(n.Pos()), x, sel.Sel.Name))
				}
				return true
			})
		}
	}
	return complaints
}

// identOf returns the identifier before the dot of a selector.
func identOf(sel *ast.SelectorExpr, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return x.Name, true
}

// wrongDocs lists packages without a comment that says more than their name.
func wrongDocs(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		code := p.code()
		documented := slices.ContainsFunc(code, func(f *file) bool { return f.syntax.Doc != nil && len(f.syntax.Doc.Text()) > 40 })
		if len(code) > 0 && !documented {
			complaints = append(complaints, fmt.Sprintf("%s: package %s has no comment", p.dir, code[0].syntax.Name.Name))
		}
	}
	return complaints
}

// wrongTests lists what tests must not do: sleep to wait, unless time is simulated,
// and be skipped.
func wrongTests(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		for _, f := range p.files {
			if f.test {
				complaints = append(complaints, wrongCalls(m, f)...)
			}
		}
	}
	return complaints
}

// wrongCalls lists the calls of one test file that wrongTests is about. Within
// synctest.Test a sleep takes no time and waits for nothing real.
func wrongCalls(m *module, f *file) (complaints []string) {
	var fakeUntil token.Pos // end of the synctest.Test call that was entered last
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		x, isIdent := identOf(sel, ok)
		switch {
		case !isIdent:
		case x == "synctest" && sel.Sel.Name == "Test":
			fakeUntil = call.End()
		case x == "time" && sel.Sel.Name == "Sleep" && call.Pos() > fakeUntil:
			complaints = append(complaints, fmt.Sprintf("%s: a test sleeps", m.fset.Position(n.Pos())))
		case slices.Contains([]string{"t", "b", "f", "tb"}, x) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name):
			complaints = append(complaints, fmt.Sprintf("%s: a test is skipped", m.fset.Position(n.Pos())))
		}
		return true
	})
	return complaints
}

// wrongSizes lists functions that are too long, and race instrumentation switched
// off.
func wrongSizes(m *module) (complaints []string) {
	for _, p := range m.sorted() {
		for _, f := range p.files {
			for _, decl := range f.syntax.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if !ok || f.test {
					continue
				}
				start, end := m.fset.Position(fn.Pos()), m.fset.Position(fn.End())
				if n := end.Line - start.Line + 1; n > longestFunction {
					complaints = append(complaints, fmt.Sprintf("%s: %s has %d lines (want at most %d)", start, fn.Name.Name, n, longestFunction))
				}
			}
			for _, group := range f.syntax.Comments {
				for _, c := range group.List {
					if strings.HasPrefix(c.Text, "//go:norace") {
						complaints = append(complaints, fmt.Sprintf("%s: the race detector is switched off", m.fset.Position(c.Pos())))
					}
				}
			}
		}
	}
	return complaints
}

func TestEpollStaysInTheReactor(t *testing.T) { none(t, wrongEpoll(parsed(t))) }

func TestPackagesAreDocumented(t *testing.T) { none(t, wrongDocs(parsed(t))) }

func TestTestsNeitherSleepNorSkip(t *testing.T) { none(t, wrongTests(parsed(t))) }

func TestFunctionsAreShort(t *testing.T) { none(t, wrongSizes(parsed(t))) }

func TestSourceRulesCatch(t *testing.T) {
	f := func(rule func(*module) []string, want, name, text string) {
		t.Helper()
		one(t, rule(made(t, name, text)), want)
	}
	f(wrongEpoll, "unix.EpollWait", "proxy/park/a.go", "package park\nfunc f() { unix.EpollWait(0, nil, 0) }")
	f(wrongEpoll, "syscall.EPOLLIN", "cmd/x/a.go", "package x\nconst c = syscall.EPOLLIN")
	f(wrongDocs, "package x has no comment", "internal/x/a.go", "// Package x.\npackage x")
	f(wrongTests, "a test sleeps", "health/a_test.go", "package a\nfunc TestA(t *testing.T) { time.Sleep(1) }")
	f(wrongTests, "a test is skipped", "health/a_test.go", "package a\nfunc TestA(t *testing.T) { t.Skipf(\"\") }")
	f(wrongSizes, "has 133 lines", "proxy/a.go", "package proxy\nfunc f() {"+strings.Repeat("\n", 132)+"}")
	f(wrongSizes, "race detector", "proxy/a.go", "package proxy\n\n//go:norace\nfunc f() {}")

	none(t, wrongEpoll(made(t, "proxy/reactor/a.go", "package reactor\nconst c = unix.EPOLLIN")))
	none(t, wrongTests(made(t, "health/a.go", "package a\nfunc f() { time.Sleep(1) }")))
	none(t, wrongTests(made(t, "health/a_test.go", "package a\nfunc TestA(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }")))
	f(wrongTests, "a_test.go:3", "health/a_test.go", "package a\nfunc TestA(t *testing.T) { synctest.Test(t, nil) }\nfunc TestB(t *testing.T) { time.Sleep(1) }")
}

// folders are the top-level folders of docs/architecture.md; hidden ones that git
// or an editor makes do not count, nor does bin, which is built.
var folders = []string{"cmd", "config", "proxy", "tlsterm", "limiter", "health", "loadtest", "internal", "scripts", "docs", "deploy", ".ci", "bin"}

// wrongFolders lists folders that are neither in the layout nor explained in the
// text of docs/architecture.md.
func wrongFolders(names []string, architecture string) (complaints []string) {
	for _, name := range names {
		if strings.HasPrefix(name, ".") || slices.Contains(folders, name) || strings.Contains(architecture, "`"+name+"/`") {
			continue
		}
		complaints = append(complaints, fmt.Sprintf("folder %s/: docs/architecture.md gives no reason for it", name))
	}
	return complaints
}

// wrongModules lists direct requirements that docs/architecture.md does not name.
func wrongModules(gomod, architecture string) (complaints []string) {
	for _, match := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(gomod, -1) {
		if !strings.Contains(architecture, match[1]) {
			complaints = append(complaints, fmt.Sprintf("module %s: docs/architecture.md does not say why", match[1]))
		}
	}
	return complaints
}

func TestTopLevelFolders(t *testing.T) {
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	none(t, wrongFolders(names, read(t, "docs/architecture.md")))
	one(t, wrongFolders([]string{"cmd", ".git", "pkg", "web"}, "`web/` holds the page"), "pkg/")
}

func TestModulesAreExplained(t *testing.T) {
	none(t, wrongModules(read(t, "go.mod"), read(t, "docs/architecture.md")))
	one(t, wrongModules("require (\n\ta.b/c v1.0.0\n\ta.b/d v1.0.0\n\ta.b/e v1.0.0 // indirect\n)", "a.b/c"), "a.b/d")
}
