// Package unit holds the configuration's scalar types that have a unit.
package unit

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is written with a unit: 512, 16KiB, 2MB, 1GiB.
type Size int64

// suffixes is ordered so that the longest match comes first.
var suffixes = []struct {
	text string
	mult int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"k", 1 << 10},
	{"m", 1 << 20},
	{"g", 1 << 30},
	{"B", 1},
}

// ParseSize reads a size such as "64KiB" or "10MB"; a bare number is bytes. The
// single letters k, m and g are powers of 1024, as in nginx.
func ParseSize(s string) (Size, error) {
	num, mult := s, int64(1)
	for _, suf := range suffixes {
		if rest, ok := strings.CutSuffix(s, suf.text); ok {
			num, mult = strings.TrimSpace(rest), suf.mult
			break
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("not a size: %q (want a number with a unit, such as 64KiB or 10MB)", s)
	}
	if n > (1<<63-1)/mult {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return Size(n * mult), nil
}

// String writes the size with the largest binary unit that divides it.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if m := suffixes[i].mult; s != 0 && int64(s)%m == 0 {
			return strconv.FormatInt(int64(s)/m, 10) + suffixes[i].text
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
