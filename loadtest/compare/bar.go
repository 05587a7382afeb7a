package compare

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"tickgate/loadtest/report"
)

// ErrBar is returned for a bar that cannot be read.
var ErrBar = errors.New("compare: bad bar")

// Bar is what a figure of the first contender must come to: as in "tls/CPU per full handshake<=1.0*nginx", the median
// of its ratios to a peer's, or as in "tls/full handshake p99 at half speed<=3", the median of its own rounds in the
// figure's unit.
type Bar struct {
	Text             string
	Scenario, Figure string
	Most             float64
	Peer             string // "" for a bound of the figure itself
}

// ParseBar reads a bar.
func ParseBar(text string) (Bar, error) {
	what, bound, ok := strings.Cut(text, "<=")
	id, name, named := strings.Cut(what, "/")
	most, peer, _ := strings.Cut(bound, "*")
	b := Bar{Text: text, Scenario: strings.TrimSpace(id), Figure: strings.TrimSpace(name), Peer: strings.TrimSpace(peer)}
	var err error
	b.Most, err = strconv.ParseFloat(strings.TrimSpace(most), 64)
	if !ok || !named || err != nil || b.Figure == "" || !(b.Most > 0) {
		return Bar{}, fmt.Errorf("%w: %q (want SCENARIO/FIGURE<=NUMBER or SCENARIO/FIGURE<=NUMBER*PEER)", ErrBar, text)
	}
	s := scenarioOf(b.Scenario)
	if s == nil || !slices.ContainsFunc(s.figures, func(f figure) bool { return f.name == b.Figure }) {
		return Bar{}, fmt.Errorf("%w: %q: no figure %q of a scenario %q", ErrBar, text, b.Figure, b.Scenario)
	}
	return b, nil
}

// Judge returns what was found in a report, for people, and whether it is within the bar. What was not measured is not.
func (b Bar) Judge(r *report.Report) (found string, ok bool) {
	rounds := b.rounds(r)
	if b.Peer == "" {
		s := report.SpreadOf(rounds[r.Subject])
		return fmt.Sprintf("%.2f (%.2f–%.2f) in %d rounds", s.Median, s.Min, s.Max, s.Rounds), s.Median <= b.Most
	}
	ratio := report.RatioOf(rounds[r.Subject], rounds[b.Peer])
	if math.IsNaN(ratio.Median) {
		return "not measured", false
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f) in %d rounds", ratio.Median, ratio.Low, ratio.High, ratio.Rounds), ratio.Median <= b.Most
}

// rounds returns the figure's, by peer.
func (b Bar) rounds(r *report.Report) map[string][]float64 {
	for _, s := range r.Sections {
		for _, row := range s.Rows {
			if s.ID == b.Scenario && row.Name == b.Figure {
				return row.Rounds
			}
		}
	}
	return nil
}
