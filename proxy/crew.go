package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/ring"
)

// crew is a bounded number of goroutines, workers, that serve connections. A worker
// keeps its grown stack from one connection to the next; one without work for a while ends.
//
// put never blocks: when every worker is busy the connection waits in a queue. What
// hot connections have of workers without needing them comes back then, by scarce.
type crew struct {
	// Static.
	serve  func(*visit)
	scarce func(bool) // told when the queue begins and ends to be in use, under the lock: it must not block
	now    func() time.Duration

	waiting atomic.Int32 // length of the queue

	mu      sync.Mutex
	limit   int              // guarded by mu
	lent    int              // guarded by mu; further workers, for those that only wait (lend)
	running int              // guarded by mu
	idle    []*worker        // guarded by mu; the one to be used next is last
	queue   ring.Ring[visit] // guarded by mu
	stopped bool             // guarded by mu
}

// worker is one goroutine of a crew.
type worker struct {
	next chan visit // capacity 1; closed to end it
	idle time.Time  // guarded by crew.mu; since when
}

// workerIdle is how long a worker waits for work before it ends, and crewRound how often
// that is looked at: under load nobody is idle for so long, and after it their stacks of
// 4 to 16 KiB are better given back.
const (
	workerIdle = 2 * time.Second
	crewRound  = time.Second
)

func newCrew(limit int, serve func(*visit), scarce func(bool), now func() time.Duration) *crew {
	return &crew{serve: serve, scarce: scarce, now: now, limit: limit}
}

// setLimit changes how many workers there may be. Fewer end as they fall idle; more begin
// with what waits.
func (w *crew) setLimit(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = n
	w.fillLocked()
}

// lend allows n more workers, or -n fewer: one in the middle of a visit that waits for its client
// has another one work in its place, and gives that up when it goes on.
func (w *crew) lend(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lent += n
	w.fillLocked()
}

// mostLocked is how many workers there may be.
func (w *crew) mostLocked() int { return w.limit + w.lent }

// fillLocked starts workers for what waits, as far as there may be more.
func (w *crew) fillLocked() {
	for w.running < w.mostLocked() && w.waiting.Load() > 0 {
		w.startLocked(w.nextLocked())
	}
}

// startLocked starts a worker with v.
func (w *crew) startLocked(v visit) {
	w.running++
	wk := &worker{next: make(chan visit, 1)}
	wk.next <- v
	go w.work(wk)
}

// put has v served by a worker, soon.
func (w *crew) put(v visit) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		wk := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		wk.next <- v
		return
	}
	if w.running < w.mostLocked() {
		w.startLocked(v)
		w.mu.Unlock()
		return
	}
	defer w.mu.Unlock()
	v.queued = w.now()
	w.queue.Push(v) // it grows to the connections that were ever ready at once, which connections.max bounds
	if w.waiting.Add(1) == 1 {
		w.scarce(true) // under the lock, so that the end cannot be told before the beginning
	}
}

// work serves what comes until the worker has been idle for too long.
func (w *crew) work(wk *worker) {
	for v := range wk.next {
		for more := true; more; {
			w.serve(&v)
			v, more = w.another(wk)
		}
	}
}

// another returns the first of the queue, or puts wk on the idle list.
func (w *crew) another(wk *worker) (v visit, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting.Load() > 0 {
		return w.nextLocked(), true
	}
	if w.running > w.mostLocked() || w.stopped {
		w.running--
		close(wk.next)
		return visit{}, false
	}
	wk.idle = time.Now()
	w.idle = append(w.idle, wk)
	return visit{}, false
}

// nextLocked takes the first of the queue, which must not be empty.
func (w *crew) nextLocked() visit {
	v := w.queue.Pop()
	if w.waiting.Add(-1) == 0 {
		w.scarce(false)
	}
	return v
}

// trim ends workers that have been idle for too long.
func (w *crew) trim(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.idle) && now.Sub(w.idle[n].idle) > workerIdle {
		close(w.idle[n].next)
		w.running--
		n++
	}
	w.idle = append(w.idle[:0], w.idle[n:]...)
	clear(w.idle[len(w.idle):cap(w.idle)])
	w.queue.Trim(1024)
}

// stop ends idle workers, and the others as they fall idle.
func (w *crew) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for _, wk := range w.idle {
		close(wk.next)
		w.running--
	}
	w.idle = nil
}

// size returns the goroutines and how many of them are idle.
func (w *crew) size() (running, idle int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running, len(w.idle)
}
