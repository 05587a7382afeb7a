package ws

import (
	"strings"
	"testing"
)

// BenchmarkNext inspects 64 KiB of frames that have arrived at once.
func BenchmarkNext(b *testing.B) {
	const size = 64 << 10
	f := func(name string, o Opcode, frame int, letters string, masked, utf8 bool) {
		b.Run(name, func(b *testing.B) {
			s := &stream{masked: masked}
			payload := strings.Repeat(letters, frame/len(letters))
			frames := 0
			for len(s.b)+frame < size || frames == 0 {
				s.frame(fin, o, payload)
				frames++
			}
			r := &Rules{Masked: masked, UTF8: utf8, MaxMessage: 1 << 20}
			b.SetBytes(int64(len(s.b)))
			b.ReportAllocs()
			for b.Loop() {
				var in Inspector
				for p := s.b; len(p) > 0; {
					piece, err := in.Next(p, r)
					if err != nil || piece.N == 0 {
						b.Fatal(piece, err)
					}
					p = p[piece.N:]
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frames), "ns/frame")
		})
	}
	f("one frame, binary", Binary, size, "x", true, true)
	f("one frame, ASCII", Text, size, "x", false, true)
	f("one frame, ASCII, masked", Text, size, "x", true, true)
	f("one frame, Chinese, masked", Text, size, "日本語", true, true)
	f("one frame, mixed, masked", Text, size, "Müller and Söhne ", true, true)
	f("200 bytes, unchecked", Text, 200, "x", true, false)
	f("200 bytes, ASCII, masked", Text, 200, "x", true, true)
	f("pings", Ping, 8, "x", true, true)
}
