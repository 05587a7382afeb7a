package arch

import (
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"tickgate/internal/testkit"
)

// names are the identifiers that a document may refer to.
type names struct {
	// qualified holds pkg.Func, pkg.Type, pkg.Type.Method, Type.Method, and the
	// same for fields, all without "(*" and ")".
	qualified map[string]bool
	// ours holds the first elements of those: package and type names.
	ours map[string]bool
	// external holds the names of imported packages that are not ours.
	external map[string]bool
	// keys holds every key of the configuration.
	keys map[string]bool
	// files holds the base names and paths of Go files.
	files map[string]bool
}

// collect gathers the names of a module.
func collect(m *module) *names {
	n := &names{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	for _, p := range m.sorted() {
		for _, f := range p.files {
			n.files[f.name], n.files[path.Base(f.name)] = true, true
			for _, imported := range f.imports() {
				if !strings.HasPrefix(imported, modulePath+"/") {
					n.external[path.Base(imported)] = true
				}
			}
			for _, decl := range f.syntax.Decls {
				n.declare(f.syntax.Name.Name, decl)
			}
		}
	}
	return n
}

// declare adds what one declaration defines.
func (n *names) declare(pkgName string, decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			n.add(pkgName, d.Name.Name)
			return
		}
		n.add(pkgName, receiver(d.Recv.List[0].Type), d.Name.Name)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				n.add(pkgName, s.Name.Name)
				n.members(pkgName, s)
			case *ast.ValueSpec:
				for _, name := range s.Names {
					n.add(pkgName, name.Name)
				}
			}
		}
	}
}

// members adds the fields of a struct, with their configuration keys, and the
// methods of an interface.
func (n *names) members(pkgName string, spec *ast.TypeSpec) {
	var list *ast.FieldList
	switch t := spec.Type.(type) {
	case *ast.StructType:
		list = t.Fields
	case *ast.InterfaceType:
		list = t.Methods
	default:
		return
	}
	for _, field := range list.List {
		for _, name := range field.Names {
			n.add(pkgName, spec.Name.Name, name.Name)
		}
		if field.Tag != nil {
			tag, _ := strconv.Unquote(field.Tag.Value) // the parser has checked it
			n.keys[reflect.StructTag(tag).Get("yaml")] = true
		}
	}
}

// add adds pkg.Name, or pkg.Type.Name and Type.Name.
func (n *names) add(pkgName string, rest ...string) {
	n.ours[pkgName] = true
	n.qualified[pkgName+"."+strings.Join(rest, ".")] = true
	if len(rest) == 2 {
		n.ours[rest[0]] = true
		n.qualified[strings.Join(rest, ".")] = true
	}
}

// receiver returns the type's name of a method's receiver.
func receiver(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	default:
		return ""
	}
}

var (
	codeSpan  = regexp.MustCompile("`([^`\n]+)`")
	codeFence = regexp.MustCompile("(?s)```.*?```")
	reference = regexp.MustCompile(`^\w+(\.\w+)+$`)
	goFile    = regexp.MustCompile(`^[\w/]+\.go$`)
	otherFile = regexp.MustCompile(`\.(md|yaml|yml|html|sh|conf|json|com|org|pem|key|log|txt|mod|sum)$`)
)

// wrongNames lists code spans of a document that look like names of ours and are
// none. `(*T).Method`, `pkg.(*T).Method` and a final `()` are understood; names of
// imported packages and keys of the configuration pass.
func wrongNames(n *names, document string) (complaints []string) {
	for _, match := range codeSpan.FindAllStringSubmatch(codeFence.ReplaceAllString(document, ""), -1) {
		span := match[1]
		name := bare(span)
		switch {
		case goFile.MatchString(name):
			if !n.files[name] {
				complaints = append(complaints, fmt.Sprintf("`%s`: no such file", span))
			}
		case !reference.MatchString(name), otherFile.MatchString(name), n.qualified[name]:
		case !n.known(name):
			complaints = append(complaints, fmt.Sprintf("`%s` names nothing in the source", span))
		}
	}
	return complaints
}

// known says whether a dotted name that is not ours is something else that may
// stand in a document.
func (n *names) known(name string) bool {
	parts := strings.Split(name, ".")
	isKey := true
	for _, part := range parts {
		isKey = isKey && n.keys[part]
	}
	return isKey || n.external[parts[0]] && !n.ours[parts[0]] || regexp.MustCompile(`^\d`).MatchString(name)
}

// found counts the code spans of a document that name something of ours.
func (n *names) found(document string) (count int) {
	for _, match := range codeSpan.FindAllStringSubmatch(document, -1) {
		if n.qualified[bare(match[1])] {
			count++
		}
	}
	return count
}

// fewestNames guards against a document that the rule no longer reads.
const fewestNames = 10

// bare removes the pointer's parentheses and a final "()" from a name.
func bare(span string) string { return strings.NewReplacer("(*", "", ")", "", "(", "").Replace(span) }

// read returns a file of the module.
func read(t *testing.T, name string) string {
	t.Helper()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocumentsNameWhatExists(t *testing.T) {
	n := collect(parsed(t))
	for _, name := range []string{"docs/life-of-a-request.md", "docs/connections.md", "docs/invariants.md"} {
		t.Run(path.Base(name), func(t *testing.T) {
			text := read(t, name)
			none(t, wrongNames(n, text))
			if got := n.found(text); got < fewestNames {
				t.Errorf("names %d things of the source (want at least %d)", got, fewestNames)
			}
		})
	}
}

func TestWrongNames(t *testing.T) {
	n := collect(made(t, "proxy/serve.go", `package proxy
import ("net/http"; "github.com/valyala/fasthttp")
type exchange struct { Rc int }
type Waits struct { Head int `+"`yaml:\"head\"`"+`; Limits int `+"`yaml:\"limits\"`"+` }
type picker interface { Pick() }
type ring[T any] struct{}
func (r *ring[T]) push() {}
func (x *exchange) route() {}
func serve() {}
const limit = 1
`))
	f := func(document string, wantWrong int) {
		t.Helper()
		if got := wrongNames(n, document); len(got) != wantWrong {
			t.Errorf("%q: %q, want %d", document, got, wantWrong)
		}
	}
	f("`proxy.serve` and `proxy.serve()` and `proxy.limit`", 0)
	f("`(*exchange).route` `exchange.route` `proxy.exchange.route` `proxy.(*exchange).route` `exchange.Rc` `picker.Pick` `ring.push`", 0)
	f("`fasthttp.Server.ServeConn` `http.Handler` `limits.head` `serve.go` `proxy/serve.go` `a.yaml` `127.0.0.1`", 0)
	f("`GET / HTTP/1.1` `x-forwarded-for` `serve`", 0)
	f("```\nproxy.gone `proxy.gone`\n```", 0)
	f("`proxy.gone`", 1)
	f("`exchange.gone` `(*exchange).gone` `gone.go` `limits.gone`", 4)
	f("`gone.serve`", 1)

	if got := n.found("`proxy.serve` `(*exchange).route` `proxy.gone` `GET`"); got != 2 {
		t.Errorf("found %d, want 2", got)
	}
}
