package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// routes judges the routes, gives each a name, and returns the upstreams in use.
func (v *validator) routes() (used map[string]bool) {
	used = map[string]bool{}
	if len(v.cfg.Routes) == 0 && !v.isBroken("routes") {
		v.warn("routes", "there are no routes: every request is answered with 404")
	}
	upstreams := slices.Sorted(maps.Keys(v.cfg.Upstreams))
	matched := map[string]int{} // by what they match, the first
	for i, r := range v.cfg.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		used[r.Upstream] = true
		if v.cfg.Upstreams[r.Upstream] == nil {
			used[closest(r.Upstream, upstreams)] = true // one error for a mistyped name is enough
		}
		if v.isBroken(path) {
			continue
		}
		re := v.match(path, r)
		v.action(path, r, upstreams)
		v.changes(path, r, re)
		v.tunnel(path+".tunnel", r)
		v.identities(path, r)
		if v.hasBroken(path) {
			continue // what it would match is not known
		}
		v.shadowed(path, i, r, matched)
	}
	v.routeNames()
	return used
}

// shadowed warns about a route that an earlier one keeps all requests from: one for
// the same host and path that has the same conditions, or none. matched holds the
// first route of each kind.
func (v *validator) shadowed(path string, i int, r *Route, matched map[string]int) {
	place, conditions := matchKey(r)
	for _, key := range []string{place, place + conditions} {
		if key == place && slices.Contains(r.Methods, "TRACE") {
			continue // which a route for any method leaves to it
		}
		if first, again := matched[key]; again {
			v.warn(path, "is never reached: routes[%d] (line %d) matches the same requests", first, v.d.report.place(fmt.Sprintf("routes[%d]", first)).line)
			return
		}
	}
	matched[place+conditions] = i
}

// match judges what a route matches, and returns its regular expression.
func (v *validator) match(path string, r *Route) *regexp.Regexp {
	r.Host = strings.ToLower(r.Host)
	if r.Host != "" {
		if why := checkHostPattern(r.Host); why != "" {
			v.wrong(path+".host", r.Host, "a host name such as example.com or *.example.com ("+why+")")
		}
	}
	if set := setKeys([]string{"path", "path_exact", "path_regex"}, r.Path != "", r.PathExact != "", r.PathRegex != ""); len(set) > 1 {
		v.fail(path, "at most one of path, path_exact and path_regex, not %s", strings.Join(set, " and "))
	}
	v.requestPath(path+".path", r.Path)
	v.requestPath(path+".path_exact", r.PathExact)
	for i, m := range r.Methods {
		at := fmt.Sprintf("%s.methods[%d]", path, i)
		switch upper := strings.ToUpper(m); {
		case !isToken(m):
			v.wrong(at, m, "a method such as GET")
		case m != upper && isCommonMethod(upper):
			v.wrong(at, m, upper+" (methods are case-sensitive)")
		}
	}
	for i, h := range r.Headers {
		at := fmt.Sprintf("%s.headers[%d]", path, i)
		if v.isBroken(at) {
			continue
		}
		if h.Name != "" && !isToken(h.Name) {
			v.wrong(at+".name", h.Name, "the name of a header field")
		}
		if h.Value != "" && h.Regex != "" {
			v.fail(at, "at most one of value and regex")
		}
		v.regex(at+".regex", h.Regex)
	}
	return v.regex(path+".path_regex", r.PathRegex)
}

func setKeys(keys []string, set ...bool) []string {
	var out []string
	for i, k := range keys {
		if set[i] {
			out = append(out, k)
		}
	}
	return out
}

// isCommonMethod reports whether m is a method that nobody means another by.
func isCommonMethod(m string) bool {
	return slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}, m)
}

// checkHostPattern judges a host in lower case: exact, or *.suffix.
func checkHostPattern(host string) (why string) {
	base, wild := strings.CutPrefix(host, "*.")
	switch {
	case host == "*":
		return "leave host out to match any"
	case strings.Contains(base, "*"):
		return "a * stands for whole labels at the beginning only"
	case strings.Contains(host, "/"):
		return "without scheme and path"
	case strings.HasPrefix(host, "[") && !wild:
		if _, _, why := splitHostPort(host+":1", 1); why != "" {
			return why
		}
		return ""
	case strings.Contains(host, ":"):
		return "without port; an IPv6 address in brackets"
	case !isHostname(base):
		return "not a host name"
	}
	return ""
}

// requestPath judges a path that is compared with that of requests.
func (v *validator) requestPath(at, p string) {
	switch {
	case p == "":
	case p[0] != '/':
		v.wrong(at, p, "a path that begins with /")
	case strings.ContainsAny(p, "?#"):
		v.wrong(at, p, "a path without query or fragment")
	case strings.ContainsFunc(p, isBlankOrControl):
		v.wrong(at, p, "a path as it stands in requests (a blank is %20)")
	}
}

func isBlankOrControl(r rune) bool { return r <= ' ' || r == 0x7f }

// action judges what a route does with its requests.
func (v *validator) action(path string, r *Route, upstreams []string) {
	names := []string{"upstream", "static_response", "redirect"}
	set := setKeys(names, r.Upstream != "", r.StaticResponse != nil, r.Redirect != nil)
	broken := slices.ContainsFunc(names, func(n string) bool { return v.isBroken(path + "." + n) })
	switch {
	case len(set) > 1:
		v.fail(path, "exactly one action is wanted, not %s", strings.Join(set, " and "))
	case len(set) == 0 && !broken:
		v.fail(path, "an action is missing: upstream, static_response or redirect")
	}
	if r.Upstream != "" {
		u := v.cfg.Upstreams[r.Upstream]
		if u == nil && !v.isBroken("upstreams") {
			v.fail(path+".upstream", "there is no upstream %q%s", r.Upstream, didYouMean(r.Upstream, upstreams))
		}
		if u != nil && r.Timeout > 0 && u.Timeouts.Dial > r.Timeout {
			v.warn(path+".timeout", "is shorter than the upstream's timeouts.dial (%s)", durationText(u.Timeouts.Dial))
		}
		return
	}
	for _, key := range []string{"rewrite", "request_headers", "timeout", "tag", "websocket", "max_body", "request_buffer"} {
		if v.isSet(path+"."+key) && len(set) == 1 {
			v.warn(path+"."+key, "has no effect on %s", set[0])
		}
	}
	if len(set) == 1 && r.Tunnel != defaultOf[Tunnel]() {
		v.warn(path+".tunnel", "has no effect on %s", set[0])
	}
}

// changes judges what a route changes in requests and responses.
func (v *validator) changes(path string, r *Route, re *regexp.Regexp) {
	var groups []string
	if re != nil {
		groups = re.SubexpNames()
	}
	// A broken expression has unknown groups. One error is enough.
	template := func(at, text string) {
		if re == nil && r.PathRegex != "" {
			return
		}
		if err := CheckTemplate(text, groups...); err != nil {
			v.fail(at, "%s", err)
		}
	}
	if s := r.StaticResponse; s != nil {
		v.static(path+".static_response", s)
		template(path+".static_response.body", s.Body)
	}
	if r.Redirect != nil {
		at := path + ".redirect.location"
		template(at, r.Redirect.Location)
		if strings.ContainsFunc(r.Redirect.Location, isBlankOrControl) {
			v.wrong(at, r.Redirect.Location, "a URL or path without blanks")
		}
	}
	if r.Rewrite != nil {
		v.rewrite(path+".rewrite", r)
		template(path+".rewrite.path", r.Rewrite.Path)
	}
	v.headerOps(path+".request_headers", r.RequestHeaders, true, template)
	v.headerOps(path+".response_headers", r.ResponseHeaders, false, template)
	if r.Compression != nil {
		v.compression(path+".compression", r.Compression)
	}
	if r.Tag == "" || strings.ContainsFunc(r.Tag, isBlankOrControl) {
		v.wrong(path+".tag", r.Tag, "a name without blanks")
	}
}

func (v *validator) static(path string, s *StaticResponse) {
	if (s.Status == 204 || s.Status == 304) && s.Body != "" {
		v.fail(path+".body", "a response of status %d has no body (RFC 9110)", s.Status)
	}
	if !isFieldValue(s.ContentType) {
		v.wrong(path+".content_type", s.ContentType, "a media type")
	}
}

func (v *validator) rewrite(path string, r *Route) {
	rw := r.Rewrite
	names := []string{"strip_prefix", "replace_prefix", "path"}
	set := setKeys(names, rw.StripPrefix != "", rw.ReplacePrefix != "", rw.Path != "")
	switch {
	case len(set) == 0 && v.isSet(path+".replace_prefix"):
		v.fail(path+".replace_prefix", "must not be empty (strip_prefix removes a prefix)")
	case len(set) == 0:
		v.fail(path, "one of strip_prefix, replace_prefix and path is needed")
	case len(set) > 1:
		v.fail(path, "at most one of strip_prefix, replace_prefix and path, not %s", strings.Join(set, " and "))
	}
	v.requestPath(path+".strip_prefix", rw.StripPrefix)
	v.requestPath(path+".replace_prefix", rw.ReplacePrefix)
	switch {
	case rw.Path == "":
	case rw.Path[0] != '/' && rw.Path[0] != '$':
		v.wrong(path+".path", rw.Path, "a path that begins with /")
	case strings.Contains(rw.Path, "#") || strings.ContainsFunc(rw.Path, isBlankOrControl):
		v.wrong(path+".path", rw.Path, "a path as it stands in requests, without blanks and fragment")
	}
	if rw.ReplacePrefix != "" && r.Path == "" && r.PathExact == "" {
		v.fail(path+".replace_prefix", "needs the route's path or path_exact, whose match it replaces")
	}
	if strings.HasPrefix(rw.StripPrefix, "/") && r.Path != "" && !strings.HasPrefix(r.Path, rw.StripPrefix) && !strings.HasPrefix(rw.StripPrefix, r.Path) {
		v.warn(path+".strip_prefix", "never matches, since the route's path is %q", r.Path)
	}
}

func (v *validator) compression(path string, c *Compression) {
	if len(c.Encodings) == 0 {
		v.warn(path+".encodings", "without encodings nothing is compressed")
	}
	for i, t := range c.Types {
		major, minor, ok := strings.Cut(t, "/")
		if !ok || !isToken(major) || !isToken(minor) || strings.Contains(major, "*") || minor != "*" && strings.Contains(minor, "*") {
			v.wrong(fmt.Sprintf("%s.types[%d]", path, i), t, "a media type such as application/json or text/*")
		}
	}
}

// framingFields are set by tickgate, for each connection anew (RFC 9110 section
// 7.6.1, RFC 9112 section 6). To change them is to break the message.
var framingFields = []string{"connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

// headerOps judges changes to header fields.
func (v *validator) headerOps(path string, ops *HeaderOps, request bool, template func(at, text string)) {
	if ops == nil {
		return
	}
	for i, name := range ops.Remove {
		at := fmt.Sprintf("%s.remove[%d]", path, i)
		v.headerName(at, name, false)
		if request && strings.EqualFold(name, "host") {
			v.fail(at, "a request needs its Host field (RFC 9112 section 3.2)")
		}
	}
	for _, kind := range []struct {
		key    string
		fields map[string]string
	}{{"set", ops.Set}, {"add", ops.Add}} {
		seen := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(kind.fields)) {
			at := join(path+"."+kind.key, name)
			v.headerName(at, name, kind.key == "set" && request)
			if first, again := seen[strings.ToLower(name)]; again {
				v.fail(at, "is the same field as %q", first)
			}
			seen[strings.ToLower(name)] = name
			value := kind.fields[name]
			template(at, value)
			if !isFieldValue(value) {
				v.fail(at, "the value holds a line break or another control character")
			}
			if request && kind.key == "set" && strings.EqualFold(name, "host") && value == "" {
				v.fail(at, "a request needs its Host field (RFC 9112 section 3.2)")
			}
		}
	}
}

// headerName judges the name of a field that is changed. Host may be replaced in a
// request, but neither doubled nor sent back.
func (v *validator) headerName(path, name string, hostAllowed bool) {
	lower := strings.ToLower(name)
	switch {
	case !isToken(name):
		v.wrong(path, name, "the name of a header field")
	case slices.Contains(framingFields, lower):
		v.fail(path, "%s is set by tickgate for each connection and cannot be changed", name)
	case lower == "host" && !hostAllowed && !strings.Contains(path, ".remove["):
		v.fail(path, "Host can only be changed in request_headers.set")
	}
}

// isFieldValue reports whether s can be (a template of) a field value: no control
// characters but the tab (RFC 9110 section 5.5).
func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// matchKey returns texts that are equal for routes of the same host and path, and
// for routes of the same methods and headers; the latter is empty without any.
func matchKey(r *Route) (place, conditions string) {
	path := r.Path
	if path == "" && r.PathExact == "" && r.PathRegex == "" {
		path = "/" // every path begins so
	}
	place = fmt.Sprintf("%q %q %q %q", r.Host, path, r.PathExact, r.PathRegex)
	if len(r.Methods) == 0 && len(r.Headers) == 0 && r.Scheme == "any" && r.Identity == nil {
		return place, ""
	}
	methods := slices.Sorted(slices.Values(r.Methods))
	headers := make([]string, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = fmt.Sprintf("%q %q %q %t", strings.ToLower(h.Name), h.Value, h.Regex, h.Not)
	}
	slices.Sort(headers)
	return place, fmt.Sprintf("%q %q %q %s", r.Scheme, slices.Compact(methods), slices.Compact(headers), identityKey(r.Identity))
}

// routeNames gives each route without a name one made of host and path, and makes
// sure that no two are called the same, as the name is a metric label.
func (v *validator) routeNames() {
	taken := map[string]int{}
	for i, r := range v.cfg.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		if r.Name == "" {
			continue
		}
		if strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c == 0x7f || c == '"' || c == '\\' }) {
			v.wrong(path+".name", r.Name, "a name without quotes, backslashes and control characters, as it stands in metrics")
		}
		if first, again := taken[r.Name]; again {
			v.fail(path+".name", "%q is the name of routes[%d] already", r.Name, first)
			continue
		}
		taken[r.Name] = i
	}
	for i, r := range v.cfg.Routes {
		if r.Name != "" {
			continue
		}
		base := routeName(r)
		r.Name = base
		for n := 2; ; n++ {
			if _, again := taken[r.Name]; !again {
				break
			}
			r.Name = base + "#" + strconv.Itoa(n)
		}
		taken[r.Name] = i
	}
}

// routeName makes a name of what the route matches: example.com/api/, /api/, or *
// for one that matches everything.
func routeName(r *Route) string {
	name := r.Host
	switch {
	case r.PathExact != "":
		name += "=" + r.PathExact
	case r.PathRegex != "":
		name += "~" + strings.Map(labelRune, r.PathRegex)
	default:
		name += r.Path
	}
	if name == "" {
		return "*"
	}
	return name
}

// labelRune replaces what a metric label or log line could trip over.
func labelRune(c rune) rune {
	if c < ' ' || c == 0x7f || c == '"' || c == '\\' {
		return '_'
	}
	return c
}
