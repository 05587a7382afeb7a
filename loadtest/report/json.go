package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
)

// Version is of the JSON that WriteJSON writes. It is raised by a change that older tools would
// misread.
const Version = 1

var (
	// ErrVersion is a file of another version.
	ErrVersion = errors.New("report: unknown version")
	// ErrInvalid is a report that contradicts itself.
	ErrInvalid = errors.New("report: invalid")
)

// file is a report as JSON holds it.
type file struct {
	Version int `json:"version"`
	*Report
}

// numberLists matches a list of numbers that was broken into lines. A string cannot look like
// it: line breaks in strings are escaped.
var numberLists = regexp.MustCompile(`\[\n[^\[\]{}"]*\]`)

// WriteJSON writes the report for ReadJSON and for other tools, with each list of numbers on one
// line. NaN and infinite numbers become null.
func (r *Report) WriteJSON(w io.Writer) error {
	text, err := json.MarshalIndent(file{Version, r}, "", "  ")
	if err != nil {
		return fmt.Errorf("report: write JSON: %w", err)
	}
	text = numberLists.ReplaceAllFunc(text, func(list []byte) []byte {
		items := bytes.Fields(list[1 : len(list)-1])
		return slices.Concat([]byte("["), bytes.Join(items, []byte(" ")), []byte("]"))
	})
	_, err = w.Write(append(text, '\n'))
	return err
}

// ReadJSON reads what WriteJSON wrote. It fails with ErrVersion for another version, ErrInvalid
// for what Check finds, and an error of encoding/json for anything else, unknown keys and text
// behind the report included.
func ReadJSON(r io.Reader) (*Report, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("report: read JSON: %w", err)
	}
	// The version first, since a newer one has keys that this one does not know.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("report: read JSON: %w", err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("%w %d (want %d)", ErrVersion, head.Version, Version)
	}
	f := file{Report: new(Report)}
	if err := decodeStrictly(text, &f); err != nil {
		return nil, fmt.Errorf("report: read JSON: %w", err)
	}
	return f.Report, f.Check()
}

// decodeStrictly decodes the only value of a text and lets no key pass that v does not know.
func decodeStrictly(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// gaps is a list of numbers in which NaN, that JSON does not have, is null.
type gaps []float64

// MarshalJSON writes null for what is not finite.
func (g gaps) MarshalJSON() ([]byte, error) {
	list := make([]*float64, len(g))
	for i := range g {
		if finite(g[i]) {
			list[i] = &g[i]
		}
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads null as NaN.
func (g *gaps) UnmarshalJSON(text []byte) error {
	var list []*float64
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*g = make(gaps, len(list))
	for i, v := range list {
		(*g)[i] = math.NaN()
		if v != nil {
			(*g)[i] = *v
		}
	}
	return nil
}

// rowFields are a row's without its methods, which would be called again.
type rowFields Row

// rowJSON is a row as JSON holds it: its Rounds go before those of the fields.
type rowJSON struct {
	rowFields
	Rounds map[string]gaps `json:"rounds"`
}

// MarshalJSON writes rounds without a figure as null.
func (r Row) MarshalJSON() ([]byte, error) {
	j := rowJSON{rowFields: rowFields(r), Rounds: map[string]gaps{}}
	for peer, values := range r.Rounds {
		j.Rounds[peer] = values
	}
	return json.Marshal(j)
}

// UnmarshalJSON is as strict as what calls it: it would not hear of that.
func (r *Row) UnmarshalJSON(text []byte) error {
	var j rowJSON
	if err := decodeStrictly(text, &j); err != nil {
		return err
	}
	*r = Row(j.rowFields)
	r.Rounds = map[string][]float64{}
	for peer, values := range j.Rounds {
		r.Rounds[peer] = values
	}
	return nil
}

// lineFields are a line's without its methods.
type lineFields Line

// lineJSON is a line as JSON holds it.
type lineJSON struct {
	lineFields
	X gaps `json:"x"`
	Y gaps `json:"y"`
}

// MarshalJSON writes what is not finite as null.
func (l Line) MarshalJSON() ([]byte, error) {
	return json.Marshal(lineJSON{lineFields(l), l.X, l.Y})
}

// UnmarshalJSON is strict, like a row's.
func (l *Line) UnmarshalJSON(text []byte) error {
	var j lineJSON
	if err := decodeStrictly(text, &j); err != nil {
		return err
	}
	*l = Line(j.lineFields)
	l.X, l.Y = j.X, j.Y
	return nil
}

// Check lists what contradicts itself, each wrapping ErrInvalid; nil if nothing does. Writers
// make something of any report, but what they make of such a one misleads.
func (r *Report) Check() error {
	var errs []error
	complain := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...)))
	}
	known := map[string]bool{}
	for _, p := range r.Peers {
		if p.ID == "" || known[p.ID] {
			complain("peer ID %q is empty or there twice", p.ID)
		}
		known[p.ID] = true
	}
	if !known[r.Subject] {
		complain("the subject %q is no peer", r.Subject)
	}
	for _, s := range r.Sections {
		for _, row := range s.Rows {
			for peer := range row.Rounds {
				if !known[peer] {
					complain("section %q, row %q: %q is no peer", s.ID, row.Name, peer)
				}
			}
		}
		for _, p := range s.Plots {
			p.check(known, func(text string) { complain("section %q, plot %q: %s", s.ID, p.Title, text) })
		}
	}
	return errors.Join(errs...)
}

// check complains about a plot.
func (p *Plot) check(known map[string]bool, complain func(string)) {
	for _, axis := range []Axis{p.X, p.Y} {
		if !slices.Contains([]Scale{Linear, Log, Quantile}, axis.Scale) {
			complain(fmt.Sprintf("scale %q (want %s, %s or %s)", axis.Scale, Linear, Log, Quantile))
		}
	}
	for _, l := range p.Series {
		if !known[l.Peer] {
			complain(fmt.Sprintf("%q is no peer", l.Peer))
		}
		if len(l.X) != len(l.Y) {
			complain(fmt.Sprintf("line %q has %d x and %d y", l.Name, len(l.X), len(l.Y)))
		}
	}
}
