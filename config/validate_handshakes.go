package config

import "slices"

// handshakes judges the bounds on TLS handshakes.
func (v *validator) handshakes() {
	h := &v.cfg.Handshakes
	v.handshakeRate("handshakes.rate_per_client", h.RatePerClient, "handshakes.burst_per_client",
		"listener terminates TLS", func(l Listener) bool { return l.TLS != nil })
	v.handshakeRate("handshakes.rate_per_ja4", h.RatePerJA4, "handshakes.burst_per_ja4",
		"listener has tls.ja4", func(l Listener) bool { return l.TLS != nil && l.TLS.JA4 })
}

// handshakeRate judges a rate and its burst. applies tells which listeners it has an effect on, what in words.
func (v *validator) handshakeRate(key string, rate int, burst, what string, applies func(Listener) bool) {
	switch {
	case v.isBroken(key) || v.isBroken("listeners"):
	case rate == 0 && v.isSet(burst):
		v.warn(burst, "has no effect: %s is 0", key)
	case rate > 0 && !slices.ContainsFunc(v.cfg.Listeners, applies):
		v.warn(key, "has no effect: no %s", what)
	}
}
