package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// defaultOf returns a section with its defaults.
func defaultOf[T any]() T {
	var section T
	v := reflect.ValueOf(&section).Elem()
	setDefaults(v, fieldsOf(v.Type()))
	return section
}

// tunnels judges the limits on upgraded connections over all routes.
func (v *validator) tunnels() {
	all, con := v.cfg.Tunnels, v.cfg.Connections
	v.noEffectAbove("tunnels.max", all.Max, limit{"connections.max", con.Max})
	v.noEffectAbove("tunnels.max_per_client", all.MaxPerClient,
		limit{"tunnels.max", all.Max}, limit{"connections.max_per_client", con.MaxPerClient}, limit{"connections.max", con.Max})
}

// limit is a number that a key sets; 0 is none.
type limit struct {
	key   string
	value int
}

// noEffectAbove warns about a limit that a narrower one, the first of those given, makes
// pointless.
func (v *validator) noEffectAbove(path string, value int, narrower ...limit) {
	for _, l := range narrower {
		if l.value > 0 && value > l.value {
			v.warn(path, "has no effect above %s (%d)", l.key, l.value)
			return
		}
	}
}

// tunnel judges how the upgraded connections of a route are treated.
func (v *validator) tunnel(path string, r *Route) {
	t, def := r.Tunnel, defaultOf[Tunnel]()
	if r.Upstream == "" || v.isBroken(path) || v.isBroken(path+".mode") {
		return
	}
	if !r.WebSocket {
		if t != def {
			v.warn(path, "has no effect, since websocket is false")
		}
		return
	}
	all := v.cfg.Tunnels
	v.noEffectAbove(path+".max", t.Max, limit{"tunnels.max", all.Max}, limit{"connections.max", v.cfg.Connections.Max})
	v.noEffectAbove(path+".max_per_client", t.MaxPerClient,
		limit{"tunnel.max", t.Max}, limit{"tunnels.max_per_client", all.MaxPerClient}, limit{"tunnels.max", all.Max})
	if t.Lifetime > 0 && t.Idle > t.Lifetime {
		v.warn(path+".idle", "has no effect above lifetime (%s)", durationText(t.Lifetime))
	}
	if t.Mode == "opaque" {
		v.opaque(path, &t, &def)
		return
	}
	v.pings(path, &t, &def)
	v.rates(path, &t)
}

// opaque judges a tunnel whose frames nobody looks at: a protection that cannot work is an
// error, since whoever wrote it relies on it.
func (v *validator) opaque(path string, t, def *Tunnel) {
	var pointless []string
	for _, one := range []struct {
		key              string
		isDefault, works bool
	}{
		{"ping_interval", t.PingInterval == def.PingInterval, t.PingInterval > 0},
		{"pong_timeout", t.PongTimeout == def.PongTimeout, true},
		{"max_message", t.MaxMessage == def.MaxMessage, t.MaxMessage > 0},
		{"check_utf8", t.CheckUTF8 == def.CheckUTF8, t.CheckUTF8},
		{"message_rate", t.MessageRate == def.MessageRate, t.MessageRate > 0},
		{"byte_rate", t.ByteRate == def.ByteRate, t.ByteRate > 0},
		{"over_rate", t.OverRate == def.OverRate, true},
		{"close_timeout", t.CloseTimeout == def.CloseTimeout, true},
	} {
		at := path + "." + one.key
		switch {
		case !v.isSet(at) || !one.works:
		case one.isDefault:
			pointless = append(pointless, one.key)
		default:
			v.fail(at, "needs mode frames: the bytes of an opaque tunnel are passed on unread")
		}
	}
	// A dump of the configuration holds every default, so this is one line and no error.
	if len(pointless) > 0 {
		v.warn(path+".mode", "is opaque, so these have no effect: %s", strings.Join(pointless, ", "))
	}
}

// pings judges how silent clients of a frame-aware tunnel are found dead.
func (v *validator) pings(path string, t, def *Tunnel) {
	if t.PingInterval == 0 {
		if t.PongTimeout != def.PongTimeout {
			v.warn(path+".pong_timeout", "has no effect, since ping_interval is 0s")
		}
		return
	}
	if t.PongTimeout > t.PingInterval {
		v.warn(path+".pong_timeout", "is longer than ping_interval (%s): a dead client is noticed late", durationText(t.PingInterval))
	}
	key, at, idle := "idle", path+".idle", t.Idle
	if idle == 0 {
		key, at, idle = "timeouts.tunnel_idle", "timeouts.tunnel_idle", v.cfg.Timeouts.Tunnel
	}
	switch {
	case idle == 0 || t.PingInterval < idle:
	case v.isSet(path + ".ping_interval"):
		v.warn(path+".ping_interval", "is not shorter than %s (%s): silent tunnels end before they are pinged", key, durationText(idle))
	default:
		v.warn(at, "is not longer than tunnel.ping_interval (%s): silent tunnels end before they are pinged", durationText(t.PingInterval))
	}
}

// rates judges what a client may send on a frame-aware tunnel.
func (v *validator) rates(path string, t *Tunnel) {
	switch {
	case t.MessageRate == 0 && t.ByteRate == 0:
		if t.OverRate != "close" {
			v.warn(path+".over_rate", "has no effect without message_rate or byte_rate")
		}
	case t.OverRate == "close" && t.ByteRate > 0 && t.MaxMessage > t.ByteRate:
		v.warn(path+".max_message", "is more than byte_rate lets through at once (%s): such a message ends the tunnel", t.ByteRate)
	}
}

// maySend reports whether an endpoint may put a close code into a frame for the reason that
// it is going away. RFC 6455 section 7.4.1 keeps 1005, 1006 and 1015 off the wire, and those
// that blame the peer (1002, 1003, 1007, 1009, 1010) would be a lie. The IANA registry adds
// 1012 to 1014.
func maySend(code int) bool {
	switch code {
	case 1000, 1001, 1008, 1011, 1012, 1013, 1014:
		return true
	}
	return code >= 3000 && code <= 4999
}

// longestClose is the longest close_timeout of a route.
func (v *validator) longestClose() (longest time.Duration) {
	for _, r := range v.cfg.Routes {
		if r.Upstream != "" {
			longest = max(longest, r.Tunnel.CloseTimeout)
		}
	}
	return longest
}

// drain judges how the process ends.
func (v *validator) drain() {
	d, def := v.cfg.Drain, defaultOf[Drain]()
	if d.Window > d.Timeout && v.isSet("drain.window") {
		v.warn("drain.window", "is cut short by drain.timeout (%s)", durationText(d.Timeout))
	} else if longest := v.longestClose(); d.Window > 0 && d.Window+longest > d.Timeout && v.isSet("drain.window") {
		v.warn("drain.window", "leaves the tunnels closed last less than their close_timeout (%s) before drain.timeout (%s)",
			durationText(longest), durationText(d.Timeout))
	}
	switch {
	case !maySend(d.CloseCode):
		v.report("drain.close_code", Problem{
			Seen: strconv.Itoa(d.CloseCode),
			Want: "a close code that says why the gateway ends a tunnel: 1000, 1001, 1008, 1011 to 1014, or 3000 to 4999",
		})
	case d.CloseCode != def.CloseCode && !v.hasBroken("routes") && !slices.ContainsFunc(v.cfg.Routes, followsFrames):
		v.warn("drain.close_code", "has no effect: no route has tunnels of mode frames")
	}
}

// followsFrames reports whether a route has tunnels of mode frames.
func followsFrames(r *Route) bool {
	return r.Upstream != "" && r.WebSocket && r.Tunnel.Mode == "frames"
}
