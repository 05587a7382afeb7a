package tlsterm

import "time"

// TicketOptions says where the keys of session tickets come from. Listeners with the
// same files, or the same entry in Redis, share keys; with `memory` each has its own. A ticket resumes only where the TLS options beside
// this one, certificates apart, are those that it was issued under.
type TicketOptions struct {
	// Where the keys are: `memory`, made at random, so that sessions end with the process and every process has its own; `file`, in files that a fleet
	// shares; `redis`, where one process of a fleet makes each key and all use it; `off`, no tickets and no resumption.
	Source string `yaml:"source" default:"memory" enum:"memory|file|redis|off"`
	// Key files of 48 or 80 random bytes, the formats of nginx's ssl_session_ticket_key. New tickets are sealed with the first, the others still open old
	// ones. A folder stands for the files in it whose name does not begin with a dot, the last in byte order first: name them by date.
	Files []string `yaml:"files" file:"true"`
	// A new key is made this often (memory, redis); files are rotated by whoever writes them.
	Rotate time.Duration `yaml:"rotate" default:"24h" min:"1s"`
	// Rotated keys that still open tickets (memory, redis). Clients that come back within `rotate` times this many resume; nothing resumes after
	// seven days. More and longer suits clients that come seldom, fewer and shorter bounds what a stolen key is worth.
	OldKeys int `yaml:"old_keys" default:"6" min:"1" max:"30"`
	// Time between looks at the files or at Redis.
	Poll time.Duration `yaml:"poll" default:"5s" min:"100ms"`
	// Redis server: redis://[user:password@]host:port/db, rediss:// for TLS, or unix:///path. The keys stand there unencrypted: who
	// reads them can decrypt recorded sessions of TLS 1.2, and pose as the gateway to clients that resume.
	RedisURL string `yaml:"redis_url" secret:"true"`
	// Name of the entry in Redis that holds the keys. Listeners and processes with the same name share them.
	RedisKey string `yaml:"redis_key" default:"tickgate:tls:tickets"`
	// A call to Redis that takes longer has failed. No handshake waits for it; at start, the listener waits this long for the keys.
	RedisTimeout time.Duration `yaml:"redis_timeout" default:"1s" min:"1ms"`
}

// The sources of keys.
const (
	ticketsMemory = "memory"
	ticketsFile   = "file"
	ticketsRedis  = "redis"
	ticketsOff    = "off"
)

// withDefaults fills what is zero, for options that no file was decoded into.
func (o TicketOptions) withDefaults() TicketOptions {
	if o.Source == "" {
		o.Source = ticketsMemory
	}
	if o.Rotate <= 0 {
		o.Rotate = 24 * time.Hour
	}
	if o.OldKeys <= 0 {
		o.OldKeys = 6
	}
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	if o.RedisTimeout <= 0 {
		o.RedisTimeout = time.Second
	}
	return o
}

// life is how long a key is used, to seal and then to open.
func (o *TicketOptions) life() time.Duration { return time.Duration(o.OldKeys+1) * o.Rotate }
