package proxy

import (
	"fmt"
	"runtime/debug"

	"github.com/rs/zerolog"

	"tickgate/internal/reason"
)

const (
	debugLevel = zerolog.DebugLevel
	infoLevel  = zerolog.InfoLevel
	warnLevel  = zerolog.WarnLevel
	errorLevel = zerolog.ErrorLevel
)

// levelOf says how loud the end of a request is: backends and the gateway's own
// limits concern the operator, clients that go away nobody.
func levelOf(r reason.Reason) zerolog.Level {
	switch r {
	case reason.LocalResponse, reason.TunnelDone, reason.ClientGone, reason.NoRoute, reason.MethodNotAllowed, reason.IdleTimeout:
		return zerolog.DebugLevel
	case reason.Internal:
		return errorLevel
	}
	if s := r.Status(); s >= 500 || s == 0 {
		return warnLevel
	}
	return infoLevel
}

// logEnd writes a line about a request that did not end well, at most a few a
// second for each reason.
func (g *Gateway) logEnd(x *Exchange) {
	e := g.log.Event(levelOf(x.ended), x.ended.String())
	if e == nil {
		return
	}
	if id := x.c.identity(); id != nil {
		e.Str("identity", id.Name())
	}
	e.Bytes("client", x.c.addrText).Str("listen", x.c.ln.name).Str("route", x.rt.name).Int("status", x.status)
	if len(x.req.Raw) > 0 {
		e.Bytes("method", x.req.Method()).Bytes("host", x.req.Host()).Bytes("target", x.req.Target())
	}
	if x.backend != nil {
		e.Str("upstream", x.rt.upstreamName()).Str("backend", x.backend.Label()).Int("attempts", x.att.number)
	}
	message := "request failed"
	if s := x.ended.Status(); s >= 400 && s < 500 {
		message = "request refused"
	}
	e.Bytes("request_id", x.id()).Msg(message)
}

// logBug writes the stack of a panic.
func (g *Gateway) logBug(p any, doing string) {
	g.log.Error().Str("panic", fmt.Sprint(p)).Str("doing", doing).Bytes("stack", debug.Stack()).Msg("BUG: panic")
}

// logAttempt writes a line about a backend that could not be connected to.
func (g *Gateway) logAttempt(x *Exchange, err error) {
	if e := g.log.Event(warnLevel, "connect_failed"); e != nil {
		e.Str("upstream", x.rt.upstreamName()).Str("backend", x.backend.Label()).Err(err).Msg("cannot connect to backend")
	}
}

// logExcess writes a line about a backend that sent more than its response.
func (g *Gateway) logExcess(x *Exchange, n int) {
	if e := g.log.Event(warnLevel, "backend_excess"); e != nil {
		e.Str("upstream", x.rt.upstreamName()).Str("backend", x.backend.Label()).Int("bytes", n).
			Msg("backend sent bytes after its response; connection closed")
	}
}
