//go:build unix

package compare

import "syscall"

// mostFDs is how many descriptors a process may open here, at most 20,000.
func mostFDs() int {
	const most = 20_000
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || uint64(l.Max) > most { //nolint:unconvert // signed on FreeBSD
		return most
	}
	return int(l.Max)
}
