package demo

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"crypto/sha1" // RFC 6455 section 4.2.2 demands it; nothing is kept secret by it

	"github.com/gobwas/ws"
	"github.com/valyala/fasthttp"
)

// The ladder of a WebSocket session, mildest first.
const (
	queueLen  = 256              // frames that may wait for a client; one more and it is dropped
	writeWait = 5 * time.Second  // for one frame to be taken
	pingEvery = 20 * time.Second // keeps middleboxes and quiet clients awake
	peerWait  = 60 * time.Second // without a frame from the client, which answers pings: it is gone
	closeWait = time.Second      // for the client's half of the close handshake
	maxInput  = 4 << 10          // bytes of one message from a client
)

// feedHandler answers for the market-data backend: /ws is the stream.
func (d *Demo) feedHandler(name string) fasthttp.RequestHandler {
	return tagged(name, func(rc *fasthttp.RequestCtx) {
		switch string(rc.Path()) {
		case "/health":
			serveHealth(rc)
		case "/ws":
			d.serveUpgrade(rc)
		default:
			refuse(rc, fasthttp.StatusNotFound, "the stream is at /ws")
		}
	})
}

// serveUpgrade answers the opening handshake (RFC 6455 section 4.2).
func (d *Demo) serveUpgrade(rc *fasthttp.RequestCtx) {
	key, status, why := upgradeKey(rc)
	if status != 0 {
		if status == fasthttp.StatusUpgradeRequired {
			rc.Response.Header.Set("Upgrade", "websocket")
			rc.Response.Header.Set("Connection", "Upgrade")
			rc.Response.Header.Set("Sec-WebSocket-Version", "13")
		}
		refuse(rc, status, why)
		return
	}
	var symbols []string
	if list := string(rc.QueryArgs().Peek("symbols")); list != "" {
		symbols = strings.Split(list, ",")
	}
	rc.SetStatusCode(fasthttp.StatusSwitchingProtocols)
	rc.Response.Header.Set("Upgrade", "websocket")
	rc.Response.Header.Set("Connection", "Upgrade")
	rc.Response.Header.Set("Sec-WebSocket-Accept", acceptKey(key))
	rc.Hijack(func(conn net.Conn) { runSession(d.market, conn, symbols) })
}

// upgradeKey checks an opening handshake and returns its key, or the status and
// the reason of the refusal.
func upgradeKey(rc *fasthttp.RequestCtx) (key string, status int, why string) {
	h := &rc.Request.Header
	key = string(peekFold(h, "Sec-WebSocket-Key"))
	nonce, err := base64.StdEncoding.DecodeString(key)
	switch {
	case !rc.IsGet() || !h.IsHTTP11():
		return "", fasthttp.StatusMethodNotAllowed, "a WebSocket handshake is a GET of HTTP/1.1"
	case !hasToken(peekFold(h, "Upgrade"), "websocket") || !hasToken(peekFold(h, "Connection"), "upgrade"):
		return "", fasthttp.StatusUpgradeRequired, "this is a WebSocket endpoint"
	case string(peekFold(h, "Sec-WebSocket-Version")) != "13":
		return "", fasthttp.StatusUpgradeRequired, "the WebSocket version here is 13"
	case err != nil || len(nonce) != 16:
		return "", fasthttp.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64"
	}
	return key, 0, ""
}

// peekFold finds a field in any case: header names are not normalised here.
func peekFold(h *fasthttp.RequestHeader, name string) []byte {
	for k, v := range h.All() {
		if strings.EqualFold(string(k), name) {
			return v
		}
	}
	return nil
}

// hasToken finds token in a comma-separated list, in any case.
func hasToken(list []byte, token string) bool {
	for item := range strings.SplitSeq(string(list), ",") {
		if strings.EqualFold(strings.TrimSpace(item), token) {
			return true
		}
	}
	return false
}

// acceptKey is the proof that the handshake was understood.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// session is one WebSocket client. Its writer owns the sending side of conn, its
// reader the receiving side.
type session struct {
	market *market
	conn   net.Conn
	out    chan []byte // frames for the writer; never closed

	once   sync.Once
	ending chan struct{} // closed once by end
	code   ws.StatusCode // of our close frame; written before ending is closed
	why    string
	echoed bool // the client closed first: our frame completes the handshake
}

// runSession serves one client until it leaves, falls behind or the demonstration
// stops. The connection is closed by the caller.
func runSession(m *market, conn net.Conn, symbols []string) {
	s := &session{market: m, conn: conn, out: make(chan []byte, queueLen), ending: make(chan struct{})}
	if !m.join(s) {
		return
	}
	defer m.leave(s)
	if len(symbols) > 0 {
		s.reply(m.subscribe(s, symbols))
	}
	readDone := make(chan struct{})
	go func() {
		defer close(readDone)
		s.readLoop()
	}()
	if err := s.writeLoop(); err == nil && !s.echoed {
		s.awaitClose(readDone)
	}
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	<-readDone
}

// awaitClose gives the client time for its half of the close handshake.
func (s *session) awaitClose(readDone <-chan struct{}) {
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-readDone:
	case <-timer.C:
	}
}

// offer queues a frame, or ends a session whose client does not keep up: a client
// that must see every tick is better off to know that it missed some.
func (s *session) offer(frame []byte) {
	select {
	case s.out <- frame:
	default:
		s.end(ws.StatusPolicyViolation, "slow consumer")
	}
}

// end starts the close handshake from our side; the first call counts.
func (s *session) end(code ws.StatusCode, why string) {
	s.once.Do(func() {
		s.code, s.why = code, why
		_ = s.conn.SetWriteDeadline(time.Now().Add(closeWait)) // frees a writer that is stuck
		close(s.ending)
	})
}

// endEchoed answers the client's close frame with its own code.
func (s *session) endEchoed(code ws.StatusCode) {
	s.once.Do(func() {
		s.code, s.echoed = code, true
		close(s.ending)
	})
}

// writeLoop writes queued frames, pings and in the end the close frame.
func (s *session) writeLoop() error {
	ping := ws.MustCompileFrame(ws.NewPingFrame(nil))
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		var frame []byte
		select {
		case <-s.ending:
			return s.writeClose()
		case frame = <-s.out:
		case <-ticker.C:
			frame = ping
		}
		if err := s.write(frame); err != nil {
			return err
		}
	}
}

// write sends one frame. A session that ends meanwhile has a shorter deadline set
// by end, which must not be moved.
func (s *session) write(frame []byte) error {
	select {
	case <-s.ending:
	default:
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeWait))
	}
	_, err := s.conn.Write(frame)
	return err
}

// writeClose sends the close frame. Codes that must not travel are sent as an
// empty body (RFC 6455 section 7.4.1).
func (s *session) writeClose() error {
	var body []byte
	if s.code != 0 && !s.code.IsProtocolReserved() {
		body = ws.NewCloseFrameBody(s.code, s.why)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(closeWait))
	_, err := s.conn.Write(ws.MustCompileFrame(ws.NewCloseFrame(body)))
	return err
}

// errClosed ends the reader after the client's close frame.
var errClosed = errors.New("client closed")

// readLoop reads the client's messages until it closes, breaks the protocol or is
// silent for too long.
func (s *session) readLoop() {
	var err error
	for err == nil {
		var message []byte
		if message, err = s.readMessage(); err == nil {
			err = s.command(message)
		}
	}
	var refusal closeError
	switch {
	case errors.Is(err, errClosed):
	case errors.As(err, &refusal):
		s.end(refusal.code, refusal.why)
	default:
		s.end(ws.StatusGoingAway, "connection lost")
	}
}

// closeError ends a session with a code for the client.
type closeError struct {
	code ws.StatusCode
	why  string
}

// Error implements error.
func (e closeError) Error() string { return fmt.Sprintf("close %d: %s", e.code, e.why) }

// readMessage returns the next whole text message. Control frames between its
// fragments are answered.
func (s *session) readMessage() ([]byte, error) {
	var message []byte
	state := ws.StateServerSide
	for {
		frame, err := s.readFrame(state, maxInput-len(message))
		if err != nil {
			return nil, err
		}
		if frame.Header.OpCode.IsControl() {
			if err := s.control(frame); err != nil {
				return nil, err
			}
			continue
		}
		if frame.Header.OpCode == ws.OpBinary {
			return nil, closeError{ws.StatusUnsupportedData, "messages are JSON text"}
		}
		message = append(message, frame.Payload...)
		if frame.Header.Fin {
			if !utf8.Valid(message) {
				return nil, closeError{ws.StatusInvalidFramePayloadData, "text is not UTF-8"}
			}
			return message, nil
		}
		state = state.Set(ws.StateFragmented)
	}
}

// readFrame reads one frame, unmasked, of at most room bytes.
func (s *session) readFrame(state ws.State, room int) (ws.Frame, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(peerWait)); err != nil {
		return ws.Frame{}, err
	}
	header, err := ws.ReadHeader(s.conn)
	if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
		return ws.Frame{}, closeError{ws.StatusProtocolError, err.Error()}
	}
	if err != nil {
		return ws.Frame{}, err
	}
	if err := ws.CheckHeader(header, state); err != nil {
		return ws.Frame{}, closeError{ws.StatusProtocolError, err.Error()}
	}
	if !header.OpCode.IsControl() && header.Length > int64(room) {
		return ws.Frame{}, closeError{ws.StatusMessageTooBig, "messages have at most 4 KiB"}
	}
	frame := ws.Frame{Header: header, Payload: make([]byte, header.Length)}
	if _, err := io.ReadFull(s.conn, frame.Payload); err != nil {
		return ws.Frame{}, err
	}
	return ws.UnmaskFrameInPlace(frame), nil
}

// control answers one control frame.
func (s *session) control(frame ws.Frame) error {
	switch frame.Header.OpCode {
	case ws.OpPing:
		s.offer(ws.MustCompileFrame(ws.NewPongFrame(frame.Payload)))
		return nil
	case ws.OpClose:
		return s.clientClose(frame.Payload)
	default: // a pong: reading it has moved the deadline
		return nil
	}
}

// clientClose completes the close handshake that the client started.
func (s *session) clientClose(payload []byte) error {
	if len(payload) == 0 {
		s.endEchoed(0)
		return errClosed
	}
	if len(payload) == 1 {
		return closeError{ws.StatusProtocolError, "close frame of one byte"}
	}
	code, why := ws.ParseCloseFrameData(payload)
	if err := ws.CheckCloseFrameData(code, why); err != nil {
		return closeError{ws.StatusProtocolError, err.Error()}
	}
	s.endEchoed(code)
	return errClosed
}

// command carries out one message: {"op":"subscribe","symbols":["BTC-USD"]},
// "unsubscribe" likewise, or {"op":"list"}. A mistake is answered, not punished.
func (s *session) command(message []byte) error {
	var c struct {
		Op      string   `json:"op"`
		Symbols []string `json:"symbols"`
	}
	if err := json.Unmarshal(message, &c); err != nil {
		s.refuse(`a message is {"op":"subscribe","symbols":["BTC-USD"]}`)
		return nil
	}
	switch c.Op {
	case "subscribe":
		s.reply(s.market.subscribe(s, c.Symbols))
	case "unsubscribe":
		s.reply(s.market.unsubscribe(s, c.Symbols))
	case "list":
		s.offer(textFrame(map[string]any{"type": "symbols", "symbols": s.market.symbols()}))
	default:
		s.refuse(fmt.Sprintf("no op %q: there are subscribe, unsubscribe and list", c.Op))
	}
	return nil
}

// reply says which symbol is unknown, if one is.
func (s *session) reply(unknown string) {
	if unknown != "" {
		s.refuse(fmt.Sprintf("no symbol %q", unknown))
	}
}

// refuse answers with an error message.
func (s *session) refuse(why string) {
	s.offer(textFrame(map[string]string{"type": "error", "error": why}))
}
