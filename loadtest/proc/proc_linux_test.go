package proc

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	f := func(line string, want Times) {
		t.Helper()
		got, err := parseStat(line)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", line, got, err, want)
		}
	}
	f("1 (a) S 0 1 1 0 -1 4194560 9 9 9 9 7 11 100 1000 20 0", Times{1070 * time.Millisecond, 10110 * time.Millisecond})
	f("1 (a b) c) S 0 1 1 0 -1 4194560 9 9 9 9 1 2 0 0 20 0", Times{10 * time.Millisecond, 20 * time.Millisecond})
	for _, line := range []string{"", "1 (a) S 0", "1 (a) S 0 1 1 0 -1 4194560 9 9 9 9 x 11 100 1000 20 0"} {
		if _, err := parseStat(line); err == nil {
			t.Errorf("%q is no error", line)
		}
	}
}

func TestParsePSS(t *testing.T) {
	got, err := parsePSS("5600-7ffc [rollup]\nRss:  10 kB\nPss:                 1234 kB\nPss_Dirty: 7 kB\n")
	if err != nil || got != 1234 {
		t.Errorf("%d, %v; want 1234", got, err)
	}
	if _, err := parsePSS("Rss: 1 kB\n"); err == nil {
		t.Error("a rollup without Pss is no error")
	}
}

// What this process burns shows, in steps of the clock tick.
func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	before, err := CPU(pid)
	if err != nil {
		t.Fatal(err)
	}
	for { // until it shows; the test's own time-out is the bound
		now, err := CPU(pid)
		if err != nil {
			t.Fatal(err)
		}
		if now.Sub(before).Total() >= 20*time.Millisecond {
			break
		}
	}
	if pss, err := PSS(pid); err != nil || pss < 1<<20 || pss > 8<<30 {
		t.Errorf("PSS %d, %v", pss, err)
	}
}

// A child and its child belong to the family, until they have ended.
func TestFamily(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sh, "-c", "sleep 100 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1)) // sleep has been started
	family, err := Family(os.Getpid())
	if err != nil || !slices.Contains(family, cmd.Process.Pid) || len(family) < 3 {
		t.Errorf("%v, %v; want %d and its child in it", family, err, cmd.Process.Pid)
	}
	for _, pid := range family[1:] {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	_ = cmd.Wait()
	if _, err := CPU(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v, want ErrGone", err)
	}
}
