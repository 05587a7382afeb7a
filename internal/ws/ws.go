// Package ws inspects WebSocket connections (RFC 6455) for a gateway that passes their
// bytes on unchanged. An Inspector follows one direction of one connection, piece by
// piece as bytes arrive, and needs neither a buffer nor the message: it checks framing,
// size and UTF-8 and says where frames begin and end, so that the gateway knows when
// it may put a control frame of its own in between.
package ws

import (
	"tickgate/internal/reason"
)

// Opcode is what a frame is, by its number on the wire.
type Opcode uint8

// Opcodes of RFC 6455 section 11.8; all others are reserved.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

// IsControl reports whether the opcode is of the control frames' range.
func (o Opcode) IsControl() bool { return o&0x8 != 0 }

// String returns the opcode's name in lower case.
func (o Opcode) String() string {
	switch o {
	case Continuation:
		return "continuation"
	case Text:
		return "text"
	case Binary:
		return "binary"
	case Close:
		return "close"
	case Ping:
		return "ping"
	case Pong:
		return "pong"
	default:
		return "reserved"
	}
}

// maxControl is the longest payload of a control frame (RFC 6455 section 5.5).
const maxControl = 125

// maxHeader is the longest frame header: two bytes, a 64-bit length, a masking key.
const maxHeader = 2 + 8 + 4

// MaxHeld is the most bytes that a caller of Inspector.Next ever has to keep until more
// arrive: less than a header, or less than a control frame.
const MaxHeld = maxHeader + maxControl

// Rules say what an Inspector lets pass. They are the same for many connections and
// must not change while one is inspected.
type Rules struct {
	// Masked: the sender must mask, as clients must. Otherwise it must not, as servers
	// must not (RFC 6455 section 5.1).
	Masked bool
	// MaxMessage is the most payload bytes of one message, over all of its frames, as sent
	// (compressed, if it is). 0: no limit. It is compared when a frame's header has come,
	// before any of its payload.
	MaxMessage int64
	// UTF8: text messages are checked, except compressed ones.
	UTF8 bool
	// Deflate: permessage-deflate (RFC 7692) was negotiated, so the first frame of a
	// message may carry RSV1.
	Deflate bool
}

// Kind says what the bytes given to Inspector.Next begin with.
type Kind uint8

const (
	// More: an incomplete header or control frame. Nothing is consumed; call again with the
	// same bytes and what follows them.
	More Kind = iota
	// Data: a part of one data frame: its header, payload, or both.
	Data
	// Control: one whole control frame.
	Control
)

// Piece is what Inspector.Next found at the beginning of the bytes.
type Piece struct {
	// N is how many bytes the piece has; 0 for More.
	N    int
	Kind Kind
	// Opcode is Text or Binary for Data, in continuation frames too, and the frame's own for
	// Control.
	Opcode Opcode
	// Start and End say that the first and the last byte of a message are in this piece.
	Start, End bool
	// Empty says that the piece is a whole frame without payload.
	Empty bool
	// Code is the status code of a Close frame, NoStatus if it has none.
	Code uint16
}

// Inspector follows one direction of a connection. The zero value stands before the
// first frame. It holds no pointers.
//
// What follows a Close frame is still inspected as before: a receiver ignores it
// (RFC 6455 section 5.5.1), and so may the gateway.
type Inspector struct {
	left    int64         // payload bytes of the current data frame that are still to come
	sum     int64         // payload bytes of the current message's frames so far
	key     uint32        // masking key, turned so that its lowest byte masks the next payload byte
	text    utf8State     // of the current text message
	message Opcode        // of the current message; Continuation if there is none
	final   bool          // the current frame is its message's last
	check   bool          // the current message is checked for UTF-8
	ended   reason.Reason // the error that Next returned; OK if none yet
}

// Next looks at p, the next bytes of the stream, and says what they begin with and how
// many of them belong to it. It looks no further than one frame: call it again with
// p[N:] while p has bytes left.
//
// An error is a reason.Reason and the end: BadFrame (close code 1002), BadText (1007) or
// MessageTooBig (1009). Nothing of p is to be passed on then, and every further call
// returns the same. Header errors are found with the byte that makes them, text errors
// with the piece that has the byte.
func (in *Inspector) Next(p []byte, r *Rules) (Piece, error) {
	if in.ended != reason.OK {
		return Piece{}, in.ended
	}
	if len(p) == 0 {
		return Piece{}, nil
	}
	if in.left > 0 {
		return in.payload(p, 0, false)
	}
	var h header
	ok, why := h.parse(p, r)
	if why == reason.OK {
		why = in.order(h.opcode)
	}
	switch {
	case why != reason.OK:
		return in.fail(why)
	case !ok:
		return Piece{}, nil
	case h.opcode.IsControl():
		return in.control(p, &h)
	default:
		return in.data(p, &h, r)
	}
}

// AtBoundary reports that what was passed on so far ends between two frames: a control
// frame may be sent now. It stays true to what was passed on after an error as well.
func (in *Inspector) AtBoundary() bool { return in.left == 0 }

// MidMessage reports that what was passed on so far ends between two frames of one
// message: control frames may be sent now, another message may not.
func (in *Inspector) MidMessage() bool { return in.left == 0 && in.message != Continuation }

// PayloadOf is the function PayloadOf.
func (in *Inspector) PayloadOf(dst, control []byte) []byte { return PayloadOf(dst, control) }

// fail keeps the reason for all further calls.
func (in *Inspector) fail(why reason.Reason) (Piece, error) {
	in.ended = why
	return Piece{}, why
}

// order checks a frame's opcode against the message that is under way (RFC 6455 section
// 5.4).
func (in *Inspector) order(o Opcode) reason.Reason {
	if !o.IsControl() && (o == Continuation) != (in.message != Continuation) {
		return reason.BadFrame
	}
	return reason.OK
}

// control takes a whole control frame, or waits for its rest.
func (in *Inspector) control(p []byte, h *header) (Piece, error) {
	n := h.size + int(h.length)
	if len(p) < n {
		return Piece{}, nil
	}
	piece := Piece{N: n, Kind: Control, Opcode: h.opcode}
	if h.opcode == Close {
		var room [maxControl]byte
		code, why := closeStatus(unmask(room[:0], p[h.size:n], h.key))
		if why != reason.OK {
			return in.fail(why)
		}
		piece.Code = code
	}
	return piece, nil
}

// data begins a data frame.
func (in *Inspector) data(p []byte, h *header, r *Rules) (Piece, error) {
	start := h.opcode != Continuation
	sum := h.length
	if !start {
		sum += in.sum
	}
	// Two lengths of 63 bits can overflow, which no real stream reaches; what is over every
	// limit is over MaxMessage, and without that there is nothing to compare.
	if r.MaxMessage > 0 && (sum < 0 || sum > r.MaxMessage) {
		return in.fail(reason.MessageTooBig)
	}
	if start {
		in.message = h.opcode
		in.check = r.UTF8 && h.opcode == Text && !h.rsv1
		in.text = utf8Accept
	}
	in.sum, in.left, in.key, in.final = sum, h.length, h.key, h.fin
	return in.payload(p, h.size, start)
}

// payload takes what p has of the current data frame after head bytes of header. If head
// is 0, earlier pieces of the frame were passed on.
func (in *Inspector) payload(p []byte, head int, start bool) (Piece, error) {
	n := int(min(int64(len(p)-head), in.left))
	last := in.final && int64(n) == in.left
	if in.check {
		in.text = in.text.next(p[head:head+n], in.key)
		if in.text == utf8Reject || last && in.text != utf8Accept {
			in.takeBack(head > 0, start)
			return in.fail(reason.BadText)
		}
	}
	piece := Piece{N: head + n, Kind: Data, Opcode: in.message, Start: start, End: last, Empty: head > 0 && in.left == 0}
	in.key = turn(in.key, n)
	in.left -= int64(n)
	if last {
		in.message = Continuation
	}
	return piece, nil
}

// takeBack undoes the begin of a frame, and of a message, of which nothing will be passed
// on, so that AtBoundary and MidMessage tell where the receiver stands.
func (in *Inspector) takeBack(frame, message bool) {
	if frame {
		in.left = 0
	}
	if message {
		in.message = Continuation
	}
}
