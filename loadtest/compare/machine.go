package compare

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"tickgate/loadtest/report"
)

// machine describes the one that this runs on; what the system does not tell is left out.
func machine() report.Machine {
	kernel := runtime.GOOS
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = "Linux " + strings.TrimSpace(string(b))
	}
	kib, _ := strconv.ParseInt(strings.TrimSuffix(fieldOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	return report.Machine{
		CPU: fieldOf("/proc/cpuinfo", "model name"), Processors: runtime.NumCPU(), MemoryMiB: kib >> 10, Kernel: kernel, Go: runtime.Version(),
	}
}

// fieldOf returns the value of the first line "name: value" of a file, or "".
func fieldOf(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
