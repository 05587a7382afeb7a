package accept

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/pace"
)

const (
	takeOverBound = 200 * time.Millisecond
	takeOverRate  = 250 // of each of two probes
	takeOverConns = 64
)

// takeOver starts a second gateway on the same address and ends the first.
func takeOver(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.staged(ctx, layout{share: true})
	if err != nil {
		return nil, err
	}
	defer s.close()
	r := Row{
		Demand: "take-over by a second process when the first is told to go", Bound: fmt.Sprintf("no gap of more than %v between OK responses, 0 lost", takeOverBound),
		Method: fmt.Sprintf("share: true; a second process starts, SIGTERM to the first; %d requests/s each with a new connection for every request and with kept ones, and %.0f/s on kept ones beside them", takeOverRate, rated),
	}
	var fresh, kept watch
	stopFresh := s.probe(ctx, probe.Options{Rate: takeOverRate, Conns: takeOverConns, Fresh: true, Timeout: patience, Observe: fresh.observe})
	defer stopFresh()
	stopKept := s.probe(ctx, probe.Options{Rate: takeOverRate, Conns: takeOverConns, Timeout: patience, Observe: kept.observe})
	defer stopKept()
	stop := s.background(ctx, rated)
	told, exit, wrong := s.replace(ctx)
	l, err := stop()
	stopFresh()
	stopKept()
	if err := errors.Join(wrong, err); err != nil {
		return nil, err
	}
	b.judgeTakeOver(&r, taken{told, exit, &fresh, &kept, l})
	return []Row{r}, nil
}

// replace starts the second gateway and ends the first; it returns when the first was told
// and how long it took to end.
func (s *stage) replace(ctx context.Context) (told time.Time, exit time.Duration, err error) {
	pace.Sleep(ctx, s.Shortest/2)
	first := s.gateways[0]
	s.admin = s.addr()
	if err := s.addGateway(ctx); err != nil {
		return told, 0, fmt.Errorf("start the second gateway: %w", err)
	}
	pace.Sleep(ctx, s.Shortest/2)
	told = time.Now()
	if err := first.Stop(); err != nil {
		return told, 0, fmt.Errorf("end the first gateway: %w", err)
	}
	exit = time.Since(told)
	pace.Sleep(ctx, s.Shortest/2)
	return told, exit, nil
}

// taken is what a take-over showed.
type taken struct {
	told        time.Time
	exit        time.Duration
	fresh, kept *watch
	load        loaded
}

func (b *bench) judgeTakeOver(r *Row, t taken) {
	fresh, kept := t.fresh.longestGap(t.told), t.kept.longestGap(t.told)
	one, other := t.fresh.all(), t.kept.all()
	r.Figure = fmt.Sprintf("longest gap %v with new connections, %v with kept ones; the first was gone after %v; lost: %d, %d and %d of %d, %d and %d",
		fresh.Round(time.Millisecond), kept.Round(time.Millisecond), t.exit.Round(time.Millisecond),
		one.failed, other.failed, t.load.Due-t.load.OK, one.ok+one.failed, other.ok+other.failed, t.load.Due)
	lost := float64(one.failed+other.failed) + float64(t.load.Due-t.load.OK)
	r.Values = map[string]float64{"gap_new_ms": fresh.Seconds() * 1e3, "gap_kept_ms": kept.Seconds() * 1e3, "exit_ms": t.exit.Seconds() * 1e3, "lost": lost}
	r.lossless(t.load.Result)
	for _, w := range []*watch{t.fresh, t.kept} {
		if w.all().failed > 0 {
			r.fail("a client saw %v (%s)", w.all(), w.example())
		}
	}
	gap := max(fresh, kept)
	switch {
	case min(fresh, kept) <= 0:
		r.fail("no OK responses behind the end of the first process")
	case gap > takeOverBound:
		r.miss(b.excuse(t.load.Split, t.load.Bottleneck), "the longest gap is %v", gap.Round(time.Millisecond))
	}
}
