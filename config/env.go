package config

import (
	"fmt"
	"strings"
)

// expandEnv replaces ${NAME} and ${NAME:-default} by environment variables. Only
// names in [A-Z_][A-Z0-9_]* are taken: ${client_addr} is a request variable and
// stays. "$${NAME}" is the text "${NAME}"; in a template, which reads "$$" as a
// dollar sign of its own, the text is "$$${NAME}". As in a shell, the default applies if
// the variable is unset or empty.
//
// used holds the names that were replaced. It works on one scalar after parsing,
// so that no value of a variable can become YAML structure.
func expandEnv(s string, lookup func(string) (string, bool)) (out string, used []string, err error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), used, nil
		}
		name := envName(s[i+2:])
		if name == "" {
			b.WriteString(s[:i+2])
			s = s[i+2:]
			continue
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString(s[i : i+2])
			s = s[i+2:]
			continue
		}
		inside, rest, closed := strings.Cut(s[i+2+len(name):], "}")
		fallback, hasFallback := strings.CutPrefix(inside, ":-")
		switch {
		case !closed:
			return "", used, fmt.Errorf("${%s is not closed with }", name)
		case inside != "" && !hasFallback:
			return "", used, fmt.Errorf("malformed ${%s…}: want ${%s} or ${%s:-default}", name, name, name)
		}
		value, set := lookup(name)
		if hasFallback && value == "" {
			value, set = fallback, true
		}
		if !set {
			return "", used, fmt.Errorf("environment variable %s is not set (${%s:-default} gives a default)", name, name)
		}
		used = append(used, name)
		b.WriteString(s[:i])
		b.WriteString(value)
		s = rest
	}
}

// envName returns the environment variable's name that s begins with, if what
// follows the name ends the reference or starts a default.
func envName(s string) string {
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	// ${Name} is not upper-case throughout, so it is a capture.
	if n < len(s) && s[n] >= 'a' && s[n] <= 'z' {
		return ""
	}
	return s[:n]
}
