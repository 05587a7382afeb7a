package meter

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// WritePrometheus writes all metrics in the Prometheus text format: those of this package,
// of the added sets, and the process's own (go_*, process_*). Series of one name stand
// together, under their HELP and TYPE where they are described.
func (m *Meter) WritePrometheus(w io.Writer) error {
	m.mu.Lock()
	m.dropUnusedLocked()
	routes := sortedValues(m.routes)
	listeners := sortedValues(m.listeners)
	tunnels := sortedValues(m.tunnels)
	source := m.source
	sets := m.sets
	descs := maps.Clone(m.descs)
	m.mu.Unlock()

	var text bytes.Buffer
	m.writeRequests(&text, routes)
	m.writeConns(&text, listeners, &source)
	m.writeTunnels(&text, tunnels, &source)
	m.tls.write(&text)
	m.writeReloads(&text)
	m.writeProcess(&text)
	for _, s := range sets {
		s.WritePrometheus(&text)
	}
	metrics.WriteProcessMetrics(&text)
	return regroup(w, text.Bytes(), descs)
}

func sortedValues[V any](m map[string]V) []V {
	values := make([]V, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[key])
	}
	return values
}

func (m *Meter) dropUnusedLocked() {
	for name, c := range m.listeners {
		if c.unusedLocked() {
			delete(m.listeners, name)
		}
	}
	for name, t := range m.tunnels {
		if t.unusedLocked() {
			delete(m.tunnels, name)
		}
	}
}

// totals is the sum of all shards.
type totals struct {
	ends   []uint64
	phases [numPhases]histogram
	cells  []cell // by position in the list of routes
}

// collect adds the shards up. Each is locked for as long as it takes to copy it.
func (m *Meter) collect(routes []*Route) *totals {
	t := &totals{ends: make([]uint64, len(m.reasons)), cells: make([]cell, len(routes))}
	for _, s := range m.shards {
		s.mu.Lock()
		for i, n := range s.ends {
			t.ends[i] += n
		}
		for i := range s.phases {
			t.phases[i].merge(&s.phases[i])
		}
		for i, r := range routes {
			t.cells[i].merge(&r.cells[s.index])
		}
		s.mu.Unlock()
	}
	return t
}

func (c *cell) merge(o *cell) {
	for i, n := range o.ok {
		c.ok[i] += n
	}
	c.in += o.in
	c.out += o.out
	c.duration.merge(&o.duration)
}

func (m *Meter) writeRequests(w *bytes.Buffer, routes []*Route) {
	t := m.collect(routes)
	for i, r := range routes {
		c := &t.cells[i]
		label := Label("route", r.name)
		r.writeCounts(w, c, label)
		writeHistogram(w, "tickgate_request_duration_seconds", label, &c.duration)
		fmt.Fprintf(w, "tickgate_request_body_bytes_total{%s} %d\n", label, c.in)
		fmt.Fprintf(w, "tickgate_response_body_bytes_total{%s} %d\n", label, c.out)
	}
	for i, n := range t.ends {
		fmt.Fprintf(w, "tickgate_request_ends_total{reason=%q} %d\n", m.reasons[i], n)
	}
	for i := range t.phases {
		writeHistogram(w, "tickgate_request_phase_seconds", Label("phase", phaseWords[i]), &t.phases[i])
	}
}

func (r *Route) writeCounts(w *bytes.Buffer, c *cell, label string) {
	const line = "tickgate_requests_total{%s,code=%q,reason=%q} %d\n"
	for class, n := range c.ok {
		fmt.Fprintf(w, line, label, classWords[class], "ok", n)
	}
	reasons := r.meter.reasons
	for i := range r.rare {
		if n := r.rare[i].Load(); n != nil {
			fmt.Fprintf(w, line, label, classWords[i/len(reasons)], reasons[i%len(reasons)], n.Load())
		}
	}
}

func writeHistogram(w *bytes.Buffer, name, label string, h *histogram) {
	count := uint64(0)
	for i, n := range h.counts {
		count += n
		fmt.Fprintf(w, "%s_bucket{%s,le=%q} %d\n", name, label, boundLabels[i], count)
	}
	fmt.Fprintf(w, "%s_sum{%s} %g\n", name, label, float64(h.sum)/float64(time.Second))
	fmt.Fprintf(w, "%s_count{%s} %d\n", name, label, count)
}

func (m *Meter) writeConns(w *bytes.Buffer, listeners []*Conns, source *Source) {
	draining := map[string]int64{}
	if source.Draining != nil {
		source.Draining(func(listener string, n int) { draining[listener] += int64(n) })
	}
	for _, c := range listeners {
		label := Label("listener", c.name)
		for s := range numConnStates {
			n := c.states[s].Load()
			switch told := min(draining[c.name], c.states[Relayed].Load()); s {
			case Relayed:
				n -= told
			case Draining:
				n += told
			}
			fmt.Fprintf(w, "tickgate_connections{%s,state=%q} %d\n", label, s, n)
		}
		fmt.Fprintf(w, "tickgate_connections_total{%s} %d\n", label, c.total.Load())
	}
	for i, r := range m.reasons {
		fmt.Fprintf(w, "tickgate_connection_ends_total{reason=%q} %d\n", r, m.connEnds[i].Load())
	}
}

func (m *Meter) writeReloads(w *bytes.Buffer) {
	r := &m.reload
	success := 1
	if r.lastFailed.Load() {
		success = 0
	}
	fmt.Fprintf(w, "tickgate_snapshot_generation %d\n", r.generation.Load())
	fmt.Fprintf(w, "tickgate_reload_last_success %d\n", success)
	fmt.Fprintf(w, "tickgate_reload_last_success_timestamp_seconds %d\n", r.lastOK.Load()/int64(time.Second))
	fmt.Fprintf(w, "tickgate_reloads_total{result=\"ok\"} %d\n", r.ok.Load())
	fmt.Fprintf(w, "tickgate_reloads_total{result=\"failed\"} %d\n", r.failed.Load())
}

// writeProcess writes the process's figures. Where the platform does not tell the number of
// open files, "other" is 0.
func (m *Meter) writeProcess(w *bytes.Buffer) {
	const line = "tickgate_process_open_fds{kind=%q} %d\n"
	fmt.Fprintf(w, line, "client", m.FDs.Client.Load())
	fmt.Fprintf(w, line, "backend", m.FDs.Backend.Load())
	fmt.Fprintf(w, line, "listener", m.FDs.Listener.Load())
	open, err := openFDs()
	if err != nil {
		open = 0
	}
	fmt.Fprintf(w, line, "other", m.FDs.other(open))
	if limit, err := maxFDs(); err == nil {
		fmt.Fprintf(w, "tickgate_process_max_fds %d\n", limit)
	}
	fmt.Fprintf(w, "tickgate_build_info{%s,%s} 1\n", Label("version", m.version), Label("go", runtime.Version()))
}

// labelEscaper escapes a label value as the text format wants it.
var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Label returns name="value" with the value escaped, for the name of a metric. Bytes that
// are not UTF-8 become U+FFFD, as a scraper would refuse the whole page for them.
func Label(name, value string) string {
	return name + `="` + labelEscaper.Replace(strings.ToValidUTF8(value, "\ufffd")) + `"`
}

// regroup writes the series in text sorted by metric, which the text format demands, with
// HELP and TYPE before those that have a description.
func regroup(w io.Writer, text []byte, descs map[string]Desc) error {
	families := make(map[string][]byte)
	for line := range bytes.Lines(text) {
		if line[0] == '#' || line[0] == '\n' {
			continue
		}
		name := familyOf(line, descs)
		families[name] = append(families[name], line...)
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if err := writeFamily(w, name, families[name], descs); err != nil {
			return err
		}
	}
	return nil
}

// familyOf returns the metric that a line belongs to: its name up to the labels, and for a
// described histogram without _bucket, _sum and _count.
func familyOf(line []byte, descs map[string]Desc) string {
	name := string(line)
	if i := bytes.IndexAny(line, "{ "); i >= 0 {
		name = string(line[:i])
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && descs[base].Type == "histogram" {
			return base
		}
	}
	return name
}

func writeFamily(w io.Writer, name string, lines []byte, descs map[string]Desc) error {
	if d, ok := descs[name]; ok {
		help := strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(d.Help)
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, d.Type); err != nil {
			return err
		}
	}
	_, err := w.Write(lines)
	return err
}
