//go:build !linux

package watchdog

// OpenFDs does not know on this system.
func OpenFDs() int { return -1 }

func listFDs() []fd { return nil }
