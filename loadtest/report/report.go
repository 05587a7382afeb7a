// Package report holds what a comparison found and writes it: as a table on the terminal, as
// JSON, as Markdown, and as one HTML page with plots that needs nothing from outside.
//
// Verdicts come from rounds in which the peers took turns: see RatioOf and Row.Compare. JSON keeps
// the rounds themselves, so that a saved report can be written in any form again.
package report

import (
	"time"

	"tickgate/loadtest/latency"
)

// Report is one comparison. It is what JSON holds; the other forms are made from it.
type Report struct {
	Title string    `json:"title"`
	Made  time.Time `json:"made"`
	// Command is what to run to have the same again.
	Command  string    `json:"command"`
	Machine  Machine   `json:"machine"`
	Settings []Setting `json:"settings"`
	// Subject is the ID of the peer that the others are held against.
	Subject  string    `json:"subject"`
	Peers    []Peer    `json:"peers"`
	Sections []Section `json:"sections"`
	// Notes are what a reader must know to believe the figures: what was left out,
	// where the tool was the bottleneck, errors.
	Notes []string `json:"notes,omitempty"`
}

// Machine is what the comparison ran on.
type Machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	MemoryMiB  int64  `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
}

// Setting is one pinned setting, for the reader.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Peer is one of the compared gateways.
type Peer struct {
	ID   string `json:"id"`   // tickgate, nginx, haproxy, nethttp
	Name string `json:"name"` // with the version
	// Config is the configuration that it ran with, or its command line.
	Config string `json:"config,omitempty"`
}

// Section is one scenario.
type Section struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	About string `json:"about"` // what was done, in a sentence or two
	Rows  []Row  `json:"rows"`
	Plots []Plot `json:"plots,omitempty"`
}

// Row is one figure of every peer.
type Row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Higher says that more is better; else less is.
	Higher bool `json:"higher,omitempty"`
	// Judged is false for a figure that is shown and not judged, as those that follow from others.
	Judged bool `json:"judged"`
	// Key puts the figure among those on top of the page. Where no row of a section says so,
	// the first judged one is there.
	Key bool `json:"key,omitempty"`
	// Rounds holds the figure by peer ID; index i of each is from the same round, in which the peers
	// were measured one after the other. NaN, null in JSON, is a round without a figure; a peer that
	// was not measured has none.
	Rounds map[string][]float64 `json:"rounds"`
}

// Scale is how an axis is divided.
type Scale string

// The scales.
const (
	Linear   Scale = "linear"
	Log      Scale = "log"
	Quantile Scale = "quantile" // logarithmic in 1-x: 0.9, 0.99, 0.999 are equally far apart
)

// Plot is a picture of lines, one or more for each peer.
type Plot struct {
	Title  string `json:"title"`
	X      Axis   `json:"x"`
	Y      Axis   `json:"y"`
	Series []Line `json:"series"`
}

// Axis is one axis of a plot.
type Axis struct {
	Label string `json:"label"` // with the unit
	Scale Scale  `json:"scale"`
}

// Line is one line of a plot.
type Line struct {
	Peer string    `json:"peer"` // ID; lines of a peer share a colour
	Name string    `json:"name"`
	X    []float64 `json:"x"`
	Y    []float64 `json:"y"`
}

// LatencyLine makes a line of a latency curve in milliseconds, for a quantile axis.
func LatencyLine(peer, name string, curve []latency.Point) Line {
	l := Line{Peer: peer, Name: name}
	for _, p := range curve {
		if p.Quantile < 1 { // 1 is infinitely far on such an axis
			l.X, l.Y = append(l.X, p.Quantile), append(l.Y, p.Micros/1e3)
		}
	}
	return l
}
