package report

import (
	"fmt"
	"slices"
	"strings"
)

// The picture in its own units; the page scales it to the column's width. What is around the
// lines leaves room for labels half as large again, which narrow pages have.
const (
	plotWidth, plotHeight = 560.0, 320.0
	plotLeft, plotRight   = 58.0, 24.0
	plotTop, plotBottom   = 16.0, 34.0
)

const (
	// glyphWidth is what a letter of a label takes at most.
	glyphWidth = 9.0
	// mostMarkers of one line are drawn, and mostTips points say their figures.
	mostMarkers, mostTips = 6, 40
)

// plotView is a plot as the page draws it.
type plotView struct {
	Title, XLabel, YLabel    string
	Width, Height            float64
	Left, Right, Top, Bottom float64 // of the area within the axes
	XTicks, YTicks           []tickView
	Lines                    []lineView
	Empty                    bool
}

// tickView is a tick's place across the picture, in its units.
type tickView struct {
	At     float64
	Label  string
	Anchor string // text-anchor, so that the last labels stay within
}

// lineView is one line.
type lineView struct {
	Name   string
	Class  string // peer's colour
	Path   string
	Shape  string // path of the marker around 0,0, for the legend too
	Points []pointView
}

// pointView is a point with its figures.
type pointView struct {
	X, Y   string
	Marker bool // drawn, not just pointed at
	Tip    string
}

// view lays a plot out.
func (r *Report) view(p *Plot) plotView {
	var xs, ys []float64
	for _, l := range p.Series {
		n := min(len(l.X), len(l.Y))
		xs, ys = append(xs, l.X[:n]...), append(ys, l.Y[:n]...)
	}
	v := plotView{
		Title: p.Title, XLabel: p.X.Label, YLabel: p.Y.Label, Width: plotWidth, Height: plotHeight,
		Left: plotLeft, Right: plotWidth - plotRight, Top: plotTop, Bottom: plotHeight - plotBottom,
	}
	x, y := newScale(p.X.Scale, xs, false), newScale(p.Y.Scale, ys, true)
	v.XTicks, v.YTicks = v.across(x), v.upwards(y)
	v.Empty = true
	for i := range p.Series {
		line := r.line(p, i, v.placer(x, y))
		v.Empty = v.Empty && len(line.Points) == 0
		v.Lines = append(v.Lines, line)
	}
	return v
}

// placer returns what puts a pair of figures into the picture.
func (v *plotView) placer(x, y scale) func(float64, float64) (float64, float64, bool) {
	return func(px, py float64) (float64, float64, bool) {
		ax, okX := x.at(px)
		ay, okY := y.at(py)
		return v.Left + ax*(v.Right-v.Left), v.Bottom - ay*(v.Bottom-v.Top), okX && okY
	}
}

// across places the ticks of the horizontal axis and drops labels that would touch the one
// before.
func (v *plotView) across(s scale) []tickView {
	var views []tickView
	free := 0.0 // where the next label may begin
	for _, t := range s.ticks {
		at := v.Left + t.At*(v.Right-v.Left)
		width := glyphWidth * float64(len([]rune(t.Label)))
		begin, anchor := at-width/2, "middle"
		if at+width/2 > v.Width {
			begin, anchor = at-width, "end"
		}
		if begin < free {
			t.Label = ""
		}
		if t.Label != "" {
			free = begin + width + glyphWidth
		}
		views = append(views, tickView{at, t.Label, anchor})
	}
	return views
}

// upwards places the ticks of the vertical axis.
func (v *plotView) upwards(s scale) []tickView {
	const line = 17 // least distance of two labels
	var views []tickView
	last := v.Bottom + line
	for _, t := range s.ticks {
		at := v.Bottom - t.At*(v.Bottom-v.Top)
		if last-at < line {
			t.Label = ""
		}
		if t.Label != "" {
			last = at
		}
		views = append(views, tickView{at, t.Label, "end"})
	}
	return views
}

// line draws one line; it is broken where a point is missing or cannot be on an axis.
func (r *Report) line(p *Plot, i int, place func(float64, float64) (float64, float64, bool)) lineView {
	l := &p.Series[i]
	view := lineView{Name: l.Name, Class: r.class(l.Peer), Shape: shapeOf(r.index(l.Peer))}
	if view.Name == "" {
		view.Name = r.name(l.Peer)
	}
	var path strings.Builder
	n := min(len(l.X), len(l.Y))
	pen := "M"
	for j := range n {
		x, y, ok := place(l.X[j], l.Y[j])
		if !ok {
			pen = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", pen, x, y)
		pen = "L"
		view.Points = append(view.Points, pointView{X: fmt.Sprintf("%.1f", x), Y: fmt.Sprintf("%.1f", y), Tip: tip(view.Name, p, l.X[j], l.Y[j])})
	}
	view.Path = path.String()
	view.Points = thinned(view.Points, i)
	return view
}

// thinned keeps points at even distances, so that a page of long lines stays small, and marks
// some of them; offset lets the markers of lines that lie on each other alternate. No more than
// a few points are all marked, and the only one is.
func thinned(points []pointView, offset int) []pointView {
	if len(points) <= 2*mostMarkers {
		for i := range points {
			points[i].Marker = true
		}
		return points
	}
	every := (len(points) + mostTips - 1) / mostTips
	var kept []pointView
	for i := every / 2; i < len(points); i += every {
		kept = append(kept, points[i])
	}
	distance := max(len(kept)/mostMarkers, 1)
	for i := (offset * 2) % distance; i < len(kept); i += distance {
		kept[i].Marker = true
	}
	return kept
}

// tip says the figures of a point.
func tip(name string, p *Plot, x, y float64) string {
	return fmt.Sprintf("%s\n%s: %s\n%s: %s", name, p.X.Label, pointed(p.X.Scale, x), p.Y.Label, pointed(p.Y.Scale, y))
}

// pointed writes one coordinate.
func pointed(s Scale, v float64) string {
	if s == Quantile {
		return fmt.Sprintf("%.6g %%", 100*v)
	}
	return number(v, decimalsFor([]float64{v}))
}

// colours is how many classes of colours the page has.
const colours = 8

// index is a peer's place among the peers, the subject's being the first.
func (r *Report) index(peer string) int {
	return slices.IndexFunc(r.ordered(), func(p Peer) bool { return p.ID == peer })
}

// class is the class of a peer's colour, the same all over the page.
func (r *Report) class(peer string) string {
	if i := r.index(peer); i >= 0 {
		return fmt.Sprintf("c%d", i%colours)
	}
	return "cx"
}

// shapes are markers around 0,0, so that lines can be told apart without colours.
var shapes = []string{
	"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",                          // circle
	"M-3.6-3.6h7.2v7.2h-7.2z",                                     // square
	"M0-4.8L4.6 3.4H-4.6z",                                        // triangle
	"M0-5L5 0L0 5L-5 0z",                                          // diamond
	"M0 4.8L4.6-3.4H-4.6z",                                        // triangle on its tip
	"M-1.4-4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2z", // cross
}

// shapeOf returns the marker of a peer by index.
func shapeOf(index int) string { return shapes[max(index, 0)%len(shapes)] }
