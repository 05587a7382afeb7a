package gctune

import "tickgate/internal/unit"

// Options configures the garbage collector.
type Options struct {
	// Soft limit on the memory of the process (GOMEMLIMIT); the environment variable, if it is set, wins. 0 is no limit.
	Limit unit.Size `yaml:"limit" default:"0B"`
	// Choose GOGC after each collection from the size of what is alive, unless the environment variable GOGC is set.
	Adaptive bool `yaml:"adaptive_gc" default:"true"`
	// Memory that may be allocated between two collections, at least, however little is alive.
	MinHeadroom unit.Size `yaml:"min_headroom" default:"32MiB" min:"1MiB"`
	// The same as a share of what is alive, in percent; the larger of the two counts.
	Headroom int `yaml:"headroom_percent" default:"20" min:"5" max:"400"`
}
