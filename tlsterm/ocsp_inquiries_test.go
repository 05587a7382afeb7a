package tlsterm

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"
)

// newDeskPair loads the options for the desk and for another one that shares with it, as two listeners of one process do. It returns the other.
func newDeskPair(t *testing.T, o Options, first *desk) *desk {
	t.Helper()
	second := &desk{t: t, office: first.office, byURL: first.byURL, shares: first.shares, spread: 0.99} // its looks are the later ones
	first.load(o)
	second.replies(first.reply)
	second.load(o)
	return second
}

// both returns what the two of a pair were asked since the last call.
func both(a, b *desk) int {
	synctest.Wait()
	n := 0
	for _, d := range []*desk{a, b} {
		d.mu.Lock()
		n += d.asked
		d.asked = 0
		d.mu.Unlock()
	}
	return n
}

// Listeners with the same certificate ask once, each by its own schedule, and learn the same.
func TestInquiriesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newDesk(t)
		a.shares = &Inquiries{}
		o := Options{Certificates: []Certificate{a.cert(a.leaf)}, OCSP: OCSPOptions{RefreshMax: 20 * time.Minute}}
		b := newDeskPair(t, o, a)
		is := func(step string, after time.Duration, state StapleState, asked int) {
			t.Helper()
			time.Sleep(after)
			if n := both(a, b); n != asked {
				t.Errorf("%s: asked %d times, want %d", step, n, asked)
			}
			for name, d := range map[string]*desk{"a": a, "b": b} {
				if st := d.s.stapler.Stats()[0]; st.State != state {
					t.Errorf("%s: %s is %s, want %s", step, name, st.State, state)
				}
			}
		}
		is("at start", time.Second, StapleGood, 1)
		if results := b.s.stapler.Results(); results[OCSPGood] != 1 {
			t.Errorf("what another has asked for is not counted: %v", results)
		}
		is("refreshed", 25*time.Minute, StapleGood, 1)
		is("for hours", 10*time.Hour, StapleGood, 30)
		// A revocation is heard of by both.
		for _, d := range []*desk{a, b} {
			d.says(reply{status: ocsp.Revoked})
		}
		is("revoked", 25*time.Minute, StapleRevoked, 1)
		// Failures are shared as well, one request a minute at most.
		for _, d := range []*desk{a, b} {
			d.fails(OCSPUnreachable)
		}
		time.Sleep(30 * time.Minute)
		if n := both(a, b); n == 0 || n > 30 {
			t.Errorf("failing: asked %d times in half an hour, want 1 to 30", n)
		}
	})
}

// What is not asked alike is asked apart, and who is closed leaves the question to others.
func TestInquiriesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newDesk(t)
		a.shares = &Inquiries{}
		o := Options{Certificates: []Certificate{a.cert(a.leaf)}}
		b := newDeskPair(t, o, a)
		both(a, b)
		o.OCSP.Responder = "http://other.test"
		leaf := a.byURL["http://desk.test/0"]
		a.byURL[o.OCSP.Responder] = leaf
		b.load(o)
		time.Sleep(time.Second)
		if n := both(a, b); n != 1 {
			t.Errorf("another responder: asked %d times, want 1", n)
		}
		o.OCSP.Responder, o.OCSP.Timeout = "http://third.test", time.Hour
		a.hangs()
		a.load(o)
		synctest.Wait()
		var asked atomic.Bool
		b.replies(func(context.Context, *x509.Certificate) ([]byte, error) {
			asked.Store(true)
			return b.answer(leaf, reply{status: ocsp.Revoked}), nil
		})
		b.load(o) // which waits for a
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked.Load() {
			t.Error("it asks though another is about to know")
		}
		a.s.stapler.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if st := b.s.stapler.Stats()[0]; !asked.Load() || st.State != StapleRevoked {
			t.Errorf("the other was closed: asked %t, %s", asked.Load(), st.State)
		}
	})
}

// Answers that serve nobody are forgotten.
func TestInquiriesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Inquiries
		ask := func(responder string, a *ocspAnswer, err error) {
			t.Helper()
			what := question{responder: responder, opts: OCSPOptions{}.withDefaults()}
			got, _, gotErr := q.ask(t.Context(), what, time.Time{}, func() (*ocspAnswer, error) { return a, err })
			if got != a || gotErr != err {
				t.Errorf("%s: %v, %v", responder, got, gotErr)
			}
		}
		now := time.Now()
		ask("short", &ocspAnswer{nextUpdate: now.Add(time.Hour)}, nil)
		ask("long", &ocspAnswer{nextUpdate: now.Add(1000 * time.Hour)}, nil)
		ask("failed", nil, ocspErrorf(OCSPUnreachable, "made to fail"))
		for _, step := range []struct {
			after time.Duration
			left  int // with the one that is new
		}{{time.Second, 4}, {2 * time.Minute, 3}, {time.Hour, 2}, {24 * time.Hour, 1}} {
			time.Sleep(step.after)
			ask(step.after.String(), nil, ocspErrorf(OCSPUnreachable, "made to fail"))
			if n := len(q.all); n != step.left {
				t.Errorf("after another %s: %d are remembered, want %d", step.after, n, step.left)
			}
		}
	})
}
