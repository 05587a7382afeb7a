package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// others are the peers that the subject is held against, in their order.
func (r *Report) others() []Peer {
	return slices.DeleteFunc(slices.Clone(r.Peers), func(p Peer) bool { return p.ID == r.Subject })
}

// ordered is the peers with the subject first.
func (r *Report) ordered() []Peer {
	i := slices.IndexFunc(r.Peers, func(p Peer) bool { return p.ID == r.Subject })
	if i < 0 {
		return r.Peers
	}
	return append([]Peer{r.Peers[i]}, r.others()...)
}

// name is what a peer is called; its ID if it is none of the report's.
func (r *Report) name(id string) string {
	for _, p := range r.Peers {
		if p.ID == id && p.Name != "" {
			return p.Name
		}
	}
	return id
}

// score counts the verdicts against one peer, or all of them.
type score struct {
	Better, Worse, Same, Short int // Short is too few rounds
	Rounds                     int // most that a comparison had
	// Losses are the rows in which the subject is worse, in words, section by section.
	Losses []string
}

// score holds the subject against one peer, over all rows.
func (r *Report) score(peer string) score {
	var s score
	for i := range r.Sections {
		section := &r.Sections[i]
		var losses []string
		for j := range section.Rows {
			row := &section.Rows[j]
			c := row.Compare(r.Subject, peer)
			s.count(c)
			if c.Verdict == Worse {
				losses = append(losses, row.Name+" "+factor(c.Ratio.Median)+"×")
			}
		}
		if losses != nil {
			s.Losses = append(s.Losses, section.Title+": "+strings.Join(losses, ", "))
		}
	}
	return s
}

func (s *score) count(c Comparison) {
	switch c.Verdict {
	case Better:
		s.Better++
	case Worse:
		s.Worse++
	case NoDifference:
		s.Same++
	case TooFewRounds:
		s.Short++
	default:
		return
	}
	s.Rounds = max(s.Rounds, c.Ratio.Rounds)
}

// judged is the number of comparisons with a verdict.
func (s score) judged() int { return s.Better + s.Worse + s.Same }

// words says the score, as in "better in 7 of 12 figures, worse in 3, …"; what names what is
// counted.
func (s score) words(what string) string {
	if s.judged() == 0 {
		return "nothing to judge"
	}
	parts := []string{
		fmt.Sprintf("better in %d of %d %s", s.Better, s.judged(), what),
		fmt.Sprintf("worse in %d", s.Worse),
		fmt.Sprintf("no difference that %s can show in %d", rounds(s.Rounds), s.Same),
	}
	return strings.Join(parts, ", ")
}

// headline is what all comparisons say together.
func (r *Report) headline() string {
	var all score
	for _, p := range r.others() {
		s := r.score(p.ID)
		all.Better, all.Worse, all.Same, all.Short = all.Better+s.Better, all.Worse+s.Worse, all.Same+s.Same, all.Short+s.Short
		all.Rounds = max(all.Rounds, s.Rounds)
	}
	subject := cmp.Or(r.name(r.Subject), "the subject")
	switch {
	case all.judged() > 0:
		return fmt.Sprintf("%s against %s: %s.", subject, listed(names(r.others())), all.words("comparisons"))
	case all.Short > 0:
		return fmt.Sprintf("%s can show no difference between %s and the others: a verdict needs at least %d.", rounds(all.Rounds), subject, fewestRounds)
	default:
		return fmt.Sprintf("Nothing was measured that %s could be judged by.", subject)
	}
}

func names(peers []Peer) []string {
	var list []string
	for _, p := range peers {
		list = append(list, cmp.Or(p.Name, p.ID))
	}
	return list
}

// listed joins with commas, and an "and" before the last.
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// keyRows are the figures of a section that stand on top of a report: see Row.Key.
func (s *Section) keyRows() []*Row {
	var keys []*Row
	var first *Row
	for i := range s.Rows {
		row := &s.Rows[i]
		if row.Key {
			keys = append(keys, row)
		}
		if row.Judged && first == nil {
			first = row
		}
	}
	if keys == nil && first != nil {
		keys = []*Row{first}
	}
	return keys
}

// wish says which way is better.
func (r *Row) wish() string {
	if r.Higher {
		return "more is better"
	}
	return "less is better"
}

// label is the row's name with its unit.
func (r *Row) label() string {
	if r.Unit == "" {
		return r.Name
	}
	return r.Name + ", " + r.Unit
}

// decimals is how many all figures of the row are written with.
func (r *Row) decimals() int {
	var medians []float64
	for _, values := range r.Rounds {
		medians = append(medians, SpreadOf(values).Median)
	}
	return decimalsFor(medians)
}

// between writes the least and the greatest figure; "" where they are one.
func (s Spread) between(decimals int) string {
	if s.Rounds == 0 || s.Min == s.Max {
		return ""
	}
	return number(s.Min, decimals) + "–" + number(s.Max, decimals)
}

// facts describes the machine in one line, without what is not known.
func (m Machine) facts() string {
	var parts []string
	add := func(known bool, format string, args ...any) {
		if known {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(m.Processors > 0, "%d processors", m.Processors)
	add(m.CPU != "", "%s", m.CPU)
	add(m.MemoryMiB > 0, "%.0f GiB", float64(m.MemoryMiB)/1024)
	add(m.Kernel != "", "%s", m.Kernel)
	add(m.Go != "", "%s", m.Go)
	return strings.Join(parts, ", ")
}

// method says how the figures were made, for every form of the report.
var method = []string{
	"Every round measures the peers one after the other on the same settings. A figure is the median of its rounds, with the least and the greatest beside it.",
	"A ratio is the subject's figure divided by the peer's, round by round, and the median of these: what slowed a whole round slowed both. Its interval is the " +
		"distribution-free one for a median (sign test): with six rounds or more it covers the true median with 95 % or more; with fewer it is the least and the greatest ratio, which is less " +
		"sure (94 % with five rounds, 75 % with three), if rounds are independent.",
	fmt.Sprintf("Better and worse are said where the interval leaves out 1 and the median is at least %.0f %% from 1; else there is no difference that so many rounds can show. "+
		"Fewer than %d rounds get no verdict. Each comparison is judged by itself: among many, some will differ by chance.", 100*Margin, fewestRounds),
}
