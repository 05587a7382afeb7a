package compare

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"tickgate/loadtest/report"
)

// The lines of a document between which its generated part stands.
const (
	documentBegin = "<!-- tickload compare: begin -->"
	documentEnd   = "<!-- tickload compare: end -->"
)

// ErrDocument is returned for a document without a place for the report.
var ErrDocument = errors.New("compare: no place for the report")

// Document returns a Markdown document with the report in place of what is between its marker lines, with
// headings one level down.
func Document(text string, r *report.Report) (string, error) {
	before, rest, begins := strings.Cut(text, documentBegin+"\n")
	_, after, ends := strings.Cut(rest, documentEnd+"\n")
	if !begins || !ends {
		return "", fmt.Errorf("%w: want the lines %q and %q", ErrDocument, documentBegin, documentEnd)
	}
	var b bytes.Buffer
	if err := r.WriteMarkdown(&b); err != nil {
		return "", err
	}
	return before + documentBegin + "\n\n" + demoted(b.String()) + "\n" + documentEnd + "\n" + after, nil
}

// demoted puts headings one level down.
func demoted(markdown string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(markdown) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if !fenced && strings.HasPrefix(line, "#") {
			line = "#" + line
		}
		b.WriteString(line)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
