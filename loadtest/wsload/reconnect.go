package wsload

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/pace"
)

const (
	// defaultBackoffMin and defaultBackoffMax are the bounds of pauses between attempts.
	defaultBackoffMin = 100 * time.Millisecond
	defaultBackoffMax = 10 * time.Second
	// mostRetryAfter bounds what a server may ask for.
	mostRetryAfter = 10 * time.Minute
)

// backoff says how long to pause before attempt n (from 0) to come back: a time evenly
// spread from 0 to a bound that doubles with each attempt ("full jitter"), so that clients
// who were cut off together do not come back together. What the server asked for with Retry-After
// is added whole; dice is 0 to 1.
func backoff(n int, lowest, highest, retryAfter time.Duration, dice float64) time.Duration {
	bound := highest
	if n < 32 && lowest<<n > 0 { // otherwise it has overflowed
		bound = min(lowest<<n, highest)
	}
	return min(retryAfter, mostRetryAfter) + time.Duration(dice*float64(bound))
}

// retryAfter reads a field of that name (RFC 9110 section 10.2.3); 0 is none.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), int(mostRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// Reconnects is how tunnels that the server had ended came back (Options.Reconnect).
type Reconnects struct {
	// Back is how often a tunnel came back, within Away of its end. StillAway tunnels were
	// not back when the run ended.
	Back      int64           `json:"back"`
	StillAway int64           `json:"still_away"`
	Away      latency.Summary `json:"away_time"`
	// Attempts to come back; Refused ones were answered with another status than 101, by
	// status, and RetryAfter the same by the value of that field; Failed ones got no answer.
	Attempts   int64            `json:"attempts"`
	Refused    map[int]int64    `json:"refused,omitempty"`
	RetryAfter map[string]int64 `json:"retry_after,omitempty"`
	Failed     int64            `json:"failed"`
	// Missed messages were due on a tunnel while it was away: echoes that were not sent for
	// that, and fan-outs that were published meanwhile. Of ticks nobody here knows.
	Missed int64 `json:"missed"`
	// HDR is all of Away: see latency.Histogram.Encoded.
	HDR string `json:"hdr,omitempty"`
}

// comeBack opens a tunnel of a place again after it was lost; nil once the run is over.
func (r *run) comeBack(s *slot, lost time.Time) *tunnel {
	published := r.sent.Load()
	r.count(func(c *Reconnects) { c.StillAway++ })
	var asked time.Duration
	for n := 0; ; n++ {
		if !pace.Sleep(r.staying, backoff(n, r.BackoffMin, r.BackoffMax, asked, rand.Float64())) {
			return nil
		}
		conn, err := r.dialer.Open(r.staying, s.id)
		if r.staying.Err() != nil {
			if err == nil {
				_ = conn.Net.Close()
			}
			return nil
		}
		if err != nil {
			asked = r.attemptFailed(err)
			continue
		}
		r.away.Add(time.Since(lost))
		missed := int64(0)
		if r.Mode == FanOut {
			missed = r.sent.Load() - published
		}
		r.count(func(c *Reconnects) { c.Attempts++; c.Back++; c.StillAway--; c.Missed += missed })
		return r.seated(s, conn)
	}
}

// attemptFailed counts an attempt, and returns what the server asked to wait.
func (r *run) attemptFailed(err error) (asked time.Duration) {
	var refused *RefusedError
	if errors.As(err, &refused) {
		asked = retryAfter(refused.RetryAfter, time.Now())
	}
	r.count(func(c *Reconnects) {
		c.Attempts++
		if refused == nil {
			c.Failed++
			return
		}
		c.Refused[refused.Status]++
		c.RetryAfter[refused.RetryAfter]++
	})
	return asked
}

// count changes the figures of reconnects.
func (r *run) count(change func(*Reconnects)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.reconnects)
}

// slot is the place of one tunnel, which another takes when it comes back.
type slot struct {
	id      int
	current atomic.Pointer[tunnel] // the latest tunnel, ended or not
}

// keep is the goroutine of a place.
func (r *run) keep(s *slot, t *tunnel) {
	for t != nil {
		ours := t.read()
		r.open.Add(-1)
		if ours || !r.Reconnect || r.staying.Err() != nil {
			break
		}
		t = r.comeBack(s, t.lost)
	}
	r.countDown(1)
}

// seated makes a connection the tunnel of a place. If the run has ended meanwhile, the
// closing may have missed it, so it is closed here.
func (r *run) seated(s *slot, conn *Conn) *tunnel {
	t := &tunnel{Conn: conn, r: r, id: uint32(s.id), first: s.current.Load() == nil}
	r.open.Add(1)
	r.negotiated(conn)
	s.current.Store(t)
	if r.staying.Err() != nil {
		t.close()
	}
	return t
}

// stay makes the context that ends with the closing.
func (r *run) stay(ctx context.Context) (leave func()) {
	// Attempts go on until the closing, which comes soon after the end of ctx.
	r.staying, leave = context.WithCancel(context.WithoutCancel(ctx))
	return leave
}
