package sheet

import (
	"strings"
	"testing"
)

func TestSheet(t *testing.T) {
	f := func(want string, lines func(s *Sheet)) {
		t.Helper()
		s := New(8)
		lines(s)
		var text strings.Builder
		if n, err := s.WriteTo(&text); err != nil || n != int64(len(want)) || text.String() != want {
			t.Errorf("%d, %v: %q, want %q", n, err, text.String(), want)
		}
	}
	f("", func(s *Sheet) { s.End("", Limited, "") })
	f("sent     3 of 4\n         100 % more\na long label so\n", func(s *Sheet) {
		s.Line("sent", "%d of %d", 3, 4)
		s.Line("", "100 %% more")
		s.Line("a long label", "so")
	})
	f("first error 5 % lost\n", func(s *Sheet) { s.End("5 % lost", Limited, "") })
	f("first error gone\n\nWARNING: the tool was the bottleneck: 97 % busy\n", func(s *Sheet) { s.End("gone", Limited, "97 % busy") })
}

func TestCounts(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(Counts(map[string]int64{}), "")
	f(Counts(map[int]int64{503: 2, 200: 10}), "200: 10, 503: 2")
	f(Counts(map[string]int64{"reset": 1, "": 7, "closed": 3}), "none: 7, closed: 3, reset: 1")
}
