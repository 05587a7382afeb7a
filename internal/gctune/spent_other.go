//go:build !linux

package gctune

import "time"

// spent returns the time that the runtime counts as spent on collections.
func (r *runtimeCollector) spent() time.Duration { return seconds(r.read().AllGCCPU) }
