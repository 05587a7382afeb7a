package replay

import (
	"bytes"
	"fmt"
	"strings"
)

// template is a log format of literal texts and variables, in turn.
type template struct {
	lead  []byte
	parts []part
}

// part is a variable and the literal text behind it, which is empty at the end only.
type part struct {
	source  source
	literal []byte
}

// newTemplate compiles a template. The format must say when a request was, and what.
func newTemplate(s string, keys map[string]source) (*template, error) {
	// The usual way to write a target in parts; nothing stands between them in the line.
	s = strings.ReplaceAll(s, "$uri$is_args$args", "$request_uri")
	t := &template{}
	var has [fields]bool
	literal := &t.lead
	for s != "" {
		text, rest, found := strings.Cut(s, "$")
		*literal = append(*literal, text...)
		if !found {
			break
		}
		if strings.HasPrefix(rest, "$") {
			*literal, s = append(*literal, '$'), rest[1:]
			continue
		}
		name, tail, err := cutName(rest)
		if err != nil {
			return nil, err
		}
		if len(t.parts) > 0 && len(*literal) == 0 {
			return nil, fmt.Errorf("%w: no text between $%s and the variable before it: a line could not be told apart", ErrFormat, name)
		}
		source := keys[canonical(name)]
		has[source.field] = true
		t.parts = append(t.parts, part{source: source})
		literal, s = &t.parts[len(t.parts)-1].literal, tail
	}
	if !has[fieldTime] || !has[fieldRequest] && (!has[fieldMethod] || !has[fieldURI]) {
		return nil, fmt.Errorf("%w: it has no time, or no request (want $time_local, $time_iso8601 or $msec, and $request or $request_method with $request_uri)", ErrFormat)
	}
	return t, nil
}

// cutName takes the name of a variable off s, which follows a dollar sign.
func cutName(s string) (name, rest string, err error) {
	if strings.HasPrefix(s, "{") {
		name, rest, found := strings.Cut(s[1:], "}")
		if !found || name == "" {
			return "", "", fmt.Errorf(`%w: "${" without a name and "}"`, ErrFormat)
		}
		return name, rest, nil
	}
	n := 0
	for n < len(s) && (s[n] == '_' || s[n]-'0' < 10 || s[n]|0x20-'a' < 26) {
		n++
	}
	if n == 0 {
		return "", "", fmt.Errorf(`%w: "$" without a name`, ErrFormat)
	}
	return s[:n], s[n:], nil
}

// canonical writes tickgate's ${header:User-Agent} as nginx's $http_user_agent.
func canonical(name string) string {
	if field, ok := strings.CutPrefix(name, "header:"); ok {
		return "http_" + strings.ReplaceAll(strings.ToLower(field), "-", "_")
	}
	return name
}

// read takes a line apart; each value ends where the text behind it begins.
func (t *template) read(line []byte, rec *record) bool {
	rest, ok := bytes.CutPrefix(line, t.lead)
	if !ok {
		return false
	}
	for i := range t.parts {
		p := &t.parts[i]
		end := len(rest)
		if len(p.literal) > 0 {
			if end = indexLiteral(rest, p.literal); end < 0 {
				return false
			}
		}
		rec.set(p.source, rest[:end])
		rest = rest[end+len(p.literal):]
	}
	return len(rest) == 0
}

// indexLiteral finds the text that ends a value. In a value in quotes a backslash takes
// the byte behind it along, as Apache writes a quote as \".
func indexLiteral(b, literal []byte) int {
	if literal[0] != '"' {
		return bytes.Index(b, literal)
	}
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '\\':
			i++
		case b[i] == '"' && bytes.HasPrefix(b[i:], literal):
			return i
		}
	}
	return -1
}

// unquoteStatement returns the template of a log_format statement of nginx, whose strings
// stand in quotes, one behind the other; any other text is a template already.
func unquoteStatement(s string) (string, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), "log_format ")
	if !ok {
		return s, nil
	}
	var b strings.Builder
	for i := 0; ; i++ {
		rest = strings.TrimLeft(rest, " \t\r\n")
		switch {
		case rest == ";" || rest == "":
			return b.String(), nil
		case rest[0] == '\'' || rest[0] == '"':
			text, tail, closed := strings.Cut(rest[1:], rest[:1])
			if !closed {
				return "", fmt.Errorf("%w: log_format with a quote that is not closed (write it without escaped quotes)", ErrFormat)
			}
			b.WriteString(text)
			rest = tail
		case i > 1:
			return "", fmt.Errorf("%w: log_format at %.20q (want strings in quotes)", ErrFormat, rest)
		default: // its name, and escape=…
			n := strings.IndexAny(rest, " \t\r\n")
			if n < 0 {
				return "", fmt.Errorf("%w: log_format without a format", ErrFormat)
			}
			rest = rest[n:]
		}
	}
}
