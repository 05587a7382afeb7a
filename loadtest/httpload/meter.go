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
	final *spent          // guarded by mu; nil while it counts
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
	m.turns = append(m.turns, m.r.turns()...)
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

// freeze has read tell what was spent until now: what the last responses take is not counted.
func (m *meter) freeze() {
	s := m.read()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.final = &s
}

// read tells what was spent so far.
func (m *meter) read() spent {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.final != nil {
		return *m.final
	}
	s := spent{wall: max(m.r.clock()-m.r.Warmup, 0), cpu: target.CPUTime() - m.cpu}
	for i, sum := range m.r.turns() {
		s.busy = max(s.busy, sum-m.turns[i])
	}
	return s
}

// turns is how long each loop has worked; nothing without loops.
func (r *run) turns() (sums []time.Duration) {
	if r.group == nil {
		return nil
	}
	for _, s := range r.group.Stats() {
		sums = append(sums, s.SumTurns)
	}
	return sums
}

// progress adds up what the loops published.
func (r *run) progress() Progress {
	p := Progress{Elapsed: r.clock()}
	for _, record := range r.records {
		one := record.progress()
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
