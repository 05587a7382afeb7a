package proxy

import (
	"errors"
	"fmt"
	"time"

	"tickgate/config"
	"tickgate/internal/h1"
	"tickgate/internal/reason"
	"tickgate/proxy/upstream"
)

// forwardAction sends the request to a backend of an upstream.
type forwardAction struct{}

// routeUpstream is what a route knows of the upstream it forwards to.
type routeUpstream struct {
	set      *upstream.Set
	tag      upstream.Tag
	timeouts config.BackendTimeouts
	host     string
	attempts int
	retryOn  retrySet
	hash     func(x *Exchange) uint64 // nil unless the balancer hashes
}

func compileForward(b *builder, r *config.Route, rt *route) (action, error) {
	u, set := b.cfg.Upstreams[r.Upstream], b.sets[r.Upstream]
	if u == nil || set == nil {
		return nil, fmt.Errorf("route %q: unknown upstream %q", rt.name, r.Upstream)
	}
	rt.upstream = &routeUpstream{
		set:      set,
		tag:      b.gw.registry.Tag(r.Tag),
		timeouts: u.Timeouts,
		host:     u.Host,
		attempts: u.Retry.Attempts,
		retryOn:  retrySetOf(u.Retry.On),
	}
	if u.Balance == "hash" {
		rt.upstream.hash = hasherOf(u.HashKey)
	}
	if rt.timeout == 0 {
		rt.timeout = u.Timeouts.Request
	}
	return forwardAction{}, nil
}

func (forwardAction) kind() string { return "upstream" }

// serve tries backends until one answers or no retry is allowed.
func (forwardAction) serve(x *Exchange) {
	up := x.rt.upstream
	x.up = up.set
	if !x.checkUpgrade() || !x.rewrite() || !x.takePrefix() {
		return
	}
	x.rb.acquire()
	defer x.rb.release()
	x.up.Budget().Request(x.ready)
	var tried upstream.Tried
	for n := 1; ; n++ {
		x.backend = up.set.Take(x.hashKey(), &tried)
		if x.backend == nil {
			x.backend = x.att.backend // for the log: the last one tried
			x.fail(orReason(x.att.failed, reason.NoBackend))
			return
		}
		x.inFlight = true
		tried.Add(x.backend)
		x.try(n)
		if x.att.failed == reason.OK {
			return
		}
		if !x.mayRetry(n) {
			x.fail(x.att.failed)
			return
		}
	}
}

// orReason returns r, or other if r is OK.
func orReason(r, other reason.Reason) reason.Reason {
	if r != reason.OK {
		return r
	}
	return other
}

// try makes one attempt at x.backend.
func (x *Exchange) try(n int) {
	up := x.rt.upstream
	x.att = attempt{number: n, backend: x.backend, start: x.ready.Add(x.phases.Queue - x.waited)}
	if n > 1 {
		x.att.start = time.Now()
	}
	left, ok := x.remaining(x.att.start)
	if !ok {
		x.settleBackend(false)
		x.att.failed = reason.RequestTimeout
		return
	}
	err := x.backend.Pool(up.tag).Do(x, left, &x.att.timing)
	if err != nil && x.att.failed == reason.OK {
		x.att.failed = poolReason(err)
		x.c.gw.logAttempt(x, err)
	}
	x.upstreamTime += x.att.latency()
	x.settleBackend(!x.att.failed.ByClient())
	x.addTiming()
}

// settleBackend ends the count of the request at its backend. What the client broke
// off tells nothing about the backend.
func (x *Exchange) settleBackend(telling bool) {
	switch {
	case !x.inFlight:
		return
	case telling:
		x.backend.End(x.att.latency(), x.att.failed == reason.OK)
	default:
		x.backend.Cancel()
	}
	x.inFlight = false
}

// poolReason classifies a failure to get a connection.
func poolReason(err error) reason.Reason {
	var e *upstream.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return reason.DialFailed
}

func (x *Exchange) addTiming() {
	t := &x.att.timing
	x.phases.Pool += t.Wait
	x.phases.DNS += t.DNS
	x.phases.Dial += t.Dial
	x.phases.TLS += t.TLS
	x.phases.Fresh = x.phases.Fresh || t.Fresh
}

// hashKey is what a hashing balancer picks by; 0 for the others.
func (x *Exchange) hashKey() uint64 {
	if h := x.rt.upstream.hash; h != nil {
		return h(x)
	}
	return 0
}

// hasherOf compiles a hash_key. A request without the header or cookie is hashed by
// its client's address.
func hasherOf(key string) func(x *Exchange) uint64 {
	byAddr := func(x *Exchange) uint64 {
		a := x.client().addr.As16()
		return upstream.Hash(a[:])
	}
	orAddr := func(v []byte, x *Exchange) uint64 {
		if len(v) == 0 {
			return byAddr(x)
		}
		return upstream.Hash(v)
	}
	switch kind, name := cutColon(key); kind {
	case "path":
		return func(x *Exchange) uint64 { return upstream.Hash(x.req.Path()) }
	case "uri":
		return func(x *Exchange) uint64 { return upstream.Hash(x.req.Target()) }
	case "header":
		field := []byte(name)
		return func(x *Exchange) uint64 { return orAddr(x.req.GetName(field), x) }
	case "cookie":
		return func(x *Exchange) uint64 { return orAddr(findCookie(x.req.Get(h1.Cookie), name), x) }
	}
	return byAddr
}
