package report

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// small is a report of one figure, the same for two peers.
func small() *Report {
	return &Report{
		Title: "small", Subject: "a", Peers: []Peer{{ID: "a", Name: "A"}, {ID: "b", Name: "B"}},
		Sections: []Section{{ID: "s", Title: "section", Rows: []Row{{
			Name: "figure", Judged: true, Rounds: map[string][]float64{"a": {1, 2, 3}, "b": {1, 2, 3}},
		}}}},
	}
}

// text returns a report as text.
func text(t *testing.T, r *Report, colour bool, width int) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b, colour, width); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextFitsTheTerminal(t *testing.T) {
	r := readSample(t)
	for _, width := range []int{80, 100, 120, 200} {
		for line := range strings.Lines(text(t, r, false, width)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%d columns in %d: %q", n, width, line)
			}
			if strings.TrimRight(line, " \n")+"\n" != line {
				t.Errorf("blanks at the end of %q", line)
			}
		}
	}
}

func TestTextOfAnyWidth(t *testing.T) {
	r := readSample(t)
	for _, width := range []int{-1, 1, 10} {
		if got := text(t, r, false, width); !strings.Contains(got, "0.29x (0.27–0.30)") {
			t.Errorf("width %d: %q", width, got)
		}
	}
}

func TestColourOnlyWhereWanted(t *testing.T) {
	r := readSample(t)
	plain, coloured := text(t, r, false, 80), text(t, r, true, 80)
	if strings.Contains(plain, "\x1b") {
		t.Error("escape sequences in plain text")
	}
	if !strings.Contains(coloured, ansiBetter+"better"+ansiEnd) || !strings.Contains(coloured, ansiWorse+"worse"+ansiEnd) {
		t.Error("verdicts have no colour")
	}
	if got := strings.NewReplacer(ansiBetter, "", ansiWorse, "", ansiAside, "", ansiTitle, "", ansiEnd, "").Replace(coloured); got != plain {
		t.Errorf("colours change the text: %q", got)
	}
}

// A report from elsewhere cannot steer the terminal.
func TestTextIsInert(t *testing.T) {
	r := small()
	for _, p := range []*string{&r.Title, &r.Command, &r.Peers[1].Name, &r.Sections[0].Title, &r.Sections[0].About, &r.Sections[0].Rows[0].Name, &r.Sections[0].Rows[0].Unit} {
		*p = "x\x1b[2J\r\u009b1A\x07\n\xff"
	}
	r.Notes = []string{"\x1b]0;title\x07"}
	for _, width := range []int{0, 20} {
		if got := text(t, r, false, width); strings.ContainsAny(got, "\x1b\r\u009b\x07") || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	}
}

func TestNoTerminalIsPlain(t *testing.T) {
	r := readSample(t)
	var b bytes.Buffer
	if err := r.WriteTerminal(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != text(t, r, false, 0) {
		t.Errorf("%q", b.String())
	}
}

func TestHeadline(t *testing.T) {
	f := func(change func(*Report), want string) {
		t.Helper()
		r := small()
		change(r)
		if got := r.headline(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	row := func(r *Report) *Row { return &r.Sections[0].Rows[0] }
	f(func(*Report) {}, "A against B: better in 0 of 1 comparisons, worse in 0, no difference that 3 rounds can show in 1.")
	f(func(r *Report) { row(r).Rounds["a"] = []float64{0.5, 0.6, 0.7} }, "A against B: better in 1 of 1 comparisons, worse in 0, no difference that 3 rounds can show in 0.")
	f(func(r *Report) { row(r).Rounds["a"] = []float64{1} }, "1 round can show no difference between A and the others: a verdict needs at least 3.")
	f(func(r *Report) { row(r).Judged = false }, "Nothing was measured that A could be judged by.")
	f(func(r *Report) { r.Sections = nil }, "Nothing was measured that A could be judged by.")
	f(func(r *Report) { *r = Report{} }, "Nothing was measured that the subject could be judged by.")
}

func TestKeyRows(t *testing.T) {
	f := func(want string, rows ...Row) {
		t.Helper()
		var got []string
		for _, row := range (&Section{Rows: rows}).keyRows() {
			got = append(got, row.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f("")
	f("", Row{Name: "shown"})
	f("a", Row{Name: "shown"}, Row{Name: "a", Judged: true}, Row{Name: "b", Judged: true})
	f("b c", Row{Name: "a", Judged: true}, Row{Name: "b", Judged: true, Key: true}, Row{Name: "c", Key: true})
}

func TestMarkdownIsInert(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := mdText(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	f("p99.9, ms", "p99.9, ms")
	f("a|b\nc", `a\|b c`)
	f("<script>&", "&lt;script&gt;&amp;")
	f("[x](http://a) `b` *c* _d_ \\", "\\[x\\](http://a) \\`b\\` \\*c\\* \\_d\\_ \\\\")
	f("# no title", `\# no title`)
	f("- no list", `\- no list`)
	if got, want := mdCode("a\n```\nb"), "````\na\n```\nb\n````"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
