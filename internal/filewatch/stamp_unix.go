//go:build linux || darwin || freebsd || netbsd || openbsd

package filewatch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// stampOf looks at a file. Of a folder it takes only which one it is, since its times change with names that do not count.
func stampOf(path string) (s stamp, folder bool) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	for errors.Is(err, unix.EINTR) { // as mounts that can be interrupted give it
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return stamp{}, false
	}
	s = stamp{there: true, dev: uint64(st.Dev), inode: st.Ino}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return s, true
	}
	s.size, s.mtime, s.ctime = st.Size, st.Mtim.Nano(), st.Ctim.Nano()
	return s, false
}
