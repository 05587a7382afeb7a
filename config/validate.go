package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// validator judges a decoded configuration: what types and bounds cannot say.
// It also brings names into their normal form (hosts in lower case, methods as
// they are compared, route names filled in).
type validator struct {
	cfg     *Config
	d       *decoder
	machine machine
	main    string
}

func (v *validator) validate() {
	v.listeners()
	v.handshakes()
	v.admin()
	v.clients()
	v.tunnels()
	v.forwarding()
	used := v.routes()
	v.workers()
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Upstreams)) {
		path := join("upstreams", name)
		v.upstream(path, name, v.cfg.Upstreams[name])
		if !used[name] && !v.hasBroken("routes") {
			v.warn(path, "no route uses this upstream")
		}
	}
	v.logs()
	v.drain()
	v.resolver()
	v.memory()
	v.watchdog()
	v.descriptors()
}

// wrong reports a value that is not what is wanted.
func (v *validator) wrong(path, seen, want string) {
	v.report(path, Problem{Seen: quote(seen, true), Want: want})
}

// fail reports an error that is more than a wrong value.
func (v *validator) fail(path, format string, args ...any) {
	v.report(path, Problem{Message: fmt.Sprintf(format, args...)})
}

// warn reports what is legal but unwise.
func (v *validator) warn(path, format string, args ...any) {
	v.report(path, Problem{Severity: Warning, Message: fmt.Sprintf(format, args...)})
}

// report adds a problem, unless the decoder has found the value or its surroundings
// broken: what stands there now is a default that nobody wrote.
func (v *validator) report(path string, p Problem) {
	for at := path; at != ""; at = parentPath(at) {
		if v.d.bad[at] {
			return
		}
	}
	at := v.d.report.place(path)
	p.File, p.Line, p.Column, p.Path = at.file, at.line, at.col, path
	v.d.report.Problems = append(v.d.report.Problems, p)
}

// isSet reports whether the files hold the key, as opposed to its default.
func (v *validator) isSet(path string) bool {
	_, ok := v.d.at[path]
	return ok
}

// firstSet returns the first of the keys that the files hold, "" if there is none.
func (v *validator) firstSet(keys ...string) string {
	for _, key := range keys {
		if v.isSet(key) {
			return key
		}
	}
	return ""
}

// isBroken reports whether the decoder refused the value.
func (v *validator) isBroken(path string) bool { return v.d.bad[path] }

// hasBroken reports whether the decoder refused the value or anything in it.
func (v *validator) hasBroken(path string) bool {
	for bad := range v.d.bad {
		if rest, ok := strings.CutPrefix(bad, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// parentPath removes the last key or index. Inside a quoted key it stops at an odd
// place; such a path is in no map, and the next step gets past it.
func parentPath(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// clients judges what bounds the clients.
func (v *validator) clients() {
	lim, to, con := v.cfg.Limits, v.cfg.Timeouts, v.cfg.Connections
	if lim.MaxRequestLine > lim.MaxHead {
		v.warn("limits.max_request_line", "has no effect above limits.max_head (%s)", lim.MaxHead)
	}
	if con.Max > 0 && con.MaxPerClient > con.Max {
		v.warn("connections.max_per_client", "has no effect above connections.max (%d)", con.Max)
	}
	const patience = 5 * time.Minute
	for _, t := range []struct {
		key   string
		value time.Duration
	}{{"handshake", to.Handshake}, {"head", to.Head}, {"body", to.Body}, {"write", to.Write}} {
		if t.value > patience {
			v.warn("timeouts."+t.key, "slow clients may hold a connection for %s at no cost to them", durationText(t.value))
		}
	}
	if to.Tunnel == 0 {
		v.warn("timeouts.tunnel_idle", "upgraded connections whose peer has vanished are kept without limit")
	}
	if lim.MaxConnAge > 0 && lim.MaxConnAge < to.Head {
		v.warn("limits.max_conn_age", "connections end before timeouts.head (%s)", durationText(to.Head))
	}
}

// forwarding judges what is told to backends.
func (v *validator) forwarding() {
	f := &v.cfg.Forwarding
	v.peers("forwarding.trusted_proxies", f.TrustedProxies)
	if name := f.RequestIDHeader; name != "" {
		v.headerName("forwarding.request_id_header", name, false)
	}
	v.clientCert()
}

// peers judges a list of proxies that are believed about their clients.
func (v *validator) peers(path string, list []string) {
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if text == "unix" {
			continue
		}
		prefix, err := parsePrefix(text)
		switch {
		case err != nil:
			v.wrong(at, text, wantPeers)
		case prefix.Bits() == 0:
			v.warn(at, "every client is believed about its own address")
		case prefix.Masked() != prefix:
			v.warn(at, "has bits beyond its length and means %s", prefix.Masked())
		}
	}
}

// logs judges where the logs go and what is in them.
func (v *validator) logs() {
	access, errlog := v.cfg.Log.Access, v.cfg.Log.Error
	if access.Output == "" {
		v.wrong("log.access.output", "", "a file, stdout, stderr or off")
	}
	switch f := access.Format; {
	case f == "json" || f == "combined":
	case !strings.Contains(f, "${"):
		v.wrong("log.access.format", f, "json, combined, or a format string with variables such as ${status}"+
			didYouMean(f, []string{"json", "combined"}))
	default:
		if err := CheckLogFormat(f); err != nil {
			v.fail("log.access.format", "%s", err)
		}
	}
	if errlog.Output == "" || errlog.Output == "off" {
		v.wrong("log.error.output", errlog.Output, "a file, stdout or stderr")
	}
	isStream := access.Output == "stdout" || access.Output == "stderr"
	if access.Output == errlog.Output && !isStream && access.Output != "" {
		v.fail("log.error.output", "the access log writes to the same file %q", access.Output)
	}
}

// resolver judges how backend names are looked up.
func (v *validator) resolver() {
	for i, s := range v.cfg.Resolver.Servers {
		path := fmt.Sprintf("resolver.servers[%d]", i)
		if host, _, why := splitHostPort(s, 1); why != "" || host == "" {
			v.wrong(path, s, "a DNS server as host:port, such as 10.0.0.2:53")
		}
	}
	if r := v.cfg.Resolver; r.Interval > 0 && v.isSet("resolver.min_ttl") {
		v.warn("resolver.min_ttl", "has no effect, since resolver.interval is %s", durationText(r.Interval))
	}
}

// reservedDescriptors is what the process needs besides connections: logs, epoll,
// pipes, DNS sockets, certificates while they are read.
const reservedDescriptors = 64

// descriptors compares the connections that the limits allow with the file
// descriptors that the process may open.
func (v *validator) descriptors() {
	limit, known := v.machine.openFiles()
	if !known {
		return
	}
	need, shown := v.descriptorNeeds()
	if need <= limit {
		return
	}
	v.warn(v.firstSet("connections.max", "tunnels.max"), "the process may open %d files (RLIMIT_NOFILE), but the limits allow %d: %s", limit, need, shown)
}

// tagsOf returns the route tags under which an upstream is used.
func (v *validator) tagsOf(upstream string) map[string]bool {
	tags := map[string]bool{}
	for _, r := range v.cfg.Routes {
		if r.Upstream == upstream {
			tags[r.Tag] = true
		}
	}
	return tags
}

// durationText writes a duration without the zero parts that String adds: 1h, not
// 1h0m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
