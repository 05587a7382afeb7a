package tlsterm

import (
	"bytes"
	"time"
)

// StapleState is what handshakes say of a certificate.
type StapleState uint8

// States. Only in StapleGood anything is stapled.
const (
	StapleNone    StapleState = iota // there is nothing to ask: no responder and no ocsp_file, or ocsp.stapling is off
	StapleWaiting                    // no answer so far
	StapleGood                       // a good answer is stapled
	StapleRevoked                    // the certificate is revoked
	StapleUnknown                    // the responder does not know the certificate, and no good answer is left
	StapleExpired                    // the last good answer has expired, and no other has come
	numStapleStates
)

var stapleWords = [numStapleStates]string{
	StapleNone:    "none",
	StapleWaiting: "waiting",
	StapleGood:    "good",
	StapleRevoked: "revoked",
	StapleUnknown: "unknown",
	StapleExpired: "expired",
}

// String returns the snake_case word used in metrics, logs and tests.
func (s StapleState) String() string {
	if s >= numStapleStates {
		return "invalid"
	}
	return stapleWords[s]
}

// StapleStates returns every state in order, for metric series.
func StapleStates() []StapleState {
	all := make([]StapleState, numStapleStates)
	for i := range all {
		all[i] = StapleState(i)
	}
	return all
}

// StapleEvent is what a StapleReport tells.
type StapleEvent uint8

// Events.
const (
	StapleFailed    StapleEvent = iota // looks for an answer fail, or now fail for another reason
	StapleRecovered                    // they succeed again
	StapleRevoking                     // an answer says that the certificate is revoked; told of each new one
	StapleEnded                        // the good answer has expired
	StapleMissing                      // a certificate that must be stapled is not
	StapleSpoilt                       // the file of ocsp.cache_dir cannot be used
	StapleUnsaved                      // it cannot be written
)

// stapling is what is known of one certificate. Its methods decide and do nothing else: whoever calls them
// has the lock and says what time it is.
type stapling struct {
	good    *ocspAnswer // the last good answer, expired or not; nil if none came or the certificate was revoked since
	revoked *ocspAnswer // nil unless the last answer said so

	looked   bool       // at least once
	at       time.Time  // of the last look; where another stapler asked, when that was
	last     OCSPResult // of the last look
	err      error      // of the last look
	failures int        // looks in a row without a good answer or a revocation
	next     time.Time  // when to look again
}

// take notes what came of a look that was over at that time. wait is the time until the next for what is left of an answer's validity and so many failures.
func (s *stapling) take(a *ocspAnswer, err error, now time.Time, wait func(left time.Duration, failures int) time.Duration) (event StapleEvent, tell bool) {
	before, failed := s.last, s.failures > 0
	s.looked, s.at, s.err = true, now, err
	s.last = ocspOutcome(a, err)
	news := err == nil && s.isNews(a, now)
	if news {
		s.keep(a)
	}
	if s.last <= OCSPRevoked {
		s.failures = 0
	} else {
		s.failures++
	}
	s.next = now.Add(wait(s.left(now), s.failures))
	switch {
	case s.last == OCSPRevoked:
		return StapleRevoking, news
	case s.failures > 0:
		return StapleFailed, !failed || before != s.last
	}
	return StapleRecovered, failed
}

func ocspOutcome(a *ocspAnswer, err error) OCSPResult {
	if err != nil {
		return ocspResult(err)
	}
	return a.status
}

// isNews reports whether an answer takes the place of the one so far. The same one does not, and one made before it may not while that is
// valid: caches on the way give such ones now and then, and whoever wants to hide a revocation would.
func (s *stapling) isNews(a *ocspAnswer, now time.Time) bool {
	for _, known := range []*ocspAnswer{s.good, s.revoked} {
		if known != nil && bytes.Equal(a.der, known.der) || known.valid(now) && a.thisUpdate.Before(known.thisUpdate) {
			return false
		}
	}
	return true
}

// keep has a good answer take the place of any, and a revocation, too: who knows of it must not say the opposite though that were still valid.
// That the responder does not know the certificate may be its own trouble, so the good answer stays.
func (s *stapling) keep(a *ocspAnswer) {
	switch a.status {
	case OCSPGood:
		s.good, s.revoked = a, nil
	case OCSPRevoked:
		s.good, s.revoked = nil, a
	}
}

// left is what is left of the validity of the answer.
func (s *stapling) left(now time.Time) time.Duration {
	for _, a := range []*ocspAnswer{s.revoked, s.good} {
		if a.valid(now) {
			return a.nextUpdate.Sub(now)
		}
	}
	return 0
}

func (s *stapling) state(now time.Time) StapleState {
	switch {
	case s.revoked != nil:
		return StapleRevoked // for good, unless a good answer comes: an expired answer does not revive a certificate
	case s.good.valid(now):
		return StapleGood
	case s.looked && s.last == OCSPUnknown:
		return StapleUnknown
	case s.good != nil:
		return StapleExpired
	}
	return StapleWaiting
}

// staple returns the answer to staple, or nil.
func (s *stapling) staple(now time.Time) *ocspAnswer {
	if s.state(now) == StapleGood {
		return s.good
	}
	return nil
}
