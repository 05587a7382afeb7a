package accesslog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrBadFormat is wrapped by every error of Compile.
var ErrBadFormat = errors.New("accesslog: bad format")

// combined is nginx's predefined format of that name.
const combined = `${client_addr} - ${remote_user} [${time_local}] "${request}" ${status} ${bytes_sent} "${referer}" "${user_agent}"`

// Format turns a record into a line. It is safe for concurrent use.
type Format struct {
	json  bool
	parts []part // of a template
	clock clock
}

// part is a piece of literal text followed by a variable.
type part struct {
	literal  string
	variable variable
	arg      []byte // of header: and cookie:
}

// Compile reads a format: "json", "combined", or a template with ${variables}, where "$$"
// stands for a dollar sign.
func Compile(format string) (*Format, error) {
	switch format {
	case "json":
		return &Format{json: true}, nil
	case "combined":
		format = combined
	case "":
		return nil, fmt.Errorf(`%w: it is empty (want "json", "combined" or a template)`, ErrBadFormat)
	}
	f := &Format{}
	rest := format
	for rest != "" {
		p, tail, err := cutPart(rest)
		if err != nil {
			return nil, fmt.Errorf("%w at offset %d: %w", ErrBadFormat, len(format)-len(rest), err)
		}
		f.parts = append(f.parts, p)
		rest = tail
	}
	return f, nil
}

// cutPart takes the first part off a template.
func cutPart(s string) (p part, rest string, err error) {
	literal, rest, found := strings.Cut(s, "$")
	if i := strings.IndexFunc(literal, func(r rune) bool { return r < 0x20 || r == 0x7f }); i >= 0 {
		return p, "", fmt.Errorf("control character %q (a line must stay a line)", literal[i])
	}
	p.literal = literal
	switch {
	case !found:
		return p, "", nil
	case strings.HasPrefix(rest, "$"):
		p.literal += "$"
		return p, rest[1:], nil
	case !strings.HasPrefix(rest, "{"):
		return p, "", errors.New(`"$" without a name (want ${name}, or $$ for a dollar sign)`)
	}
	name, rest, closed := strings.Cut(rest[1:], "}")
	if !closed {
		return p, "", errors.New(`"${" without "}"`)
	}
	p.variable, p.arg, err = parseVariable(name)
	return p, rest, err
}

// parseVariable looks a variable up by its name, such as "status" or "header:Accept".
func parseVariable(name string) (variable, []byte, error) {
	kind, arg, hasArg := strings.Cut(name, ":")
	if hasArg {
		v, ok := map[string]variable{"header": varHeader, "cookie": varCookie}[kind]
		if !ok || arg == "" {
			return 0, nil, fmt.Errorf("unknown variable ${%s} (want ${header:NAME} or ${cookie:NAME})", name)
		}
		return v, []byte(arg), nil
	}
	v, ok := variables[name]
	if !ok {
		return 0, nil, fmt.Errorf("unknown variable ${%s} (want header:NAME, cookie:NAME, %s)", name, strings.Join(Variables(), ", "))
	}
	return v, nil, nil
}

// Variables returns the names that a template may use, sorted, besides header:NAME and
// cookie:NAME.
func Variables() []string {
	return slices.Sorted(maps.Keys(variables))
}

// Append appends the line for r, without a line end, to dst. The line holds no control
// character, whatever the record holds.
func (f *Format) Append(dst []byte, r *Record) []byte {
	if f.json {
		return f.appendJSON(dst, r)
	}
	for i := range f.parts {
		p := &f.parts[i]
		dst = append(dst, p.literal...)
		dst = f.appendVariable(dst, p, r)
	}
	return dst
}
