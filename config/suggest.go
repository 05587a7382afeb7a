package config

import "fmt"

// didYouMean returns ` (did you mean "x"?)` for the candidate closest to got, or
// "" if none is close enough to be a typing error.
func didYouMean(got string, candidates []string) string {
	if s := closest(got, candidates); s != "" {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}

// closest returns the candidate with the smallest edit distance to got, at most a
// third of got's length and at least 1.
func closest(got string, candidates []string) string {
	best, bestDistance := "", max(1, len(got)/3)+1
	for _, c := range candidates {
		if d := distance(got, c); c != "" && d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the number of inserted, deleted, replaced or swapped bytes between
// a and b (optimal string alignment).
func distance(a, b string) int {
	// Names are short. A long text is not a typing error, and the table is quadratic.
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// clip shortens a text for an error message.
func clip(s string) string {
	const most = 60
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-1]) + "…"
}
