package main

import (
	_ "embed"
	"fmt"
	"strings"
)

// guide is the hand-written part. The words in double braces stand for what is
// generated.
//
//go:embed guide.md
var guide string

// render returns the whole document.
func render(s *schema, example string) string {
	r := &renderer{schema: s}
	r.section("config.Config", "")
	return strings.NewReplacer(
		"{{example}}", strings.TrimRight(example, "\n"),
		"{{contents}}", r.contents.String(),
		"{{variables}}", variables(s.vars["requestVariables"]),
		"{{log_variables}}", variables(s.vars["logVariables"]),
		"{{reference}}", strings.TrimRight(r.body.String(), "\n"),
	).Replace(guide)
}

type renderer struct {
	schema   *schema
	contents strings.Builder
	body     strings.Builder
}

// section writes one struct as a table of its keys, then the structs in it, depth
// first. path is how the keys are reached: upstreams.NAME.servers[].
func (r *renderer) section(name, path string) {
	d := r.schema.structs[name]
	if d == nil {
		return
	}
	title := path
	if title == "" {
		title = "Top level"
		fmt.Fprintf(&r.body, "### %s\n\n", title)
	} else {
		fmt.Fprintf(&r.body, "### `%s`\n\n%s\n\n", title, prose(d))
		depth := strings.Count(path, ".") - strings.Count(path, ".NAME")
		fmt.Fprintf(&r.contents, "%s- [`%s`](#%s)\n", strings.Repeat("  ", depth), title, anchor(title))
	}
	r.body.WriteString("| Key | Type | Default | Meaning |\n|---|---|---|---|\n")
	for _, f := range d.fields {
		fmt.Fprintf(&r.body, "| `%s` | %s | %s | %s |\n", f.key, r.typeCell(f, join(path, f.key)), r.defaultCell(f), cell(f.doc))
	}
	r.body.WriteString("\n")
	for _, f := range d.fields {
		inner, suffix := element(f.typ)
		r.section(inner, join(path, f.key)+suffix)
	}
}

// prose returns the struct's comment without the Go name that it begins with.
func prose(d *structDoc) string {
	_, goName, _ := strings.Cut(d.name, ".")
	text := d.doc
	for _, lead := range []string{goName + " is ", goName + " are "} {
		if rest, ok := strings.CutPrefix(text, lead); ok {
			return upper(rest)
		}
	}
	if rest, ok := strings.CutPrefix(text, goName+" "); ok {
		return upper(rest)
	}
	return text
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// anchor is the fragment that GitHub makes of a heading.
func anchor(title string) string {
	return strings.Map(func(c rune) rune {
		if c == '_' || c == '-' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return -1
	}, title)
}

// element strips a type of its list, map and pointer, and says how a path goes on.
func element(typ string) (inner, suffix string) {
	switch {
	case strings.HasPrefix(typ, "[]"):
		typ, suffix = typ[2:], "[]"
	case strings.HasPrefix(typ, "map[string]"):
		typ, suffix = typ[len("map[string]"):], ".NAME"
	}
	return strings.TrimPrefix(typ, "*"), suffix
}

// typeCell says what a value looks like, bounds included.
func (r *renderer) typeCell(f fieldDoc, path string) string {
	inner, suffix := element(f.typ)
	if e := f.tag.Get("enum"); e != "" {
		e = strings.TrimPrefix(e, "|") // the key may be left out, as every other
		words := "`" + strings.ReplaceAll(e, "|", "` · `") + "`"
		if suffix == "[]" {
			return "list of " + words
		}
		return words
	}
	if r.schema.structs[inner] != nil {
		link := "(#" + anchor(path+suffix) + ")"
		switch suffix {
		case "[]":
			return "[list of mappings]" + link
		case ".NAME":
			return "[mapping of names]" + link
		}
		return "[mapping]" + link
	}
	word := map[string]string{
		"string": "text", "bool": "true or false", "int": "number",
		"time.Duration": "duration", "unit.Size": "size",
	}[inner]
	switch suffix {
	case "[]":
		word = "list of " + word
	case ".NAME":
		word = "mapping of names to " + word
	}
	return word + bounds(f)
}

func bounds(f fieldDoc) string {
	low, high := f.tag.Get("min"), f.tag.Get("max")
	switch {
	case low != "" && high != "":
		return ", " + low + " to " + high
	// Durations and counts below 0 make no sense anyway, so that says nothing.
	case low != "" && low != "0" && low != "0s":
		return ", at least " + low
	case high != "":
		return ", at most " + high
	}
	return ""
}

func (r *renderer) defaultCell(f fieldDoc) string {
	def := f.tag.Get("default")
	switch {
	case f.tag.Get("required") == "true":
		return "**required**"
	case def != "" && strings.HasPrefix(f.typ, "[]"):
		return "`[" + strings.ReplaceAll(def, ",", ", ") + "]`"
	case def != "":
		return "`" + def + "`"
	case f.typ == "int":
		return "`0`"
	case r.schema.structs[f.typ] != nil: // always there, unlike a pointer
		return "`{}`"
	}
	return "–"
}

// cell makes a comment fit for a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "*.suffix", "`*.suffix`", "\n", " ").Replace(text)
}

func variables(rows []varDoc) string {
	var b strings.Builder
	b.WriteString("| Variable | Value |\n|---|---|\n")
	for _, v := range rows {
		fmt.Fprintf(&b, "| `${%s}` | %s |\n", v.name, cell(v.doc))
	}
	return strings.TrimRight(b.String(), "\n")
}
