package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"tickgate/tlsterm"
)

// Load reads the file with its includes, expands environment variables, decodes
// strictly, applies defaults and validates. Every problem of every file is in the
// report, which is never nil; the Config is nil if one of them is an error. If the
// file cannot be read, Report.ReadError says why.
func Load(path string) (*Config, *Report) {
	return newLoader().load(path)
}

// Parse is Load for text that is already at hand. name stands for the file in the
// report; file names in the text, of includes and certificates, are relative to the
// directory that name is in, so to the working directory for a name without one.
func Parse(name string, src []byte) (*Config, *Report) {
	return newLoader().parse(name, src)
}

// machine is what the outcome depends on besides the files, so that tests can
// stand in for it.
type machine struct {
	lookupEnv func(string) (string, bool)
	readFile  func(name string) ([]byte, error)
	glob      func(pattern string) ([]string, error)
	now       func() time.Time
	// ticketFiles reads the session ticket keys of a file or folder.
	ticketFiles func(path string) ([]tlsterm.TicketFile, error)
	// openFiles returns how many descriptors the process may open; ok is false where that is unknown.
	openFiles func() (n uint64, ok bool)
	// writable tells why no files can be made in a folder.
	writable func(dir string) error
}

// loader is the work of one Load.
type loader struct {
	machine machine
	report  *Report
	// files lists the files read, in order, as they are named in the report.
	files []string
	// loaded holds the absolute names of files read, and who asked for them.
	loaded map[string]position
	// unreadable is set when a file is missing from the tree, so that what it would
	// have defined cannot be judged.
	unreadable bool
}

func newLoader() *loader {
	return &loader{
		machine: machine{lookupEnv: os.LookupEnv, readFile: readFile, glob: filepath.Glob, now: time.Now, ticketFiles: tlsterm.ReadTicketFiles, openFiles: openFileLimit, writable: writable},
		report:  &Report{},
		loaded:  map[string]position{},
	}
}

func (l *loader) load(path string) (*Config, *Report) {
	src, err := l.machine.readFile(path)
	if err != nil {
		l.report.ReadError = fmt.Errorf("read configuration: %w", err)
		l.report.Problems = []Problem{{File: path, Message: "cannot read: " + plainCause(err)}}
		return nil, l.report
	}
	return l.parse(path, src)
}

func (l *loader) parse(name string, src []byte) (*Config, *Report) {
	root := l.file(name, src, position{file: name}, nil)
	d := &decoder{report: l.report, lookup: l.machine.lookupEnv, at: map[string]position{"": root.pos}, bad: map[string]bool{}}
	cfg := &Config{}
	d.value(root, reflect.ValueOf(cfg).Elem(), field{}, "")
	l.report.at = d.at
	if !l.unreadable {
		v := &validator{cfg: cfg, d: d, machine: l.machine, main: name}
		v.validate()
	}
	l.report.files = l.files
	l.report.sort()
	if len(l.report.Errors()) > 0 {
		return nil, l.report
	}
	return cfg, l.report
}

// file parses one file and joins its includes into it, at the place of the include
// key. stack holds the absolute names of the files that are being read.
func (l *loader) file(name string, src []byte, from position, stack []string) *node {
	l.files = append(l.files, name)
	abs := absolute(name)
	l.loaded[abs] = from
	root, err := parseTree(name, src)
	if err != nil {
		l.unreadable = true
		l.syntax(name, err)
		return &node{kind: kindMapping, pos: position{name, 1, 1}}
	}
	stack = append(slices.Clip(stack), abs)
	out := &node{kind: kindMapping, pos: root.pos}
	for _, e := range root.entries {
		out = l.join(out, &node{kind: kindMapping, pos: root.pos, entries: []entry{e}}, reflect.TypeFor[Config](), "")
		if e.key == "include" && e.dupOf == nil && e.value.kind == kindList {
			for i, item := range e.value.items {
				out = l.include(out, item, fmt.Sprintf("include[%d]", i), stack)
			}
		}
	}
	return out
}

func (l *loader) syntax(name string, err error) {
	p := Problem{File: name, Message: err.Error()}
	var se *syntaxError
	if errors.As(err, &se) {
		p.Line, p.Column, p.Message = se.pos.line, se.pos.col, se.text
	}
	l.report.Problems = append(l.report.Problems, p)
}

// include joins the files that one pattern matches. A name without wildcards must
// exist; a pattern may match nothing.
func (l *loader) include(out, item *node, path string, stack []string) *node {
	pattern, _, err := expandEnv(item.text, l.machine.lookupEnv)
	if item.kind != kindScalar || err != nil {
		l.unreadable = true
		return out // the decoder reports it
	}
	names, err := l.machine.glob(besideFile(item.pos.file, pattern))
	if err != nil {
		l.complain(item, path, "malformed pattern "+quote(pattern, true))
		return out
	}
	if len(names) == 0 && !strings.ContainsAny(pattern, `*?[`) {
		l.complain(item, path, "cannot read "+quote(pattern, true)+": no such file")
		return out
	}
	for _, name := range names {
		abs := absolute(name)
		if slices.Contains(stack, abs) {
			l.complain(item, path, "files include each other: "+cycle(stack, abs))
			continue
		}
		if first, again := l.loaded[abs]; again {
			l.complain(item, path, fmt.Sprintf("%s is included twice, first at %s", name, first))
			continue
		}
		src, err := l.machine.readFile(name)
		if err != nil {
			l.complain(item, path, "cannot read "+quote(name, true)+": "+plainCause(err))
			continue
		}
		out = l.join(out, l.file(name, src, item.pos, stack), reflect.TypeFor[Config](), "")
	}
	return out
}

// complain records an error of an include.
func (l *loader) complain(item *node, path, message string) {
	l.unreadable = true
	l.report.Problems = append(l.report.Problems, Problem{
		File: item.pos.file, Line: item.pos.line, Column: item.pos.col, Path: path, Message: message,
	})
}

// join returns a with b added, by the type that both stand for: structs are
// joined key by key, lists are appended, maps must not share a name, and nothing
// else may be set in both. Neither is changed.
func (l *loader) join(a, b *node, t reflect.Type, path string) *node {
	switch {
	case a.kind == kindList && b.kind == kindList:
		return &node{kind: kindList, pos: a.pos, items: slices.Concat(a.items, b.items)}
	case a.kind != kindMapping || b.kind != kindMapping || t.Kind() != reflect.Struct && t.Kind() != reflect.Map:
		l.report.Problems = append(l.report.Problems, Problem{
			File: b.pos.file, Line: b.pos.line, Column: b.pos.col, Path: path,
			Message: "is set in two files, first at " + a.pos.String(),
		})
		return a
	}
	out := &node{kind: kindMapping, pos: a.pos, entries: slices.Clone(a.entries)}
	for _, e := range b.entries {
		i := slices.IndexFunc(out.entries, func(x entry) bool { return x.key == e.key })
		ft := fieldType(t, e.key)
		if i < 0 || e.dupOf != nil || ft == nil {
			out.entries = append(out.entries, e)
			continue
		}
		first := &out.entries[i]
		if t.Kind() == reflect.Map {
			l.report.Problems = append(l.report.Problems, Problem{
				File: e.pos.file, Line: e.pos.line, Column: e.pos.col, Path: join(path, e.key),
				Message: "is defined in two files, first at " + first.pos.String(),
			})
			continue
		}
		first.value = l.join(first.value, e.value, ft, join(path, e.key))
	}
	return out
}

// fieldType returns the type of a key's value in a struct or map, or nil if there
// is no such key.
func fieldType(t reflect.Type, key string) reflect.Type {
	if t.Kind() == reflect.Map {
		return t.Elem()
	}
	for _, f := range fieldsOf(t) {
		if f.key == key {
			return t.Field(f.index).Type
		}
	}
	return nil
}

// readFile is os.ReadFile with a bound, as a name may lead to a device.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("larger than %d bytes", maxFileBytes)}
	}
	return data, err
}

// plainCause returns a file error without the operation and the name, which the
// message around it gives.
func plainCause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// absolute returns the name by which a file is known, whatever way leads to it.
func absolute(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	return name
}

// cycle writes the files from the one that is met again.
func cycle(stack []string, again string) string {
	i := slices.Index(stack, again)
	names := make([]string, 0, len(stack)-i+1)
	for _, s := range append(slices.Clone(stack[i:]), again) {
		names = append(names, filepath.Base(s))
	}
	return strings.Join(names, " -> ")
}
