//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package filewatch

import "os"

// stampOf looks at a file. Of a folder it takes only that it is one, since its times change with names that do not count.
func stampOf(path string) (s stamp, folder bool) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, false
	}
	if info.IsDir() {
		return stamp{there: true}, true
	}
	return stamp{there: true, size: info.Size(), mtime: info.ModTime().UnixNano()}, false
}
