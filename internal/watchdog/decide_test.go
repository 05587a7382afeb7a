package watchdog

import (
	"slices"
	"strings"
	"testing"
)

// points makes looks from counts and traffic; the last traffic goes on at its pace if there are fewer.
func points(counts, traffic []int) []point {
	var out []point
	total := uint64(0)
	for i, n := range counts {
		if i > 0 && len(traffic) > 0 {
			total += uint64(traffic[min(i-1, len(traffic)-1)])
		}
		out = append(out, point{n: n, traffic: total})
	}
	return out
}

func TestGrowing(t *testing.T) {
	// traffic is the accepts and requests between two looks.
	f := func(what string, counts, traffic []int, want bool) {
		t.Helper()
		if got := growing(points(counts, traffic), 100); got != want {
			t.Errorf("%s: %t, want %t", what, got, want)
		}
	}
	steady := []int{10, 40, 70, 100, 130, 160, 190}
	f("steadily", steady, nil, true)
	f("as much as is wanted", []int{0, 25, 50, 75, 100}, nil, true)
	f("less than is wanted", []int{0, 25, 50, 75, 99}, nil, false)
	f("not", []int{10, 10, 10, 10}, nil, false)
	f("shrinking", []int{200, 100, 50, 0}, nil, false)
	f("with noise", []int{10, 55, 50, 100, 90, 160, 170}, nil, true)
	f("with more than noise", []int{10, 100, 50, 100, 90, 160, 190}, nil, false)
	f("up and down to more", []int{10, 190, 10, 190, 10, 190}, nil, false)
	f("in one step", []int{10, 10, 10, 190, 190, 190, 190}, nil, false)
	f("in every other look", []int{10, 40, 40, 100, 100, 190, 190}, nil, true)
	f("one look", []int{200}, nil, false)
	f("no look", nil, nil, false)
	f("two looks", []int{10, 200}, nil, true)
	f("two looks with traffic", []int{10, 200}, []int{190}, false)

	f("under steady traffic", steady, []int{1000}, true)
	f("under traffic that varies", steady, []int{1000, 1200, 900, 1100, 1000, 1200}, true)
	f("while traffic rises", steady, []int{0, 0, 0, 500, 500, 500}, false)
	f("while traffic rises by less than what grew", steady, []int{0, 0, 0, 50, 50, 50}, true)
	f("while traffic falls", steady, []int{500, 500, 500, 0, 0, 0}, true)
}

func TestTrack(t *testing.T) {
	o := &Options{Looks: 4, MinGrowth: 100}
	names := map[step]string{quiet: ".", suspect: "s", leaking: "L", goingOn: "g", cleared: "C"}
	f := func(what string, counts []int, want string) {
		t.Helper()
		var tr track
		var got strings.Builder
		for _, n := range counts {
			got.WriteString(names[tr.look(point{n: n}, o)])
		}
		if got.String() != want {
			t.Errorf("%s: %v: %s, want %s", what, counts, got.String(), want)
		}
	}
	f("flat", []int{50, 50, 51, 49, 50, 50, 51}, ".......")
	f("leak, once", []int{0, 30, 60, 90, 120, 150, 180}, "..ssLgg")
	f("after quiet looks", []int{5, 5, 5, 5, 5, 30, 60, 90, 120}, "......ssL")
	f("suspicion without a leak", []int{0, 30, 60, 60, 60, 60}, "..s...")
	f("growth stops", []int{0, 30, 60, 90, 120, 121, 121, 121, 121, 121, 121}, "..ssLggggC.")
	f("comes back", []int{0, 30, 60, 90, 120, 60, 60}, "..ssLC.")
	f("half of the highest", []int{0, 30, 60, 90, 120, 240, 130, 120, 120}, "..ssLggC.")
	f("a new episode", []int{0, 30, 60, 90, 120, 0, 30, 60, 90, 120, 150}, "..ssLC..ssL")
	f("slow but steady", []int{0, 20, 40, 60, 80, 100, 120}, ".......")
}

func TestDescriptorsPoint(t *testing.T) {
	p := descriptors(&Sample{FDs: 100, Open: 70, Traffic: 7, ByKind: []Count{{"client", 60}, {"backend", 20}}})
	want := []Count{{"client", 60}, {"backend", 20}, {"other", 20}}
	if p.n != 30 || p.traffic != 7 || !slices.Equal(p.kinds, want) {
		t.Errorf("%+v, want 30 that are not explained of %v", p, want)
	}
	if p := goroutines(&Sample{Goroutines: 50, Busy: 40, Traffic: 7}); p.n != 10 || p.traffic != 7 {
		t.Errorf("%+v, want 10 goroutines that are not explained", p)
	}
}

func TestMostGrown(t *testing.T) {
	f := func(before, after []Count, name string, growth int) {
		t.Helper()
		if gotName, got := mostGrown(before, after); gotName != name || got != growth {
			t.Errorf("%v to %v: %s by %d, want %s by %d", before, after, gotName, got, name, growth)
		}
	}
	f([]Count{{"a", 1}, {"b", 100}}, []Count{{"a", 11}, {"b", 105}}, "a", 10)
	f([]Count{{"a", 1}}, []Count{{"a", 1}, {"new", 5}}, "new", 5)
	f([]Count{{"a", 1}, {"other", 1}}, []Count{{"a", 2}, {"other", 2}}, "other", 1)
	f([]Count{{"a", 9}, {"b", 9}}, []Count{{"a", 2}, {"b", 8}}, "b", -1)
	f(nil, nil, "", 0)
}
