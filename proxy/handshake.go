package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tickgate/internal/meter"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/tlsterm"
)

// peerText is a client's address for logs and the admin API.
func peerText(peer netip.AddrPort) string {
	if !peer.IsValid() {
		return "unix:"
	}
	return peer.String()
}

// handshake does the TLS handshake within timeouts.handshake, in its turns at the gate.
func (c *clientConn) handshake() bool {
	c.setState(meter.Handshaking)
	limit := c.gw.CurrentConfig().Timeouts.Handshake
	left := max(limit-time.Since(c.since), time.Millisecond) // the wait for the first byte is a part of it
	c.sk.ArmRead(left)
	_ = c.sk.SetWriteDeadline(time.Now().Add(left)) // not ArmWrite: a client that takes a byte now and then gets no more time
	err := c.admitsHandshake()
	if err == nil {
		err = c.tls.HandshakeContext(c.shake.facts.Context())
	}
	c.sk.ArmRead(0)
	c.sk.ArmWrite(0)
	gaveWay := c.shake.pass.GaveWay()
	c.endShake()
	if err == nil {
		c.noteIdentity()
		c.noteTLS()
		c.meterHandshake()
		return true
	}
	if c.end = c.killed(); c.end != reason.OK {
		return false
	}
	if errors.Is(err, errNotParked) {
		c.end = c.gw.whyNotParked(c.peer)
		return false
	}
	c.end = reason.TLSFailed
	failure := tlsterm.FailureReason(err)
	switch {
	case gaveWay:
		failure, err = tlsterm.GaveWay, nil
	case failure == tlsterm.BadRecord && c.shake.plainAlert:
		failure = tlsterm.ClientRejected
	case c.sk.Interrupted().Has(sock.ReadExpired | sock.WriteExpired):
		failure = tlsterm.TimedOut
	}
	c.gw.handshakeFailed(failure, failedClient{c.ln, c.peer, c.seat.Note, c.shake.facts.ServerName}, err)
	c.strayRecord(err)
	if tlsterm.PlainHTTP(err) {
		c.end = reason.PlainOnTLS
		c.answerPlain(err)
	}
	if failure == tlsterm.BadClientCertificate {
		c.letReadAlert()
	}
	return false
}

// meterHandshake counts a handshake that succeeded, and what it took.
func (c *clientConn) meterHandshake() {
	st, s := c.tls.ConnectionState(), c.shake
	all := c.gw.clock() - s.begun
	c.gw.meter.Handshake(meter.Handshake{
		Version: st.Version, Group: tlsterm.GroupName(st.CurveID), KeyType: s.facts.KeyType, Resumed: st.DidResume,
		All: all, Gate: s.gated, Client: s.client,
	})
}

// tlsEvents are the events of failed handshakes: each kind is throttled alone.
var tlsEvents = func() (events []string) {
	for _, f := range tlsterm.Failures() {
		events = append(events, "tls_"+f.String())
	}
	return events
}()

// errUnknownName stands for the error of crypto/tls, which says that there are no certificates at all.
var errUnknownName = errors.New("tls: no certificate covers the server name, and unknown_name is reject")

// failedClient is whose handshake failed.
type failedClient struct {
	ln   *listener
	peer netip.AddrPort
	note any    // of its seat, or nil
	name string // what it asked for, "" if that is not known
}

// handshakeFailed counts and logs a handshake that failed; err may be nil.
func (g *Gateway) handshakeFailed(f tlsterm.Failure, c failedClient, err error) {
	g.tlsFailures[f].Add(1)
	problem, badCert := tlsterm.ClientCertProblemOf(err)
	if badCert {
		g.certProblems[problem].Add(1)
	}
	if e := g.log.Event(infoLevel, tlsEvents[f]); e != nil {
		if badCert {
			e.Stringer("certificate", problem)
		}
		if n, ok := c.note.(*tlsNote); ok {
			e = e.Str("ja4", n.ja4)
		}
		e = e.Stringer("reason", f).Str("client", peerText(c.peer)).Str("listen", c.ln.name)
		if c.name != "" {
			e = e.Str("server_name", c.name)
		}
		if f == tlsterm.UnknownName {
			err = errUnknownName
		}
		e.Err(clipped(err)).Msg("TLS handshake failed")
	}
}

// mostText is how much of an error the log gets: some of crypto/tls repeat what the client offers, 64 KiB and more.
const mostText = 256

func clipped(err error) error {
	if err == nil || len(err.Error()) <= mostText {
		return err
	}
	return errors.New(err.Error()[:mostText] + "...")
}

// plainBody tells a person why plain HTTP on a TLS port is refused.
const plainBody = "400 Bad Request\nreason: plain_on_tls\nThis port speaks HTTPS; the request was plain HTTP.\n"

var plainOnTLS = fmt.Sprintf("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"+
	"Content-Length: %d\r\nConnection: close\r\n\r\n%s", len(plainBody), plainBody)

func (c *clientConn) answerPlain(err error) {
	var rec tls.RecordHeaderError
	if errors.As(err, &rec) && rec.Conn != nil {
		_, _ = rec.Conn.Write([]byte(plainOnTLS))
		c.letReadAlert()
	}
}

// letReadAlert ends a connection after its last bytes were sent, an alert most often. In TLS 1.3 a client sends its request before the server
// has seen its certificate, and a close over unread bytes is a reset, by which the client would never learn what was wrong.
func (c *clientConn) letReadAlert() {
	c.tls = nil
	c.rw = c.sk
	c.bind()
	c.lingerClose()
}

// noteTLS remembers what logs and headers say about the session.
func (c *clientConn) noteTLS() {
	st := c.tls.ConnectionState()
	c.facts = tlsFacts{
		version:    strings.Replace(tls.VersionName(st.Version), " ", "v", 1),
		cipher:     tls.CipherSuiteName(st.CipherSuite),
		serverName: st.ServerName,
	}
	if n, ok := c.seat.Note.(*tlsNote); ok {
		c.facts.ja4 = n.ja4
		c.note.Store(n)
	}
}
