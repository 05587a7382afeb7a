package watchdog

import (
	"slices"
	"sync"
	"time"
)

// Count is a number of things under a name.
type Count struct {
	// Name is a kind such as "client" or "backend".
	Name string
	N    int
}

// Sample is what the process holds at one moment.
type Sample struct {
	// FDs is the open descriptors (OpenFDs), -1 if unknown.
	FDs int
	// Goroutines is all goroutines, Busy those of them that are explained by work in
	// progress: workers, connections with a goroutine of their own, and so on.
	Goroutines, Busy int
	// ByKind is the descriptors that the process knows to hold, by kind, always in the same
	// order. What is left of FDs is "other".
	ByKind []Count
	// Open is the descriptors that are explained: by connections and tunnels that
	// are open, pooled backend connections, listeners.
	Open int
	// Traffic moves with each accept and request.
	Traffic uint64
}

// The kinds of a Verdict.
const (
	Descriptors = "descriptors"
	Goroutines  = "goroutines"
)

// Verdict is a leak.
type Verdict struct {
	// Kind is Descriptors or Goroutines.
	Kind string
	// Which is what grew most: a kind of Sample.ByKind, or "other"; for goroutines the function that
	// they were started with.
	Which string
	// Detail is what grew, the most first: for descriptors of kind other what the system calls them, such as
	// "120 pipe, 3 socket"; for goroutines the functions; "" for known kinds.
	Detail string
	// Growth is by how many more than when the episode began.
	Growth int
	// Oldest describes the oldest holders: those that Hooks.Holders knows; for kind other the descriptors that
	// came first since the growth was noticed. For goroutines, which tell no age, it is where they stand.
	Oldest []string
}

// Hooks is what a Watchdog asks and tells its owner. All are called by its own
// goroutine, and no lock is held.
type Hooks struct {
	// Sample looks at the process.
	Sample func() Sample
	// Holders describes the oldest holders of a kind of Sample.ByKind, at most n; nil knows none.
	Holders func(kind string, n int) []string
	// Report is called once for each episode, when it begins.
	Report func(Verdict)
	// Cleared is called when an episode ends, with its last Growth; it may be nil.
	Cleared func(Verdict)
}

// Watchdog looks at the process at intervals. What it looks at is not explained by what
// is open; when that grows look after look, and traffic did not rise to explain
// it, it is a leak.
type Watchdog struct {
	// Static after construction.

	hooks Hooks
	list  func() []fd    // listFDs, or a test's
	trace func() []stack // stacks, or a test's

	// Owned by run.

	fds, gos     track
	fdsBefore    []fd    // since descriptors are suspect
	stacksBefore []stack // since goroutines are suspect

	mu   sync.Mutex
	opts Options   // guarded by mu
	open []Verdict // guarded by mu; episodes that go on

	changed, stop, ended chan struct{}
	closeOnce            sync.Once
}

// New starts a watchdog. Close ends it.
func New(o Options, h Hooks) *Watchdog { return start(o, h, listFDs, stacks) }

func start(o Options, h Hooks, list func() []fd, trace func() []stack) *Watchdog {
	w := &Watchdog{
		hooks: h, list: list, trace: trace, opts: o,
		changed: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go w.run()
	return w
}

// SetOptions changes the options. If they differ, the looks begin anew and episodes end.
func (w *Watchdog) SetOptions(o Options) {
	w.mu.Lock()
	same := w.opts == o
	w.opts = o
	w.mu.Unlock()
	if same {
		return
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Leaks returns the episodes that go on now, with their growth so far.
func (w *Watchdog) Leaks() []Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.open)
}

// Close ends the watchdog and waits for a look that is under way.
func (w *Watchdog) Close() {
	w.closeOnce.Do(func() { close(w.stop) })
	<-w.ended
}

func (w *Watchdog) run() {
	defer close(w.ended)
	for {
		o := w.options()
		var next <-chan time.Time // never, if switched off
		var timer *time.Timer
		if o.Interval > 0 {
			timer = time.NewTimer(o.Interval)
			next = timer.C
		}
		select {
		case <-next:
			w.look(&o)
			continue
		case <-w.changed:
			w.forget()
		case <-w.stop:
		}
		if timer != nil {
			timer.Stop()
		}
		select {
		case <-w.stop:
			return
		default:
		}
	}
}

func (w *Watchdog) options() Options {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opts
}

// forget begins anew.
func (w *Watchdog) forget() {
	w.fds, w.gos = track{}, track{}
	w.fdsBefore, w.stacksBefore = nil, nil
	for _, v := range w.Leaks() {
		w.end(v.Kind)
	}
}

// look is one look.
func (w *Watchdog) look(o *Options) {
	s := w.hooks.Sample()
	if s.FDs >= 0 {
		w.lookAt(Descriptors, &w.fds, descriptors(&s), o)
	}
	w.lookAt(Goroutines, &w.gos, goroutines(&s), o)
}

func (w *Watchdog) lookAt(kind string, t *track, p point, o *Options) {
	switch t.look(p, o) {
	case quiet:
		w.remember(kind, false)
	case suspect:
		w.remember(kind, true)
	case leaking:
		v := w.verdict(kind, t, p)
		w.remember(kind, false)
		w.mu.Lock()
		w.open = append(w.open, v)
		w.mu.Unlock()
		w.hooks.Report(v)
	case goingOn:
		w.grow(kind, p.n-t.first.n)
	case cleared:
		w.end(kind)
	}
}

// remember keeps who is there from the first suspicion on, so that a verdict can tell who
// came since. Nothing is listed while nothing grows.
func (w *Watchdog) remember(kind string, keep bool) {
	switch {
	case kind == Descriptors && !keep:
		w.fdsBefore = nil
	case kind == Descriptors && w.fdsBefore == nil:
		w.fdsBefore = w.list()
	case kind == Goroutines && !keep:
		w.stacksBefore = nil
	case kind == Goroutines && w.stacksBefore == nil:
		w.stacksBefore = w.trace()
	}
}

// verdict names what grew. Without a suspicion before, as when all came in the second half of the
// looks, what is most frequent is named.
func (w *Watchdog) verdict(kind string, t *track, p point) Verdict {
	v := Verdict{Kind: kind, Growth: p.n - t.first.n}
	if kind == Goroutines {
		v.Which, v.Detail, v.Oldest = newStacks(w.stacksBefore, w.trace())
		return v
	}
	v.Which, _ = mostGrown(t.first.kinds, p.kinds)
	if v.Which == other {
		v.Detail, v.Oldest = newFDs(w.fdsBefore, w.list())
		return v
	}
	if w.hooks.Holders != nil {
		v.Oldest = w.hooks.Holders(v.Which, maxOldest)
	}
	return v
}

func (w *Watchdog) grow(kind string, growth int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.open {
		if w.open[i].Kind == kind {
			w.open[i].Growth = growth
		}
	}
}

func (w *Watchdog) end(kind string) {
	w.mu.Lock()
	i := slices.IndexFunc(w.open, func(v Verdict) bool { return v.Kind == kind })
	if i < 0 {
		w.mu.Unlock()
		return
	}
	v := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	w.mu.Unlock()
	if w.hooks.Cleared != nil {
		w.hooks.Cleared(v)
	}
}
