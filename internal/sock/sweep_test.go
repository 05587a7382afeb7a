package sock

import (
	"errors"
	"os"
	"testing"
	"time"
)

// What is set while a sweep is late is not over when it comes: neither a span nor a moment.
func TestLateSweep(t *testing.T) {
	const limit = 400 * time.Millisecond
	f := func(name string, arm func(c *Conn)) {
		t.Helper()
		c, _ := pair(t)
		c.sw.Close() // the test is the sweeper
		arm(c)
		passed := min(5*time.Second, mostStep) // what a sweep after 5 s makes of them
		for now := c.sw.advance(5 * time.Second); ; now = c.sw.advance(SweepInterval) {
			c.sw.sweep(now, nil)
			if c.Interrupted() != 0 {
				break
			}
			passed += SweepInterval
		}
		if passed < limit || passed > limit+mostStep+SweepInterval {
			t.Errorf("%s: fired after %v, want %v and at most two sweeps more", name, passed, limit)
		}
	}
	f("ArmRead", func(c *Conn) { c.ArmRead(limit) })
	f("ArmWrite", func(c *Conn) { c.ArmWrite(limit) })
	f("SetReadDeadline", func(c *Conn) { _ = c.SetReadDeadline(time.Now().Add(limit)) })
}

// A deadline that crypto/tls sets for an alert is not made longer by Stall.
func TestStallKeepsDeadline(t *testing.T) {
	c, _ := pair(t)
	c.Stall(time.Hour)
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := c.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want os.ErrDeadlineExceeded", err)
	}
}
