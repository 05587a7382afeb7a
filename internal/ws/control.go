package ws

import (
	"encoding/binary"
	"unicode/utf8"

	"tickgate/internal/reason"
)

// Status codes of Close frames that the gateway itself sends or reports (RFC 6455
// section 7.4.1 and the IANA registry).
const (
	Normal         uint16 = 1000
	GoingAway      uint16 = 1001
	ProtocolError  uint16 = 1002
	NoStatus       uint16 = 1005 // never on the wire: stands for a Close frame without a code
	InvalidText    uint16 = 1007
	PolicyError    uint16 = 1008
	TooBig         uint16 = 1009
	ServiceRestart uint16 = 1012
	lastRegistered uint16 = 1014
)

// maxCloseText is the room that the code leaves in a Close frame.
const maxCloseText = maxControl - 2

// CloseCode returns the status code that tells a peer why the gateway ends its
// connection: 1002, 1007, 1008 or 1009 if the peer is to blame (1008 also tells a backend of its client), otherwise 1001.
func CloseCode(r reason.Reason) uint16 {
	switch r {
	case reason.BadFrame:
		return ProtocolError
	case reason.BadText:
		return InvalidText
	case reason.TooFast, reason.IdentityRevoked, reason.IdentityExpired:
		return PolicyError
	case reason.MessageTooBig:
		return TooBig
	default:
		return GoingAway
	}
}

// closeStatus checks the unmasked payload of a Close frame, which does not have a length
// of 1, and returns its code.
func closeStatus(payload []byte) (uint16, reason.Reason) {
	if len(payload) == 0 {
		return NoStatus, reason.OK
	}
	code := binary.BigEndian.Uint16(payload)
	if !sendable(code) {
		return 0, reason.BadFrame
	}
	if !utf8.Valid(payload[2:]) {
		return 0, reason.BadText
	}
	return code, reason.OK
}

// sendable reports whether a code may be on the wire: those defined by RFC 6455 section
// 7.4.1, those registered since (1012 to 1014), and the ranges for libraries (3000) and
// private use (4000). 1004 is reserved, 1005, 1006 and 1015 are for APIs only, and 1016
// to 2999 are kept for revisions of the protocol.
func sendable(code uint16) bool {
	switch code {
	case 1004, 1005, 1006:
		return false
	}
	return code >= Normal && code <= lastRegistered || code >= 3000 && code <= 4999
}

// PayloadOf appends the unmasked payload of a whole control frame, as in a Piece of
// kind Control, to dst.
func PayloadOf(dst, control []byte) []byte {
	if len(control) < 2 {
		panic("BUG: ws: PayloadOf needs a whole control frame")
	}
	n, body, key := int(control[1]&^bitMask), control[2:], uint32(0)
	if control[1]&bitMask != 0 {
		key, body = binary.LittleEndian.Uint32(body), body[4:]
	}
	return unmask(dst, body[:n], key)
}

// AppendPing appends a Ping frame with a payload of at most 125 bytes to dst, masked with
// mask, or unmasked if it is nil. A client masks with a key that nobody can predict (RFC
// 6455 section 5.3).
func AppendPing(dst, payload []byte, mask *[4]byte) []byte {
	return appendControl(dst, Ping, payload, mask)
}

// AppendPong is AppendPing for a Pong frame.
func AppendPong(dst, payload []byte, mask *[4]byte) []byte {
	return appendControl(dst, Pong, payload, mask)
}

// AppendClose appends a Close frame to dst, masked as in AppendPing. NoStatus makes it one
// without code and text. A text over 123 bytes is cut at the end of a character.
func AppendClose(dst []byte, code uint16, text string, mask *[4]byte) []byte {
	if code == NoStatus {
		return appendControl(dst, Close, nil, mask)
	}
	if !sendable(code) {
		panic("BUG: ws: a close code that must not be sent")
	}
	var room [maxControl]byte
	payload := binary.BigEndian.AppendUint16(room[:0], code)
	return appendControl(dst, Close, append(payload, cut(text)...), mask)
}

// cut shortens a text to what fits into a Close frame.
func cut(text string) string {
	if len(text) <= maxCloseText {
		return text
	}
	n := maxCloseText
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

func appendControl(dst []byte, opcode Opcode, payload []byte, mask *[4]byte) []byte {
	if len(payload) > maxControl {
		panic("BUG: ws: a control frame holds at most 125 bytes")
	}
	dst = append(dst, bitFin|byte(opcode), byte(len(payload)))
	if mask == nil {
		return append(dst, payload...)
	}
	dst[len(dst)-1] |= bitMask
	dst = append(dst, mask[:]...)
	return unmask(dst, payload, binary.LittleEndian.Uint32(mask[:]))
}
