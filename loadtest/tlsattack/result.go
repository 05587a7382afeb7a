package tlsattack

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/sheet"
	"tickgate/loadtest/target"
)

// End is what became of a connection.
type End uint8

// The ends.
const (
	HungUp         End = iota // ended by this side: it had its answer, or the run was over
	Alerted                   // the server sent an alert in place of a ServerHello
	Closed                    // the server closed: FIN
	Reset                     // the server closed: RST
	Odd                       // the server sent what is no TLS
	Unanswered                // nothing came in time, and the server did not close either
	ConnectRefused            // RST in answer to SYN
	ConnectTimeout            // no answer to SYN
	NoLocalPort               // no port or descriptor left here; see target.Options.Sources
	ConnectFailed             // any other way
	numEnds
)

var endNames = [numEnds]string{
	"hung_up", "alert", "closed", "reset", "odd", "unanswered", "connect_refused", "connect_timeout", "no_local_port", "connect_failed",
}

// String returns the word of results.
func (e End) String() string {
	if e >= numEnds {
		return fmt.Sprintf("end_%d", uint8(e))
	}
	return endNames[e]
}

// connectFailure tells errors of connecting apart.
func connectFailure(err error) End {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectRefused
	case target.IsShortage(err):
		return NoLocalPort
	case target.IsTimeout(err):
		return ConnectTimeout
	default:
		return ConnectFailed
	}
}

// Result is what a run showed.
type Result struct {
	Kind    string  `json:"kind"`
	Seconds float64 `json:"seconds"`
	// Begun connections, and how many a second. HeldBack of a flood were due while as many as Options.Conns were under way.
	Begun     int64   `json:"begun"`
	PerSecond float64 `json:"per_second"`
	HeldBack  int64   `json:"held_back"`
	// Served connections got a ServerHello: the server did its share of a handshake.
	Served int64 `json:"served"`
	// Ends of all that were begun, and the alerts among them by name.
	Ends   map[string]int64 `json:"ends"`
	Alerts map[string]int64 `json:"alerts,omitempty"`
	// MostOpen is how many were open at a time. Lasted is how long those were that the server ended.
	MostOpen int64           `json:"most_open"`
	Lasted   latency.Summary `json:"lasted"`
	// UnansweredNumbers are the first few mutants that the server neither answered nor ended.
	UnansweredNumbers []int `json:"unanswered_numbers,omitempty"`
	// CPUSeconds of this process, and CPUMicros of it for each connection.
	CPUSeconds float64 `json:"cpu_seconds"`
	CPUMicros  float64 `json:"cpu_us_per_connection"`
	// Bottleneck says why the attack was not what it should have been; "" if it was.
	Bottleneck string `json:"bottleneck,omitempty"`
	FirstError string `json:"first_error,omitempty"`
}

// Progress is what a run has come to.
type Progress struct {
	Elapsed             time.Duration
	Begun, Open, Served int64
}

// String writes a line for people.
func (p Progress) String() string {
	return fmt.Sprintf("%3.0f s  %d begun, %d open, %d served", p.Elapsed.Seconds(), p.Begun, p.Open, p.Served)
}

// mostNumbers bounds Result.UnansweredNumbers.
const mostNumbers = 20

// tally adds up what becomes of connections.
type tally struct {
	meter  target.Meter
	lasted latency.Histogram

	mu       sync.Mutex
	begun    int64           // guarded by mu, as all below
	open     int64           //
	most     int64           // open at a time
	served   int64           //
	heldBack int64           //
	ends     [numEnds]int64  //
	alerts   map[uint8]int64 //
	numbers  []int           // of unanswered mutants
	first    string          // text of the first error
}

// outcome is what became of one connection.
type outcome struct {
	number int // of a mutant, or below 0
	end    End
	alert  uint8 // of Alerted
	served bool
	err    error // of connecting
	lasted time.Duration
}

func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun++
	t.open++
	t.most = max(t.most, t.open)
}

func (t *tally) add(o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
	t.ends[o.end]++
	if o.served {
		t.served++
	}
	switch o.end {
	case Alerted:
		t.alerts[o.alert]++
	case Unanswered:
		if o.number >= 0 && len(t.numbers) < mostNumbers {
			t.numbers = append(t.numbers, o.number)
		}
	}
	if o.err != nil && t.first == "" {
		t.first = o.err.Error()
	}
	if o.end >= Alerted && o.end <= Odd {
		t.lasted.Add(o.lasted)
	}
}

func (t *tally) holdBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heldBack++
}

func (t *tally) progress(elapsed time.Duration) Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Progress{elapsed, t.begun, t.open, t.served}
}

// result sums a run up; all connections have ended.
func (r *run) result() *Result {
	t := &r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	cost := t.meter.Cost()
	result := &Result{
		Kind: r.Kind.String(), Seconds: r.took.Seconds(), Begun: t.begun, HeldBack: t.heldBack, Served: t.served,
		Ends: make(map[string]int64), Alerts: make(map[string]int64), MostOpen: t.most, Lasted: t.lasted.Summary(),
		UnansweredNumbers: t.numbers, CPUSeconds: cost.CPU.Seconds(), CPUMicros: cost.Micros(t.begun), FirstError: t.first,
	}
	for e, n := range t.ends {
		if n > 0 {
			result.Ends[End(e).String()] = n //nolint:gosec // a handful
		}
	}
	for code, n := range t.alerts {
		result.Alerts[strings.TrimPrefix(tls.AlertError(code).Error(), "tls: ")] = n
	}
	if r.took > 0 {
		result.PerSecond = float64(t.begun) / r.took.Seconds()
	}
	result.Bottleneck = r.bottleneck(result)
	return result
}

// enough is the share of the rate, or of the connections, that an attack has to come to.
const enough = 0.9

// bottleneck says why the attack was less than what was asked for.
func (r *run) bottleneck(result *Result) string {
	switch {
	case r.Kind == Flood && result.PerSecond < enough*r.Rate:
		return fmt.Sprintf("%.0f connections a second were begun of %.0f", result.PerSecond, r.Rate)
	case r.Kind < Mutate && r.took > 0 && float64(result.MostOpen) < enough*float64(r.Conns):
		return fmt.Sprintf("at most %d connections of %d were open at a time", result.MostOpen, r.Conns)
	case result.Ends[NoLocalPort.String()] > 0:
		return "ports or descriptors of this side ran out: " + result.FirstError
	}
	return ""
}

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(12)
	s.Line(r.Kind, "%d connections begun in %.1f s: %.0f/s; at most %d open at a time", r.Begun, r.Seconds, r.PerSecond, r.MostOpen)
	s.Line("served", "%d got a ServerHello", r.Served)
	s.Line("ends", "%s", sheet.Counts(r.Ends))
	if len(r.Alerts) > 0 {
		s.Line("alerts", "%s", sheet.Counts(r.Alerts))
	}
	s.Line("lasted", "%v", r.Lasted)
	if r.HeldBack > 0 {
		s.Line("held back", "%d were due while all were under way", r.HeldBack)
	}
	if len(r.UnansweredNumbers) > 0 {
		s.Line("unanswered", "numbers %v", r.UnansweredNumbers)
	}
	s.Line("this tool", "%.2f s CPU, %.0f µs a connection", r.CPUSeconds, r.CPUMicros)
	s.End(r.FirstError, "the attack was weaker than asked for", r.Bottleneck)
	return s.WriteTo(w)
}
