package limiter

// Connections caps open client connections.
type Connections struct {
	// Most client connections open at once, over all listeners; 0 is no limit. One over it is closed at once.
	Max int `yaml:"max" default:"0" min:"0"`
	// Most client connections open at once from one client address (IPv6: one /64); 0 is no limit.
	MaxPerClient int `yaml:"max_per_client" default:"0" min:"0"`
}
