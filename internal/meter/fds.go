package meter

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
)

// FDs counts the open file descriptors whose owners count them. What the process has open
// beyond them is "other".
type FDs struct {
	Client   atomic.Int64
	Backend  atomic.Int64
	Listener atomic.Int64
}

// fdDir has one entry for each open file descriptor, on Linux.
const fdDir = "/proc/self/fd"

// openFDs returns the number of open file descriptors of the process.
func openFDs() (int64, error) {
	// Fast path: since Linux 6.2 the size of the directory is the number of its entries. To
	// list a million of them takes most of a second.
	info, err := os.Stat(fdDir)
	if err == nil && info.Size() > 0 {
		return info.Size(), nil
	}
	return countEntries(fdDir)
}

// countEntries lists a directory in steps, as it may be very long.
func countEntries(name string) (n int64, err error) {
	dir, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	const step = 4096
	for {
		names, err := dir.Readdirnames(step)
		n += int64(len(names))
		if errors.Is(err, io.EOF) {
			return n - 1, nil // without that of dir itself
		}
		if err != nil {
			return 0, err
		}
	}
}

// other returns the descriptors of no known kind when open are open in all. Counters and
// the count are not taken at one instant, so it may come out too small, but never below 0.
func (f *FDs) other(open int64) int64 {
	return max(0, open-f.Client.Load()-f.Backend.Load()-f.Listener.Load())
}
