package ws

import (
	"bytes"
	"strings"
	"testing"

	gobwas "github.com/gobwas/ws"

	"tickgate/internal/reason"
)

// TestAppend reads what the package writes with gobwas/ws and with itself.
func TestAppend(t *testing.T) {
	f := func(build func(dst []byte, mask *[4]byte) []byte, opcode Opcode, want string) {
		t.Helper()
		for _, mask := range []*[4]byte{nil, {0x12, 0x34, 0xfe, 0x80}} {
			b := build([]byte("before"), mask)
			b, ok := bytes.CutPrefix(b, []byte("before"))
			read := bytes.NewReader(b)
			h, err := gobwas.ReadHeader(read)
			if !ok || err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if h.Masked != (mask != nil) || mask != nil && h.Mask != *mask {
				t.Errorf("mask %x, want %v", h.Mask, mask)
			}
			payload := bytes.Clone(b[len(b)-read.Len():])
			if h.Masked {
				gobwas.Cipher(payload, h.Mask, 0)
			}
			if !h.Fin || Opcode(h.OpCode) != opcode || h.Length != int64(len(want)) || string(payload) != want {
				t.Errorf("%v %q, want %v %q", h, payload, opcode, want)
			}
			var in Inspector
			p, err := in.Next(b, &Rules{Masked: mask != nil, UTF8: true})
			if err != nil || p.N != len(b) || p.Opcode != opcode {
				t.Errorf("%x: %+v, %v", b, p, err)
			}
			if got := PayloadOf(nil, b); string(got) != want {
				t.Errorf("PayloadOf = %q, want %q", got, want)
			}
		}
	}
	ping := func(payload string) func([]byte, *[4]byte) []byte {
		return func(dst []byte, mask *[4]byte) []byte { return AppendPing(dst, []byte(payload), mask) }
	}
	pong := func(payload string) func([]byte, *[4]byte) []byte {
		return func(dst []byte, mask *[4]byte) []byte { return AppendPong(dst, []byte(payload), mask) }
	}
	closing := func(code uint16, text string) func([]byte, *[4]byte) []byte {
		return func(dst []byte, mask *[4]byte) []byte { return AppendClose(dst, code, text, mask) }
	}
	f(ping(""), Ping, "")
	f(ping("12345"), Ping, "12345")
	f(pong(strings.Repeat("x", 125)), Pong, strings.Repeat("x", 125))
	f(closing(NoStatus, "ignored"), Close, "")
	f(closing(Normal, ""), Close, "\x03\xe8")
	f(closing(ServiceRestart, "restart"), Close, "\x03\xf4restart")
	f(closing(4999, ""), Close, "\x13\x87")
	f(closing(GoingAway, strings.Repeat("x", 200)), Close, "\x03\xe9"+strings.Repeat("x", 123))
	f(closing(GoingAway, strings.Repeat("€", 100)), Close, "\x03\xe9"+strings.Repeat("€", 41))
	f(closing(GoingAway, "x"+strings.Repeat("😀", 100)), Close, "\x03\xe9x"+strings.Repeat("😀", 30))
}

func TestBugs(t *testing.T) {
	f := func(what string, call func()) {
		t.Helper()
		defer func() {
			if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "BUG:") {
				t.Errorf("%s: panic %q", what, text)
			}
		}()
		call()
	}
	f("a long ping", func() { AppendPing(nil, make([]byte, 126), nil) })
	f("a code for APIs only", func() { AppendClose(nil, 1006, "", nil) })
	f("no frame", func() { PayloadOf(nil, nil) })
}

func TestCloseCode(t *testing.T) {
	want := map[reason.Reason]uint16{reason.BadFrame: 1002, reason.BadText: 1007, reason.TooFast: 1008, reason.IdentityRevoked: 1008, reason.IdentityExpired: 1008, reason.MessageTooBig: 1009}
	for _, r := range reason.All() {
		code, ok := want[r]
		if !ok {
			code = 1001
		}
		if got := CloseCode(r); got != code {
			t.Errorf("CloseCode(%v) = %d, want %d", r, got, code)
		}
	}
}

func TestOpcodes(t *testing.T) {
	f := func(o Opcode, word string, control bool) {
		t.Helper()
		if o.String() != word || o.IsControl() != control {
			t.Errorf("%d: %q, %t, want %q, %t", o, o, o.IsControl(), word, control)
		}
	}
	f(Continuation, "continuation", false)
	f(Text, "text", false)
	f(Binary, "binary", false)
	f(Close, "close", true)
	f(Ping, "ping", true)
	f(Pong, "pong", true)
	f(3, "reserved", false)
}
