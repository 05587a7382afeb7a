package proxy

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"tickgate/config"
	"tickgate/internal/h1"
	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/limiter"
	"tickgate/proxy/relay"
)

// route is a compiled config.Route.
type route struct {
	name      string
	tag       string
	index     int // position in the file
	host      string
	pathText  string
	pathRegex *regexp.Regexp
	captures  bool // something uses pathRegex's groups
	scheme    string
	methods   []string
	headers   []headerMatch
	identities
	action action

	upstream  *routeUpstream // nil unless the action forwards
	rewrite   *rewriter
	reqOps    *headerOps
	resOps    *headerOps
	compress  *compression
	websocket bool
	maxBody   int64
	gathers   int64 // largest body that is awaited as a whole
	timeout   time.Duration
	accessLog bool
	class     limiter.Class
	metrics   *meter.Route

	tunnel        *relay.Policy
	tunnelOpaque  *relay.Policy // for extensions that frames mode does not know
	tunnelMetrics *meter.Tunnel
}

// upstreamName is the name of the upstream forwarded to, or "".
func (rt *route) upstreamName() string {
	if rt.upstream == nil {
		return ""
	}
	return rt.upstream.set.Name()
}

// headerMatch is one condition on a header field.
type headerMatch struct {
	name  []byte
	value string
	regex *regexp.Regexp
	not   bool
}

func (m *headerMatch) holds(req *h1.RequestHead) bool {
	v := req.GetName(m.name)
	ok := v != nil
	switch {
	case !ok:
	case m.regex != nil:
		ok = m.regex.Match(v)
	case m.value != "":
		ok = string(v) == m.value
	}
	return ok != m.not
}

// router finds the route of a request: host by host, and within one by path. A
// host whose routes all fail falls through to the next wider one.
type router struct {
	exact    map[string]*pathTable
	suffixes []suffixTable // longest first
	any      *pathTable
}

// suffixTable serves hosts that end in suffix, which begins with a dot.
type suffixTable struct {
	suffix []byte
	table  *pathTable
}

// pathTable finds routes by path: exact, then regular expressions in file order,
// then the longest prefix.
type pathTable struct {
	exact    map[string][]*route
	regex    []*route
	prefixes map[string][]*route
	lengths  []int // of the prefixes, longest first
}

func newRouter(routes []*route) *router {
	r := &router{exact: map[string]*pathTable{}, any: newPathTable()}
	suffixes := map[string]*pathTable{}
	for _, rt := range routes {
		switch {
		case rt.host == "":
			r.any.add(rt)
		case strings.HasPrefix(rt.host, "*."):
			tableOf(suffixes, rt.host[1:]).add(rt)
		default:
			tableOf(r.exact, rt.host).add(rt)
		}
	}
	for s, t := range suffixes {
		r.suffixes = append(r.suffixes, suffixTable{[]byte(s), t})
	}
	slices.SortFunc(r.suffixes, func(a, b suffixTable) int { return len(b.suffix) - len(a.suffix) })
	return r
}

func newPathTable() *pathTable {
	return &pathTable{exact: map[string][]*route{}, prefixes: map[string][]*route{}}
}

func tableOf(m map[string]*pathTable, key string) *pathTable {
	t := m[key]
	if t == nil {
		t = newPathTable()
		m[key] = t
	}
	return t
}

func (t *pathTable) add(rt *route) {
	switch {
	case rt.pathRegex != nil:
		t.regex = append(t.regex, rt)
	case rt.pathText != "" && rt.pathText[0] == '=':
		t.exact[rt.pathText[1:]] = append(t.exact[rt.pathText[1:]], rt)
	default:
		if !slices.Contains(t.lengths, len(rt.pathText)) {
			t.lengths = append(t.lengths, len(rt.pathText))
			slices.SortFunc(t.lengths, func(a, b int) int { return b - a })
		}
		t.prefixes[rt.pathText] = append(t.prefixes[rt.pathText], rt)
	}
}

// route finds the request's route.
func (x *Exchange) route() bool {
	if x.req.Form == h1.AuthorityForm {
		x.allow = methodsServed // a gateway opens no tunnels for strangers
		return x.fail(reason.MethodNotAllowed)
	}
	x.path = x.matchPath()
	if x.path == nil {
		return x.fail(reason.BadTarget)
	}
	var miss methodMiss
	rt := x.snap.router.find(x, &miss)
	if rt == nil && miss.methods != nil {
		x.allow = miss.methods
		return x.fail(reason.MethodNotAllowed)
	}
	if rt == nil {
		return x.fail(reason.NoRoute)
	}
	x.rt = rt
	if rt.captures {
		x.captures = x.rt.pathRegex.FindSubmatchIndex(x.path)
	}
	return true
}

// find looks through the hosts, the narrowest first.
func (r *router) find(x *Exchange, miss *methodMiss) *route {
	host := x.lowerHost()
	if t := r.exact[string(host)]; t != nil {
		if rt := t.find(x, miss); rt != nil {
			return rt
		}
	}
	for i := range r.suffixes {
		if !bytes.HasSuffix(host, r.suffixes[i].suffix) {
			continue
		}
		if rt := r.suffixes[i].table.find(x, miss); rt != nil {
			return rt
		}
	}
	return r.any.find(x, miss)
}

// methodsServed are those that the refusals of CONNECT and TRACE offer. TRACE is for routes that name it: its answer is the request as the backend
// got it (RFC 9110 section 9.3.8), with what only the backend should see, cookies that scripts cannot read or an identity that the gateway vouches for.
var methodsServed = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// methodMiss gathers the methods of the routes that all but their method matched:
// together they are what the target allows (RFC 9110 section 10.2.1).
type methodMiss struct{ methods []string }

func (m *methodMiss) add(methods []string) {
	for _, name := range methods {
		if !slices.Contains(m.methods, name) {
			m.methods = append(m.methods, name)
		}
		if name == "GET" && !slices.Contains(m.methods, "HEAD") {
			m.methods = append(m.methods, "HEAD")
		}
	}
}

func (t *pathTable) find(x *Exchange, miss *methodMiss) *route {
	if rt := choose(t.exact[string(x.path)], x, miss); rt != nil {
		return rt
	}
	for _, rt := range t.regex {
		if rt.pathRegex.Match(x.path) && rt.accepts(x, miss) {
			return rt
		}
	}
	for _, n := range t.lengths {
		if n > len(x.path) || !endsSegment(x.path, n) {
			continue
		}
		if rt := choose(t.prefixes[string(x.path[:n])], x, miss); rt != nil {
			return rt
		}
	}
	return nil
}

// endsSegment reports whether a prefix of n bytes ends where a path segment does:
// "/api" is a prefix of "/api/x" and "/api", not of "/apix".
func endsSegment(path []byte, n int) bool {
	return n == 0 || n == len(path) || path[n-1] == '/' || path[n] == '/'
}

func choose(candidates []*route, x *Exchange, miss *methodMiss) *route {
	for _, rt := range candidates {
		if rt.accepts(x, miss) {
			return rt
		}
	}
	return nil
}

// accepts checks scheme, headers, identity and method.
func (rt *route) accepts(x *Exchange, miss *methodMiss) bool {
	if rt.scheme != "any" && rt.scheme != x.scheme() {
		return false
	}
	for i := range rt.headers {
		if !rt.headers[i].holds(&x.req) {
			return false
		}
	}
	if rt.taken != nil && !rt.taken.Matches(x.c.identity()) {
		return false
	}
	if rt.methods == nil && x.req.MethodID != h1.MethodTrace || rt.takes(x.req.Method()) {
		return true
	}
	if rt.methods == nil {
		miss.add(methodsServed)
	} else {
		miss.add(rt.methods)
	}
	return false
}

// takes reports whether the route's methods include method; GET includes HEAD.
func (rt *route) takes(method []byte) bool {
	for _, m := range rt.methods {
		if m == string(method) || m == "GET" && string(method) == "HEAD" {
			return true
		}
	}
	return false
}

// matchPath returns the path that routes are matched with: percent-encoded
// unreserved characters are decoded (RFC 3986 section 6.2.2.2), everything else
// stays, so that /%61pi cannot avoid a route for /api. A path with dot segments
// gives nil: clients resolve them before they send (section 5.2.4), and a backend
// that resolved them would serve another path than the one routed on. What is
// forwarded are the client's own bytes. OPTIONS * asks about the whole server, so it
// goes where "/" goes.
func (x *Exchange) matchPath() []byte {
	path := x.req.Path()
	if x.req.Form == h1.AsteriskForm {
		return slash
	}
	if bytes.IndexByte(path, '%') >= 0 {
		x.pathBuf = decodeUnreserved(x.pathBuf[:0], path)
		path = x.pathBuf
	}
	if hasDotSegment(path) {
		return nil
	}
	return path
}

// decodeUnreserved appends path to dst with %XX of unreserved characters decoded.
// The parser has checked that every percent sign is followed by two hex digits.
func decodeUnreserved(dst, path []byte) []byte {
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c := unhex(path[i+1])<<4 | unhex(path[i+2]); isUnreserved(c) {
				dst = append(dst, c)
				i += 2
				continue
			}
		}
		dst = append(dst, path[i])
	}
	return dst
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// hasDotSegment reports whether a segment of path is "." or "..".
func hasDotSegment(path []byte) bool {
	for {
		i := bytes.Index(path, slashDot)
		if i < 0 {
			return false
		}
		path = path[i+2:]
		rest := bytes.TrimPrefix(path, dot)
		if len(rest) == 0 || rest[0] == '/' || len(path) == 0 || path[0] == '/' {
			return true
		}
	}
}

var (
	slash    = []byte("/")
	slashDot = []byte("/.")
	dot      = []byte(".")
)

// compileMatch fills in what a route matches.
func (rt *route) compileMatch(r *config.Route) error {
	rt.host = strings.ToLower(r.Host)
	switch {
	case r.PathRegex != "":
		re, err := regexp.Compile(r.PathRegex)
		if err != nil {
			return fmt.Errorf("route %q: path_regex: %w", rt.name, err)
		}
		rt.pathRegex = re
		rt.captures = re.NumSubexp() > 0
	case r.PathExact != "":
		rt.pathText = "=" + r.PathExact
	default:
		rt.pathText = r.Path
	}
	rt.scheme = r.Scheme
	rt.methods = r.Methods
	for _, h := range r.Headers {
		m := headerMatch{name: []byte(h.Name), value: h.Value, not: h.Not}
		if h.Regex != "" {
			re, err := regexp.Compile(h.Regex)
			if err != nil {
				return fmt.Errorf("route %q: header %q: %w", rt.name, h.Name, err)
			}
			m.regex = re
		}
		rt.headers = append(rt.headers, m)
	}
	var err error
	if rt.identities, err = compileIdentities(r); err != nil {
		return fmt.Errorf("route %q: %w", rt.name, err)
	}
	return nil
}

// prefixLen is the length of the path that path or path_exact matched.
func (rt *route) prefixLen() int { return len(strings.TrimPrefix(rt.pathText, "=")) }
