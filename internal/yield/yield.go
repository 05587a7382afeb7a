// Package yield lets goroutines that compute for long, and are many, step back behind whoever waits for a socket.
//
// runtime.Gosched leaves the processor to those that are runnable, and does nothing for those whose sockets are ready: the runtime
// asks its poller who these are when a processor finds nothing else to run, or every 10 ms. Goroutines that take turns with Gosched keep it from
// being asked. In a flood of handshakes on one processor, requests over kept connections took 5.2 ms at the median and 44 ms at the 99th
// percentile that way, and 1.3 and 13 with Line (scripts/tls-flood.sh).
package yield

import (
	"runtime"
	"sync"
	"time"
)

// longest bounds a wait where processors never run dry, for reasons other than those who step back: the poller is asked every
// 10 ms then, which would be too rarely for who waits here.
const longest = 2 * time.Millisecond

// Line is where goroutines step back to. The zero value is ready. Its descriptors are as many as goroutines were ever in it at once.
type Line struct {
	mu     sync.Mutex
	free   []*place // guarded by mu
	closed bool     // guarded by mu
}

// StepBack returns when Go's poller was asked, and those it found ready before have been made runnable, or after 2 ms. It costs some 7 us.
// Where the system gives no descriptor for it, it is runtime.Gosched.
func (l *Line) StepBack() {
	p := l.take()
	if p == nil {
		runtime.Gosched()
		return
	}
	p.wait(longest)
	l.giveBack(p)
}

func (l *Line) take() *place {
	l.mu.Lock()
	if n := len(l.free); n > 0 {
		p := l.free[n-1]
		l.free = l.free[:n-1]
		l.mu.Unlock()
		return p
	}
	l.mu.Unlock()
	return newPlace()
}

func (l *Line) giveBack(p *place) {
	l.mu.Lock()
	if !l.closed {
		l.free = append(l.free, p)
		p = nil
	}
	l.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// Close gives the descriptors back. Who steps back after it has one of its own meanwhile.
func (l *Line) Close() {
	l.mu.Lock()
	free := l.free
	l.free, l.closed = nil, true
	l.mu.Unlock()
	for _, p := range free {
		p.close()
	}
}
