package report

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

// written returns the JSON of a report.
func written(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestJSONThereAndBack(t *testing.T) {
	want := sample()
	got, err := ReadJSON(strings.NewReader(written(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestJSONKeepsGaps(t *testing.T) {
	r := small()
	r.Sections[0].Rows[0].Rounds["a"] = []float64{1, nan, inf}
	r.Sections[0].Plots = []Plot{{X: Axis{Scale: Linear}, Y: Axis{Scale: Log}, Series: []Line{{Peer: "a", X: []float64{1, 2}, Y: []float64{nan, 2}}}}}
	text := written(t, r)
	if !strings.Contains(text, `"a": [1, null, null]`) {
		t.Errorf("no gaps in %s", text)
	}
	got, err := ReadJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if a := got.Sections[0].Rows[0].Rounds["a"]; len(a) != 3 || a[0] != 1 || !math.IsNaN(a[1]) || !math.IsNaN(a[2]) {
		t.Errorf("rounds %v", a)
	}
	if y := got.Sections[0].Plots[0].Series[0].Y; len(y) != 2 || !math.IsNaN(y[0]) || y[1] != 2 {
		t.Errorf("line %v", y)
	}
}

// A note that looks like a list of numbers stays as it is.
func TestJSONLeavesStrings(t *testing.T) {
	r := small()
	r.Notes = []string{"[\n1,\n  2 ]", "a [ 1,   2 ]"}
	got, err := ReadJSON(strings.NewReader(written(t, r)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Notes, r.Notes) {
		t.Errorf("%q, want %q", got.Notes, r.Notes)
	}
}

func TestReadJSONRefuses(t *testing.T) {
	good := written(t, small())
	f := func(old, replacement, want string, wantErr error) {
		t.Helper()
		text := strings.Replace(good, old, replacement, 1)
		if text == good {
			t.Fatalf("no %q in %s", old, good)
		}
		_, err := ReadJSON(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) || wantErr != nil && !errors.Is(err, wantErr) {
			t.Errorf("%s: %v, want %q", replacement, err, want)
		}
	}
	f(`"version": 1`, `"version": 2, "new": 0`, "unknown version 2 (want 1)", ErrVersion)
	f(`"version": 1,`, ``, "unknown version 0", ErrVersion)
	f(`"title"`, `"titel"`, `unknown field "titel"`, nil)
	f(`"judged"`, `"jugded"`, `unknown field "jugded"`, nil)
	f(`"unit": ""`, `"unit": 5`, "cannot unmarshal number", nil)
	f(`[1, 2, 3]`, `[1, "2", 3]`, "cannot unmarshal string", nil)
	f("\n}\n", "\n}\n{}", "after top-level value", nil)
	f("\n}\n", "", "unexpected end", nil)
	f(`"subject": "a"`, `"subject": "c"`, `the subject "c" is no peer`, ErrInvalid)
	f(`"id": "b"`, `"id": "a"`, `peer ID "a" is empty or there twice`, ErrInvalid)
	f(`"b": [1, 2, 3]`, `"c": [1, 2, 3]`, `section "s", row "figure": "c" is no peer`, ErrInvalid)
}

func TestCheckPlots(t *testing.T) {
	f := func(p Plot, want string) {
		t.Helper()
		r := small()
		r.Sections[0].Plots = []Plot{p}
		if err := r.Check(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	linear := Axis{Scale: Linear}
	f(Plot{X: linear, Y: Axis{Scale: "cubic"}}, `scale "cubic" (want linear, log or quantile)`)
	f(Plot{X: linear, Y: linear, Series: []Line{{Peer: "x"}}}, `"x" is no peer`)
	f(Plot{X: linear, Y: linear, Series: []Line{{Peer: "a", Name: "l", X: []float64{1}}}}, `line "l" has 1 x and 0 y`)
}
