package h1

import "tickgate/internal/reason"

var (
	// trailerFields are the known fields that may be in trailers; all others say how
	// to frame, route, authorise or read the message, which is too late there (RFC 9110
	// section 6.5.1).
	trailerFields = FieldsOf(ETag, LastModified)
	// trailerPrefixes are families of unknown fields that may not be in trailers: conditions, representation
	// data, proxy matters, forwarding facts, cookies. Lower-case.
	trailerPrefixes = []string{"if-", "content-", "proxy-", "x-forwarded-", "accept-", "sec-", "set-cookie", "max-forwards", "pragma", "warning"}
)

// trailerText takes the bytes of a trailer line up to its end, and that CR.
func (c *Chunked) trailerText(src []byte) (n int, ok bool) {
	end := nextControl(src, 0)
	for end < len(src) && src[end] == '\t' {
		end = nextControl(src, end+1)
	}
	limit := c.MaxTrailer
	if limit <= 0 {
		limit = defaultMaxTrailer
	}
	if c.received += end; c.received > limit {
		return 0, false
	}
	c.trailer = append(c.trailer, src[:end]...)
	if end == len(src) {
		return end, true
	}
	c.state = chunkTrailerLF
	return end + 1, src[end] == '\r'
}

// endTrailerLine judges the line that was taken. Framing fields are an attack and refused, other
// fields that may not be here are removed.
func (c *Chunked) endTrailerLine() (ok bool) {
	start, end := c.lineStart, len(c.trailer)
	if start == end {
		c.state = chunkDone
		return true
	}
	var f Field
	if f.parse(c.trailer, start, end) != reason.OK || framing.Has(f.ID) {
		return false
	}
	c.received += 2
	c.state = chunkTrailer
	if f.Hop || !inTrailers(f.ID, c.trailer[start:f.NameEnd]) {
		c.trailer = c.trailer[:start]
		return true
	}
	c.trailer = append(c.trailer, '\r', '\n')
	c.lineStart = len(c.trailer)
	return true
}

// inTrailers reports whether a field may be passed on in trailers.
func inTrailers(id FieldID, name []byte) bool {
	if id == Unknown {
		id = lookalike(name)
	}
	if id != Unknown {
		return trailerFields.Has(id)
	}
	if equalFold(name, "content-digest") { // RFC 9530 section 2
		return true
	}
	for _, prefix := range trailerPrefixes {
		if len(name) >= len(prefix) && looksLike(name[:len(prefix)], prefix) {
			return false
		}
	}
	return true
}

// looksLike compares as lookalike does. lower must be lower-case, and as long as name.
func looksLike(name []byte, lower string) bool {
	for i, c := range name {
		if toLower(dash(c)) != lower[i] {
			return false
		}
	}
	return true
}
