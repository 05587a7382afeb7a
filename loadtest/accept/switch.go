package accept

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"tickgate/loadtest/pace"
)

const (
	// switchesFor is the time over which sets are switched, switchEvery the pace.
	switchesFor = 5 * time.Minute
	switchEvery = 500 * time.Millisecond
	// servedWithin is how soon a new set must have an answer on the way.
	servedWithin = 10 * time.Second
)

// switchSets goes over from a set of backends to another and back, under load.
func switchSets(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.stage(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	sets, err := s.addSets(ctx)
	if err != nil {
		return nil, err
	}
	s.servers = sets[0]
	if err := s.addGateway(ctx); err != nil {
		return nil, err
	}
	times := max(int(b.span(switchesFor)/switchEvery), 2)
	r := Row{
		Demand: "a backend set is switched under load without a lost request", Bound: "0 lost, each set in use within " + b.servedWithin.String(),
		Method: fmt.Sprintf("open loop, %.0f requests/s; %d times the other two of four backends are written to the configuration, SIGHUP is sent, and a response of the new set is awaited", rated, times),
	}
	stop := s.background(ctx, rated)
	done, slowest, wrong := s.switchTimes(ctx, sets, times)
	l, err := stop()
	if err != nil {
		return nil, err
	}
	judgeSwitch(&r, l, done, slowest, wrong)
	return []Row{r}, nil
}

// addSets starts two sets of two backends, whose responses have sizes of their own.
func (s *stage) addSets(ctx context.Context) (sets [2][]string, err error) {
	for i := range sets {
		for range 2 {
			addr, err := s.addBackend(ctx, bodySize+i)
			if err != nil {
				return sets, err
			}
			sets[i] = append(sets[i], addr)
		}
	}
	return sets, nil
}

// switchTimes switches the sets so many times, and returns how often it came to be and
// the longest time that it took.
func (s *stage) switchTimes(ctx context.Context, sets [2][]string, times int) (done int, slowest time.Duration, err error) {
	client := &http.Client{Timeout: s.servedWithin, Transport: &http.Transport{MaxIdleConns: 1}}
	defer client.CloseIdleConnections()
	for done < times && pace.Sleep(ctx, switchEvery/2) {
		set := (done + 1) % 2
		s.servers = sets[set]
		began := time.Now()
		if err := s.gateways[0].Reload(s.yaml()); err != nil {
			return done, slowest, fmt.Errorf("switch %d: %w", done+1, err)
		}
		if err := s.awaitSize(ctx, client, int64(bodySize+set)); err != nil {
			return done, slowest, fmt.Errorf("switch %d: %w", done+1, err)
		}
		slowest = max(slowest, time.Since(began))
		done++
		pace.Sleep(ctx, switchEvery/2)
	}
	return done, slowest, nil
}

// awaitSize waits for a response with a body of so many bytes.
func (s *stage) awaitSize(ctx context.Context, client *http.Client, want int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.servedWithin)
	defer cancel()
	for {
		got, err := sizeOf(ctx, client, s.url())
		if err == nil && got == want {
			return nil
		}
		if !pace.Sleep(ctx, lookEvery) {
			return fmt.Errorf("no response of the new set within %v: the last had %d bytes, want %d (%w)", s.servedWithin, got, want, context.Cause(ctx))
		}
	}
}

// sizeOf returns the length of a response's body.
func sizeOf(ctx context.Context, client *http.Client, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.Copy(io.Discard, resp.Body)
}

func judgeSwitch(r *Row, l loaded, done int, slowest time.Duration, err error) {
	r.Figure = fmt.Sprintf("%d switches, a new set in use after %v at most; %d lost of %d requests", done, slowest.Round(time.Millisecond), l.Due-l.OK, l.Due)
	r.Values = map[string]float64{"switches": float64(done), "slowest_ms": slowest.Seconds() * 1e3, "lost": float64(l.Due - l.OK), "requests": float64(l.Due)}
	if err != nil {
		r.fail("%v", err)
	}
	r.lossless(l.Result)
}
