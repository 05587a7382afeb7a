package fault

import (
	"sync"
	"time"

	"tickgate/loadtest/fault/probe"
	"tickgate/loadtest/latency"
)

// kind is one of the kinds of load that are told one by one.
type kind uint8

const (
	requests kind = iota
	tunnels
	loads
)

// Stats is what clients saw of requests, or of messages of tunnels, that were due in a time.
type Stats struct {
	// Count of them, and those that ended well.
	Count int64 `json:"count"`
	OK    int64 `json:"ok"`
	// UnderWay is how many more were not over when the next step began: whose faults they met
	// nobody knows, so they count for neither.
	UnderWay int64 `json:"under_way,omitempty"`
	// Statuses of whole responses, and Errors by kind (probe.Kind).
	Statuses map[int]int64    `json:"statuses,omitempty"`
	Errors   map[string]int64 `json:"errors,omitempty"`
	// Latency of those that ended well, from when they were due.
	Latency latency.Summary `json:"latency"`
	// Seconds from the beginning of the step until the first that did not end well was over, and
	// until the last was; nil if all ended well.
	FirstError *float64 `json:"first_error_s,omitempty"`
	LastError  *float64 `json:"last_error_s,omitempty"`
	// Recovered is the seconds from the end of the faults to the first of so many good ones in a
	// row; nil if that was not seen before the next faults, or there were none.
	Recovered *float64 `json:"recovered_s,omitempty"`
	// Example of an error.
	Example string `json:"example,omitempty"`

	times latency.Histogram
}

// ErrorPercent is the share that did not end well.
func (s *Stats) ErrorPercent() float64 {
	if s.Count == 0 {
		return 0
	}
	return 100 * float64(s.Count-s.OK) / float64(s.Count)
}

func (s *Stats) add(sample *probe.Sample, began time.Time) {
	s.Count++
	if sample.Status != 0 {
		s.Statuses[sample.Status]++
	}
	if sample.Kind == probe.OK {
		s.OK++
		s.times.Add(sample.Took())
		return
	}
	s.Errors[sample.Kind.String()]++
	if s.Example == "" {
		s.Example = sample.Err.Error()
	}
	after := max(0, sample.End.Sub(began).Seconds())
	if s.FirstError == nil {
		s.FirstError = &after
	}
	s.LastError = &after // samples come in the order of their ends
}

// recovery watches for so many good samples in a row. It is owned by a recorder.
type recovery struct {
	from  time.Time
	want  int
	run   int
	since time.Time // when the first of the run ended
	into  *Stats
}

// add looks at a sample; it returns false when there is nothing more to watch.
func (r *recovery) add(sample *probe.Sample) bool {
	if sample.End.Before(r.from) {
		return true
	}
	if sample.Kind != probe.OK {
		r.run = 0
		return true
	}
	if r.run == 0 {
		r.since = sample.End
	}
	if r.run++; r.run < r.want {
		return true
	}
	after := r.since.Sub(r.from).Seconds()
	r.into.Recovered = &after
	return false
}

// stage is one step's share of a record.
type stage struct {
	began time.Time
	stats [loads]*Stats
}

// recorder sorts samples to the steps that they were due in.
type recorder struct {
	consecutive int

	mu         sync.Mutex
	stages     []*stage         // guarded by mu
	recoveries [loads]*recovery // guarded by mu; nil where nothing is watched
	total, bad [loads]int64     // guarded by mu; of progress
}

// begin starts a step's stage.
func (r *recorder) begin(now time.Time) *stage {
	s := &stage{began: now}
	for l := range loads {
		s.stats[l] = &Stats{Statuses: make(map[int]int64), Errors: make(map[string]int64)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stages = append(r.stages, s)
	return s
}

// struck ends the watch for a recovery: there are faults again.
func (r *recorder) struck() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recoveries = [loads]*recovery{}
}

// healed begins to watch for the recovery of a stage.
func (r *recorder) healed(s *stage, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range loads {
		r.recoveries[l] = &recovery{from: now, want: r.consecutive, into: s.stats[l]}
	}
}

// observe takes a sample.
func (r *recorder) observe(l kind, sample probe.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total[l]++
	if sample.Kind != probe.OK {
		r.bad[l]++
	}
	if w := r.recoveries[l]; w != nil && !w.add(&sample) {
		r.recoveries[l] = nil
	}
	for i := len(r.stages) - 1; i >= 0; i-- {
		s := r.stages[i]
		if sample.Due.Before(s.began) {
			continue
		}
		if i+1 < len(r.stages) && sample.End.After(r.stages[i+1].began) {
			s.stats[l].UnderWay++
			return
		}
		s.stats[l].add(&sample, s.began)
		return
	}
}

// counts returns the figures so far, for progress.
func (r *recorder) counts() (total, bad [loads]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total, r.bad
}
