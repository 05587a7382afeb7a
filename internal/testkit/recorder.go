package testkit

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Patience is how long the kit waits for what should happen at once.
const Patience = 30 * time.Second

// RecordedConn is what one connection to a Recorder brought.
type RecordedConn struct {
	// Raw is every byte received.
	Raw []byte
	// Requests are those read whole, in order.
	Requests []*Request
	// Err is nil while the connection is open and after it ended between two
	// requests; else a *Flaw, io.ErrUnexpectedEOF, or an error of the socket.
	Err error
	// Done says that the connection is over.
	Done bool
}

// Recorder is a backend that records exact bytes, reads them with the strict parser
// and answers what it is told. After a flaw it closes the connection.
type Recorder struct {
	answer func(*Request) []byte
	ln     net.Listener
	group  sync.WaitGroup

	mu      sync.Mutex
	conns   []*RecordedConn
	sockets map[net.Conn]struct{}
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

// OK is a 200 response with the given body.
func OK(body string) []byte {
	return []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}

// NewRecorder starts a recorder on a loopback port. answer returns the raw response
// to each request; a nil answer is OK("ok\n"), a nil result closes the connection.
func NewRecorder(t testing.TB, answer func(*Request) []byte) *Recorder {
	t.Helper()
	if answer == nil {
		answer = func(*Request) []byte { return OK("ok\n") }
	}
	r := &Recorder{answer: answer, ln: listen(t), sockets: map[net.Conn]struct{}{}, changed: make(chan struct{})}
	r.group.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// listen opens a free loopback port.
func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return ln
}

// Addr returns the recorder's host:port.
func (r *Recorder) Addr() string { return r.ln.Addr().String() }

func (r *Recorder) accept() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		conn := &RecordedConn{}
		if !r.admit(c, conn) {
			_ = c.Close()
			return
		}
		r.group.Go(func() { r.serve(c, conn) })
	}
}

// admit registers a connection, unless the recorder is closed.
func (r *Recorder) admit(c net.Conn, conn *RecordedConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.sockets[c] = struct{}{}
	r.conns = append(r.conns, conn)
	r.changeLocked()
	return true
}

// serve reads requests from one connection until it ends.
func (r *Recorder) serve(c net.Conn, conn *RecordedConn) {
	err := r.exchange(c, conn)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sockets, c)
	_ = c.Close()
	conn.Done = true
	if !errors.Is(err, io.EOF) {
		conn.Err = err
	}
	r.changeLocked()
}

func (r *Recorder) exchange(c net.Conn, conn *RecordedConn) error {
	br := bufio.NewReader(&tap{c, r, conn})
	for {
		req, err := ReadRequest(br)
		if err != nil {
			return err
		}
		r.mu.Lock()
		conn.Requests = append(conn.Requests, req)
		r.changeLocked()
		r.mu.Unlock()
		response := r.answer(req)
		if response == nil {
			return io.EOF
		}
		if _, err := c.Write(response); err != nil {
			return err
		}
	}
}

// tap records what is read.
type tap struct {
	net.Conn
	r    *Recorder
	conn *RecordedConn
}

// Read implements io.Reader.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.r.mu.Lock()
	t.conn.Raw = append(t.conn.Raw, p[:n]...)
	t.r.mu.Unlock()
	return n, err
}

// changeLocked wakes those who wait for something to happen.
func (r *Recorder) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Conns returns a copy of what was recorded, by connection in the order of accept.
func (r *Recorder) Conns() []RecordedConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := make([]RecordedConn, len(r.conns))
	for i, c := range r.conns {
		conns[i] = RecordedConn{bytes.Clone(c.Raw), slices.Clone(c.Requests), c.Err, c.Done}
	}
	return conns
}

// Requests returns all whole requests, by connection.
func (r *Recorder) Requests() []*Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requestsLocked()
}

func (r *Recorder) requestsLocked() []*Request {
	var reqs []*Request
	for _, c := range r.conns {
		reqs = append(reqs, c.Requests...)
	}
	return reqs
}

// Flaws returns the broken rules of all connections; what a gateway forwards has
// none.
func (r *Recorder) Flaws() []*Flaw {
	r.mu.Lock()
	defer r.mu.Unlock()
	var flaws []*Flaw
	for _, c := range r.conns {
		var f *Flaw
		if errors.As(c.Err, &f) {
			flaws = append(flaws, f)
		}
	}
	return flaws
}

// Forget drops the record of connections that are over, and the requests of the
// others, so that long tests stay small.
func (r *Recorder) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = slices.DeleteFunc(r.conns, func(c *RecordedConn) bool { return c.Done })
	for _, c := range r.conns {
		c.Raw, c.Requests = nil, nil
	}
}

// WaitRequests waits until n whole requests have come and returns all.
func (r *Recorder) WaitRequests(t testing.TB, n int) []*Request {
	t.Helper()
	var reqs []*Request
	r.wait(t, "requests", func() bool {
		reqs = r.requestsLocked()
		return len(reqs) >= n
	})
	return reqs
}

// WaitIdle waits until every connection to the recorder is over.
func (r *Recorder) WaitIdle(t testing.TB) {
	t.Helper()
	r.wait(t, "the end of all connections", func() bool { return len(r.sockets) == 0 })
}

// wait blocks until holds, which is called with mu held.
func (r *Recorder) wait(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		ok, changed := holds(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("recorder: no %s within %v", what, Patience)
		}
	}
}

func (r *Recorder) close() {
	_ = r.ln.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.sockets {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.group.Wait()
}
