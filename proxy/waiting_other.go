//go:build !linux

package proxy

import "tickgate/internal/sock"

// Elsewhere nothing parks.
func readable(int) bool { return false }
func closeFD(int) error { return sock.ErrNoDescriptor }
func abortOnClose(int)  {}
