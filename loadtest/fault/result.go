package fault

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/sheet"
)

// StepResult is what came of one step.
type StepResult struct {
	Name string `json:"name"`
	// Seconds from the beginning of the run to that of the step, how long its faults lasted,
	// and how long it was with what settled.
	Began   float64 `json:"began_s"`
	Faults  float64 `json:"faults_s"`
	Seconds float64 `json:"seconds"`
	// What clients saw; nil without a load of that kind.
	Requests *Stats `json:"requests,omitempty"`
	Tunnels  *Stats `json:"tunnels,omitempty"`
	// Metrics that the step asked for.
	Metrics []MetricSeen `json:"metrics,omitempty"`
	// Unmet says which expectations were not met, in a sentence each.
	Unmet []string `json:"unmet,omitempty"`

	step  *Step
	stage *stage
}

// MetricSeen is the value of a metric that was asked for.
type MetricSeen struct {
	Name  string  `json:"name"`
	Of    string  `json:"of"`
	Value float64 `json:"value"`
}

// Result is what came of a scenario.
type Result struct {
	Name    string        `json:"name"`
	Passed  bool          `json:"passed"`
	Seconds float64       `json:"seconds"`
	Scale   float64       `json:"scale"`
	Steps   []*StepResult `json:"steps"`
	// Background is what httpload says of the background load.
	Background *httpload.Result `json:"background,omitempty"`
	// Proxies by name, and the questions to the name server.
	Proxies   map[string]Counts `json:"proxies,omitempty"`
	Questions int64             `json:"dns_questions,omitempty"`
	// GatewayLog is the end of the log of a gateway that was started, if the scenario failed.
	GatewayLog string `json:"gateway_log,omitempty"`
}

// result sums up, when the load has ended.
func (r *play) result() *Result {
	out := &Result{
		Name: r.scenario.Name, Passed: true, Seconds: time.Since(r.began).Seconds(), Scale: r.Scale, Steps: r.steps, Proxies: make(map[string]Counts),
		Background: r.background,
	}
	for name, p := range r.proxies {
		out.Proxies[name] = p.Counts()
	}
	if r.dns != nil {
		out.Questions = r.dns.Questions()
	}
	load := &r.scenario.Load
	for _, s := range r.steps {
		if load.Rate > 0 {
			s.Requests = s.stage.stats[requests]
			s.judge("requests", s.Requests, &s.step.Expect)
		}
		if load.Tunnels != nil {
			s.Tunnels = s.stage.stats[tunnels]
			s.judge("tunnels", s.Tunnels, &s.step.ExpectTunnels)
		}
		out.Passed = out.Passed && len(s.Unmet) == 0
	}
	if !out.Passed && r.gateway.cmd != nil {
		out.GatewayLog = r.gateway.log.String()
	}
	return out
}

// judge holds what was seen against what was expected.
func (s *StepResult) judge(what string, got *Stats, want *Expect) {
	got.Latency = got.times.Summary()
	unmet := func(format string, args ...any) { s.Unmet = append(s.Unmet, what+": "+fmt.Sprintf(format, args...)) }
	if got.OK < int64(want.MinOK) {
		unmet("%d ended well (want at least min_ok=%d)", got.OK, want.MinOK)
	}
	if share := got.ErrorPercent(); share > float64(want.MaxErrorPercent) {
		unmet("%.2f %% errors (want at most max_error_percent=%d); such as: %s", share, want.MaxErrorPercent, got.Example)
	} else if share < float64(want.MinErrorPercent) {
		unmet("%.2f %% errors (want at least min_error_percent=%d)", share, want.MinErrorPercent)
	}
	for _, status := range slices.Sorted(maps.Keys(got.Statuses)) {
		if len(want.Statuses) > 0 && !slices.Contains(want.Statuses, status) {
			unmet("%d with status %d (want statuses=%v)", got.Statuses[status], status, want.Statuses)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(got.Errors)) {
		if len(want.Kinds) > 0 && !slices.Contains(want.Kinds, kind) {
			unmet("%d errors of kind %s (want kinds=%v)", got.Errors[kind], kind, want.Kinds)
		}
	}
	if p99 := micros(got.Latency.P99); want.MaxP99 > 0 && (p99 > want.MaxP99 || got.OK == 0) {
		unmet("p99 is %v of %d (want at most max_p99=%v)", p99, got.OK, want.MaxP99)
	}
	if p50 := micros(got.Latency.P50); want.MinP50 > 0 && p50 < want.MinP50 {
		unmet("p50 is %v (want at least min_p50=%v: the fault was not felt)", p50, want.MinP50)
	}
	s.judgeRecovery(got, want, unmet)
}

func (s *StepResult) judgeRecovery(got *Stats, want *Expect, unmet func(string, ...any)) {
	switch {
	case want.RecoverWithin == 0:
	case got.Recovered == nil:
		unmet("did not recover (want recover_within=%v)", want.RecoverWithin)
	case *got.Recovered > want.RecoverWithin.Seconds():
		unmet("recovered after %.2f s (want recover_within=%v)", *got.Recovered, want.RecoverWithin)
	}
}

func micros(us float64) time.Duration { return time.Duration(us * 1e3).Round(time.Microsecond) }

// compare are the operators of metrics.
var compare = map[string]func(a, b float64) bool{
	">=": func(a, b float64) bool { return a >= b },
	"<=": func(a, b float64) bool { return a <= b },
	"==": func(a, b float64) bool { return a == b },
	">":  func(a, b float64) bool { return a > b },
	"<":  func(a, b float64) bool { return a < b },
}

// readMetrics takes the metrics that the step asked for from two expositions.
func (s *StepResult) readMetrics(r *play, before, after string) {
	for _, want := range s.step.Metrics {
		name := expand(want.Name, r.names)
		metric, err := parseSeries(name)
		if err != nil {
			s.Unmet = append(s.Unmet, err.Error())
			continue
		}
		value := metric.sum(after)
		if want.Of != "value" {
			value -= metric.sum(before)
		}
		s.Metrics = append(s.Metrics, MetricSeen{name, want.Of, value})
		if !compare[want.Op](value, float64(want.Value)) {
			s.Unmet = append(s.Unmet, fmt.Sprintf("metric %s: %s is %v (want %s %d)", name, want.Of, value, want.Op, want.Value))
		}
	}
}

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Name)
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "\n%s %s (%.1f s, faults for %.1f s)\n", mark(len(s.Unmet) == 0), s.Name, s.Seconds, s.Faults)
		s.Requests.write(&b, "requests")
		s.Tunnels.write(&b, "tunnels")
		for _, m := range s.Metrics {
			fmt.Fprintf(&b, "     %-9s %s of %s: %v\n", "metric", m.Of, m.Name, m.Value)
		}
		for _, text := range s.Unmet {
			fmt.Fprintf(&b, "     %-9s %s\n", "NOT MET", text)
		}
	}
	fmt.Fprintln(&b)
	if g := r.Background; g != nil {
		fmt.Fprintf(&b, "background: %d due, %d well%s, p99 %v\n", g.Due, g.OK, counts(" errors", g.Errors), micros(g.Latency.P99))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Proxies)) {
		fmt.Fprintf(&b, "proxy %s: %s\n", name, r.Proxies[name])
	}
	if r.GatewayLog != "" {
		fmt.Fprintf(&b, "\nlog of the gateway:\n%s\n", indent(lastLines(r.GatewayLog, 20)))
	}
	fmt.Fprintf(&b, "\n%s in %.1f s\n", strings.TrimSpace(mark(r.Passed)), r.Seconds)
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func mark(passed bool) string {
	if passed {
		return "PASS"
	}
	return "FAIL"
}

// write writes what was seen of one kind of load.
func (s *Stats) write(b *strings.Builder, what string) {
	if s == nil {
		return
	}
	fmt.Fprintf(b, "     %-9s %d, %d well, %.2f %% errors%s%s\n", what, s.Count, s.OK, s.ErrorPercent(), counts(" errors", s.Errors), counts(" statuses", s.Statuses))
	fmt.Fprintf(b, "     %-9s p50 %v  p99 %v  max %v\n", "latency", micros(s.Latency.P50), micros(s.Latency.P99), micros(s.Latency.Max))
	if s.FirstError != nil {
		fmt.Fprintf(b, "     %-9s first after %.2f s, last after %.2f s: %s\n", "errors", *s.FirstError, *s.LastError, s.Example)
	}
	if s.UnderWay > 0 {
		fmt.Fprintf(b, "     %-9s %d when the next step began, not counted\n", "under way", s.UnderWay)
	}
	if s.Recovered != nil {
		fmt.Fprintf(b, "     %-9s after %.3f s\n", "recovered", *s.Recovered)
	}
}

// counts writes counts by name, sorted.
func counts[K cmp.Ordered](what string, m map[K]int64) string {
	if len(m) == 0 {
		return ""
	}
	return "," + what + " {" + sheet.Counts(m) + "}"
}

// String writes what is not 0.
func (c Counts) String() string {
	text := fmt.Sprintf("%d connections, %d bytes to the target, %d to the client", c.Accepted, c.ToTarget, c.ToClient)
	for _, part := range []struct {
		n    int64
		what string
	}{
		{c.Reset, "reset"},
		{c.Lost, "lost their other end"},
		{c.VanishFailed, "of them could not vanish"},
		{c.Handshakes, "handshakes failed"},
		{c.Flipped, "bytes flipped"},
		{c.Truncated, "truncated"},
		{c.Answered, "requests answered"},
		{c.DialFailed, "not taken by the target"},
		{c.TooMany, "too many"},
	} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

// lastLines returns the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
