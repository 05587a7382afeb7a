package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"tickgate/internal/reason"
	"tickgate/internal/ws"
	"tickgate/proxy/reactor"
)

const (
	// maxHeld is the room before what is read for the bytes that were held.
	maxHeld = ws.MaxHeld

	// goingAway is the close code for whoever is not to blame.
	goingAway = ws.GoingAway

	// passedOn is how many times CloseTimeout a side may take to answer a Close frame of the
	// other: it may have to finish a message first. Nobody pings it any more meanwhile.
	passedOn = 4

	// burst is what a rate allows at once: what it allows in this time.
	burst = time.Second

	// Under a message rate with Delay no more is read at once than the smallest messages
	// (smallMessage bytes: a masked header) that are allowed now would take, but leastRead
	// at least: what comes of it beyond the rate is a debt that the next read waits for.
	smallMessage = 6
	leastRead    = 64
)

// framing is a tunnel's state in Frames mode. It holds no pointers.
type framing struct {
	dir [2]direction // by the side the bytes come from
	// lastClient is when the last byte came from the client, pingAt when the ping that it has
	// not reacted to was sent, 0 if there is none.
	lastClient, pingAt time.Duration
	// messageAt and byteAt are when the messages and bytes so far would have come at exactly
	// the rate.
	messageAt, byteAt time.Duration
	byeCode           [2]uint16 // of the Close frame wanted, by the side it is for
	byeFin            [2]bool   // FIN follows it at once: the side broke the protocol
	pingWanted        bool
	owed              uint32 // pings without an answer: as many Pongs are to be swallowed
}

// direction is what comes from one side.
type direction struct {
	in                    ws.Inspector
	text, binary, control uint64
	held                  uint32 // bytes of an incomplete header, in loop.held; 0 is none
	heldN                 uint32
}

func (d *direction) flow() Flow {
	return Flow{Messages: d.text + d.binary, Text: d.text, Binary: d.binary, Control: d.control}
}

// terms is what is computed of a Policy once.
type terms struct {
	rules       [2][2]ws.Rules // by sending side, then by whether deflate was negotiated
	messageCost time.Duration  // 0: no rate
}

func derive(p *Policy) (t terms) {
	for d := range t.rules {
		for z := range t.rules[d] {
			t.rules[d][z] = ws.Rules{Masked: side(d) == client, MaxMessage: p.MaxMessage, UTF8: p.CheckUTF8, Deflate: z == 1}
		}
	}
	if p.MessageRate > 0 {
		t.messageCost = max(time.Second/time.Duration(p.MessageRate), 1)
	}
	return t
}

func (lp *loop) setFrames(s *slot, p *Params) {
	n, fr := lp.frames.alloc()
	s.frames = n
	s.flags |= framed
	if p.Deflate {
		s.flags |= deflate
	}
	fr.lastClient = lp.now
}

func (lp *loop) dropFrames(s *slot) {
	fr := lp.frames.get(s.frames)
	for d := range fr.dir {
		if fr.dir[d].held != 0 {
			lp.held.release(fr.dir[d].held)
		}
	}
	lp.frames.release(s.frames)
}

// total returns the sums for what comes from side d.
func (lp *loop) total(d side) *Flow {
	if d == client {
		return &lp.stats.ToBackend
	}
	return &lp.stats.ToClient
}

// inspect passes on bytes of side d, frame by frame in the eye of the inspector, but as
// few sends as what is left out or put in between allows.
func (lp *loop) inspect(i uint32, s *slot, d side, p []byte) bool {
	fr := lp.frames.get(s.frames)
	if d == client {
		fr.lastClient = lp.now
	}
	before := s.last
	s.last = lp.now
	if s.f[d]&mute != 0 {
		return true
	}
	dir := &fr.dir[d]
	if dir.held != 0 {
		p = lp.unhold(dir, p)
	}
	t := &lp.policies.entries[s.policy].value
	rules := &t.rules[d][0]
	if s.flags&deflate != 0 {
		rules = &t.rules[d][1]
	}
	sent, pos := 0, 0 // p[sent:pos] is to be passed on
	for pos < len(p) {
		clean := dir.in.AtBoundary()
		piece, err := dir.in.Next(p[pos:], rules)
		if err == nil && piece.Kind == ws.More {
			lp.hold(dir, p[pos:])
			break
		}
		next := pos + piece.N
		answer := piece.Opcode == ws.Pong && d == client && fr.owed > 0 && isOwnPong(p[pos:next])
		if why := lp.judge(s, fr, d, &piece, err, answer); why != reason.OK {
			return lp.pass(i, s, d, p[sent:pos]) && lp.violated(i, s, fr, d, why, clean)
		}
		if answer {
			if !lp.pass(i, s, d, p[sent:pos]) {
				return false
			}
			sent = next
			if next == len(p) && pos == 0 {
				s.last = before // what the gateway asked for itself makes no tunnel less idle
			}
		}
		pos = next
		if piece.Opcode == ws.Close || s.f[d.other()]&byeWanted != 0 && dir.in.AtBoundary() {
			if !lp.pass(i, s, d, p[sent:pos]) || !lp.atBoundary(i, s, d, &piece) {
				return false
			}
			sent = pos
			if s.f[d]&mute != 0 {
				return true
			}
		}
	}
	if !lp.pass(i, s, d, p[sent:pos]) {
		return false
	}
	if d == backend && fr.pingWanted {
		return lp.ping(i, s, fr)
	}
	return true
}

// judge decides about a piece, or an inspector's error in its place, and counts it.
// answer says that it is the Pong to a ping of the gateway.
func (lp *loop) judge(s *slot, fr *framing, d side, piece *ws.Piece, err error, answer bool) reason.Reason {
	switch {
	case err != nil:
		return broken(err)
	case answer:
		fr.owed--
		lp.stats.Pongs++
		return reason.OK
	case d == client && lp.overRate(s, fr, piece):
		return reason.TooFast
	}
	countPiece(&fr.dir[d], lp.total(d), piece)
	return reason.OK
}

// atBoundary does what waits for a boundary in what comes from side d, after a piece.
func (lp *loop) atBoundary(i uint32, s *slot, d side, piece *ws.Piece) bool {
	if piece.Opcode == ws.Close {
		return lp.byeFrom(i, s, d, piece.Code)
	}
	return lp.sendBye(i, s, d.other())
}

// broken returns the reason in an inspector's error.
func broken(err error) reason.Reason {
	why := reason.BadFrame
	errors.As(err, &why)
	return why
}

// countPiece counts a piece that is passed on.
func countPiece(dir *direction, total *Flow, piece *ws.Piece) {
	switch {
	case piece.Kind == ws.Control:
		dir.control++
		total.Control++
	case !piece.Start:
	case piece.Opcode == ws.Text:
		dir.text++
		total.Text++
		total.Messages++
	default:
		dir.binary++
		total.Binary++
		total.Messages++
	}
}

// hold keeps the bytes of an incomplete header or control frame, less than maxHeld.
func (lp *loop) hold(dir *direction, p []byte) {
	n, room := lp.held.alloc()
	dir.held, dir.heldN = n, uint32(copy(room[:], p))
}

// unhold returns the held bytes with p behind them. p is at maxHeld in the loop's
// buffer: bytes are only held after a read, or of early bytes, before the first.
func (lp *loop) unhold(dir *direction, p []byte) []byte {
	buf := lp.reactor.Buffer()
	from := maxHeld - int(dir.heldN)
	copy(buf[from:maxHeld], lp.held.get(dir.held)[:dir.heldN])
	lp.held.release(dir.held)
	dir.held, dir.heldN = 0, 0
	return buf[from : maxHeld+len(p)]
}

// byeFrom notes a Close frame that came from side d, and was passed on unless the other
// side had one from the relay. What follows it is ignored (RFC 6455 section 5.5.1).
func (lp *loop) byeFrom(i uint32, s *slot, d side, code uint16) bool {
	if s.code == 0 {
		s.code = code
	}
	s.f[d] |= byeSeen | swallow | mute
	s.f[d.other()] |= byeSent
	s.f[d.other()] &^= byeWanted
	if s.first == 0 {
		s.first = uint8(d) + 1
	}
	if s.flags&closing != 0 {
		return lp.settle(i, s)
	}
	times := time.Duration(passedOn)
	if s.f[d.other()]&byeSeen != 0 {
		times = 1 // both said so: now they only have to do it
	}
	s.closeBy = lp.now + times*lp.closeTimeout(s)
	return true
}

// bye sends a Close frame to side d, as soon as it can stand there.
func (lp *loop) bye(i uint32, s *slot, d side, code uint16) bool {
	if code == 0 || s.f[d]&(byeSent|fin|shut|dead) != 0 {
		return true
	}
	fr := lp.frames.get(s.frames)
	fr.byeCode[d] = code
	s.f[d] |= byeWanted
	if !fr.dir[d.other()].in.AtBoundary() {
		return true
	}
	return lp.sendBye(i, s, d)
}

// sendBye sends the Close frame that is wanted for side d. Nothing more of the other
// side is passed on after it.
func (lp *loop) sendBye(i uint32, s *slot, d side) bool {
	fr := lp.frames.get(s.frames)
	s.f[d] = s.f[d]&^byeWanted | byeSent
	s.f[d.other()] |= swallow
	if s.code == 0 {
		s.code = fr.byeCode[d]
	}
	var room [maxHeld]byte
	frame := ws.AppendClose(room[:0], fr.byeCode[d], "", maskFor(d))
	if !lp.deliver(i, s, d, frame) {
		return false
	}
	if fr.byeFin[d] {
		s.f[d] |= fin
	}
	return true
}

// maskFor returns a new masking key for frames to side d, nil if it is the client.
func maskFor(d side) *[4]byte {
	if d == client {
		return nil
	}
	key := new([4]byte)
	binary.NativeEndian.PutUint32(key[:], rand.Uint32()) // ChaCha8, seeded by the system: not predictable
	return key
}

// violated ends a tunnel whose side d broke a rule: a Close frame with the code and FIN
// to it, Close 1001 to the other if what was passed on ends between two frames (clean),
// otherwise FIN.
func (lp *loop) violated(i uint32, s *slot, fr *framing, d side, why reason.Reason, clean bool) bool {
	s.f[d] |= swallow | mute
	if s.flags&closing != 0 {
		s.f[d] |= byeSeen // no better answer will come
		return lp.settle(i, s)
	}
	lp.beginClosing(s, why)
	fr.byeFin[d] = true
	if !lp.bye(i, s, d, ws.CloseCode(why)) {
		return false
	}
	o := d.other()
	if !clean {
		s.f[o] |= fin
	} else if s.f[o]&(byeSent|fin) == 0 {
		fr.byeCode[o] = goingAway
		if !lp.sendBye(i, s, o) {
			return false
		}
	}
	return lp.settle(i, s)
}

// overRate charges the client for a piece, and reports whether that is too much. With
// Delay nothing is: the debt keeps the client from being read. Control frames and empty
// fragments cost as much as a message: they are as much work, and there is no end to them.
func (lp *loop) overRate(s *slot, fr *framing, piece *ws.Piece) bool {
	p := lp.policyOf(s)
	over := false
	if t := &lp.policies.entries[s.policy].value; t.messageCost > 0 && (piece.Start || piece.Empty || piece.Kind == ws.Control) {
		over = charge(&fr.messageAt, lp.now, t.messageCost)
	}
	if p.ByteRate > 0 {
		over = charge(&fr.byteAt, lp.now, time.Duration(int64(piece.N)*int64(time.Second)/p.ByteRate)) || over
	}
	return over && !p.Delay
}

// charge adds a cost to what was used of a rate, and reports whether it is more than
// one burst ahead of now.
func charge(at *time.Duration, now, cost time.Duration) (over bool) {
	*at = max(*at, now) + cost
	return *at-now > burst
}

// allowance cuts p, room for bytes of the client, to what the rates allow now. If that
// is nothing, the client is delayed.
func (lp *loop) allowance(i uint32, s *slot, p []byte) []byte {
	policy := lp.policyOf(s)
	if !policy.Delay || s.flags&closing != 0 {
		return p
	}
	fr := lp.frames.get(s.frames)
	if policy.MessageRate > 0 {
		free := burst - max(fr.messageAt-lp.now, 0)
		if free <= 0 {
			lp.delay(i, s)
			return nil
		}
		cost := lp.policies.entries[s.policy].value.messageCost
		p = p[:min(len(p), max(leastRead, int(free/cost)*smallMessage))]
	}
	if policy.ByteRate > 0 {
		free := burst - max(fr.byteAt-lp.now, 0)
		n := int64(free) / int64(time.Microsecond) * policy.ByteRate / int64(time.Second/time.Microsecond)
		if n <= 0 {
			lp.delay(i, s)
			return nil
		}
		p = p[:min(int64(len(p)), n)]
	}
	return p
}

// ownPing begins the payload of the gateway's pings, so that their Pongs are told from
// those for the backend's; a counter follows.
var ownPing = func() (b [8]byte) {
	binary.NativeEndian.PutUint64(b[:], rand.Uint64())
	return b
}()

const ownPingSize = len(ownPing) + 4

// isOwnPong reports whether a Pong frame of the client answers a ping of the gateway.
func isOwnPong(frame []byte) bool {
	var room [maxHeld]byte
	payload := ws.PayloadOf(room[:0], frame)
	return len(payload) == ownPingSize && bytes.HasPrefix(payload, ownPing[:])
}

// ping sends the client a ping, or wants to as long as it cannot: in the middle of a
// frame, or while bytes wait that the client would have to take first.
func (lp *loop) ping(i uint32, s *slot, fr *framing) bool {
	fr.pingWanted = !fr.dir[backend].in.AtBoundary() || lp.waiting(s, client) > 0
	if fr.pingWanted || s.f[client]&(byeSent|fin) != 0 {
		return true
	}
	lp.stats.Pings++
	fr.pingAt = lp.now
	fr.owed++
	var room [maxHeld]byte
	payload := binary.BigEndian.AppendUint32(append(room[:0], ownPing[:]...), uint32(lp.stats.Pings))
	var frame [maxHeld]byte
	return lp.deliver(i, s, client, ws.AppendPing(frame[:0], payload, nil))
}

// checkPing pings a silent client, and ends the tunnel of one that stays silent.
func (lp *loop) checkPing(i uint32, s *slot) {
	p := lp.policyOf(s)
	if p.Ping <= 0 || s.f[client]&(byeSent|byeSeen|fin|ended|dead) != 0 {
		return
	}
	fr := lp.frames.get(s.frames)
	if fr.lastClient >= fr.pingAt {
		fr.pingAt = 0
	}
	switch {
	case s.f[client]&stopped != 0:
		// It is not read, so its silence says nothing.
		if fr.pingAt != 0 {
			fr.pingAt = lp.now
		}
	case fr.pingAt != 0:
		if p.Pong > 0 && lp.now-fr.pingAt >= p.Pong {
			lp.lost(i, s)
		}
	case lp.now-fr.lastClient >= p.Ping:
		lp.ping(i, s, fr)
	default:
		fr.pingWanted = false
	}
}

// lost ends the tunnel of a client that does not react any more. It gets a RST, should
// it still be there, the backend a Close frame.
func (lp *loop) lost(i uint32, s *slot) {
	lp.beginClosing(s, reason.PingTimeout)
	if !lp.bye(i, s, backend, goingAway) {
		return
	}
	lp.kill(s, client)
	s.f[client] |= ended
	if lp.settle(i, s) {
		lp.again(i, s)
	}
}

var _ reactor.Handler = (*loop)(nil)
