package testkit

import (
	"bufio"
	"net"
)

// Handle is a step that reads and writes the connection itself, for what no other
// step says. An error, io.EOF included, ends the connection.
func Handle(f func(r *bufio.Reader, conn *net.TCPConn) error) Step {
	return func(c *ScriptConn) error { return f(c.br, c.conn) }
}

// Signal is a step that closes ch, which tells the test that the script came so far.
func Signal(ch chan<- struct{}) Step {
	return func(*ScriptConn) error {
		close(ch)
		return nil
	}
}

// Gone is a step that waits for the peer to close, reading what it sends until
// then, and closes ch.
func Gone(ch chan<- struct{}) Step {
	hang := Hang()
	return func(c *ScriptConn) error {
		_ = hang(c) // a reset is an end as well
		close(ch)
		return errOver
	}
}
