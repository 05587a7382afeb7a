package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// written as a page.
func pageOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements returns all of a page.
func elements(t *testing.T, text string) []*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var list []*html.Node
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			list = append(list, n)
		}
	}
	return list
}

// called returns those of a name.
func called(nodes []*html.Node, name string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *html.Node) bool { return n.Data != name })
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// inner returns the text in an element.
func inner(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

func withClass(nodes []*html.Node, class string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *html.Node) bool {
		return !slices.Contains(strings.Fields(attribute(n, "class")), class)
	})
}

func TestPageHoldsTheReport(t *testing.T) {
	r := readSample(t)
	text := pageOf(t, r)
	all := elements(t, text)
	f := func(nodes []*html.Node, want int, what string) {
		t.Helper()
		if len(nodes) != want {
			t.Errorf("%d %s, want %d", len(nodes), what, want)
		}
	}
	f(called(all, "table"), 4, "tables")
	f(called(all, "figure"), 4, "plots")
	f(called(all, "details"), 4, "configurations")
	f(withClass(all, "card"), 6, "cards")
	f(withClass(all, "score"), 3, "scores")
	f(withClass(withClass(all, "chip"), "worse"), 10, "verdicts of worse in cards and tables")
	for _, want := range []string{r.Title, r.headline(), r.Command, r.Notes[0], r.Peers[1].Config, r.Settings[0].Value, r.Machine.Kernel, r.Sections[0].About} {
		if !slices.ContainsFunc(all, func(n *html.Node) bool { return inner(n) == want || strings.Contains(inner(n), want) }) {
			t.Errorf("no %q", want)
		}
	}
}

// A peer has one colour in all places.
func TestPageColours(t *testing.T) {
	r := readSample(t)
	r.Peers = append(r.Peers[1:], r.Peers[0]) // the subject is first whatever the order
	for i, peer := range []string{"tickgate", "nginx", "haproxy", "nethttp"} {
		if got, want := r.class(peer), fmt.Sprint("c", i); got != want {
			t.Errorf("%s has %s, want %s", peer, got, want)
		}
	}
	all := elements(t, pageOf(t, r))
	for _, class := range []string{"c0", "c1", "c2", "c3"} {
		if got := len(withClass(all, class)); got < 10 {
			t.Errorf("%s is in %d places", class, got)
		}
	}
}

var svgElement = regexp.MustCompile(`(?s)<svg.*?</svg>`)

// checkPage fails unless the page is sound: its SVG is XML and has no number that is none, its
// elements end in order, and nothing comes from elsewhere or runs.
func checkPage(t *testing.T, text string) {
	t.Helper()
	for _, picture := range svgElement.FindAllString(text, -1) {
		dec := xml.NewDecoder(strings.NewReader(picture))
		for {
			_, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in %s", err, picture)
			}
		}
		// Text is the reporter's; attributes are ours.
		for _, tag := range regexp.MustCompile(`<[^>]*>`).FindAllString(picture, -1) {
			if strings.Contains(tag, "aria-label") {
				continue
			}
			if strings.Contains(tag, "NaN") || strings.Contains(tag, "Inf") || strings.Contains(tag, "ZgotmplZ") {
				t.Errorf("no number in %s", tag)
			}
		}
	}
	for _, n := range elements(t, text) {
		checkElement(t, n)
	}
}

// ours are the elements that the page is made of.
var ours = strings.Fields(`html head meta link title style body main header section article div p span h1 h2 h3 ul li br
	table thead tbody tr th td figure figcaption svg g path rect line circle text pre dl dt dd details summary`)

// checkElement fails for what could fetch or run something.
func checkElement(t *testing.T, n *html.Node) {
	t.Helper()
	if !slices.Contains(ours, n.Data) {
		t.Errorf("element %s: %q", n.Data, inner(n))
	}
	if n.Data == "style" && (strings.Contains(inner(n), "url(") || strings.Contains(inner(n), "@import")) {
		t.Error("the style refers to something")
	}
	for _, a := range n.Attr {
		switch {
		case a.Key == "href" && a.Val == "data:,": // no icon
		case a.Key == "href", a.Key == "src", a.Key == "srcset", a.Key == "style", strings.HasPrefix(a.Key, "on"), strings.Contains(a.Val, "url("):
			t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
		}
	}
}

func TestPageIsSound(t *testing.T) { checkPage(t, pageOf(t, readSample(t))) }

// Whatever a text holds stays text.
func TestPageIsInert(t *testing.T) {
	const evil = "</script></style></title></pre><script>alert(1)</script><img src=http://a/ onerror=x>\"'><b>&amp;{{.}}</svg>"
	r := sample()
	r.Title, r.Command, r.Notes, r.Machine.CPU = evil, evil, []string{evil}, evil
	r.Settings = []Setting{{evil, evil}}
	for i := range r.Peers {
		r.Peers[i].Name, r.Peers[i].Config = evil, evil
	}
	for i := range r.Sections {
		s := &r.Sections[i]
		s.ID, s.Title, s.About = evil, evil, evil
		for j := range s.Rows {
			s.Rows[j].Name, s.Rows[j].Unit = evil, evil
		}
		for j := range s.Plots {
			p := &s.Plots[j]
			p.Title, p.X.Label, p.Y.Label = evil, evil, evil
			for k := range p.Series {
				p.Series[k].Name = evil
			}
		}
	}
	text := pageOf(t, r)
	checkPage(t, text)
	all := elements(t, text)
	for _, n := range called(all, "h1") {
		if inner(n) != evil {
			t.Errorf("the title is %q", inner(n))
		}
	}
	if got := len(called(all, "details")); got != 4 {
		t.Errorf("%d configurations", got)
	}
}

// Reports and plots with next to nothing in them make a page as well, and text.
func TestPageOfLittle(t *testing.T) {
	f := func(change func(*Report)) string {
		t.Helper()
		r := small()
		change(r)
		page := pageOf(t, r)
		checkPage(t, page)
		for _, write := range []func(io.Writer) error{r.WriteMarkdown, r.WriteTerminal} {
			if err := write(io.Discard); err != nil {
				t.Error(err)
			}
		}
		return page
	}
	rounds := func(a, b []float64) func(*Report) {
		return func(r *Report) { r.Sections[0].Rows[0].Rounds = map[string][]float64{"a": a, "b": b} }
	}
	f(func(r *Report) { *r = Report{} })
	f(func(r *Report) { r.Sections = nil })
	f(func(r *Report) { r.Sections[0].Rows = nil })
	f(func(r *Report) { r.Peers = r.Peers[:1] })
	f(func(r *Report) { r.Subject = "x" })
	f(rounds(nil, nil))
	f(rounds([]float64{1}, nil))
	f(rounds([]float64{nan}, []float64{inf}))
	f(rounds([]float64{0, 0, 0}, []float64{0, 0, 0}))
	f(rounds([]float64{-1, -2, -3}, []float64{-5, 1, 2}))
	f(rounds([]float64{5, 5, 5}, []float64{0, 0, 0}))
	f(rounds([]float64{math.MaxFloat64, 1, 1}, []float64{math.SmallestNonzeroFloat64, 1, 1}))
	lines := func(kind Scale, x, y []float64) func(*Report) {
		return func(r *Report) {
			r.Sections[0].Plots = []Plot{{X: Axis{"x", kind}, Y: Axis{"y", kind}, Series: []Line{{Peer: "a", X: x, Y: y}}}}
		}
	}
	for _, kind := range []Scale{Linear, Log, Quantile} {
		for _, values := range [][]float64{nil, {nan, inf}, {0}, {0, 0, 0}, {7}, {7, 7, 7}, {-1, -2}, {1, nan, 2}, {0.5, 0.9, 0.99}, {math.MaxFloat64, -math.MaxFloat64}} {
			page := f(lines(kind, values, values))
			if empty := strings.Contains(page, "nothing was measured"); empty && len(values) > 0 && values[0] == 0.5 {
				t.Errorf("%s of %v is empty", kind, values)
			}
		}
	}
	if page := f(lines(Linear, nil, nil)); !strings.Contains(page, "nothing was measured") {
		t.Error("an empty plot does not say so")
	}
	f(lines(Linear, []float64{1, 2}, []float64{1}))
	f(func(r *Report) { r.Sections[0].Plots = []Plot{{}} })
}

func TestLineIsBrokenAtGaps(t *testing.T) {
	f := func(x, y []float64, wantPieces, wantMarkers int) {
		t.Helper()
		r := small()
		v := r.view(&Plot{X: Axis{Scale: Linear}, Y: Axis{Scale: Log}, Series: []Line{{Peer: "a", X: x, Y: y}}})
		markers := 0
		for _, p := range v.Lines[0].Points {
			if p.Marker {
				markers++
			}
		}
		if pieces := strings.Count(v.Lines[0].Path, "M"); pieces != wantPieces || markers != wantMarkers {
			t.Errorf("%v: %d pieces with %d markers, want %d with %d", y, pieces, markers, wantPieces, wantMarkers)
		}
	}
	f([]float64{1, 2, 3}, []float64{1, 2, 3}, 1, 3)
	f([]float64{1, 2, 3}, []float64{1, nan, 3}, 2, 2)
	f([]float64{1, 2, 3}, []float64{1, 0, 3}, 2, 2)
	f([]float64{1}, []float64{1}, 1, 1)
	f([]float64{1, nan, inf}, []float64{1, 2, 3}, 1, 1)
	f(nil, nil, 0, 0)
}

func TestLongLinesAreThinned(t *testing.T) {
	for n := range 300 {
		points := thinned(make([]pointView, n), n%5)
		markers := 0
		for _, p := range points {
			if p.Marker {
				markers++
			}
		}
		if len(points) > mostTips || n > 0 && markers == 0 || n > 2*mostMarkers && markers > 2*mostMarkers {
			t.Errorf("of %d points %d stay, %d with markers", n, len(points), markers)
		}
	}
}

// Labels of an axis do not touch, however many ticks it has.
func TestLabelsKeepApart(t *testing.T) {
	v := &plotView{Width: plotWidth, Left: plotLeft, Right: plotWidth - plotRight, Top: plotTop, Bottom: plotHeight - plotBottom}
	for _, values := range [][]float64{{0, 1}, {0, 123456}, {1, 999999}, {0.9999999}, {1e-9, 1e12}} {
		for _, kind := range []Scale{Linear, Log, Quantile} {
			s := newScale(kind, values, false)
			end := 0.0
			for _, tick := range v.across(s) {
				if tick.Label == "" {
					continue
				}
				width := glyphWidth * float64(len([]rune(tick.Label)))
				begin := tick.At - width/2
				if tick.Anchor == "end" {
					begin = tick.At - width
				}
				if begin < end || begin+width > plotWidth {
					t.Errorf("%s of %v: label %q from %.0f to %.0f, the last ended at %.0f", kind, values, tick.Label, begin, begin+width, end)
				}
				end = begin + width
			}
		}
	}
}
