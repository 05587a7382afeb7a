package hello

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// Mutant returns bytes that are like the hello but for one to three changes: of its fields, with all lengths right
// again, or of the bytes of its record, with lengths that lie. Few of them are hellos that a server may accept. It
// is at least one byte long, and at most twice mostInRecord; it is the same for the same rng, as far as AppendFresh's copy
// is.
func (h *Hello) Mutant(rng *rand.Rand) []byte {
	fresh := Hello{raw: h.AppendFresh(nil, rng)}
	if err := fresh.parse(); err != nil {
		panic("BUG: " + err.Error())
	}
	p := fresh.body
	for range rng.IntN(3) {
		fieldChanges[rng.IntN(len(fieldChanges))](&p, rng)
	}
	raw := p.record()
	for range 1 + rng.IntN(2) {
		raw = byteChanges[rng.IntN(len(byteChanges))](raw, rng)
	}
	if len(raw) == 0 {
		return []byte{handshakeRecord}
	}
	return raw[:min(len(raw), 2*mostInRecord)]
}

// fieldChanges change what is said, in the right form.
var fieldChanges = []func(p *parts, rng *rand.Rand){
	func(p *parts, rng *rand.Rand) { p.version = random(2, rng) },
	func(p *parts, rng *rand.Rand) { p.session = random(rng.IntN(256), rng) }, // 32 at the most would be right
	func(p *parts, rng *rand.Rand) { p.ciphers = random(rng.IntN(300), rng) },
	func(p *parts, rng *rand.Rand) { p.compressions = random(rng.IntN(4), rng) },
	func(p *parts, _ *rand.Rand) { p.extensions = nil },
	func(p *parts, rng *rand.Rand) {
		rng.Shuffle(len(p.extensions), func(i, j int) {
			p.extensions[i], p.extensions[j] = p.extensions[j], p.extensions[i]
		})
	},
	func(p *parts, rng *rand.Rand) { // one twice
		if e := p.one(rng); e != nil {
			p.extensions = append(p.extensions, *e)
		}
	},
	func(p *parts, rng *rand.Rand) { // one is missing
		if n := len(p.extensions); n > 0 {
			at := rng.IntN(n)
			p.extensions = slices.Delete(p.extensions, at, at+1)
		}
	},
	func(p *parts, rng *rand.Rand) { // of another kind
		if e := p.one(rng); e != nil {
			e.kind = uint16(rng.IntN(60)) //nolint:gosec // below 60
		}
	},
	func(p *parts, rng *rand.Rand) { // with other bytes
		if e := p.one(rng); e != nil {
			e.body = random(len(e.body), rng)
		}
	},
	func(p *parts, rng *rand.Rand) { // cut off
		if e := p.one(rng); e != nil && len(e.body) > 0 {
			e.body = e.body[:rng.IntN(len(e.body))]
		}
	},
	func(p *parts, rng *rand.Rand) { // with more behind it
		if e := p.one(rng); e != nil {
			e.body = slices.Concat(e.body, random(1+rng.IntN(64), rng))
		}
	},
	func(p *parts, rng *rand.Rand) { // one bit of it
		if e := p.one(rng); e != nil && len(e.body) > 0 {
			e.body = slices.Clone(e.body)
			e.body[rng.IntN(len(e.body))] ^= 1 << rng.IntN(8)
		}
	},
	func(p *parts, rng *rand.Rand) { // many that nobody knows
		for range rng.IntN(500) {
			p.extensions = append(p.extensions, extension{uint16(rng.Uint32()), random(rng.IntN(16), rng)}) //nolint:gosec // any
		}
	},
}

// one returns one of the extensions, nil if there are none.
func (p *parts) one(rng *rand.Rand) *extension {
	if len(p.extensions) == 0 {
		return nil
	}
	return &p.extensions[rng.IntN(len(p.extensions))]
}

// byteChanges change the record, or what is around it.
var byteChanges = []func(raw []byte, rng *rand.Rand) []byte{
	func(raw []byte, _ *rand.Rand) []byte { return raw }, // as it is
	func(raw []byte, rng *rand.Rand) []byte { // some bits
		for range 1 + rng.IntN(8) {
			raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
		}
		return raw
	},
	func(raw []byte, rng *rand.Rand) []byte { // some bytes
		at := rng.IntN(len(raw))
		fill(raw[at:min(len(raw), at+1+rng.IntN(32))], rng)
		return raw
	},
	func(raw []byte, rng *rand.Rand) []byte { return raw[:rng.IntN(len(raw))] },
	func(raw []byte, rng *rand.Rand) []byte { // a piece twice
		from := rng.IntN(len(raw))
		to := from + rng.IntN(len(raw)-from+1)
		return slices.Concat(raw[:to], raw[from:])
	},
	func(raw []byte, rng *rand.Rand) []byte { // a piece less
		from := rng.IntN(len(raw))
		return append(raw[:from:from], raw[from+rng.IntN(len(raw)-from):]...)
	},
	func(raw []byte, rng *rand.Rand) []byte { // another number, which may be a length
		if at := rng.IntN(len(raw)); at+1 < len(raw) {
			binary.BigEndian.PutUint16(raw[at:], oddNumbers[rng.IntN(len(oddNumbers))])
		}
		return raw
	},
	func(raw []byte, rng *rand.Rand) []byte { // another length of the record
		return withNumber(raw, recordHeader-2, int(oddNumbers[rng.IntN(len(oddNumbers))]), 2)
	},
	func(raw []byte, rng *rand.Rand) []byte { // another length of the message, up to 16 MiB
		return withNumber(raw, recordHeader+1, rng.IntN(1<<24), messageHeader-1)
	},
	func(raw []byte, rng *rand.Rand) []byte { // another kind of record or message
		if at := []int{0, recordHeader}[rng.IntN(2)]; at < len(raw) {
			raw[at] = byte(rng.Uint32())
		}
		return raw
	},
	func(raw []byte, rng *rand.Rand) []byte { return fragments(raw, 1+rng.IntN(64)) },
	func(raw []byte, rng *rand.Rand) []byte { // records with nothing in them first
		return slices.Concat(slices.Repeat([]byte{byte(20 + rng.IntN(4)), 3, 3, 0, 0}, 1+rng.IntN(40)), raw)
	},
	func(raw []byte, _ *rand.Rand) []byte { return slices.Concat(raw, raw) },
	func(raw []byte, rng *rand.Rand) []byte { return slices.Concat(raw, random(1+rng.IntN(2000), rng)) },
	func(raw []byte, rng *rand.Rand) []byte { return random(1+rng.IntN(1000), rng) },
	func(raw []byte, _ *rand.Rand) []byte { return slices.Concat(raw, []byte{21, 3, 3, 0, 2, 1, 0}) }, // close_notify, as the next word
	func(raw []byte, _ *rand.Rand) []byte { return slices.Concat(raw, []byte{20, 3, 3, 0, 1, 1}) },    // change_cipher_spec
}

// oddNumbers are those at which parsers go wrong.
var oddNumbers = []uint16{0, 1, 2, 3, 0x7f, 0x80, 0xff, 0x100, 0x3fff, 0x4000, 0x4001, 0x4100, 0x4101, 0x7fff, 0x8000, 0xfffe, 0xffff}

// withNumber puts a number of some bytes into raw, if there is room.
func withNumber(raw []byte, at, n, size int) []byte {
	if at+size > len(raw) {
		return raw
	}
	putNumber(raw[at:at+size], n)
	return raw
}

// fragments has the content of the record in many small records, which is allowed.
func fragments(raw []byte, size int) (cut []byte) {
	if len(raw) < recordHeader {
		return raw
	}
	for piece := range slices.Chunk(raw[recordHeader:], size) {
		cut = append(cut, handshakeRecord, 3, 1, 0, byte(len(piece))) //nolint:gosec // at most 64
		cut = append(cut, piece...)
	}
	return cut
}

// random returns so many random bytes.
func random(n int, rng *rand.Rand) []byte {
	p := make([]byte, n)
	fill(p, rng)
	return p
}

// record puts the parts together again. Lengths that are too large for their field lose their upper bytes.
func (p *parts) record() []byte {
	var extensions []byte
	for _, e := range p.extensions {
		extensions = binary.BigEndian.AppendUint16(extensions, e.kind)
		extensions = appendVector(extensions, e.body, 2)
	}
	body := slices.Concat(p.version, p.random)
	body = appendVector(body, p.session, 1)
	body = appendVector(body, p.ciphers, 2)
	body = appendVector(body, p.compressions, 1)
	body = appendVector(body, extensions, 2)
	message := appendVector([]byte{clientHello}, body, messageHeader-1)
	return appendVector([]byte{handshakeRecord, 3, 1}, message, 2)
}

// appendVector appends bytes with their length before them, in size bytes.
func appendVector(to, p []byte, size int) []byte {
	at := len(to)
	to = append(to, make([]byte, size)...)
	putNumber(to[at:], len(p))
	return append(to, p...)
}

// putNumber fills p with a number.
func putNumber(p []byte, n int) {
	for i := range p {
		p[len(p)-1-i] = byte(n >> (8 * i)) //nolint:gosec // one byte of it
	}
}
