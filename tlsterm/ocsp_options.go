package tlsterm

import "time"

// OCSPOptions says how handshakes come by an answer on whether the certificate is revoked, signed by its issuer (OCSP stapling, RFC 6066
// section 8): in the background, so that no handshake ever waits for it. A certificate that names no responder, as those of Let's Encrypt since
// 2025, has nothing to staple, and no client misses it.
type OCSPOptions struct {
	// Staple answers. With `on`, responders are asked over HTTP from this machine, directly (no proxy of the environment is used) and without
	// following redirects. `off` asks nobody and staples nothing, `ocsp_file` neither.
	Stapling string `yaml:"stapling" default:"on" enum:"on|off"`
	// URL of a responder that is asked in place of the ones that certificates name, such as a mirror inside the network: http:// or https://. It is
	// asked about certificates that name none, too.
	Responder string `yaml:"responder"`
	// PEM file with certificates of issuers, for certificate files that hold the leaf alone: without its issuer, an answer cannot be verified. It is
	// followed as the files of certificates are (`watch`).
	CAFile string `yaml:"ca_file"`
	// Folder in which the last answer of each responder outlives the process, so that handshakes have one from the first on after a restart, though the
	// responder be down. It must exist; processes may share it. Answers in it are verified as those from the network.
	CacheDir string `yaml:"cache_dir" file:"true"`
	// Asking a responder takes at most this long, from the lookup of its name to the last byte. At start, and when it is new in a reload, a certificate that
	// must be stapled (RFC 7633) waits this long for its first answer.
	Timeout time.Duration `yaml:"timeout" default:"1500ms" min:"10ms" max:"30s"`
	// Least time between two requests for one certificate. After failures it doubles with each, up to sixteen times, or four times while there is
	// nothing to staple. Up to a quarter is added at random.
	RefreshMin time.Duration `yaml:"refresh_min" default:"1m" min:"100ms" max:"1h"`
	// Most time between them, but for the random part. A good answer is refreshed after half of what is left of its validity, at the latest after this:
	// shorter learns sooner of a revocation and costs the responder more.
	RefreshMax time.Duration `yaml:"refresh_max" default:"12h" min:"1s"`
}

const staplingOff = "off"

// follows reports whether there is a ca_file, and use for it.
func (o *OCSPOptions) follows() bool { return o.CAFile != "" && o.Stapling != staplingOff }

// withDefaults fills what is zero, for options that no file was decoded into.
func (o OCSPOptions) withDefaults() OCSPOptions {
	if o.Stapling == "" {
		o.Stapling = "on"
	}
	if o.Timeout <= 0 {
		o.Timeout = 1500 * time.Millisecond
	}
	if o.RefreshMin <= 0 {
		o.RefreshMin = time.Minute
	}
	if o.RefreshMax <= 0 {
		o.RefreshMax = 12 * time.Hour
	}
	o.RefreshMax = max(o.RefreshMax, o.RefreshMin)
	return o
}
