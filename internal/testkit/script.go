package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Step is one thing that a scripted backend does on a connection.
type Step func(*ScriptConn) error

// ScriptConn is one connection of a Script.
type ScriptConn struct {
	conn   *net.TCPConn
	br     *bufio.Reader
	script *Script
}

// errOver ends a connection's script without the next round.
var errOver = errors.New("script over")

// Receive reads one whole request.
func Receive() Step {
	return func(c *ScriptConn) error {
		if _, err := ReadRequest(c.br); err != nil {
			return err
		}
		c.script.requests.Add(1)
		return nil
	}
}

// ReceiveHead reads the head of a request and leaves its body unread.
func ReceiveHead() Step {
	return func(c *ScriptConn) error {
		if _, err := ReadRequestHead(c.br); err != nil {
			return err
		}
		c.script.requests.Add(1)
		return nil
	}
}

// ReceiveBytes reads exactly n bytes, whatever they are.
func ReceiveBytes(n int) Step {
	return func(c *ScriptConn) error {
		_, err := io.CopyN(io.Discard, c.br, int64(n))
		return err
	}
}

// Send writes raw bytes.
func Send(raw string) Step {
	return func(c *ScriptConn) error {
		_, err := io.WriteString(c.conn, raw)
		return err
	}
}

// SendSplit writes raw in pieces of at most size bytes, with a pause between them
// so that they travel apart.
func SendSplit(raw string, size int, pause time.Duration) Step {
	return func(c *ScriptConn) error {
		for len(raw) > 0 {
			n := min(size, len(raw))
			if _, err := io.WriteString(c.conn, raw[:n]); err != nil {
				return err
			}
			if raw = raw[n:]; len(raw) > 0 && !c.pause(pause) {
				return errOver
			}
		}
		return nil
	}
}

// SendForever writes piece again and again until the peer closes or the test ends.
func SendForever(piece string) Step {
	return func(c *ScriptConn) error {
		for {
			if _, err := io.WriteString(c.conn, piece); err != nil {
				return err
			}
		}
	}
}

// Pause waits.
func Pause(d time.Duration) Step {
	return func(c *ScriptConn) error {
		if !c.pause(d) {
			return errOver
		}
		return nil
	}
}

// WaitFor blocks until the channel is closed or the test ends.
func WaitFor(ch <-chan struct{}) Step {
	return func(c *ScriptConn) error {
		select {
		case <-ch:
			return nil
		case <-c.script.done:
			return errOver
		}
	}
}

// Hang says nothing more until the peer closes or the test ends.
func Hang() Step {
	return func(c *ScriptConn) error {
		_, err := io.Copy(io.Discard, c.br)
		return err
	}
}

// CloseWrite ends the sending half (FIN) and keeps reading.
func CloseWrite() Step {
	return func(c *ScriptConn) error { return c.conn.CloseWrite() }
}

// Close closes the connection in order.
func Close() Step {
	return func(*ScriptConn) error { return errOver }
}

// Reset closes the connection with a TCP reset.
func Reset() Step {
	return func(c *ScriptConn) error {
		if err := c.conn.SetLinger(0); err != nil {
			return err
		}
		return errOver
	}
}

// pause waits for d, or returns false if the test ends.
func (c *ScriptConn) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.script.done:
		return false
	}
}

// Script is a backend that follows a script on every connection, again and again
// until a step ends it or the peer closes.
type Script struct {
	ln       net.Listener
	rounds   func(conn int) []Step
	done     chan struct{}
	group    sync.WaitGroup
	conns    atomic.Int64
	requests atomic.Int64

	mu      sync.Mutex
	sockets map[net.Conn]struct{} // nil once closed
}

// NewScript starts a scripted backend on a loopback port.
func NewScript(t testing.TB, steps ...Step) *Script {
	t.Helper()
	return NewScripts(t, func(int) []Step { return steps })
}

// NewScripts is NewScript with a script for each connection, numbered from 0.
func NewScripts(t testing.TB, steps func(conn int) []Step) *Script {
	t.Helper()
	s := &Script{ln: listen(t), rounds: steps, done: make(chan struct{}), sockets: map[net.Conn]struct{}{}}
	s.group.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

// Respond is the script of a backend that answers every request with raw.
func Respond(raw string) []Step { return []Step{Receive(), Send(raw)} }

// Addr returns the backend's host:port.
func (s *Script) Addr() string { return s.ln.Addr().String() }

// Conns returns how many connections were accepted.
func (s *Script) Conns() int { return int(s.conns.Load()) }

// Requests returns how many requests were received, on all connections.
func (s *Script) Requests() int { return int(s.requests.Load()) }

func (s *Script) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		open := s.sockets != nil
		if open {
			s.sockets[c] = struct{}{}
		}
		s.mu.Unlock()
		if !open {
			_ = c.Close()
			return
		}
		steps := s.rounds(int(s.conns.Add(1)) - 1)
		s.group.Go(func() { s.play(&ScriptConn{c.(*net.TCPConn), bufio.NewReader(c), s}, steps) })
	}
}

// play repeats the steps until one fails. A script without steps closes at once.
func (s *Script) play(c *ScriptConn, steps []Step) {
	defer func() {
		s.mu.Lock()
		delete(s.sockets, c.conn)
		s.mu.Unlock()
		_ = c.conn.Close()
	}()
	for len(steps) > 0 {
		for _, step := range steps {
			if step(c) != nil {
				return
			}
		}
	}
}

func (s *Script) close() {
	close(s.done)
	_ = s.ln.Close()
	s.mu.Lock()
	for c := range s.sockets {
		_ = c.Close()
	}
	s.sockets = nil
	s.mu.Unlock()
	s.group.Wait()
}

// DeadAddr returns a loopback host:port on which nothing listens.
func DeadAddr(t testing.TB) string { return FreeAddr(t) }

// FreeAddr returns a loopback host:port that was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ln := listen(t)
	defer func() { _ = ln.Close() }()
	return fmt.Sprint(ln.Addr())
}
