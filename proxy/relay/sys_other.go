//go:build !linux

package relay

import "syscall"

// Elsewhere there is no reactor, hence no relay: reactor.New fails.
func sendFIN(int32) error { return syscall.ENOSYS }
func closeFD(int32, bool) {}
