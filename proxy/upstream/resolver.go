package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/rs/zerolog"

	"tickgate/config"
)

// Errors of a lookup.
var (
	// ErrNoSuchName says that the name does not exist, or has no records of the wanted kind.
	ErrNoSuchName = errors.New("upstream: no such name")
	// ErrLookupTimeout says that no DNS server answered within resolver.timeout.
	ErrLookupTimeout = errors.New("upstream: DNS lookup timed out")
)

const (
	// maxTTL bounds how long an answer is trusted, however long its TTL.
	maxTTL = time.Hour
	// firstBackoff and maxBackoff bound the time to the next lookup after a failed one; it doubles.
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
)

// answer is the result of a lookup.
type answer struct {
	targets []target // sorted, without repetitions
	ttl     time.Duration
}

// lookuper looks a server's address up. prev is the last good answer, for what only
// a part of the lookup can tell.
type lookuper interface {
	lookup(ctx context.Context, o origin, cfg *config.Resolver, prev []target) (answer, error)
}

// resolver looks names up again and again while somebody subscribes to them.
type resolver struct {
	// Static.
	client lookuper
	log    zerolog.Logger
	counts map[string]*metrics.Counter
	times  *metrics.Histogram

	mu    sync.Mutex
	names map[nameKey]*name
}

// nameKey identifies a name and the settings it is looked up with.
type nameKey struct {
	origin origin
	cfg    string
}

// name is one address that is looked up, by a goroutine of its own.
type name struct {
	// Static.
	r      *resolver
	key    nameKey
	cfg    config.Resolver
	cancel context.CancelFunc
	tried  chan struct{} // closed after the first lookup

	// Guarded by r.mu.
	subs map[*subscription]struct{}

	mu      sync.Mutex
	last    []target
	goodAt  time.Time
	err     error
	failing int // lookups failed in a row
}

// subscription is one Set's interest in a name.
type subscription struct {
	n  *name
	mu sync.Mutex // held while fn runs
	fn func([]target)
}

// deliver passes on what is known. As it is read under the lock, the last of several
// calls at once delivers the newest.
func (s *subscription) deliver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.n.known(); known != nil {
		s.fn(known)
	}
}

func newResolver(client lookuper, log zerolog.Logger, set *metrics.Set) *resolver {
	r := &resolver{client: client, log: log, counts: map[string]*metrics.Counter{}, names: map[nameKey]*name{}}
	r.times = set.NewHistogram("tickgate_upstream_dns_lookup_seconds")
	for _, result := range []string{"ok", "not_found", "timeout", "failed"} {
		r.counts[result] = set.NewCounter(fmt.Sprintf(`tickgate_upstream_dns_lookups_total{result=%q}`, result))
	}
	return r
}

// subscribe calls fn with the addresses of o, at once if they are known and
// whenever they change, until the subscription is stopped. A last call may be under way then.
func (r *resolver) subscribe(o origin, cfg config.Resolver, fn func([]target)) *subscription {
	key := nameKey{origin: o, cfg: fmt.Sprintf("%+v", cfg)}
	sub := &subscription{fn: fn}
	r.mu.Lock()
	n := r.names[key]
	if n == nil {
		n = r.startLocked(key, cfg)
	}
	n.subs[sub] = struct{}{}
	sub.n = n
	r.mu.Unlock()
	sub.deliver()
	return sub
}

// startLocked begins to look a name up. What is known of it under other settings is
// its last good answer.
func (r *resolver) startLocked(key nameKey, cfg config.Resolver) *name {
	ctx, cancel := context.WithCancel(context.Background())
	n := &name{r: r, key: key, cfg: cfg, cancel: cancel, tried: make(chan struct{}), subs: map[*subscription]struct{}{}}
	for other := range maps.Values(r.names) {
		if other.key.origin == key.origin {
			n.last = other.known()
		}
	}
	r.names[key] = n
	go n.run(ctx)
	return n
}

// stop ends the subscription, and the lookups with the last one.
func (s *subscription) stop() {
	r := s.n.r
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(s.n.subs, s)
	if len(s.n.subs) == 0 && r.names[s.n.key] == s.n {
		delete(r.names, s.n.key)
		s.n.cancel()
	}
}

// first is closed when the name was looked up once, or is known already.
func (s *subscription) first() <-chan struct{} {
	if s.n.known() != nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	return s.n.tried
}

func (s *subscription) status() NameStatus {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	st := NameStatus{LastSuccess: s.n.goodAt}
	if s.n.err != nil {
		st.Error = s.n.err.Error()
	}
	return st
}

func (n *name) known() []target {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

// run looks the name up until nobody subscribes to it.
func (n *name) run(ctx context.Context) {
	for first := true; ; first = false {
		limited, cancel := context.WithTimeout(ctx, n.cfg.Timeout)
		start := time.Now()
		ans, err := n.r.client.lookup(limited, n.key.origin, &n.cfg, n.known())
		cancel()
		if ctx.Err() != nil {
			return
		}
		n.r.times.UpdateDuration(start)
		failing := n.take(ans, err)
		if first {
			close(n.tried)
		}
		timer := time.NewTimer(nextLookup(&n.cfg, ans.ttl, failing, rand.Float64()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// take records a lookup's result and tells the subscribers about new addresses. A
// failed one changes nothing but the count of failures in a row, which it returns.
func (n *name) take(ans answer, err error) (failing int) {
	n.r.counts[resultOf(err)].Inc()
	n.mu.Lock()
	before, known := n.failing, len(n.last)
	n.err = err
	if err != nil {
		n.failing++
		failing = n.failing
		n.mu.Unlock()
		if before == 0 { // one line as it begins, however long it lasts
			n.r.log.Warn().Err(err).Str("name", n.key.origin.host).Int("addresses_kept", known).Msg("backend name does not resolve")
		}
		return failing
	}
	changed := !slices.Equal(n.last, ans.targets)
	n.failing, n.last, n.goodAt = 0, ans.targets, time.Now()
	n.mu.Unlock()
	if before > 0 {
		n.r.log.Info().Str("name", n.key.origin.host).Int("addresses", len(ans.targets)).Msg("backend name resolves again")
	}
	if changed {
		n.publish()
	}
	return 0
}

func (n *name) publish() {
	n.r.mu.Lock()
	subs := slices.Collect(maps.Keys(n.subs))
	n.r.mu.Unlock()
	for _, s := range subs {
		s.deliver()
	}
}

// resultOf is the metric label of a lookup's end.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNoSuchName):
		return "not_found"
	case errors.Is(err, ErrLookupTimeout):
		return "timeout"
	default:
		return "failed"
	}
}

// nextLookup decides how long to wait after a lookup. ttl is its answer's, failing
// the number of failures in a row (0 after a success), jitter is in [0, 1).
//
// A TTL is only ever prolonged by the jitter (up to a tenth), as the DNS server would answer
// from its cache until it ends; an interval varies by a tenth to either side.
func nextLookup(cfg *config.Resolver, ttl time.Duration, failing int, jitter float64) time.Duration {
	if failing > 0 {
		wait := maxBackoff
		if failing <= 5 {
			wait = firstBackoff << (failing - 1)
		}
		if cfg.Interval > 0 {
			wait = min(wait, cfg.Interval)
		}
		wait = max(wait, cfg.MinTTL)
		return wait + time.Duration(jitter*0.1*float64(wait))
	}
	if cfg.Interval > 0 {
		return time.Duration((0.9 + 0.2*jitter) * float64(cfg.Interval))
	}
	wait := max(cfg.MinTTL, min(ttl, maxTTL))
	return wait + time.Duration(jitter*0.1*float64(wait))
}
