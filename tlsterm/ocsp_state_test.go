package tlsterm

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestStapling goes through what answers and failures make of a certificate.
func TestStapling(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	made := func(status OCSPResult, from, to int) *ocspAnswer {
		return &ocspAnswer{der: fmt.Append(nil, status, from, to), status: status, thisUpdate: at(from), nextUpdate: at(to)}
	}
	failed := func(r OCSPResult) error { return &OCSPError{r, errors.New("reason")} }
	const silent = StapleEvent(99)
	var s stapling
	waits := func(left time.Duration, failures int) time.Duration { return left + time.Duration(failures) }
	f := func(step string, minute int, a *ocspAnswer, err error, event StapleEvent, state StapleState, shown *ocspAnswer) {
		t.Helper()
		now := at(minute)
		got, tell := s.take(a, err, now, waits)
		if !tell {
			got = silent
		}
		if got != event || s.state(now) != state || s.staple(now) != shown {
			t.Errorf("%s: event %d, %s, %v; want %d, %s, %v", step, got, s.state(now), s.staple(now), event, state, shown)
		}
		if want := now.Add(waits(s.left(now), s.failures)); s.next != want {
			t.Errorf("%s: next at %v, want %v", step, s.next, want)
		}
	}
	if s.state(start) != StapleWaiting || s.staple(start) != nil {
		t.Errorf("at first: %s", s.state(start))
	}
	// 1. Failures are told when they begin and when they change.
	f("1", 0, nil, failed(OCSPTimedOut), StapleFailed, StapleWaiting, nil)
	f("1", 1, nil, failed(OCSPTimedOut), silent, StapleWaiting, nil)
	f("1", 2, nil, failed(OCSPMalformed), StapleFailed, StapleWaiting, nil)
	if s.failures != 3 {
		t.Errorf("1: %d failures", s.failures)
	}
	// 2. The first good answer.
	first := made(OCSPGood, 3, 60)
	f("2", 3, first, nil, StapleRecovered, StapleGood, first)
	// 3. It serves while others fail, and until it expires.
	f("3", 30, nil, failed(OCSPUnreachable), StapleFailed, StapleGood, first)
	f("3", 31, made(OCSPUnknown, 31, 90), nil, StapleFailed, StapleGood, first)
	if s.state(at(60)) != StapleUnknown || s.staple(at(60)) != nil {
		t.Errorf("3: %s when it has expired", s.state(at(60)))
	}
	f("3", 61, nil, failed(OCSPUnreachable), StapleFailed, StapleExpired, nil)
	// 4. The next one, and one that is older, as from a cache.
	second := made(OCSPGood, 62, 120)
	f("4", 62, second, nil, StapleRecovered, StapleGood, second)
	f("4", 63, made(OCSPGood, 50, 200), nil, silent, StapleGood, second)
	// 5. Revoked: nothing is stapled from here on, and each such answer is told.
	revoked := made(OCSPRevoked, 64, 100)
	f("5", 64, revoked, nil, StapleRevoking, StapleRevoked, nil)
	f("5", 65, made(OCSPRevoked, 65, 100), nil, StapleRevoking, StapleRevoked, nil)
	// 6. A good answer from before does not revive it, neither does the end of the answer, nor failures.
	f("6", 66, second, nil, silent, StapleRevoked, nil)
	f("6", 67, made(OCSPRevoked, 65, 100), nil, silent, StapleRevoked, nil) // nor is the same one told again
	f("6", 110, nil, failed(OCSPTimedOut), StapleFailed, StapleRevoked, nil)
	// 7. One from after does, as when a hold is lifted.
	third := made(OCSPGood, 111, 200)
	f("7", 111, third, nil, StapleRecovered, StapleGood, third)
	// 8. An older revocation, as from a cache, changes nothing, neither does the same answer.
	f("8", 112, made(OCSPRevoked, 64, 300), nil, silent, StapleGood, third)
	f("8", 113, made(OCSPGood, 111, 200), nil, silent, StapleGood, third)
}
