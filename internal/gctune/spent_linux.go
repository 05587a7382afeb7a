package gctune

import (
	"syscall"
	"time"
)

// spent returns the CPU time of the process. The runtime's own figures count the time for which its collector waited
// for a processor that someone else had, and so would make collections rarer the busier the machine is.
func (*runtimeCollector) spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
