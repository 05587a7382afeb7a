package config

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"tickgate/health"
)

// wantServer says what the address of a backend looks like.
const wantServer = `host:port, "unix:/path" or "srv:_service._proto.name"`

// upstream judges one set of backends.
func (v *validator) upstream(path, name string, u *Upstream) {
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '"' }) {
		v.wrong(path, name, "a name without blanks, as it stands in metrics and logs")
	}
	if why := checkHashKey(u.HashKey); why != "" {
		v.wrong(path+".hash_key", u.HashKey, "client_addr, path, uri, header:NAME or cookie:NAME"+why)
	} else if u.Balance != "hash" && v.isSet(path+".hash_key") {
		v.warn(path+".hash_key", "has no effect, since balance is %s", u.Balance)
	}
	switch {
	case u.Host == "client" || u.Host == "backend":
	case !isAuthority(u.Host):
		v.wrong(path+".host", u.Host, "client, backend, or a host name to send")
	}
	v.servers(path, u)
	v.pool(path, u)
	v.backendTimeouts(path, u)
	if u.TLS != nil {
		v.backendTLS(path+".tls", u)
	}
	for i, on := range u.Retry.On {
		for _, before := range u.Retry.On[:i] {
			if on == before {
				v.warn(fmt.Sprintf("%s.retry.on[%d]", path, i), "%q is listed twice", on)
			}
		}
	}
	if u.HealthCheck != nil {
		v.healthCheck(path+".health_check", u.HealthCheck)
	} else if !v.isBroken(path + ".health_check") {
		v.warn(path, "there is no health_check: a backend that fails keeps getting requests")
	}
}

// checkHashKey returns "" for a sound hash_key, and otherwise a hint.
func checkHashKey(key string) (why string) {
	switch key {
	case "client_addr", "path", "uri":
		return ""
	}
	kind, name, _ := strings.Cut(key, ":")
	if kind == "header" || kind == "cookie" {
		if isToken(name) {
			return ""
		}
		return fmt.Sprintf(" (%q is not a %s name)", name, kind)
	}
	return didYouMean(key, []string{"client_addr", "path", "uri"})
}

// isAuthority reports whether s can stand in a Host field: a name or address, with
// or without port.
func isAuthority(s string) bool {
	if host, _, why := splitHostPort(s, 1); why == "" {
		return host != ""
	}
	return isHostname(s)
}

// servers judges the backends as a set.
func (v *validator) servers(path string, u *Upstream) {
	seen := map[string]int{}
	drained, backups := 0, 0
	for i, s := range u.Servers {
		at := fmt.Sprintf("%s.servers[%d]", path, i)
		if s.Drain {
			drained++
		}
		if s.Backup {
			backups++
		}
		if s.Address == "" || v.isBroken(at) || v.isBroken(at+".address") {
			continue
		}
		if why := checkServer(s.Address); why != "" {
			v.wrong(at+".address", s.Address, wantServer+" ("+why+")")
			continue
		}
		key := strings.ToLower(s.Address)
		if first, again := seen[key]; again {
			v.fail(at+".address", "%q is servers[%d] already (use weight for a larger share)", s.Address, first)
			continue
		}
		seen[key] = i
		if strings.HasPrefix(s.Address, "srv:") && v.isSet(at+".weight") {
			v.warn(at+".weight", "multiplies the weights of the SRV records")
		}
	}
	switch n := len(u.Servers); {
	case n == 0:
	case drained == n:
		v.warn(path+".servers", "every backend is drained: requests are answered with 503")
	case backups == n:
		v.warn(path+".servers", "every backend is a backup, so none is")
	}
}

// checkServer returns what is wrong with a backend's address, or "".
func checkServer(address string) (why string) {
	if name, ok := strings.CutPrefix(address, "srv:"); ok {
		return checkSRV(name)
	}
	if strings.HasPrefix(address, "unix:") {
		_, why = parseListen(address)
		return why
	}
	if strings.Contains(address, "://") {
		return "without a scheme; TLS is the upstream's tls key"
	}
	host, _, why := splitHostPort(address, 1)
	if why == "" && host == "" {
		return "there is no host"
	}
	return why
}

// checkSRV judges a name with SRV records (RFC 2782).
func checkSRV(name string) (why string) {
	if _, port, err := net.SplitHostPort(name); err == nil {
		return "the port comes from the SRV records, remove :" + port
	}
	labels := strings.SplitN(name, ".", 3)
	if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") {
		return "an SRV name is _service._proto.name"
	}
	if !isHostname(name) {
		return "not a host name"
	}
	return ""
}

// pool judges the connection pool.
func (v *validator) pool(path string, u *Upstream) {
	p := u.Pool
	if p.MaxLifetime > 0 && p.IdleTimeout > p.MaxLifetime {
		v.warn(path+".pool.idle_timeout", "has no effect above max_lifetime (%s)", durationText(p.MaxLifetime))
	}
	if u.Timeouts.Request > 0 && p.WaitTimeout > u.Timeouts.Request {
		v.warn(path+".pool.wait_timeout", "is longer than timeouts.request (%s)", durationText(u.Timeouts.Request))
	}
}

// backendTimeouts judges how the timeouts go together.
func (v *validator) backendTimeouts(path string, u *Upstream) {
	t := u.Timeouts
	if t.Request == 0 {
		const patience = 10 * time.Minute
		if t.ResponseHeader > patience || t.Read > patience {
			v.warn(path+".timeouts", "a backend that hangs holds its requests for longer than %s: set request, or lower response_header and read", durationText(patience))
		}
		if v.isSet(path + ".timeouts.request") {
			v.warn(path+".timeouts.request", "there is no limit on the whole request")
		}
		return
	}
	for _, one := range []struct {
		key   string
		value time.Duration
	}{{"dial", t.Dial}, {"tls_handshake", t.TLSHandshake}, {"response_header", t.ResponseHeader}, {"read", t.Read}, {"write", t.Write}} {
		key := path + ".timeouts." + one.key
		if one.value > t.Request && v.isSet(key) {
			v.warn(key, "has no effect above timeouts.request (%s)", durationText(t.Request))
		}
	}
}

// healthCheck judges the probes of an upstream.
func (v *validator) healthCheck(path string, o *health.Options) {
	before := len(v.d.report.Problems)
	if o.Timeout > o.Interval {
		v.warn(path+".timeout", "is longer than interval (%s): probes of a hanging backend follow each other without a pause", durationText(o.Interval))
	}
	if o.Type == "tcp" {
		for _, key := range []string{"method", "path", "host", "status", "body_contains", "body_regex"} {
			if v.isSet(path + "." + key) {
				v.warn(path+"."+key, "has no effect, since type is tcp")
			}
		}
		return
	}
	if _, err := health.ParseStatuses(o.Status); err != nil {
		v.wrong(path+".status", o.Status, "statuses and ranges, such as 200-299,304")
	}
	if !strings.HasPrefix(o.Path, "/") {
		v.wrong(path+".path", o.Path, "a path that begins with /")
	}
	if o.Host != "" && !isAuthority(o.Host) {
		v.wrong(path+".host", o.Host, "a host name")
	}
	v.regex(path+".body_regex", o.BodyRegex)
	if o.Method == "HEAD" && (o.BodyContains != "" || o.BodyRegex != "") {
		v.fail(path+".method", "the answer to HEAD has no body to match")
	}
	// What health itself refuses is an error here too, even if nothing above names it.
	if err := o.Validate(); err != nil && !hasErrors(v.d.report.Problems[before:]) {
		v.fail(path, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

func hasErrors(problems []Problem) bool {
	for _, p := range problems {
		if p.Severity == Error {
			return true
		}
	}
	return false
}

// regex compiles an expression and returns it, or nil if it is empty or wrong.
func (v *validator) regex(path, expr string) *regexp.Regexp {
	if expr == "" {
		return nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		v.fail(path, "%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return nil
	}
	return re
}
