package watchdog

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a watchdog in a bubble, with what it was told.
type rig struct {
	t *testing.T
	*Watchdog

	// mu is held by the test except while it waits, and by the watchdog's calls.
	mu      sync.Mutex
	next    func() Sample
	lists   int
	reports []Verdict
	clears  []Verdict
}

var testOptions = Options{Interval: 10 * time.Second, Looks: 4, MinGrowth: 100}

// newRig starts a watchdog whose samples are made by next. Its lists grow by a pipe each time.
func newRig(t *testing.T, o Options, next func() Sample) *rig {
	r := &rig{t: t, next: next}
	r.mu.Lock()
	call := func(f func()) {
		r.mu.Lock()
		defer r.mu.Unlock()
		f()
	}
	r.Watchdog = start(o, Hooks{
		Sample: func() (s Sample) {
			call(func() { s = r.next() })
			return s
		},
		Holders: func(kind string, n int) []string { return []string{fmt.Sprintf("%d of %s", n, kind)} },
		Report:  func(v Verdict) { call(func() { r.reports = append(r.reports, v) }) },
		Cleared: func(v Verdict) { call(func() { r.clears = append(r.clears, v) }) },
	}, func() (list []fd) {
		call(func() {
			r.lists++
			list = fdList(slices.Repeat([]string{"pipe:[7]"}, r.lists)...)
		})
		return list
	}, func() (trace []stack) {
		call(func() {
			r.lists++
			trace = []stack{{10, []string{"main.worker"}}, {r.lists, []string{"main.leak"}}}
		})
		return trace
	})
	return r
}

// looks lets n looks pass.
func (r *rig) looks(n int) {
	r.mu.Unlock()
	defer r.mu.Lock()
	<-time.After(time.Duration(n) * testOptions.Interval)
	synctest.Wait()
}

// end closes the watchdog, whose last look may still wait for the test.
func (r *rig) end() {
	r.mu.Unlock()
	r.Close()
}

func (r *rig) want(step string, reports, clears, leaks int) {
	r.t.Helper()
	if len(r.reports) != reports || len(r.clears) != clears || len(r.Leaks()) != leaks {
		r.t.Fatalf("%s: %d reports %+v, %d clears, %d leaks; want %d, %d, %d", step,
			len(r.reports), r.reports, len(r.clears), len(r.Leaks()), reports, clears, leaks)
	}
}

func TestEpisode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Sample{FDs: 100, Goroutines: 50, ByKind: []Count{{"client", 20}, {"backend", 10}}, Open: 40}
		perLook := 0
		r := newRig(t, testOptions, func() Sample {
			s.FDs += perLook
			s.ByKind = slices.Clone(s.ByKind)
			s.ByKind[0].N += perLook
			return s
		})
		defer r.end()
		// 1. Nothing grows: nothing is said, and nothing listed.
		r.looks(20)
		r.want("1", 0, 0, 0)
		if r.lists != 0 {
			t.Errorf("1: listed %d times", r.lists)
		}
		// 2. Clients grow: it is said once.
		perLook = 30
		r.looks(3)
		r.want("2", 0, 0, 0)
		r.looks(1)
		r.want("2", 1, 0, 1)
		want := Verdict{Kind: Descriptors, Which: "client", Growth: 120, Oldest: []string{"5 of client"}}
		if got := r.reports[0]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("2: %+v, want %+v", got, want)
		}
		// 3. It goes on, and the growth with it.
		r.looks(5)
		r.want("3", 1, 0, 1)
		if got := r.Leaks()[0].Growth; got != 270 {
			t.Errorf("3: growth %d, want 270", got)
		}
		// 4. It stops.
		perLook = 0
		r.looks(3)
		r.want("4", 1, 0, 1)
		r.looks(1)
		r.want("4", 1, 1, 0)
		// 5. What is open explains the next growth.
		perLook = 30
		grow := r.next
		r.next = func() Sample {
			s.Open += perLook
			return grow()
		}
		r.looks(20)
		r.want("5", 1, 1, 0)
		// 6. It no longer does.
		r.next = grow
		r.looks(4)
		r.want("6", 2, 1, 1)
		// 7. Other options begin anew, and the same do not.
		r.SetOptions(testOptions)
		r.looks(0)
		r.want("7", 2, 1, 1)
		o := testOptions
		o.MinGrowth = 1000
		r.SetOptions(o)
		r.looks(0)
		r.want("7", 2, 2, 0)
		r.looks(20)
		r.want("7", 2, 2, 0)
		// 8. Switched off, nobody looks.
		o.Interval = 0
		r.SetOptions(o)
		r.next = func() Sample { t.Error("8: a look"); return Sample{} }
		r.looks(20)
	})
}

func TestNames(t *testing.T) {
	f := func(what string, grow func(s *Sample), want Verdict) {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := Sample{FDs: 100, Goroutines: 50, ByKind: []Count{{"client", 20}, {"backend", 10}}}
				r := newRig(t, testOptions, func() Sample {
					s.ByKind = slices.Clone(s.ByKind)
					grow(&s)
					return s
				})
				defer r.end()
				r.looks(10)
				r.want(what, 1, 0, 1)
				if got := r.reports[0]; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		})
	}
	f("other", func(s *Sample) { s.FDs += 30; s.ByKind[1].N += 2 },
		Verdict{Kind: Descriptors, Which: "other", Detail: "1 pipe", Growth: 120, Oldest: []string{"fd 4 pipe:[7]"}})
	f("backend", func(s *Sample) { s.FDs += 30; s.ByKind[1].N += 25 },
		Verdict{Kind: Descriptors, Which: "backend", Growth: 120, Oldest: []string{"5 of backend"}})
	f("goroutines", func(s *Sample) { s.Goroutines += 30 },
		Verdict{Kind: Goroutines, Which: "main.leak", Detail: "1 main.leak", Growth: 120, Oldest: []string{"2 at main.leak"}})
	f("no descriptors known", func(s *Sample) { s.FDs = -1; s.Goroutines += 30 },
		Verdict{Kind: Goroutines, Which: "main.leak", Detail: "1 main.leak", Growth: 120, Oldest: []string{"2 at main.leak"}})
}

func TestCloseTwice(t *testing.T) {
	w := New(Options{}, Hooks{})
	w.Close()
	w.Close()
}

// A leak of real pipes and goroutines is seen and named.
func TestPlantedLeak(t *testing.T) {
	if OpenFDs() < 0 {
		t.Log("descriptors are not known on this system")
		return
	}
	var opened []*os.File
	release := make(chan struct{})
	var leaked sync.WaitGroup
	defer func() {
		close(release)
		leaked.Wait()
		for _, f := range opened {
			_ = f.Close()
		}
	}()
	reports := make(chan Verdict, 8)
	w := New(Options{Interval: time.Millisecond, Looks: 6, MinGrowth: 30}, Hooks{
		Sample: func() Sample {
			if len(opened) >= 1000 {
				t.Error("the leak was not seen")
				return Sample{FDs: -1}
			}
			for range 5 {
				r, w, err := os.Pipe()
				if err != nil {
					t.Error(err)
					return Sample{FDs: -1}
				}
				opened = append(opened, r, w)
				leaked.Add(1)
				go plantedGoroutine(release, &leaked)
			}
			return Sample{FDs: OpenFDs(), Goroutines: runtime.NumGoroutine(), ByKind: []Count{{"client", 3}}}
		},
		Report: func(v Verdict) { reports <- v },
	})
	defer w.Close()
	for range 2 {
		v := <-reports
		switch v.Kind {
		case Descriptors:
			if v.Which != "other" || !strings.HasSuffix(v.Detail, " pipe") || v.Growth < 60 || len(v.Oldest) != maxOldest || !strings.Contains(v.Oldest[0], "pipe:[") {
				t.Errorf("%+v", v)
			}
		case Goroutines:
			if !strings.HasSuffix(v.Which, "watchdog.plantedGoroutine") || v.Growth < 30 || len(v.Oldest) == 0 || !strings.Contains(v.Oldest[0], " at ") {
				t.Errorf("%+v", v)
			}
		}
	}
	w.Close()
}

func plantedGoroutine(release chan struct{}, done *sync.WaitGroup) {
	defer done.Done()
	<-release
}

func TestOpenFDs(t *testing.T) {
	before := OpenFDs()
	if before < 0 {
		t.Log("descriptors are not known on this system")
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if got := OpenFDs(); got != before+2 {
		t.Errorf("%d open, want two more than %d", got, before)
	}
	pipes := 0
	for _, f := range listFDs() {
		if f.n == int(r.Fd()) || f.n == int(w.Fd()) {
			pipes++
			if f.group() != "pipe" || f.inode() == 0 {
				t.Errorf("%s: group %q", f, f.group())
			}
		}
	}
	if pipes != 2 {
		t.Errorf("%d of 2 pipes listed", pipes)
	}
	_ = r.Close()
	_ = w.Close()
	if got := OpenFDs(); got != before {
		t.Errorf("%d open, want %d", got, before)
	}
}

func BenchmarkLook(b *testing.B) {
	var files []*os.File
	for range 500 {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, r, w)
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			OpenFDs()
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			listFDs()
		}
	})
	b.Run("goroutines", func(b *testing.B) {
		for b.Loop() {
			stacks()
		}
	})
}
