package ws

import (
	"encoding/binary"
	"math/bits"

	"tickgate/internal/reason"
)

// Bits of a frame's first two bytes (RFC 6455 section 5.2).
const (
	bitFin    = 0x80
	bitRSV1   = 0x40
	bitsRSV23 = 0x30
	bitMask   = 0x80
	length16  = 126 // a 16-bit length follows
	length64  = 127 // a 64-bit length follows
)

// header is a parsed frame header.
type header struct {
	opcode Opcode
	fin    bool
	rsv1   bool
	key    uint32 // masking key, little endian; 0 without, which masks nothing
	length int64  // of the payload
	size   int    // bytes of the header itself
}

// parse reads the header that p begins with into a zero h and checks all that can be told
// from it alone, as early as it can be told. !ok: p ends within the header; then only the
// first byte's fields are set. p is not empty.
func (h *header) parse(p []byte, r *Rules) (ok bool, why reason.Reason) {
	h.opcode, h.fin, h.rsv1 = Opcode(p[0]&0x0f), p[0]&bitFin != 0, p[0]&bitRSV1 != 0
	if p[0]&bitsRSV23 != 0 || !h.possible(r) {
		return false, reason.BadFrame
	}
	if len(p) < 2 {
		return false, reason.OK
	}
	masked, short := p[1]&bitMask != 0, p[1]&^bitMask
	if masked != r.Masked || h.opcode.IsControl() && short > maxControl || h.opcode == Close && short == 1 {
		return false, reason.BadFrame
	}
	h.size = 2
	switch short {
	case length16:
		h.size += 2
	case length64:
		h.size += 8
	}
	if len(p) < h.size {
		return false, reason.OK
	}
	if h.length, ok = length(p, short); !ok {
		return false, reason.BadFrame
	}
	if masked {
		if len(p) < h.size+4 {
			return false, reason.OK
		}
		h.key = binary.LittleEndian.Uint32(p[h.size:])
		h.size += 4
	}
	return true, reason.OK
}

// possible checks the first byte's fields, except RSV2 and RSV3.
func (h *header) possible(r *Rules) bool {
	switch h.opcode {
	case Text, Binary:
		return !h.rsv1 || r.Deflate
	case Continuation: // RSV1 stands on the first frame of a message only (RFC 7692 section 6.1)
		return !h.rsv1
	case Close, Ping, Pong: // neither fragmented nor compressed
		return h.fin && !h.rsv1
	default:
		return false
	}
}

// length reads a payload length; !ok: it is not in its shortest form, or has the highest
// bit set (RFC 6455 section 5.2).
func length(p []byte, short byte) (n int64, ok bool) {
	switch short {
	case length16:
		v := binary.BigEndian.Uint16(p[2:])
		return int64(v), v >= length16
	case length64:
		v := int64(binary.BigEndian.Uint64(p[2:]))
		return v, v > 0xffff
	default:
		return int64(short), true
	}
}

// turn advances a masking key by n payload bytes.
func turn(key uint32, n int) uint32 { return bits.RotateLeft32(key, -8*(n&3)) }

// unmask appends p, unmasked.
func unmask(dst, p []byte, key uint32) []byte {
	for i, b := range p {
		dst = append(dst, b^byte(key>>(8*(i&3))))
	}
	return dst
}
