//go:build !linux

package listen

import (
	"net"

	"tickgate/config"
)

// Other systems are for development: one socket with the options of package net, a
// backlog of the system's, and no drain of the queue.

const canShare = false

func setOptions(uintptr, *config.Listener) error { return nil }
func setBacklog(uintptr, int) error              { return nil }
func limitMode(uintptr, uint32) error            { return nil }
func isReadable(uintptr) (bool, error)           { return false, nil }
func dropSYN(uintptr) error                      { return nil }
func checkFree(string, *net.TCPAddr) error       { return nil }
