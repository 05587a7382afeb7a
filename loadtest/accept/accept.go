package accept

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/peer"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("accept: bad options")

// Options configures a run.
type Options struct {
	// Tickgate and Tickload are the program files: what is examined, and the backends.
	Tickgate, Tickload string
	// Items are the IDs of those to carry out; nil is all.
	Items []string
	// Scale multiplies the durations, more than 0 and at most 1. None becomes shorter than
	// Shortest, 0 is two seconds.
	Scale    float64
	Shortest time.Duration
	// Rate is the rated load in requests a second; 0 measures what the machine holds.
	Rate float64
	// IgnoreSpeed makes every missed bound of time or speed inconclusive, for a machine whose
	// speed says nothing.
	IgnoreSpeed bool
	// FirstPort is where the search for free ports of 127.0.0.1 begins.
	FirstPort int
	// Dir is a folder for configurations and logs, which must exist.
	Dir string
	// Progress is called with what is done now; nil is silent.
	Progress func(string)
}

const (
	defaultShortest = 2 * time.Second
	maxPort         = 65_000
)

func (o *Options) check() error {
	if !(o.Scale > 0 && o.Scale <= 1) {
		return fmt.Errorf("%w: scale %v (want more than 0, and 1 at most)", ErrOptions, o.Scale)
	}
	if o.Rate < 0 || math.IsNaN(o.Rate) || math.IsInf(o.Rate, 0) {
		return fmt.Errorf("%w: %v requests a second", ErrOptions, o.Rate)
	}
	if o.FirstPort < 1 || o.FirstPort > maxPort {
		return fmt.Errorf("%w: port %d (want 1 to %d)", ErrOptions, o.FirstPort, maxPort)
	}
	for _, id := range o.Items {
		if !slices.Contains(IDs(), id) {
			return fmt.Errorf("%w: no item %q (there are %s)", ErrOptions, id, strings.Join(IDs(), ", "))
		}
	}
	if o.Shortest == 0 {
		o.Shortest = defaultShortest
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// item is one of the list.
type item struct {
	id, about string
	run       func(ctx context.Context, b *bench) ([]Row, error)
}

// items is the list, in the order in which it is carried out.
func items() []item {
	return []item{
		{"sustained", "sustained throughput without one error", sustained},
		{"burst", "a threefold burst over the rated load", burst},
		{"partition", "recovery after a backend partition", partition},
		{"switch", "switching a backend set under load", switchSets},
		{"tls", "TLS on every hop at the rated load", secureHops},
		{"handshake", "time of a TLS handshake", handshake},
		{"takeover", "take-over by a second process", takeOver},
		{"mixed", "quotes, orders and cancels 7:2:1", mixed},
		{"adaptive", "the adaptive concurrency limit under overload", adaptive},
	}
}

// IDs lists the items that there are.
func IDs() (ids []string) {
	for _, it := range items() {
		ids = append(ids, it.id)
	}
	return ids
}

// Result is the table, and what it was made with.
type Result struct {
	Made       time.Time `json:"made"`
	Gateway    string    `json:"gateway"` // with its version
	Processors int       `json:"processors"`
	Scale      float64   `json:"scale"`
	// Rated is the load that the items name, in requests a second, and ClosedLoop what the
	// gateway answered as fast as it went; 0 if no item needed it or it was given.
	Rated      float64 `json:"rated_per_second,omitempty"`
	ClosedLoop float64 `json:"closed_loop_per_second,omitempty"`
	Rows       []Row   `json:"rows"`
	Seconds    float64 `json:"seconds"`
	Outcome    Outcome `json:"-"`
}

// Run carries out the items one after another. An item that cannot be carried out has failed;
// the others go on. When ctx ends, what was not over has not been run. The error is ErrOptions
// or that of a program that is missing.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	named := peer.Programs{Tickgate: o.Tickgate, Tickload: o.Tickload}
	version, err := named.Version(ctx, peer.Tickgate)
	if err != nil {
		return nil, err
	}
	if err := named.Installed(peer.NetHTTP); err != nil { // the backends are of the same program
		return nil, err
	}
	p := programs{tickgate: o.Tickgate, tickload: o.Tickload, dir: o.Dir}
	return run(ctx, &bench{Options: o, parts: p.parts(), bounds: bounds{recoverWithin, servedWithin}}, version), nil
}

// run carries out the items on a bench.
func run(ctx context.Context, b *bench, version string) *Result {
	r := &Result{Made: time.Now().UTC(), Gateway: version, Processors: runtime.NumCPU(), Scale: b.Scale}
	list := slices.DeleteFunc(items(), func(it item) bool { return b.Items != nil && !slices.Contains(b.Items, it.id) })
	for i, it := range list {
		if ctx.Err() == nil {
			b.Progress(fmt.Sprintf("%d/%d %s: %s", i+1, len(list), it.id, it.about))
		}
		r.Rows = append(r.Rows, b.carryOut(ctx, it)...)
	}
	r.Rated, r.ClosedLoop = b.rated, b.closedLoop
	r.Seconds, r.Outcome = time.Since(r.Made).Seconds(), outcome(r.Rows)
	return r
}

// carryOut returns the rows of one item.
func (b *bench) carryOut(ctx context.Context, it item) []Row {
	row := Row{Item: it.id, Demand: it.about, Figure: "–", Bound: "–", Method: "–"}
	var rows []Row
	err := ctx.Err()
	if err == nil {
		rows, err = it.run(ctx, b)
	}
	switch {
	case ctx.Err() != nil:
		row.Verdict, row.Why = NotRun, "interrupted"
		return interrupted(rows, row)
	case err != nil:
		row.fail("%v", err)
		rows = append(rows, row)
	}
	for i := range rows {
		rows[i].Item = it.id
		b.Progress(fmt.Sprintf("  %s: %s", rows[i].Verdict, rows[i].Figure))
	}
	return rows
}

// interrupted shows the figures that there are of an item that was not over, or that it was not
// run.
func interrupted(rows []Row, none Row) []Row {
	if len(rows) == 0 {
		return []Row{none}
	}
	for i := range rows {
		rows[i].Item, rows[i].Verdict, rows[i].Why = none.Item, NotRun, "interrupted: the figure is of what was done until then"
	}
	return rows
}

// WorkDir makes a folder for Options.Dir.
func WorkDir() (string, error) {
	dir, err := os.MkdirTemp("", "tickload-accept-")
	if err != nil {
		return "", fmt.Errorf("make folder for logs: %w", err)
	}
	return filepath.Abs(dir)
}
