package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Fields of the line "cpu" of /proc/stat (proc(5)), counted from the one behind the name.
const (
	idleField    = 3
	iowaitField  = 4
	guestField   = 8 // guest times are contained in user times already
	machineLeast = iowaitField + 1
)

// Machine returns for how long the processors of the machine have been busy, and how much
// time has passed on them, both summed over all since boot and exact to 10 ms each. The difference
// of two readings says how much of the machine was left.
func Machine() (busy, all time.Duration, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("proc: processors: %w", err)
	}
	return parseMachine(string(b))
}

func parseMachine(stat string) (busy, all time.Duration, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 1+machineLeast || fields[0] != "cpu" {
		return 0, 0, errors.New("proc: no cpu line in /proc/stat")
	}
	const tick = time.Second / ticksPerSecond
	for i, field := range fields[1:min(len(fields), 1+guestField)] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("proc: /proc/stat: %w", err)
		}
		all += time.Duration(n) * tick
		if i != idleField && i != iowaitField {
			busy += time.Duration(n) * tick
		}
	}
	return busy, all, nil
}
