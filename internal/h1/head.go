package h1

import (
	"bytes"

	"tickgate/internal/reason"
)

// Field is one field line of a head, as offsets into Head.Raw. The value is
// trimmed of optional white space.
type Field struct {
	NameStart, NameEnd, ValueStart, ValueEnd uint32
	// ID is the known field that the name is, or Unknown.
	ID FieldID
	// Hop says that the field must not be passed on: it is hop-by-hop, nominated by
	// Connection, or poses as a forwarding field. Callers may set it for fields of their own choice.
	Hop bool
}

// Limits bound a head. A zero means the default.
type Limits struct {
	// MaxLine is the longest request line in bytes, without its CRLF; by default 8 KiB.
	// Status lines are bound by MaxHead alone.
	MaxLine int
	// MaxHead is the largest head in bytes, from the first byte of the request or status line to the end of the empty line;
	// by default 16 KiB, at most 1 GiB.
	MaxHead int
	// MaxFields is the most field lines; by default 100, at most 65535.
	MaxFields int
}

const (
	defaultMaxLine   = 8 << 10
	defaultMaxHead   = 16 << 10
	defaultMaxFields = 100

	// maxNominations bounds the fields that Connection can name, since each is compared with each field.
	maxNominations = 32
)

// effective returns the limits with defaults, in which MaxLine <= MaxHead. A nil l means all defaults.
func (l *Limits) effective() Limits {
	var e Limits
	if l != nil {
		e = *l
	}
	if e.MaxLine <= 0 {
		e.MaxLine = defaultMaxLine
	}
	if e.MaxHead <= 0 {
		e.MaxHead = defaultMaxHead
	}
	if e.MaxFields <= 0 {
		e.MaxFields = defaultMaxFields
	}
	e.MaxHead = min(e.MaxHead, 1<<30)
	e.MaxLine = min(e.MaxLine, e.MaxHead)
	e.MaxFields = min(e.MaxFields, 1<<16-1)
	return e
}

// Head is what request and response heads share. Its results are valid once Parse has
// returned n > 0, and until the buffer given to that call changes.
type Head struct {
	// Raw is the head, from the first byte of its first line to the final CRLF CRLF.
	// It aliases the caller's buffer.
	Raw []byte
	// Fields are the field lines in order. The slice is reused by Reset.
	Fields []Field
	// ContentLength is the value of Content-Length, -1 without.
	ContentLength int64
	// Minor is the digit after "HTTP/1.": 0 or 1.
	Minor uint8
	// Chunked says that the transfer coding is chunked; ContentLength is -1 then.
	Chunked bool
	// KeepAlive says that the sender lets the connection persist, by version and
	// Connection (RFC 9112 section 9.3).
	KeepAlive bool
	// Upgrade says that this is HTTP/1.1 with an Upgrade field and with "upgrade" in Connection.
	Upgrade bool
	// TETrailers says that TE holds "trailers".
	TETrailers bool

	present, repeated FieldSet
	first             [NumFieldIDs]uint16 // index into Fields, where present

	// Resume state: offsets into the message.
	stage stage
	pos   int // start of the unfinished line
	scan  int // bytes before it are known

	connClose, connKeepAlive, connUpgrade bool
	upgradeWebSocket                      bool // Upgrade lists "websocket"
	upgradeAny                            bool // Upgrade lists something
	nominations                           int
	nominated                             [maxNominations]span
}

// stage says what the next unfinished line is.
type stage uint8

const (
	stageLead   stage = iota // nothing read; an empty line may come
	stageFirst               // the first byte of the first line
	stageLine                // the request or status line
	stageFields              // field lines
	stageDone
)

func (h *Head) reset() {
	fields := h.Fields[:0]
	// Do not assign a whole new Head: the index and the nominations are 400 bytes that need no clearing.
	h.Raw, h.Fields = nil, fields
	h.ContentLength, h.Minor = -1, 0
	h.Chunked, h.KeepAlive, h.Upgrade, h.TETrailers = false, false, false, false
	h.present, h.repeated = 0, 0
	h.stage, h.pos, h.scan = stageLead, 0, 0
	h.connClose, h.connKeepAlive, h.connUpgrade = false, false, false
	h.upgradeWebSocket, h.upgradeAny = false, false
	h.nominations = 0
}

// Name returns the name of field i as it was sent.
func (h *Head) Name(i int) []byte {
	f := &h.Fields[i]
	return h.Raw[f.NameStart:f.NameEnd:f.NameEnd]
}

// Value returns the value of field i, without white space around it.
func (h *Head) Value(i int) []byte {
	f := &h.Fields[i]
	return h.Raw[f.ValueStart:f.ValueEnd:f.ValueEnd]
}

// Has reports whether the head has a field of this id. It is false for Unknown.
func (h *Head) Has(id FieldID) bool { return h.present.Has(id) }

// HasAny reports whether the head has a field of the set.
func (h *Head) HasAny(s FieldSet) bool { return h.present&s != 0 }

// Repeated reports whether the head has more than one field of this id.
func (h *Head) Repeated(id FieldID) bool { return h.repeated.Has(id) }

// Index returns the index of the first field of this id, or -1.
func (h *Head) Index(id FieldID) int {
	if !h.present.Has(id) {
		return -1
	}
	return int(h.first[id])
}

// Get returns the value of the first field of this id: nil if there is none, an
// empty slice if it is empty.
func (h *Head) Get(id FieldID) []byte {
	if !h.present.Has(id) {
		return nil
	}
	return h.Value(int(h.first[id]))
}

// GetName returns the value of the first field called name, in any case; nil if there is none.
func (h *Head) GetName(name []byte) []byte {
	if id := LookupField(name); id != Unknown {
		return h.Get(id)
	}
	for i := range h.Fields {
		if h.Fields[i].ID == Unknown && equalFoldBytes(h.Name(i), name) {
			return h.Value(i)
		}
	}
	return nil
}

// Line returns field i as it was sent, with its CRLF.
func (h *Head) Line(i int) []byte {
	return h.Raw[h.Fields[i].NameStart:h.lineEnd(i)]
}

// lineEnd returns the offset after the CRLF of field i.
func (h *Head) lineEnd(i int) uint32 {
	if i+1 < len(h.Fields) {
		return h.Fields[i+1].NameStart
	}
	return uint32(len(h.Raw) - 2)
}

// more is what line returns in place of an offset when the line has no end yet.
const more = -1

// line finds the CRLF of the line that begins at h.pos and returns its offset, or more. It
// goes on where it stopped, and leaves in h.scan the offset of the byte that decided.
//
// Limits are judged by offset, never by how much has arrived, so that a message
// ends the same way however it is cut into reads.
func (h *Head) line(buf []byte, maxHead int) (int, reason.Reason) {
	for p := h.scan; ; p++ {
		p = nextControl(buf, p)
		h.scan = p
		if p == len(buf) {
			if p > maxHead {
				return more, reason.HeadTooLarge
			}
			return more, reason.OK
		}
		if p >= maxHead {
			return more, reason.HeadTooLarge
		}
		switch buf[p] {
		case '\t':
		case '\r':
			return endOfLine(buf, p, maxHead)
		case '\n':
			return more, reason.BareLineFeed
		default:
			return more, reason.BadHeaderValue
		}
	}
}

// endOfLine judges the CR at p.
func endOfLine(buf []byte, p, maxHead int) (int, reason.Reason) {
	switch {
	case p+1 == len(buf):
		return more, reason.OK
	case buf[p+1] != '\n':
		return more, reason.BareLineFeed
	case p+2 > maxHead:
		return more, reason.HeadTooLarge
	}
	return p, reason.OK
}

// readFields reads field lines up to the empty line. It returns the length of the head, or more.
func (h *Head) readFields(buf []byte, lim *Limits) (int, reason.Reason) {
	for {
		start := h.pos
		if end := start + 2; h.scan == start && end <= len(buf) && end <= lim.MaxHead && buf[start] == '\r' && buf[start+1] == '\n' {
			return end, reason.OK
		}
		// Fast path: the line is whole and within limits, and its first control character is its CR.
		eol := nextControl(buf, h.scan)
		if end := eol + 2; end > len(buf) || end > lim.MaxHead || buf[eol] != '\r' || buf[eol+1] != '\n' {
			var r reason.Reason
			if eol, r = h.line(buf, lim.MaxHead); r != reason.OK || eol == more {
				return more, h.blameName(buf, r)
			}
		}
		if eol == start {
			return eol + 2, reason.OK
		}
		i := len(h.Fields)
		if i == lim.MaxFields {
			return more, reason.TooManyHeaders
		}
		if i < cap(h.Fields) {
			h.Fields = h.Fields[:i+1]
		} else {
			h.Fields = append(h.Fields, Field{})
		}
		f := &h.Fields[i]
		if r := f.parse(buf, start, eol); r != reason.OK {
			h.Fields = h.Fields[:i]
			return more, r
		}
		if f.ID != Unknown {
			if r := h.note(buf, f, i); r != reason.OK {
				return more, r
			}
		}
		h.pos, h.scan = eol+2, eol+2
	}
}

// blameName corrects the reason for a control character, if it is in the name of its field.
func (h *Head) blameName(buf []byte, r reason.Reason) reason.Reason {
	if r == reason.BadHeaderValue && bytes.IndexByte(buf[h.pos:h.scan], ':') < 0 {
		return reason.BadHeaderName
	}
	return r
}

// note enters the known field f, with index i.
func (h *Head) note(buf []byte, f *Field, i int) reason.Reason {
	bit := FieldSet(1) << (f.ID & 63)
	again := h.present&bit != 0
	if again {
		h.repeated |= bit
	} else {
		h.present |= bit
		h.first[f.ID] = uint16(i)
	}
	if readEarly&bit != 0 {
		return h.readEarly(buf, f, again)
	}
	return reason.OK
}

// parse splits the field line buf[start:end], which has no control characters but HTAB, into name and
// value, and classifies the name. It writes into the slice of fields directly: a
// Field that is returned and copied costs a stalled load.
func (f *Field) parse(buf []byte, start, end int) reason.Reason {
	line := buf[start:end]
	if isOWS(line[0]) {
		return reason.ObsFold
	}
	colon := start + indexColon(line)
	if colon <= start {
		return reason.BadHeaderName
	}
	// Fast path: a known name needs no check of its bytes.
	id := lookup(buf, start, colon)
	hop := hopByHop>>id&1 != 0
	if id == Unknown {
		var r reason.Reason
		if hop, r = judgeName(buf[start:colon]); r != reason.OK {
			return r
		}
	}
	value := colon + 1
	for value < end && isOWS(buf[value]) {
		value++
	}
	for end > value && isOWS(buf[end-1]) {
		end--
	}
	f.NameStart, f.NameEnd = uint32(start), uint32(colon)
	f.ValueStart, f.ValueEnd = uint32(value), uint32(end)
	f.ID, f.Hop = id, hop
	return reason.OK
}

// judgeName checks a name that is not known. Names that a CGI-like backend takes
// for a framing field are refused, those it takes for a forwarding field are hop.
func judgeName(name []byte) (hop bool, r reason.Reason) {
	shared := uint8(classToken | classPlain)
	for _, c := range name {
		shared &= byteClass[c]
	}
	switch {
	case shared&classToken == 0:
		return false, reason.BadHeaderName
	case shared&classPlain != 0:
		return false, reason.OK
	}
	id := lookalike(name)
	if framing.Has(id) {
		return false, reason.BadHeaderName
	}
	return forwarding.Has(id), reason.OK
}

// lookalike returns the known field that name becomes when every sign is read as '-'. Most CGI-like backends make
// one variable of both '-' and '_', PHP of '.' as well, and some, lighttpd among them, of all signs.
func lookalike(name []byte) FieldID {
	var dashed [32]byte // longer than any known name
	if len(name) > len(dashed) {
		return Unknown
	}
	for i, c := range name {
		dashed[i] = dash(c)
	}
	return lookup(dashed[:], 0, len(name))
}

// dash returns '-' for a sign.
func dash(c byte) byte {
	if byteClass[c]&classPlain == 0 {
		return '-'
	}
	return c
}

// readEarly looks into the fields that say how to go on.
func (h *Head) readEarly(buf []byte, f *Field, again bool) reason.Reason {
	value := buf[f.ValueStart:f.ValueEnd]
	switch f.ID {
	case ContentLength:
		n, ok := parseLength(value)
		if again || !ok {
			return reason.LengthConflict
		}
		h.ContentLength = n
	case TransferEncoding:
		if again {
			return reason.LengthConflict
		}
		h.Chunked = true
		return judgeCoding(value)
	case Connection:
		return h.readConnection(value, int(f.ValueStart))
	case Upgrade:
		for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
			h.upgradeAny = h.upgradeAny || len(item) > 0
			h.upgradeWebSocket = h.upgradeWebSocket || equalFold(item, "websocket")
		}
	case TE:
		for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
			h.TETrailers = h.TETrailers || equalFold(item, "trailers")
		}
	case Trailer:
		return judgeTrailer(value)
	}
	return reason.OK
}

// judgeTrailer refuses the announcement of framing fields as trailers, as Chunked refuses them
// there: strict parsers end a message that announces them. Lookalikes of them are as bad as announcement as they are as trailers.
func judgeTrailer(value []byte) reason.Reason {
	for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
		if id := lookalike(item); framing.Has(id) || id == Trailer {
			return reason.BadHeaderValue
		}
	}
	return reason.OK
}

// parseLength reads a Content-Length: 1 to 19 digits that fit in an int64, and nothing else.
func parseLength(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var u uint64
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	return int64(u), u <= 1<<63-1
}

// judgeCoding checks a Transfer-Encoding value. Only "chunked" is OK; other well-formed
// codings are BadTransferCoding, and what could be read as two framings is LengthConflict.
func judgeCoding(value []byte) reason.Reason {
	if equalFold(value, "chunked") {
		return reason.OK
	}
	if len(value) == 0 || value[len(value)-1] == ',' {
		return reason.LengthConflict
	}
	for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
		coding, params := item, []byte(nil)
		if i := bytes.IndexByte(item, ';'); i >= 0 {
			coding, params = trimOWS(item[:i]), item[i:]
		}
		if !isToken(coding) {
			return reason.LengthConflict
		}
		if equalFold(coding, "chunked") && (params != nil || len(rest) > 0) {
			return reason.LengthConflict
		}
	}
	return reason.BadTransferCoding
}

// readConnection reads one Connection value, which begins at offset at.
func (h *Head) readConnection(value []byte, at int) reason.Reason {
	// Fast path: what nearly every client sends.
	if equalFold(value, "keep-alive") {
		h.connKeepAlive = true
		return reason.OK
	}
	for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
		switch {
		case len(item) == 0: // RFC 9110 section 5.6.1.2: empty members are ignored
		case equalFold(item, "close"):
			h.connClose = true
		case equalFold(item, "keep-alive"):
			h.connKeepAlive = true
		case equalFold(item, "upgrade"):
			h.connUpgrade = true
		case !isToken(item):
			return reason.BadHeaderValue
		case LookupField(item) != Unknown:
			// Never obeyed: see the package comment.
		case h.nominations == maxNominations:
			return reason.BadHeaderValue
		default:
			// Both end at the same byte of memory, so capacities tell where item begins.
			start := at + cap(value) - cap(item)
			h.nominated[h.nominations] = makeSpan(start, start+len(item))
			h.nominations++
		}
	}
	return reason.OK
}

// finish settles what follows from the fields together. raw is the whole head.
func (h *Head) finish(raw []byte) reason.Reason {
	h.Raw = raw[:len(raw):len(raw)]
	h.stage = stageDone
	if h.Chunked && (h.ContentLength >= 0 || h.Minor == 0) {
		// RFC 9112 section 6.1: HTTP/1.0 has no transfer codings, so somebody before us
		// may have read the length otherwise.
		return reason.LengthConflict
	}
	h.KeepAlive = !h.connClose && (h.Minor == 1 || h.connKeepAlive)
	// RFC 9110 section 7.8: Upgrade in HTTP/1.0 is ignored.
	h.Upgrade = h.connUpgrade && h.upgradeAny && h.Minor == 1
	for i := 0; i < h.nominations; i++ {
		h.dropNominated(h.nominated[i].of(h.Raw))
	}
	return reason.OK
}

func (h *Head) dropNominated(name []byte) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID == Unknown && int(f.NameEnd-f.NameStart) == len(name) && equalFoldBytes(h.Name(i), name) {
			f.Hop = true
		}
	}
}
