package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/pprof"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/fasthttp/router"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
	"github.com/valyala/fasthttp/pprofhandler"
)

const (
	healthzPath = "/healthz"
	readyzPath  = "/readyz"
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
	const (
		server     = "/api/v1/upstreams/{name}/servers/{addr}/drain"
		connection = "/api/v1/connections/{id}"
	)
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
		{"GET", "/api/v1/connections", connectionsHelp(), s.serveConnections},
		{"GET", connection, "one client connection", s.serveConnection},
		{"DELETE", connection, "close a client connection in order; ?reset=true cuts it with RST. 202 with the connection as it was", s.serveClose},
		{"GET", "/api/v1/drain", "how far the drains of the process and of backends have come", s.show(s.gateway.DrainStatus)},
		{"POST", "/api/v1/reload", "load the configuration again; 422 if it is refused", s.serveReload},
		{"POST", server, "give a backend no new requests, and close its tunnels spread over drain.window; ?window=DURATION is instead of that, 0s at once; ?drain=false takes it back in", s.serveDrain},
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

func (s *Server) serveReload(rc *fasthttp.RequestCtx) {
	if err := s.gateway.Reload(); err != nil {
		// The log tells the details; the old configuration stays.
		writeError(rc, fasthttp.StatusUnprocessableEntity, err.Error())
		return
	}
	writeJSON(rc, fasthttp.StatusOK, s.gateway.Status())
}

func (s *Server) serveDrain(rc *fasthttp.RequestCtx) {
	drain, window := true, ConfiguredWindow
	for key, value := range rc.QueryArgs().All() {
		var err error
		switch string(key) {
		case "drain":
			drain, err = parseSwitch("drain", string(value))
		case "window":
			window, err = parseDuration("window", string(value))
		default:
			err = unknownParameter(key, "drain", "window")
		}
		if err != nil {
			writeError(rc, fasthttp.StatusBadRequest, err.Error())
			return
		}
	}
	if !drain && window != ConfiguredWindow {
		writeError(rc, fasthttp.StatusBadRequest, "window: has no effect with drain=false (want one of the two)")
		return
	}
	s.setDrain(rc, drain, window)
}

func (s *Server) serveUndrain(rc *fasthttp.RequestCtx) { s.setDrain(rc, false, ConfiguredWindow) }

func (s *Server) setDrain(rc *fasthttp.RequestCtx, drain bool, window time.Duration) {
	upstream, err1 := pathParam(rc, "name")
	addr, err2 := pathParam(rc, "addr")
	if err := errors.Join(err1, err2); err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	if err := s.gateway.Drain(upstream, addr, drain, window); err != nil {
		writeFailure(rc, err)
		return
	}
	done := map[string]any{"upstream": upstream, "address": addr, "drain": drain}
	if window != ConfiguredWindow {
		done["window"] = window.String()
	}
	writeJSON(rc, fasthttp.StatusOK, done)
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

// writeFailure answers with an error of the gateway.
func writeFailure(rc *fasthttp.RequestCtx, err error) {
	status := fasthttp.StatusInternalServerError
	if errors.Is(err, ErrNotFound) {
		status = fasthttp.StatusNotFound
	}
	writeError(rc, status, err.Error())
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
