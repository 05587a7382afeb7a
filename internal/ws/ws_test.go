package ws

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"tickgate/internal/reason"
)

// both runs a case in each direction with all checks on, and says what came of it.
func both(t *testing.T, name string, build func(*stream), want error, change ...func(*Rules)) {
	t.Helper()
	for _, masked := range []bool{true, false} {
		r := Rules{Masked: masked, UTF8: true}
		for _, c := range change {
			c(&r)
		}
		s := &stream{masked: masked}
		build(s)
		ref := agree(t, s.b, &r)
		got, err := inspect(s.b, &r, single, ref.boundary)
		if err != nil || !errors.Is(got.err, want) {
			t.Errorf("%s, masked %t: %v, %v, want %v", name, masked, got.err, err, want)
		}
	}
}

func deflate(r *Rules) { r.Deflate = true }

// TestCases goes through the sections of the Autobahn test suite that concern one
// direction. Every case is inspected whole, byte by byte and in random pieces.
func TestCases(t *testing.T) {
	f := func(name string, want error, build func(*stream), change ...func(*Rules)) {
		t.Helper()
		both(t, name, build, want, change...)
	}
	long := strings.Repeat

	// 1: sizes of text and binary messages.
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536} {
		f("1.1 text", nil, func(s *stream) { s.frame(fin, Text, long("*", n)) })
		f("1.2 binary", nil, func(s *stream) { s.frame(fin, Binary, long("\xfe", n)) })
	}

	// 2: pings and pongs.
	for _, n := range []int{0, 1, 125} {
		f("2.1 ping", nil, func(s *stream) { s.frame(fin, Ping, long("\xfe", n)) })
		f("2.7 pong", nil, func(s *stream) { s.frame(fin, Pong, long("\xfe", n)) })
	}
	f("2.5 ping of 126", reason.BadFrame, func(s *stream) { s.frame(fin, Ping, long("x", 126)) })
	f("2.10 ten pings", nil, func(s *stream) {
		for range 10 {
			s.frame(fin, Ping, "payload")
		}
	})

	// 3: reserved bits.
	for _, bit := range []byte{rsv1, rsv2, rsv3, rsv1 | rsv2 | rsv3} {
		for _, o := range []Opcode{Text, Binary, Close, Ping, Pong} {
			f("3 reserved bits", reason.BadFrame, func(s *stream) { s.frame(fin|bit, o, "") })
		}
	}
	f("3.2 after a good message", reason.BadFrame, func(s *stream) { s.frame(fin, Text, "Hello").frame(fin|rsv2, Text, "Hello").frame(fin, Ping, "") })
	f("RSV1 negotiated", nil, func(s *stream) { s.frame(fin|rsv1, Text, "\xff\xfe").frame(fin|rsv1, Binary, "\xff") }, deflate)
	f("RSV1 negotiated, not used", nil, func(s *stream) { s.frame(fin, Text, "Hello") }, deflate)
	f("RSV1 negotiated, not used, not UTF-8", reason.BadText, func(s *stream) { s.frame(fin|rsv1, Text, "\xff").frame(fin, Text, "\xff") }, deflate)
	f("RSV1 of a fragmented message", nil, func(s *stream) { s.frame(rsv1, Text, "\xff").frame(fin, Continuation, "\xff") }, deflate)
	f("RSV1 on a continuation", reason.BadFrame, func(s *stream) { s.frame(rsv1, Text, "\xff").frame(fin|rsv1, Continuation, "\xff") }, deflate)
	f("RSV1 on a control frame", reason.BadFrame, func(s *stream) { s.frame(fin|rsv1, Ping, "") }, deflate)
	f("RSV2 with deflate", reason.BadFrame, func(s *stream) { s.frame(fin|rsv2, Text, "") }, deflate)
	f("RSV3 with deflate", reason.BadFrame, func(s *stream) { s.frame(fin|rsv1|rsv3, Text, "") }, deflate)

	// 4: reserved opcodes.
	for _, o := range []Opcode{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		f("4 reserved opcode", reason.BadFrame, func(s *stream) { s.frame(fin, o, "") })
		f("4 reserved opcode within a message", reason.BadFrame, func(s *stream) { s.frame(0, Text, "a").frame(fin, o, "x") })
	}

	// 5: fragmentation.
	f("5.1 fragmented ping", reason.BadFrame, func(s *stream) { s.frame(0, Ping, "a").frame(fin, Continuation, "b") })
	f("5.2 fragmented pong", reason.BadFrame, func(s *stream) { s.frame(0, Pong, "a") })
	f("fragmented close", reason.BadFrame, func(s *stream) { s.frame(0, Close, "") })
	f("5.3 two fragments", nil, func(s *stream) { s.frame(0, Text, "one").frame(fin, Continuation, "two") })
	f("5.6 ping between", nil, func(s *stream) { s.frame(0, Text, "one").frame(fin, Ping, "p").frame(fin, Continuation, "two") })
	f("close between", nil, func(s *stream) { s.frame(0, Text, "one").frame(fin, Close, "\x03\xe8") })
	f("5.9 continuation of nothing", reason.BadFrame, func(s *stream) { s.frame(fin, Continuation, "x").frame(fin, Text, "Hello") })
	f("5.12 the same, not final", reason.BadFrame, func(s *stream) { s.frame(0, Continuation, "x").frame(fin, Text, "Hello") })
	f("5.15 continuation after a whole message", reason.BadFrame, func(s *stream) {
		s.frame(0, Text, "a").frame(fin, Continuation, "b").frame(0, Continuation, "c").frame(fin, Text, "d")
	})
	f("5.18 text within a text", reason.BadFrame, func(s *stream) { s.frame(0, Text, "a").frame(fin, Text, "b") })
	f("binary within a text", reason.BadFrame, func(s *stream) { s.frame(0, Text, "a").frame(fin, Ping, "").frame(0, Binary, "b") })
	f("5.19 many fragments and pings", nil, func(s *stream) {
		s.frame(0, Text, "1").frame(0, Continuation, "2").frame(fin, Ping, "p").frame(0, Continuation, "").frame(0, Continuation, "4").frame(fin, Ping, "q").frame(fin, Continuation, "5")
	})
	f("empty fragments", nil, func(s *stream) { s.frame(0, Text, "").frame(0, Continuation, "").frame(fin, Continuation, "") })

	// 7: closing.
	f("7.1 after a close", nil, func(s *stream) { s.frame(fin, Close, "\x03\xe8").frame(fin, Text, "x").frame(fin, Close, "\x03\xe8") })
	f("7.3.1 empty", nil, func(s *stream) { s.frame(fin, Close, "") })
	f("7.3.2 one byte", reason.BadFrame, func(s *stream) { s.frame(fin, Close, "a") })
	f("7.3.3 code", nil, func(s *stream) { s.frame(fin, Close, "\x03\xe8") })
	f("7.3.4 text", nil, func(s *stream) { s.frame(fin, Close, "\x03\xe8Hello World!") })
	f("7.3.5 longest text", nil, func(s *stream) { s.frame(fin, Close, "\x03\xe8"+long("*", 123)) })
	f("7.3.6 too long", reason.BadFrame, func(s *stream) { s.frame(fin, Close, "\x03\xe8"+long("*", 124)) })
	f("7.5.1 text not UTF-8", reason.BadText, func(s *stream) { s.frame(fin, Close, "\x03\xe8\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited") })
	f("text cut within a character", reason.BadText, func(s *stream) { s.frame(fin, Close, "\x03\xe8\xce") })

	// 9: large messages, and limits.
	f("9.1 one MiB", nil, func(s *stream) { s.frame(fin, Text, long("é*", 1<<19)) })
	f("9.3 in fragments", nil, func(s *stream) {
		s.frame(0, Binary, "")
		for range 64 {
			s.frame(0, Continuation, long("\xfe", 1024))
		}
		s.frame(fin, Continuation, "")
	})
}

// TestCloseCodes is sections 7.7, 7.9 and 7.13 of the Autobahn test suite.
func TestCloseCodes(t *testing.T) {
	f := func(want error, codes ...uint16) {
		t.Helper()
		for _, code := range codes {
			both(t, "code", func(s *stream) { s.frame(fin, Close, string([]byte{byte(code >> 8), byte(code)})+"x") }, want)
		}
	}
	f(nil, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
	f(reason.BadFrame, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
}

func TestHeaders(t *testing.T) {
	f := func(name string, masked bool, want error, b ...byte) {
		t.Helper()
		r := &Rules{Masked: masked, UTF8: true}
		var in Inspector
		if _, err := in.Next(b, r); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		agree(t, b, r)
	}
	f("unmasked from a server", false, nil, 0x81, 0x01, 'a')
	f("masked from a server", false, reason.BadFrame, 0x81, 0x81, 1, 2, 3, 4, 'a')
	f("unmasked from a client", true, reason.BadFrame, 0x81, 0x01, 'a')
	f("masked from a client", true, nil, 0x81, 0x81, 1, 2, 3, 4, 'a'^1)
	f("an unmasked ping from a client", true, reason.BadFrame, 0x89, 0x00)
	f("16 bits for 125", false, reason.BadFrame, 0x82, 126, 0, 125)
	f("16 bits for 126", false, nil, 0x82, 126, 0, 126)
	f("64 bits for 65535", false, reason.BadFrame, 0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff)
	f("64 bits for 65536", false, nil, 0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0)
	f("the longest", false, nil, 0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f("the highest bit", false, reason.BadFrame, 0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0)
	f("16 bits on a ping", false, reason.BadFrame, 0x89, 126, 0, 126)
	// As soon as it can be told.
	f("a reserved bit, one byte", false, reason.BadFrame, 0x91)
	f("a reserved opcode, one byte", false, reason.BadFrame, 0x83)
	f("a continuation of nothing, one byte", false, reason.BadFrame, 0x80)
	f("a mask, two bytes", false, reason.BadFrame, 0x82, 0xfe)
	f("a long ping, two bytes", false, reason.BadFrame, 0x89, 127)
	f("a close of one byte, two bytes", false, reason.BadFrame, 0x88, 1)
	f("a long length, before the key", true, reason.BadFrame, 0x82, 0xfe, 0, 1)
}

func TestMaxMessage(t *testing.T) {
	f := func(max int64, want error, build func(*stream)) {
		t.Helper()
		both(t, "max", build, want, func(r *Rules) { r.MaxMessage = max })
	}
	f(0, nil, func(s *stream) { s.frame(fin, Text, strings.Repeat("x", 70_000)) })
	f(5, nil, func(s *stream) { s.frame(fin, Text, "12345") })
	f(4, reason.MessageTooBig, func(s *stream) { s.frame(fin, Text, "12345") })
	f(4, reason.MessageTooBig, func(s *stream) { s.frame(fin, Binary, "12345") })
	f(5, nil, func(s *stream) { s.frame(fin, Text, "12345").frame(fin, Text, "12345") })
	f(5, nil, func(s *stream) { s.frame(0, Text, "123").frame(fin, Ping, "1234567").frame(fin, Continuation, "45") })
	f(5, reason.MessageTooBig, func(s *stream) { s.frame(0, Text, "123").frame(0, Continuation, "45").frame(fin, Continuation, "6") })

	// Before any payload has come, and without overflow.
	var in Inspector
	r := &Rules{MaxMessage: 1 << 62}
	if _, err := in.Next([]byte{0x02, 1, 'a'}, r); err != nil {
		t.Fatal(err)
	}
	_, err := in.Next([]byte{0x80, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, r)
	if !errors.Is(err, reason.MessageTooBig) {
		t.Errorf("a sum of more than 63 bits: %v", err)
	}
}

// TestText is section 6 of the Autobahn test suite. Where the text is wrong, at is the
// offset of the byte that makes it so, and the inspector must not take that byte.
func TestText(t *testing.T) {
	f := func(text string, at int) {
		t.Helper()
		var want error
		if at >= 0 {
			want = reason.BadText
		}
		// In one frame, and in frames of one to five bytes.
		both(t, text, func(s *stream) { s.frame(fin, Text, text) }, want)
		for n := 1; n <= 5; n++ {
			both(t, text, func(s *stream) {
				s.frame(0, Text, "")
				for rest := text; len(rest) > 0; rest = rest[min(n, len(rest)):] {
					s.frame(0, Continuation, rest[:min(n, len(rest))])
				}
				s.frame(fin, Continuation, "")
			}, want)
		}
		if at < 0 || at == len(text) {
			return
		}
		// As fast as possible: the message never ends.
		for _, masked := range []bool{false, true} {
			if got := firstBad(t, text, masked); got != at {
				t.Errorf("%q, masked %t: found at %d, want %d", text, masked, got, at)
			}
		}
	}
	good := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			f(text, -1)
			f("0123456"+text+text, -1)
		}
	}
	good("", "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff",
		"\ud7ff", "\ue000", "\ufffd", "\ufffe", "\U0001fffe", "\u2028", "日本語テキスト", "😀😁😂", strings.Repeat("a", 23)+"é")
	f("\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", 12) // 6.3.1
	f("\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited", 12)
	f("\xf8\x88\x80\x80\x80", 0) // 6.8: five and six bytes
	f("\xfc\x84\x80\x80\x80\x80", 0)
	f("\xf7\xbf\xbf\xbf", 0)
	f("\xf4\x90\x80\x80", 1) // over U+10FFFF
	f("\x80", 0)             // 6.12: continuation bytes alone
	f("a\xbf", 1)
	f("\xc0\xaf", 0) // 6.15: overlong
	f("\xc1\xbf", 0)
	f("\xe0\x80\xaf", 1)
	f("\xe0\x9f\xbf", 1)
	f("\xf0\x80\x80\xaf", 1)
	f("\xf0\x8f\xbf\xbf", 1)
	f("\xed\xa0\x80", 1) // 6.20: surrogates
	f("\xed\xbf\xbf", 1)
	f("\xfe", 0)
	f("\xff", 0)
	f("\xe2\x28\xa1", 1)
	f("\xe2\x82\x28", 2)
	f("01234567\xe2\x8201234567", 10)
	f("012345\xe2\x8201234567\xac", 8) // eight ASCII characters in a row, within another
	// 6.14: cut short; only the end of the message tells.
	f("\xc2", 1)
	f("\xe1\xbd", 2)
	f("\xf0\x9f\x98", 3)
	f("0123456789abcdef\xf0", 17)
}

// firstBad returns the offset in text at which a byte-wise inspection fails.
func firstBad(t *testing.T, text string, masked bool) int {
	t.Helper()
	s := &stream{masked: masked}
	s.frame(0, Text, text)
	head := len(s.b) - len(text)
	var in Inspector
	r := &Rules{Masked: masked, UTF8: true}
	if p, err := in.Next(s.b[:head], r); err != nil || p.N != head {
		t.Fatal(p, err)
	}
	for i := range len(text) {
		if _, err := in.Next(s.b[head+i:head+i+1], r); err != nil {
			return i
		}
	}
	return -1
}

// TestTextUnchecked lets anything pass.
func TestTextUnchecked(t *testing.T) {
	both(t, "unchecked", func(s *stream) { s.frame(fin, Text, "\xff\xfe") }, nil, func(r *Rules) { r.UTF8 = false })
	both(t, "binary", func(s *stream) { s.frame(fin, Binary, "\xff\xfe") }, nil)
	both(t, "a good text after a cut binary", func(s *stream) { s.frame(fin, Binary, "\xe2").frame(fin, Text, "a") }, nil)
}

// TestPiecesSteps follows the pieces of one stream.
func TestPiecesSteps(t *testing.T) {
	var in Inspector
	r := &Rules{Masked: true, UTF8: true}
	s := &stream{masked: true}
	s.frame(0, Text, "Hello").frame(fin, Ping, "hi").frame(fin, Continuation, "").frame(fin, Close, "\x0f\xa0bye").frame(fin, Close, "")
	b := s.b
	next := func(step, give int, want Piece, boundary, mid bool) {
		t.Helper()
		got, err := in.Next(b[:give], r)
		if err != nil || got != want {
			t.Fatalf("step %d: %+v, %v, want %+v", step, got, err, want)
		}
		if in.AtBoundary() != boundary || in.MidMessage() != mid {
			t.Fatalf("step %d: boundary %t, mid %t, want %t, %t", step, in.AtBoundary(), in.MidMessage(), boundary, mid)
		}
		b = b[got.N:]
	}
	next(1, 0, Piece{}, true, false)
	next(2, 1, Piece{}, true, false)
	next(3, 5, Piece{}, true, false)
	// The header alone, then the payload in two.
	next(4, 6, Piece{N: 6, Kind: Data, Opcode: Text, Start: true}, false, false)
	next(5, 2, Piece{N: 2, Kind: Data, Opcode: Text}, false, false)
	// No further than the frame.
	next(6, 9, Piece{N: 3, Kind: Data, Opcode: Text}, true, true)
	next(7, 7, Piece{}, true, true)
	if got := string(in.PayloadOf([]byte(">"), b[:8])); got != ">hi" {
		t.Errorf("PayloadOf = %q", got)
	}
	next(8, len(b), Piece{N: 8, Kind: Control, Opcode: Ping}, true, true)
	next(9, len(b), Piece{N: 6, Kind: Data, Opcode: Text, End: true, Empty: true}, true, false)
	next(10, len(b), Piece{N: 11, Kind: Control, Opcode: Close, Code: 4000}, true, false)
	next(11, len(b), Piece{N: 6, Kind: Control, Opcode: Close, Code: NoStatus}, true, false)
	next(12, 0, Piece{}, true, false)
}

// TestInspectorIsSmall is a promise: two of them stand in each tunnel's state.
func TestInspectorIsSmall(t *testing.T) {
	if size := reflect.TypeFor[Inspector]().Size(); size > 64 {
		t.Errorf("%d bytes, want at most 64", size)
	}
	for f := range reflect.TypeFor[Inspector]().NumField() {
		field := reflect.TypeFor[Inspector]().Field(f)
		if k := field.Type.Kind(); k < reflect.Bool || k > reflect.Float64 {
			t.Errorf("%s is a %s, and may hold a pointer", field.Name, k)
		}
	}
}

func TestAllocs(t *testing.T) {
	f := func(what string, call func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, call); n != 0 {
			t.Errorf("%s: %v allocations, want 0", what, n)
		}
	}
	r := &Rules{Masked: true, UTF8: true, MaxMessage: 1000}
	s := &stream{masked: true}
	s.frame(0, Text, "Hällo").frame(fin, Ping, "hi").frame(fin, Continuation, strings.Repeat("é", 100)).frame(fin, Close, "\x0f\xa0bye")
	f("a stream", func() {
		var in Inspector
		for b := s.b; len(b) > 0; {
			p, err := in.Next(b, r)
			if err != nil || p.N == 0 {
				t.Fatal(p, err)
			}
			b = b[p.N:]
		}
	})
	f("an error", func() {
		var in Inspector
		if _, err := in.Next([]byte{0xff}, r); err == nil {
			t.Fatal("no error")
		}
	})
	buf, mask, payload := make([]byte, 0, 512), &[4]byte{1, 2, 3, 4}, []byte("12345678")
	f("control frames", func() {
		b := AppendPing(buf, payload, mask)
		b = AppendPong(b, payload, nil)
		b = AppendClose(b, GoingAway, "going away", mask)
		_ = PayloadOf(b, b)
	})
}
