package tlsterm

import "time"

// Options configures TLS on one listener.
type Options struct {
	// Certificates offered on this listener. The first is the default for a client that sends no
	// server name, or one that no certificate covers.
	Certificates []Certificate `yaml:"certificates" required:"true"`
	// PEM file with authorities, from which a chain that lacks an intermediate is completed; those in the files of certificates serve, too. A root in
	// it is not sent, but is known then as the end of a chain.
	IntermediatesFile string `yaml:"intermediates_file"`
	// What is agreed on where the keys below say nothing: `intermediate` is TLS 1.2 and 1.3 with forward secrecy and authenticated
	// encryption only, `modern` is TLS 1.3 alone.
	Preset string `yaml:"preset" default:"intermediate" enum:"intermediate|modern"`
	// Lowest protocol version accepted, 1.2 or 1.3. Default: the preset's.
	MinVersion string `yaml:"min_version" enum:"|1.2|1.3"`
	// Highest protocol version accepted, 1.2 or 1.3. Default: the preset's.
	MaxVersion string `yaml:"max_version" enum:"|1.2|1.3"`
	// Cipher suites of TLS 1.2, by their IANA or OpenSSL names; which of them is taken is decided by speed on this machine. Those of TLS 1.3 cannot be
	// chosen. Default: ECDHE with AES-GCM or ChaCha20-Poly1305.
	CipherSuites []string `yaml:"cipher_suites"`
	// Groups for the key exchange: X25519MLKEM768 (post-quantum), SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, P-256, P-384, P-521. The first
	// that both sides have in the order of crypto/tls is taken, post-quantum ones before others. Default: X25519MLKEM768, X25519, P-256, P-384.
	Groups []string `yaml:"groups"`
	// Application protocols offered (ALPN): http/1.1, http/1.0. A client that offers only others is refused. "off" takes no part in
	// ALPN, so that a client may offer anything. Default: http/1.1.
	ALPN []string `yaml:"alpn"`
	// What to do with a server name that no certificate covers: answer with the default certificate, or refuse the handshake.
	UnknownName string `yaml:"unknown_name" default:"default" enum:"default|reject"`
	// Who has to show a certificate.
	ClientAuth ClientAuthOptions `yaml:"client_auth"`
	// Other rules for some server names.
	Policies []Policy `yaml:"policies"`
	// Session tickets, by which clients resume a session without a full handshake, and where their keys come from.
	Tickets TicketOptions `yaml:"tickets"`
	// Proof that the certificates are not revoked, sent along with them.
	OCSP OCSPOptions `yaml:"ocsp"`
	// Time between looks at the files of certificates, keys and lists: one that has changed is read again without a reload, and a bad one leaves the
	// last good one in use. 0s looks at a reload only.
	Watch time.Duration `yaml:"watch" default:"1s" min:"0s"`
	// Work out the JA4 fingerprint of every client's ClientHello, for ${tls_ja4}, the admin API and handshakes.rate_per_ja4. It costs
	// some microseconds a handshake and 100 bytes a connection.
	JA4 bool `yaml:"ja4" default:"false"`
	// Write the secrets of every session to this file, in the format of NSS and Wireshark. Who reads it can decrypt the traffic.
	InsecureKeyLogFile string `yaml:"insecure_key_log_file" file:"true"`
}

// Policy is what is agreed on with clients that ask for certain server names. What it leaves out is as on the listener, or, if it
// has a preset, as in that.
type Policy struct {
	// Server names it is for: exact, or *.suffix for one label. The first policy with a name has it.
	Names []string `yaml:"names" required:"true"`
	// As on the listener.
	Preset string `yaml:"preset" enum:"|intermediate|modern"`
	// As on the listener.
	MinVersion string `yaml:"min_version" enum:"|1.2|1.3"`
	// As on the listener.
	MaxVersion string `yaml:"max_version" enum:"|1.2|1.3"`
	// As on the listener.
	CipherSuites []string `yaml:"cipher_suites"`
	// As on the listener.
	Groups []string `yaml:"groups"`
	// As on the listener.
	ALPN []string `yaml:"alpn"`
	// As on the listener, and as a whole: nothing of the listener's is taken over.
	ClientAuth *ClientAuthOptions `yaml:"client_auth"`
}

// Certificate names one certificate chain and its private key.
type Certificate struct {
	// PEM file with the leaf certificate first, then its intermediates. Where the order is another, or an intermediate is missing and known from
	// elsewhere, the chain is put right, with a warning.
	CertFile string `yaml:"cert_file" required:"true"`
	// PEM file with the private key of the leaf: PKCS#8, PKCS#1 or SEC 1, not encrypted.
	KeyFile string `yaml:"key_file" required:"true"`
	// Server names it answers to: exact, or *.suffix for one label. Default: the names in the certificate.
	Names []string `yaml:"names"`
	// File with the answer of an OCSP responder that is stapled to it, DER or PEM, for answers that something else keeps fresh; it is looked at
	// every ocsp.refresh_min, and when it changes (`watch`). It is verified as one that came over the network. No responder is asked then.
	OCSPFile string `yaml:"ocsp_file"`
}

// HandshakeOptions bounds what handshakes may take of the process.
type HandshakeOptions struct {
	// Handshakes that compute at once, over all listeners; 0 is three quarters of the processors, at least one. The rest of them stays
	// with established connections, whatever comes in.
	Concurrency int `yaml:"concurrency" default:"0" min:"0" max:"1024"`
	// Handshakes under way at once, with those that wait for their client. When there are more, one that comes in many small pieces is given up, or
	// else the one that has waited longest for its client.
	Max int `yaml:"max" default:"4096" min:"1"`
	// Handshakes that may wait for their turn to compute; more are refused at once, at the cost of an alert.
	Queue int `yaml:"queue" default:"1024" min:"1" max:"1000000"`
	// A handshake that waits longer than this for its turn is refused.
	QueueTimeout time.Duration `yaml:"queue_timeout" default:"1s" min:"1ms"`
	// Handshakes per second that one client address (IPv6: one /64) may begin in the long run, over all listeners; 0 is no limit. One over it is
	// refused before anything is computed for it. Resumed ones count as well. Set it above what many clients behind one address need.
	RatePerClient int `yaml:"rate_per_client" default:"0" min:"0" max:"1000000"`
	// Handshakes that one client address may begin at once after a pause; 0 is as many as rate_per_client.
	BurstPerClient int `yaml:"burst_per_client" default:"0" min:"0" max:"1000000"`
	// Handshakes per second that all clients of one JA4 fingerprint together may begin in the long run, over all listeners with `tls.ja4`; 0 is no
	// limit. One over it is refused before the key exchange. Every user of one version of a browser has the same fingerprint, so this is to
	// stop a tool that comes from many addresses: set it well above the busiest fingerprint that is wanted.
	RatePerJA4 int `yaml:"rate_per_ja4" default:"0" min:"0" max:"1000000"`
	// Handshakes that all clients of one JA4 fingerprint may begin at once after a pause; 0 is as many as rate_per_ja4.
	BurstPerJA4 int `yaml:"burst_per_ja4" default:"0" min:"0" max:"1000000"`
}
