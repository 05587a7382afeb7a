package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity tells a Problem that makes a configuration unusable from one that is
// merely unwise.
type Severity uint8

const (
	// Error makes the configuration invalid: nothing is started or reloaded.
	Error Severity = iota
	// Warning is legal but unwise; the configuration is used.
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// MarshalText writes the severity as its word, for JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the severity back from its word.
func (s *Severity) UnmarshalText(text []byte) error {
	switch string(text) {
	case "error":
		*s = Error
	case "warning":
		*s = Warning
	default:
		return fmt.Errorf("config: unknown severity %q", text)
	}
	return nil
}

// Problem is one thing that is wrong or unwise in a configuration.
type Problem struct {
	Severity Severity `json:"severity"`
	// File that holds the offending text, as it was named. Empty if there is no such text.
	File string `json:"file"`
	// Line and Column count from 1; 0 where no place is known.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Path is the dotted key path: upstreams.be.servers[0].weight. Empty for the file as a whole.
	Path string `json:"path"`
	// Message says what is wrong. It may be empty if Seen and Want say it all.
	Message string `json:"message"`
	// Seen is the offending value as shown to people; never a secret.
	Seen string `json:"seen,omitempty"`
	// Want says what would be right.
	Want string `json:"want,omitempty"`
}

// String returns the problem on one line:
//
//	gate.yaml:12:9: upstreams.be.balance: got "rr", want one of round_robin, least_conn
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.position())
	if p.Severity == Warning {
		b.WriteString("warning: ")
	}
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Text())
	return b.String()
}

// position returns "file:line:column: " as far as it is known.
func (p Problem) position() string {
	switch {
	case p.Line > 0:
		return fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "":
		return p.File + ": "
	}
	return ""
}

// Text returns the problem without its position and path.
func (p Problem) Text() string {
	var parts []string
	if p.Seen != "" {
		parts = append(parts, "got "+p.Seen)
	}
	if p.Want != "" {
		parts = append(parts, "want "+p.Want)
	}
	gotWant := strings.Join(parts, ", ")
	switch {
	case p.Message == "":
		return gotWant
	case gotWant == "":
		return p.Message
	}
	return p.Message + ": " + gotWant
}

// Report is everything that was found in a configuration, sorted by file and
// line. The zero value is an empty report.
type Report struct {
	Problems []Problem
	// ReadError is set if the main file could not be read at all. It is then also
	// among the problems.
	ReadError error

	at    map[string]position // of the keys that stand in the files
	files []string            // in the order in which they were read
}

// ErrInvalid is what Err wraps: the configuration has errors.
var ErrInvalid = errors.New("config: invalid configuration")

// Errors returns the problems that make the configuration invalid.
func (r *Report) Errors() []Problem { return r.only(Error) }

// Warnings returns the problems that do not.
func (r *Report) Warnings() []Problem { return r.only(Warning) }

func (r *Report) only(s Severity) []Problem {
	var out []Problem
	for _, p := range r.Problems {
		if p.Severity == s {
			out = append(out, p)
		}
	}
	return out
}

// Err returns nil if there are no errors, and otherwise an error that wraps
// ErrInvalid (and ReadError, if set) and holds every error on a line of its own.
func (r *Report) Err() error {
	errs := r.Errors()
	if len(errs) == 0 {
		return nil
	}
	lines := make([]string, len(errs))
	for i, p := range errs {
		lines[i] = p.String()
	}
	return &reportError{text: strings.Join(lines, "\n"), read: r.ReadError}
}

// reportError is the error of a whole report.
type reportError struct {
	text string
	read error
}

func (e *reportError) Error() string { return e.text }

func (e *reportError) Unwrap() []error {
	if e.read != nil {
		return []error{ErrInvalid, e.read}
	}
	return []error{ErrInvalid}
}

// Warn adds a warning about a key, for a caller that finds out more than validation does.
func (r *Report) Warn(path, format string, args ...any) {
	at := r.place(path)
	r.Problems = append(r.Problems, Problem{
		Severity: Warning, File: at.file, Line: at.line, Column: at.col, Path: path, Message: fmt.Sprintf(format, args...),
	})
	r.sort()
}

// place returns where a key path stands, or else the closest mapping around it.
func (r *Report) place(path string) position {
	for {
		if at, ok := r.at[path]; ok || path == "" {
			return at
		}
		path = parentPath(path)
	}
}

// sort brings the problems into reading order: files in the order in which they
// were read, then lines. Equal problems (an alias used twice) are kept once.
func (r *Report) sort() {
	rank := make(map[string]int, len(r.files))
	for i, f := range r.files {
		rank[f] = i
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(rank[a.File], rank[b.File]),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Severity, b.Severity),
		)
	})
	r.Problems = slices.Compact(r.Problems)
}

// ANSI sequences of WriteText.
const (
	ansiBold   = "\x1b[1m"
	ansiRed    = "\x1b[31m"
	ansiYellow = "\x1b[33m"
	ansiReset  = "\x1b[0m"
)

// WriteText writes one line for each problem and a last line with the count.
// With color it uses ANSI sequences.
func (r *Report) WriteText(w io.Writer, color bool) error {
	paint := func(style, text string) string {
		if !color || text == "" {
			return text
		}
		return style + text + ansiReset
	}
	var b strings.Builder
	for _, p := range r.Problems {
		style := ansiRed
		if p.Severity == Warning {
			style = ansiYellow
		}
		b.WriteString(paint(ansiBold, p.position()))
		b.WriteString(paint(style, p.Severity.String()+": "))
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Text() + "\n")
	}
	b.WriteString(r.summary() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// summary returns the last line of the text form.
func (r *Report) summary() string {
	count := func(n int, word string) string {
		if n == 1 {
			return "1 " + word
		}
		return fmt.Sprintf("%d %ss", n, word)
	}
	verdict := "configuration is valid"
	if len(r.Errors()) > 0 {
		verdict = "configuration is invalid"
	}
	return fmt.Sprintf("%s: %s, %s", verdict, count(len(r.Errors()), "error"), count(len(r.Warnings()), "warning"))
}

// Summary is a report for JSON.
type Summary struct {
	Valid bool `json:"valid"`
	// Errors and Warnings are counts.
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	// Problems are never null.
	Problems []Problem `json:"problems"`
}

// Summary returns the report as it is written in JSON.
func (r *Report) Summary() Summary {
	s := Summary{len(r.Errors()) == 0, len(r.Errors()), len(r.Warnings()), r.Problems}
	if s.Problems == nil {
		s.Problems = []Problem{}
	}
	return s
}
