package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The colours of the verdicts, and of what is said aside.
const (
	ansiBetter = "\x1b[32m"
	ansiWorse  = "\x1b[31m"
	ansiAside  = "\x1b[2m"
	ansiTitle  = "\x1b[1m"
	ansiEnd    = "\x1b[0m"
)

// cell is one cell of a table on the terminal.
type cell struct {
	text   string
	colour string // "" is none
	left   bool   // aligned
}

// textWriter writes tables in columns of characters.
type textWriter struct {
	bytes.Buffer
	colour bool
	width  int
}

// WriteText writes the report as tables for a terminal of width columns: one line for each figure
// where that fits, else one for each figure and peer, without the range if need be. Width 0 is without bounds. colour
// marks verdicts with escape sequences of ANSI terminals.
func (r *Report) WriteText(w io.Writer, colour bool, width int) error {
	t := &textWriter{colour: colour, width: width}
	if t.width <= 0 {
		t.width = math.MaxInt
	}
	t.line(cell{text: r.Title, colour: ansiTitle})
	t.wrap("", r.headline())
	for i := range r.Sections {
		s := &r.Sections[i]
		t.line()
		t.line(cell{text: s.Title, colour: ansiTitle})
		t.wrap("", s.About)
		t.line()
		t.table(t.fitting(r.wideTable(s), r.tallTable(s), withoutColumn(r.tallTable(s), rangeColumn)))
	}
	t.ending(r)
	_, err := w.Write(t.Bytes())
	return err
}

// wideTable has a line for each figure; peers but the subject have their ratio beside it.
func (r *Report) wideTable(s *Section) [][]cell {
	head := []cell{{text: "median", left: true}}
	for _, p := range r.ordered() {
		head = append(head, cell{text: r.name(p.ID)})
		if p.ID != r.Subject {
			head = append(head, cell{text: r.name(r.Subject) + " / it", left: true}, cell{left: true})
		}
	}
	lines := [][]cell{head}
	for i := range s.Rows {
		row := &s.Rows[i]
		line := []cell{{text: row.label(), left: true}}
		for _, p := range r.ordered() {
			line = append(line, cell{text: number(SpreadOf(row.Rounds[p.ID]).Median, row.decimals())})
			if p.ID != r.Subject {
				line = append(line, ratioCells(row.Compare(r.Subject, p.ID))...)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// rangeColumn is where tallTable has the least and the greatest figure.
const rangeColumn = 2

// tallTable has a line for each figure, and one for each peer below it.
func (r *Report) tallTable(s *Section) [][]cell {
	lines := [][]cell{{{}, {text: "median"}, {text: "min–max"}, {text: "ratio", left: true}, {left: true}}}
	for i := range s.Rows {
		row := &s.Rows[i]
		lines = append(lines, []cell{{text: row.label(), left: true}})
		for _, p := range r.ordered() {
			spread := SpreadOf(row.Rounds[p.ID])
			line := []cell{
				{text: "  " + r.name(p.ID), left: true},
				{text: number(spread.Median, row.decimals())},
				{text: spread.between(row.decimals()), colour: ansiAside},
			}
			if p.ID != r.Subject {
				line = append(line, ratioCells(row.Compare(r.Subject, p.ID))...)
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// ratioCells are a comparison's ratio and verdict.
func ratioCells(c Comparison) []cell {
	switch {
	case c.Verdict == NotMeasured:
		return []cell{{text: c.Verdict.String(), colour: ansiAside, left: true}, {left: true}}
	case c.Ratio.equal():
		return []cell{{text: "equal", colour: ansiAside, left: true}, {left: true}}
	}
	ratio := cell{text: c.Ratio.text(), left: true}
	verdict := cell{text: c.Verdict.String(), left: true}
	switch c.Verdict {
	case Better:
		verdict.colour = ansiBetter
	case Worse:
		verdict.colour = ansiWorse
	default:
		verdict.colour = ansiAside
	}
	return []cell{ratio, verdict}
}

// gap is between two columns.
const gap = "  "

// widths returns how wide each column must be. A line of one cell is a heading, and as long as
// it is.
func widths(lines [][]cell) []int {
	var widest []int
	for _, line := range lines {
		for i, c := range line {
			if i == len(widest) {
				widest = append(widest, 0)
			}
			if len(line) > 1 {
				widest[i] = max(widest[i], utf8.RuneCountInString(printable(c.text)))
			}
		}
	}
	return widest
}

// fitting returns the first table that is no wider than the terminal, or the last.
func (t *textWriter) fitting(tables ...[][]cell) [][]cell {
	for _, lines := range tables[:len(tables)-1] {
		if t.fits(lines) {
			return lines
		}
	}
	return tables[len(tables)-1]
}

// withoutColumn drops a column of a table.
func withoutColumn(lines [][]cell, column int) [][]cell {
	for i, line := range lines {
		if len(line) > column {
			lines[i] = slices.Delete(line, column, column+1)
		}
	}
	return lines
}

// fits says whether a table is no wider than the terminal.
func (t *textWriter) fits(lines [][]cell) bool {
	total := 0
	for _, w := range widths(lines) {
		total += w + len(gap)
	}
	return total-len(gap) <= t.width
}

// table writes lines in aligned columns.
func (t *textWriter) table(lines [][]cell) {
	widest := widths(lines)
	for _, line := range lines {
		padded := make([]cell, len(line))
		for i, c := range line {
			c.text = printable(c.text)
			padding := strings.Repeat(" ", max(widest[i]-utf8.RuneCountInString(c.text), 0))
			if c.left {
				c.text += padding
			} else {
				c.text = padding + c.text
			}
			padded[i] = c
		}
		t.line(padded...)
	}
}

// line writes cells side by side, without blanks at the end.
func (t *textWriter) line(cells ...cell) {
	end := len(cells)
	for end > 0 && strings.TrimSpace(cells[end-1].text) == "" {
		end--
	}
	for i, c := range cells[:end] {
		text := printable(c.text)
		if i == end-1 {
			text = strings.TrimRight(text, " ")
		}
		if t.colour && c.colour != "" && text != "" {
			text = c.colour + text + ansiEnd
		}
		if i > 0 {
			t.WriteString(gap)
		}
		t.WriteString(text)
	}
	t.WriteByte('\n')
}

// longestLine is where prose is broken on a terminal that is wider.
const longestLine = 100

// wrap writes prose; lines after the first are indented like the text behind bullet.
func (t *textWriter) wrap(bullet, text string) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return
	}
	limit, line := min(t.width, longestLine), bullet+words[0]
	for _, word := range words[1:] {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > limit {
			t.line(cell{text: line})
			line = strings.Repeat(" ", utf8.RuneCountInString(bullet)) + word
			continue
		}
		line += " " + word
	}
	t.line(cell{text: line})
}

// ending writes what a reader must know besides the figures.
func (t *textWriter) ending(r *Report) {
	if len(r.Notes) > 0 {
		t.line()
		t.line(cell{text: "Notes", colour: ansiTitle})
	}
	for _, note := range r.Notes {
		t.wrap("* ", note)
	}
	t.line()
	t.wrap("", fmt.Sprintf("Ratios are %s divided by the peer, round by round; in brackets %s.", r.name(r.Subject), r.intervals()))
	if facts := r.Machine.facts(); facts != "" {
		t.wrap("", "Machine: "+facts+".")
	}
	if !r.Made.IsZero() {
		t.wrap("", "Made "+r.Made.UTC().Format(time.DateTime)+" UTC.")
	}
	if r.Command != "" {
		t.line(cell{text: "Again: " + r.Command})
	}
}

// intervals says what the intervals of this report are, by its comparison of most rounds.
func (r *Report) intervals() string {
	var most Ratio
	for _, s := range r.Sections {
		for i := range s.Rows {
			for _, p := range r.others() {
				if c := s.Rows[i].Compare(r.Subject, p.ID); c.Ratio.Rounds > most.Rounds {
					most = c.Ratio
				}
			}
		}
	}
	return "the " + most.Interval()
}

// printable replaces what could steer a terminal.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return ' '
		}
		return c
	}, text)
}
