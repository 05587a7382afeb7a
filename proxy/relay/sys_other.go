//go:build !linux

package relay

import "syscall"

// Elsewhere there is no reactor, hence no relay: reactor.New fails.
func recv(int32, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }
func send(int32, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }
func sendFIN(int32) error                     { return syscall.ENOSYS }
func closeFD(int32, bool)                     {}
