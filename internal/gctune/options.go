package gctune

import "tickgate/internal/unit"

// Options configures the garbage collector.
type Options struct {
	// Soft limit on the memory of the process (GOMEMLIMIT); the environment variable, if it is set, wins. 0 is no limit.
	Limit unit.Size `yaml:"limit" default:"0B"`
	// Choose when to collect garbage from what is alive, from how fast memory is allocated and from what a collection costs; collect in an idle
	// process, too, and give its memory back. Has no effect if the environment variable GOGC is set.
	Adaptive bool `yaml:"adaptive_gc" default:"true"`
	// Memory that may be allocated between two collections, at least: what a process that allocates hardly anything keeps for it. More makes
	// the first collections of a sudden load rarer.
	MinHeadroom unit.Size `yaml:"min_headroom" default:"4MiB" min:"1MiB"`
	// Memory that may be allocated between two collections, at most. In between, it is what is allocated in 1.5 s. Less saves
	// memory under load and costs processor time.
	MaxHeadroom unit.Size `yaml:"max_headroom" default:"64MiB" min:"1MiB"`
	// The same as a share of what is alive, in percent; the larger of the two counts. Up to this share, it is what is allocated in 100 times
	// the processor time of a collection, if that is longer, so that collections of a large heap take no more than 1 % of a processor.
	Headroom int `yaml:"headroom_percent" default:"20" min:"5" max:"400"`
}
