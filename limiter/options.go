package limiter

// Connections caps open client connections.
type Connections struct {
	// Most client connections open at once, over all listeners; 0 is no limit. One over it is closed at once.
	Max int `yaml:"max" default:"0" min:"0"`
	// Most client connections open at once from one client address (IPv6: one /64); 0 is no limit.
	MaxPerClient int `yaml:"max_per_client" default:"0" min:"0"`
}

// RateOptions says how often something may happen for one key.
type RateOptions struct {
	// PerSecond is how often in the long run; 0 is no limit.
	PerSecond int
	// Burst is how often at once after a pause; less than 1 is 1.
	Burst int
	// Keys is how many keys are told apart, at 17 bytes each; 0 is 65536.
	Keys int
}
