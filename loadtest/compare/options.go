package compare

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/peer"
	"tickgate/loadtest/wsload"
)

// ErrOptions is returned for options that make no comparison.
var ErrOptions = errors.New("compare: bad options")

// ErrNoPeer is returned if none of the gateways is installed.
var ErrNoPeer = errors.New("compare: no gateway to measure")

// Contender is one of the compared gateways. The same kind may be there twice: what is then found
// different is noise.
type Contender struct {
	ID   string // in the report; of one contender only
	Kind peer.Kind
}

// ParsePeers reads names of gateways with commas between; "" is all.
func ParsePeers(list string) ([]Contender, error) {
	names := strings.Split(list, ",")
	if list == "" {
		names = nil
		for _, k := range peer.Kinds {
			names = append(names, k.String())
		}
	}
	var all []Contender
	for _, name := range names {
		kind, err := peer.Parse(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		id := kind.String()
		for n := 2; slices.ContainsFunc(all, func(c Contender) bool { return c.ID == id }); n++ {
			id = fmt.Sprintf("%s-%d", kind, n)
		}
		all = append(all, Contender{id, kind})
	}
	return all, nil
}

// Backend is what serves the HTTP responses behind the gateways.
type Backend string

// The backends.
const (
	AnyBackend Backend = ""         // nginx if it is installed, or else tickload
	NginxFile  Backend = "nginx"    // a file of 1 KiB, served by Debian's nginx
	OwnBackend Backend = "tickload" // tickload backend
)

// Options configures a comparison. Zero values are the defaults; Peers, Programs and Dir have none.
type Options struct {
	// Peers are measured in this order; the first is what the others are held against.
	Peers []Contender
	// Scenarios by name; nil is all.
	Scenarios []string
	// Rounds of each scenario, 0 is three; MainRounds of the first one, http, 0 is two more.
	Rounds, MainRounds int
	// Duration of a measured window, 0 is two and a half seconds; Warmup goes before, 0 is a quarter of that.
	Duration, Warmup time.Duration

	// Conns is the number of kept connections of http, https and open; 0 is 64.
	Conns int
	// Rate of requests a second in open; 0 is 5000.
	Rate float64
	// Tunnels of ws and wss, 0 is 1000, over which Messages a second are sent, 0 is 5000, and come back
	// as echoes. Size of one in bytes, 0 is 200.
	Tunnels  int
	Messages float64
	Size     int
	// IdleCounts are the numbers of idle connections, and of idle tunnels, at which memory is read;
	// nil is 100, 1000 and 4000, or as many as MaxFDs allows. Connections of four kinds are open at the same time.
	IdleCounts []int
	// Settle is how long they idle before, at the least; 0 is four seconds, in which a garbage
	// collector that waits for quiet has had its turn. At the most it is twice that.
	Settle time.Duration

	// Workers are the processes of nginx, the threads of HAProxy and the Go processors of the others; 0
	// is the number of processors.
	Workers int
	// MaxFDs is how many descriptors a process may open; 0 is 20000, or what the system allows.
	MaxFDs int
	// Port is where free ports of 127.0.0.1 are looked for; 0 is 22600.
	Port int
	// Backend behind the gateways.
	Backend Backend
	// Programs are our own; Dir is a folder for what the gateways need.
	Programs peer.Programs
	Dir      string
	// Command is what to run to have the same again, for the report.
	Command string
	// Progress is called when a turn begins; nil is silent.
	Progress func(Progress)
}

// Progress is where a comparison is.
type Progress struct {
	Text string // as in "http, round 2 of 5, nginx"
	Left time.Duration
}

// spareFDs are the descriptors of a process besides its connections.
const spareFDs = 500

// check fills in the defaults and tells what is wrong.
func (o *Options) check() error {
	o.Rounds = cmp.Or(o.Rounds, 3)
	o.MainRounds = cmp.Or(o.MainRounds, o.Rounds+2)
	o.Duration = cmp.Or(o.Duration, 2500*time.Millisecond)
	o.Warmup = cmp.Or(o.Warmup, o.Duration/4)
	o.Conns, o.Rate = cmp.Or(o.Conns, 64), cmp.Or(o.Rate, 5000)
	o.Tunnels, o.Messages, o.Size = cmp.Or(o.Tunnels, 1000), cmp.Or(o.Messages, 5000), cmp.Or(o.Size, 200)
	o.Settle = cmp.Or(o.Settle, 4*time.Second)
	o.Workers, o.MaxFDs, o.Port = cmp.Or(o.Workers, runtime.NumCPU()), cmp.Or(o.MaxFDs, mostFDs()), cmp.Or(o.Port, 22600)
	if o.IdleCounts == nil {
		o.IdleCounts = idleCounts(o.MaxFDs)
	}
	if o.Scenarios == nil {
		o.Scenarios = ScenarioNames()
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return fmt.Errorf("find folder: %w", err)
	}
	return o.checkValues()
}

// idleCounts are the default ones.
func idleCounts(maxFDs int) []int {
	const few, some, many = 100, 1000, 4000
	last := min(many, (maxFDs-spareFDs)/len(idleKinds))
	if last <= some {
		return []int{few, last}
	}
	return []int{few, some, last}
}

func (o *Options) checkValues() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...)
	}
	most := slices.Max(append([]int{0}, o.IdleCounts...))
	switch {
	case len(o.Peers) == 0:
		return wrong("no peers")
	case min(o.Rounds, o.MainRounds, o.Conns, o.Tunnels, o.Workers, o.MaxFDs, o.Port) < 1 || o.Rate <= 0 || o.Messages <= 0:
		return wrong("a number below 1")
	case min(o.Duration, o.Warmup, o.Settle) <= 0:
		return wrong("a time that is not positive")
	case o.Size < wsload.MinSize:
		return wrong("messages of %d bytes (want at least %d)", o.Size, wsload.MinSize)
	case len(o.IdleCounts) < 2 || !slices.IsSorted(o.IdleCounts) || len(slices.Compact(slices.Clone(o.IdleCounts))) != len(o.IdleCounts) || o.IdleCounts[0] < 1:
		return wrong("counts of idle connections %v (want two or more, rising from 1)", o.IdleCounts)
	case len(idleKinds)*most+spareFDs > o.MaxFDs:
		return wrong("%d idle connections of %d kinds need more than %d descriptors", most, len(idleKinds), o.MaxFDs)
	case !slices.Contains([]Backend{AnyBackend, NginxFile, OwnBackend}, o.Backend):
		return wrong("backend %q (want %s or %s)", o.Backend, NginxFile, OwnBackend)
	}
	for _, name := range o.Scenarios {
		if scenarioOf(name) == nil {
			return wrong("scenario %q (want one of %v)", name, ScenarioNames())
		}
	}
	if info, err := os.Stat(o.Dir); err != nil || !info.IsDir() {
		return wrong("%q is no folder", o.Dir)
	}
	return nil
}
