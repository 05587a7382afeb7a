package tlsterm

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// Inquiries has the staplers of a process ask a responder once for what several of them want to know: listeners with the same certificate and
// equal OCSP options. Each keeps its own schedule; whoever is the first to ask spares the others theirs. The zero value is ready.
type Inquiries struct {
	mu    sync.Mutex // guards memory only
	all   map[question]*inquiry
	swept time.Time
}

// question is what one answer serves for. It holds all that decides what is asked and whether the answer is believed.
type question struct {
	leaf, issuer [sha256.Size]byte
	responder    string
	opts         OCSPOptions
}

// inquiry is one request. What it came to is there once done is closed.
type inquiry struct {
	done      chan struct{}
	at        time.Time
	answer    *ocspAnswer
	err       error
	abandoned bool // whoever asked was closed
}

// maxInquiryAge bounds how long an answer is remembered for listeners that come later.
const maxInquiryAge = 24 * time.Hour

// inquirySweep is the least time between two looks for what can be forgotten.
const inquirySweep = time.Minute

func (s *Stapler) question(c *stapled, source string) question {
	return question{sha256.Sum256(c.leaf.Raw), sha256.Sum256(c.issuer.Raw), source, s.opts}
}

// ask returns what came of a request, and when it was over: one of another stapler that is under way or that was made after since, or else one of its own by get.
func (q *Inquiries) ask(ctx context.Context, what question, since time.Time, get func() (*ocspAnswer, error)) (*ocspAnswer, time.Time, error) {
	for {
		in, mine := q.join(what, since)
		if mine {
			in.answer, in.err = get()
			in.at, in.abandoned = time.Now(), errors.Is(ctx.Err(), context.Canceled)
			close(in.done)
			return in.answer, in.at, in.err
		}
		select {
		case <-in.done:
			if !in.abandoned {
				return in.answer, in.at, in.err
			}
		case <-ctx.Done():
			return nil, time.Now(), failedCall(what.responder, ctx.Err())
		}
	}
}

func (q *Inquiries) join(what question, since time.Time) (in *inquiry, mine bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if in = q.all[what]; in != nil && (in.underWay() || in.at.After(since) && in.serves(&what.opts, now)) {
		return in, false
	}
	q.sweep(now)
	if q.all == nil {
		q.all = map[question]*inquiry{}
	}
	in = &inquiry{done: make(chan struct{})}
	q.all[what] = in
	return in, true
}

func (in *inquiry) underWay() bool {
	select {
	case <-in.done:
		return false
	default:
		return true
	}
}

// serves reports whether what came of it spares others their request: an answer for as long as it is valid, a failure for the least
// time between two requests.
func (in *inquiry) serves(o *OCSPOptions, now time.Time) bool {
	age := now.Sub(in.at)
	switch {
	case in.abandoned:
		return false
	case in.err == nil && in.answer.status <= OCSPRevoked:
		return age < maxInquiryAge && in.answer.valid(now)
	}
	return age < o.RefreshMin
}

// sweep forgets what serves nobody any more, as of certificates that were replaced. q.mu must be held.
func (q *Inquiries) sweep(now time.Time) {
	if now.Sub(q.swept) < inquirySweep {
		return
	}
	q.swept = now
	for what, in := range q.all {
		if !in.underWay() && !in.serves(&what.opts, now) {
			delete(q.all, what)
		}
	}
}
