package tlsterm

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// buffers is where a tls.Conn keeps its input, as offsets of fields that are not exported.
type buffers struct {
	rawInput, input, hand uintptr
	known                 bool
}

// layout is that of the crypto/tls in this build.
var layout = layoutOf(reflect.TypeFor[tls.Conn]())

// layoutOf finds the fields by name and exact type. Anything else than expected, as
// another Go release may bring, makes all of it unknown.
func layoutOf(conn reflect.Type) buffers {
	known := true
	offset := func(name string, want reflect.Type) uintptr {
		f, ok := conn.FieldByName(name)
		known = known && ok && len(f.Index) == 1 && f.Type == want
		return f.Offset
	}
	return buffers{
		rawInput: offset("rawInput", reflect.TypeFor[bytes.Buffer]()),
		input:    offset("input", reflect.TypeFor[bytes.Reader]()),
		hand:     offset("hand", reflect.TypeFor[bytes.Buffer]()),
		known:    known,
	}
}

// Trimmable reports whether Trim knows the crypto/tls of this build. If not, an idle
// connection costs more memory, and nothing else changes.
func Trimmable() bool { return layout.known }

// Trim gives back the input buffers of a connection that nobody uses at the moment: no
// Read, Write, Handshake or Close is under way, nor starts meanwhile. It is for
// connections that begin to be idle; the next record allocates the buffers again.
//
// crypto/tls keeps them for the life of a connection, at the largest size they ever had:
// rawInput, which records are read into; input, the plaintext of the last record, which lies
// in rawInput's memory and pins it even when all of it was read; and hand, in which handshake
// messages are put together, with 1.5 KiB left over from a post-quantum ClientHello.
//
// It is sound, since a buffer is replaced only when it is empty, and the zero value of
// bytes.Buffer and bytes.Reader is an empty one, with which every connection begins. crypto/tls
// takes no notice of what is behind the unread part, and keeps no other reference: plaintext
// is copied out by Read, and messages of the handshake are cloned before they are parsed. A record of
// which a part has come, or plaintext that is not read yet, is not empty and stays.
//
// Measured with Go 1.26, heap for each of 1,000 idle server connections after one request
// (TestTrimSaves), without the net.Conn below:
//
//	                                        before  after
//	TLS 1.3, X25519MLKEM768, 100 B           6,620  3,040
//	TLS 1.3, X25519, 100 B                   3,880  3,020
//	TLS 1.3, X25519, a record of 16 KiB     21,740  3,020
//	TLS 1.2, X25519, 100 B                   4,000  3,200
//
// What is left of TLS 1.3 is needed: the tls.Conn itself (896 B), the two states of AES-128-GCM
// (896 B each, round keys and tables), the traffic secrets for a KeyUpdate. All that could go
// besides is some 150 B for Conn.ConnectionState's ExportKeyingMaterial, which would panic without: not
// worth it. On the sending side nothing is kept; record buffers are pooled.
func Trim(c *tls.Conn) { layout.trim(c) }

func (b *buffers) trim(c *tls.Conn) {
	if !b.known {
		return
	}
	rawInput, input, hand := b.of(c)
	// Only together: either alone would keep the memory.
	if rawInput.Len() == 0 && input.Len() == 0 {
		*rawInput, *input = bytes.Buffer{}, bytes.Reader{}
	}
	if hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}

// Pending reports whether a part of a record or of a handshake message has come, of which
// Read says nothing: the rest is on its way. False if this build's crypto/tls is not known. Nobody
// may use c meanwhile.
func Pending(c *tls.Conn) bool {
	if !layout.known {
		return false
	}
	rawInput, _, hand := layout.of(c)
	return rawInput.Len() > 0 || hand.Len() > 0
}

// of returns c's buffers. The layout must be known.
func (b *buffers) of(c *tls.Conn) (rawInput *bytes.Buffer, input *bytes.Reader, hand *bytes.Buffer) {
	p := unsafe.Pointer(c)
	return (*bytes.Buffer)(unsafe.Add(p, b.rawInput)),
		(*bytes.Reader)(unsafe.Add(p, b.input)),
		(*bytes.Buffer)(unsafe.Add(p, b.hand))
}
