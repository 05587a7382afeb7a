package proxy

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"

	"tickgate/config"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/internal/yield"
	"tickgate/proxy/park"
	"tickgate/tlsterm"
)

// A handshake computes for some hundred microseconds and waits for its client in between. While it computes, it has
// a turn at the gate of handshakes (tlsterm.Gate); while it waits, its goroutine does, and its socket is in the lot like any other
// that waits: Go's poller never learns of it, which would cost it a registration and later another descriptor.

// handshakes is the gate, and who does them.
type handshakes struct {
	gate *tlsterm.Gate[park.Conn]
	crew *crew // a goroutine for each that is under way
	line yield.Line
}

func (g *Gateway) newHandshakes(cfg *config.Config) handshakes {
	return handshakes{
		crew: newCrew(shakers(cfg), g.visit, g.sweeper.Urge, g.clock),
		gate: tlsterm.NewGate(cfg.Handshakes, tlsterm.GateHooks[park.Conn]{
			Start: func(p park.Conn, waited time.Duration) {
				g.handshakes.crew.put(visit{conn: p, why: park.Ready, shakes: true, came: g.clock() - waited})
			},
			Refuse: g.refuseHandshake,
			Gone:   func(p park.Conn) bool { return hungUp(p.FD) },
			Now:    g.clock,
		}),
	}
}

func (h *handshakes) setOptions(cfg *config.Config) {
	h.crew.setLimit(shakers(cfg))
	h.gate.SetOptions(cfg.Handshakes)
}

// shakers is the most goroutines of handshakes: of those under way, some of which are giving way, and those that go on with
// the first request of their connection.
func shakers(cfg *config.Config) int { return 2*cfg.Handshakes.Max + crewSize(cfg) }

// internalError is the alert for a handshake that is refused unseen, in a plain record (RFC 8446 section 6). There is none that says "busy".
var internalError = []byte{recordTypeAlert, 3, 3, 0, 2, 2, 80}

// refuseHandshake ends a connection whose ClientHello nobody has looked at. It must not block.
func (g *Gateway) refuseHandshake(p park.Conn, why tlsterm.Failure) {
	if why != tlsterm.ClientGone {
		sendLast(p.FD, internalError)
	}
	g.handshakeFailed(why, failedClient{ln: g.listener(p.Owner), peer: p.Peer}, nil)
	g.closeParked(p, reason.TLSFailed)
}

// shake is a handshake under way: what its tls.Conn reads from and writes to. It has a turn at the gate except while it waits.
type shake struct {
	*sock.Conn
	c      *clientConn
	pass   *tlsterm.Pass
	paused bool
	awake  chan wakeUp // room for one

	facts tlsterm.Facts
	// plainAlert says that the last record was an alert in the clear. OpenSSL sends one in TLS 1.3 if it does not like the certificate: it
	// encrypts only after that.
	plainAlert bool

	// What it took.
	begun  time.Duration // by Gateway.clock: when its ClientHello was whole
	gated  time.Duration // waiting for its turns, and for a goroutine to begin with
	client time.Duration // waiting for the client
}

// wakeUp is what the lot says about the end of a wait.
type wakeUp struct {
	conn park.Conn
	why  park.Why
}

// beginShake begins the handshake of a connection that came from the gate.
func (c *clientConn) beginShake(v *visit) {
	gate := c.gw.handshakes.gate
	conf := c.ln.tls.Load()
	if conf == nil { // a reload has made the listener a plain one meanwhile: what came is no request, and gets its answer as such
		gate.Done(gate.NewPass(func() {}))
		return
	}
	c.secure(conf)
	s := &shake{Conn: c.sk, c: c, awake: make(chan wakeUp, 1), begun: v.came}
	s.pass = gate.NewPass(s.giveWay)
	c.gw.handshakes.letOthersGo()
	s.gated = c.gw.clock() - s.begun
	c.shake = s
	c.shaking.Store(true)
	c.seat.Take(s)
}

// letOthersGo leaves the processor to others before a handshake computes: Go runs next what was readied last, so that handshakes that follow each
// other would keep a processor for up to 10 ms. While many wait, it is left to those whose sockets are ready as well (package yield).
func (h *handshakes) letOthersGo() {
	if h.gate.Crowded() {
		h.line.StepBack()
		return
	}
	runtime.Gosched()
}

// joinShake begins the handshake of a connection without a lot, whose client has sent nothing yet.
func (c *clientConn) joinShake() {
	s := &shake{Conn: c.sk, c: c, begun: c.gw.clock(), paused: true}
	s.pass = c.gw.handshakes.gate.NewPass(func() { c.sk.Interrupt(sock.Cancelled) })
	c.gw.handshakes.gate.Join(s.pass)
	c.shake = s
	c.seat.Take(s)
}

// endShake gives the turn back, once.
func (c *clientConn) endShake() {
	if c.shake == nil || c.shake.pass == nil {
		return
	}
	c.gw.handshakes.gate.Done(c.shake.pass)
	c.shake.pass = nil
	c.shaking.Store(false)
	c.seat.Take(c.sk)
}

// isPlainAlert reports whether a record is an alert in the clear (RFC 8446 section 6): two bytes long, a level and a description.
func isPlainAlert(record []byte) bool {
	return len(record) == 7 && record[0] == recordTypeAlert && record[3] == 0 && record[4] == 2
}

const recordTypeAlert = 21

func (s *shake) pause() {
	if !s.paused {
		s.paused = true
		s.c.gw.handshakes.gate.Pause(s.pass)
	}
}

func (s *shake) resume() {
	if s.paused {
		s.paused = false
		s.gated += s.c.gw.handshakes.gate.Resume(s.pass)
	}
}

// giveWay ends the wait, or the next one, on any goroutine.
func (s *shake) giveWay() { s.Inspect(hangUp) }

// Read returns what has come, or waits without a turn.
func (s *shake) Read(b []byte) (int, error) {
	n, err := s.read(b)
	s.plainAlert = isPlainAlert(b[:n])
	return n, err
}

func (s *shake) read(b []byte) (int, error) {
	for {
		n, err := s.look(b)
		if err == nil {
			s.resume()
		}
		if !errors.Is(err, sock.ErrWouldBlock) {
			return n, err // to fail takes no turn
		}
		s.pause()
		start := s.c.gw.clock()
		if s.awake == nil || s.Waited() {
			n, err = s.Conn.Read(b)
			s.client += s.c.gw.clock() - start
			if err == nil {
				s.resume()
			}
			return n, err
		}
		err = s.wait()
		s.client += s.c.gw.clock() - start
		if err != nil {
			return 0, err
		}
	}
}

// look reads what is there.
func (s *shake) look(b []byte) (int, error) {
	s.NoWait(true)
	defer s.NoWait(false)
	return s.Conn.Read(b)
}

// Write waits without a turn, too, should the socket not take it all. It pauses before it waits and not in OnWait, which is called
// under the lock of the socket: the gate may end the wait of any handshake then, and takes that lock.
func (s *shake) Write(b []byte) (int, error) {
	n, err := s.TryWrite(b)
	if err != nil || n == len(b) {
		return n, err
	}
	s.pause()
	start := s.c.gw.clock()
	rest, err := s.Conn.Write(b[n:])
	s.client += s.c.gw.clock() - start
	if err == nil {
		s.resume()
	}
	return n + rest, err
}

// errNotParked says that the lot did not take a handshake that has to wait. That is no doing of its client.
var errNotParked = errors.New("the lot is closed, or the kernel will not watch the socket")

// wait waits in the lot until there is something to read.
func (s *shake) wait() error {
	c, g := s.c, s.c.gw
	if !g.lot.Park(park.Conn{
		FD: c.from.FD, ID: c.id, Peer: c.peer, Owner: c.ln.index, Phase: park.Shake, Since: c.from.Since, Until: c.from.Until,
		Loop: c.from.Loop, Seat: c.seat,
	}) {
		return errNotParked
	}
	w := <-s.awake // comes at c.from.Until at the latest
	c.from.Loop = w.conn.Loop
	switch w.why {
	case park.Expired:
		return os.ErrDeadlineExceeded
	case park.Evicted:
		return net.ErrClosed
	}
	return nil
}
