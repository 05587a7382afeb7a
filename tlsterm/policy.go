package tlsterm

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// policy is what is agreed on with the clients of one name or of a listener: a Policy with
// everything filled in.
type policy struct {
	MinVersion   uint16
	MaxVersion   uint16
	CipherSuites []uint16      // of TLS 1.2; nil is crypto/tls's choice
	Groups       []tls.CurveID // nil is crypto/tls's choice
	ALPN         []string      // nil takes no part
	ClientAuth   ClientAuthOptions
	// UnknownName is part of what tickets are bound to: one must not resume where its name would be refused.
	UnknownName string
}

// alpnOff is the entry of alpn that takes no part in it.
const alpnOff = "off"

// protocols are the application protocols that the gateway speaks.
var protocols = []string{"http/1.1", "http/1.0"}

// The presets follow Mozilla's server side TLS guidelines, version 5.7, in their words. Of groups, these are
// all that a client of today needs; P-521 costs thirty times as much as X25519, and nobody prefers it.
var (
	presetGroups = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384}
	presetSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
)

// groupNames are the names of groups in the options; the other words are what OpenSSL and others call them.
var groupNames = map[string]tls.CurveID{
	"x25519mlkem768": tls.X25519MLKEM768, "secp256r1mlkem768": tls.SecP256r1MLKEM768, "secp384r1mlkem1024": tls.SecP384r1MLKEM1024,
	"x25519": tls.X25519,
	"p-256":  tls.CurveP256, "prime256v1": tls.CurveP256, "secp256r1": tls.CurveP256,
	"p-384": tls.CurveP384, "secp384r1": tls.CurveP384,
	"p-521": tls.CurveP521, "secp521r1": tls.CurveP521,
}

// problems is told what is wrong with the options, by key.
type problems func(key string, err error)

// in is where the problems of a part go.
func (r problems) in(prefix string) problems {
	return func(key string, err error) { r(prefix+key, err) }
}

// resolve fills in what p leaves out from base, or, if it has a preset of its own, from that.
func (p *Policy) resolve(base policy, wrong problems) policy {
	out := base
	if p.Preset != "" {
		out.MinVersion, out.MaxVersion = tls.VersionTLS12, tls.VersionTLS13
		if p.Preset == "modern" {
			out.MinVersion = tls.VersionTLS13
		}
		out.CipherSuites, out.Groups = presetSuites, presetGroups
	}
	version("min_version", p.MinVersion, &out.MinVersion, wrong)
	version("max_version", p.MaxVersion, &out.MaxVersion, wrong)
	if out.MinVersion > out.MaxVersion {
		key := "min_version"
		if p.MinVersion == "" {
			key = "max_version"
		}
		wrong(key, fmt.Errorf("nothing is left: the lowest version is %s, the highest %s", versionText(out.MinVersion), versionText(out.MaxVersion)))
	}
	if len(p.CipherSuites) > 0 {
		out.CipherSuites = each("cipher_suites", p.CipherSuites, ParseCipherSuite, wrong)
	}
	if len(p.Groups) > 0 {
		out.Groups = each("groups", p.Groups, ParseGroup, wrong)
	}
	if len(p.ALPN) > 0 {
		out.ALPN = parseALPN(p.ALPN, wrong)
	}
	if p.ClientAuth != nil {
		out.ClientAuth = *p.ClientAuth
		if out.ClientAuth.asks() && out.ClientAuth.CAFile == "" {
			wrong("client_auth.ca_file", ErrNoClientCA)
		}
	}
	return out
}

// resolve fills in the rules of the listener, and those of its policies.
func (o *Options) resolve(wrong problems) (own policy, policies []policy) {
	p := Policy{
		Preset: cmp.Or(o.Preset, "intermediate"), MinVersion: o.MinVersion, MaxVersion: o.MaxVersion,
		CipherSuites: o.CipherSuites, Groups: o.Groups, ALPN: o.ALPN, ClientAuth: &o.ClientAuth,
	}
	own = p.resolve(policy{ALPN: protocols[:1], UnknownName: o.UnknownName}, wrong)
	for i := range o.Policies {
		policies = append(policies, o.Policies[i].resolve(own, wrong.in(fmt.Sprintf("policies[%d].", i))))
	}
	return own, policies
}

// Check tells what is wrong with the rules, by key as in the file: "policies[0].groups[1]". It reads no file.
func (o *Options) Check(wrong func(key string, err error)) { o.resolve(wrong) }

// sum tells policies apart: tickets are bound to it. Processes of a fleet resume each other's sessions if these are equal.
func (p *policy) sum() []byte {
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("BUG: a TLS policy that is not plain data: %v", err))
	}
	sum := sha256.Sum256(text)
	return sum[:policySize]
}

func version(key, text string, into *uint16, wrong problems) {
	switch text {
	case "":
	case "1.2":
		*into = tls.VersionTLS12
	case "1.3":
		*into = tls.VersionTLS13
	default:
		wrong(key, fmt.Errorf("unknown version %q (want 1.2 or 1.3)", text))
	}
}

func versionText(v uint16) string { return strings.TrimPrefix(tls.VersionName(v), "TLS ") }

// each parses a list.
func each[T comparable](key string, list []string, parse func(string) (T, error), wrong problems) []T {
	out := make([]T, 0, len(list))
	for i, text := range list {
		v, err := parse(text)
		if err != nil {
			wrong(fmt.Sprintf("%s[%d]", key, i), err)
		} else if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// ParseGroup returns the group of a name, in any case.
func ParseGroup(name string) (tls.CurveID, error) {
	id, ok := groupNames[strings.ToLower(name)]
	if !ok {
		return 0, fmt.Errorf("unknown group %q (want X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, P-256, P-384 or P-521)", name)
	}
	return id, nil
}

// GroupName is the name of a group as the options have it, "" for 0.
func GroupName(id tls.CurveID) string {
	switch id {
	case 0:
		return ""
	case tls.CurveP256:
		return "P-256"
	case tls.CurveP384:
		return "P-384"
	case tls.CurveP521:
		return "P-521"
	}
	return id.String()
}

// ParseCipherSuite returns a suite of TLS 1.2 by its name at IANA or in OpenSSL. Those that crypto/tls holds to be
// insecure are refused.
func ParseCipherSuite(name string) (uint16, error) {
	for _, s := range tls.CipherSuites() {
		if !strings.EqualFold(name, s.Name) && !strings.EqualFold(name, openSSLName(s.Name)) {
			continue
		}
		if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			return 0, fmt.Errorf("cipher suite %q is of TLS 1.3, whose suites cannot be chosen", name)
		}
		return s.ID, nil
	}
	for _, s := range tls.InsecureCipherSuites() {
		if strings.EqualFold(name, s.Name) || strings.EqualFold(name, openSSLName(s.Name)) {
			return 0, fmt.Errorf("cipher suite %q is insecure", name)
		}
	}
	return 0, fmt.Errorf("unknown cipher suite %q (want a name such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or ECDHE-ECDSA-AES128-GCM-SHA256)", name)
}

// openSSLName makes OpenSSL's name of a suite from IANA's. In TLS 1.3, whose names hold no key exchange, they are the same.
func openSSLName(iana string) string {
	if !strings.Contains(iana, "_WITH_") {
		return iana
	}
	name := strings.TrimPrefix(iana, "TLS_")
	name = strings.TrimPrefix(name, "RSA_WITH_") // suites without a key exchange of their own
	for _, r := range [][2]string{
		{"_WITH_", "-"}, {"AES_128", "AES128"}, {"AES_256", "AES256"}, {"RC4_128", "RC4"}, {"3DES_EDE_CBC", "DES_CBC3"}, {"_CBC_SHA", "_SHA"}, {"CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305"},
	} {
		name = strings.Replace(name, r[0], r[1], 1)
	}
	return strings.ReplaceAll(name, "_", "-")
}

// parseALPN returns the protocols to offer, nil for off.
func parseALPN(list []string, wrong problems) []string {
	if slices.Contains(list, alpnOff) {
		if len(list) > 1 {
			wrong("alpn", fmt.Errorf("%q stands beside protocols", alpnOff))
		}
		return nil
	}
	return each("alpn", list, func(name string) (string, error) {
		if !slices.Contains(protocols, name) {
			return "", fmt.Errorf("unknown protocol %q (want %s or %s)", name, strings.Join(protocols, ", "), alpnOff)
		}
		return name, nil
	}, wrong)
}
