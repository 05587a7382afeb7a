package httpload

import (
	"sync"
	"time"

	"tickgate/loadtest/target"
)

// spent is what the counted part of the sending took.
type spent struct {
	wall, cpu time.Duration
	busy      time.Duration // turns of the busiest loop
}

// meter reads what the tool itself spends from the end of the warm-up on, and reports
// progress.
type meter struct {
	r       *run
	ended   chan struct{}
	running sync.WaitGroup

	mu    sync.Mutex
	cpu   time.Duration   // guarded by mu; at the end of the warm-up
	turns []time.Duration // guarded by mu; of each loop, likewise
}

func newMeter(r *run) *meter {
	m := &meter{r: r, ended: make(chan struct{})}
	m.begin()
	m.running.Go(m.run)
	return m
}

// begin reads where it starts from.
func (m *meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cpu, m.turns = target.CPUTime(), m.turns[:0]
	for _, s := range m.r.group.Stats() {
		m.turns = append(m.turns, s.SumTurns)
	}
}

func (m *meter) run() {
	warm := time.NewTimer(m.r.Warmup)
	defer warm.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-m.ended:
			return
		case <-warm.C:
			if m.r.Warmup > 0 {
				m.begin()
			}
		case <-second.C:
			if m.r.Progress != nil {
				m.r.Progress(m.r.progress())
			}
		}
	}
}

// stop ends the progress.
func (m *meter) stop() {
	close(m.ended)
	m.running.Wait()
}

// read tells what was spent so far.
func (m *meter) read() spent {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := spent{wall: max(m.r.clock()-m.r.Warmup, 0), cpu: target.CPUTime() - m.cpu}
	for i, stats := range m.r.group.Stats() {
		s.busy = max(s.busy, stats.SumTurns-m.turns[i])
	}
	return s
}

// progress adds up what the loops published.
func (r *run) progress() Progress {
	p := Progress{Elapsed: r.clock()}
	for _, w := range r.workers {
		one := w.record.progress()
		p.Due += one.Due
		p.Sent += one.Sent
		p.OK += one.OK
		p.Errors += one.Errors
		p.Open += one.Open
		p.Waiting += one.Waiting
	}
	p.Second = r.timeline.latest(int((p.Elapsed - r.Warmup) / time.Second))
	return p
}
