package listen

import (
	"errors"
	"syscall"
	"time"
)

const (
	// firstPause is how long to leave the kernel alone when it is short of something:
	// the connection stays in its queue, so that an accept loop without pause would spin.
	firstPause = 5 * time.Millisecond
	// maxPause is short, since descriptors may be free again at any moment.
	maxPause = time.Second
)

// shortages are errors of accept(2) that say nothing about a connection: all that
// come next fail in the same way until something is given back.
var shortages = []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}

// passing are errors of one connection that died in the queue, or was refused by a
// firewall; accept(2) wants them treated like EAGAIN.
var passing = []syscall.Errno{
	syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPROTO, syscall.EPERM,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	syscall.ENOPROTOOPT, syscall.EOPNOTSUPP,
}

// Temporary says whether an error of Accept leaves the listener usable, and how
// long to wait before the next Accept: not at all if it was about one connection, and at
// first 5ms if the process or the system has run out of descriptors or memory. Everything
// else, net.ErrClosed first, ends the accept loop.
func Temporary(err error) (pause time.Duration, ok bool) {
	for _, e := range shortages {
		if errors.Is(err, e) {
			return firstPause, true
		}
	}
	for _, e := range passing {
		if errors.Is(err, e) {
			return 0, true
		}
	}
	return 0, false
}

// Backoff paces one accept loop: the pause doubles while a shortage lasts, up to a
// second. The zero value is ready.
type Backoff struct{ pause time.Duration }

// Failed is Temporary with the pause grown by the failures before.
func (b *Backoff) Failed(err error) (pause time.Duration, ok bool) {
	first, ok := Temporary(err)
	if first == 0 {
		return 0, ok
	}
	b.pause = min(max(first, 2*b.pause), maxPause)
	return b.pause, true
}

// Accepted is told that an Accept succeeded.
func (b *Backoff) Accepted() { b.pause = 0 }
