package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// errWrongType means that a scalar cannot be of the wanted type, and that there is
// nothing more to say about it.
var errWrongType = errors.New("config: wrong type")

// secretShown stands for a secret in reports and dumps.
const secretShown = "***"

// decoder fills structs from a tree by their tags and remembers where each key
// stood. It goes on after a problem: the value keeps its default.
type decoder struct {
	report *Report
	lookup func(string) (string, bool)
	// at holds the place of every key path that is in the files.
	at map[string]position
	// bad holds the key paths with an error, so that validation does not add to it.
	bad map[string]bool
}

// field is one struct field as its tags describe it.
type field struct {
	key      string
	def      string
	required bool
	secret   bool
	file     bool // a file name, relative to the file that sets it
	bounds   bounds
	index    int
}

// fieldsOf lists the fields of a struct type.
func fieldsOf(t reflect.Type) []field {
	out := make([]field, t.NumField())
	for i := range out {
		sf := t.Field(i)
		key, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		out[i] = field{
			key:      key,
			def:      sf.Tag.Get("default"),
			required: sf.Tag.Get("required") == "true",
			secret:   sf.Tag.Get("secret") == "true",
			file:     sf.Tag.Get("file") == "true" || strings.HasSuffix(key, "_file"),
			bounds:   boundsOf(sf.Tag),
			index:    i,
		}
	}
	return out
}

// problem records an error at a node.
func (d *decoder) problem(n *node, path string, p Problem) {
	p.File, p.Line, p.Column, p.Path = n.pos.file, n.pos.line, n.pos.col, path
	d.report.Problems = append(d.report.Problems, p)
	if p.Severity == Error {
		d.bad[path] = true
	}
}

func (d *decoder) wrongType(n *node, path string, f field, want string) {
	if n.kind == kindBroken {
		d.problem(n, path, Problem{Message: n.text})
		return
	}
	seen := n.describe()
	if f.secret && n.kind == kindScalar {
		seen = "(a secret)"
	}
	d.problem(n, path, Problem{Seen: seen, Want: want})
}

// value decodes n into v. f holds the tags of the field that v is or is in.
func (d *decoder) value(n *node, v reflect.Value, f field, path string) {
	t := v.Type()
	switch {
	case isScalar(t):
		d.scalar(n, v, f, path)
	case t.Kind() == reflect.Slice:
		d.list(n, v, f, path)
	case t.Kind() == reflect.Map:
		d.mapping(n, v, f, path)
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.structure(n, v.Elem(), path)
	case t.Kind() == reflect.Struct:
		d.structure(n, v, path)
	default:
		panic("BUG: schema type " + t.String() + " is not supported")
	}
}

// structure fills v with its defaults and then with what n holds. On a null it
// is an error and not an empty mapping: the block below it was most likely lost to
// indentation.
func (d *decoder) structure(n *node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	setDefaults(v, fields)
	if n.kind != kindMapping {
		want := "a mapping"
		if n.kind == kindNull {
			want = "a mapping (write {} for all defaults)"
		}
		d.wrongType(n, path, field{}, want)
		return
	}
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	seen := make(map[string]bool, len(n.entries))
	for _, e := range n.entries {
		i := slices.Index(keys, e.key)
		sub := join(path, e.key)
		at := &node{pos: e.pos}
		switch {
		case e.dupOf != nil:
			d.problem(at, sub, Problem{Message: "key is set twice, first at line " + strconv.Itoa(e.dupOf.line)})
		case i < 0 && e.key == "<<":
			d.wrongType(e.value, path, field{}, "")
		case i < 0 && path == "" && strings.HasPrefix(e.key, "x-"):
			// Free for the user: a place for anchors.
		case i < 0:
			d.unknownKey(at, sub, e.key, keys)
		default:
			seen[e.key] = true
			d.remember(sub, e)
			d.value(e.value, v.Field(fields[i].index), fields[i], sub)
		}
	}
	for _, f := range fields {
		if f.required && !seen[f.key] {
			d.problem(n, join(path, f.key), Problem{Message: "is missing"})
		}
	}
}

func (d *decoder) unknownKey(at *node, path, key string, keys []string) {
	p := Problem{Message: "unknown key"}
	if s := closest(strings.ToLower(strings.ReplaceAll(key, "-", "_")), keys); s != "" {
		p.Message += fmt.Sprintf(" (did you mean %q?)", s)
	} else {
		p.Want = "one of " + strings.Join(keys, ", ")
	}
	d.problem(at, path, p)
}

// remember notes where a key stands: scalars at their value, the rest at the key.
func (d *decoder) remember(path string, e entry) {
	if e.value.kind == kindScalar {
		d.at[path] = e.value.pos
		return
	}
	d.at[path] = e.pos
}

func (d *decoder) list(n *node, v reflect.Value, f field, path string) {
	t := v.Type()
	if n.kind != kindList {
		want := wantType(t)
		switch {
		case n.kind == kindScalar && isScalar(t.Elem()) && !f.secret:
			want = "a list: [" + n.describe() + "]"
		case n.kind == kindMapping && !isScalar(t.Elem()):
			want = "a list (begin each mapping with -)"
		case n.kind == kindNull:
			want += " (write [] for an empty one)"
		}
		d.wrongType(n, path, f, want)
		return
	}
	if f.required && len(n.items) == 0 {
		d.problem(n, path, Problem{Message: "must not be empty"})
	}
	out := reflect.MakeSlice(t, len(n.items), len(n.items))
	for i, item := range n.items {
		sub := path + "[" + strconv.Itoa(i) + "]"
		d.at[sub] = item.pos
		d.value(item, out.Index(i), f, sub)
	}
	v.Set(out)
}

func (d *decoder) mapping(n *node, v reflect.Value, f field, path string) {
	t := v.Type()
	if n.kind != kindMapping {
		want := "a mapping"
		if n.kind == kindNull {
			want = "a mapping (write {} for an empty one)"
		}
		d.wrongType(n, path, f, want)
		return
	}
	out := reflect.MakeMapWithSize(t, len(n.entries))
	for _, e := range n.entries {
		sub := join(path, e.key)
		if e.dupOf != nil {
			d.problem(&node{pos: e.pos}, sub, Problem{Message: "key is set twice, first at line " + strconv.Itoa(e.dupOf.line)})
			continue
		}
		if e.key == "<<" && e.value.kind == kindBroken {
			d.wrongType(e.value, path, f, "")
			continue
		}
		d.remember(sub, e)
		item := reflect.New(t.Elem()).Elem()
		d.value(e.value, item, f, sub)
		out.SetMapIndex(reflect.ValueOf(e.key), item)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *node, v reflect.Value, f field, path string) {
	want := wantType(v.Type())
	if len(f.bounds.enum) > 0 {
		want = "one of " + strings.Join(f.bounds.enum, ", ")
	}
	if n.kind != kindScalar {
		if n.kind == kindNull && v.Kind() == reflect.String && len(f.bounds.enum) == 0 {
			want = `text (write "" for an empty one)`
		}
		d.wrongType(n, path, f, want)
		return
	}
	text, used, err := expandEnv(n.text, d.lookup)
	if err != nil {
		d.problem(n, path, Problem{Message: err.Error()})
		return
	}
	seen := quote(text, n.quoted)
	switch {
	case f.secret:
		seen = "(a secret)"
	case len(used) > 0:
		seen += " (from ${" + strings.Join(used, "}, ${") + "})"
	}
	isText := v.Kind() == reflect.String || v.Type() == durationType || v.Type() == sizeType
	if n.quoted && len(used) == 0 && !isText {
		d.problem(n, path, Problem{Seen: "the text " + seen, Want: want + " (without quotes)"})
		return
	}
	x, err := parseScalar(text, v.Type())
	if err != nil {
		if err != errWrongType { //nolint:errorlint // it is never wrapped
			want += " (" + err.Error() + ")"
		}
		d.problem(n, path, Problem{Seen: seen, Want: want})
		return
	}
	if f.required && text == "" {
		d.problem(n, path, Problem{Message: "must not be empty"})
		return
	}
	if want := f.bounds.check(x, text); want != "" {
		d.problem(n, path, Problem{Seen: seen, Want: want})
		return
	}
	if f.file {
		x.SetString(besideFile(n.pos.file, text))
	}
	v.Set(x)
}

// besideFile makes a relative file name relative to the directory of the file that
// holds it. The words that stand for no file stay.
func besideFile(file, name string) string {
	switch {
	case name == "" || name == "off" || name == "stdout" || name == "stderr" || filepath.IsAbs(name):
		return name
	}
	return filepath.Join(filepath.Dir(file), name)
}

// setDefaults sets every field that has a default, also those of nested structs.
func setDefaults(v reflect.Value, fields []field) {
	for _, f := range fields {
		fv := v.Field(f.index)
		switch {
		case fv.Kind() == reflect.Struct:
			setDefaults(fv, fieldsOf(fv.Type()))
		case f.def == "":
		case fv.Kind() == reflect.Slice:
			fv.Set(reflect.ValueOf(strings.Split(f.def, ",")))
		default:
			x, err := parseScalar(f.def, fv.Type())
			if err != nil {
				panic(fmt.Sprintf("BUG: default %q of %s is no %s", f.def, f.key, fv.Type()))
			}
			fv.Set(x)
		}
	}
}

// join adds a key to a dotted path, in quotes if it could be misread.
func join(path, key string) string {
	if key == "" || strings.TrimLeftFunc(key, func(r rune) bool { return isNameRune(r) || r == '-' }) != "" {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
