package target

import (
	"errors"
	"net"
	"syscall"
)

// IsTimeout says whether an error is that of a deadline, or of a peer that did not answer the connect.
func IsTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// IsReset says whether an error is that of a connection that the peer has ended with RST.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// IsShortage says whether an error of connecting is this side's: no port or descriptor is left; see Options.Sources.
func IsShortage(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
