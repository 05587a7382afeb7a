package target

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// Errors are what they are however they are wrapped.
func TestFailures(t *testing.T) {
	f := func(err error, timeout, reset, shortage bool) {
		t.Helper()
		for _, err := range []error{err, fmt.Errorf("connect: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)})} {
			if IsTimeout(err) != timeout || IsReset(err) != reset || IsShortage(err) != shortage {
				t.Errorf("%v: timeout %v, reset %v, shortage %v", err, IsTimeout(err), IsReset(err), IsShortage(err))
			}
		}
	}
	f(syscall.ETIMEDOUT, true, false, false)
	f(os.ErrDeadlineExceeded, true, false, false)
	f(syscall.ECONNRESET, false, true, false)
	f(syscall.EPIPE, false, true, false)
	f(syscall.EADDRNOTAVAIL, false, false, true)
	f(syscall.EMFILE, false, false, true)
	f(syscall.ENFILE, false, false, true)
	f(syscall.ECONNREFUSED, false, false, false)
	f(errors.New("else"), false, false, false)
}
