package fault

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/loadtest/target"
)

// firstRecordWithin bounds the wait for a ClientHello that is to be answered badly.
const firstRecordWithin = 30 * time.Second

// conn is one connection through a proxy.
type conn struct {
	p      *Proxy
	client *net.TCPConn
	number uint64
	// ctx ends with the connection, joined earlier if the other end is lost.
	ctx, joined  context.Context
	cancel, part context.CancelFunc

	// Set by serve before the streams start.
	http               bool
	toTarget, toClient *stream

	// lastHEAD says that the last request that was passed on was HEAD.
	lastHEAD atomic.Bool
	// lost says that the other end is gone for good.
	lost atomic.Bool

	mu     sync.Mutex
	target *net.TCPConn // guarded by mu; nil before it is connected
	ended  bool         // guarded by mu
}

func newConn(p *Proxy, tcp *net.TCPConn, number uint64) *conn {
	c := &conn{p: p, client: tcp, number: number}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	c.joined, c.part = context.WithCancel(c.ctx)
	return c
}

// serve is a connection from accept to close.
func (c *conn) serve() {
	defer c.p.forget(c)
	defer c.close()
	stop := context.AfterFunc(c.ctx, c.close)
	defer stop()
	st := c.p.now.Load()
	if n := st.Reset.AcceptPercent; n > 0 && chance(st.Seed, c.number, 2).IntN(100) < n {
		c.reset()
		return
	}
	if st.halfOpen() {
		c.lose(st.HalfOpen)
	}
	if c.gate() {
		c.carry(c.p.now.Load())
	}
	c.linger()
}

// carry does what the connection was opened for.
func (c *conn) carry(st *state) {
	if st.handshake() {
		c.failHandshake(st.Handshake)
		return
	}
	c.http = c.p.opts.HTTP || st.Answer.Status != 0 || st.ToTarget.Corrupt.byPart() || st.ToClient.Corrupt.byPart()
	if c.connect() {
		c.relay()
	}
}

// byPart says that heads must be told from bodies.
func (c *Corrupt) byPart() bool { return c.Part == PartHead || c.Part == PartBody }

// connect opens the connection to the target; a failure resets the client's.
func (c *conn) connect() bool {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	conn, err := d.DialContext(c.ctx, "tcp", c.p.opts.Target)
	if err != nil {
		c.p.counters.dialFailed.Add(1)
		abort(c.client)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = conn.(*net.TCPConn)
	if c.ended {
		_ = c.target.Close()
		return false
	}
	return true
}

// relay passes bytes on until both directions have ended.
func (c *conn) relay() {
	c.toTarget = newStream(c, toTarget, c.client, c.target)
	c.toClient = newStream(c, toClient, c.target, c.client)
	var wg sync.WaitGroup
	for _, s := range []*stream{c.toTarget, c.toClient} {
		wg.Go(s.read)
		wg.Go(s.write)
	}
	wg.Wait()
}

// gate waits while a silent hole lasts. It returns false when the connection has ended, or its
// other end is gone.
func (c *conn) gate() bool {
	for {
		st := c.p.now.Load()
		if c.joined.Err() != nil {
			return false
		}
		if st.Hole != HoleSilent {
			return true
		}
		select {
		case <-st.ended:
		case <-c.joined.Done():
		}
	}
}

// strike does to a connection what a fault that was set does to open ones at once.
func (c *conn) strike(st *state) {
	if st.Reset.Now {
		c.reset()
	}
	if st.halfOpen() {
		c.lose(st.HalfOpen)
	}
}

// reset closes both sides with RST, as a fault wants it.
func (c *conn) reset() {
	if c.abort() {
		c.p.counters.reset.Add(1)
	}
}

// abort closes both sides with RST; false says that they were closed before.
func (c *conn) abort() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	_ = c.client.SetLinger(0)
	if c.target != nil {
		_ = c.target.SetLinger(0)
	}
	c.endLocked()
	return true
}

// lose takes the other end away, for good. The target sees its client close.
func (c *conn) lose(how HalfOpen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.lost.Swap(true) {
		return
	}
	c.p.counters.lost.Add(1)
	if how == HalfOpenVanish {
		if err := target.Vanish(c.client); err == nil {
			c.endLocked()
			return
		}
		c.p.counters.vanishFailed.Add(1)
	}
	_ = c.client.SetDeadline(time.Unix(1, 0)) // ends what is reading or writing; see linger
	if c.target != nil {
		_ = c.target.Close()
	}
	c.part()
}

// linger holds the client's side of a connection whose other end is gone, unread, until the
// client gives it up.
func (c *conn) linger() {
	if c.lost.Load() {
		_ = c.client.SetDeadline(time.Time{})
		gone(c.ctx, c.client)
	}
}

// close ends the connection in order, as far as its ends have not been reset.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.endLocked()
	}
}

func (c *conn) endLocked() {
	c.ended = true
	_ = c.client.Close()
	if c.target != nil {
		_ = c.target.Close()
	}
	c.cancel()
}

// failHandshake waits for a ClientHello and does with it what is wanted.
func (c *conn) failHandshake(how Handshake) {
	if !c.readRecord() {
		return
	}
	c.p.counters.handshakes.Add(1)
	switch how {
	case HandshakeGarbage:
		_, _ = io.WriteString(c.client, "\x00this is no TLS, whatever the port says\r\n")
	case HandshakeAlert:
		_, _ = c.client.Write([]byte{21, 3, 3, 0, 2, 2, 40}) // alert, fatal, handshake_failure (RFC 8446 section 6)
	case HandshakeReset:
		c.reset()
		return
	case HandshakeStall:
		_ = c.client.SetReadDeadline(time.Time{})
	}
	if how != HandshakeStall {
		_ = c.client.CloseWrite()
		_ = c.client.SetReadDeadline(time.Now().Add(time.Second)) // what is unread would make the close a reset
	}
	_, _ = io.Copy(io.Discard, c.client)
}

// readRecord reads the first record of a client (RFC 8446 section 5.1), or, from a client that
// does not speak TLS, something.
func (c *conn) readRecord() bool {
	const handshakeRecord, most = 22, 1<<14 + 256
	_ = c.client.SetReadDeadline(time.Now().Add(firstRecordWithin))
	var head [5]byte
	if _, err := io.ReadFull(c.client, head[:]); err != nil {
		return false
	}
	if head[0] != handshakeRecord {
		return true
	}
	n := min(int64(binary.BigEndian.Uint16(head[3:])), most)
	_, err := io.CopyN(io.Discard, c.client, n)
	return err == nil
}
