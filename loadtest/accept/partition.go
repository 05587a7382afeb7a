package accept

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"tickgate/loadtest/fault"
	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/pace"
)

const (
	partitionFor     = 30 * time.Second
	recoverWithin    = 30 * time.Second
	recoverTarget    = 3 * time.Second
	partitionRate    = 200
	partitionConns   = 512
	partitionTimeout = 5 * time.Second
	// goodInARow is how many OK responses in a row are a recovery.
	goodInARow = 50
	// partitionUpstream keeps waits short, as who wants to recover soon must.
	partitionUpstream = `timeouts: {dial: 500ms, response_header: 1s}
pool: {wait_timeout: 500ms}
health_check: {path: /, interval: 200ms, timeout: 500ms, rise: 2, fall: 2}
`
)

// breaker is what lies between the gateway and one backend.
type breaker interface {
	Addr() string
	Set(f fault.Fault) error
	Close()
}

// newBreaker is the real one.
func newBreaker(o fault.Options) (breaker, error) { return fault.New(o) }

// partitionKind is one way to be partitioned.
type partitionKind struct {
	name  string
	cut   int // backends, of two
	fault fault.Fault
}

// partitionKinds are black holes, and backends that refuse connections and have reset those
// that were open.
func partitionKinds() []partitionKind {
	hole := fault.Fault{Hole: fault.HoleSilent}
	refuse := fault.Fault{Hole: fault.HoleRefuse, Reset: fault.Reset{Now: true}}
	return []partitionKind{
		{"a black hole before one of two backends", 1, hole},
		{"a black hole before both backends", 2, hole},
		{"connections refused by one of two backends", 1, refuse},
		{"connections refused by both backends", 2, refuse},
	}
}

// partition cuts backends off and joins them again.
func partition(ctx context.Context, b *bench) (rows []Row, err error) {
	for _, k := range partitionKinds() {
		b.Progress("  " + k.name)
		row, err := b.partitioned(ctx, k)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// partitioned carries out one kind.
func (b *bench) partitioned(ctx context.Context, k partitionKind) (Row, error) {
	s, err := b.stage(ctx)
	if err != nil {
		return Row{}, err
	}
	defer s.close()
	lines, err := s.throughBreakers(ctx, 2)
	defer closeAll(lines)
	if err != nil {
		return Row{}, err
	}
	s.upstream = partitionUpstream
	if err := s.addGateway(ctx); err != nil {
		return Row{}, err
	}
	span := b.span(partitionFor)
	r := Row{
		Demand: "recovery after a partition: " + k.name,
		Bound:  fmt.Sprintf("%v to the first of %d OK responses in a row (target: %v)", b.recoverWithin, goodInARow, recoverTarget),
		Method: fmt.Sprintf("%d requests/s in the open loop; partition of %v; health checks every 200ms, response_header 1s", partitionRate, span),
	}
	return r, s.partition(ctx, &r, lines[:k.cut], k.fault, span)
}

// throughBreakers adds backends with a breaker before each.
func (s *stage) throughBreakers(ctx context.Context, n int) (lines []breaker, err error) {
	for range n {
		addr, err := s.addBackend(ctx, bodySize)
		if err != nil {
			return lines, err
		}
		line, err := s.breaker(fault.Options{Listen: s.addr(), Target: addr})
		if err != nil {
			return lines, err
		}
		lines = append(lines, line)
		s.servers = append(s.servers, line.Addr())
	}
	return lines, nil
}

func closeAll(lines []breaker) {
	for _, line := range lines {
		line.Close()
	}
}

// partition keeps requests going while lines are broken, and judges what they saw.
func (s *stage) partition(ctx context.Context, r *Row, lines []breaker, f fault.Fault, span time.Duration) error {
	w := &watch{}
	stop := s.probe(ctx, probe.Options{Rate: partitionRate, Conns: partitionConns, Timeout: partitionTimeout, Observe: w.observe})
	defer stop()
	if !w.await(ctx, time.Now(), s.recoverWithin) {
		return fmt.Errorf("before the partition: no %d OK responses in a row: %s", goodInARow, w.example())
	}
	cut := time.Now()
	if err := setAll(lines, f); err != nil {
		return err
	}
	pace.Sleep(ctx, span)
	healed := time.Now()
	if err := setAll(lines, fault.Fault{}); err != nil {
		return err
	}
	w.await(ctx, healed, s.recoverWithin)
	stop()
	judgeRecovery(r, w.between(cut, healed), w.recovery(healed), s.recoverWithin)
	return nil
}

func setAll(lines []breaker, f fault.Fault) error {
	for _, line := range lines {
		if err := line.Set(f); err != nil {
			return fmt.Errorf("break the line to a backend: %w", err)
		}
	}
	return nil
}

// judgeRecovery judges the time to recover; 0 or less is none at all.
func judgeRecovery(r *Row, during saw, took, within time.Duration) {
	r.Figure = fmt.Sprintf("no recovery; during the partition clients saw %v", during)
	r.Values = map[string]float64{"ok_meanwhile": float64(during.ok), "failed_meanwhile": float64(during.failed)}
	if took <= 0 || took > within {
		r.fail("no %d OK responses in a row within %v", goodInARow, within)
		return
	}
	r.Values["recovered_ms"] = took.Seconds() * 1e3
	met := "target met"
	if took > recoverTarget {
		met = "target missed"
	}
	r.Figure = fmt.Sprintf("%v (%s); during the partition clients saw %v", took.Round(time.Millisecond), met, during)
}

// saw is what clients saw in a time.
type saw struct {
	ok, failed int
	kinds      map[string]int
}

// String writes it as in "120 OK and 30 failed (timeout 30)".
func (s saw) String() string {
	text := fmt.Sprintf("%d OK and %d failed", s.ok, s.failed)
	for i, kind := range slices.Sorted(maps.Keys(s.kinds)) {
		sep := ", "
		if i == 0 {
			sep = " ("
		}
		text += fmt.Sprintf("%s%s %d", sep, kind, s.kinds[kind])
	}
	if len(s.kinds) > 0 {
		text += ")"
	}
	return text
}

// probe keeps requests going until stop is called, which waits for the last responses.
// The options' URL is the stage's.
func (s *stage) probe(ctx context.Context, o probe.Options) (stop func()) {
	o.URL = s.url()
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := probe.Requests(ctx, o); err != nil {
			panic("BUG: accept: " + err.Error()) // options that are fixed here
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}
