package report

import (
	"math"
	"strconv"
)

// tick is one mark of an axis.
type tick struct {
	At    float64 // 0 to 1 along the axis
	Label string  // "" is a mark without one
}

// scale maps values to an axis.
type scale struct {
	kind   Scale
	lo, hi float64 // ends, transformed; lo < hi
	ticks  []tick
}

// largest is where arithmetic with the ends of an axis is still safe.
const largest = 1e300

// transform maps a value to where it is in proportion; not ok if it is nowhere on such an axis.
func (k Scale) transform(v float64) (float64, bool) {
	switch k {
	case Log:
		v = math.Log10(v)
	case Quantile:
		if v < 0 {
			return 0, false
		}
		v = -math.Log10(1 - v)
	}
	return v, finite(v) && math.Abs(v) < largest
}

// newScale makes an axis on which all values are that can be on it. A linear one begins with 0
// if fromZero says so, as lengths can be compared then. If there is no value that a logarithmic
// axis can show, it is linear, so that zeros have a place.
func newScale(kind Scale, values []float64, fromZero bool) scale {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if at, ok := kind.transform(v); ok {
			lo, hi = min(lo, at), max(hi, at)
		}
	}
	switch {
	case lo > hi && kind == Linear:
		return linearScale(0, 1)
	case lo > hi:
		return newScale(Linear, values, fromZero)
	case kind == Log:
		return logScale(lo, hi)
	case kind == Quantile:
		return quantileScale(hi)
	case fromZero:
		lo, hi = min(lo, 0), max(hi, 0)
	}
	return linearScale(lo, hi)
}

// at returns where a value is, 0 to 1.
func (s scale) at(v float64) (float64, bool) {
	t, ok := s.kind.transform(v)
	return (t - s.lo) / (s.hi - s.lo), ok
}

// mark adds a tick, unless it is beyond the axis' ends.
func (s *scale) mark(transformed float64, label string) {
	const slack = 1e-9
	if at := (transformed - s.lo) / (s.hi - s.lo); at > -slack && at < 1+slack {
		s.ticks = append(s.ticks, tick{min(max(at, 0), 1), label})
	}
}

// linearScale has ticks at multiples of 1, 2 or 5 times a power of ten, and ends on two of them.
func linearScale(lo, hi float64) scale {
	const intervals = 5
	const tiniest = 1e-290 // below, a fifth of it is no number to count with
	if hi-lo <= max(max(math.Abs(lo), math.Abs(hi))*1e-9, tiniest) {
		lo, hi = apart(lo)
	}
	step := niceStep((hi - lo) / intervals)
	first, last := math.Floor(lo/step+1e-9), math.Ceil(hi/step-1e-9)
	s := scale{kind: Linear, lo: first * step, hi: last * step}
	end := max(math.Abs(s.lo), math.Abs(s.hi))
	for i := 0; i <= int(last-first); i++ {
		v := (first + float64(i)) * step
		s.mark(v, tickLabel(v, step, end))
	}
	return s
}

// apart makes ends around a value that is the only one.
func apart(v float64) (lo, hi float64) {
	half := math.Abs(v) / 2
	if half < 1e-200 {
		return 0, 1
	}
	return v - half, v + half
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, nice := range []float64{1, 2, 5} {
		if v <= nice*power*(1+1e-9) {
			return nice * power
		}
	}
	return 10 * power
}

// logScale ends on 1, 2 or 5 times a power of ten and has its labels there, or on powers only
// where there are many.
func logScale(lo, hi float64) scale {
	const manyDecades = 2.5
	s := scale{kind: Log, lo: logBelow(lo), hi: -logBelow(-hi)}
	if s.hi-s.lo < 0.1 {
		s.lo, s.hi = logBelow(s.lo-0.05), -logBelow(-s.hi-0.05)
	}
	decades := s.hi - s.lo
	every := max(math.Ceil(decades/8), 1)
	for power := math.Floor(s.lo); power <= s.hi; power += every {
		for _, times := range []float64{1, 2, 5} {
			label := ""
			if times == 1 || decades <= manyDecades {
				label = logLabel(times, power)
			}
			if times == 1 || every == 1 {
				s.mark(power+math.Log10(times), label)
			}
		}
	}
	return s
}

// logLabel writes times·10^power.
func logLabel(times, power float64) string {
	v := times * math.Pow(10, power)
	if v >= 1e4 {
		return tickLabel(v, v, 10*v) // 1M, not 1,000k
	}
	if power < -5 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return number(v, max(int(-power), 0))
}

// logBelow returns the logarithm of the next of 1, 2 and 5 times a power of ten at or below
// 10^v. With the sign changed twice it is the next above: 1/2 and 1/5 are 5 and 2 tenths.
func logBelow(v float64) float64 {
	power := math.Floor(v + 1e-9)
	for _, times := range []float64{5, 2} {
		if at := power + math.Log10(times); at <= v+1e-9 {
			return at
		}
	}
	return power
}

// quantileScale goes from the least to 1-10^-hi, with a tick at the median and each further nine.
func quantileScale(hi float64) scale {
	s := scale{kind: Quantile, lo: 0, hi: max(hi, 1)}
	s.mark(0, "0 %")
	s.mark(-math.Log10(0.5), "50 %")
	every := int(math.Ceil(s.hi / 7))
	for nines := 1; float64(nines) <= s.hi+1e-9; nines++ {
		label := ""
		if nines == 1 || nines%every == 0 {
			label = strconv.FormatFloat(100-math.Pow(10, float64(2-nines)), 'f', max(nines-2, 0), 64) + " %"
		}
		s.mark(float64(nines), label)
	}
	return s
}
