package baseline

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strings"

	"tickgate/config"
)

// router picks the route of a request as tickgate does: by host (exact, the longest *.suffix,
// any), then by path (exact, the longest prefix), and by the next wider host where none of a
// host's routes match. It does not change.
type router struct {
	hosts    map[string]*paths
	suffixes []suffix // longest first
	any      paths
}

// suffix are the routes of hosts below a name; the name begins with a dot.
type suffix struct {
	name  string
	paths *paths
}

// paths are the routes of one host.
type paths struct {
	exact    map[string]http.Handler
	prefixes []prefix // longest first, then in file order
}

// prefix is the route of paths that begin alike.
type prefix struct {
	path    string
	handler http.Handler
}

// add gives a route its place; the first of several that say the same stays.
func (r *router) add(route *config.Route, h http.Handler) {
	p := r.pathsOf(strings.ToLower(route.Host))
	if route.PathExact == "" {
		p.prefixes = append(p.prefixes, prefix{route.Path, h})
		slices.SortStableFunc(p.prefixes, func(a, b prefix) int { return cmp.Compare(len(b.path), len(a.path)) })
		return
	}
	if p.exact == nil {
		p.exact = make(map[string]http.Handler)
	}
	if p.exact[route.PathExact] == nil {
		p.exact[route.PathExact] = h
	}
}

func (r *router) pathsOf(host string) *paths {
	below, wild := strings.CutPrefix(host, "*")
	switch {
	case host == "":
		return &r.any
	case !wild:
		if r.hosts == nil {
			r.hosts = make(map[string]*paths)
		}
		if r.hosts[host] == nil {
			r.hosts[host] = &paths{}
		}
		return r.hosts[host]
	}
	i := slices.IndexFunc(r.suffixes, func(s suffix) bool { return s.name == below })
	if i >= 0 {
		return r.suffixes[i].paths
	}
	p := &paths{}
	r.suffixes = append(r.suffixes, suffix{below, p})
	slices.SortStableFunc(r.suffixes, func(a, b suffix) int { return cmp.Compare(len(b.name), len(a.name)) })
	return p
}

// ServeHTTP implements http.Handler.
func (r *router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if h := r.find(hostOf(req.Host), req.URL.EscapedPath()); h != nil {
		h.ServeHTTP(w, req)
		return
	}
	http.NotFound(w, req)
}

// hostOf returns the host of a Host field without its port, in lower case.
func hostOf(field string) string {
	if host, _, err := net.SplitHostPort(field); err == nil {
		field = host
	}
	return strings.ToLower(field)
}

func (r *router) find(host, path string) http.Handler {
	if p := r.hosts[host]; p != nil {
		if h := p.find(path); h != nil {
			return h
		}
	}
	for _, s := range r.suffixes {
		if len(host) > len(s.name) && strings.HasSuffix(host, s.name) {
			if h := s.paths.find(path); h != nil {
				return h
			}
		}
	}
	return r.any.find(path)
}

func (p *paths) find(path string) http.Handler {
	if h := p.exact[path]; h != nil {
		return h
	}
	for _, one := range p.prefixes {
		if one.matches(path) {
			return one.handler
		}
	}
	return nil
}

// matches follows tickgate: a prefix without a final slash ends at a slash or at the end of the path.
func (p prefix) matches(path string) bool {
	rest, ok := strings.CutPrefix(path, p.path)
	return ok && (rest == "" || p.path == "" || strings.HasSuffix(p.path, "/") || rest[0] == '/')
}
