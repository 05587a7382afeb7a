package meter

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestCountEntries(t *testing.T) {
	dir := t.TempDir()
	for i := range 7 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The directory's own descriptor is taken off, which fdDir has and this one has not.
	if n, err := countEntries(dir); n != 6 || err != nil {
		t.Errorf("got %d, %v, want 6", n, err)
	}
	if _, err := countEntries(filepath.Join(dir, "none")); err == nil {
		t.Error("no error for a missing directory")
	}
}

func TestOpenFDs(t *testing.T) {
	if _, err := os.Stat(fdDir); err != nil {
		if _, err := openFDs(); err == nil {
			t.Error("no error where the system does not tell")
		}
		return
	}
	before, err := openFDs()
	if err != nil {
		t.Fatal(err)
	}
	for range 16 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	after, err := openFDs()
	if err != nil || after < before+16 {
		t.Errorf("%d open after 16 more than %d (%v)", after, before, err)
	}
}

func TestOtherFDs(t *testing.T) {
	var f FDs
	f.Client.Store(5)
	f.Backend.Store(3)
	f.Listener.Store(1)
	if got := f.other(20); got != 11 {
		t.Errorf("got %d, want 11", got)
	}
	if got := f.other(0); got != 0 {
		t.Errorf("got %d, want 0 when the total is not known", got)
	}
}
