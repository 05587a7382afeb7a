package compare

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tickgate/loadtest/proc"
)

// cpuReading is the CPU time of a gateway at one moment, by two ways.
type cpuReading struct {
	stat    time.Duration // of all processes, as package proc reads it
	threads threadTimes   // nil where the kernel does not tell
}

// threadTimes is the time of each thread, by process and thread.
type threadTimes map[string]time.Duration

// readCPU reads both ways, one right behind the other.
func readCPU(pid int) (cpuReading, error) {
	times, err := proc.CPU(pid)
	if err != nil {
		return cpuReading{}, fmt.Errorf("read CPU time: %w", err)
	}
	return cpuReading{times.Total(), readThreads(pid)}, nil
}

// readThreads sums up nothing: it reads the nanoseconds that each thread of a process and its descendants
// was on a processor, the first field of /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst
// of Linux). Threads that have ended are gone from there.
func readThreads(pid int) threadTimes {
	family, err := proc.Family(pid)
	if err != nil {
		return nil
	}
	times := make(threadTimes)
	for _, pid := range family {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
			if err != nil {
				continue
			}
			ns, _, _ := strings.Cut(string(b), " ")
			if n, err := strconv.ParseInt(ns, 10, 64); err == nil {
				times[fmt.Sprintf("%d/%s", pid, task.Name())] = time.Duration(n)
			}
		}
	}
	return times
}

// since returns what the threads took since an earlier reading; those that are new count whole.
func (now threadTimes) since(earlier threadTimes) (sum time.Duration) {
	for thread, t := range now {
		sum += t - earlier[thread]
	}
	return sum
}

// cpu adds the CPU time of a window for each of n requests or messages, by both readings.
func (s *sample) cpu(name string, began, ended cpuReading, n int64) {
	if n == 0 {
		return
	}
	s.values[name] = (ended.stat - began.stat).Seconds() * microsecond / float64(n)
	if len(began.threads) > 0 && len(ended.threads) > 0 {
		s.values[name+secondReading] = ended.threads.since(began.threads).Seconds() * microsecond / float64(n)
	}
}
