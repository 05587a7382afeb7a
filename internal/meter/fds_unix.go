//go:build unix

package meter

import "golang.org/x/sys/unix"

// maxFDs returns the soft limit of open file descriptors.
func maxFDs() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return uint64(limit.Cur), nil //nolint:unconvert // signed on FreeBSD
}
