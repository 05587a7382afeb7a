package wsload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"

	"tickgate/loadtest/pace"
)

const (
	// headTimeout bounds the upgrade request from the accept on.
	headTimeout = 10 * time.Second
	// stalledAfter is how long a client of the ticks mode may take for the rest of a
	// message of which the kernel took a part.
	stalledAfter = 5 * time.Second
	// scratchSize is what is read at once.
	scratchSize = 64 << 10
)

// BackendOptions configures a WebSocket backend.
type BackendOptions struct {
	// Ticks is how many messages a second are pushed, spread evenly over all
	// connections; 0 echoes what comes in instead.
	Ticks float64
	// Size of a pushed message, at least MinSize.
	Size int
	// Text pushes text messages instead of binary ones.
	Text bool
	// FanOut sends each message of this tool that comes in to all connections but its own,
	// instead of echoing it. Each copy is numbered anew by connection, and says in the place of the
	// tunnel's number how many the connection has been left out of: those that were due while
	// it took no bytes. Other messages go nowhere.
	FanOut bool
}

// Counts is what a backend has seen and done.
type Counts struct {
	// Accepted connections, and upgraded ones among them.
	Accepted int64 `json:"accepted"`
	Upgraded int64 `json:"upgraded"`
	// Received and Sent data frames.
	Received int64 `json:"received"`
	Sent     int64 `json:"sent"`
	// Skipped messages were due on a connection that took no bytes. They take no
	// number, so they make no gap.
	Skipped int64 `json:"skipped"`
	// Broken connections spoke no WebSocket, or ended without a Close frame.
	Broken int64 `json:"broken"`
}

// Backend answers upgrades on a listener.
type Backend struct {
	opts  BackendOptions
	clock clock

	accepted, upgraded, received, sent, skipped, broken atomic.Int64

	finishing sync.WaitGroup // writes of what the kernel did not take at once

	mu    sync.Mutex
	conns map[*served]struct{} // guarded by mu
	order []*served            // guarded by mu; whom ticks go to, in order
}

// NewBackend returns a backend that Serve starts.
func NewBackend(o BackendOptions) (*Backend, error) {
	if o.Ticks > 0 && (o.Size < MinSize || o.Size > mostPayload) {
		return nil, fmt.Errorf("wsload: messages of %d bytes (want %d to %d)", o.Size, MinSize, mostPayload)
	}
	return &Backend{opts: o, clock: newClock(), conns: make(map[*served]struct{})}, nil
}

// Counts returns the figures so far.
func (b *Backend) Counts() Counts {
	return Counts{
		b.accepted.Load(), b.upgraded.Load(), b.received.Load(), b.sent.Load(), b.skipped.Load(), b.broken.Load(),
	}
}

// Open is the number of upgraded connections at this moment.
func (b *Backend) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.order)
}

// Serve accepts on ln until ctx ends, then closes everything.
func (b *Backend) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer b.finishing.Wait()
	defer wg.Wait()
	defer b.closeAll()
	if b.opts.Ticks > 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		wg.Go(func() { b.push(ctx) })
	}
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			pace.Sleep(ctx, 50*time.Millisecond)
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		b.accepted.Add(1)
		c := &served{Conn: conn, b: b}
		if !b.add(c) {
			return nil
		}
		wg.Go(c.serve)
	}
}

// add notes a connection, unless the backend has ended.
func (b *Backend) add(c *served) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		_ = c.Close()
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *Backend) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}

// join lets ticks go to a connection.
func (b *Backend) join(c *served) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.place = len(b.order)
	b.order = append(b.order, c)
}

// forget undoes add and join.
func (b *Backend) forget(c *served) {
	_ = c.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	if c.upgraded {
		last := b.order[len(b.order)-1]
		b.order[c.place], last.place = last, c.place
		b.order = slices.Delete(b.order, len(b.order)-1, len(b.order))
	}
}

// push sends messages in turn to all connections.
func (b *Backend) push(ctx context.Context) {
	op := ws.OpBinary
	if b.opts.Text {
		op = ws.OpText
	}
	at := 0
	pace.New(time.Now(), b.opts.Ticks).Each(ctx, -1, func(_ int, due time.Time) {
		b.mu.Lock()
		if len(b.order) == 0 {
			b.mu.Unlock()
			return
		}
		at = (at + 1) % len(b.order)
		c := b.order[at]
		b.mu.Unlock()
		c.tick(op, due)
	})
}

// served is one connection. A goroutine of its own reads and answers; it holds no
// buffer while it waits.
type served struct {
	net.Conn
	b *Backend

	// Owned by serve.
	rest     []byte // an incomplete frame
	in       *[]byte
	n        int
	readErr  error
	upgraded bool

	place int // guarded by Backend.mu; index in Backend.order

	// writing is held while a frame is written: a tick may take two writes, which
	// answers must not come between.
	writing sync.Mutex
	open    atomic.Bool   // the 101 is written
	next    uint64        // guarded by writing
	left    atomic.Uint32 // messages skipped

	others []*served // owned by serve; whom its messages go to
}

// scratch is where bytes are read to, and answers made, between two waits.
var scratch = sync.Pool{New: func() any { b := make([]byte, scratchSize); return &b }}

func (c *served) serve() {
	defer c.b.forget(c)
	_ = c.SetDeadline(time.Now().Add(headTimeout))
	if err := c.upgrade(); err != nil { // which has answered with 4xx
		c.b.broken.Add(1)
		return
	}
	_ = c.SetDeadline(time.Time{})
	c.b.upgraded.Add(1)
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	receive := c.receive // made once: a method value is an allocation
	for {
		if err := raw.Read(receive); err != nil || c.readErr != nil || c.n == 0 {
			c.b.broken.Add(1)
			return
		}
		if done := c.answer(); done {
			return
		}
	}
}

// upgrade answers the handshake. Messages are for the connection from before its client can know
// that it is open, and wait for the 101 to be written.
func (c *served) upgrade() error {
	upgrader := ws.Upgrader{OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
		c.writing.Lock()
		c.b.join(c)
		c.upgraded = true
		return nil, nil
	}}
	_, err := upgrader.Upgrade(c.Conn)
	if c.upgraded {
		c.open.Store(true)
		c.writing.Unlock()
	}
	return err
}

// receive tries to read, taking a buffer only if there is something; false has the
// caller wait. It is what syscall.RawConn.Read calls.
func (c *served) receive(fd uintptr) bool {
	in := scratch.Get().(*[]byte)
	for {
		n, err := syscall.Read(int(fd), *in)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			scratch.Put(in)
			return false
		case err != nil, n <= 0:
			scratch.Put(in)
			c.n, c.readErr = 0, err
			return true
		}
		c.in, c.n = in, n
		return true
	}
}

// answer deals with what receive read; done says that the connection has ended.
func (c *served) answer() (done bool) {
	in := (*c.in)[:c.n]
	out := scratch.Get().(*[]byte)
	defer func() {
		scratch.Put(c.in)
		scratch.Put(out)
		c.in = nil
	}()
	if len(c.rest) > 0 {
		in = append(c.rest, in...)
	}
	replies, rest, done := c.frames(in, (*out)[:0])
	if c.rest = nil; len(rest) > 0 {
		c.rest = slices.Clone(rest)
	}
	if len(replies) > 0 {
		c.writing.Lock()
		_, err := c.Write(replies)
		c.writing.Unlock()
		if err != nil {
			c.b.broken.Add(1)
			return true
		}
	}
	return done
}

// frames takes whole frames from in and appends the replies to out.
func (c *served) frames(in, out []byte) (replies, rest []byte, done bool) {
	for !done {
		h, size, err := header(in)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return out, in, false
		case err != nil || !h.Masked || h.Length > mostPayload:
			c.b.broken.Add(1)
			return appendFrame(out, ws.OpClose, ws.NewCloseFrameBody(ws.StatusProtocolError, "")), nil, true
		case len(in)-size < int(h.Length):
			return out, in, false
		}
		payload := in[size : size+int(h.Length)]
		in = in[size+int(h.Length):]
		ws.Cipher(payload, h.Mask, 0)
		out, done = c.reply(h, payload, out)
	}
	return out, nil, done
}

// reply appends the reply to one frame.
func (c *served) reply(h ws.Header, payload, out []byte) (replies []byte, done bool) {
	switch h.OpCode {
	case ws.OpPing:
		return appendFrame(out, ws.OpPong, payload), false
	case ws.OpPong:
		return out, false
	case ws.OpClose:
		return appendFrame(out, ws.OpClose, payload[:min(len(payload), 2)]), true
	}
	c.b.received.Add(1)
	switch {
	case c.b.opts.Ticks > 0:
		return out, false
	case c.b.opts.FanOut:
		c.fanOut(h.OpCode, payload)
		return out, false
	}
	c.b.sent.Add(1)
	h.Masked = false
	out = appendHeader(out, h)
	return append(out, payload...), false
}

// header reads a frame's header; io.ErrUnexpectedEOF says that bytes are missing.
func header(b []byte) (h ws.Header, size int, err error) {
	if len(b) < 2 {
		return h, 0, io.ErrUnexpectedEOF
	}
	h = ws.Header{Fin: b[0]&0x80 != 0, Rsv: b[0] >> 4 & 7, OpCode: ws.OpCode(b[0] & 15), Masked: b[1]&0x80 != 0, Length: int64(b[1] & 0x7f)}
	size = 2
	switch h.Length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	length := b[2:]
	end := size
	if h.Masked {
		end += len(h.Mask)
	}
	if len(b) < end {
		return h, 0, io.ErrUnexpectedEOF
	}
	switch h.Length {
	case 126:
		h.Length = int64(binary.BigEndian.Uint16(length))
	case 127:
		v := binary.BigEndian.Uint64(length)
		if v >= 1<<63 {
			return h, 0, ws.ErrHeaderLengthMSB
		}
		h.Length = int64(v)
	}
	if h.Masked {
		copy(h.Mask[:], b[size:end])
	}
	return h, end, nil
}

// appendFrame appends a server's frame with the FIN bit set.
func appendFrame(b []byte, op ws.OpCode, payload []byte) []byte {
	b = appendHeader(b, ws.Header{Fin: true, OpCode: op, Length: int64(len(payload))})
	return append(b, payload...)
}

// fanOut sends a message to all others.
func (c *served) fanOut(op ws.OpCode, payload []byte) {
	m, err := parse(payload)
	if err != nil {
		return
	}
	c.b.mu.Lock()
	c.others = append(c.others[:0], c.b.order...)
	c.b.mu.Unlock()
	for _, other := range c.others {
		if other != c {
			other.deliver(op, m.due, len(payload))
		}
	}
	clear(c.others) // lets those go that end
}

// tick pushes one message, if the connection takes it at once.
func (c *served) tick(op ws.OpCode, due time.Time) {
	c.deliver(op, c.b.clock.at(due), c.b.opts.Size)
}

// deliver sends one message if the connection takes it at once, or at least a part: the
// rest follows on a goroutine, and what is due until then is skipped.
func (c *served) deliver(op ws.OpCode, due int64, size int) {
	if !c.open.Load() {
		c.writing.Lock() // held for the 101
	} else if !c.writing.TryLock() {
		c.skip()
		return
	}
	out := scratch.Get().(*[]byte)
	defer scratch.Put(out)
	b := appendHeader((*out)[:0], ws.Header{Fin: true, OpCode: op, Length: int64(size)})
	b = message{tunnel: c.tunnelField(), number: c.next, due: due}.appendTo(b, size)
	n, err := c.writeSome(b)
	if err != nil || n <= 0 {
		c.writing.Unlock()
		c.skip()
		return
	}
	c.next++
	c.b.sent.Add(1)
	if n == len(b) {
		c.writing.Unlock()
		return
	}
	rest := bytes.Clone(b[n:])
	c.b.finishing.Go(func() { c.finish(rest) })
}

// tunnelField is what a message says in the place of the tunnel's number.
func (c *served) tunnelField() uint32 {
	if c.b.opts.FanOut {
		return c.left.Load()
	}
	return 0
}

func (c *served) skip() {
	c.left.Add(1)
	c.b.skipped.Add(1)
}

// writeSome writes what the kernel takes at once.
func (c *served) writeSome(b []byte) (n int, err error) {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		n, failed = syscall.Write(int(fd), b)
		return true
	})
	return n, errors.Join(err, failed)
}

// finish writes the rest of a message, or the stream is broken. It has writing.
func (c *served) finish(rest []byte) {
	defer c.writing.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(stalledAfter))
	if _, err := c.Write(rest); err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetWriteDeadline(time.Time{})
}
