package compare

import (
	"context"
	"slices"

	"tickgate/loadtest/latency"
)

// scenario is one kind of work.
type scenario struct {
	id, title string
	about     func(o *Options) string
	main      bool // has more rounds
	secure    bool // clients speak TLS
	open      bool // at a rate, whatever the gateway does
	figures   []figure
	// seconds is about how long one turn takes.
	seconds func(o *Options) float64
	// measure is one turn of one gateway.
	measure func(ctx context.Context, t *turn) (*sample, error)
}

// figure is one row of a scenario.
type figure struct {
	name, unit string
	higher     bool // more is better
	judged     bool
	key        bool // on top of the page
	// pace figures are the tool's own where it could not keep up, and then not judged.
	pace bool
}

// scenarios in the order in which they are run.
var scenarios = []*scenario{&plainHTTP, &secureHTTP, &openLoop, &plainWS, &secureWS, &handshaking, &idling}

// ScenarioNames lists what Options.Scenarios may hold.
func ScenarioNames() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.id)
	}
	return names
}

// scenarioOf returns the scenario of a name, or nil.
func scenarioOf(name string) *scenario {
	i := slices.IndexFunc(scenarios, func(s *scenario) bool { return s.id == name })
	if i < 0 {
		return nil
	}
	return scenarios[i]
}

// sample is what one turn showed.
type sample struct {
	// values by the name of their figure; what is missing is a gap.
	values map[string]float64
	// curve is the latency by quantile, perSecond the work done in each second.
	curve     []latency.Point
	perSecond []float64
	// memory by kind of idle connection.
	memory map[string][]memoryAt
	// flaws are what went wrong, and the figures are there all the same; bottleneck says why the tool
	// limited the run.
	flaws      []string
	bottleneck string
}

// memoryAt is the PSS in bytes with a number of idle connections.
type memoryAt struct {
	conns int
	bytes int64
}

func newSample() *sample {
	return &sample{values: make(map[string]float64), memory: make(map[string][]memoryAt)}
}

// Names of figures that more than one scenario has.
const (
	cpuPerRequest     = "CPU per request"
	cpuPerMessage     = "CPU per message"
	secondReading     = " (second reading)" // behind the name of a CPU time
	requestsASecond   = "requests a second"
	latency50         = "latency p50"
	latency99         = "latency p99"
	latency999        = "latency p99.9"
	latency9999       = "latency p99.99"
	memoryUnderLoad   = "memory under load"
	failedRequests    = "failed requests"
	cpuOfTool         = "CPU of the load tool"
	lateSends         = "sent late p99"
	lostMessages      = "lost messages"
	failedTunnels     = "failed tunnels"
	failedConnections = "failed connections"
	startSeconds      = 0.6 // start, first answer and end of a gateway, for estimates
	microsecond       = 1e6 // in a second
	bytesInAMebibyte  = 1 << 20
)

// latencies adds the quantiles in milliseconds.
func (s *sample) latencies(l latency.Summary) {
	s.values[latency50], s.values[latency99], s.values[latency999], s.values[latency9999] = l.P50/1e3, l.P99/1e3, l.P999/1e3, l.P9999/1e3
}
