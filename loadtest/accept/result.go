package accept

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// unsupported makes a row of a capability that is missing; another error stays one.
func unsupported(r Row, err error) ([]Row, error) {
	if !errors.Is(err, ErrUnsupported) {
		return nil, err
	}
	r.Verdict, r.Why = Unsupported, err.Error()
	return []Row{r}, nil
}

// head is the first line of every form.
func (r *Result) head() string {
	text := fmt.Sprintf("acceptance of %s on %d processors, scale %v", r.Gateway, r.Processors, r.Scale)
	if r.Rated > 0 {
		text += fmt.Sprintf(", rated load %.0f requests/s", r.Rated)
	}
	return text
}

// Counts says how many rows there are of each verdict.
func (r *Result) Counts() string {
	var counts [len(verdictNames)]int
	for _, row := range r.Rows {
		counts[row.Verdict]++
	}
	var list []string
	for v, n := range counts {
		if n > 0 {
			list = append(list, fmt.Sprintf("%d %v", n, Verdict(v)))
		}
	}
	return strings.Join(list, ", ")
}

// WriteTo writes the table for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.head())
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "%-17s  %-9s  %s\n", row.Verdict, row.Item, row.Demand)
		for _, line := range [][2]string{{"bound", row.Bound}, {"figure", row.Figure}, {"method", row.Method}, {"why", row.Why}} {
			if line[1] != "" && line[1] != "–" {
				fmt.Fprintf(&b, "%-17s  %9s  %s\n", "", line[0], line[1])
			}
		}
	}
	fmt.Fprintf(&b, "\n%s in %.0f s\n", r.Counts(), r.Seconds)
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// WriteMarkdown writes the table for a document.
func (r *Result) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s, in %.0f s: %s.\n\n", strings.ToUpper(r.head()[:1])+r.head()[1:], r.Made.Format("2006-01-02 15:04 MST"), r.Seconds, r.Counts())
	b.WriteString("| item | demand | bound | figure | verdict | method |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		verdict := row.Verdict.String()
		if row.Verdict == Failed {
			verdict = "**failed**"
		}
		if row.Why != "" {
			verdict += ": " + row.Why
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", cell(row.Item), cell(row.Demand), cell(row.Bound), cell(row.Figure), cell(verdict), cell(row.Method))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell keeps a text within its cell.
func cell(text string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text) }
