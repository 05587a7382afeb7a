//go:build !linux

package fault

import (
	"context"
	"errors"
	"net"
)

// setBacklog needs Linux.
func setBacklog(*net.TCPListener, int) error { return errors.ErrUnsupported }

// backlogFull needs Linux.
func backlogFull(*net.TCPListener) (bool, error) { return false, errors.ErrUnsupported }

// gone cannot tell without reading: it waits until ctx ends.
func gone(ctx context.Context, conn *net.TCPConn) {
	<-ctx.Done()
	_ = conn.Close()
}
