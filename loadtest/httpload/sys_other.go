//go:build !linux

package httpload

import (
	"net/netip"
	"syscall"
)

// Elsewhere there is no reactor, hence no worker: reactor.New fails.
func recv(int32, []byte) (int, syscall.Errno)           { return 0, syscall.ENOSYS }
func send(int32, []byte) (int, syscall.Errno)           { return 0, syscall.ENOSYS }
func closeFD(int32)                                     {}
func connect(netip.AddrPort, netip.Addr) (int32, error) { return -1, syscall.ENOSYS }
func connectError(int32) error                          { return syscall.ENOSYS }
