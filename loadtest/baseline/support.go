package baseline

import (
	"errors"
	"net"
	"slices"
	"strings"

	"tickgate/config"
)

// ErrUnsupported is returned for a configuration that asks for what the baseline does not do.
var ErrUnsupported = errors.New("baseline: the configuration asks for what this gateway does not do")

// unsupportedError has every key that is not supported on a line of its own.
type unsupportedError struct{ keys []config.Problem }

func (e *unsupportedError) Error() string {
	lines := []string{ErrUnsupported.Error() + ":"}
	for _, p := range e.keys {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}

func (e *unsupportedError) Unwrap() error { return ErrUnsupported }

// translated are the keys that mean here what they mean in tickgate, with what their values
// must be where not every one will do. The defaults of all other keys are taken for what
// net/http does anyway; docs of the package say where that is not quite so.
var translated = map[string]func(value string) (want string){
	"include":            nil, // read by package config
	"listeners[].listen": hostPort,
	"listeners[].tls":    nil,
	"listeners[].tls.certificates[].cert_file": nil,
	"listeners[].tls.certificates[].key_file":  nil,
	"listeners[].tls.min_version":              nil,
	"listeners[].tls.max_version":              nil,
	"listeners[].tcp_keepalive":                nil,
	"limits.max_head":                          nil,
	"limits.max_body":                          nil,
	"limits.max_response_head":                 nil,
	"timeouts.head":                            nil,
	"timeouts.idle":                            nil,
	"timeouts.tunnel_idle":                     one("0s"),
	"forwarding.x_forwarded":                   nil,
	"forwarding.request_id_header":             nil,
	"upstreams.*.servers[].address":            hostPort,
	"upstreams.*.pool.max_conns":               nil,
	"upstreams.*.pool.idle_timeout":            nil,
	"upstreams.*.pool.tcp_keepalive":           nil,
	"upstreams.*.timeouts.dial":                nil,
	"upstreams.*.timeouts.tls_handshake":       nil,
	"upstreams.*.timeouts.response_header":     nil,
	"upstreams.*.tls":                          nil,
	"upstreams.*.tls.server_name":              nil,
	"upstreams.*.tls.ca_file":                  nil,
	"upstreams.*.tls.cert_file":                nil,
	"upstreams.*.tls.key_file":                 nil,
	"upstreams.*.tls.min_version":              nil,
	"upstreams.*.tls.insecure_skip_verify":     nil,
	"upstreams.*.host":                         nil,
	"routes[].name":                            nil,
	"routes[].host":                            nil,
	"routes[].path":                            nil,
	"routes[].path_exact":                      nil,
	"routes[].upstream":                        nil,
	"routes[].static_response":                 nil,
	"routes[].static_response.status":          nil,
	"routes[].static_response.body":            noVariables,
	"routes[].static_response.content_type":    nil,
	"routes[].max_body":                        nil,
	"drain.timeout":                            nil,
}

// ignored are keys that concern tickgate's own machinery and not what a client sees; of those
// that end in "." or "[", all below.
var ignored = []string{
	"admin.", "workers.", "tunnels.", "memory.", "watchdog.", "log.", "drain.grace", "drain.window", "drain.close_code",
	"listeners[].acceptors", "listeners[].backlog", "listeners[].share",
	"upstreams.*.health_check", "upstreams.*.health_check.", "upstreams.*.tls.watch", "routes[].tag", "routes[].priority", "routes[].access_log",
}

// sort tells keys that are not at their defaults into those that are ignored and those that are not supported.
func sort(changed []config.Changed) (without []config.Problem, unsupported []config.Problem) {
	for _, c := range changed {
		p := c.Place
		p.Seen = c.Value
		check, known := translated[c.Key]
		switch {
		case known && (check == nil || check(c.Value) == ""):
		case known:
			p.Want = check(c.Value)
			unsupported = append(unsupported, p)
		case isIgnored(c.Key):
			without = append(without, p)
		default:
			p.Message = "is not supported"
			unsupported = append(unsupported, p)
		}
	}
	return without, unsupported
}

func isIgnored(key string) bool {
	return slices.ContainsFunc(ignored, func(one string) bool {
		return key == one || strings.HasSuffix(one, ".") && strings.HasPrefix(key, one)
	})
}

func hostPort(value string) string {
	if _, _, err := net.SplitHostPort(value); err != nil || strings.HasPrefix(value, "unix:") || strings.HasPrefix(value, "srv:") {
		return "host:port"
	}
	return ""
}

func one(only string) func(string) string {
	return func(value string) string {
		if value != only {
			return only + ", or the default"
		}
		return ""
	}
}

func noVariables(value string) string {
	if strings.Contains(value, "$") {
		return "text without variables"
	}
	return ""
}
