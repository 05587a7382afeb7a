//go:build !linux

package proxy

import "tickgate/internal/sock"

// Elsewhere nothing parks.
func readable(int) bool              { return false }
func closeFD(int) error              { return sock.ErrNoDescriptor }
func abortOnClose(int)               {}
func hungUp(int) bool                { return false }
func hangUp(int)                     {}
func sendLast(int, []byte)           {}
func helloComplete(int) bool         { return true }
func helloWhole(int) bool            { return true }
func throwAway(int, int) (int, bool) { return 0, false }
