package httpload

import (
	"fmt"
	"sync"
	"time"

	"tickgate/loadtest/latency"
)

// record is what one loop has seen. The loop owns it until the run is over.
type record struct {
	run *run

	due, sent, ok       int64
	timely              int64 // ok ones that came before the sending was over
	refused             int64
	statuses            [600]int64
	failures            [numFailures]int64
	opened, reconnects  int64
	handshakes, resumed int64
	bytesIn, bytesOut   int64
	kinds               []*kindRecord
	service, lag        latency.Histogram
	firstError          string

	second int // the one that tally is of
	tally  tally

	mu        sync.Mutex
	published Progress // guarded by mu
}

// kindRecord is a record of one kind of request.
type kindRecord struct {
	count, ok int64
	statuses  map[int]int64
	latency   latency.Histogram
}

// kind returns the record of a kind.
func (r *record) kind(k int) *kindRecord {
	for k >= len(r.kinds) {
		r.kinds = append(r.kinds, &kindRecord{statuses: make(map[int]int64)})
	}
	return r.kinds[k]
}

// counts says whether a request that was due then is part of the result.
func (r *record) counts(due time.Duration) bool { return due >= r.run.Warmup }

// asked notes that a request came up.
func (r *record) asked(m *message, due time.Duration) {
	if r.counts(due) {
		r.due++
		r.kind(m.kind).count++
	}
}

// answered notes a whole response.
func (r *record) answered(c *conn, now time.Duration) {
	status, m := c.response.status, c.message
	if !r.counts(c.due) {
		return
	}
	r.statuses[status]++
	k := r.kind(m.kind)
	k.statuses[status]++
	if c.response.refused {
		r.refused++
	}
	if !m.wanted(status) {
		if r.firstError == "" {
			r.firstError = fmt.Sprintf("%v: %d", WrongStatus, status)
		}
		r.failed(c.due, now, WrongStatus, nil)
		return
	}
	took := now - c.due
	k.ok++
	k.latency.Add(took)
	if r.run.open {
		r.service.Add(now - c.sent)
	}
	r.ok++
	if r.run.Duration == 0 || now <= r.run.Duration {
		r.timely++
	}
	t := r.at(now)
	t.ok++
	t.times.add(took)
}

// failed notes a request that was due then and is not answered as it should be; err may be
// nil if the failure says it all.
func (r *record) failed(due, now time.Duration, f Failure, err error) {
	if !r.counts(due) {
		return
	}
	r.failures[f]++
	r.at(now).errors++
	switch {
	case r.firstError != "":
	case err != nil:
		r.firstError = fmt.Sprintf("%v: %v", f, err)
	default:
		r.firstError = f.String()
	}
}

// at returns the tally of the second at a time.
func (r *record) at(now time.Duration) *tally {
	if second := int((now - r.run.Warmup) / time.Second); second > r.second {
		r.flush(second)
	}
	return &r.tally
}

// flush gives the tally away; a new second begins.
func (r *record) flush(second int) {
	r.run.timeline.add(r.second, &r.tally)
	r.second = second
}

// publish lets others see where the loop is.
func (r *record) publish(now time.Duration, open, waiting int) {
	if now > r.run.Warmup {
		r.at(now)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = Progress{Due: r.due, Sent: r.sent, OK: r.ok, Open: open, Waiting: waiting}
	for _, n := range r.failures {
		r.published.Errors += n
	}
}

// progress returns what was published last.
func (r *record) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}

// one is 1 for what is part of the result.
func (r *record) one(at time.Duration) int64 {
	if r.counts(at) {
		return 1
	}
	return 0
}
