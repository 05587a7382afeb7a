//go:build !linux

package sock

import (
	"net"
	"syscall"
)

// Elsewhere a Conn works through net.Conn's own methods.
const rawSupported = false

// Recv needs Linux.
func Recv(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Send needs Linux.
func Send(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

func (c *Conn) peerGone() bool { return false }

// Writable reports whether the socket would take bytes right now; unknown here.
func (c *Conn) Writable() bool { return true }

// Readable reports whether there are bytes to read right now; unknown here.
func (c *Conn) Readable() bool { return false }

func duplicate(*polled) (int, error) { return -1, ErrNoDescriptor }
func closeFD(int) error              { return ErrNoDescriptor }
func (c *Conn) shutdownWrite() error { return ErrNoDescriptor }
func (c *Conn) lingerZero()          {}
func (c *Conn) fdAddr(bool) net.Addr { return noAddr{} }
