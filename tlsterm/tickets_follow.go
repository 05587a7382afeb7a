package tlsterm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// KeySource keeps ticket keys that processes share, as one secret text that it need not understand.
type KeySource interface {
	// Load returns the text, or nil if there is none.
	Load(ctx context.Context) ([]byte, error)
	// Swap replaces old, as Load returned it, by next, which is forgotten after ttl. It returns false if the text is
	// no longer old.
	Swap(ctx context.Context, old, next []byte, ttl time.Duration) (bool, error)
	// Close gives back what the source holds.
	Close() error
}

// SetSource gives Tickets of source redis their source, before Prime and Start. They own it from then on.
func (t *Tickets) SetSource(s KeySource) { t.source = s }

// Prime looks at the source once, so that the first handshakes have the fleet's keys. It takes at most redis_timeout, and
// a failure only means that a key of this process's own is used for now.
func (t *Tickets) Prime() {
	if t.opts.Source == ticketsRedis {
		_, _ = t.step(context.Background(), time.Now()) // the error is kept for Start to report
	}
}

// Start has the keys rotate and follow their source until Close. report is called from one goroutine, and only when the
// source begins or ceases to fail; it may be nil. Only the first call has an effect.
func (t *Tickets) Start(report func(TicketReport)) {
	t.lifeMu.Lock()
	defer t.lifeMu.Unlock()
	if t.cancel != nil || t.closed {
		return
	}
	t.mu.Lock()
	t.report = report
	failing := t.failing
	t.mu.Unlock()
	if failing != nil && report != nil {
		report(TicketReport{t.opts.Source, failing}) // Prime has met it
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	go t.follow(ctx)
}

// Close ends what Start began, without waiting for a call that is under way. The keys go on as they are, for handshakes that
// are not over. It may be called more than once.
func (t *Tickets) Close() {
	t.lifeMu.Lock()
	defer t.lifeMu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	if t.cancel != nil {
		t.cancel() // follow closes the source
		return
	}
	t.closeSource()
}

func (t *Tickets) closeSource() {
	if t.source != nil {
		_ = t.source.Close()
	}
}

// follow is the goroutine of Start.
func (t *Tickets) follow(ctx context.Context) {
	defer t.closeSource()
	timer := time.NewTimer(t.firstWait())
	defer timer.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			wait, err := t.step(ctx, now)
			failures++
			if err == nil || t.opts.Source != ticketsRedis {
				failures = 0
			}
			timer.Reset(backedOff(wait, failures, min(maxBackoff, t.opts.Rotate/2)))
		}
	}
}

// maxBackoff bounds the time between looks at a source that fails.
const maxBackoff = time.Minute

// backedOff doubles the wait with every failure after the first, up to limit.
func backedOff(wait time.Duration, failures int, limit time.Duration) time.Duration {
	for ; failures > 1 && wait < limit; failures-- {
		wait = min(2*wait, limit)
	}
	return wait
}

func (t *Tickets) firstWait() time.Duration {
	if t.opts.Source == ticketsMemory {
		return untilNext(t.set.Load().keys, time.Now(), &t.opts)
	}
	return t.poll()
}

// poll is the time between looks: short enough to see every key before it is used.
func (t *Tickets) poll() time.Duration {
	if t.opts.Source == ticketsRedis {
		return min(t.opts.Poll, t.opts.Rotate/4)
	}
	return t.opts.Poll
}

// step looks at the source once and says when to do so again.
func (t *Tickets) step(ctx context.Context, now time.Time) (wait time.Duration, err error) {
	switch t.opts.Source {
	case ticketsFile:
		return t.poll(), t.note(t.readFiles(now))
	case ticketsRedis:
		call, cancel := context.WithTimeout(ctx, t.opts.RedisTimeout)
		defer cancel()
		err := t.followSource(call, now)
		if ctx.Err() != nil {
			return 0, ctx.Err() // closed meanwhile
		}
		return t.poll(), t.note(err)
	case ticketsMemory:
		keys := t.set.Load().keys
		if from, due := nextKey(keys, now, 0, &t.opts); due {
			keys = slices.Insert(slices.Clone(keys), 0, randomTicketKey(from, from.Add(t.opts.life())))
		}
		t.publish(keys, now)
		return untilNext(t.set.Load().keys, now, &t.opts), nil
	}
	return time.Hour, nil // off
}

// nextKey decides whether a key must be made now, and from when it seals: when the newest has sealed for opts.Rotate, or at
// once if that is past. lead is how long before all who share the keys have to learn of it. keys are newest first.
func nextKey(keys []*ticketKey, now time.Time, lead time.Duration, o *TicketOptions) (from time.Time, due bool) {
	if len(keys) == 0 {
		return now, true
	}
	from = keys[0].from.Add(o.Rotate)
	if now.Add(lead).Before(from) {
		return time.Time{}, false
	}
	if from.Before(now) {
		from = now.Add(lead)
	}
	return from, true
}

// untilNext is the time to the next rotation or expiry of keys in memory.
func untilNext(keys []*ticketKey, now time.Time, o *TicketOptions) time.Duration {
	next := keys[0].from.Add(o.Rotate)
	for _, k := range keys {
		if k.until.Before(next) {
			next = k.until
		}
	}
	return max(next.Sub(now), time.Millisecond)
}

// publish makes keys those that handshakes use, and counts a change of the one that seals.
func (t *Tickets) publish(keys []*ticketKey, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.set.Load().succeed(keys, now)
	if len(next.keys) == 0 {
		return // all expired, as only a clock that jumps brings about: better those than none
	}
	t.set.Store(next)
	if sealing := next.active(now).name; sealing != t.sealing {
		t.sealing = sealing
		t.counts.rotations.Add(1)
	}
}

// note keeps account of a look at the source and returns its error.
func (t *Tickets) note(err error) error {
	t.mu.Lock()
	changed := (err == nil) != (t.failing == nil)
	t.failing = err
	report := t.report
	t.mu.Unlock()
	t.down.Store(err != nil)
	if err != nil {
		t.counts.errors.Add(1)
	}
	if report != nil && changed {
		report(TicketReport{t.opts.Source, err})
	}
	return err
}

// lead is how long before its use a key is shown to the other processes.
func (t *Tickets) lead() time.Duration {
	return min(2*t.poll()+t.opts.RedisTimeout, t.opts.Rotate/2)
}

// swapTries bounds the rounds that other processes may win.
const swapTries = 4

// followSource takes the keys of the source, and makes the next one if it is time and nobody else does.
func (t *Tickets) followSource(ctx context.Context, now time.Time) error {
	shared, err := t.agree(ctx, now)
	own := t.set.Load().keys
	if err != nil {
		// The last keys go on: whoever presents their tickets to another process is served there. Only when tickets
		// sealed now could hardly be opened any more does a key of our own take over.
		a := t.set.Load().active(now)
		if !now.Before(a.from.Add(time.Duration(t.opts.OldKeys) * t.opts.Rotate)) {
			own = slices.Insert(slices.Clone(own), 0, randomTicketKey(now, now.Add(t.opts.life())))
			t.fallback.Store(true)
		} else if now.After(a.from.Add(t.opts.Rotate)) {
			own = prolonged(own, a, now.Add(time.Duration(t.opts.OldKeys)*t.opts.Rotate))
		}
		t.publish(own, now)
		return err
	}
	t.shared = shared
	// What only this process has opens its tickets and seals no more.
	keys := slices.Clone(shared)
	for _, k := range own {
		i := slices.IndexFunc(keys, func(o *ticketKey) bool { return o.name == k.name })
		switch {
		case i < 0:
			keys = append(keys, k)
		case keys[i].until.Before(k.until):
			keys[i] = k // it was prolonged
		}
	}
	t.publish(keys, now)
	t.fallback.Store(!hasKey(shared, t.set.Load().active(now)))
	return nil
}

// prolonged has one of the keys open until later: as it seals for longer than it should, its last tickets would else be short-lived.
func prolonged(keys []*ticketKey, one *ticketKey, until time.Time) []*ticketKey {
	out := slices.Clone(keys)
	for i, k := range out {
		if k == one && k.until.Before(until) {
			longer := *k
			longer.until = until
			out[i] = &longer
		}
	}
	return out
}

func hasKey(keys []*ticketKey, k *ticketKey) bool {
	return slices.ContainsFunc(keys, func(o *ticketKey) bool { return o.name == k.name })
}

// agree returns the keys of the source, after adding one if it is time.
func (t *Tickets) agree(ctx context.Context, now time.Time) ([]*ticketKey, error) {
	if t.source == nil {
		return nil, errNoSource
	}
	for range swapTries {
		text, err := t.source.Load(ctx)
		if err != nil {
			return nil, err
		}
		keys, err := decodeKeys(text, now)
		if err != nil {
			return nil, err
		}
		lost := len(keys) == 0
		if lost {
			keys = t.known(now)
		}
		from, due := nextKey(keys, now, t.lead(), &t.opts)
		switch {
		case due:
			if len(keys) > 0 && from.After(keys[0].from.Add(t.opts.Rotate)) { // nobody could rotate in time
				keys = prolonged(keys, keys[0], from.Add(time.Duration(t.opts.OldKeys)*t.opts.Rotate))
			}
			keys = slices.Insert(keys, 0, randomTicketKey(from, from.Add(t.opts.life())))
		case !lost:
			return keys, nil
		}
		ok, err := t.source.Swap(ctx, text, encodeKeys(keys), longest(keys, now))
		if err != nil {
			return nil, err
		}
		if ok {
			return keys, nil
		}
	}
	return nil, errors.New("other processes change the keys all the time")
}

// known is what goes into a source that is empty, as after a restart without its data: the keys that it had, so that
// sessions go on, or those of this process.
func (t *Tickets) known(now time.Time) []*ticketKey {
	expired := func(k *ticketKey) bool { return k.expired(now) }
	// As they are in the set, where some may have been prolonged.
	keys := slices.DeleteFunc(slices.Clone(t.set.Load().keys), func(k *ticketKey) bool { return expired(k) || !hasKey(t.shared, k) })
	if len(keys) == 0 {
		keys = slices.DeleteFunc(slices.Clone(t.set.Load().keys), expired)
		slices.SortStableFunc(keys, newestFirst)
	}
	return keys
}

func newestFirst(a, b *ticketKey) int { return b.from.Compare(a.from) }

func longest(keys []*ticketKey, now time.Time) time.Duration {
	ttl := time.Second
	for _, k := range keys {
		ttl = max(ttl, k.until.Sub(now))
	}
	return ttl
}

// sharedKeys is the text in a KeySource.
type sharedKeys struct {
	Version int         `json:"version"`
	Keys    []sharedKey `json:"keys"` // newest first
}

type sharedKey struct {
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Secret []byte    `json:"secret"`
}

func encodeKeys(keys []*ticketKey) []byte {
	s := sharedKeys{Version: 1}
	for _, k := range keys {
		s.Keys = append(s.Keys, sharedKey{k.from.UTC(), k.until.UTC(), k.secret[:]})
	}
	text, err := json.Marshal(&s)
	if err != nil {
		panic(fmt.Sprintf("BUG: encode ticket keys: %v", err))
	}
	return text
}

// maxSharedKeys bounds what a source may make of handshakes, which look through the keys.
const maxSharedKeys = 64

// decodeKeys returns the keys that have not expired, newest first. No error quotes the text.
func decodeKeys(text []byte, now time.Time) ([]*ticketKey, error) {
	if text == nil {
		return nil, nil
	}
	var s sharedKeys
	if json.Unmarshal(text, &s) != nil || s.Version != 1 || len(s.Keys) > maxSharedKeys {
		return nil, errors.New("what is stored there are no ticket keys of this version (delete the entry to begin anew)")
	}
	var keys []*ticketKey
	for _, k := range s.Keys {
		if len(k.Secret) != secretSize || k.Until.IsZero() {
			return nil, errors.New("a ticket key stored there is malformed (delete the entry to begin anew)")
		}
		if now.Before(k.Until) {
			keys = append(keys, newTicketKey([secretSize]byte(k.Secret), k.From, k.Until))
		}
	}
	slices.SortStableFunc(keys, newestFirst)
	return keys, nil
}
