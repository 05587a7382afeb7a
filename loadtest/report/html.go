package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Parse(pageText))

// pageView is the report as the page's template takes it.
type pageView struct {
	*Report
	Style    template.CSS
	Headline string
	SubjectN string // name
	Made     string
	Facts    string
	Scores   []scoreView
	Cards    []cardView
	Peers    []peerView
	Parts    []sectionView
	Method   []string
	Interval string
}

// peerView is a peer with its colour.
type peerView struct {
	Name, Class, Config, Shape string
	Subject                    bool
}

// scoreView is the verdicts against one peer; widths are shares of 100.
type scoreView struct {
	Peer                            peerView
	Score                           score
	BetterWidth, SameWidth, WorseAt float64
	WorseWidth                      float64
	Words                           string
}

// cardView is one key figure of all peers.
type cardView struct {
	Section, Name, Unit, Wish string
	Bars                      []barView
}

// barView is one bar; positions are shares of 100.
type barView struct {
	Peer                peerView
	Value               string
	Width               float64
	From, To            float64 // least and greatest round
	Spread              bool    // there are two rounds or more
	Chip                chipView
	Tip                 string
	Missing, HasVerdict bool
}

// chipView is a ratio with its verdict.
type chipView struct {
	Class  string // of the verdict's colour
	Symbol string
	Factor string
	Range  string
	Tip    string
}

// sectionView is a section with its table and plots laid out.
type sectionView struct {
	*Section
	Lines []rowView
	Views []plotView
}

// rowView is one line of a table.
type rowView struct {
	Name, Unit, Wish string
	Judged           bool
	Cells            []cellView
}

// cellView is one peer's figure.
type cellView struct {
	Median, Range string
	Chip          *chipView
}

// WriteHTML writes the report as one page that needs nothing else: no network, no script, no font.
// It follows the reader's colour scheme, and prints. Everything that the report holds is
// escaped, and a content security policy in the page forbids scripts and anything from outside.
func (r *Report) WriteHTML(w io.Writer) error {
	v := &pageView{
		Report: r, Style: template.CSS(pageStyle), Headline: r.headline(), SubjectN: r.name(r.Subject),
		Facts: r.Machine.facts(), Method: method, Interval: r.intervals(),
	}
	if !r.Made.IsZero() {
		v.Made = r.Made.UTC().Format("2 January 2006, " + time.TimeOnly[:5] + " UTC")
	}
	for i, p := range r.ordered() {
		v.Peers = append(v.Peers, peerView{r.name(p.ID), r.class(p.ID), p.Config, shapeOf(i), p.ID == r.Subject})
	}
	for _, p := range r.others() {
		v.Scores = append(v.Scores, r.scoreView(p))
	}
	for i := range r.Sections {
		s := &r.Sections[i]
		for _, row := range s.keyRows() {
			v.Cards = append(v.Cards, r.cardView(s, row))
		}
		v.Parts = append(v.Parts, r.sectionView(s))
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return fmt.Errorf("report: write HTML: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) peerView(id string) peerView {
	return peerView{Name: r.name(id), Class: r.class(id), Shape: shapeOf(r.index(id)), Subject: id == r.Subject}
}

// scoreView lays out the bar of better, no difference and worse.
func (r *Report) scoreView(p Peer) scoreView {
	s := r.score(p.ID)
	v := scoreView{Peer: r.peerView(p.ID), Score: s, Words: s.words("figures")}
	if n := float64(s.judged()); n > 0 {
		v.BetterWidth, v.SameWidth, v.WorseWidth = 100*float64(s.Better)/n, 100*float64(s.Same)/n, 100*float64(s.Worse)/n
		v.WorseAt = v.BetterWidth + v.SameWidth
	}
	return v
}

// cardView lays out the bars of one figure, which all begin with 0.
func (r *Report) cardView(s *Section, row *Row) cardView {
	v := cardView{Section: s.Title, Name: row.Name, Unit: row.Unit, Wish: row.wish()}
	greatest := 0.0
	for _, values := range row.Rounds {
		if spread := SpreadOf(values); spread.Rounds > 0 {
			greatest = max(greatest, spread.Max)
		}
	}
	share := func(value float64) float64 {
		if greatest <= 0 || math.IsNaN(value) {
			return 0
		}
		return math.Round(1000*(max(value, 0)/greatest)) / 10
	}
	for _, p := range r.ordered() {
		spread := SpreadOf(row.Rounds[p.ID])
		bar := barView{
			Peer: r.peerView(p.ID), Value: number(spread.Median, row.decimals()), Missing: spread.Rounds == 0,
			Width: share(spread.Median), From: share(spread.Min), To: share(spread.Max), Spread: spread.Rounds > 1,
		}
		bar.Tip = strings.TrimSpace(fmt.Sprintf("%s: %s %s", bar.Peer.Name, bar.Value, row.Unit))
		if between := spread.between(row.decimals()); between != "" {
			bar.Tip += fmt.Sprintf(" (%s in %s)", between, rounds(spread.Rounds))
		}
		if p.ID != r.Subject && !bar.Missing {
			bar.Chip, bar.HasVerdict = r.chip(row, p.ID), true
		}
		v.Bars = append(v.Bars, bar)
	}
	return v
}

// chip is the subject against one peer in one row.
func (r *Report) chip(row *Row, peer string) chipView {
	c := row.Compare(r.Subject, peer)
	v := chipView{Class: "same", Symbol: "≈", Factor: factor(c.Ratio.Median) + "×", Tip: c.Text(r.name(peer))}
	switch {
	case c.Ratio.equal():
		v.Symbol, v.Factor = "=", "equal"
	case c.Ratio.Rounds > 1:
		v.Range = factor(c.Ratio.Low) + "–" + factor(c.Ratio.High)
	}
	switch c.Verdict {
	case Better:
		v.Class, v.Symbol = "better", "▲"
	case Worse:
		v.Class, v.Symbol = "worse", "▼"
	case NotJudged, TooFewRounds:
		v.Class, v.Symbol = "open", ""
	case NotMeasured:
		v.Class, v.Symbol, v.Factor = "open", "", none
	}
	return v
}

// sectionView lays out a section.
func (r *Report) sectionView(s *Section) sectionView {
	v := sectionView{Section: s}
	for i := range s.Rows {
		row := &s.Rows[i]
		line := rowView{Name: row.Name, Unit: row.Unit, Wish: row.wish(), Judged: row.Judged}
		for _, p := range r.ordered() {
			spread := SpreadOf(row.Rounds[p.ID])
			c := cellView{Median: number(spread.Median, row.decimals()), Range: spread.between(row.decimals())}
			if p.ID != r.Subject && spread.Rounds > 0 {
				chip := r.chip(row, p.ID)
				c.Chip = &chip
			}
			line.Cells = append(line.Cells, c)
		}
		v.Lines = append(v.Lines, line)
	}
	for i := range s.Plots {
		v.Views = append(v.Views, r.view(&s.Plots[i]))
	}
	return v
}
