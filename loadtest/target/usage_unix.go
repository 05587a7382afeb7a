//go:build unix

package target

import (
	"syscall"
	"time"
)

// CPUTime is the processor time that this process has taken, so that a tool can say
// what it cost.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
