package accept

import (
	"context"
	"fmt"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
)

const (
	// sustainedTimes is how many times the rated load is sustained.
	sustainedTimes = 2.5
	// targetRate is what a node should come to in requests a second.
	targetRate = 80_000
	// ownMachine is the gateway's part of the processor time from which on the machine is its own, so
	// that its cost per request is what it would be without load beside it.
	ownMachine = 0.95
)

// sustained holds a load for an hour.
func sustained(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.plain(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	rate := rated * sustainedTimes
	l, err := s.load(ctx, httpload.Options{Plan: pace.Constant(rate, b.span(time.Hour))})
	if err != nil {
		return nil, err
	}
	method := fmt.Sprintf("open loop, %.0f requests/s (%v times the rated load) for %v on up to %d connections, plain, bodies of %d bytes",
		rate, sustainedTimes, b.span(time.Hour).Round(time.Second), openConns, bodySize)
	if b.closedLoop > 0 {
		method += fmt.Sprintf("; the closed loop came to %.0f/s on the same machine", b.closedLoop)
	}
	return []Row{judgeSustained(l, method), b.judgeCapacity(l)}, nil
}

func judgeSustained(l loaded, method string) Row {
	r := Row{
		Demand: "sustained throughput without one error", Method: method, Bound: "0 errors",
		Figure: fmt.Sprintf("%d errors of %d requests, %.0f/s (%.0f %% of the target of %d/s), p99 %.1f ms; %v",
			l.Failed(), l.Due, l.OKPerSecond, 100*l.OKPerSecond/targetRate, targetRate, ms(l.Latency.P99), l.Split),
		Values: map[string]float64{
			"errors": float64(l.Failed()), "requests": float64(l.Due), "per_second": l.OKPerSecond, "p99_ms": ms(l.Latency.P99),
			"cpu_gateway": l.Gateway, "cpu_load": l.Load, "cpu_backends": l.Backends, "cpu_others": l.Others,
		},
	}
	r.lossless(l.Result)
	return r
}

// judgeCapacity says what the processors would do if the gateway had them all.
func (b *bench) judgeCapacity(l loaded) Row {
	r := Row{
		Demand: "capacity of a node", Bound: fmt.Sprintf("at least %d requests/s", targetRate),
		Method: "a projection: processors of the machine divided by the gateway's CPU time for each request of the sustained load",
	}
	cpu := l.GatewayCPU()
	switch {
	case l.OK == 0:
		r.Figure = "–"
		r.fail("nothing was answered")
		return r
	case cpu <= 0:
		r.Figure = "–"
		r.miss("this system does not tell the gateway's CPU time", "no projection")
		return r
	}
	each := cpu.Seconds() / float64(l.OK)
	projected := float64(l.Processors) / each
	r.Figure = fmt.Sprintf("%.0f requests/s projected, %.0f %% of the target (%.1f µs each on %d processors); %.0f/s were sent beside the load and the backends",
		projected, 100*projected/targetRate, each*1e6, l.Processors, l.OKPerSecond)
	r.Values = map[string]float64{"projected_per_second": projected, "cpu_us_per_request": each * 1e6}
	if projected >= targetRate {
		return r
	}
	shared := b.excuse(l.Split, l.Bottleneck)
	if l.Gateway < ownMachine*l.Split.Busy() {
		shared = fmt.Sprintf("the gateway shared the machine (%v), so this is no measurement", l.Split)
	}
	r.miss(shared, "%.0f requests/s are less than the target", projected)
	return r
}

const (
	burstTimes  = 3
	burstFor    = 8 * time.Second
	burstBound  = 15 * time.Millisecond
	burstMethod = "open loop, %.0f requests/s, then %.0f/s for %v, which is judged; latency from the due time; a refusal is a 503 with Retry-After"
)

// burst multiplies the rated load by three.
func burst(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.plain(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	l, err := s.surge(ctx, rated, burstTimes*rated, b.span(burstFor))
	if err != nil {
		return nil, err
	}
	r := Row{
		Demand: "p95 of admitted requests in a threefold burst", Bound: fmt.Sprintf("p95 at most %v, 0 errors", burstBound),
		Method: fmt.Sprintf(burstMethod, rated, burstTimes*rated, b.span(burstFor)),
	}
	b.judgeSurge(&r, l, rated, burstBound)
	return []Row{r}, nil
}

// surge raises the load from one rate to another; only the second counts.
func (s *stage) surge(ctx context.Context, from, to float64, span time.Duration) (loaded, error) {
	lead := s.Shortest / 2
	plan := &pace.Plan{Phases: []pace.Phase{{From: from, To: from, For: lead}, {From: to, To: to, For: span}}}
	return s.load(ctx, httpload.Options{Plan: plan, Warmup: lead})
}

// judgeSurge allows refusals in order, as long as what is admitted is as much as it was rated
// for and quick.
func (b *bench) judgeSurge(r *Row, l loaded, admitted float64, bound time.Duration) {
	r.Figure = fmt.Sprintf("p95 %.1f ms, p99 %.1f ms of %d admitted, %d refused, %d errors; %v",
		ms(l.Latency.P95), ms(l.Latency.P99), l.OK, l.Refused, l.Failed()-l.Refused, l.Split)
	r.Values = map[string]float64{
		"p95_ms": ms(l.Latency.P95), "p99_ms": ms(l.Latency.P99), "admitted": float64(l.OK), "refused": float64(l.Refused), "errors": float64(l.Failed() - l.Refused),
	}
	if lost := l.Failed() - l.Refused; lost > 0 {
		r.fail("%d of %d requests failed otherwise than by a refusal (%s)", lost, l.Due, l.FirstError)
	}
	if l.OK == 0 {
		r.fail("nothing was admitted")
	}
	busy := b.excuse(l.Split, l.Bottleneck)
	if p95 := time.Duration(l.Latency.P95 * 1e3); p95 > bound {
		r.miss(busy, "p95 is %.1f ms", ms(l.Latency.P95))
	}
	r.reaches(l.Result, admitted, busy)
}

const (
	// adaptiveYAML is what only a gateway with an adaptive limit takes in an upstream.
	adaptiveYAML   = "adaptive_limit: {}\n"
	adaptiveKey    = "upstreams.be.adaptive_limit"
	overloadTimes  = 8
	overloadFor    = time.Minute
	overloadBound  = 50 * time.Millisecond
	adaptiveDemand = "the adaptive limit keeps admitted requests quick under overload"
)

// adaptive overloads a gateway that should limit by itself how much it takes on.
func adaptive(ctx context.Context, b *bench) ([]Row, error) {
	r := Row{
		Demand: adaptiveDemand, Figure: "–", Bound: fmt.Sprintf("p95 at most %v, 0 errors, at least the rated load admitted", overloadBound),
		Method: "tickgate check of an upstream with adaptive_limit; then overload in the open loop",
	}
	probe := layout{listen: "127.0.0.1:1", admin: "127.0.0.1:2", servers: []string{"127.0.0.1:3"}, upstream: adaptiveYAML}
	if err := b.supports(ctx, probe.yaml(), adaptiveKey); err != nil {
		return unsupported(r, err)
	}
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.staged(ctx, layout{upstream: adaptiveYAML})
	if err != nil {
		return nil, err
	}
	defer s.close()
	rate, span := overloadTimes*rated, b.span(overloadFor)
	l, err := s.surge(ctx, rated, rate, span)
	if err != nil {
		return nil, err
	}
	r.Method = fmt.Sprintf(burstMethod, rated, rate, span)
	b.judgeSurge(&r, l, rated, overloadBound)
	if l.Refused == 0 {
		r.miss(b.excuse(l.Split, l.Bottleneck), "nothing was refused at %.0f requests/s", rate)
	}
	return []Row{r}, nil
}
