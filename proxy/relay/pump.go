package relay

import (
	"syscall"

	"tickgate/internal/sock"
)

// turnBytes is how much one direction moves before the loop's other tunnels have their
// turn. It is somewhat less than one full read of the loop's buffer, which is some tens
// of microseconds of work; the turn after costs one more epoll_wait, a hundredth of that.
//
// Bytes go through the loop's buffer and not through a pipe with splice(2). Without the
// share of sender and receiver, which BenchmarkSplice has as "direct", the relay's part
// took, in microseconds of CPU (recv and send : splice, medians of three runs over
// loopback, Linux 6.18): 200 bytes 10.2 : 11.0, 16 KiB 9.9 : 12.7, 64 KiB 19.8 : 17.3.
// That is no gain worth a second path with its own back-pressure.
const turnBytes = 60 << 10

// pump moves what is there, both ways.
func (lp *loop) pump(i uint32, s *slot) {
	// Fast path: nothing but bytes to pass on. The state is looked at again after them.
	for _, d := range [...]side{client, backend} {
		if s.f[d]&(readable|stopped) == readable && !lp.readSide(i, s, d) {
			return
		}
	}
	if (s.f[client]|s.f[backend])&(fin|dead) != 0 || s.flags&closing != 0 {
		if !lp.settle(i, s) {
			return
		}
	}
	for _, d := range [...]side{client, backend} {
		if s.f[d]&(readable|stopped) == readable {
			lp.again(i, s)
			return
		}
	}
}

// readSide reads side d and passes on what it has, for one turn.
func (lp *loop) readSide(i uint32, s *slot, d side) bool {
	if s.f[d]&secure != 0 {
		return lp.readTLS(i, s, d)
	}
	for budget := turnBytes; budget > 0 && s.f[d]&(readable|stopped) == readable; {
		p := lp.space(i, s, d)
		if len(p) == 0 {
			break
		}
		n, errno := sock.Recv(uintptr(s.fd[d]), p)
		switch {
		case n > 0:
			// A short read has emptied a stream socket: what comes later is a new edge.
			if n < len(p) && s.f[d]&hup == 0 {
				s.f[d] &^= readable
			}
			budget -= n
			if !lp.forward(i, s, d, p[:n]) {
				return false
			}
		case errno == 0:
			lp.endOf(s, d, false)
		case errno == syscall.EAGAIN:
			s.f[d] &^= readable
		case errno == syscall.EINTR:
		default:
			return lp.failed(i, s, d)
		}
	}
	return true
}

// space returns where to read bytes of side d to, no more than may be taken now; if
// that is none, it has noted why.
func (lp *loop) space(i uint32, s *slot, d side) []byte {
	p := lp.reactor.Buffer()[maxHeld:]
	if s.f[d]&swallow != 0 {
		return p
	}
	if s.queues != 0 {
		room := lp.limitOf(s) - lp.waiting(s, d.other())
		if room <= 0 {
			lp.pause(s, d)
			return nil
		}
		// An empty queue takes a whole read, of which most will not be queued.
		if room < lp.limitOf(s) {
			p = p[:min(len(p), room)]
		}
	}
	if s.frames != 0 && d == client {
		return lp.allowance(i, s, p)
	}
	return p
}

func (lp *loop) limitOf(s *slot) int {
	if n := lp.policyOf(s).Queue; n > 0 {
		return n
	}
	return defaultQueue
}

// forward takes bytes that came from side d.
func (lp *loop) forward(i uint32, s *slot, d side, p []byte) bool {
	s.bytes[d] += uint64(len(p))
	if d == client {
		lp.stats.ToBackend.Bytes += uint64(len(p))
	} else {
		lp.stats.ToClient.Bytes += uint64(len(p))
	}
	if s.frames != 0 {
		return lp.inspect(i, s, d, p)
	}
	s.last = lp.now
	return lp.pass(i, s, d, p)
}

// pass gives bytes of side d to the other side, unless they are to be dropped.
func (lp *loop) pass(i uint32, s *slot, d side, p []byte) bool {
	if len(p) == 0 || s.f[d]&swallow != 0 {
		return true
	}
	return lp.deliver(i, s, d.other(), p)
}

// deliver gives bytes to side d, over TLS if it has it.
func (lp *loop) deliver(i uint32, s *slot, d side, p []byte) bool {
	if s.f[d]&(fin|shut|dead) != 0 {
		return true
	}
	if s.f[d]&secure != 0 {
		return lp.seal(i, s, d, p)
	}
	if errno := lp.put(i, s, d, p); errno != 0 {
		return lp.refused(i, s, d, errno)
	}
	return true
}

// put sends bytes to the socket of side d and queues what it does not take.
func (lp *loop) put(i uint32, s *slot, d side, p []byte) syscall.Errno {
	for len(p) > 0 && lp.waiting(s, d) == 0 {
		n, errno := sock.Send(uintptr(s.fd[d]), p)
		switch errno {
		case 0:
			p = p[n:] // a short send is followed by EAGAIN, which orders the next edge
		case syscall.EINTR:
		case syscall.EAGAIN:
			lp.enqueue(i, s, d, p)
			return 0
		default:
			return errno
		}
	}
	if len(p) > 0 {
		lp.enqueue(i, s, d, p)
	}
	return 0
}

// waiting returns how many bytes are queued for side d.
func (lp *loop) waiting(s *slot, d side) int {
	if s.queues == 0 {
		return 0
	}
	return lp.queues.get(s.queues).q[d].n
}

func (lp *loop) enqueue(i uint32, s *slot, d side, p []byte) {
	if s.queues == 0 {
		n, qs := lp.queues.alloc()
		s.queues = n
		qs.slot, qs.used = i, true
	}
	q := &lp.queues.get(s.queues).q[d]
	if q.n == 0 {
		q.since = lp.now
	}
	q.push(&lp.chunks, p)
	lp.stats.Queued += len(p)
}

// flush sends what is queued for side d. When enough has gone, the other side is read
// again.
func (lp *loop) flush(i uint32, s *slot, d side) bool {
	q := &lp.queues.get(s.queues).q[d]
	if q.n == 0 {
		return true
	}
	for q.n > 0 {
		n, errno := sock.Send(uintptr(s.fd[d]), q.front())
		if errno == syscall.EINTR {
			continue
		}
		if errno == syscall.EAGAIN {
			break
		}
		if errno != 0 {
			return lp.refused(i, s, d, errno)
		}
		q.pop(&lp.chunks, n)
		q.since = lp.now
		lp.stats.Queued -= n
	}
	if q.n <= lp.limitOf(s)/2 {
		lp.unpause(s, d.other())
		lp.unpause(s, d) // see readTLS; if it is the other queue, the next look finds out
	}
	lp.freeQueues(s)
	return true
}

// freeQueues gives up the queues if both are empty.
func (lp *loop) freeQueues(s *slot) {
	qs := lp.queues.get(s.queues)
	if qs.q[client].n == 0 && qs.q[backend].n == 0 {
		lp.queues.release(s.queues)
		s.queues = 0
	}
}

// dropQueue drops what is queued for side d.
func (lp *loop) dropQueue(s *slot, d side) {
	q := &lp.queues.get(s.queues).q[d]
	lp.stats.Queued -= q.n
	q.clear(&lp.chunks)
	lp.freeQueues(s)
}

func (lp *loop) dropQueues(s *slot) {
	for _, d := range [...]side{client, backend} {
		if s.queues != 0 {
			lp.dropQueue(s, d)
		}
	}
}

// pause stops reading side d, as the other side's queue is full. Its descriptor stays
// registered, and readable says that there is something.
func (lp *loop) pause(s *slot, d side) {
	if s.f[d]&paused != 0 {
		return
	}
	if (s.f[client]|s.f[backend])&paused == 0 {
		lp.stats.Paused++
	}
	s.f[d] |= paused
	lp.stats.Pauses++
}

func (lp *loop) unpause(s *slot, d side) {
	if s.f[d]&paused == 0 {
		return
	}
	s.f[d] &^= paused
	if (s.f[client]|s.f[backend])&paused == 0 {
		lp.stats.Paused--
	}
}
