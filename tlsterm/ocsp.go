package tlsterm

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxOCSPLooks bounds the requests of one listener that are under way at once.
const maxOCSPLooks = 8

// maxStapleSleep bounds the time until validities are looked at again, as they are in the time of a clock that can be set.
const maxStapleSleep = time.Minute

// Stapler keeps the stapled answers of one store's certificates. Handshakes know nothing of it: they find certificates with the answers
// in them, which the store makes anew when an answer changes.
type Stapler struct {
	// Static.
	opts    OCSPOptions
	publish func()     // has handshakes use what staple returns
	asked   *Inquiries // of all staplers, once Share was called
	ask     func(ctx context.Context, responder string, query []byte) ([]byte, error)
	spread  func() float64 // in [0, 1), at random
	counts  *stapleCounts
	slots   chan struct{} // one in it for each look under way
	wake    chan struct{} // something has changed for the goroutine of Start
	unfiled chan struct{} // something has changed for that of the directory

	mu      sync.Mutex // guards memory only; no handshake takes it
	certs   []*stapled // in the order of the options
	byID    map[stapleID]*stapled
	report  func(StapleReport)
	pending []StapleReport

	lifeMu sync.Mutex
	cancel context.CancelFunc // guarded by lifeMu; not nil once started
	closed bool               // guarded by lifeMu
}

// stapleCounts outlive the store of a listener, so that no counter runs backwards at a reload.
type stapleCounts struct {
	results            [numOCSPResults]atomic.Uint64
	reads              [numOCSPResults]atomic.Uint64 // of files in the directory that were verified
	written, unwritten atomic.Uint64
}

// stapled is one certificate.
type stapled struct {
	// Static.
	id           stapleID
	leaf, issuer *x509.Certificate // issuer is nil if it is not known
	must         bool              // must-staple (RFC 7633)
	file         string            // looked at in place of responders; "" is none
	responders   []string          // asked one after the other, as they fail
	query        []byte
	first        chan struct{} // closed after the first look
	answers      string        // its file in the directory; "" if it has none

	// Guarded by Stapler.mu.
	stapling
	busy   bool        // a look is under way
	shown  *ocspAnswer // that handshakes have
	told   StapleState // in the last reports
	lacked bool        // StapleMissing was reported, and it is still so
	filing
}

// filing is what is known of the file of a certificate.
type filing struct {
	saved           *ocspAnswer // last read from there or written to
	consult         bool        // another process may have put an answer there
	spoilt, unsaved string      // what was reported last
}

// stapleID tells certificates apart over reloads.
type stapleID struct {
	fingerprint, certFile string
	file                  string // Certificate.OCSPFile
}

// StapleReport tells about the stapling of a certificate.
type StapleReport struct {
	Event    StapleEvent
	CertFile string
	// Source is the responder or the file.
	Source string
	// Result of the last look, and its error unless it was a verified answer.
	Result OCSPResult
	Err    error
	// State is what is stapled now, and Until when that ends if it is StapleGood.
	State StapleState
	Until time.Time
	// RevokedAt is from the answer to StapleRevoking.
	RevokedAt time.Time
}

// StapleStats is the state of one certificate.
type StapleStats struct {
	CertFile string
	State    StapleState
	// MustStaple is true for certificates that demand a stapled answer.
	MustStaple bool
	// ThisUpdate and NextUpdate bound the validity of the last answer, good or revoked; zero without one.
	ThisUpdate, NextUpdate time.Time
	// NextLook is when the responder or the file will be looked at again; zero for StapleNone.
	NextLook time.Time
}

// newStapler makes one for certificates that follow is told of. What prev, which may be nil, knows of the same certificates is taken over.
func newStapler(o OCSPOptions, prev *Stapler, publish func()) *Stapler {
	s := &Stapler{
		opts: o.withDefaults(), publish: publish, ask: askResponder, spread: rand.Float64, asked: &Inquiries{}, counts: &stapleCounts{},
		slots: make(chan struct{}, maxOCSPLooks), wake: make(chan struct{}, 1), unfiled: make(chan struct{}, 1),
	}
	if prev != nil {
		s.asked, s.counts = prev.asked, prev.counts
		prev.mu.Lock()
		defer prev.mu.Unlock()
		s.byID = make(map[stapleID]*stapled, len(prev.certs))
		for _, c := range prev.certs {
			was := *c
			was.busy = false // what is under way is prev's
			if !was.looked {
				was.first = make(chan struct{})
			}
			s.certs, s.byID[c.id] = append(s.certs, &was), &was
		}
	}
	return s
}

// Share has the stapler ask together with the others that share q. It must be called before Prime and Start, if at all; the stapler of the
// next store goes on with q.
func (s *Stapler) Share(q *Inquiries) { s.asked = q }

// setCerts goes over to other certificates; those that are known keep their answers. issuers are those of ca_file.
func (s *Stapler) setCerts(loaded []*loadedCert, issuers []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]*stapled, len(s.certs)) // by fingerprint
	for _, c := range s.certs {
		known[c.id.fingerprint] = c
	}
	before := s.byID
	s.certs, s.byID = nil, make(map[stapleID]*stapled, len(loaded))
	for _, lc := range loaded {
		c := s.newStapled(lc, issuers)
		if s.byID[c.id] != nil {
			continue
		}
		c = c.succeed(cmp.Or(before[c.id], known[c.id.fingerprint]))
		s.certs, s.byID[c.id] = append(s.certs, c), c
	}
	s.stir()
}

func (s *Stapler) newStapled(lc *loadedCert, issuers []*x509.Certificate) *stapled {
	leaf := lc.cert.Leaf
	c := &stapled{
		id: idOf(lc), first: make(chan struct{}),
		leaf: leaf, issuer: cmp.Or(lc.issuer, issuerOf(leaf, issuers)), must: MustStaple(leaf),
	}
	if s.opts.Stapling == staplingOff {
		return c
	}
	c.file = c.id.file
	if c.file == "" {
		c.responders = responders(s.opts.Responder, leaf)
	}
	if c.issuer != nil && len(c.responders) > 0 {
		var err error
		if c.query, err = ocspQuery(leaf, c.issuer); err != nil {
			c.issuer = nil // one whose key the library cannot read verifies nothing either
		}
	}
	c.answers = c.answerFile(s.opts.CacheDir)
	return c
}

// succeed takes over what is known of the certificate, and returns old itself if nothing has changed.
func (c *stapled) succeed(old *stapled) *stapled {
	switch {
	case old == nil:
		return c
	case old.id == c.id && old.sameSource(c) && old.answers == c.answers:
		return old
	}
	if old.answers == c.answers {
		c.filing = old.filing
	}
	c.stapling, c.shown, c.told, c.lacked = old.stapling, old.shown, old.told, old.lacked
	if !old.sameSource(c) {
		c.next = time.Time{} // ask there at once
	}
	return c
}

// responders are those to ask about a certificate.
func responders(configured string, leaf *x509.Certificate) []string {
	if configured != "" {
		return []string{configured}
	}
	var list []string
	for _, u := range leaf.OCSPServer {
		if strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://") {
			list = append(list, u)
		}
	}
	return list
}

func idOf(lc *loadedCert) stapleID {
	return stapleID{lc.info.Fingerprint, lc.info.CertFile, lc.from.OCSPFile}
}

func (c *stapled) sameSource(o *stapled) bool {
	return c.file == o.file && slices.Equal(c.responders, o.responders) && (c.issuer == nil) == (o.issuer == nil) &&
		(c.issuer == nil || c.issuer.Equal(o.issuer))
}

// source is where the next look goes, "" for none.
func (c *stapled) source() string {
	if c.file != "" || len(c.responders) == 0 {
		return c.file
	}
	return c.responders[c.failures%len(c.responders)]
}

// stateNow is stapling.state, for certificates that have nobody to ask, too.
func (c *stapled) stateNow(now time.Time) StapleState {
	if c.source() == "" {
		return StapleNone
	}
	return c.state(now)
}

// staple returns what to staple to a certificate, nil for nothing, and whether others of the same name should go before it: one that is revoked, or that
// must be stapled and cannot be, is refused by clients that look.
func (s *Stapler) staple(lc *loadedCert) (der []byte, avoid bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byID[idOf(lc)]
	if c == nil {
		return nil, false
	}
	state := c.stateNow(now)
	if state == StapleGood {
		der = c.good.der
	}
	return der, state == StapleRevoked || c.must && state != StapleGood
}

// Prime takes what ocsp.cache_dir has of new certificates, and has those that must be stapled and still lack an answer looked at for the first time, all
// at once, before handshakes use them. It takes at most ocsp.timeout, and a failure only means that the answer is missing for now.
func (s *Stapler) Prime() {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Timeout)
	defer cancel()
	if !s.recallWithin(ctx) {
		return // no time is left to ask; Start does at once
	}
	for _, c := range s.claim((*stapled).hurries) {
		go func() {
			select {
			case s.slots <- struct{}{}:
				s.look(ctx, c)
			case <-ctx.Done():
				s.release(c)
			}
		}()
	}
	for _, first := range s.awaited() { // also those that the goroutine of Start was faster to look at
		select {
		case <-first:
		case <-ctx.Done():
		}
	}
	s.settle(time.Now())
}

// recallWithin has answers of the directory taken, and reports whether that was over in time. A disk that hangs holds up nothing else.
func (s *Stapler) recallWithin(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.recall()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// hurries reports whether handshakes would better wait for a first answer.
func (c *stapled) hurries() bool { return c.must && !c.looked && c.latest() == nil }

// Start has answers looked for until Close. report is called when something is worth a line in the log, maybe from two goroutines at a time; it may be
// nil. Only the first call has an effect.
func (s *Stapler) Start(report func(StapleReport)) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.cancel != nil || s.closed {
		return
	}
	if report == nil {
		report = func(StapleReport) {}
	}
	s.mu.Lock()
	s.report = report
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.run(ctx)
	if s.opts.CacheDir != "" && s.opts.Stapling != staplingOff {
		go s.keepAnswers(ctx)
	}
}

// Close ends what Start began, without waiting for looks that are under way. The answers stay as they are, for handshakes that are not over.
// It may be called more than once.
func (s *Stapler) Close() {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	s.closed = true
	if s.cancel != nil {
		s.cancel()
	}
}

// run is the goroutine of Start.
func (s *Stapler) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.settle(time.Now())
		s.launch(ctx)
		timer.Reset(s.sleep(time.Now()))
	}
}

// launch begins the looks that are due, those that have waited longest first, as far as there are slots.
func (s *Stapler) launch(ctx context.Context) {
	now := time.Now()
	due := s.claim(func(c *stapled) bool { return !c.next.After(now) })
	for i, c := range due {
		select {
		case s.slots <- struct{}{}:
			go s.look(ctx, c)
		default: // the look that gives a slot back wakes run
			for _, c := range due[i:] {
				s.release(c)
			}
			return
		}
	}
}

// claim marks certificates as being looked at, and returns them.
func (s *Stapler) claim(wanted func(*stapled) bool) []*stapled {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*stapled
	for _, c := range s.certs {
		if !c.busy && c.source() != "" && wanted(c) {
			c.busy = true
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b *stapled) int { return a.next.Compare(b.next) })
	return list
}

// awaited returns what is closed when certificates that must be stapled have been looked at for the first time.
func (s *Stapler) awaited() (list []<-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.certs {
		if c.hurries() && c.source() != "" {
			list = append(list, c.first)
		}
	}
	return list
}

func (s *Stapler) release(c *stapled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
}

// sleep is the time until something is due.
func (s *Stapler) sleep(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	until := now.Add(maxStapleSleep)
	for _, c := range s.certs {
		if c.source() == "" {
			continue
		}
		if !c.busy && c.next.Before(until) && len(s.slots) < maxOCSPLooks {
			until = c.next
		}
		if c.good.valid(now) && c.good.nextUpdate.Before(until) {
			until = c.good.nextUpdate
		}
	}
	return max(until.Sub(now), time.Millisecond)
}

// stir wakes run.
func (s *Stapler) stir() { poke(s.wake) }

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// look looks for an answer once, and gives the slot and the certificate back.
func (s *Stapler) look(ctx context.Context, c *stapled) {
	defer s.stir()
	defer func() { <-s.slots }()
	s.mu.Lock()
	source, since := c.source(), c.at
	s.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	answer, at, err := s.answer(call, c, source, since)
	if errors.Is(ctx.Err(), context.Canceled) {
		s.release(c) // closed meanwhile
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	if !c.looked {
		close(c.first)
	}
	event, tell := c.take(answer, err, at, func(left time.Duration, failures int) time.Duration {
		if c.file != "" {
			return s.opts.RefreshMin // a look at a file costs nothing
		}
		return ocspWait(&s.opts, left, failures, s.spread())
	})
	s.counts.results[c.last].Add(1)
	c.consult = c.consult || c.failures > 0
	if c.answers != "" && (c.consult || c.latest() != c.saved) {
		poke(s.unfiled)
	}
	if tell {
		r := c.reportOf(event, source, now)
		if event == StapleRevoking {
			r.RevokedAt = answer.revokedAt
		}
		s.pending = append(s.pending, r)
	}
}

// answer gets and verifies an answer, one from a responder that came after since, and says when it came. The error is an OCSPError.
func (s *Stapler) answer(ctx context.Context, c *stapled, source string, since time.Time) (*ocspAnswer, time.Time, error) {
	if c.issuer == nil {
		return nil, time.Now(), ocspErrorf(OCSPNoIssuer, "%w (want %q)", ErrNoIssuer, c.leaf.Issuer)
	}
	if c.file != "" {
		der, err := readOCSPFile(source)
		a, err := c.verified(der, err, source)
		return a, time.Now(), err
	}
	return s.asked.ask(ctx, s.question(c, source), since, func() (*ocspAnswer, error) {
		der, err := s.ask(ctx, source, c.query)
		return c.verified(der, err, source)
	})
}

// verified verifies an answer, unless there is none for why. The error is an OCSPError.
func (c *stapled) verified(der []byte, why error, source string) (*ocspAnswer, error) {
	if why != nil {
		return nil, why
	}
	a, err := readOCSP(der, c.leaf, c.issuer, time.Now())
	if err != nil {
		return nil, ocspErrorf(ocspResult(err), "answer from %q: %w", source, err)
	}
	return a, nil
}

func (c *stapled) reportOf(event StapleEvent, source string, now time.Time) StapleReport {
	r := StapleReport{Event: event, CertFile: c.id.certFile, Source: source, Result: c.last, Err: c.err, State: c.stateNow(now)}
	if r.State == StapleGood {
		r.Until = c.good.nextUpdate
	}
	return r
}

// settle has handshakes use what has changed, and reports it.
func (s *Stapler) settle(now time.Time) {
	s.mu.Lock()
	changed := false
	for _, c := range s.certs {
		if a := c.staple(now); a != c.shown {
			c.shown, changed = a, true
		}
		state := c.stateNow(now)
		changed = changed || state != c.told // others may go before it now
		if c.told == StapleGood && (state == StapleExpired || state == StapleUnknown) {
			s.pending = append(s.pending, c.reportOf(StapleEnded, c.source(), now))
		}
		lacks := c.must && state != StapleGood && (c.looked || state == StapleNone || state == StapleRevoked)
		if lacks && !c.lacked {
			s.pending = append(s.pending, c.reportOf(StapleMissing, c.source(), now))
		}
		c.told, c.lacked = state, lacks
	}
	report := s.report
	var reports []StapleReport
	if report != nil { // what Prime meets waits for Start
		reports, s.pending = s.pending, nil
	}
	s.mu.Unlock()
	if changed {
		s.publish()
	}
	for _, r := range reports {
		report(r)
	}
}

// recheckFiles has the files of ocsp_file looked at now.
func (s *Stapler) recheckFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.certs {
		if c.file != "" {
			c.next = time.Time{}
		}
	}
	s.stir()
}

// Stats describes the certificates, in the order of the options, one entry for each file.
func (s *Stapler) Stats() []StapleStats {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []StapleStats
	for _, c := range s.certs {
		if slices.ContainsFunc(list, func(st StapleStats) bool { return st.CertFile == c.id.certFile }) {
			continue
		}
		st := StapleStats{CertFile: c.id.certFile, State: c.stateNow(now), MustStaple: c.must}
		if a := cmp.Or(c.revoked, c.good); a != nil {
			st.ThisUpdate, st.NextUpdate = a.thisUpdate, a.nextUpdate
		}
		if st.State != StapleNone {
			st.NextLook = c.next
		}
		list = append(list, st)
	}
	return list
}

// Reads counts the files of ocsp.cache_dir that were verified by OCSPResult: only good and revoked ones are used.
func (s *Stapler) Reads() [numOCSPResults]uint64 { return loadAll(&s.counts.reads) }

// Writes counts the files of ocsp.cache_dir that were written, and those that could not be.
func (s *Stapler) Writes() (done, failed uint64) {
	return s.counts.written.Load(), s.counts.unwritten.Load()
}

// Results counts the looks for answers by OCSPResult, over all certificates of the listener.
func (s *Stapler) Results() [numOCSPResults]uint64 { return loadAll(&s.counts.results) }

func loadAll(counts *[numOCSPResults]atomic.Uint64) (all [numOCSPResults]uint64) {
	for i := range counts {
		all[i] = counts[i].Load()
	}
	return all
}
