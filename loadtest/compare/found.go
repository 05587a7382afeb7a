package compare

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/report"
)

// played is what the turns of one scenario showed.
type played struct {
	scenario *scenario
	values   map[string]map[string][]float64 // by figure, by contender, by round
	samples  map[string][]*sample            // by contender
	turns    int                             // that were measured
	limited  []string                        // why the tool was the limit in some of them
}

func newPlayed(s *scenario) *played {
	return &played{scenario: s, values: make(map[string]map[string][]float64), samples: make(map[string][]*sample)}
}

// add takes over what a contender showed in a round.
func (p *played) add(id string, round int, s *sample) {
	p.samples[id] = append(p.samples[id], s)
	p.turns++
	if s.bottleneck != "" {
		p.limited = append(p.limited, fmt.Sprintf("%s in round %d: %s", id, round+1, s.bottleneck))
	}
	for name, v := range s.values {
		p.set(name, id, round, v)
	}
}

// skip leaves a gap in every figure of a contender that was measured before.
func (p *played) skip(id string, round int) {
	for name, by := range p.values {
		if by[id] != nil {
			p.set(name, id, round, math.NaN())
		}
	}
}

// set puts a value in its round, behind gaps for rounds that have none.
func (p *played) set(name, id string, round int, v float64) {
	by := p.values[name]
	if by == nil {
		by = make(map[string][]float64)
		p.values[name] = by
	}
	for len(by[id]) < round {
		by[id] = append(by[id], math.NaN())
	}
	by[id] = append(by[id], v)
}

// section makes a section of the report.
func (p *played) section(o *Options, ids []string) report.Section {
	s := report.Section{ID: p.scenario.id, Title: p.scenario.title, About: p.scenario.about(o)}
	figures := slices.Clone(p.scenario.figures)
	for _, f := range p.scenario.figures { // of those that are CPU time there is another
		figures = append(figures, figure{name: f.name + secondReading, unit: f.unit})
	}
	for _, f := range figures {
		if by := p.values[f.name]; len(by) > 0 {
			s.Rows = append(s.Rows, report.Row{
				Name: f.name, Unit: f.unit, Higher: f.higher, Key: f.key, Judged: f.judged && !(f.pace && len(p.limited) > 0), Rounds: by,
			})
		}
	}
	s.Plots = slices.Concat(p.latencyPlot(ids), p.ratePlot(ids), p.memoryPlots(ids))
	return s
}

// limitNote says that the tool was the limit, if it was.
func (p *played) limitNote() []string {
	if len(p.limited) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: the load tool was the limit in %d of %d turns, so speed and latency are not judged. The first: %s.", p.scenario.id, len(p.limited), p.turns, p.limited[0])}
}

// latencyPlot has the curve of each contender's round whose p99 is the median of its rounds.
func (p *played) latencyPlot(ids []string) []report.Plot {
	plot := report.Plot{
		Title: "Latency by percentile (the round of the median p99)",
		X:     report.Axis{Label: "percentile", Scale: report.Quantile}, Y: report.Axis{Label: "latency (ms)", Scale: report.Log},
	}
	for _, id := range ids {
		with := slices.DeleteFunc(slices.Clone(p.samples[id]), func(s *sample) bool { return len(s.curve) == 0 })
		if len(with) == 0 {
			continue
		}
		slices.SortStableFunc(with, func(a, b *sample) int { return cmp.Compare(p99(a.curve), p99(b.curve)) })
		plot.Series = append(plot.Series, report.LatencyLine(id, id, with[len(with)/2].curve))
	}
	return drawn(plot)
}

// p99 reads a curve.
func p99(curve []latency.Point) float64 {
	i := slices.IndexFunc(curve, func(p latency.Point) bool { return p.Quantile >= 0.99 })
	return curve[max(i, 0)].Micros
}

// ratePlot has the measured seconds of all rounds, one behind the other.
func (p *played) ratePlot(ids []string) []report.Plot {
	plot := report.Plot{
		Title: "Throughput over time (all rounds, one behind the other)",
		X:     report.Axis{Label: "measured second", Scale: report.Linear}, Y: report.Axis{Label: "requests a second", Scale: report.Linear},
	}
	for _, id := range ids {
		l := report.Line{Peer: id, Name: id}
		for _, s := range p.samples[id] {
			for _, v := range s.perSecond {
				l.X, l.Y = append(l.X, float64(len(l.X)+1)), append(l.Y, v)
			}
		}
		if len(l.X) > 0 {
			plot.Series = append(plot.Series, l)
		}
	}
	return drawn(plot)
}

// memoryPlots have the median memory at each number of connections.
func (p *played) memoryPlots(ids []string) (plots []report.Plot) {
	for _, k := range idleKinds {
		plot := report.Plot{
			Title: k.title,
			X:     report.Axis{Label: "connections", Scale: report.Linear}, Y: report.Axis{Label: "PSS (MiB)", Scale: report.Log},
		}
		for _, id := range ids {
			if l := p.memoryLine(id, k.name); len(l.X) > 0 {
				plot.Series = append(plot.Series, l)
			}
		}
		plots = append(plots, drawn(plot)...)
	}
	return plots
}

func (p *played) memoryLine(id, kind string) report.Line {
	at := make(map[int][]float64)
	for _, s := range p.samples[id] {
		for _, m := range s.memory[kind] {
			at[m.conns] = append(at[m.conns], float64(m.bytes)/bytesInAMebibyte)
		}
	}
	l := report.Line{Peer: id, Name: id}
	for _, conns := range slices.Sorted(maps.Keys(at)) {
		l.X, l.Y = append(l.X, float64(conns)), append(l.Y, median(at[conns]))
	}
	return l
}

// drawn returns the plot unless it has no line.
func drawn(p report.Plot) []report.Plot {
	if len(p.Series) == 0 {
		return nil
	}
	return []report.Plot{p}
}

// median of values, of which there is at least one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// report puts together what was found.
func (c *comparison) report() *report.Report {
	r := &report.Report{
		Made: c.began, Command: c.Command, Machine: machine(), Settings: c.settings(), Subject: c.contenders[0].ID,
	}
	var names, ids []string
	for _, p := range c.peers {
		p.Config = c.configs[p.ID]
		r.Peers = append(r.Peers, p)
		names, ids = append(names, p.Name), append(ids, p.ID)
	}
	r.Title = names[0]
	if len(names) > 1 {
		r.Title += " compared with " + strings.Join(names[1:], ", ")
	}
	for _, p := range c.played {
		if len(p.samples) > 0 {
			r.Sections = append(r.Sections, p.section(&c.Options, ids))
			r.Notes = append(r.Notes, p.limitNote()...)
		}
	}
	r.Notes = slices.Concat(c.notes, r.Notes, cpuNote(r))
	return r
}

// settings lists what was pinned.
func (c *comparison) settings() []report.Setting {
	backend := "tickload backend, 1 KiB from memory"
	if c.backend == NginxFile {
		backend = "nginx, a file of 1 KiB from its cache, 1 worker"
	}
	var counts []string
	for _, n := range c.IdleCounts {
		counts = append(counts, strconv.Itoa(n))
	}
	return []report.Setting{
		{Name: "order", Value: "each gateway alone in turn, A B C D A B C D …; started, warmed up, measured, stopped"},
		{Name: "rounds", Value: fmt.Sprintf("%d, of http %d", c.Rounds, c.MainRounds)},
		{Name: "measured window", Value: fmt.Sprintf("%v after %v of warm-up", c.Duration, c.Warmup)},
		{Name: "workers of a gateway", Value: fmt.Sprintf("%d processes (nginx), threads (HAProxy) or Go processors", c.Workers)},
		{Name: "connections", Value: fmt.Sprintf("%d kept", c.Conns)},
		{Name: "open loop", Value: fmt.Sprintf("%.0f requests a second", c.Rate)},
		{Name: "tunnels", Value: fmt.Sprintf("%d, %.0f messages of %d bytes a second each way", c.Tunnels, c.Messages, c.Size)},
		{Name: "idle connections", Value: strings.Join(counts, ", ") + fmt.Sprintf(", settled for %v to %v", c.Settle, settleMost*c.Settle)},
		{Name: "TLS", Value: "ECDSA P-256 certificate; clients of Go's crypto/tls, which take TLS 1.3"},
		{Name: "HTTP backend", Value: backend},
		{Name: "WebSocket backend", Value: "tickload ws-backend, echoes"},
		{Name: "load tool", Value: "this process, on the same machine"},
		{Name: "gateways", Value: "X-Forwarded-For, -Proto and -Host sent, connections to the backend kept, no access log; configurations below"},
	}
}

// cpuNote says how far the two readings of CPU time are apart.
func cpuNote(r *report.Report) []string {
	checks := Checks(r)
	if len(checks) == 0 {
		return nil
	}
	worst := slices.MaxFunc(checks, func(a, b CPUCheck) int { return cmp.Compare(math.Abs(a.Apart()), math.Abs(b.Apart())) })
	return []string{fmt.Sprintf("CPU time was read from /proc/PID/stat and, once more, from /proc/PID/task/*/schedstat. The medians of both are at most %.1f %% apart (%s, %s, %s: %.2f and %.2f µs).",
		math.Abs(worst.Apart())*100, worst.Scenario, worst.Figure, worst.Peer, worst.Stat, worst.Threads)}
}

// CPUCheck holds both readings of a gateway's CPU time per request, message or handshake, in microseconds, against
// each other: medians of all rounds.
type CPUCheck struct {
	Scenario, Figure, Peer string
	Stat, Threads          float64
}

// Apart is by which share the second reading differs from the first.
func (c CPUCheck) Apart() float64 { return c.Threads/c.Stat - 1 }

// Checks finds both readings in a report.
func Checks(r *report.Report) (all []CPUCheck) {
	for _, s := range r.Sections {
		rows := make(map[string]report.Row)
		for _, row := range s.Rows {
			rows[row.Name] = row
		}
		for _, row := range s.Rows {
			again := rows[row.Name+secondReading]
			for _, p := range r.Peers {
				first, second := finite(row.Rounds[p.ID]), finite(again.Rounds[p.ID])
				if len(first) > 0 && len(second) > 0 {
					all = append(all, CPUCheck{s.ID, row.Name, p.ID, median(first), median(second)})
				}
			}
		}
	}
	return all
}

// finite leaves gaps out.
func finite(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}
