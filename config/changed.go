package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Changed is one key whose value is not its default.
type Changed struct {
	// Key is the key as the schema knows it: "[]" stands for every index of a list and "*" for
	// every name, as in "upstreams.*.servers[].weight".
	Key string
	// Value is its value as text; that of a list is its items with commas between, that of a mapping of
	// texts its names, and that of a mapping whose mere presence says something is "{}".
	Value string
	// Place has the file, the line, the column and the path of the key, for a caller that adds what it
	// has to say.
	Place Problem
}

// Changed lists the keys of the files whose values are not their defaults, in the order of the schema, for
// programs that understand a part of the format and must not ignore the rest. report is the
// one that came with c.
func (c *Config) Changed(report *Report) []Changed {
	w := &changes{report: report}
	w.structure(reflect.ValueOf(c).Elem(), "", "")
	return w.found
}

// changes is the work of one Changed. Each step is given the key by path and by schema.
type changes struct {
	report *Report
	found  []Changed
}

func (w *changes) structure(v reflect.Value, path, key string) {
	for _, f := range fieldsOf(v.Type()) {
		w.value(v.Field(f.index), f, join(path, f.key), join(key, f.key))
	}
}

func (w *changes) value(v reflect.Value, f field, path, key string) {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Struct:
		w.structure(v, path, key)
	case t.Kind() == reflect.Pointer && !v.IsNil():
		w.add(f, path, key, "{}")
		w.structure(v.Elem(), path, key)
	case t.Kind() == reflect.Slice && !isScalar(t.Elem()):
		for i := range v.Len() {
			w.element(v.Index(i), fmt.Sprintf("%s[%d]", path, i), key+"[]")
		}
	case t.Kind() == reflect.Map && !isScalar(t.Elem()):
		for _, name := range sortedKeys(v) {
			w.element(v.MapIndex(reflect.ValueOf(name)), join(path, name), key+".*")
		}
	default:
		w.leaf(v, f, path, key)
	}
}

// element is one item of a list or one value of a mapping of structs.
func (w *changes) element(v reflect.Value, path, key string) {
	w.structure(reflect.Indirect(v), path, key)
}

// leaf compares a scalar, a list of scalars or a mapping of scalars with its default.
func (w *changes) leaf(v reflect.Value, f field, path, key string) {
	if text := textOf(v); !sameAsDefault(v, f, text) {
		w.add(f, path, key, text)
	}
}

func (w *changes) add(f field, path, key, value string) {
	at, set := w.report.at[path]
	if !set {
		return // made by validation, as names of routes are
	}
	if f.secret {
		value = secretShown
	}
	w.found = append(w.found, Changed{key, value, Problem{File: at.file, Line: at.line, Column: at.col, Path: path}})
}

// sameAsDefault says whether a leaf has the value that its tag gives it, or none where there is no tag.
func sameAsDefault(v reflect.Value, f field, text string) bool {
	switch {
	case v.Kind() == reflect.Slice:
		return text == f.def
	case v.Kind() == reflect.Map:
		return v.Len() == 0
	case f.def == "":
		return v.IsZero()
	}
	def, err := parseScalar(f.def, v.Type())
	return err == nil && def.Equal(v)
}

// sortedKeys are the names in a mapping.
func sortedKeys(v reflect.Value) []string {
	var list []string
	for _, k := range v.MapKeys() {
		list = append(list, k.String())
	}
	slices.Sort(list)
	return list
}

// textOf writes a leaf. Of a mapping it writes the names only, as the values of header fields may
// be credentials.
func textOf(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprint(v.Index(i))
		}
		return strings.Join(items, ",")
	case reflect.Map:
		return strings.Join(sortedKeys(v), ",")
	case reflect.Pointer: // to a mapping that is absent
		return ""
	}
	return fmt.Sprint(dump(v))
}
