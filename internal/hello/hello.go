// Package hello makes TLS ClientHellos (RFC 8446 section 4.1.2) for load tools and tests that act as hostile
// clients: whole ones as crypto/tls sends them, fresh copies of one that cost no cryptography, and mutants.
package hello

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Sizes and numbers of RFC 8446.
const (
	recordHeader    = 5
	messageHeader   = 4
	randomSize      = 32
	handshakeRecord = 22
	clientHello     = 1
	keyShare        = 51
	mostInRecord    = 1 << 14
	groupX25519     = uint16(tls.X25519)
	groupHybrid     = uint16(tls.X25519MLKEM768)
	x25519Size      = 32
)

// ErrHello is returned for settings that lead to no ClientHello.
var ErrHello = errors.New("hello: no ClientHello")

// Hello is one ClientHello. It does not change.
type Hello struct {
	raw []byte // one record

	random  span   // the client's random
	session span   // legacy_session_id
	shares  []span // X25519 public keys, those within X25519MLKEM768 too
	body    parts  // for mutants
}

// span is a part of Hello.raw.
type span struct{ from, to int }

// parts is the message, taken apart.
type parts struct {
	version, random, session, ciphers, compressions []byte
	extensions                                      []extension
}

// extension is one of a hello.
type extension struct {
	kind uint16
	body []byte
}

// New returns what crypto/tls sends first with a configuration.
func New(cfg *tls.Config) (*Hello, error) {
	var c capture
	_ = tls.Client(&c, cfg).Handshake() // ends when it wants an answer
	if len(c.sent) == 0 {
		return nil, fmt.Errorf("%w: crypto/tls sent nothing", ErrHello)
	}
	h := &Hello{raw: c.sent}
	if err := h.parse(); err != nil {
		return nil, err
	}
	return h, nil
}

// Raw returns the hello as one record, to be read only.
func (h *Hello) Raw() []byte { return h.raw }

// AppendFresh appends a copy of the hello whose random, session id and X25519 public keys are others, as from
// another client. Nobody knows the private keys, which a client that leaves before the end does not need. An ML-KEM key is
// copied, since random bytes make none; the server's share of the work is the same.
func (h *Hello) AppendFresh(to []byte, rng *rand.Rand) []byte {
	at := len(to)
	to = append(to, h.raw...)
	fresh := to[at:]
	fill(fresh[h.random.from:h.random.to], rng)
	fill(fresh[h.session.from:h.session.to], rng)
	for _, s := range h.shares {
		fill(fresh[s.from:s.to], rng)
	}
	return to
}

// fill fills p with random bytes.
func fill(p []byte, rng *rand.Rand) {
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, rng.Uint64())
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
}

// cursor reads the fields of a hello one after the other.
type cursor struct {
	raw []byte
	at  int
	bad bool
}

// bytes returns the place of the next n bytes.
func (c *cursor) bytes(n int) span {
	if n > len(c.raw)-c.at {
		c.bad = true
		n = 0
	}
	s := span{c.at, c.at + n}
	c.at += n
	return s
}

// number reads a number of some bytes.
func (c *cursor) number(size int) (n int) {
	s := c.bytes(size)
	for _, b := range c.raw[s.from:s.to] {
		n = n<<8 | int(b)
	}
	return n
}

// vector returns the place of a vector that has its length before it, in size bytes.
func (c *cursor) vector(size int) span { return c.bytes(c.number(size)) }

// within returns the bytes of a place.
func (c *cursor) within(s span) []byte { return c.raw[s.from:s.to] }

// parse takes the hello apart. Since it is crypto/tls that made it, an error means that crypto/tls has changed.
func (h *Hello) parse() error {
	c := &cursor{raw: h.raw, at: recordHeader + messageHeader}
	h.body.version = c.within(c.bytes(2))
	h.random = c.bytes(randomSize)
	h.session = c.vector(1)
	h.body.random, h.body.session = c.within(h.random), c.within(h.session)
	h.body.ciphers, h.body.compressions = c.within(c.vector(2)), c.within(c.vector(1))
	end := c.number(2)
	end += c.at
	for c.at < end && !c.bad {
		kind := uint16(c.number(2)) //nolint:gosec // two bytes
		body := c.vector(2)
		h.body.extensions = append(h.body.extensions, extension{kind, c.within(body)})
		if kind == keyShare {
			h.findShares(body)
		}
	}
	if c.bad || c.at != len(h.raw) {
		return fmt.Errorf("%w: cannot read what crypto/tls has sent (%d bytes)", ErrHello, len(h.raw))
	}
	return nil
}

// findShares finds the X25519 keys of a key_share extension; that of a hybrid group is at the end of its share
// (draft-ietf-tls-ecdhe-mlkem).
func (h *Hello) findShares(body span) {
	c := &cursor{raw: h.raw[:body.to], at: body.from + 2}
	for c.at < body.to && !c.bad {
		group := uint16(c.number(2)) //nolint:gosec // two bytes
		share := c.vector(2)
		if (group == groupX25519 || group == groupHybrid) && share.to-share.from >= x25519Size {
			h.shares = append(h.shares, span{share.to - x25519Size, share.to})
		}
	}
}

// capture is a connection that keeps what is sent and answers nothing.
type capture struct{ sent []byte }

// Write implements net.Conn.
func (c *capture) Write(p []byte) (int, error) {
	c.sent = append(c.sent, p...)
	return len(p), nil
}

// Read implements net.Conn.
func (*capture) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements net.Conn.
func (*capture) Close() error { return nil }

// LocalAddr implements net.Conn.
func (*capture) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements net.Conn.
func (*capture) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// SetDeadline implements net.Conn.
func (*capture) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (*capture) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (*capture) SetWriteDeadline(time.Time) error { return nil }
