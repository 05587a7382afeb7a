//go:build !linux

package httpload

import "syscall"

// Elsewhere there is no reactor, hence no worker: reactor.New fails.
func closeFD(int32)            {}
func noDelay(int) error        { return syscall.ENOSYS }
func connectError(int32) error { return syscall.ENOSYS }
