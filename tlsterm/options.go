package tlsterm

// Options configures TLS on one listener.
type Options struct {
	// Certificates offered on this listener. The first is the default for a client that sends no
	// server name, or one that no certificate covers.
	Certificates []Certificate `yaml:"certificates" required:"true"`
	// Lowest protocol version accepted.
	MinVersion string `yaml:"min_version" default:"1.2" enum:"1.2|1.3"`
	// Highest protocol version accepted.
	MaxVersion string `yaml:"max_version" default:"1.3" enum:"1.2|1.3"`
	// What to do with a server name that no certificate covers: answer with the default certificate, or refuse the handshake.
	UnknownName string `yaml:"unknown_name" default:"default" enum:"default|reject"`
	// Session tickets, by which clients resume a session without a full handshake, and where their keys come from.
	Tickets TicketOptions `yaml:"tickets"`
}

// Certificate names one certificate chain and its private key.
type Certificate struct {
	// PEM file with the leaf certificate first, then its intermediates.
	CertFile string `yaml:"cert_file" required:"true"`
	// PEM file with the private key of the leaf: PKCS#8, PKCS#1 or SEC 1, not encrypted.
	KeyFile string `yaml:"key_file" required:"true"`
	// Server names it answers to: exact, or *.suffix for one label. Default: the names in the certificate.
	Names []string `yaml:"names"`
}
