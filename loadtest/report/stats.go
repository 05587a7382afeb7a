package report

import (
	"fmt"
	"math"
	"slices"
)

const (
	// Margin is how far from 1 a ratio must be to matter to anybody, however sure it is.
	Margin = 0.02
	// fewestRounds is from where on there is a verdict: two rounds agree by chance in every
	// second comparison of equal peers.
	fewestRounds = 3
	// level is the least chance with which an interval covers the median, where the rounds
	// are enough for that.
	level = 0.95
)

// Spread is what the rounds of one peer say of one figure.
type Spread struct {
	Median, Min, Max float64 // NaN if there is no round
	Rounds           int     // with a figure
}

// SpreadOf sums up one peer's rounds. Those that are NaN or infinite do not count.
func SpreadOf(rounds []float64) Spread {
	sorted := slices.DeleteFunc(slices.Clone(rounds), func(v float64) bool { return !finite(v) })
	if len(sorted) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN(), 0}
	}
	slices.Sort(sorted)
	return Spread{median(sorted), sorted[0], sorted[len(sorted)-1], len(sorted)}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// median returns the middle of sorted values, of which there is at least one.
func median(sorted []float64) float64 {
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return sorted[middle-1] + (sorted[middle]-sorted[middle-1])/2
}

// Ratio is the subject's figure divided by a peer's, from rounds in which both were measured,
// and how sure it is. +Inf is a peer's 0.
type Ratio struct {
	Median, Low, High float64 // NaN if there is no pair
	// Level is the chance (0 to 1) that Low to High covers the true median, if rounds are
	// independent and alike.
	Level  float64
	Rounds int // pairs
}

// RatioOf divides round by round: what made a whole round slow weighs on both peers of a
// pair, and goes out. Pairs in which one is missing, NaN, infinite or negative are left out;
// 0 of both is a ratio of 1.
//
// The interval is the distribution-free one of the sign test, between two of the sorted
// ratios: the narrowest such pair that covers the median with 95 % (W. J. Conover, Practical
// Nonparametric Statistics, 3rd edition, section 3.2; J.-Y. Le Boudec, Performance
// Evaluation of Computer and Communication Systems, section 2.2, with tables). Fewer than six
// rounds cannot have 95 %; then it is from the least to the greatest, and Level says how
// little that is: 94 % of five rounds, 75 % of three.
func RatioOf(subject, peer []float64) Ratio {
	var ratios []float64
	for i := range min(len(subject), len(peer)) {
		if s, p := subject[i], peer[i]; finite(s) && finite(p) && s >= 0 && p >= 0 {
			ratios = append(ratios, divide(s, p))
		}
	}
	n := len(ratios)
	if n == 0 {
		return Ratio{math.NaN(), math.NaN(), math.NaN(), 0, 0}
	}
	slices.Sort(ratios)
	cut, covered := cutOf(n)
	return Ratio{middleRatio(ratios), ratios[cut], ratios[n-1-cut], covered, n}
}

// divide returns s/p where neither is negative.
func divide(s, p float64) float64 {
	if s == p {
		return 1
	}
	return s / p
}

// middleRatio is the median of sorted ratios, the last of which may be infinite.
func middleRatio(sorted []float64) float64 {
	if m := median(sorted); !math.IsNaN(m) {
		return m
	}
	return math.Inf(1) // the middle two are both infinite
}

// cutOf returns how many of n sorted values may be left out at either end so that the rest
// still spans the true median with the wanted level, and the level that it then has:
// 1 - 2 P(B <= cut), B binomial of n and one half.
func cutOf(n int) (cut int, covered float64) {
	tail := binomialHalf(n, 0)
	covered = 1 - 2*tail
	for next := 1; next < (n+1)/2; next++ {
		tail += binomialHalf(n, next)
		if 1-2*tail < level {
			break
		}
		cut, covered = next, 1-2*tail
	}
	return cut, covered
}

// binomialHalf is the chance of k heads in n throws of a coin; by logarithms, since 2^-n is 0
// from n = 1075 on.
func binomialHalf(n, k int) float64 {
	factorial := func(i int) float64 { v, _ := math.Lgamma(float64(i + 1)); return v }
	return math.Exp(factorial(n) - factorial(k) - factorial(n-k) - float64(n)*math.Ln2)
}

// Interval says what Low and High are.
func (r Ratio) Interval() string {
	if r.Level < level {
		return fmt.Sprintf("min–max of %s, which covers the median with %.0f %%", rounds(r.Rounds), 100*r.Level)
	}
	return fmt.Sprintf("%.0f %% interval of the median of %s", math.Floor(100*r.Level), rounds(r.Rounds))
}

// rounds writes a number of rounds.
func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// Verdict is what may be said of the subject against one peer.
type Verdict int

// The verdicts.
const (
	NotMeasured  Verdict = iota // no round in which both were
	NotJudged                   // the row is only shown
	TooFewRounds                // nothing can be said from one or two
	NoDifference                // the interval includes 1, or the ratio is within Margin of it
	Better
	Worse
)

// String returns the verdict as reports write it.
func (v Verdict) String() string {
	switch v {
	case NotJudged:
		return "not judged"
	case TooFewRounds:
		return "too few rounds"
	case NoDifference:
		return "no difference"
	case Better:
		return "better"
	case Worse:
		return "worse"
	default:
		return "not measured"
	}
}

// Comparison is the subject held against one peer in one row.
type Comparison struct {
	Ratio   Ratio
	Verdict Verdict
}

// Compare holds the subject against a peer, both by ID.
func (r *Row) Compare(subject, peer string) Comparison {
	ratio := RatioOf(r.Rounds[subject], r.Rounds[peer])
	return Comparison{ratio, r.verdict(ratio)}
}

// verdict decides what a ratio says in this row.
func (r *Row) verdict(ratio Ratio) Verdict {
	switch {
	case ratio.Rounds == 0:
		return NotMeasured
	case !r.Judged:
		return NotJudged
	case ratio.Rounds < fewestRounds:
		return TooFewRounds
	case !ratio.sure(), math.Abs(ratio.Median-1) < Margin:
		return NoDifference
	case (ratio.Median > 1) == r.Higher:
		return Better
	default:
		return Worse
	}
}

// sure says whether the interval leaves 1 out.
func (r Ratio) sure() bool { return r.Low > 1 || r.High < 1 }

// Text says the comparison in words, as in "0.71x of nginx's (0.66–0.74): better".
func (c Comparison) Text(peer string) string {
	if c.Verdict == NotMeasured {
		return "not measured together with " + peer
	}
	text := fmt.Sprintf("%sx of %s's %s", factor(c.Ratio.Median), peer, c.Ratio.between())
	switch {
	case c.Verdict == NotJudged:
		return text
	case c.Verdict == TooFewRounds:
		return fmt.Sprintf("%s: %s can show nothing", text, rounds(c.Ratio.Rounds))
	case c.Verdict == NoDifference && c.Ratio.sure():
		return fmt.Sprintf("%s: no difference that matters (under %.0f %%)", text, 100*Margin)
	case c.Verdict == NoDifference:
		return fmt.Sprintf("%s: no difference that %s can show", text, rounds(c.Ratio.Rounds))
	default:
		return fmt.Sprintf("%s: %s", text, c.Verdict)
	}
}

// text writes the ratio with its interval.
func (r Ratio) text() string { return factor(r.Median) + "x " + r.between() }

// equal says whether every round had the same figure for both.
func (r Ratio) equal() bool { return r.Low == 1 && r.High == 1 }

// between writes the interval.
func (r Ratio) between() string { return fmt.Sprintf("(%s–%s)", factor(r.Low), factor(r.High)) }
