package yield

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// descriptors counts the eventfds of this process.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range dir {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.Contains(to, "eventfd") {
			n++
		}
	}
	return n
}

// TestPollerIsAsked has goroutines take turns on one processor for as long as another waits for a pipe to become readable, again
// and again. With runtime.Gosched in place of StepBack each of its waits takes 10 ms.
func TestPollerIsAsked(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var l Line
	defer l.Close()
	var over atomic.Bool
	var steps atomic.Int64
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for !over.Load() {
				for start := time.Now(); time.Since(start) < 50*time.Microsecond; {
					continue
				}
				l.StepBack()
				steps.Add(1)
			}
		})
	}
	const rounds = 50
	most := 0
	for range rounds {
		at := make(chan int64)
		go func() {
			_, _ = r.Read(make([]byte, 1))
			at <- steps.Load()
		}()
		l.StepBack() // it waits now
		before := steps.Load()
		_, _ = w.WriteString("x")
		most = max(most, int(<-at-before))
	}
	over.Store(true)
	group.Wait()
	// Whoever is ready is found at the next look, and runs after those found with it: a few steps, while 10 ms are some two hundred.
	if most > 60 {
		t.Errorf("others stepped back %d times before who was ready ran", most)
	}
}

func TestDescriptorsAreReused(t *testing.T) {
	before := descriptors(t)
	var l Line
	for range 100 {
		l.StepBack()
	}
	if n := descriptors(t) - before; n != 1 {
		t.Errorf("%d descriptors for one at a time, want 1", n)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				l.StepBack()
			}
		})
	}
	group.Wait()
	if n := descriptors(t) - before; n > 4 {
		t.Errorf("%d descriptors for four at a time", n)
	}
	l.Close()
	l.StepBack()
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

func TestStepBackAllocatesNothing(t *testing.T) {
	var l Line
	defer l.Close()
	if n := testing.AllocsPerRun(1000, l.StepBack); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStepBack(b *testing.B) {
	var l Line
	defer l.Close()
	b.ReportAllocs()
	for b.Loop() {
		l.StepBack()
	}
}
