package watchdog

import (
	"os"
	"strconv"
)

const fdDir = "/proc/self/fd"

// OpenFDs returns the open descriptors of this process, -1 if unknown.
func OpenFDs() int {
	// Fast path: since Linux 6.2 the size of the directory is their number.
	if info, err := os.Stat(fdDir); err == nil && info.Size() > 0 {
		return int(info.Size())
	}
	names, err := fdNames()
	if err != nil {
		return -1
	}
	return len(names) - 1 // less the directory's own
}

func fdNames() ([]string, error) {
	dir, err := os.Open(fdDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return dir.Readdirnames(-1)
}

// listFDs returns the open descriptors with what they lead to. It takes some
// five microseconds for each.
//
// Do not look at the times of the links for their age: the kernel makes an entry when
// somebody first looks at it, not when the descriptor is opened.
func listFDs() []fd {
	names, err := fdNames()
	if err != nil {
		return nil
	}
	out := make([]fd, 0, len(names))
	for _, name := range names {
		link, err := os.Readlink(fdDir + "/" + name)
		if err != nil {
			continue // closed meanwhile, as the directory is
		}
		if n, err := strconv.Atoi(name); err == nil {
			out = append(out, fd{n, link})
		}
	}
	return out
}
