package tlsterm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// TicketResult says what became of a ticket that a client presented.
type TicketResult uint8

// Results. All but the first lead to a full handshake.
const (
	TicketAccepted    TicketResult = iota // opened; crypto/tls may still decline it, for its age (seven days) or version
	TicketUnknownKey                      // sealed with a key that is not here
	TicketExpired                         // sealed with a key that was rotated out
	TicketMalformed                       // not sealed by us, or changed since
	TicketOtherPolicy                     // issued under other TLS options, so that it could get around these
	TicketRevoked                         // its client's certificate has been revoked
	numTicketResults
)

var ticketWords = [numTicketResults]string{
	TicketAccepted:    "accepted",
	TicketUnknownKey:  "unknown_key",
	TicketExpired:     "expired",
	TicketMalformed:   "malformed",
	TicketOtherPolicy: "other_policy",
	TicketRevoked:     "revoked",
}

// String returns the snake_case word used in metrics and tests.
func (r TicketResult) String() string {
	if r >= numTicketResults {
		return "unknown"
	}
	return ticketWords[r]
}

// TicketResults returns every result in order, for registering metric series at 0.
func TicketResults() []TicketResult {
	all := make([]TicketResult, numTicketResults)
	for i := range all {
		all[i] = TicketResult(i)
	}
	return all
}

const (
	keyNameSize = 16 // before every ticket, in clear (RFC 5077 section 4 recommends that)
	secretSize  = 32
	policySize  = 8
	// maxGone bounds the names of former keys, which tell an expired ticket from a stranger's.
	maxGone = 64
)

// ticketKey is one key. It is never changed.
type ticketKey struct {
	name   [keyNameSize]byte
	secret [secretSize]byte
	made   time.Time // its age is counted from here: when it began to seal; for a file, when that was written
	from   time.Time // when it begins to seal; zero is at once
	until  time.Time // when it opens no more; zero is as long as its source has it
	// keeper seals and opens with this key alone, the way crypto/tls does (AES-CTR with a random 128-bit IV, then HMAC-SHA256).
	// It serves no connection. A construction of our own would save nothing and have to be trusted.
	keeper *tls.Config
}

// newTicketKey makes a key of what is secret about it; the same secret gives the same key everywhere.
func newTicketKey(secret [secretSize]byte, from, until time.Time) *ticketKey {
	k := &ticketKey{secret: secret, made: from, from: from, until: until, keeper: &tls.Config{}}
	sum := sha256.Sum256(append([]byte("tickgate ticket key name 1\x00"), secret[:]...))
	copy(k.name[:], sum[:])
	k.keeper.SetSessionTicketKeys([][32]byte{secret})
	return k
}

func randomTicketKey(from, until time.Time) *ticketKey {
	var secret [secretSize]byte
	_, _ = rand.Read(secret[:]) // never fails
	return newTicketKey(secret, from, until)
}

func (k *ticketKey) expired(now time.Time) bool { return !k.until.IsZero() && !now.Before(k.until) }

// ticketSet is the keys at one time, the first that has begun seals. It is never changed.
type ticketSet struct {
	keys []*ticketKey
	gone [][keyNameSize]byte // names of former keys, newest first
}

// active returns the key that seals. There is one always: if all have expired since their source
// was last looked at, the newest goes on, as a ticket that will be refused is better than no handshake.
func (s *ticketSet) active(now time.Time) *ticketKey {
	for _, k := range s.keys {
		if !k.from.After(now) && !k.expired(now) {
			return k
		}
	}
	return s.keys[0]
}

func (s *ticketSet) find(name []byte) *ticketKey {
	for _, k := range s.keys {
		if string(k.name[:]) == string(name) { // does not allocate
			return k
		}
	}
	return nil
}

// succeed returns the set that follows s with these keys: expired ones are left out and
// remembered by name, and so are those that are no longer there.
func (s *ticketSet) succeed(keys []*ticketKey, now time.Time) *ticketSet {
	next := &ticketSet{}
	for _, k := range keys {
		if !k.expired(now) {
			next.keys = append(next.keys, k)
		}
	}
	if s == nil {
		return next
	}
	for _, k := range s.keys {
		if next.find(k.name[:]) == nil {
			next.gone = append(next.gone, k.name)
		}
	}
	for _, name := range s.gone {
		if next.find(name[:]) == nil && len(next.gone) < maxGone {
			next.gone = append(next.gone, name)
		}
	}
	return next
}

// ticketCounts outlive the Tickets of a listener, so that no counter runs backwards at a reload.
type ticketCounts struct {
	results   [numTicketResults]atomic.Uint64
	issued    atomic.Uint64
	rotations atomic.Uint64
	errors    atomic.Uint64
}

// Tickets holds the keys of session tickets, apart from any tls.Config, so that stores of
// successive snapshots share them. It works from the start; Start has it follow its source.
type Tickets struct {
	// Static.
	opts   TicketOptions
	counts *ticketCounts

	set atomic.Pointer[ticketSet] // read by handshakes, without a lock; written under mu

	// Owned by follow; before Start, by who calls SetSource and Prime.
	source KeySource    // nil unless opts.Source is redis
	shared []*ticketKey // what it held when it was last there

	mu      sync.Mutex // held over no I/O; no handshake takes it
	sealing [keyNameSize]byte
	report  func(TicketReport)
	failing error // of the last look

	down     atomic.Bool // the last look at the source failed
	fallback atomic.Bool // what seals is not what the source has

	lifeMu sync.Mutex
	cancel context.CancelFunc // not nil once started
	closed bool
}

// loadTickets builds the keys that o asks for, or returns those of prev if it asked for the same.
func loadTickets(o TicketOptions, prev *Tickets) (*Tickets, error) {
	o = o.withDefaults()
	if prev != nil && sameTicketOptions(&prev.opts, &o) {
		if o.Source == ticketsFile {
			// A reload looks at once, and says what is wrong.
			return prev, prev.note(prev.readFiles(time.Now()))
		}
		return prev, nil
	}
	t := &Tickets{opts: o, counts: &ticketCounts{}}
	if prev != nil {
		t.counts = prev.counts
	}
	now := time.Now()
	keys := []*ticketKey{randomTicketKey(now, now.Add(o.life()))}
	switch o.Source {
	case ticketsFile:
		var err error
		if keys, err = readTicketFiles(o.Files); err != nil {
			return nil, err
		}
	case ticketsRedis:
		t.fallback.Store(true) // until the first look
	}
	t.set.Store((*ticketSet)(nil).succeed(keys, now))
	t.sealing = t.set.Load().active(now).name
	return t, nil
}

func sameTicketOptions(a, b *TicketOptions) bool {
	x, y := *a, *b
	x.Files, y.Files = nil, nil
	return slices.Equal(a.Files, b.Files) && fmt.Sprint(x) == fmt.Sprint(y)
}

// sealer seals and opens the tickets of one store. Connections reference it for as long as they are open.
type sealer struct {
	tickets *Tickets
	policy  []byte
	auth    *clientAuth // nil if no certificates are asked for
}

// wrap is tls.Config.WrapSession.
func (s *sealer) wrap(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
	k := s.tickets.set.Load().active(time.Now())
	if note := s.auth.note(&cs); note != nil {
		ss.Extra = append(ss.Extra, note)
	}
	ss.Extra = append(ss.Extra, s.policy)
	sealed, err := k.keeper.EncryptTicket(cs, ss)
	if err != nil {
		return nil, err
	}
	s.tickets.counts.issued.Add(1)
	return append(k.name[:], sealed...), nil // copies, as the name is full
}

// unwrap is tls.Config.UnwrapSession. An error would end the connection, so there is none: what
// cannot be opened leads to a full handshake.
func (s *sealer) unwrap(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	if len(ticket) == 0 {
		return nil, nil // by the empty extension of TLS 1.2 a client asks for a ticket, and presents none (RFC 5077 section 3.2)
	}
	ss, result := s.open(ticket, cs)
	s.tickets.counts.results[result].Add(1)
	return ss, nil
}

func (s *sealer) open(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, TicketResult) {
	if len(ticket) <= keyNameSize {
		return nil, TicketMalformed
	}
	set := s.tickets.set.Load()
	k := set.find(ticket[:keyNameSize])
	if k == nil {
		if slices.Contains(set.gone, [keyNameSize]byte(ticket)) {
			return nil, TicketExpired
		}
		return nil, TicketUnknownKey
	}
	if k.expired(time.Now()) {
		return nil, TicketExpired
	}
	ss, err := k.keeper.DecryptTicket(ticket[keyNameSize:], cs)
	if ss == nil || err != nil || len(ss.Extra) == 0 {
		return nil, TicketMalformed
	}
	if !bytes.Equal(ss.Extra[len(ss.Extra)-1], s.policy) {
		return nil, TicketOtherPolicy
	}
	if !s.auth.resumes(ss.Extra) {
		return nil, TicketRevoked
	}
	return ss, TicketAccepted
}

// TicketReport tells about a change in the state of a source.
type TicketReport struct {
	Source string
	// Err is why the last look failed; nil when it has recovered.
	Err error
}

// TicketStats is the state of a listener's tickets.
type TicketStats struct {
	Source string
	// Results counts the tickets that were presented, by TicketResult.
	Results [numTicketResults]uint64
	Issued  uint64
	// Rotations counts changes of the key that seals.
	Rotations uint64
	// Errors counts looks at the source that failed.
	Errors uint64
	// Keys open tickets; KeyAge is the age of the one that seals. Both are 0 if there are no tickets.
	Keys   int
	KeyAge time.Duration
	// Up is false while the last look at the source failed.
	Up bool
	// Fallback is true while a key seals that the source does not have, so that other processes cannot open it.
	Fallback bool
}

// Stats returns the state.
func (t *Tickets) Stats() TicketStats {
	now := time.Now()
	set := t.set.Load()
	st := TicketStats{
		Source: t.opts.Source, Issued: t.counts.issued.Load(), Rotations: t.counts.rotations.Load(), Errors: t.counts.errors.Load(),
		Keys: len(set.keys), KeyAge: max(0, now.Sub(set.active(now).made)), Up: !t.down.Load(), Fallback: t.fallback.Load(),
	}
	if t.opts.Source == ticketsOff {
		st.Keys, st.KeyAge = 0, 0 // there is one, which nothing uses
	}
	for i := range st.Results {
		st.Results[i] = t.counts.results[i].Load()
	}
	return st
}

// Options returns the options in effect.
func (t *Tickets) Options() TicketOptions { return t.opts }

var errNoSource = errors.New("tls: tickets: no key source was given")
