package proxy

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tickgate/config"
	"tickgate/internal/h1"
)

// compressor is what the libraries' writers have in common.
type compressor interface {
	io.Writer
	Reset(w io.Writer)
	Flush() error
	Close() error
}

// compression is a compiled config.Compression.
type compression struct {
	codings []*coding // best first
	types   [][]byte  // exact, or ending in "/" for a whole tree
	minSize int64
}

// coding is a content coding with a pool of its compressors, which are large.
type coding struct {
	name string
	pool sync.Pool
}

func compileCompression(c *config.Compression) *compression {
	if c == nil {
		return nil
	}
	out := &compression{minSize: int64(c.MinSize)}
	for _, name := range c.Encodings {
		cd := &coding{name: name}
		cd.pool.New = func() any { return newCompressor(name, c.Level) }
		out.codings = append(out.codings, cd)
	}
	for _, t := range c.Types {
		out.types = append(out.types, []byte(strings.TrimSuffix(t, "*")))
	}
	return out
}

func newCompressor(name, level string) compressor {
	i := map[string]int{"fastest": 0, "default": 1, "best": 2}[level]
	switch name {
	case "zstd":
		// One goroutine and a small window: a gateway holds many of these at once, and
		// browsers refuse windows above 8 MiB (RFC 8878 section 3.1.1.1.2).
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(256<<10), zstd.WithEncoderLevel([]zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression}[i]))
		if err != nil {
			panic("BUG: zstd options: " + err.Error())
		}
		return w
	case "br":
		return brotli.NewWriterLevel(nil, []int{1, 5, 9}[i])
	}
	w, err := gzip.NewWriterLevel(nil, []int{gzip.BestSpeed, gzip.DefaultCompression, gzip.BestCompression}[i])
	if err != nil {
		panic("BUG: gzip level: " + err.Error())
	}
	return w
}

// encoder compresses one response. Its output is chunked, or ends with the
// connection for an HTTP/1.0 client.
type encoder struct {
	coding   *coding
	w        compressor
	replaces h1.FieldSet
	out      framing
	x        *Exchange
	err      bool // the client failed
	etag     []byte
	stream   bool // flush after every read from the backend
}

// eligible reports whether the response may be compressed at all, and so varies by
// Accept-Encoding: a representation that is whole, of a listed type, not coded yet,
// and that the origin lets proxies transform (RFC 9110 section 7.7). The answer to
// HEAD varies as that to GET does.
func (x *Exchange) eligible(c *compression) bool {
	if x.res.Status == 204 || x.res.Status == 206 || x.res.Status == 304 || x.res.Has(h1.ContentEncoding) || x.res.Has(h1.ContentRange) {
		return false
	}
	if x.res.ContentLength >= 0 && x.res.ContentLength < c.minSize {
		return false
	}
	return c.takes(x.res.Get(h1.ContentType)) && !x.forbidsTransform()
}

// forbidsTransform looks into every Cache-Control field.
func (x *Exchange) forbidsTransform() bool {
	for i := range x.res.Fields {
		if x.res.Fields[i].ID == h1.CacheControl && containsFold(x.res.Value(i), noTransform) {
			return true
		}
	}
	return false
}

var noTransform = []byte("no-transform")

// variesByCoding reports whether the response differs for clients that accept other
// codings, so that caches must be told, compressed or not (RFC 9110 section 12.5.5).
func (x *Exchange) variesByCoding() bool {
	if x.rt.compress == nil || !x.eligible(x.rt.compress) {
		return false
	}
	for i := range x.res.Fields {
		if x.res.Fields[i].ID != h1.Vary {
			continue
		}
		// Do not say it twice.
		if v := x.res.Value(i); containsFold(v, acceptEncoding) || bytes.Equal(v, star) {
			return false
		}
	}
	return true
}

// containsFold reports whether sub is within b, in any case.
func containsFold(b, sub []byte) bool {
	for i := 0; i+len(sub) <= len(b); i++ {
		if bytes.EqualFold(b[i:i+len(sub)], sub) {
			return true
		}
	}
	return false
}

var (
	acceptEncoding = []byte("accept-encoding")
	star           = []byte("*")
)

func (c *compression) takes(contentType []byte) bool {
	media := contentType
	if i := bytes.IndexByte(media, ';'); i >= 0 {
		media = media[:i]
	}
	media = bytes.TrimSpace(media)
	for _, t := range c.types {
		tree := bytes.HasSuffix(t, slash) && len(media) >= len(t)
		if bytes.EqualFold(media, t) || tree && bytes.EqualFold(media[:len(t)], t) {
			return true
		}
	}
	return false
}

// chooseEncoder returns the encoder for this response, or nil to leave it alone.
func (x *Exchange) chooseEncoder(out framing) *encoder {
	c := x.rt.compress
	if c == nil || out == noBody || !x.eligible(c) {
		return nil
	}
	cd := c.negotiate(x.req.Get(h1.AcceptEncoding))
	if cd == nil {
		return nil
	}
	e := &encoder{coding: cd, w: cd.pool.Get().(compressor), x: x, out: byChunks, etag: x.res.Get(h1.ETag)}
	if x.req.Minor == 0 {
		e.out = byClose
		x.keepAlive = false
	}
	e.replaces = replacedByCoding
	e.stream = x.res.ContentLength < 0 // it may be made as it is sent
	e.w.Reset(e)
	return e
}

// replacedByCoding are fields that speak of the backend's bytes. Ranges are of
// those, so they cannot be offered either.
var replacedByCoding = h1.FieldsOf(h1.ETag, h1.AcceptRanges)

// appendFields writes the fields that describe the coded body. The validator is
// weakened: another representation has other bytes (RFC 9110 section 8.8.1).
func (e *encoder) appendFields(dst []byte, x *Exchange) []byte {
	dst = append(append(append(dst, "Content-Encoding: "...), e.coding.name...), "\r\n"...)
	if len(e.etag) == 0 || !x.answers(h1.ETag) {
		return dst
	}
	dst = append(dst, "ETag: "...)
	if !bytes.HasPrefix(e.etag, []byte("W/")) {
		dst = append(dst, "W/"...)
	}
	return append(append(dst, e.etag...), "\r\n"...)
}

// Write takes compressed bytes from the compressor.
func (e *encoder) Write(p []byte) (int, error) {
	if !e.err && len(p) > 0 && !e.x.emitFramed(p, e.out) {
		e.err = true
	}
	if e.err {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func (e *encoder) write(_ *Exchange, data []byte) bool {
	_, err := e.w.Write(data)
	return err == nil
}

// flush makes everything so far readable at the client, for streams whose parts
// must arrive as they are made.
func (e *encoder) flush(_ *Exchange) bool {
	return !e.stream || e.w.Flush() == nil
}

func (e *encoder) finish(_ *Exchange) bool { return e.w.Close() == nil }

// release gives the compressor back without the connection.
func (e *encoder) release() {
	e.w.Reset(io.Discard)
	e.coding.pool.Put(e.w)
}

// negotiate picks the first offered coding that the client accepts (RFC 9110
// section 12.5.3): q=0 refuses, "*" stands for any not named. No field accepts
// none, as a client that says nothing may not know any.
func (c *compression) negotiate(accept []byte) *coding {
	if len(accept) == 0 {
		return nil
	}
	var best *coding
	bestQ := 0
	for _, cd := range c.codings {
		if q := quality(accept, cd.name); q > bestQ {
			best, bestQ = cd, q
		}
	}
	return best
}

// quality returns the weight of coding in an Accept-Encoding field, in thousandths.
func quality(accept []byte, coding string) int {
	star := 0
	for len(accept) > 0 {
		item := accept
		if i := bytes.IndexByte(accept, ','); i >= 0 {
			item, accept = accept[:i], accept[i+1:]
		} else {
			accept = nil
		}
		name, params, _ := bytes.Cut(item, []byte(";"))
		name = bytes.TrimSpace(name)
		if strings.EqualFold(string(name), coding) || coding == "gzip" && strings.EqualFold(string(name), "x-gzip") {
			return weight(params)
		}
		if string(name) == "*" {
			star = weight(params)
		}
	}
	return star
}

// weight reads "q=0.5"; anything else is 1.
func weight(params []byte) int {
	p := bytes.TrimSpace(params)
	if len(p) < 3 || p[0] != 'q' && p[0] != 'Q' || p[1] != '=' {
		return 1000
	}
	if p[2] == '1' {
		return 1000
	}
	w, unit := 0, 100
	for _, d := range p[min(4, len(p)):] {
		if d < '0' || d > '9' {
			break
		}
		w += int(d-'0') * unit
		unit /= 10
	}
	return w
}
