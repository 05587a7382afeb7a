package report

import (
	"math"
	"strconv"
	"strings"
)

// none stands for a figure that there is not.
const none = "–"

// decimalsFor returns how many decimals the figures of one row are written with, the same for
// all of them: three digits of the smallest, but no more than six of the largest.
func decimalsFor(values []float64) int {
	smallest, largest, whole := math.Inf(1), 0.0, true
	for _, v := range values {
		v = math.Abs(v)
		if !finite(v) || v == 0 {
			continue
		}
		smallest, largest = min(smallest, v), max(largest, v)
		whole = whole && v == math.Trunc(v)
	}
	if largest == 0 || whole {
		return 0
	}
	magnitude := func(v float64) int { return int(math.Floor(math.Log10(v))) }
	return max(min(2-magnitude(smallest), 5-magnitude(largest), 6), 0)
}

// number writes a figure with a comma between thousands.
func number(v float64, decimals int) string {
	switch {
	case math.IsNaN(v):
		return none
	case math.IsInf(v, 0):
		return strings.Replace(strconv.FormatFloat(v, 'f', -1, 64), "Inf", "∞", 1)
	case math.Abs(v) >= 1e15:
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	sign, text := cutSign(text)
	whole, fraction, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}

// cutSign parts a minus from a number, and drops that of a zero.
func cutSign(text string) (sign, rest string) {
	rest, negative := strings.CutPrefix(text, "-")
	if negative && strings.Trim(rest, "0.") != "" {
		return "−", rest
	}
	return "", rest
}

// factor writes a ratio: two decimals, more only where they are needed to tell it from 0 or 1.
func factor(v float64) string {
	switch {
	case !finite(v):
		return strings.TrimPrefix(number(v, 0), "+")
	case v >= 100:
		return number(v, 0)
	case v >= 10:
		return number(v, 1)
	case v != 1 && math.Abs(v-1) < 0.005:
		return closeToOne(v)
	case v >= 0.095 || v == 0:
		return number(v, 2)
	case v >= 1e-4:
		return number(v, 1-int(math.Floor(math.Log10(v)))) // two digits that count
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}

// closeToOne writes a ratio that two decimals would make 1.
func closeToOne(v float64) string {
	if math.Abs(v-1) < 0.0005 {
		return "1.00"
	}
	return number(v, 3)
}

// tickLabel writes a number at an axis, short: 12k, 2.5M. step is the distance between ticks and
// largest the axis' end, so that all labels of an axis have one unit and as many decimals.
func tickLabel(v, step, largest float64) string {
	units := []struct {
		from, unit float64
		suffix     string
	}{{1e13, 1e12, "T"}, {1e10, 1e9, "G"}, {1e7, 1e6, "M"}, {1e4, 1e3, "k"}}
	suffix := ""
	for _, u := range units {
		if largest >= u.from {
			v, step, suffix = v/u.unit, step/u.unit, u.suffix
			break
		}
	}
	if math.Abs(v) < step/1e6 {
		return "0"
	}
	if step < 1e-6 || math.Abs(v) >= 1e9 {
		return strconv.FormatFloat(v, 'g', 3, 64) + suffix
	}
	decimals := 0
	for scaled := step; math.Abs(scaled-math.Round(scaled)) > 1e-6 && decimals < 6; scaled *= 10 {
		decimals++
	}
	return number(v, decimals) + suffix
}
