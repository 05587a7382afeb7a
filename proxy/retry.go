package proxy

import (
	"strings"
	"time"

	"tickgate/internal/reason"
)

// A request is attempted again only if nothing of it can have taken effect: no byte
// of it was written to the failed connection, or its method is idempotent and its
// body can be sent again whole; and never once the client was sent any of the
// answer.

// retrySet is the set of conditions on which an upstream retries.
type retrySet struct {
	connect, reset, timeout, badResponse bool
	status                               [3]bool // 502, 503, 504
}

func retrySetOf(on []string) (s retrySet) {
	for _, c := range on {
		switch c {
		case "connect":
			s.connect = true
		case "reset":
			s.reset = true
		case "timeout":
			s.timeout = true
		case "bad_response":
			s.badResponse = true
		case "502", "503", "504":
			s.status[c[2]-'2'] = true
		}
	}
	return s
}

// names reports whether the set names r as a condition.
func (s *retrySet) names(r reason.Reason) bool {
	switch r {
	case reason.DialFailed, reason.BackendTLSFailed, reason.PoolFull:
		return s.connect
	case reason.BackendReset, reason.BackendWriteFailed:
		return s.reset
	case reason.BackendTimeout:
		return s.timeout
	case reason.BadBackendHead, reason.BadBackendFraming, reason.BackendHeadTooLarge, reason.UnaskedUpgrade:
		return s.badResponse
	}
	return false
}

// onStatus reports whether the set names a response status.
func (s *retrySet) onStatus(status int) bool {
	return status >= 502 && status <= 504 && s.status[status-502]
}

// mayRetry decides about another attempt after attempt n failed.
func (x *Exchange) mayRetry(n int) bool {
	up := x.rt.upstream
	if x.att.again {
		return true
	}
	if n >= up.attempts || x.started || x.c.isGone() || !up.retryOn.names(x.att.failed) || !x.repeatable() {
		return false
	}
	now := time.Now()
	if _, ok := x.remaining(now); !ok {
		x.att.failed = reason.RequestTimeout // which is why there is no further attempt
		return false
	}
	return x.up.Budget().AllowRetry(now)
}

// wantsOtherBackend reports whether a response with this status is given up for
// another attempt.
func (x *Exchange) wantsOtherBackend(status int) bool {
	up := x.rt.upstream
	if !up.retryOn.onStatus(status) || x.att.number >= up.attempts || !x.repeatable() || x.upgrading() {
		return false
	}
	now := time.Now()
	_, ok := x.remaining(now)
	return ok && x.up.Budget().AllowRetry(now)
}

// repeatable reports whether sending the request again cannot make anything happen
// twice.
func (x *Exchange) repeatable() bool {
	if !x.body.replayable() {
		return false
	}
	return !x.att.wrote || x.req.MethodID.Idempotent()
}

// cutColon splits "header:NAME".
func cutColon(s string) (kind, name string) {
	kind, name, _ = strings.Cut(s, ":")
	return kind, name
}
