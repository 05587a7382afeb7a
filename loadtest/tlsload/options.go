package tlsload

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("tlsload: bad options")

// Options configures a run.
type Options struct {
	// URL is https:// or wss://; Addr is a host:port instead, for servers that speak
	// something else behind TLS. Target says how to get there.
	URL, Addr string
	Target    target.Options
	// ServerName is asked for and verified; "" is the host's name. Roots are what a
	// certificate is verified against; nil is the system's.
	ServerName string
	Roots      *x509.CertPool

	// Conns is how many connections are under way: always (closed loop), or at most
	// (open loop). Rate of connections a second makes the open loop; 0 is the closed one.
	Conns int
	Rate  float64
	// Duration in which connections begin, Warmup included; 0 goes on until ctx ends.
	// What is due within Warmup is not counted.
	Duration, Warmup time.Duration

	// ResumePercent of the connections offer a session of an earlier one.
	ResumePercent int
	// ReturnAfter and ReturnWithin are the shortest and the longest time that a client stays away before it comes
	// back with its session, drawn evenly from Seed. A connection that should resume when no session is due yet has
	// none to offer, which Result.NoSession counts. Zero values have sessions used as soon as they are there.
	ReturnAfter, ReturnWithin time.Duration
	// Groups for the key exchange that are offered, nil for Go's choice. Their order does not
	// matter: crypto/tls has its own. MinVersion and MaxVersion as in tls.Config; 0 is TLS 1.2 to 1.3.
	Groups                 []tls.CurveID
	MinVersion, MaxVersion uint16
	// ALPN protocols offered, in order; nil offers none.
	ALPN []string
	// Request sends one GET for the URL on each connection, "Connection: close", and
	// counts the latency until the response is there.
	Request bool
	// Seed of the choice which connections resume.
	Seed uint64
	// Progress is called once a second; nil is silent.
	Progress func(Progress)
}

func (o *Options) check() error {
	switch {
	case (o.URL == "") == (o.Addr == ""):
		return fmt.Errorf("%w: URL %q and address %q (want one of them)", ErrOptions, o.URL, o.Addr)
	case o.Conns < 1 || o.Rate < 0:
		return fmt.Errorf("%w: %d connections, %v a second (want at least 1, and no negative rate)", ErrOptions, o.Conns, o.Rate)
	case o.Duration < 0 || o.Warmup < 0 || o.Duration > 0 && o.Warmup >= o.Duration:
		return fmt.Errorf("%w: %v of warm-up in %v", ErrOptions, o.Warmup, o.Duration)
	case o.ResumePercent < 0 || o.ResumePercent > 100:
		return fmt.Errorf("%w: %d %% to resume", ErrOptions, o.ResumePercent)
	case o.ReturnAfter < 0 || o.ReturnWithin < o.ReturnAfter:
		return fmt.Errorf("%w: sessions return after %v to %v", ErrOptions, o.ReturnAfter, o.ReturnWithin)
	case o.MinVersion != 0 && o.MaxVersion != 0 && o.MinVersion > o.MaxVersion:
		return fmt.Errorf("%w: %s at least and %s at most", ErrOptions, tls.VersionName(o.MinVersion), tls.VersionName(o.MaxVersion))
	case o.Request && (o.Addr != "" || slices.Contains(o.ALPN, "h2")):
		return fmt.Errorf("%w: a request needs a URL, and HTTP/1.1 instead of h2", ErrOptions)
	}
	return nil
}

// target returns where to connect to.
func (o *Options) target() (*target.Target, error) {
	raw := o.URL
	if raw == "" {
		if _, _, err := net.SplitHostPort(o.Addr); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOptions, err)
		}
		raw = (&url.URL{Scheme: "https", Host: o.Addr}).String()
	}
	return target.New(raw, o.Target, "https", "wss")
}

// config returns the TLS settings that all connections share.
func (o *Options) config(t *target.Target) *tls.Config {
	name := o.ServerName
	if name == "" {
		name = t.URL.Hostname()
	}
	return &tls.Config{
		ServerName: name, RootCAs: o.Roots, InsecureSkipVerify: o.Target.Insecure, //nolint:gosec // asked for by name
		CurvePreferences: o.Groups, MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, NextProtos: o.ALPN,
	}
}

// groups are the key exchange groups by the names of the IANA registry, the curves of NIST
// also by those that people use.
var groups = map[string]tls.CurveID{
	"x25519mlkem768": tls.X25519MLKEM768, "x25519": tls.X25519,
	"secp256r1": tls.CurveP256, "p-256": tls.CurveP256,
	"secp384r1": tls.CurveP384, "p-384": tls.CurveP384,
	"secp521r1": tls.CurveP521, "p-521": tls.CurveP521,
}

// ParseGroups reads a comma-separated list of groups; "" is nil.
func ParseGroups(list string) ([]tls.CurveID, error) {
	var ids []tls.CurveID
	for name := range names(list) {
		id, ok := groups[strings.ToLower(name)]
		if !ok {
			return nil, fmt.Errorf("%w: group %q (want X25519MLKEM768, X25519, P-256, P-384 or P-521)", ErrOptions, name)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ParseVersions reads a version, or a range of two: "1.2", "1.3", "1.2-1.3"; "" is 0, 0.
func ParseVersions(text string) (lowest, highest uint16, err error) {
	if text == "" {
		return 0, 0, nil
	}
	versions := map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	lowest, highest = versions[strings.TrimSpace(low)], versions[strings.TrimSpace(high)]
	if lowest == 0 || highest == 0 {
		return 0, 0, fmt.Errorf("%w: versions %q (want 1.0 to 1.3, or a range such as 1.2-1.3)", ErrOptions, text)
	}
	return lowest, highest, nil
}

// ParseReturn reads a time span, or a range of two: "10s", "0s-18s"; "" is 0, 0.
func ParseReturn(text string) (least, most time.Duration, err error) {
	if text == "" {
		return 0, 0, nil
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	if least, err = time.ParseDuration(strings.TrimSpace(low)); err == nil {
		most, err = time.ParseDuration(strings.TrimSpace(high))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: times to return %q (want a time such as 10s, or a range such as 0s-18s): %w", ErrOptions, text, err)
	}
	return least, most, nil
}

// ParseALPN reads a comma-separated list of protocols; "" is nil.
func ParseALPN(list string) []string { return slices.Collect(names(list)) }

// names yields the items of a comma-separated list that are not empty.
func names(list string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(list, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}
