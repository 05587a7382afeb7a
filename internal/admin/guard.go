package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/VictoriaMetrics/metrics"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"

	"tickgate/internal/meter"
)

// Metrics describes the metrics of this package.
var Metrics = []meter.Desc{
	{Name: "tickgate_admin_requests_total", Type: "counter", Labels: "", Help: "Requests to the admin endpoint, refused ones included."},
	{Name: "tickgate_admin_refused_total", Type: "counter", Labels: "reason (token, host, origin)", Help: "Requests to the admin endpoint refused for a wrong or missing token, a Host that is not local, or an Origin of another site."},
}

// refusal says why a request was refused.
type refusal uint8

const (
	refusedNot refusal = iota
	refusedToken
	refusedHost
	refusedOrigin
	numRefusals
)

var refusals = [numRefusals]struct {
	word   string
	status int
	text   string
}{
	refusedNot:    {},
	refusedToken:  {"token", fasthttp.StatusUnauthorized, "the admin token is missing or wrong (want Authorization: Bearer TOKEN)"},
	refusedHost:   {"host", fasthttp.StatusForbidden, "the Host is not local (ask for localhost or a loopback address, or set admin.token)"},
	refusedOrigin: {"origin", fasthttp.StatusForbidden, "the request comes from a page of another site"},
}

type counters struct {
	requests *metrics.Counter
	refused  [numRefusals]*metrics.Counter
}

func (c *counters) register(set *metrics.Set) {
	if set == nil {
		set = metrics.NewSet()
	}
	c.requests = set.GetOrCreateCounter("tickgate_admin_requests_total")
	for i := refusedNot + 1; i < numRefusals; i++ {
		c.refused[i] = set.GetOrCreateCounter("tickgate_admin_refused_total{" + meter.Label("reason", refusals[i].word) + "}")
	}
}

// handle is the way of every request: guard, then route.
func (s *Server) handle(rc *fasthttp.RequestCtx) {
	s.counts.requests.Inc()
	rc.Response.Header.Set("X-Content-Type-Options", "nosniff")
	rc.Response.Header.Set("Cache-Control", "no-store")
	if why := s.judge(rc); why != refusedNot {
		s.refuse(rc, why)
		return
	}
	s.routes(rc)
}

func (s *Server) refuse(rc *fasthttp.RequestCtx, why refusal) {
	s.counts.refused[why].Inc()
	r := refusals[why]
	s.log.Event(zerolog.WarnLevel, "admin_refused").
		Str("reason", r.word).
		Stringer("client", rc.RemoteAddr()).
		Bytes("path", rc.Path()).
		Msg("admin request refused")
	if why == refusedToken {
		// RFC 6750 section 3.
		rc.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="tickgate admin"`)
	}
	writeError(rc, r.status, r.text)
}

// judge decides whether a request may pass.
func (s *Server) judge(rc *fasthttp.RequestCtx) refusal {
	path := rc.Request.URI().PathOriginal()
	if string(path) == healthzPath || string(path) == readyzPath {
		return refusedNot
	}
	if s.localOnly && !localHost(string(rc.Request.Header.Host())) {
		return refusedHost
	}
	if !safeMethod(rc) && crossSite(rc) {
		return refusedOrigin
	}
	if s.opts.Token != "" && !s.tokenOK(rc.Request.Header.Peek(fasthttp.HeaderAuthorization)) {
		return refusedToken
	}
	return refusedNot
}

// tokenOK compares hashes, so that neither the token's bytes nor its length show in the time.
func (s *Server) tokenOK(field []byte) bool {
	scheme, token, ok := bytes.Cut(field, []byte(" "))
	if !ok || !bytes.EqualFold(scheme, []byte("Bearer")) {
		return false
	}
	sum := sha256.Sum256(bytes.TrimSpace(token))
	return subtle.ConstantTimeCompare(sum[:], s.tokenSum[:]) == 1
}

// localHost reports whether a Host field names this machine by a name that no DNS server
// can give out: else a page could have its own name resolved to a loopback address and read
// the endpoint through the browser of whoever opens it (DNS rebinding).
func localHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(name, "."), "localhost")
}

func safeMethod(rc *fasthttp.RequestCtx) bool {
	return rc.IsGet() || rc.IsHead() || rc.IsOptions()
}

// crossSite reports whether a browser sent the request for a page of another site. Tools
// send neither field.
func crossSite(rc *fasthttp.RequestCtx) bool {
	switch site := string(rc.Request.Header.Peek("Sec-Fetch-Site")); site {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin := rc.Request.Header.Peek(fasthttp.HeaderOrigin)
	if len(origin) == 0 {
		return false
	}
	u, err := url.Parse(string(origin))
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, string(rc.Request.Header.Host()))
}
