package health

import "time"

// Options configures the active checks of one upstream. Each backend is probed
// on its own jittered schedule, so that one hanging target delays no other.
type Options struct {
	// Kind of probe: "tcp" connects and closes; "http" sends a request and matches the answer.
	Type string `yaml:"type" default:"http" enum:"tcp|http"`
	// Time between two probes of one backend. The real distance varies by a tenth to either side.
	Interval time.Duration `yaml:"interval" default:"5s" min:"10ms"`
	// A probe that takes longer than this has failed.
	Timeout time.Duration `yaml:"timeout" default:"2s" min:"1ms"`
	// Consecutive successes after which an ejected backend gets traffic again.
	Rise int `yaml:"rise" default:"2" min:"1"`
	// Consecutive failures after which a backend gets no more traffic.
	Fall int `yaml:"fall" default:"3" min:"1"`
	// Request method of an HTTP probe.
	Method string `yaml:"method" default:"GET" enum:"GET|HEAD|OPTIONS|POST"`
	// Request path of an HTTP probe, with its query.
	Path string `yaml:"path" default:"/"`
	// Host header of an HTTP probe. Default: the backend's address.
	Host string `yaml:"host"`
	// Statuses that count as success: single ones and ranges, such as "200-299,304".
	Status string `yaml:"status" default:"200-399"`
	// Text that the first 64 KiB of the body must contain. Default: the body is not read.
	BodyContains string `yaml:"body_contains"`
	// Regular expression (RE2) that the first 64 KiB of the body must match.
	BodyRegex string `yaml:"body_regex"`
	// Port to probe instead of the backend's own; 0 keeps it.
	Port int `yaml:"port" min:"0" max:"65535"`
	// What is assumed before the first result: "up" sends traffic at once, "down" waits for `rise` successes.
	Initial string `yaml:"initial" default:"up" enum:"up|down"`
}
