package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteMarkdown writes the report for a document: a table of figures and one of ratios for each
// section, and what they were made on. Plots and configurations are in the page only.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n\n%s\n", mdText(r.Title), mdText(r.headline()))
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "\n> %s\n", mdText(note))
	}
	for i := range r.Sections {
		s := &r.Sections[i]
		fmt.Fprintf(&b, "\n## %s\n", mdText(s.Title))
		if s.About != "" {
			fmt.Fprintf(&b, "\n%s\n", mdText(s.About))
		}
		if len(s.Rows) > 0 {
			r.mdFigures(&b, s)
			r.mdRatios(&b, s)
		}
	}
	r.mdMethod(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// mdFigures writes the table of medians.
func (r *Report) mdFigures(b *bytes.Buffer, s *Section) {
	head := []string{"median (min–max)"}
	for _, p := range r.ordered() {
		head = append(head, r.name(p.ID))
	}
	mdHead(b, head)
	for i := range s.Rows {
		row := &s.Rows[i]
		line := []string{row.label()}
		for _, p := range r.ordered() {
			spread := SpreadOf(row.Rounds[p.ID])
			text := number(spread.Median, row.decimals())
			if between := spread.between(row.decimals()); between != "" {
				text += " (" + between + ")"
			}
			line = append(line, text)
		}
		mdLine(b, line)
	}
}

// mdRatios writes the table of ratios and verdicts.
func (r *Report) mdRatios(b *bytes.Buffer, s *Section) {
	if len(r.others()) == 0 {
		return
	}
	head := []string{r.name(r.Subject) + " is"}
	for _, p := range r.others() {
		head = append(head, "× "+r.name(p.ID))
	}
	mdHead(b, head)
	for i := range s.Rows {
		row := &s.Rows[i]
		line := []string{row.Name + " (" + row.wish() + ")"}
		for _, p := range r.others() {
			line = append(line, mdRatio(row.Compare(r.Subject, p.ID)))
		}
		mdLine(b, line)
	}
}

// mdRatio writes one comparison.
func mdRatio(c Comparison) string {
	switch {
	case c.Verdict == NotMeasured:
		return c.Verdict.String()
	case c.Ratio.equal():
		return "equal"
	}
	return fmt.Sprintf("%s %s %s", factor(c.Ratio.Median), c.Ratio.between(), c.Verdict)
}

// mdMethod writes how the figures were made.
func (r *Report) mdMethod(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## How the figures were made\n")
	if r.Command != "" {
		fmt.Fprintf(b, "\n%s\n", mdCode(r.Command))
	}
	if facts := r.Machine.facts(); facts != "" {
		fmt.Fprintf(b, "\nMachine: %s.\n", mdText(facts))
	}
	if !r.Made.IsZero() {
		fmt.Fprintf(b, "\nMade %s UTC.\n", r.Made.UTC().Format(time.DateTime))
	}
	if len(r.Settings) > 0 {
		b.WriteString("\n| setting | |\n|---|---|\n")
	}
	for _, s := range r.Settings {
		mdLine(b, []string{s.Name, s.Value})
	}
	for _, paragraph := range method {
		fmt.Fprintf(b, "\n%s\n", mdText(paragraph))
	}
}

// mdHead begins a table whose columns but the first are aligned to the right.
func mdHead(b *bytes.Buffer, head []string) {
	b.WriteByte('\n')
	mdLine(b, head)
	b.WriteString("|---" + strings.Repeat("|---:", len(head)-1) + "|\n")
}

func mdLine(b *bytes.Buffer, cells []string) {
	for _, c := range cells {
		b.WriteString("| " + mdText(c) + " ")
	}
	b.WriteString("|\n")
}

// mdSpecial is escaped wherever it stands. A dash or a plus only means something at the start of
// a line, where none of ours is.
var mdSpecial = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "|", `\|`, "~", `\~`,
	"&", "&amp;", "<", "&lt;", ">", "&gt;")

// mdText makes a text inert, and one line.
func mdText(text string) string {
	text = mdSpecial.Replace(strings.Join(strings.Fields(printable(text)), " "))
	if strings.HasPrefix(text, "#") || strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		return `\` + text
	}
	return text
}

// mdCode makes a block that no run of backticks within can end.
func mdCode(text string) string {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + "\n" + strings.TrimRight(text, "\n") + "\n" + fence
}
