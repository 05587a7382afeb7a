//go:build !unix

package config

// openFileLimit is unknown here.
func openFileLimit() (uint64, bool) { return 0, false }
