package accept

import "fmt"

// Verdict is what became of a demand.
type Verdict uint8

// The verdicts. All but Passed count as not passed.
const (
	Passed Verdict = iota
	// Failed is a bound that was missed, something that was lost, or an item that could not be
	// carried out.
	Failed
	// Inconclusive is a bound of time or speed that was missed while something else than
	// the gateway had the machine: the load tool, the backends, other processes.
	Inconclusive
	// Unsupported is a demand for what the gateway does not have yet.
	Unsupported
	// NotRun is an item that was interrupted, or not begun.
	NotRun
)

var verdictNames = [...]string{"passed", "FAILED", "inconclusive", "not supported yet", "not run"}

// String returns the words of the table.
func (v Verdict) String() string { return verdictNames[v] }

// MarshalText writes the words of the table into JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Row is one demand, and what was found.
type Row struct {
	// Item is the ID of the item that it belongs to.
	Item string `json:"item"`
	// Demand says what is wanted, Method how it was measured, Figure what came out and Bound
	// what it was held against.
	Demand string `json:"demand"`
	Method string `json:"method"`
	Figure string `json:"figure"`
	Bound  string `json:"bound"`
	// Values are the figures as numbers, by names that end in their unit; shares of the
	// machine are from 0 to 1.
	Values  map[string]float64 `json:"values,omitempty"`
	Verdict Verdict            `json:"verdict"`
	// Why tells of every verdict but Passed where it comes from.
	Why string `json:"why,omitempty"`
}

// fail makes it failed, unless it is already: the first reason stays.
func (r *Row) fail(format string, args ...any) {
	if r.Verdict != Failed {
		r.Verdict, r.Why = Failed, fmt.Sprintf(format, args...)
	}
}

// miss notes a missed bound of time or speed. Contention says what else than the gateway
// may have set the figure, "" if nothing did. The first reason stays.
func (r *Row) miss(contention, format string, args ...any) {
	switch {
	case contention == "":
		r.fail(format, args...)
	case r.Verdict == Passed:
		r.Verdict, r.Why = Inconclusive, fmt.Sprintf(format, args...)+"; but "+contention
	}
}

// Outcome is what a whole run comes to.
type Outcome uint8

// The outcomes, the worst that applies.
const (
	AllPassed     Outcome = iota
	SomeMissing           // nothing failed or was inconclusive, but something is not supported yet
	SomeUncertain         // nothing failed, but something was inconclusive
	SomeFailed            // something failed, or was not run
)

// outcome sums up the rows.
func outcome(rows []Row) (worst Outcome) {
	for _, r := range rows {
		worst = max(worst, [...]Outcome{AllPassed, SomeFailed, SomeUncertain, SomeMissing, SomeFailed}[r.Verdict])
	}
	return worst
}
