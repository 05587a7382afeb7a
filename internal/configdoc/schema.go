package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// packages are the folders that hold the schema. The first is the one with Config.
var packages = []string{"config", "health", "tlsterm", "limiter", "internal/gctune", "internal/watchdog"}

// schema is what the sources say about the configuration.
type schema struct {
	structs map[string]*structDoc // by package.Name
	vars    map[string][]varDoc   // tables of template variables, by the Go variable's name
}

type structDoc struct {
	name   string // package.Name
	doc    string
	fields []fieldDoc
}

type fieldDoc struct {
	key string
	typ string // Go type, with its package for structs: []config.Server, *tlsterm.Options, time.Duration
	tag reflect.StructTag
	doc string
}

type varDoc struct{ name, doc string }

// readSchema parses the packages of the schema below root.
func readSchema(root string) (*schema, error) {
	s := &schema{structs: map[string]*structDoc{}, vars: map[string][]varDoc{}}
	for _, folder := range packages {
		dir, pkg := filepath.Join(root, folder), path.Base(folder)
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name := f.Name()
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			for _, decl := range parsed.Decls {
				if g, ok := decl.(*ast.GenDecl); ok {
					s.add(pkg, g)
				}
			}
		}
	}
	if s.structs["config.Config"] == nil {
		return nil, fmt.Errorf("no struct Config in package config")
	}
	return s, nil
}

// add takes the structs with yaml tags and the variable tables of one declaration.
func (s *schema) add(pkg string, g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			doc := spec.Doc
			if doc == nil {
				doc = g.Doc
			}
			d := &structDoc{name: pkg + "." + spec.Name.Name, doc: text(doc), fields: fields(pkg, st)}
			if len(d.fields) > 0 {
				s.structs[d.name] = d
			}
		case *ast.ValueSpec:
			if len(spec.Names) == 1 && len(spec.Values) == 1 {
				if rows := variableTable(spec.Values[0]); rows != nil {
					s.vars[spec.Names[0].Name] = rows
				}
			}
		}
	}
}

// fields lists the fields that have a yaml key.
func fields(pkg string, st *ast.StructType) []fieldDoc {
	var out []fieldDoc
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		raw, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			continue
		}
		tag := reflect.StructTag(raw)
		key, _, _ := strings.Cut(tag.Get("yaml"), ",")
		if key == "" {
			continue
		}
		out = append(out, fieldDoc{key: key, typ: typeName(pkg, f.Type), tag: tag, doc: text(f.Doc)})
	}
	return out
}

// typeName writes a type with the package of its struct.
func typeName(pkg string, t ast.Expr) string {
	switch t := t.(type) {
	case *ast.Ident:
		if ast.IsExported(t.Name) {
			return pkg + "." + t.Name
		}
		return t.Name
	case *ast.SelectorExpr:
		return typeName("", t.X) + "." + t.Sel.Name
	case *ast.StarExpr:
		return "*" + typeName(pkg, t.X)
	case *ast.ArrayType:
		return "[]" + typeName(pkg, t.Elt)
	case *ast.MapType:
		return "map[" + typeName(pkg, t.Key) + "]" + typeName(pkg, t.Value)
	}
	return fmt.Sprintf("%T", t)
}

// variableTable reads a []variable{{"name", "text"}, …} literal.
func variableTable(e ast.Expr) []varDoc {
	lit, ok := e.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	array, ok := lit.Type.(*ast.ArrayType)
	if !ok {
		return nil
	}
	if id, ok := array.Elt.(*ast.Ident); !ok || id.Name != "variable" {
		return nil
	}
	var out []varDoc
	for _, el := range lit.Elts {
		row, ok := el.(*ast.CompositeLit)
		if !ok || len(row.Elts) != 2 {
			continue
		}
		out = append(out, varDoc{literal(row.Elts[0]), literal(row.Elts[1])})
	}
	return out
}

func literal(e ast.Expr) string {
	if b, ok := e.(*ast.BasicLit); ok {
		if s, err := strconv.Unquote(b.Value); err == nil {
			return s
		}
	}
	return ""
}

// text returns a comment as one paragraph.
func text(c *ast.CommentGroup) string {
	return strings.Join(strings.Fields(c.Text()), " ")
}
