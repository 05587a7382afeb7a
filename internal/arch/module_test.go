package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"tickgate/internal/testkit"
)

// modulePath is the first element of every import path of ours.
const modulePath = "tickgate"

// file is one parsed Go file.
type file struct {
	name   string // path from the module's root, with slashes
	syntax *ast.File
	test   bool
}

// imports returns the import paths.
func (f *file) imports() []string {
	var paths []string
	for _, spec := range f.syntax.Imports {
		p, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
		paths = append(paths, p)
	}
	return paths
}

// pkg is one folder of Go files.
type pkg struct {
	dir   string // path from the module's root; "." is the root
	files []*file
}

// code returns the files that are not tests.
func (p *pkg) code() []*file {
	return slices.DeleteFunc(slices.Clone(p.files), func(f *file) bool { return f.test })
}

// imports returns what the package's code imports, in order and once.
func (p *pkg) imports() []string {
	var paths []string
	for _, f := range p.code() {
		paths = append(paths, f.imports()...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// module is the parsed source by folder.
type module struct {
	fset *token.FileSet
	pkgs map[string]*pkg
}

// add parses one file.
func (m *module) add(name string, src []byte) error {
	syntax, err := parser.ParseFile(m.fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(name)
	if m.pkgs[dir] == nil {
		m.pkgs[dir] = &pkg{dir: dir}
	}
	m.pkgs[dir].files = append(m.pkgs[dir].files, &file{name, syntax, strings.HasSuffix(name, "_test.go")})
	return nil
}

// sorted returns the packages by folder.
func (m *module) sorted() []*pkg {
	var pkgs []*pkg
	for _, p := range m.pkgs {
		pkgs = append(pkgs, p)
	}
	slices.SortFunc(pkgs, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return pkgs
}

// reach returns the import paths that the package of an import path depends on, by
// whatever way within the module.
func (m *module) reach(from string) map[string]bool {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(importPath string) {
		dir, ours := strings.CutPrefix(importPath, modulePath+"/")
		p := m.pkgs[dir]
		if !ours || p == nil {
			return
		}
		for _, next := range p.imports() {
			if !seen[next] {
				seen[next] = true
				visit(next)
			}
		}
	}
	visit(from)
	return seen
}

// source parses the module's files once.
var source = sync.OnceValues(func() (*module, error) {
	root, err := testkit.Root()
	if err != nil {
		return nil, err
	}
	return parseModule(os.DirFS(root))
})

// parseModule parses every Go file but those of hidden and testdata folders.
func parseModule(tree fs.FS) (*module, error) {
	m := &module{fset: token.NewFileSet(), pkgs: map[string]*pkg{}}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return m.add(name, src)
	})
	return m, err
}

// parsed returns the module's source.
func parsed(t *testing.T) *module {
	t.Helper()
	m, err := source()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// made parses files that a test wrote, alternately name and text.
func made(t *testing.T, namesAndTexts ...string) *module {
	t.Helper()
	m := &module{fset: token.NewFileSet(), pkgs: map[string]*pkg{}}
	for i := 0; i < len(namesAndTexts); i += 2 {
		if err := m.add(namesAndTexts[i], []byte(namesAndTexts[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// none fails the test for each complaint.
func none(t *testing.T, complaints []string) {
	t.Helper()
	for _, c := range complaints {
		t.Error(c)
	}
}

// one fails the test unless there is exactly one complaint, with the given text.
func one(t *testing.T, complaints []string, want string) {
	t.Helper()
	if len(complaints) != 1 || !strings.Contains(complaints[0], want) {
		t.Errorf("complaints %q, want one with %q", complaints, want)
	}
}
