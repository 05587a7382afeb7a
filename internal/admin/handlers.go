package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"

	"github.com/fasthttp/router"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
	"github.com/valyala/fasthttp/pprofhandler"
)

const (
	healthzPath = "/healthz"
	readyzPath  = "/readyz"

	defaultLimit = 100
	maxLimit     = 10_000
)

// endpoint is one row of the index.
type endpoint struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Help   string `json:"help"`
	serve  fasthttp.RequestHandler
}

// endpoints lists everything that is served; the index and the router are made from it.
func (s *Server) endpoints() []endpoint {
	const server = "/api/v1/upstreams/{name}/servers/{addr}/drain"
	return []endpoint{
		{"GET", "/", "this list", s.serveIndex},
		{"GET", "/metrics", "metrics in the Prometheus text format", fasthttp.CompressHandler(s.serveMetrics)},
		{"GET", healthzPath, "200 while the process runs; needs no token", serveHealthz},
		{"GET", readyzPath, "200 while requests are taken, 503 otherwise; needs no token", s.serveReadyz},
		{"GET", "/debug/pprof/", "list of the profiles", pprofIndex},
		{"GET", "/debug/pprof/{profile}", "one profile, for go tool pprof", pprofhandler.PprofHandler},
		{"GET", "/api/v1/status", "version, uptime, generation, last reload", s.show(s.gateway.Status)},
		{"GET", "/api/v1/config", "the configuration in use", s.show(s.gateway.Config)},
		{"GET", "/api/v1/routes", "routes, in the order in which they are tried", s.show(s.gateway.Routes)},
		{"GET", "/api/v1/upstreams", "upstreams and the state of their backends", s.show(s.gateway.Upstreams)},
		{"GET", "/api/v1/connections", "client connections: ?listener= &state= &peer=ADDR[/BITS] &limit=", s.serveConnections},
		{"POST", "/api/v1/reload", "load the configuration again; 422 if it is refused", s.serveReload},
		{"POST", server, "give a backend no new requests; ?drain=false takes it back in", s.serveDrain},
		{"DELETE", server, "take a drained backend back in", s.serveUndrain},
	}
}

// pprofIndex serves what pprofhandler.PprofHandler, which answers 404 to every path with a
// final slash, does not.
var pprofIndex = fasthttpadaptor.NewFastHTTPHandlerFunc(pprof.Index)

func (s *Server) newRouter() *router.Router {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.NotFound = func(rc *fasthttp.RequestCtx) {
		writeError(rc, fasthttp.StatusNotFound, "no such endpoint (GET / lists them)")
	}
	r.MethodNotAllowed = func(rc *fasthttp.RequestCtx) {
		writeError(rc, fasthttp.StatusMethodNotAllowed, "the endpoint does not take this method (see Allow)")
	}
	r.PanicHandler = s.servePanic
	for _, e := range s.endpoints() {
		r.Handle(e.Method, e.Path, e.serve)
		if e.Method == fasthttp.MethodGet {
			r.HEAD(e.Path, e.serve)
		}
	}
	return r
}

func (s *Server) serveIndex(rc *fasthttp.RequestCtx) {
	writeJSON(rc, fasthttp.StatusOK, s.endpoints())
}

func (s *Server) serveMetrics(rc *fasthttp.RequestCtx) {
	if s.opts.WriteMetrics == nil {
		writeError(rc, fasthttp.StatusNotFound, "there are no metrics")
		return
	}
	rc.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	if err := s.opts.WriteMetrics(rc); err != nil {
		rc.ResetBody()
		writeError(rc, fasthttp.StatusInternalServerError, err.Error())
	}
}

func serveHealthz(rc *fasthttp.RequestCtx) {
	rc.SetContentType("text/plain; charset=utf-8")
	rc.SetBodyString("ok\n")
}

func (s *Server) serveReadyz(rc *fasthttp.RequestCtx) {
	rc.SetContentType("text/plain; charset=utf-8")
	if err := s.gateway.Ready(); err != nil {
		rc.SetStatusCode(fasthttp.StatusServiceUnavailable)
		rc.SetBodyString(err.Error() + "\n")
		return
	}
	rc.SetBodyString("ready\n")
}

// show makes a handler of what a method of the gateway returns.
func (s *Server) show(what func() any) fasthttp.RequestHandler {
	return func(rc *fasthttp.RequestCtx) { writeJSON(rc, fasthttp.StatusOK, what()) }
}

func (s *Server) serveConnections(rc *fasthttp.RequestCtx) {
	filter, err := parseConnFilter(rc.QueryArgs())
	if err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	writeJSON(rc, fasthttp.StatusOK, s.gateway.Connections(filter))
}

func parseConnFilter(args *fasthttp.Args) (ConnFilter, error) {
	filter := ConnFilter{Limit: defaultLimit}
	for key, value := range args.All() {
		var err error
		switch string(key) {
		case "listener":
			filter.Listener = string(value)
		case "state":
			filter.State, err = parseState(string(value))
		case "peer":
			filter.Peer, err = parsePeer(string(value))
		case "limit":
			filter.Limit, err = strconv.Atoi(string(value))
			if err != nil || filter.Limit < 1 || filter.Limit > maxLimit {
				err = fmt.Errorf("limit: %q (want a number from 1 to %d)", value, maxLimit)
			}
		default:
			err = fmt.Errorf("unknown parameter %q (want listener, state, peer or limit)", key)
		}
		if err != nil {
			return ConnFilter{}, err
		}
	}
	return filter, nil
}

func parseState(s string) (string, error) {
	switch s {
	case "", "handshaking", "active", "idle", "upgraded":
		return s, nil
	}
	return "", fmt.Errorf("state: %q (want handshaking, active, idle or upgraded)", s)
}

// parsePeer reads an address or a CIDR block; an address is a block of one.
func parsePeer(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	block, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("peer: %q (want an address or a block such as 10.0.0.0/8)", s)
	}
	return block.Masked(), nil
}

func (s *Server) serveReload(rc *fasthttp.RequestCtx) {
	if err := s.gateway.Reload(); err != nil {
		// The log tells the details; the old configuration stays.
		writeError(rc, fasthttp.StatusUnprocessableEntity, err.Error())
		return
	}
	writeJSON(rc, fasthttp.StatusOK, s.gateway.Status())
}

func (s *Server) serveDrain(rc *fasthttp.RequestCtx) {
	drain := true
	if rc.QueryArgs().Has("drain") {
		var err error
		if drain, err = strconv.ParseBool(string(rc.QueryArgs().Peek("drain"))); err != nil {
			writeError(rc, fasthttp.StatusBadRequest, fmt.Sprintf("drain: %q (want true or false)", rc.QueryArgs().Peek("drain")))
			return
		}
	}
	s.setDrain(rc, drain)
}

func (s *Server) serveUndrain(rc *fasthttp.RequestCtx) { s.setDrain(rc, false) }

func (s *Server) setDrain(rc *fasthttp.RequestCtx, drain bool) {
	upstream, err1 := pathParam(rc, "name")
	addr, err2 := pathParam(rc, "addr")
	if err := errors.Join(err1, err2); err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	err := s.gateway.Drain(upstream, addr, drain)
	switch {
	case errors.Is(err, ErrNotFound):
		writeError(rc, fasthttp.StatusNotFound, err.Error())
	case err != nil:
		writeError(rc, fasthttp.StatusInternalServerError, err.Error())
	default:
		writeJSON(rc, fasthttp.StatusOK, map[string]any{"upstream": upstream, "address": addr, "drain": drain})
	}
}

// pathParam returns a segment of the path, decoded: the router matches the path as it was
// sent, so that an address such as unix:%2Frun%2Fa.sock is one segment.
func pathParam(rc *fasthttp.RequestCtx, name string) (string, error) {
	raw, _ := rc.UserValue(name).(string)
	return url.PathUnescape(raw)
}

func (s *Server) servePanic(rc *fasthttp.RequestCtx, v any) {
	s.log.Event(zerolog.ErrorLevel, "admin_panic").
		Interface("panic", v).
		Bytes("path", rc.Path()).
		Bytes("stack", debug.Stack()).
		Msg("admin request failed with a panic")
	rc.Response.ResetBody()
	writeError(rc, fasthttp.StatusInternalServerError, "internal error (see the error log)")
}

// writeError answers with {"error": text}.
func writeError(rc *fasthttp.RequestCtx, status int, text string) {
	writeJSON(rc, status, map[string]string{"error": text})
}

// writeJSON answers with v, indented for people.
func writeJSON(rc *fasthttp.RequestCtx, status int, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		status = fasthttp.StatusInternalServerError
		buf.Reset()
		_ = enc.Encode(map[string]string{"error": "cannot write as JSON: " + err.Error()}) // strings always can
	}
	rc.SetStatusCode(status)
	rc.SetContentType("application/json; charset=utf-8")
	rc.SetBody(buf.Bytes())
}
