// Package proc reads what processes cost from /proc (proc(5)): the CPU time and the memory of a
// process with all its threads and descendants, as a gateway with worker processes
// must be judged by all of them.
package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ErrGone is returned for a process that does not exist.
var ErrGone = errors.New("proc: no such process")

// ticksPerSecond is the unit of /proc/PID/stat. The kernel has reported in hundredths
// of a second to programs on every architecture that Go runs on.
const ticksPerSecond = 100

// Family lists a process and its descendants, the process first. A process that ends
// meanwhile may be missing.
func Family(pid int) ([]int, error) {
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		return nil, fmt.Errorf("%w: %d", ErrGone, pid)
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", family[i]))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", family[i], task.Name()))
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(field); err == nil {
					family = append(family, child)
				}
			}
		}
	}
	return family, nil
}

// Times is CPU time.
type Times struct {
	User, System time.Duration
}

// Total is user and system time together.
func (t Times) Total() time.Duration { return t.User + t.System }

// Sub returns what was spent since an earlier reading.
func (t Times) Sub(earlier Times) Times {
	return Times{t.User - earlier.User, t.System - earlier.System}
}

// CPU returns the CPU time of a process, its threads, also those that have ended, its children
// that it has waited for, and the same of its living descendants. It is exact to 10 ms a process, so
// measure over seconds.
func CPU(pid int) (Times, error) {
	family, err := Family(pid)
	if err != nil {
		return Times{}, err
	}
	var sum Times
	for i, pid := range family {
		t, err := times(pid)
		switch {
		case err == nil:
			sum.User += t.User
			sum.System += t.System
		case i == 0:
			return Times{}, err
		}
	}
	return sum, nil
}

// Fields 14 to 17 of /proc/PID/stat, counted from the one behind the name: utime,
// stime, and both of the children that were waited for.
const (
	utimeField  = 11
	statFields  = 15
	childFields = 2
)

func times(pid int) (Times, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Times{}, fmt.Errorf("%w: %d", ErrGone, pid)
	}
	return parseStat(string(b))
}

// parseStat reads the times of a line of /proc/PID/stat. The name in it may hold spaces
// and parentheses, so it ends with the last ")".
func parseStat(line string) (Times, error) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < statFields {
		return Times{}, fmt.Errorf("proc: %d fields in stat (want at least %d)", len(fields), statFields)
	}
	var ticks [2 * childFields]int64
	for i := range ticks {
		n, err := strconv.ParseInt(fields[utimeField+i], 10, 64)
		if err != nil {
			return Times{}, fmt.Errorf("proc: stat: %w", err)
		}
		ticks[i] = n
	}
	const tick = time.Second / ticksPerSecond
	return Times{time.Duration(ticks[0]+ticks[2]) * tick, time.Duration(ticks[1]+ticks[3]) * tick}, nil
}

// PSS returns the proportional set size of a process and its descendants in bytes: pages
// that n processes share count as an n-th in each.
func PSS(pid int) (int64, error) {
	family, err := Family(pid)
	if err != nil {
		return 0, err
	}
	var sum int64
	for i, pid := range family {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			if i == 0 {
				return 0, fmt.Errorf("proc: memory of %d: %w", pid, err)
			}
			continue
		}
		kib, err := parsePSS(string(b))
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, nil
}

func parsePSS(rollup string) (kib int64, err error) {
	for line := range strings.Lines(rollup) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		}
	}
	return 0, errors.New("proc: no Pss in smaps_rollup")
}
