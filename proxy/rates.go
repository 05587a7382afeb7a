package proxy

import (
	"cmp"
	"net"
	"time"

	"tickgate/internal/sock"
	"tickgate/limiter"
	"tickgate/tlsterm"
)

// Handshakes are limited by rate twice: by address on the loop, as soon as a ClientHello is there (Gateway.wake), and by
// fingerprint in the handshake, as soon as it was read. Both come before any cryptography, the first before the gate, too.

// handshakeRates are the limits on the rate of handshakes.
type handshakeRates struct{ client, ja4 *limiter.Rates }

// ja4Keys is how many fingerprints are told apart: a site sees some hundred, and those that a peer makes
// up fill no more than this.
const ja4Keys = 1 << 13

func newHandshakeRates(o *tlsterm.HandshakeOptions) handshakeRates {
	client, ja4 := rateOptions(o)
	ja4.Keys = ja4Keys
	return handshakeRates{limiter.NewRates(client), limiter.NewRates(ja4)}
}

func (r *handshakeRates) setOptions(o *tlsterm.HandshakeOptions, now time.Duration) {
	client, ja4 := rateOptions(o)
	r.client.SetOptions(client, now)
	r.ja4.SetOptions(ja4, now)
}

func rateOptions(o *tlsterm.HandshakeOptions) (client, ja4 limiter.RateOptions) {
	return limiter.RateOptions{PerSecond: o.RatePerClient, Burst: cmp.Or(o.BurstPerClient, o.RatePerClient)},
		limiter.RateOptions{PerSecond: o.RatePerJA4, Burst: cmp.Or(o.BurstPerJA4, o.RatePerJA4)}
}

// admitsHandshake applies the rate of the client's address where there is no lot, so that Gateway.wake did not.
func (c *clientConn) admitsHandshake() error {
	if c.gw.lot != nil || c.gw.rates.client.AllowAddr(c.peer.Addr(), c.gw.now()) {
		return nil
	}
	_, _ = c.sk.Write(internalError)
	return tlsterm.ErrRateLimited
}

// fingerprinted notes the fingerprint of a client that begins a handshake over conn, and applies its rate.
func (g *Gateway) fingerprinted(conn net.Conn, ja4 string) error {
	if seat, ok := conn.(*sock.Seat); ok {
		seat.Note = &tlsNote{ja4: ja4}
	}
	if !g.rates.ja4.AllowText(ja4, g.now()) {
		return tlsterm.ErrRateLimitedJA4
	}
	return nil
}
