//go:build unix

package config

import "golang.org/x/sys/unix"

// openFileLimit returns the hard limit of open descriptors: the Go runtime raises
// the soft limit to it when the process starts.
func openFileLimit() (uint64, bool) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, false
	}
	return uint64(r.Max), true //nolint:unconvert // signed on FreeBSD
}
