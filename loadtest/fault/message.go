package fault

import (
	"bufio"
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// maxHead is the longest head that is followed; longer ones make a connection opaque.
const maxHead = 64 << 10

// phase is where a stream of HTTP messages stands.
type phase uint8

const (
	inHead phase = iota
	inBody       // left bytes of it are to come
	inChunkSize
	inChunk // left bytes of it and its line end are to come
	inTrailer
	untilClose
	opaque // not HTTP, or no more: an upgrade, or a head that could not be read
)

// messages follows the framing of the messages of one direction (RFC 9112), just well
// enough to tell heads from bodies and one message from the next. It judges nothing. The
// zero value is at the start of a stream of requests.
type messages struct {
	responses bool
	// noBody says that the response to come is one to HEAD; set by the other direction.
	noBody func() bool

	phase phase
	line  []byte // the head, chunk size line or trailer line so far
	left  int64
	// offset is where the next byte stands in its part of its message, and in its message.
	offset, whole int64
	// request is the last request's head, once it is complete.
	request *http.Request
	// upgrade says that the last request asks for another protocol.
	upgrade bool
}

// part says which part the next byte belongs to.
func (m *messages) part() Part {
	if m.phase == inHead || m.phase == opaque {
		return PartHead
	}
	return PartBody
}

// start says whether the next byte is the first of a message.
func (m *messages) start() bool { return m.phase == inHead && len(m.line) == 0 }

// segment is a run of bytes that belong to one part of one message.
type segment struct {
	n int
	// part, and the offset of the first byte in it and in the whole message.
	part          Part
	offset, whole int64
	// head says that the last byte completes a head.
	head bool
}

// next takes as many bytes of b as belong to one part, at least one.
func (m *messages) next(b []byte) segment {
	if m.start() {
		m.offset, m.whole = 0, 0
	}
	s := segment{part: m.part(), offset: m.offset, whole: m.whole}
	switch m.phase {
	case inHead:
		s.n, s.head = m.takeHead(b)
	case inBody, inChunk:
		s.n = int(min(int64(len(b)), m.left))
		m.left -= int64(s.n)
		m.offset += int64(s.n)
		if m.left == 0 {
			m.bodyEnds()
		}
	case inChunkSize, inTrailer:
		s.n = m.takeLine(b)
		m.offset += int64(s.n)
	default:
		s.n = len(b)
		m.offset += int64(s.n)
	}
	m.whole += int64(s.n)
	return s
}

// bodyEnds is the end of a body with a length, or of a chunk.
func (m *messages) bodyEnds() {
	if m.phase == inChunk {
		m.phase = inChunkSize
		return
	}
	m.phase = inHead
}

// takeHead takes bytes up to the end of the head.
func (m *messages) takeHead(b []byte) (n int, complete bool) {
	before := len(m.line)
	m.line = append(m.line, b...)
	end := bytes.Index(m.line, []byte("\r\n\r\n"))
	if end < 0 {
		m.offset += int64(len(b))
		if len(m.line) > maxHead {
			m.phase, m.line = opaque, nil
		}
		return len(b), false
	}
	n = end + 4 - before
	head := m.line[:end+4]
	m.line = nil
	if m.responses {
		m.responseHead(head)
	} else {
		m.requestHead(head)
	}
	m.offset = 0
	return n, true
}

func (m *messages) requestHead(head []byte) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		m.phase, m.request = opaque, nil
		return
	}
	m.request, m.upgrade = req, req.Header.Get("Upgrade") != "" || req.Method == http.MethodConnect
	m.framing(req.ContentLength, req.TransferEncoding)
	if m.upgrade && m.phase == inHead {
		m.phase = opaque // should the upgrade be refused, what follows is passed on unseen
	}
}

func (m *messages) responseHead(head []byte) {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		m.phase = opaque
		return
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		m.phase = opaque
	case resp.StatusCode < 200, resp.StatusCode == http.StatusNoContent, resp.StatusCode == http.StatusNotModified,
		m.noBody != nil && m.noBody():
		m.phase = inHead
	case resp.ContentLength < 0 && len(resp.TransferEncoding) == 0:
		m.phase = untilClose
	default:
		m.framing(resp.ContentLength, resp.TransferEncoding)
	}
}

func (m *messages) framing(length int64, encoding []string) {
	switch {
	case len(encoding) > 0:
		m.phase = inChunkSize
	case length > 0:
		m.phase, m.left = inBody, length
	default:
		m.phase = inHead
	}
}

// takeLine takes bytes up to a line end of a chunked body.
func (m *messages) takeLine(b []byte) (n int) {
	n = bytes.IndexByte(b, '\n') + 1
	if n == 0 {
		n = len(b)
		m.line = append(m.line, b...)
		if len(m.line) > maxHead {
			m.phase, m.line = opaque, nil
		}
		return n
	}
	line := strings.TrimSpace(string(append(m.line, b[:n]...)))
	m.line = nil
	if m.phase == inTrailer {
		if line == "" {
			m.phase = inHead
		}
		return n
	}
	text, _, _ := strings.Cut(line, ";")
	size, err := strconv.ParseUint(strings.TrimSpace(text), 16, 62)
	switch {
	case err != nil:
		m.phase = opaque
	case size == 0:
		m.phase = inTrailer
	default:
		m.phase, m.left = inChunk, int64(size)+2
	}
	return n
}
