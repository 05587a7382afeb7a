package filewatch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// old is when the files of tests were last written, so that any later write has another time.
var old = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// age sets a file's times.
func age(t *testing.T, path string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file makes a file that was last written long ago.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	write(t, path, text)
	age(t, path, old)
	return path
}

// reports checks the next looks.
func reports(t *testing.T, s *Set, when string, want ...bool) {
	t.Helper()
	for i, w := range want {
		if got := s.Settled(); got != w {
			t.Errorf("%s: look %d: %v, want %v", when, i+1, got, w)
		}
	}
}

// changed checks that a change is reported in the second look, and once.
func changed(t *testing.T, s *Set, when string) {
	t.Helper()
	reports(t, s, when, false, true, false, false)
}

func TestUnchanged(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir, "a", "1"), filepath.Join(dir, "missing")
	s := New(a, b)
	reports(t, s, "at first", false, false, false)
	if got := s.Paths(); !slices.Equal(got, []string{a, b}) {
		t.Errorf("paths %q", got)
	}
	reports(t, New(), "without files", false, false)
}

func TestChanges(t *testing.T) {
	f := func(name string, change func(t *testing.T, dir, path string)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := file(t, dir, "cert.pem", "first")
			s := New(path)
			change(t, dir, path)
			changed(t, s, name)
		})
	}
	f("edited in place, same size", func(t *testing.T, _, path string) { write(t, path, "other") })
	f("edited in place, same size and modification time", func(t *testing.T, _, path string) {
		write(t, path, "other")
		before, _ := stampOf(path)
		for now := before; now.ctime <= before.ctime; now, _ = stampOf(path) { // until the file system's clock has ticked
			age(t, path, old) // as cp -p and rsync -t do; the change time tells
		}
	})
	f("edited in place, other size, older", func(t *testing.T, _, path string) {
		write(t, path, "longer than before")
		age(t, path, old.Add(-time.Hour))
	})
	f("renamed over, same size and time", func(t *testing.T, dir, path string) {
		must(t, os.Rename(file(t, dir, "new", "other"), path))
	})
	f("removed", func(t *testing.T, _, path string) { must(t, os.Remove(path)) })
	f("a folder in its place", func(t *testing.T, _, path string) {
		must(t, os.Remove(path))
		must(t, os.Mkdir(path, 0o700))
	})
	f("a link in its place", func(t *testing.T, dir, path string) {
		must(t, os.Remove(path))
		must(t, os.Symlink(file(t, dir, "elsewhere", "first"), path))
	})
}

func TestTouched(t *testing.T) {
	path := file(t, t.TempDir(), "a", "1")
	s := New(path)
	age(t, path, old.Add(time.Second))
	changed(t, s, "touched") // harmless: whoever reads it finds what it has
}

func TestAgain(t *testing.T) {
	path := file(t, t.TempDir(), "a", "1")
	s := New(path)
	s.Again()
	reports(t, s, "asked for", true, false)
	write(t, path, "2")
	reports(t, s, "changed", false, true, false)
	s.Again()
	write(t, path, "3, longer")
	reports(t, s, "asked for while it changes", false, true, false)
}

func TestRemovedAndBack(t *testing.T) {
	path := file(t, t.TempDir(), "a", "1")
	s := New(path)
	must(t, os.Remove(path))
	changed(t, s, "removed")
	write(t, path, "2")
	changed(t, s, "back")
	must(t, os.Remove(path))
	reports(t, s, "away between two looks", false)
	write(t, path, "3")
	changed(t, s, "and back again")
}

func TestBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	path, aside := file(t, dir, "a", "1"), filepath.Join(dir, "aside")
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(path, link))
	s := New(link)
	must(t, os.Symlink(file(t, dir, "b", "2"), aside))
	must(t, os.Rename(aside, link))
	reports(t, s, "swapped", false)
	must(t, os.Symlink(path, aside))
	must(t, os.Rename(aside, link))
	reports(t, s, "and back", false, false, false)
}

func TestManyQuickWrites(t *testing.T) {
	path := file(t, t.TempDir(), "a", "")
	s := New(path)
	for i := range 50 {
		write(t, path, fmt.Sprint(i))
		age(t, path, old.Add(time.Duration(i+1)*time.Millisecond))
		reports(t, s, "while it is written", false)
	}
	reports(t, s, "when it is not", true, false)
}

func TestFilesThatGoTogether(t *testing.T) {
	dir := t.TempDir()
	cert, key := file(t, dir, "cert", "1"), file(t, dir, "key", "1")
	s := New(cert, key)
	write(t, cert, "2")
	reports(t, s, "one of them", false)
	write(t, key, "2")
	changed(t, s, "both")
}

// TestKubernetes swaps a mounted secret as the kubelet does it: the files lead through ..data to a folder of their own.
func TestKubernetes(t *testing.T) {
	dir := t.TempDir()
	version := func(n int) {
		t.Helper()
		folder := fmt.Sprintf("..version%d", n)
		must(t, os.Mkdir(filepath.Join(dir, folder), 0o700))
		file(t, filepath.Join(dir, folder), "tls.crt", fmt.Sprint(n))
		file(t, filepath.Join(dir, folder), "tls.key", fmt.Sprint(n))
		must(t, os.Symlink(folder, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if n > 1 {
			must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version%d", n-1))))
		}
	}
	version(1)
	for _, name := range []string{"tls.crt", "tls.key"} {
		must(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	files := New(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	folder := New(dir)
	for n := 2; n < 5; n++ {
		version(n)
		changed(t, files, "files")
		changed(t, folder, "folder")
	}
	// A folder that is itself behind the link.
	through := New(filepath.Join(dir, "..data"))
	version(5)
	changed(t, through, "folder behind the link")
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	a := file(t, dir, "a", "1")
	s := New(dir)
	reports(t, s, "at first", false, false)
	write(t, a, "2")
	changed(t, s, "edited")
	b := file(t, dir, "b", "1")
	changed(t, s, "added")
	must(t, os.Rename(b, filepath.Join(dir, "c")))
	changed(t, s, "renamed")
	must(t, os.Remove(filepath.Join(dir, "c")))
	changed(t, s, "removed")
	file(t, dir, ".a.swp", "1")
	reports(t, s, "a name that begins with a dot", false, false, false)
	must(t, os.RemoveAll(dir))
	changed(t, s, "folder removed")
	must(t, os.Mkdir(dir, 0o700))
	file(t, dir, "a", "1")
	changed(t, s, "folder back")
}
