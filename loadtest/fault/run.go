package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tickgate/loadtest/fault/dnsflip"
	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// RunOptions says how to play a scenario.
type RunOptions struct {
	// Scale multiplies the times of steps (at, after, for, settle), not those of faults and
	// expectations; 0 is 1.
	Scale float64
	// Tickgate is the program to start; "" is $TICKGATE_BIN, the one beside this program, or
	// the one in PATH.
	Tickgate string
	// Progress is called with what goes on, on changes and once a second; nil is silent.
	Progress func(text string)
}

// Run plays a scenario: it starts backends, proxies, the name server and the gateway, keeps
// the load going, plays the steps, and stops everything. An error means that the scenario could
// not be played to its end; expectations that were not met are in the result.
func Run(ctx context.Context, s *Scenario, o RunOptions) (*Result, error) {
	if o.Scale == 0 {
		o.Scale = 1
	}
	if o.Scale < 0 {
		return nil, fmt.Errorf("%w: scale %v (want more than 0)", ErrScenario, o.Scale)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &play{
		RunOptions: o, scenario: s, proxies: make(map[string]*Proxy), backends: make(map[string]*backend), names: make(map[string]string),
		recorder: recorder{consecutive: max(1, s.Load.Consecutive)},
	}
	defer r.stop()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	if err := r.underLoad(ctx); err != nil {
		return nil, err
	}
	return r.result(), nil
}

// play is one run of a scenario. Its fields are those of the goroutine of Run; what the load
// shares is in the recorder.
type play struct {
	RunOptions
	scenario *Scenario

	dir      string
	names    map[string]string // values of placeholders
	backends map[string]*backend
	proxies  map[string]*Proxy
	dns      *dnsflip.Server
	gateway  *gateway

	recorder   recorder
	background *httpload.Result // set when the load has ended
	began      time.Time
	steps      []*StepResult
}

// start starts everything but the load.
func (r *play) start(ctx context.Context) error {
	var err error
	if r.dir, err = os.MkdirTemp("", "tickload-faults-"); err != nil {
		return fmt.Errorf("make a folder for certificates: %w", err)
	}
	if err := r.startBackends(); err != nil {
		return err
	}
	if err := r.startProxies(); err != nil {
		return err
	}
	if err := r.startDNS(); err != nil {
		return err
	}
	for _, name := range []string{"LISTEN", "ADMIN"} {
		if r.names[name], err = freeAddr(); err != nil {
			return err
		}
	}
	r.gateway, err = startGateway(ctx, &r.scenario.Gateway, r.Tickgate, r.dir, r.names)
	return err
}

// placeholder is the name that stands for an address.
func placeholder(kind, name string) string {
	return kind + "_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
}

func (r *play) startBackends() error {
	ca, err := newAuthority()
	if err != nil {
		return fmt.Errorf("make an authority: %w", err)
	}
	r.names["CA_FILE"] = filepath.Join(r.dir, "ca.pem")
	if err := os.WriteFile(r.names["CA_FILE"], ca.pem(), 0o600); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(r.scenario.Backends)) {
		spec := r.scenario.Backends[name]
		b, err := startBackend(name, &spec, ca)
		if err != nil {
			return err
		}
		r.backends[name] = b
		r.names[placeholder("BACKEND", name)] = b.addr
	}
	return nil
}

func (r *play) startProxies() error {
	for _, name := range slices.Sorted(maps.Keys(r.scenario.Proxies)) {
		spec := r.scenario.Proxies[name]
		o := Options{Listen: spec.Listen, Target: spec.Target, HTTP: r.scenario.follows(name)}
		if b := r.backends[spec.Backend]; b != nil {
			o.Target, o.Clock = b.addr, b.setClock
		}
		p, err := New(o)
		if err != nil {
			return fmt.Errorf("proxy %q: %w", name, err)
		}
		r.proxies[name] = p
		r.names[placeholder("PROXY", name)] = p.Addr()
	}
	return nil
}

func (r *play) startDNS() error {
	spec := r.scenario.DNS
	if spec == nil {
		return nil
	}
	var err error
	if r.dns, err = dnsflip.New(spec.Listen); err != nil {
		return err
	}
	r.names["DNS"] = r.dns.Addr()
	for name, answer := range spec.Names {
		if err := r.dns.Set(name, answer); err != nil {
			return fmt.Errorf("%w: %w", ErrScenario, err)
		}
	}
	return nil
}

// stop ends what start started.
func (r *play) stop() {
	if r.gateway != nil {
		r.gateway.stop()
	}
	for _, p := range r.proxies {
		p.Close()
	}
	if r.dns != nil {
		r.dns.Close()
	}
	for _, b := range r.backends {
		b.close()
	}
	_ = os.RemoveAll(r.dir)
}

// underLoad plays the steps while the load goes on, and waits for its end.
func (r *play) underLoad(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan error, loads+1)
	keep := func(going func() error) {
		wg.Go(func() {
			if err := going(); err != nil {
				failed <- fmt.Errorf("%w: load: %w", ErrScenario, err)
				cancel()
			}
		})
	}
	r.began = time.Now()
	r.startLoad(ctx, keep)
	wg.Go(func() { r.progress(ctx) })
	err := r.playSteps(ctx)
	cancel()
	wg.Wait()
	select {
	case failure := <-failed:
		return failure
	default:
		return err
	}
}

// startLoad has keep run each kind of load until ctx ends.
func (r *play) startLoad(ctx context.Context, keep func(going func() error)) {
	load := &r.scenario.Load
	trust := target.Options{Insecure: true}
	start := func(l kind, do func(context.Context, probe.Options) error, o probe.Options) {
		o.Observe = func(s probe.Sample) { r.recorder.observe(l, s) }
		keep(func() error { return do(ctx, o) })
	}
	if load.Rate > 0 {
		start(requests, probe.Requests, probe.Options{
			URL: r.gateway.url + load.Path, Target: trust, Rate: float64(load.Rate), Conns: load.Conns, Timeout: load.Timeout,
		})
	}
	if t := load.Tunnels; t != nil {
		url := "ws" + strings.TrimPrefix(r.gateway.url, "http")
		start(tunnels, probe.Tunnels, probe.Options{
			URL: url + t.Path, Target: trust, Rate: float64(t.Rate), Conns: t.Count, Timeout: t.Timeout,
		})
	}
	if b := load.Background; b != nil {
		keep(func() (err error) {
			r.background, err = httpload.Run(ctx, httpload.Options{
				URL: r.gateway.url + b.Path, Target: trust, Plan: pace.Constant(float64(b.Rate), longest), Conns: b.Conns, Timeout: b.Timeout,
			})
			return err
		})
	}
}

// longest is how long the background load goes on, unless the steps are over.
const longest = 24 * time.Hour

// progress tells once a second how the load does.
func (r *play) progress(ctx context.Context) {
	var lastTotal, lastBad int64
	for pace.Sleep(ctx, time.Second) {
		total, bad := r.recorder.counts()
		n, failed := total[requests]+total[tunnels], bad[requests]+bad[tunnels]
		r.Progress(fmt.Sprintf("%5.1f s  %d in the last second, %d of them in error", time.Since(r.began).Seconds(), n-lastTotal, failed-lastBad))
		lastTotal, lastBad = n, failed
	}
}

func (r *play) playSteps(ctx context.Context) error {
	last := r.began
	for i := range r.scenario.Steps {
		step := &r.scenario.Steps[i]
		if !pace.Until(ctx, last.Add(r.scaled(step.After))) || !pace.Until(ctx, r.began.Add(r.scaled(step.At))) {
			return ctx.Err()
		}
		if err := r.playStep(ctx, step); err != nil {
			return fmt.Errorf("step %q: %w", step.Name, err)
		}
		if err := r.gateway.alive(); err != nil {
			return fmt.Errorf("step %q: %w", step.Name, err)
		}
		last = time.Now()
	}
	return nil
}

func (r *play) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * r.Scale) }

// playStep sets a step's faults, takes them away when their time is over, and waits for
// what settles.
func (r *play) playStep(ctx context.Context, step *Step) error {
	before, err := r.metrics(ctx, step)
	if err != nil {
		return err
	}
	r.Progress(fmt.Sprintf("%5.1f s  %s: %s", time.Since(r.began).Seconds(), step.Name, step.what()))
	now := time.Now()
	res := &StepResult{Name: step.Name, Began: now.Sub(r.began).Seconds(), step: step, stage: r.recorder.begin(now)}
	r.steps = append(r.steps, res)
	undo, err := r.set(step)
	if err != nil {
		return err
	}
	if step.Keep && step.changes() {
		r.recorder.healed(res.stage, time.Now())
	}
	if !pace.Sleep(ctx, r.scaled(step.For)) {
		return ctx.Err()
	}
	if !step.Keep && step.changes() {
		if err := undo(); err != nil {
			return fmt.Errorf("end of the faults: %w", err)
		}
		r.recorder.healed(res.stage, time.Now())
	}
	res.Faults = time.Since(now).Seconds()
	if !pace.Sleep(ctx, r.scaled(step.Settle)) {
		return ctx.Err()
	}
	res.Seconds = time.Since(now).Seconds()
	after, err := r.metrics(ctx, step)
	if err != nil {
		return err
	}
	res.readMetrics(r, before, after)
	return nil
}

// changes says whether a step sets anything.
func (s *Step) changes() bool { return len(s.Faults)+len(s.DNS) > 0 }

// what says in a few words what a step sets.
func (s *Step) what() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Faults)) {
		parts = append(parts, "fault at "+name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.DNS)) {
		parts = append(parts, "other answer for "+name)
	}
	if len(parts) == 0 {
		return "nothing new"
	}
	return strings.Join(parts, ", ")
}

// set sets what a step wants; undo puts back what was before.
func (r *play) set(step *Step) (undo func() error, err error) {
	if step.changes() {
		r.recorder.struck()
	}
	var back []func() error
	undo = func() error {
		var errs []error
		for _, f := range back {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	for _, name := range slices.Sorted(maps.Keys(step.Faults)) {
		p := r.proxies[name]
		was := p.Fault()
		was.Reset.Now = false
		if err := p.Set(step.Faults[name]); err != nil {
			return undo, fmt.Errorf("proxy %q: %w", name, err)
		}
		back = append(back, func() error { return p.Set(was) })
	}
	for _, name := range slices.Sorted(maps.Keys(step.DNS)) {
		was := r.dns.Answer(name)
		if err := r.dns.Set(name, step.DNS[name]); err != nil {
			return undo, fmt.Errorf("%w: %w", ErrScenario, err)
		}
		back = append(back, func() error { return r.dns.Set(name, was) })
	}
	return undo, nil
}

// metrics reads the gateway's, if the step asks for any.
func (r *play) metrics(ctx context.Context, step *Step) (string, error) {
	if len(step.Metrics) == 0 {
		return "", nil
	}
	return r.gateway.ask(ctx, "/metrics")
}
