package tlsterm

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/selfsigned"
)

// What clients of several kinds agree on with a listener of several policies, in real handshakes.
func TestPolicies(t *testing.T) {
	cert := files(t, selfsigned.ECDSA, "example.com", "*.example.com")
	s := mustLoad(t, &Options{
		Certificates: []Certificate{cert},
		Groups:       []string{"X25519", "P-256"},
		Policies: []Policy{
			{Names: []string{"modern.example.com"}, Preset: "modern"},
			{Names: []string{"old.example.com", "modern.example.com"}, MaxVersion: "1.2", CipherSuites: []string{"ECDHE-ECDSA-AES256-GCM-SHA384"}},
			{Names: []string{"*.EXAMPLE.com."}, Groups: []string{"secp384r1"}, ALPN: []string{"off"}},
		},
	}, nil)
	f := func(name string, change func(c *tls.Config), want string) {
		t.Helper()
		c := anyCert(name)
		if change != nil {
			change(c)
		}
		st, serverErr, clientErr := connect(t, s, c)
		got := "refused"
		switch {
		case serverErr != nil:
			got = FailureReason(serverErr).String()
		case clientErr == nil:
			got = versionText(st.Version) + " " + st.CurveID.String() + " " + st.NegotiatedProtocol
		}
		if got != want {
			t.Errorf("%s: %q, want %q (server: %v, client: %v)", name, got, want, serverErr, clientErr)
		}
	}
	alpn := func(protocols ...string) func(c *tls.Config) { return func(c *tls.Config) { c.NextProtos = protocols } }
	most := func(v uint16) func(c *tls.Config) { return func(c *tls.Config) { c.MaxVersion = v } }
	groups := func(g ...tls.CurveID) func(c *tls.Config) { return func(c *tls.Config) { c.CurvePreferences = g } }

	// The listener's own rules: for its names without a policy, unknown ones and none.
	for _, name := range []string{"example.com", "x.y.example.com", "elsewhere.test"} {
		f(name, nil, "1.3 X25519 ")
		f(name, most(tls.VersionTLS12), "1.2 X25519 ")
		f(name, alpn("h2", "http/1.1"), "1.3 X25519 http/1.1")
		f(name, alpn("h2"), "no_shared_protocol")
		f(name, groups(tls.CurveP384), "no_shared_cipher")
	}
	// A preset of its own takes nothing over of what it covers.
	f("modern.example.com", nil, "1.3 X25519MLKEM768 ")
	f("MODERN.example.com", most(tls.VersionTLS12), "no_shared_version")
	// What a policy leaves out is the listener's.
	f("old.example.com", nil, "1.2 X25519 ")
	f("old.example.com", alpn("h2"), "no_shared_protocol")
	f("old.example.com", func(c *tls.Config) {
		c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	}, "no_shared_cipher")
	// A star.
	f("any.example.com", nil, "1.3 CurveP384 ")
	f("any.example.com", alpn("h2"), "1.3 CurveP384 ")
}

func TestPresets(t *testing.T) {
	f := func(o Options, want uint16, secure bool) {
		t.Helper()
		own, _ := o.resolve(func(key string, err error) { t.Errorf("%s: %s", key, err) })
		if own.MinVersion != want || own.MaxVersion != tls.VersionTLS13 {
			t.Errorf("%+v: versions %#x to %#x, want from %#x", o, own.MinVersion, own.MaxVersion, want)
		}
		if got := slices.Equal(own.CipherSuites, presetSuites); got != secure {
			t.Errorf("%+v: suites of the preset is %t, want %t", o, got, secure)
		}
		if !slices.Equal(own.Groups, presetGroups) {
			t.Errorf("%+v: groups %v", o, own.Groups)
		}
	}
	f(Options{}, tls.VersionTLS12, true)
	f(Options{Preset: "intermediate"}, tls.VersionTLS12, true)
	f(Options{Preset: "modern"}, tls.VersionTLS13, true)
	f(Options{Preset: "modern", MinVersion: "1.2"}, tls.VersionTLS12, true)
	f(Options{MinVersion: "1.3"}, tls.VersionTLS13, true)
	f(Options{CipherSuites: []string{"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"}}, tls.VersionTLS12, false)
	for _, id := range presetSuites {
		if name := tls.CipherSuiteName(id); !strings.Contains(name, "ECDHE") || strings.Contains(name, "CBC") {
			t.Errorf("%s is in a preset", name)
		}
	}
}

// Every problem names the key that it is about.
func TestCheckOptions(t *testing.T) {
	f := func(o Options, want ...string) {
		t.Helper()
		var got []string
		o.Check(func(key string, err error) { got = append(got, key+": "+err.Error()) })
		for _, w := range want {
			if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
				t.Errorf("%+v: %q, want one with %q", o, got, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%+v: %q, want %d", o, got, len(want))
		}
	}
	f(Options{})
	f(Options{Groups: []string{"x25519", "X448"}}, `groups[1]: unknown group "X448"`)
	f(Options{ALPN: []string{"http/1.1", "h2"}}, `alpn[1]: unknown protocol "h2"`)
	f(Options{ALPN: []string{"off", "http/1.1"}}, `alpn: "off" stands beside`)
	f(Options{ALPN: []string{"http/1.0"}})
	f(Options{CipherSuites: []string{"TLS_AES_128_GCM_SHA256"}}, "cipher_suites[0]: cipher suite \"TLS_AES_128_GCM_SHA256\" is of TLS 1.3")
	f(Options{CipherSuites: []string{"ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-SHA", "AES128-SHA", "RC4-SHA", "x"}},
		`cipher_suites[2]: cipher suite "AES128-SHA" is insecure`, "cipher_suites[3]", "cipher_suites[4]: unknown")
	f(Options{Preset: "modern", MaxVersion: "1.2"}, "max_version: nothing is left: the lowest version is 1.3, the highest 1.2")
	f(Options{MinVersion: "1.3", MaxVersion: "1.2"}, "min_version: nothing is left")
	f(Options{MinVersion: "1.1"}, `min_version: unknown version "1.1"`)
	f(Options{MaxVersion: "1.2", Policies: []Policy{{}, {MinVersion: "1.3"}, {Groups: []string{"x"}}}},
		"policies[1].min_version: nothing is left", "policies[2].groups[0]")
}

func TestParseCipherSuite(t *testing.T) {
	good := func(name string, want uint16) {
		t.Helper()
		if got, err := ParseCipherSuite(name); err != nil || got != want {
			t.Errorf("%s: %#x, %v, want %#x", name, got, err, want)
		}
	}
	good("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)
	good("ecdhe-rsa-aes256-gcm-sha384", tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)
	good("ECDHE-ECDSA-CHACHA20-POLY1305", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256)
	good("ECDHE-RSA-AES128-SHA", tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA)
	bad := func(name, want string) {
		t.Helper()
		if id, err := ParseCipherSuite(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %#x, %v, want an error with %q", name, id, err, want)
		}
	}
	bad("TLS_AES_128_GCM_SHA256", "is of TLS 1.3")
	bad("tls_chacha20_poly1305_sha256", "is of TLS 1.3")
	// OpenSSL's names of RSA key exchange are those of TLS 1.3 without the prefix.
	for _, name := range []string{"AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "DES-CBC3-SHA", "RC4-SHA", "ECDHE-RSA-DES-CBC3-SHA"} {
		bad(name, "is insecure")
	}
	bad("AES-128-GCM-SHA256", "unknown cipher suite")
}

// A ticket that was issued under one policy does not resume under another.
func TestTicketsKeepToTheirPolicy(t *testing.T) {
	s := mustLoad(t, &Options{
		Certificates: []Certificate{files(t, selfsigned.ECDSA, "a.test", "b.test")},
		Policies:     []Policy{{Names: []string{"b.test"}, Groups: []string{"P-256"}}},
	}, nil)
	cache := tls.NewLRUClientSessionCache(1)
	f := func(name string, want bool) {
		t.Helper()
		c := anyCert(name)
		c.ClientSessionCache = oneSession{cache}
		st, serverErr, clientErr := connect(t, s, c)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s: %v, %v", name, serverErr, clientErr)
		}
		if st.DidResume != want {
			t.Errorf("%s: resumed is %t, want %t", name, st.DidResume, want)
		}
	}
	f("a.test", false)
	f("a.test", true)
	f("b.test", false)
	f("b.test", true)
	f("a.test", false)
	if got := s.Tickets().Stats().Results[TicketOtherPolicy]; got != 2 {
		t.Errorf("%d tickets of another policy, want 2", got)
	}
}

// oneSession is a client that offers its last session whatever the name.
type oneSession struct{ tls.ClientSessionCache }

func (o oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.ClientSessionCache.Get("") }
func (o oneSession) Put(_ string, s *tls.ClientSessionState)    { o.ClientSessionCache.Put("", s) }

func TestPolicyLookupAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	s := mustLoad(t, &Options{
		Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com", "*.example.com")},
		Policies:     []Policy{{Names: []string{"*.example.com"}, Preset: "modern"}},
	}, nil)
	for _, name := range []string{"", "example.com", "WWW.example.com", "elsewhere.test"} {
		hello := &tls.ClientHelloInfo{ServerName: name}
		if n := testing.AllocsPerRun(100, func() {
			_, _ = s.live.configFor(hello)
			_, _ = s.live.certificate(hello)
		}); n != 0 {
			t.Errorf("%q: %v allocations, want none", name, n)
		}
	}
}
