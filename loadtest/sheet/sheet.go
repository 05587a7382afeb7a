// Package sheet writes what a run showed for people: line by line, each with a label.
package sheet

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Sheet is a text of labelled lines. What is no such line goes into its buffer, which also writes it all out.
type Sheet struct {
	bytes.Buffer
	width int
}

// New returns an empty sheet whose labels have a width, behind which there is one space.
func New(width int) *Sheet { return &Sheet{width: width} }

// Line adds a line. A label of "" is for what belongs to the line above.
func (s *Sheet) Line(label, format string, args ...any) {
	fmt.Fprintf(s, "%-*s ", s.width, label)
	fmt.Fprintf(s, format+"\n", args...)
}

// End adds the first error, if there was one, and warns of what the result is worth if there is a reason why.
func (s *Sheet) End(firstError, warning, why string) {
	if firstError != "" {
		s.Line("first error", "%s", firstError)
	}
	if why != "" {
		fmt.Fprintf(s, "\nWARNING: %s: %s\n", warning, why)
	}
}

// Limited is the warning of a tool that may itself have set the result.
const Limited = "the tool was the bottleneck"

// Counts writes counts in the order of their names: "a: 1, b: 2". A name of "" is that of what has none.
func Counts[K cmp.Ordered](counts map[K]int64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s: %d", cmp.Or(fmt.Sprint(name), "none"), counts[name]))
	}
	return strings.Join(parts, ", ")
}
