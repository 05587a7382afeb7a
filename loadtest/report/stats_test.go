package report

import (
	"math"
	"testing"
)

var (
	nan = math.NaN()
	inf = math.Inf(1)
)

// same compares figures; NaN is NaN.
func same(got, want float64) bool {
	return got == want || math.IsNaN(got) && math.IsNaN(want) || math.Abs(got-want) < 1e-9
}

func TestSpread(t *testing.T) {
	f := func(rounds []float64, median, least, greatest float64, n int) {
		t.Helper()
		got := SpreadOf(rounds)
		if !same(got.Median, median) || !same(got.Min, least) || !same(got.Max, greatest) || got.Rounds != n {
			t.Errorf("%v: %+v", rounds, got)
		}
	}
	f(nil, nan, nan, nan, 0)
	f([]float64{nan, inf}, nan, nan, nan, 0)
	f([]float64{3}, 3, 3, 3, 1)
	f([]float64{3, 1, 2}, 2, 1, 3, 3)
	f([]float64{4, 1, nan, 3, 2}, 2.5, 1, 4, 4)
	f([]float64{-1, 0}, -0.5, -1, 0, 2)
	f([]float64{math.MaxFloat64, math.MaxFloat64}, math.MaxFloat64, math.MaxFloat64, math.MaxFloat64, 2)
}

func TestSpreadLeavesRoundsInOrder(t *testing.T) {
	rounds := []float64{3, nan, 1}
	SpreadOf(rounds)
	if rounds[0] != 3 || rounds[2] != 1 {
		t.Errorf("%v", rounds)
	}
}

func TestRatio(t *testing.T) {
	f := func(subject, peer []float64, median, low, high float64, n int) {
		t.Helper()
		got := RatioOf(subject, peer)
		if !same(got.Median, median) || !same(got.Low, low) || !same(got.High, high) || got.Rounds != n {
			t.Errorf("%v / %v: %+v", subject, peer, got)
		}
	}
	f(nil, nil, nan, nan, nan, 0)
	f([]float64{1}, nil, nan, nan, nan, 0)
	f([]float64{1}, []float64{2}, 0.5, 0.5, 0.5, 1)
	// By pair: the medians alone would say 1.
	f([]float64{1, 2, 9}, []float64{2, 4, 1}, 0.5, 0.5, 9, 3)
	// A pair without both is none, wherever it stands.
	f([]float64{1, nan, 3, 8}, []float64{2, 7, inf, 4, 5}, 1.25, 0.5, 2, 2)
	f([]float64{-1, 4}, []float64{2, 2}, 2, 2, 2, 1)
	f([]float64{0, 0, 0}, []float64{0, 0, 0}, 1, 1, 1, 3)
	f([]float64{0, 0, 0}, []float64{1, 2, 3}, 0, 0, 0, 3)
	f([]float64{1, 2, 3}, []float64{0, 0, 0}, inf, inf, inf, 3)
	f([]float64{1, 2}, []float64{0, 0}, inf, inf, inf, 2)
	f([]float64{1, 1, 2, 3}, []float64{1, 1, 0, 0}, inf, 1, inf, 4)
	// Of nine, the second and the last but one.
	nine := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	ones := []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}
	f(nine, ones, 5, 2, 8, 9)
}

// The levels are those of printed tables of the interval.
func TestInterval(t *testing.T) {
	f := func(n, wantCut int, wantPercent float64) {
		t.Helper()
		cut, covered := cutOf(n)
		if cut != wantCut || math.Abs(100*covered-wantPercent) > 0.051 {
			t.Errorf("%d rounds: %d cut off, covers %.2f %%; want %d, %v %%", n, cut, 100*covered, wantCut, wantPercent)
		}
	}
	f(1, 0, 0)
	f(2, 0, 50)
	f(3, 0, 75)
	f(4, 0, 87.5)
	f(5, 0, 93.8)
	f(6, 0, 96.9)
	f(7, 0, 98.4)
	f(8, 0, 99.2)
	f(9, 1, 96.1)
	f(12, 2, 96.1)
	f(15, 3, 96.5)
	f(17, 4, 95.1)
	f(20, 5, 95.9)
	// Many: near the normal distribution's 1.96 standard deviations.
	cut, covered := cutOf(10_000)
	if cut < 4895 || cut > 4905 || covered < level || covered > 0.96 {
		t.Errorf("10,000 rounds: %d cut off, covers %v", cut, covered)
	}
}

func TestIntervalIsNamed(t *testing.T) {
	f := func(n int, want string) {
		t.Helper()
		_, covered := cutOf(n)
		if got := (Ratio{Level: covered, Rounds: n}).Interval(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(1, "min–max of 1 round, which covers the median with 0 %")
	f(5, "min–max of 5 rounds, which covers the median with 94 %")
	f(6, "96 % interval of the median of 6 rounds")
	f(17, "95 % interval of the median of 17 rounds")
}

func TestVerdict(t *testing.T) {
	f := func(row Row, subject, peer []float64, want Verdict, wantText string) {
		t.Helper()
		row.Rounds = map[string][]float64{"a": subject, "b": peer}
		got := row.Compare("a", "b")
		if got.Verdict != want || got.Text("nginx") != wantText {
			t.Errorf("%v / %v: %v, %q; want %v, %q", subject, peer, got.Verdict, got.Text("nginx"), want, wantText)
		}
	}
	less, more, shown := Row{Judged: true}, Row{Judged: true, Higher: true}, Row{}
	tens := []float64{10, 10, 10}
	low, high, mixed, near := []float64{6.6, 7.1, 7.4}, []float64{14, 15, 16}, []float64{7, 8, 11}, []float64{9.85, 9.86, 9.9}
	f(less, low, tens, Better, "0.71x of nginx's (0.66–0.74): better")
	f(less, high, tens, Worse, "1.50x of nginx's (1.40–1.60): worse")
	f(more, low, tens, Worse, "0.71x of nginx's (0.66–0.74): worse")
	f(more, high, tens, Better, "1.50x of nginx's (1.40–1.60): better")
	f(less, mixed, tens, NoDifference, "0.80x of nginx's (0.70–1.10): no difference that 3 rounds can show")
	f(less, near, tens, NoDifference, "0.99x of nginx's (0.98–0.99): no difference that matters (under 2 %)")
	f(less, tens, tens, NoDifference, "1.00x of nginx's (1.00–1.00): no difference that 3 rounds can show")
	f(shown, low, tens, NotJudged, "0.71x of nginx's (0.66–0.74)")
	f(less, low[:2], tens, TooFewRounds, "0.68x of nginx's (0.66–0.71): 2 rounds can show nothing")
	f(less, low[:1], tens[:1], TooFewRounds, "0.66x of nginx's (0.66–0.66): 1 round can show nothing")
	f(less, low, nil, NotMeasured, "not measured together with nginx")
	f(shown, nil, tens, NotMeasured, "not measured together with nginx")
	f(less, []float64{nan, nan, nan}, tens, NotMeasured, "not measured together with nginx")
	f(less, tens, []float64{0, 0, 0}, Worse, "∞x of nginx's (∞–∞): worse")
	f(more, tens, []float64{0, 0, 0}, Better, "∞x of nginx's (∞–∞): better")
	f(less, []float64{0, 0, 0}, tens, Better, "0.00x of nginx's (0.00–0.00): better")
}

func TestVerdictWords(t *testing.T) {
	f := func(v Verdict, want string) {
		t.Helper()
		if v.String() != want {
			t.Errorf("%d is %q, want %q", v, v, want)
		}
	}
	f(NotMeasured, "not measured")
	f(NotJudged, "not judged")
	f(TooFewRounds, "too few rounds")
	f(NoDifference, "no difference")
	f(Better, "better")
	f(Worse, "worse")
}
