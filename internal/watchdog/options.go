package watchdog

import "time"

// Options configures the watchdog.
type Options struct {
	// Time between two looks; 0s switches the watchdog off.
	Interval time.Duration `yaml:"interval" default:"30s" min:"0s"`
	// Looks in a row with growth, and without traffic that explains it, that are called a leak.
	Looks int `yaml:"looks" default:"10" min:"2" max:"10000"`
	// Growth below this many over those looks is never called a leak.
	MinGrowth int `yaml:"min_growth" default:"100" min:"1"`
}
