package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"tickgate/tlsterm"
)

// sessionLife is the age at which crypto/tls, as RFC 8446 section 4.6.1 demands, resumes a session no more.
const sessionLife = 7 * 24 * time.Hour

// listenerTickets judges the session tickets of a listener.
func (v *validator) listenerTickets(path string, o *tlsterm.TicketOptions) {
	if v.hasBroken(path) {
		return
	}
	for key, source := range map[string]string{
		"files": "file", "redis_url": "redis", "redis_key": "redis", "redis_timeout": "redis",
	} {
		if v.isSet(path+"."+key) && o.Source != source {
			v.warn(path+"."+key, "has no effect: source is %s, not %s", o.Source, source)
		}
	}
	switch o.Source {
	case "file":
		v.ticketFiles(path+".files", o.Files)
	case "redis":
		v.redisURL(path+".redis_url", o.RedisURL)
		if o.RedisKey == "" {
			v.fail(path+".redis_key", "must not be empty")
		}
	}
	if o.Source != "memory" && o.Source != "redis" {
		for _, key := range []string{"rotate", "old_keys"} {
			if v.isSet(path + "." + key) {
				v.warn(path+"."+key, "has no effect with source %s", o.Source)
			}
		}
		return
	}
	if life := time.Duration(o.OldKeys+1) * o.Rotate; life > sessionLife && (v.isSet(path+".rotate") || v.isSet(path+".old_keys")) {
		v.warn(v.firstSet(path+".old_keys", path+".rotate"), "keys are kept for %s, but no session is resumed after 7 days", life)
	}
}

// ticketFiles reads the key files: what is in them is not reported.
func (v *validator) ticketFiles(path string, names []string) {
	if len(names) == 0 {
		v.fail(path, "is missing: source file needs at least one key file or a folder of them")
	}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		files, err := v.machine.ticketFiles(name)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				v.fail(at, "%s", line)
			}
			continue
		}
		for _, f := range files {
			if perm := f.Mode.Perm(); perm&0o077 != 0 {
				v.warn(at, "%q is open to others than its owner (mode %04o, want 0600): who reads it can decrypt sessions", f.Name, perm)
			}
		}
	}
}

// redisURL judges the form of a URL without showing it, as it may hold a password.
func (v *validator) redisURL(path, text string) {
	if text == "" {
		v.fail(path, "is missing: source redis needs redis://host:port, rediss://host:port or unix:///path")
		return
	}
	u, err := url.Parse(text)
	if err == nil {
		switch u.Scheme {
		case "redis", "rediss":
			_, err := strconv.ParseUint(cmp.Or(strings.Trim(u.Path, "/"), "0"), 10, 16)
			if u.Hostname() != "" && err == nil {
				if u.Scheme == "redis" && !isLoopback(u.Hostname()) {
					v.warn(path, "the keys go over the network in the clear: use rediss:// unless the network is trusted")
				}
				return
			}
		case "unix":
			if u.Path != "" {
				return
			}
		}
	}
	v.fail(path, "is no URL of a Redis server (want redis://[user:password@]host:port/db, rediss://… or unix:///path)")
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
