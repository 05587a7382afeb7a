// Package filewatch tells when files have changed, for what is read again while the process runs:
// certificates, keys, lists.
//
// It looks at stamps, by stat, and has the system notify it of nothing. Notifications
// (inotify, kqueue) are about inodes, and what renews files replaces them: editors and ACME
// clients write another file and rename it over the old one, Kubernetes swaps the symbolic link "..data"
// two levels above the file that is mounted, a file may be removed and come back, and changes
// made by other machines on NFS, or below some overlay mounts, are never notified. A watch has to be kept on each folder and link of
// the path and set up again after every change, and what happens between is lost unless one looks as
// well. A stat follows the path as whoever opens the file will, costs about a microsecond, and has no
// state in the kernel that could run out. The price is that a change is seen one or two looks late.
//
// A stamp is device, inode, size, modification time and change time, where the system has them. What leaves all of
// these as they were is not seen: that is only a change in place to the same size, within a tick of the file system's
// clock (a few milliseconds on Linux) of the change before and after the file was read; looks further apart than a tick miss none.
//
// A look waits for the file system, on NFS whose server is away for as long as that is. It is for a goroutine that may wait.
package filewatch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Set watches files. It is for one goroutine.
type Set struct {
	paths    []string
	reported []entry // what New found, or the last Settled that was true
	seen     []entry // the look before
}

// entry is a file, or a name in a folder.
type entry struct {
	path  string
	stamp stamp
}

// New takes the stamps of the files as they are now. Call it before the files are read, so that a change between is reported. A
// path leads where its symbolic links lead. A folder stands for the names and files directly in it, without those that begin
// with a dot, which are what tools put beside while they write. A missing file has a stamp too.
func New(paths ...string) *Set {
	s := &Set{paths: slices.Clone(paths)}
	s.seen = s.look()
	s.reported = s.seen
	return s
}

// Paths are those given to New.
func (s *Set) Paths() []string { return slices.Clone(s.paths) }

// Settled looks at the files. It returns true, once, when they differ from those last reported (or from New) and are as they were in
// the look before: so a file that is being written is not read half, and files that go together are all there if they were written
// within the time between looks. Files that changed and are as before again report nothing.
func (s *Set) Settled() bool {
	now := s.look()
	still := slices.Equal(now, s.seen)
	s.seen = now
	if !still || slices.Equal(now, s.reported) {
		return false
	}
	s.reported = now
	return true
}

// Again has the next look report, if the files hold still, though nothing has changed: for a caller who could not read them, as for want of
// descriptors.
func (s *Set) Again() { s.reported = nil }

func (s *Set) look() []entry {
	list := make([]entry, 0, len(s.paths))
	for _, path := range s.paths {
		st, folder := stampOf(path)
		list = append(list, entry{path, st})
		if folder {
			list = appendFolder(list, path)
		}
	}
	return list
}

// appendFolder appends what is in a folder. One that cannot be read is as an empty one.
func appendFolder(list []entry, path string) []entry {
	names, _ := os.ReadDir(path) // sorted by name
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".") {
			continue
		}
		file := filepath.Join(path, n.Name())
		st, _ := stampOf(file)
		list = append(list, entry{file, st})
	}
	return list
}

// stamp is what a file is compared by; the zero value is a file that is missing or cannot be looked at.
type stamp struct {
	there        bool
	dev, inode   uint64
	size         int64 // bytes
	mtime, ctime int64 // nanoseconds since 1970
}
