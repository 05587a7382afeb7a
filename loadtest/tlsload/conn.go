package tlsload

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// ticketWithin is how long a connection waits for a ticket of TLS 1.3.
	ticketWithin = 2 * time.Second
	// ticketsDespaired of is how many connections wait in vain, from the first one on,
	// before the rest takes it that this server has none.
	ticketsDespaired = 16
	// closedWithin is how long the server may take to close in its turn.
	closedWithin = 2 * time.Second
	// mostBody bounds the response that Options.Request reads.
	mostBody = 64 << 20
)

// outcome is what became of one connection.
type outcome struct {
	failure Failure
	err     error // nil for OK
	status  int   // of the response; 0 is none

	state     tls.ConnectionState // of OK
	wanted    bool                // to resume
	offered   bool                // a session
	age       time.Duration       // of the session offered
	tickets   int                 // that came
	awaited   bool                // a ticket was waited for
	unclosed  bool                // the server did not close in time, or with RST
	connect   time.Duration
	handshake time.Duration // 0 unless it was completed
	done      time.Time     // when the client had what it wanted, or had failed
	in, out   int64         // bytes, of TLS
}

// refused says that the session offered was not resumed.
func (o *outcome) refused() bool { return o.offered && o.handshake > 0 && !o.state.DidResume }

// counted counts the bytes of a connection. Its goroutine owns it.
type counted struct {
	*net.TCPConn
	in, out int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.in += int64(n)
	return n, err
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.out += int64(n)
	return n, err
}

// worker makes one connection after the other.
type worker struct {
	r     *run
	cfg   *tls.Config // its session cache is cache
	cache cache
	dice  *rand.Rand
	br    *bufio.Reader

	current atomic.Pointer[net.TCPConn] // for the end of the run to close
}

func newWorker(r *run, i int) *worker {
	w := &worker{r: r, cfg: r.config.Clone(), dice: rand.New(rand.NewPCG(r.Seed, uint64(i))), br: bufio.NewReader(nil)}
	w.cache.all = &r.sessions
	w.cfg.ClientSessionCache = &w.cache
	return w
}

// connection makes connection number i of the run, from connect to close.
func (w *worker) connection(ctx context.Context, i int) (o outcome) {
	w.choose(&o)
	began := time.Now()
	tcp, err := w.r.target.DialTCP(ctx, i)
	o.done = time.Now()
	if err != nil {
		o.failure, o.err = connectFailure(err), err
		return o
	}
	o.connect = o.done.Sub(began)
	w.current.Store(tcp)
	defer w.current.Store(nil)
	defer func() { _ = tcp.Close() }()
	if ctx.Err() != nil { // it may have ended before there was something to close
		o.failure, o.err = ClosedEarly, ctx.Err()
		return o
	}
	_ = tcp.SetDeadline(began.Add(w.r.timeout()))
	conn := &counted{TCPConn: tcp}
	secure := tls.Client(conn, w.cfg)
	w.talk(secure, &o)
	if o.failure == OK {
		w.awaitTicket(secure, &o)
	}
	if o.failure == OK {
		w.end(secure, tcp, &o)
	}
	o.tickets, o.in, o.out = w.cache.tickets, conn.in, conn.out
	if o.offered && o.state.DidResume && o.tickets == 0 {
		w.r.sessions.put(w.cache.offer, time.Now()) // TLS 1.2 goes on with the old ticket
	}
	return o
}

// choose has the dice decide whether the next connection resumes.
func (w *worker) choose(o *outcome) {
	w.cache.offer, w.cache.tickets, w.cache.onTicket = nil, 0, nil
	o.wanted = w.dice.IntN(100) < w.r.ResumePercent
	if !o.wanted {
		return
	}
	now := time.Now()
	taken, ok := w.r.sessions.take(now)
	if ok {
		w.cache.offer, o.offered, o.age = taken.state, true, max(now.Sub(taken.came), 0)
	}
}

// talk performs the handshake and, if wanted, one request.
func (w *worker) talk(secure *tls.Conn, o *outcome) {
	began := time.Now()
	err := secure.Handshake()
	o.done = time.Now()
	if err != nil {
		o.failure, o.err = tlsFailure(err, TLSFailed), fmt.Errorf("TLS handshake: %w", err)
		return
	}
	o.handshake, o.state = o.done.Sub(began), secure.ConnectionState()
	if !w.r.Request {
		return
	}
	o.status, err = w.request(secure)
	o.done = time.Now()
	switch {
	case err != nil:
		o.failure, o.err = tlsFailure(err, Malformed), err
	case o.status >= http.StatusBadRequest:
		o.failure, o.err = WrongStatus, fmt.Errorf("status %d", o.status)
	}
}

// request sends a GET and reads the whole response.
func (w *worker) request(secure *tls.Conn) (status int, err error) {
	if _, err := secure.Write(w.r.request); err != nil {
		return 0, fmt.Errorf("send request: %w", err)
	}
	w.br.Reset(secure)
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil {
		return 0, fmt.Errorf("response: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, mostBody+1))
	switch {
	case err != nil:
		return resp.StatusCode, fmt.Errorf("response body: %w", err)
	case n > mostBody:
		return resp.StatusCode, fmt.Errorf("response body of more than %d bytes", mostBody)
	}
	return resp.StatusCode, nil
}

// awaitTicket reads until a ticket has come, if later connections want one. It comes
// while reading, and moves the deadline to let that return.
func (w *worker) awaitTicket(secure *tls.Conn, o *outcome) {
	if w.r.ResumePercent == 0 || w.cache.tickets > 0 || o.state.Version < tls.VersionTLS13 || w.r.despaired() {
		return
	}
	o.awaited = true
	_ = secure.SetReadDeadline(time.Now().Add(ticketWithin))
	w.cache.onTicket = func() { _ = secure.SetReadDeadline(time.Unix(1, 0)) }
	w.read(secure, o)
}

// end closes in order: close_notify and FIN, then what the server has still to say,
// so that it meets no RST.
func (w *worker) end(secure *tls.Conn, tcp *net.TCPConn, o *outcome) {
	w.cache.onTicket = nil
	_ = secure.SetDeadline(time.Now().Add(closedWithin))
	if secure.CloseWrite() == nil { // otherwise what it sent before is there to be read still
		_ = tcp.CloseWrite()
	}
	for !w.read(secure, o) {
		continue
	}
}

// read reads once and drops what it gets; ended says that no more can come. An alert says that
// the server has not accepted the handshake after all.
func (w *worker) read(secure *tls.Conn, o *outcome) (ended bool) {
	var drop [512]byte
	_, err := secure.Read(drop[:])
	if err == nil {
		return false
	}
	if _, alert := alertOf(err); alert {
		o.failure, o.err = tlsFailure(err, Alert), fmt.Errorf("behind the handshake: %w", err)
	}
	o.unclosed = w.cache.onTicket == nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
	return true
}

// keyOf names the key of a server's certificate.
func keyOf(state *tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return "none"
	}
	switch key := state.PeerCertificates[0].PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	default:
		return fmt.Sprintf("%T", key)
	}
}

// errBacklog is what happens to connections that nobody was free for.
var errBacklog = errors.New("no free connection")
