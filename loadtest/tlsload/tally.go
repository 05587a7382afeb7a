package tlsload

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/target"
)

// mostKinds bounds the kinds of handshakes told apart, as a server chooses them.
const mostKinds = 64

// tally is what the connections of a run have shown so far.
type tally struct {
	latency, connect, handshake, full, resumed latency.Histogram
	age, refusedAge                            latency.Histogram // of sessions that were offered

	mu       sync.Mutex
	began    time.Time                      // does not change; of the counting
	n        counts                         // guarded by mu
	failures [failures]int64                // guarded by mu
	statuses map[int]int64                  // guarded by mu
	alpn     map[string]int64               // guarded by mu
	kinds    map[kindKey]*latency.Histogram // guarded by mu
	seconds  []Second                       // guarded by mu; those that are over
	now      Second                         // guarded by mu; the one under way
	nowTime  *latency.Histogram             // guarded by mu; of now
	first    string                         // guarded by mu; text of the first failure
	meter    target.Meter                   // guarded by mu; of the counting, once it has begun
}

// counts are sums over connections.
type counts struct {
	due, sent, ok, full, resumed, offered, noSession, refused, retried, ticketed, ticketless, unclosed, in, out int64
}

// kindKey tells kinds of handshakes apart.
type kindKey struct {
	version uint16
	cipher  uint16
	group   tls.CurveID
	key     string
	resumed bool
}

func newTally(began time.Time) *tally {
	return &tally{
		began: began, meter: target.NewMeter(), statuses: make(map[int]int64), alpn: make(map[string]int64),
		kinds: make(map[kindKey]*latency.Histogram), nowTime: new(latency.Histogram),
	}
}

// startMeter is called when the counting begins.
func (t *tally) startMeter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.meter = target.NewMeter()
}

// cost returns what the tool has taken since then.
func (t *tally) cost() target.Cost {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.meter.Cost()
}

// add takes one connection that was due at a time.
func (t *tally) add(at time.Time, o *outcome) {
	took := o.done.Sub(at)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(o)
	t.turn(o.done)
	if o.connect > 0 {
		t.connect.Add(o.connect)
	}
	if o.offered {
		t.age.Add(o.age)
	}
	if o.refused() {
		t.refusedAge.Add(o.age)
	}
	if o.failure != OK {
		t.now.Errors++
		if t.first == "" {
			t.first = fmt.Sprintf("%s: %v", o.failure, o.err)
		}
		return
	}
	t.now.OK++
	t.nowTime.Add(took)
	t.latency.Add(took)
	t.handshake.Add(o.handshake)
	if o.state.DidResume {
		t.resumed.Add(o.handshake)
	} else {
		t.full.Add(o.handshake)
	}
	t.kind(&o.state).Add(o.handshake)
	t.alpn[o.state.NegotiatedProtocol]++
}

// count adds up; mu is held.
func (t *tally) count(o *outcome) {
	one := func(sum *int64, holds bool) {
		if holds {
			*sum++
		}
	}
	ok := o.failure == OK
	n := &t.n
	n.due++
	t.failures[o.failure]++
	one(&n.sent, o.failure != Backlog)
	one(&n.ok, ok)
	one(&n.resumed, ok && o.state.DidResume)
	one(&n.full, ok && !o.state.DidResume)
	one(&n.offered, o.offered)
	one(&n.noSession, o.wanted && !o.offered)
	one(&n.refused, o.refused())
	one(&n.retried, o.state.HelloRetryRequest)
	one(&n.ticketed, o.tickets > 0)
	one(&n.ticketless, o.awaited && o.tickets == 0)
	one(&n.unclosed, o.unclosed)
	n.in += o.in
	n.out += o.out
	if o.status != 0 {
		t.statuses[o.status]++
	}
}

// kind returns the record of a kind of handshakes; mu is held.
func (t *tally) kind(state *tls.ConnectionState) *latency.Histogram {
	k := kindKey{state.Version, state.CipherSuite, state.CurveID, keyOf(state), state.DidResume}
	if t.kinds[k] == nil {
		if len(t.kinds) >= mostKinds {
			k = kindKey{}
		}
		if t.kinds[k] == nil {
			t.kinds[k] = new(latency.Histogram)
		}
	}
	return t.kinds[k]
}

// turn ends the seconds that are over; mu is held.
func (t *tally) turn(now time.Time) {
	for second := int(now.Sub(t.began) / time.Second); t.now.Time < second; {
		t.now.P99 = float64(t.nowTime.Quantile(0.99)) / 1e3
		t.seconds = append(t.seconds, t.now)
		if t.nowTime.Count() > 0 {
			t.nowTime = new(latency.Histogram)
		}
		t.now = Second{Time: t.now.Time + 1}
	}
}

// progress returns what a line of progress says; last is the one before.
func (t *tally) progress(elapsed time.Duration, last Progress) Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Elapsed: elapsed, OK: t.n.ok, Resumed: t.n.resumed, Errors: t.n.due - t.n.ok}
	if took := (elapsed - last.Elapsed).Seconds(); took > 0 {
		p.PerSecond = float64(p.OK-last.OK) / took
	}
	p.P99 = t.latency.Quantile(0.99)
	return p
}

// sortedKinds lists the kinds, the most frequent first; mu is held.
func (t *tally) sortedKinds() []Kind {
	list := make([]Kind, 0, len(t.kinds))
	for k, h := range t.kinds {
		kind := Kind{Resumed: k.resumed, Key: k.key, Handshake: h.Summary()}
		kind.Count = int64(kind.Handshake.Count)
		if k == (kindKey{}) {
			kind.Version, kind.Cipher, kind.Group, kind.Key = "other", "other", "other", "other"
		} else {
			kind.Version, kind.Cipher, kind.Group = tls.VersionName(k.version), tls.CipherSuiteName(k.cipher), groupName(k.group)
		}
		list = append(list, kind)
	}
	slices.SortFunc(list, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version))
	})
	return list
}

// groupName names a group as people do.
func groupName(id tls.CurveID) string {
	names := map[tls.CurveID]string{0: "RSA", tls.CurveP256: "P-256", tls.CurveP384: "P-384", tls.CurveP521: "P-521"}
	if name, ok := names[id]; ok {
		return name
	}
	return id.String()
}
