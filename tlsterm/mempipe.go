package tlsterm

import (
	"bytes"
	"io"
	"net"
	"sync"
	"time"
)

// memConn is one end of a connection in memory. Writes never wait, so that two ends that both write before they read
// get on. It has no deadlines: who uses it closes it.
type memConn struct {
	in, out *memBuffer

	// Of the goroutine that uses this end.
	burst int // bytes written since the last read
	most  int // the most of these
}

// memBuffer is one direction.
type memBuffer struct {
	mu     sync.Mutex
	filled sync.Cond
	data   bytes.Buffer // guarded by mu
	closed bool         // guarded by mu
}

func memPipe() (client, server *memConn) {
	a, b := &memBuffer{}, &memBuffer{}
	a.filled.L, b.filled.L = &a.mu, &b.mu
	return &memConn{in: a, out: b}, &memConn{in: b, out: a}
}

// Read waits until there is something to read, or the connection is closed.
func (c *memConn) Read(p []byte) (int, error) {
	c.most, c.burst = max(c.most, c.burst), 0
	b := c.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.data.Len() == 0 && !b.closed {
		b.filled.Wait()
	}
	if b.data.Len() == 0 {
		return 0, io.EOF
	}
	return b.data.Read(p)
}

// Write never waits.
func (c *memConn) Write(p []byte) (int, error) {
	b := c.out
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, net.ErrClosed
	}
	c.burst += len(p)
	b.filled.Signal()
	return b.data.Write(p)
}

// Close ends both directions. What was written can still be read.
func (c *memConn) Close() error {
	for _, b := range []*memBuffer{c.in, c.out} {
		b.mu.Lock()
		b.closed = true
		b.filled.Broadcast()
		b.mu.Unlock()
	}
	return nil
}

// LocalAddr is that of no network.
func (c *memConn) LocalAddr() net.Addr { return memAddr{} }

// RemoteAddr is that of no network.
func (c *memConn) RemoteAddr() net.Addr { return memAddr{} }

// SetDeadline has no effect.
func (c *memConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline has no effect.
func (c *memConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline has no effect, as writes do not wait.
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "memory" }
