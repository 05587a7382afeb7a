package config

import (
	"os"
	"reflect"
)

// DecodeFile reads a YAML file of another kind, such as a scenario of the load tools,
// with the rules of this package: strict keys, defaults and bounds from the tags of into,
// a pointer to a struct; environment variables; every problem with its place. There are no includes.
//
// check, if it is not nil, looks at what was decoded without an error, and calls wrong for what is
// impossible: the key path as in the report, the value seen ("" to leave it out) and what
// is wanted.
func DecodeFile(path string, into any, check func(wrong func(keyPath, seen, want string))) *Report {
	src, err := readFile(path)
	if err != nil {
		return &Report{ReadError: err, Problems: []Problem{{File: path, Message: "cannot read: " + plainCause(err)}}}
	}
	return Decode(path, src, into, check)
}

// Decode is DecodeFile for text that is at hand.
func Decode(name string, src []byte, into any, check func(wrong func(keyPath, seen, want string))) *Report {
	l := newLoader()
	root, err := parseTree(name, src)
	if err != nil {
		l.syntax(name, err)
		return l.report
	}
	d := &decoder{report: l.report, lookup: os.LookupEnv, at: map[string]position{"": root.pos}, bad: map[string]bool{}}
	d.value(root, reflect.ValueOf(into).Elem(), field{}, "")
	if check != nil && len(l.report.Errors()) == 0 {
		check(func(keyPath, seen, want string) {
			at := d.at[keyPath]
			if at == (position{}) {
				at = root.pos
			}
			d.problem(&node{pos: at}, keyPath, Problem{Seen: seen, Want: want})
		})
	}
	l.report.files = []string{name}
	l.report.sort()
	return l.report
}
